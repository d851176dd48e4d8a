"""A gauge that costs no gradient of its own: signal and noise, from the parts that an update is made of anyway.

Under accumulation these are its batches, under DDP the processes'. Hooks on the weights see each part's gradient; they are there
for the one update that is looked at.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrkit.binding.processes import world_size
from lrkit.gauges.norms import Reading
from lrkit.gauges.quantities import signal_and_noise, squares
from lrkit.gauges.replay import columns
from lrkit.gauges.view import Unavailable, View, rows_of

_MOST = 2.0  # times as many parts: no noise makes a part's squared norm so much larger than the mean's


def parts(now: View) -> Reading:
    """``half_product``, ``grad_noise``, ``noise_scale`` as `gain` gives them, from accumulation or DDP. A copy of the gradients.

    The mean of the products of two different parts' gradients estimates ‖G‖² without bias. Under DDP the norm of the reduced
    gradient is taken as it reaches the update, or as it was recorded: with a clip of your own, record it.
    """
    yield
    if now.sharded:
        raise Unavailable("the weights are sharded: no process sees a batch's gradient")
    if now.wrapped is not now.model and hasattr(now.wrapped, "_orig_mod"):
        raise Unavailable("the model is compiled, which a hook would undo")
    seen = [_Seen(p) for p in now.moved if p.grad is not None and not p.grad.is_sparse]
    try:
        yield
        yield
    finally:
        for one in seen:
            one.handle.remove()
    seen = [one for one in seen if one.total is not None]
    count = max((one.count for one in seen), default=0)
    if count < 2 and world_size() < 2:
        raise Unavailable("an update is made of one batch in one process")
    with torch.no_grad():
        each = torch.stack([one.square for one in seen]).sum().double() / max(count, 1)
        rows = [rows_of(batch) for batch in now.batches]
        known = sum(size for size in rows if size) if len(rows) == count and all(rows) else None
        if count > 1:
            whole = squares([one.total for one in seen if one.total is not None]).sum() / count**2
            return columns(*signal_and_noise(each, whole, count), known)
        whole = _reduced(now)
        fair = each <= _MOST * world_size() * whole  # else it was clipped, or a scaler's factor is in one of them
        signal, noise = signal_and_noise(each, torch.where(fair, whole, torch.nan), world_size())
        return columns(signal, noise, None if known is None else known * world_size())


def _reduced(now: View) -> Tensor:
    """‖ḡ‖² of the gradient that all processes share."""
    whole = squares(now.gradients()[1]).sum()
    own = now.said.get("grad_norm")
    return whole if own is None else torch.as_tensor(own, dtype=torch.float64, device=whole.device) ** 2


class _Seen:
    """What passes one weight during an update."""

    def __init__(self, parameter: Any) -> None:
        self.count = 0
        self.square: Tensor = torch.zeros(())
        self.total: Tensor | None = None
        self.handle = parameter.register_hook(self._on_gradient)

    def _on_gradient(self, gradient: Tensor) -> None:
        with torch.no_grad():
            square = torch.linalg.vector_norm(gradient, dtype=torch.float32 if gradient.dtype != torch.float64 else None) ** 2
            self.square = square if self.total is None else self.square + square
            self.total = gradient.detach().clone() if self.total is None else self.total.add_(gradient)
        self.count += 1
