"""Gauges that evaluate the loss again, on the batch of the update itself; they need ``loss=`` and ``record(batch=…)``.

The batch's gradient is taken anew, and in parts: the batches of an accumulation, else two halves. So clipping, accumulation and
a scaler do not matter, and the parts tell what is signal and what is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrkit.binding.processes import world_size
from lrkit.gauges.batches import halves
from lrkit.gauges.evaluation import Evaluation, Unavailable
from lrkit.gauges.norms import Reading
from lrkit.gauges.quantities import dots, squares, wide
from lrkit.gauges.view import Value, View, local


def gain(now: View) -> Reading:
    """``gain`` = L(θ) − L(θ + u) on the same batch, and ``gain_ratio`` = gain / (−gᵀu), for the update u.

    1: the step is small beside the curvature; ½: it goes to the minimum along its own direction; below 0: it raises the loss of
    its own batch. Left out where the update does not go downhill, −gᵀu ≤ 0, as momentum may. From the parts' gradients come
    besides ``half_product`` = ⟨g_A, g_B⟩, whose expectation is the squared gradient without its noise, ‖G‖²; ``grad_noise`` =
    tr Σ / b, what the noise adds to it in ‖g‖²; and, where positive, ``noise_scale`` = tr Σ / ‖G‖², in examples.

    The loss is the mean over the batches of an accumulation, in this process; the noise is that of all processes' mean. Costs two
    gradients and a forward pass, under accumulation one and one; two copies of the weights and two of the gradients.
    """
    batches, parameters, random = list(now.batches), now.parameters, now.random()
    with now.evaluation(random) as loss:
        seen = _halved(loss, batches[0], parameters) if len(batches) == 1 else {}
        whole = Gradients(loss, batches, parameters)
        if len(batches) > 1:
            known = [size for size in now.rows if size]
            seen = _columns(whole, sum(known) if len(known) == len(batches) else None)
    before = local(loss.held)  # a copy that nobody needs any more
    yield
    with torch.no_grad():
        torch._foreach_sub_(before, local(parameters))
        promised = dots(before, whole.sum).sum() / len(batches)
        start = whole.loss
        del before, whole
    with now.evaluation(random) as loss:  # with gradients: some losses are made of such
        end = torch.stack([wide(loss(batch, first=i == 0).detach()) for i, batch in enumerate(batches)]).mean()
    gained, promised = start - end, promised.to(end.device)
    seen["gain"] = _plain(gained)
    seen["gain_ratio"] = _plain(torch.where(promised > 0, gained / promised, torch.nan))
    return seen


class Gradients:
    """The losses and gradients of parts, one after the other.

    Args:
        loss: Evaluates a part.
        parts: At least one.
        parameters: Of which the gradients are taken.

    Attributes:
        loss: Their mean.
        sum: The sum of the gradients.
    """

    def __init__(self, loss: Evaluation, parts: Sequence[Any], parameters: list[Tensor]) -> None:
        self.count, losses, self.sum = len(parts), list[Tensor](), list[Tensor]()
        self._squares, self._products = list[Tensor](), list[Tensor]()
        for i, part in enumerate(parts):
            value, some = gradient(loss, part, parameters, first=i == 0)
            losses.append(value)
            with torch.no_grad():
                if self.count > 1:
                    self._squares.append(squares(some).sum())
                if i == 0:
                    self.sum = some
                else:
                    self._products.append(dots(self.sum, some).sum())
                    self.sum = list(torch._foreach_add(self.sum, some))  # not in place: two weights may share a gradient
        self.loss = torch.stack(losses).mean()

    def signal_and_noise(self) -> tuple[Tensor, Tensor]:
        """(‖G‖², tr Σ / b) of several parts of which each weighs the same: of halves of 5 and 6 examples that is nearly so."""
        pairs = self.count * (self.count - 1) / 2
        signal = torch.stack(self._products).sum() / pairs
        return signal, (torch.stack(self._squares).mean() - signal) / self.count


def gradient(loss: Evaluation, batch: Any, parameters: list[Tensor], first: bool) -> tuple[Tensor, list[Tensor]]:
    """(loss, dense gradients that may be written to) of a batch.

    Raises:
        Unavailable: If the loss depends on no trained weight.
    """
    value = loss(batch, first)
    if not value.requires_grad:
        raise Unavailable("loss(model, batch) depends on no trained weight")
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return wide(value.detach()), local([one.to_dense() if one.is_sparse else one for one in found])


def _halved(loss: Evaluation, batch: Any, parameters: list[Tensor]) -> dict[str, Value]:
    cut = halves(batch)
    if cut is None:
        return {}
    return _columns(Gradients(loss, [cut.first, cut.second], parameters), cut.rows)


def _columns(parts: Gradients, rows: int | None) -> dict[str, Value]:
    """Of parts of one process's batch: there are as many of it as there are processes."""
    (signal, noise), world = parts.signal_and_noise(), world_size()
    return columns(signal, noise / world, None if rows is None else rows * world)


def columns(signal: Tensor, noise: Tensor, rows: int | None) -> dict[str, Value]:
    """``half_product``, ``grad_noise``, and ``noise_scale`` where the signal is positive and the number of examples is known.

    Args:
        signal: ‖G‖².
        noise: tr Σ / b.
        rows: b, where known.
    """
    seen: dict[str, Value] = {"half_product": _plain(signal), "grad_noise": _plain(noise)}
    if rows is not None:
        seen["noise_scale"] = _plain(torch.where(signal > 0, rows * noise / signal, torch.nan))
    return seen


def _plain(value: Tensor) -> Value:
    """A number where nothing has to be waited for."""
    return float(value) if value.device.type == "cpu" else value
