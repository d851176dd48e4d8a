"""A gauge that costs no gradient of its own: signal and noise, from the parts that an update is made of anyway.

Under accumulation these are its batches, under DDP the processes'. Hooks on the weights see each part's gradient; they are there
for the one update that is looked at.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from lrkit.binding.processes import world_size
from lrkit.gauges.evaluation import Unavailable
from lrkit.gauges.norms import Reading
from lrkit.gauges.quantities import dots, squares
from lrkit.gauges.replay import columns
from lrkit.gauges.view import View, local


def parts(now: View) -> Reading:
    """``half_product``, ``grad_noise``, ``noise_scale`` as `gain` gives them, from accumulation or DDP. A copy of the gradients.

    The mean of the products of two different parts' gradients estimates ‖G‖² without bias. Their unit is that of the gradient as
    it reaches the update, or of its norm where that was recorded: a scaler does not matter, and with a clip of your own, record
    the norm. Several backward passes on one batch are no accumulation: `record(batch=…)` tells them apart.
    """
    yield
    _check(now)
    seen = _Parts(now)
    try:
        yield
    finally:
        seen.remove()
    yield
    count, world = seen.count, world_size()
    if count == 0:
        raise Unavailable("no gradient comes before the update: a closure makes it")
    if count < 2 and world < 2:
        raise Unavailable("an update is made of one batch in one process")
    if len(now.rows) > 1 and len(now.rows) != count:
        raise Unavailable(f"{count} gradients of {len(now.rows)} batches make an update")
    if count > 1 and len(now.rows) == 1:
        raise Unavailable("an update is made of several gradients of one batch")
    with torch.no_grad():
        signal, noise, whole = seen.signal_and_noise(world)
        unit = _reached(now) / whole
        rows = [size for size in now.rows if size]
        known = world * sum(rows) if len(rows) == count else None
        return columns(signal * unit, noise * unit, known)


def _check(now: View) -> None:
    if now.sharded:
        raise Unavailable("the weights are sharded: no process sees a batch's gradient")
    if any("_orig_mod" in m._modules or getattr(m, "_compiled_call_impl", None) is not None for m in now.wrapped.modules()):
        raise Unavailable("the model is compiled, which a hook would undo")
    if any(p.grad is not None and p.grad.is_sparse for p in now.parameters):
        raise Unavailable("gradients are sparse")


def _reached(now: View) -> Tensor:
    """‖ḡ‖² of the gradient as it reaches the update, or as it was recorded."""
    whole = squares(now.gradients()[1]).sum()
    own = now.said.get("grad_norm")
    return whole if own is None else torch.as_tensor(own).to(whole) ** 2


class _Parts:
    """The gradients that pass the weights before an update, of each backward pass the whole."""

    def __init__(self, now: View) -> None:
        self._now, self._parameters = now, now.parameters
        self._counts = dict.fromkeys(range(len(self._parameters)), 0)
        self._squares: list[Tensor] = []
        self._products: list[Tensor] = []
        self._totals: dict[int, Tensor] = {}
        self._reduced: Tensor | None = None
        self._waiting = False
        hooks: list[tuple[Any, Any]] = [(p, partial(self._on_gradient, i)) for i, p in enumerate(self._parameters)]
        self._handles = [p.register_hook(hook) for p, hook in hooks]

    def remove(self) -> None:
        """See no more."""
        for handle in self._handles:
            handle.remove()

    @property
    def count(self) -> int:
        """How many gradients there were."""
        return max(self._counts.values(), default=0)

    def signal_and_noise(self, world: int) -> tuple[Tensor, Tensor, Tensor]:
        """(‖G‖² of the sum of the parts, what the noise adds to that of the mean over processes, that).

        Raises:
            Unavailable: If the processes' gradients are not averaged in the backward pass.
        """
        n, own = self.count, squares(list(self._totals.values())).sum()
        each = n * torch.stack(self._squares).sum()  # of parts n times as large, whose mean is the whole
        if world < 2:
            return _apart(n * n * self._products_sum(own), each, n, own)
        whole = self._reduced
        apart = isinstance(self._now.wrapped, nn.parallel.DistributedDataParallel)
        if whole is None or (not apart and bool(torch.isclose(whole, own, rtol=1e-6, atol=0.0))):
            raise Unavailable("the processes' gradients are not averaged in the backward pass, as DDP does it")
        if n > 1:
            signal, noise, _ = _apart(n * n * self._products_sum(own), each, n, own)
            return signal, noise / world, whole
        return (world * whole - own) / (world - 1), (own - whole) / (world - 1), whole

    def _products_sum(self, like: Tensor) -> Tensor:
        return torch.stack(self._products).sum() if self._products else torch.zeros_like(like)

    def _on_gradient(self, i: int, gradient: Tensor) -> None:
        if self._now.evaluating:
            return
        with torch.no_grad():
            here = local([gradient])
            self._squares.append(squares(here)[0])
            if i in self._totals:
                self._products.append(dots([self._totals[i]], here)[0])
                self._totals[i].add_(here[0])
            else:
                self._totals[i] = here[0].clone()
        self._counts[i] += 1
        if world_size() > 1 and not self._waiting:
            self._waiting = True
            Variable._execution_engine.queue_callback(self._on_end)

    def _on_end(self) -> None:
        """The backward pass ends; but DDP, which ends it in the same way, comes later."""
        Variable._execution_engine.queue_callback(self._on_reduced)

    def _on_reduced(self) -> None:
        self._waiting = False
        self._reduced = squares(self._now.gradients()[1]).sum()


def _apart(products: Tensor, each: Tensor, n: int, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From Σ over pairs of ⟨gᵢ, gⱼ⟩ and the mean of ‖gᵢ‖²: ‖G‖², tr Σ / n, and ‖ḡ‖² again."""
    signal = 2.0 * products / (n * (n - 1))
    return signal, (each - signal) / n, whole
