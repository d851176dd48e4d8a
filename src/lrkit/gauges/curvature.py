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
from lrkit.gauges.evaluation import Evaluation, Unavailable
from lrkit.gauges.norms import Reading
from lrkit.gauges.replay import gradient
from lrkit.gauges.view import Value, View, local
from lrkit.optim.effective import effective_lr
from lrkit.optim.optimizer import Optimizer

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

    Costs 8 gradients a visit, 16 the first time, and the memory of eight copies of the weights, then twelve; one is kept.
    """
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in now.parameters):
        raise Unavailable("weights of half precision are too coarse for differences")
    now.check_evaluable()
    yield
    scale, limit = _metric(now)
    if scale is None:
        return {}
    start, steps = now.memory.get("curvature"), _STEPS
    if start is None or len(start) != len(scale):
        start, steps = _begin(now), 2 * _STEPS
    with now.evaluation() as loss:
        found, now.memory["curvature"] = lanczos(hessian(loss, now.batches, now.parameters, scale), start, steps)
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
    (scale, limit), parameters, begin = _metric(now), now.parameters, _begin(now)
    with now.evaluation() as loss:
        found, _ = lanczos(hessian(loss, batches, parameters, torch.ones_like(begin)), begin, steps)
        if scale is None or bool((scale == scale[0]).all()):
            return Curvature(found.largest, found.smallest, limit, found.doubt)
        scaled, _ = lanczos(hessian(loss, batches, parameters, scale), begin, steps)
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
                w.addcmul_(v, torch.dot(w, v), value=-1.0)
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


def hessian(loss: Evaluation, batches: list[Any], parameters: list[Tensor], scale: Tensor) -> Product:
    """d ↦ S H S d for S = diag(scale), at the weights that are held; they are put back when the evaluation ends."""
    size = torch.linalg.vector_norm(torch.stack([p.norm().to(scale) for p in loss.held]))
    near = _NEAR * torch.where(size > 0, size, 1.0)

    def slope(way: Tensor, sign: float) -> Tensor:
        """The mean gradient at θ ± way."""
        _move(parameters, loss.held, way, sign)
        total = torch.cat([g.reshape(-1) for g in gradient(loss, batches[0], parameters, first=True)[1]])
        for batch in batches[1:]:
            total += torch.cat([g.reshape(-1) for g in gradient(loss, batch, parameters, first=False)[1]])
        return total.div_(len(batches))

    def product(v: Tensor) -> Tensor:
        way = scale * v
        step = near / way.norm().clamp(min=1e-30)
        way.mul_(step)
        above = slope(way, 1.0)
        return above.sub_(slope(way, -1.0)).mul_(scale).div_(2 * step)

    return product


def _move(parameters: list[Tensor], held: list[Tensor], way: Tensor, sign: float) -> None:
    """θ ← held ± way, without a copy in between."""
    with torch.no_grad():
        for p, old, part in zip(parameters, held, torch.split(way, [flat(p) for p in held]), strict=True):
            part = torch.view_as_complex(part.view(*old.shape, 2)) if old.is_complex() else part.view_as(old)
            torch.add(old, part.to(old.dtype), alpha=sign, out=p.detach())


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
    """(√(D/η) of each weight, the limit of D/η's curvature) at the first rate η above 0; (None, None) while all are 0.

    Without an η/σ that is known, D is 1 and there is no limit.
    """
    group = next((one for one in now.optimizer.param_groups if one["params"] and float(one.get("lr", 1.0)) > 0), None)
    if group is None:
        return None, None
    lr = float(group.get("lr", 1.0))
    ones = [torch.ones(flat(p), device=p.device, dtype=local([p])[0].dtype) for p in now.parameters]
    try:
        known = effective_lr(now.optimizer)
        scales = {p: rate.nan_to_num(nan=0.0) for p, rate in known.rates()}  # 0: it does not move yet
        signs = "betas" in group and all(one.v is None for one in known.moments())  # of gradients, whose size does not matter
    except InputError:
        return torch.cat(ones), None
    if signs or not any(bool(rate.any()) for rate in scales.values()):
        return torch.cat(ones), None
    pairs = zip(now.parameters, ones, strict=True)
    parts = [(scales[p].to(one) / lr).reshape(-1).expand_as(one) if p in scales else torch.zeros_like(one) for p, one in pairs]
    limit = None if type(now.optimizer) is Optimizer else stable(group)  # made of parts: their numbers have names of their own
    return torch.cat(parts).clamp_(min=0.0).sqrt_(), None if limit is None else limit / lr


def stable(group: dict[str, Any]) -> float | None:
    """What η·λ of a quadratic's curvature λ may be before an update without noise diverges; None where that is not known.

    Examples:
        >>> stable({"lr": 0.1, "momentum": 0.0}), stable({"momentum": 0.9}), round(stable({"betas": (0.9, 0.999)}), 6)
        (2.0, 3.8, 38.0)
    """
    betas, momentum = group.get("betas"), group.get("momentum", 0.0)
    if "momentum_decay" in group:
        return None  # NAdam's momentum grows with the updates
    if isinstance(betas, tuple | list) and len(betas) > 1:
        return (2 + 2 * float(betas[0])) / (1 - float(betas[0]))
    if group.get("nesterov"):
        return (2 + 2 * float(momentum)) / (1 + 2 * float(momentum))
    return (2 + 2 * float(momentum)) / (1 - float(group.get("dampening", 0.0)))
