"""Gauges that evaluate the loss again, on the batch of the update itself; they need ``loss=`` and ``record(batch=…)``.

The batch's gradient is taken anew in parts: the batches of an accumulation, else two halves. So clipping, accumulation and a
scaler do not matter, and the parts tell what is signal and what is noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrkit.gauges.norms import Reading
from lrkit.gauges.quantities import dots, signal_and_noise, squares
from lrkit.gauges.view import Unavailable, Value, View, halves, local, rows_of


class Parts(NamedTuple):
    """A batch in parts.

    Args:
        batches: At least one.
        weights: Their shares of the whole; they add up to 1.
        rows: Examples in all; None where unknown.
    """

    batches: list[Any]
    weights: list[float]
    rows: int | None


def parts_of(batches: list[Any]) -> Parts:
    """Several batches weigh the same, as an accumulation takes their mean; one is halved where that can be done."""
    if len(batches) > 1:
        sizes = [rows_of(batch) for batch in batches]
        known = [size for size in sizes if size]
        return Parts(batches, [1 / len(batches)] * len(batches), sum(known) if len(known) == len(sizes) else None)
    cut = halves(batches[0])
    if cut is None:
        return Parts(batches, [1.0], rows_of(batches[0]))
    first, second, a, b = cut
    return Parts([first, second], [a / (a + b), b / (a + b)], a + b)


def gain(now: View) -> Reading:
    """``gain`` = L(θ) − L(θ + u) on the same batch, and ``gain_ratio`` = gain / (−gᵀu), for the update u.

    1: the step is small beside the curvature; ½: it goes to the minimum along its own direction; below 0: it raises the loss of
    its own batch. Left out where the update does not go downhill, −gᵀu ≤ 0, as momentum may. From the parts' gradients come
    besides ``half_product`` = ⟨g_A, g_B⟩, whose expectation is the squared gradient without its noise, ‖G‖²; ``grad_noise`` =
    tr Σ / b, what the noise adds to it in ‖g‖²; and, where positive, ``noise_scale`` = tr Σ / ‖G‖², in examples.

    Costs a gradient, a forward pass, and a copy of the weights and of two gradients.
    """
    now.check_evaluable()
    parts, parameters = parts_of(now.batches), now.parameters
    with now.evaluation() as loss:
        values, gradients = zip(*(_gradient(loss(batch), parameters) for batch in parts.batches), strict=True)
    with torch.no_grad():
        seen = _noise(parts, gradients)
        whole = [g * parts.weights[0] for g in gradients[0]]
        for weight, some in zip(parts.weights[1:], gradients[1:], strict=True):
            torch._foreach_add_(whole, list(some), alpha=weight)
        del gradients
        before = [p.clone() for p in local(parameters)]
    start = sum(weight * value for weight, value in zip(parts.weights, values, strict=True))
    yield
    with torch.no_grad():
        torch._foreach_sub_(before, local(parameters))
        promised = dots(before, whole).sum()
        del before, whole
    with now.evaluation() as loss, torch.no_grad():
        end = sum(weight * loss(batch).double() for weight, batch in zip(parts.weights, parts.batches, strict=True))
    gained = torch.as_tensor(start - end)
    seen["gain"] = _plain(gained)
    seen["gain_ratio"] = _plain(torch.where(promised > 0, gained / promised.to(gained.device), torch.nan))
    return seen


def _gradient(value: Tensor, parameters: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    if not value.requires_grad:
        raise Unavailable("loss(model, batch) depends on no trained weight")
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return value.detach().double(), local(found)


def _noise(parts: Parts, gradients: Any) -> dict[str, Value]:
    """Signal and noise of the parts' gradients, which weigh the same: of halves of 5 and 6 examples that is nearly so."""
    count = len(gradients)
    if count < 2:
        return {}
    mean = [torch.stack(same).mean(0) for same in zip(*gradients, strict=True)] if count > 2 else None
    if mean is None:  # ‖ḡ‖² of two parts, without a copy
        product = dots(gradients[0], gradients[1]).sum()
        each = sum(squares(some).sum() for some in gradients) / 2
        signal, noise = product, (each - product) / 2
    else:
        each = torch.stack([squares(some).sum() for some in gradients]).mean()
        signal, noise = signal_and_noise(each, squares(mean).sum(), count)
    return columns(signal, noise, parts.rows)


def columns(signal: Tensor, noise: Tensor, rows: int | None) -> dict[str, Value]:
    """``half_product``, ``grad_noise``, and ``noise_scale`` where the signal is positive and the number of examples is known."""
    seen: dict[str, Value] = {"half_product": _plain(signal), "grad_noise": _plain(noise)}
    if rows is not None:
        seen["noise_scale"] = _plain(torch.where(signal > 0, rows * noise / signal, torch.nan))
    return seen


def _plain(value: Tensor) -> Value:
    """A number where nothing has to be waited for."""
    return float(value) if value.device.type == "cpu" else value
