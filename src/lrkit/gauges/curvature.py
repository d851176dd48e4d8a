"""Curvature: the largest and the smallest eigenvalue of the loss's Hessian, and where the largest lies beside the stable limit.

Products with the Hessian are central differences of gradients, so that attention without second derivatives is no obstacle:

    H·d ≈ (∇L(θ + ε d) − ∇L(θ − ε d)) / 2ε,   ‖ε d‖ = 10⁻³ ‖θ‖

An update θ ← θ − D·m moves by D = η/σ, so what decides is D^½ H D^½. Its largest eigenvalue may reach 2; with momentum β it
may reach 2 + 2β, with Nesterov's (2 + 2β)/(1 + 2β), with Adam's mean of gradients (2 + 2β₁)/(1 − β₁). ``edge`` is its share of
that limit: at 1 a healthy run may live for long (arXiv:2103.00065, arXiv:2207.14484). Eigenvalues by Lanczos' method with full
reorthogonalisation, begun where the last visit ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrkit.errors import InputError
from lrkit.gauges.norms import Reading
from lrkit.gauges.view import Unavailable, Value, View, local
from lrkit.optim.effective import effective_lr

_NEAR = 1e-3  # of ‖θ‖: how far apart gradients are taken
_STEPS = 4  # products a visit; the first visit has twice as many
_DOUBT = 0.25  # of the largest eigenvalue: with more left, the visit counts as a beginning
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curvature:
    """Extreme curvatures at one point.

    Args:
        largest: The largest eigenvalue of the Hessian of the batch's loss; with Adam and its like of P^-½ H P^-½, P = σ.
        smallest: The smallest one. Clearly below 0: there is a way down to both sides, as at a saddle.
        limit: What `largest` may be at the present rate, 2/η for SGD; None where the optimizer's update is not known.
        doubt: The residual of `largest`, as a share of it: 0.01 says that an eigenvalue lies within 1 %.
    """

    largest: float
    smallest: float
    limit: float | None
    doubt: float

    @property
    def edge(self) -> float | None:
        """largest / limit: above 1 the steepest direction is unstable."""
        return None if self.limit is None else self.largest / self.limit


def edge(now: View) -> Reading:
    """``curvature_max``, ``curvature_min`` and ``edge`` just after an update, on its batch, in the metric of the optimizer.

    Few products never overshoot: the true extremes are at least as far out. A largest one that is still in doubt is left out.

    Costs 8 gradients a visit, 16 the first time, and the memory of seven copies of the weights; one is kept between visits.
    """
    now.check_evaluable()
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in now.parameters):
        raise Unavailable("weights of half precision are too coarse for differences")
    yield
    scale, limit = _metric(now)
    if scale is None:
        return {}
    start = now.memory.get("curvature")
    product, steps = hessian(now, now.batches, scale), _STEPS
    if start is None or len(start) != len(scale):
        start, steps = _begin(now), 2 * _STEPS
    found, now.memory["curvature"] = lanczos(product, start, steps)
    if found.doubt > _DOUBT or not math.isfinite(found.largest):
        return {}
    seen: dict[str, Value] = {"curvature_max": found.largest, "curvature_min": found.smallest}
    return seen if limit is None else {**seen, "edge": found.largest / limit}


def curvature(now: View, batches: list[Any], steps: int) -> Curvature:
    """The smallest eigenvalue of the Hessian itself, the largest in the metric of the optimizer.

    Args:
        now: What is trained.
        batches: On which the loss is taken.
        steps: Products each; with as many as there are weights the eigenvalues are exact.
    """
    scale, limit = _metric(now)
    plain = torch.ones_like(_begin(now))
    found, _ = lanczos(hessian(now, batches, plain), _begin(now), steps)
    if scale is None or bool((scale == scale[0]).all()):
        return Curvature(found.largest, found.smallest, limit, found.doubt)
    scaled, _ = lanczos(hessian(now, batches, scale), _begin(now), steps)
    return Curvature(scaled.largest, found.smallest, limit, scaled.doubt)


def lanczos(product: Product, start: Tensor, steps: int) -> tuple[Curvature, Tensor]:
    """(extreme eigenvalues of a symmetric matrix; where to begin next time: both their vectors, added).

    Args:
        product: Multiplies a vector by the matrix.
        start: (n,) any vector but 0.
        steps: Products at most; fewer where the space they span is whole.
    """
    basis, diagonal, beside = [start / start.norm()], list[float](), list[float]()
    while True:
        w = product(basis[-1])
        diagonal.append(float(torch.dot(w, basis[-1])))
        for _ in range(2):  # once is not enough in float32
            for v in basis:
                w = w - torch.dot(w, v) * v
        beside.append(float(w.norm()))
        whole = beside[-1] <= 1e-6 * max(abs(one) for one in (*diagonal, *beside[:-1], 1e-30))
        if len(basis) >= min(steps, len(start)) or whole or not math.isfinite(beside[-1]):
            break
        basis.append(w / beside[-1])
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, b in enumerate(beside[:-1]):
        small[i, i + 1] = small[i + 1, i] = b
    if not bool(torch.isfinite(small).all()):
        return Curvature(math.nan, math.nan, None, math.inf), start
    values, vectors = torch.linalg.eigh(small)
    ends = [sum(float(vectors[i, k]) * v for i, v in enumerate(basis)) for k in (0, -1)]
    doubt = abs(beside[-1] * float(vectors[-1, -1])) / max(abs(float(values[-1])), 1e-30)
    return Curvature(float(values[-1]), float(values[0]), None, 0.0 if whole else doubt), ends[0] + ends[1]


def hessian(now: View, batches: list[Any], scale: Tensor) -> Product:
    """d ↦ S H S d for S = diag(scale), at the present weights, which are put back to the bit after each product."""
    parameters = now.parameters

    def gradient(loss: Callable[[Any], Tensor]) -> Tensor:
        value = torch.stack([loss(batch) for batch in batches]).mean()
        if not value.requires_grad:
            raise Unavailable("loss(model, batch) depends on no trained weight")
        found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in local(found)])

    def product(v: Tensor) -> Tensor:
        held = [p.detach().clone() for p in parameters]
        way = scale * v
        size = torch.linalg.vector_norm(torch.stack([p.norm() for p in held])).to(way)
        step = _NEAR * torch.where(size > 0, size, 1.0) / way.norm().clamp(min=1e-30)
        try:
            with now.evaluation() as loss:
                _move(parameters, held, step * way)
                above = gradient(loss)
                _move(parameters, held, -step * way)
                between: Tensor = above - gradient(loss)
                curved: Tensor = scale * between / (2 * step)
                return curved
        finally:
            with torch.no_grad():
                for p, old in zip(parameters, held, strict=True):
                    p.copy_(old)

    return product


def _move(parameters: list[Tensor], held: list[Tensor], way: Tensor) -> None:
    with torch.no_grad():
        for p, old, part in zip(parameters, held, torch.split(way, [flat(p) for p in held]), strict=True):
            p.copy_(old + (torch.view_as_complex(part.view(*old.shape, 2)) if old.is_complex() else part.view_as(old)))


def flat(p: Tensor) -> int:
    """How many real numbers a parameter is."""
    return p.numel() * (2 if p.is_complex() else 1)


def _begin(now: View) -> Tensor:
    """The gradient, which the steep directions dominate, and some of every other direction."""
    parts = []
    for i, p in enumerate(now.parameters):
        noise = torch.randn(flat(p), generator=torch.Generator().manual_seed(i)).to(p.device, local([p])[0].dtype)
        known = local([p.grad])[0].reshape(-1) if p.grad is not None and not p.grad.is_sparse else torch.zeros_like(noise)
        parts.append((known, noise))
    known, noise = (torch.cat(some) for some in zip(*parts, strict=True))
    size = known.norm()
    start: Tensor = noise / noise.norm() + torch.where(torch.isfinite(size) & (size > 0), known / size.clamp(min=1e-30), 0.0)
    return start


def _metric(now: View) -> tuple[Tensor | None, float | None]:
    """(√(D/η) of each weight, the limit of D/η's curvature) at the first group's rate η; (None, None) while that is 0."""
    group = now.optimizer.param_groups[0]
    lr = float(group.get("lr", 1.0))
    ones = [torch.ones(flat(p), device=p.device, dtype=local([p])[0].dtype) for p in now.parameters]
    try:
        scales = dict(effective_lr(now.optimizer).rates())
    except InputError:
        return torch.cat(ones), None
    if lr <= 0:
        return None, None
    pairs = zip(now.parameters, ones, strict=True)
    parts = [(scales[p].to(one) / lr).reshape(-1).expand_as(one) if p in scales else one for p, one in pairs]
    return torch.cat(parts).clamp_(min=0.0).sqrt_(), stable(group) / lr


def stable(group: dict[str, Any]) -> float:
    """What η·λ of a quadratic's curvature λ may be before an update without noise diverges.

    Examples:
        >>> stable({"lr": 0.1}), stable({"momentum": 0.9}), round(stable({"betas": (0.9, 0.999)}), 6)
        (2.0, 3.8, 38.0)
    """
    betas, momentum = group.get("betas"), group.get("momentum", 0.0)
    if isinstance(betas, tuple | list) and len(betas) > 1:
        return (2 + 2 * float(betas[0])) / (1 - float(betas[0]))
    if group.get("nesterov"):
        return (2 + 2 * float(momentum)) / (1 + 2 * float(momentum))
    return (2 + 2 * float(momentum)) / (1 - float(group.get("dampening", 0.0)))
