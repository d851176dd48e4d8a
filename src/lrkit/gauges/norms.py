"""Gauges of sizes and directions: how large the gradient is, how far an update moves the weights, whether gradients agree.

A gauge is a generator: what stands before its first ``yield`` happens just before an update, what follows just after it; two
more span the next update. What it returns goes to the row of the update at which it ends.
"""

from __future__ import annotations

from collections.abc import Generator

import torch

from lrkit.gauges.evaluation import Unavailable
from lrkit.gauges.quantities import cosine, dots, squares
from lrkit.gauges.view import Value, View, local

Reading = Generator[None, None, dict[str, Value]]


def gradient_norm(now: View) -> Reading:
    """``grad_norm``, also a layer: √(Σ g²) as it reaches the update. Where the run's own norm, taken before clipping, is known
    besides, by `record(grad_norm=…)`, ``clip_factor`` is the share of it that is left.

    Read after the update: then a closure has made the gradients, and a scaler has unscaled them.
    """
    yield
    parameters, gradients = now.gradients()
    if not parameters:
        return {}
    seen = now.named("grad_norm", parameters, now.summed(parameters, squares(gradients)[None]), torch.sqrt)
    if "grad_norm" in now.said and now.said["grad_norm"] is not None:
        left, own = seen["grad_norm"], now.said["grad_norm"]
        seen["clip_factor"] = left / own if isinstance(own, torch.Tensor) or own > 0 else 1.0
    return seen


def update_ratio(now: View) -> Reading:
    """``update_ratio``, also a layer: ‖θ_after − θ_before‖ / ‖θ_before‖. Around 1e-3 where all is well. A copy of the weights."""
    parameters = now.parameters
    with torch.no_grad():
        before = [p.clone() for p in local(parameters)]
    yield
    if [id(p) for p in now.parameters] != [id(p) for p in parameters]:
        return {}
    with torch.no_grad():
        size = squares(before)
        torch._foreach_sub_(before, local(parameters))
        sums = now.summed(parameters, torch.stack([squares(before), size]))
    return now.named("update_ratio", parameters, sums, lambda moved, size: (moved / size).sqrt())


def gradient_cosine(now: View) -> Reading:
    """``grad_cosine``, also a layer: the cosine of the angle between this gradient and the one before it.

    Above 0 the run still travels; in a stationary ball of noise it is −ηλ/2 for curvature λ, and −1 at the edge of stability.
    One copy of the gradients, from one update to the next.
    """
    yield
    parameters, gradients = now.gradients()
    if any(p.grad is not None and p.grad.is_sparse for p in parameters):
        raise Unavailable("gradients are sparse")
    with torch.no_grad():
        before = [g.clone() for g in gradients]
    yield
    yield
    later, gradients = now.gradients()
    if [id(p) for p in later] != [id(p) for p in parameters]:
        return {}
    with torch.no_grad():
        sums = torch.stack([dots(before, gradients), squares(before), squares(gradients)])
    return now.named("grad_cosine", parameters, now.summed(parameters, sums), cosine)
