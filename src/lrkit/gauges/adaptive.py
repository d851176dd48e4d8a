"""Gauges of optimizers with a scale, read from their state: whether gradients agree, whether σ is out of date, what η/σ is.

Known are lrkit's optimizers and torch's that `effective_lr` knows; of others the gauges say that they are not available.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lrkit.errors import InputError
from lrkit.gauges.evaluation import NotNow, Unavailable
from lrkit.gauges.norms import Reading
from lrkit.gauges.quantities import sizes, squares
from lrkit.gauges.view import View, spread
from lrkit.optim.effective import EffectiveRates, Moments, effective_lr
from lrkit.optim.lists import flat
from lrkit.tally import Tally

QUANTILES = (0.01, 0.5, 0.99)
SAMPLE = 4096  # entries of a tensor that quantiles are taken of


def coherence(now: View) -> Reading:
    """``coherence``, also a layer: κ = rms(m̂) / rms(√v̂), from Adam's state.

    1: all gradients agree; √((1−β₁)/(1+β₁)), 0.23 for 0.9: they are noise; (1−β₁)/(1+β₁), 0.05: they change sign each update.
    """
    yield
    seen = [one for one in _moments(now) if one.m is not None and one.v is not None]
    if not seen:
        raise _missing(now, "the optimizer has no mean of gradients and of their squares")
    with torch.no_grad():
        m = squares([one.m for one in seen if one.m is not None])
        v = sizes([one.v for one in seen if one.v is not None])
        parameters = [one.parameter for one in seen]
        cm, d = _column([one.cm for one in seen if one.cm is not None], m), _column([one.d for one in seen], v)
        sums = now.summed(parameters, torch.stack([m * cm**2, v * d]))
    return now.named("coherence", parameters, sums, lambda m, v: (m / v).sqrt())


def out_of_date(now: View) -> Reading:
    """``rms_t``, also a layer: √(mean g² / v̂), v̂ at least ε². Far above 1 the scale is out of date, and a spike is due.

    The gradient is that which v has seen, after clipping.

    Source: Wortsman et al. 2023, arXiv:2304.13013, section 3.4.
    """
    yield
    seen = [one for one in _moments(now) if one.v is not None and _has_gradient(one.parameter)]
    if not seen:
        raise _missing(now, "the optimizer has no mean of squared gradients")
    seen = [one for one in seen if isinstance(one.d, Tensor) or one.d > 0]  # 0: RAdam's first updates, which have no σ
    with torch.no_grad():
        parameters = [one.parameter for one in seen]
        clipped = _clipped(now)
        scaled = [_scaled(one, clipped) for one in seen]
        squared = squares(scaled)
        sums = now.summed(parameters, torch.stack([squared, _column([float(one.numel()) for one in scaled], squared)]))
    return now.named("rms_t", parameters, sums, lambda square, count: (square / count).sqrt())


def _missing(now: View, what: str) -> Unavailable:
    """It may come with the first update, but not after that."""
    return Unavailable(what) if any(p.grad is not None for p in now.parameters) else NotNow(what)


def _has_gradient(parameter: Any) -> bool:
    return parameter.grad is not None and not parameter.grad.is_sparse


def _scaled(one: Moments, clipped: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """g / max(√v̂, ε)."""
    assert one.v is not None and one.parameter.grad is not None, "asked for before"
    sigma = (one.v.float() if one.v.dtype in (torch.float16, torch.bfloat16) else one.v) * one.d
    sigma = sigma.sqrt_().clamp_(min=one.eps if isinstance(one.eps, Tensor) else max(one.eps, 1e-30))
    scaled: Tensor = clipped(one.parameter, flat(one.parameter.grad)) / sigma
    return scaled


def _clipped(now: View) -> Callable[[Tensor, Tensor], Tensor]:
    """What an optimizer of lrkit makes of a gradient before its rule sees it; others have done so in place."""
    tally = getattr(now.optimizer, "tally", None)
    verdict = tally.last if isinstance(tally, Tally) else None
    if verdict is None or not verdict.engaged:
        return lambda _, g: g
    gains, bound = verdict.gains, verdict.bound
    live = [p for group in now.optimizer.param_groups for p in group["params"] if p.grad is not None]
    each = dict(zip(live, gains, strict=True)) if isinstance(gains, list) else {}

    def clipped(p: Tensor, g: Tensor) -> Tensor:
        if bound is not None:
            g = g * (bound / g.norm(dim=-1, keepdim=True)).clamp_(max=1.0) if p.is_complex() else g.clamp(-bound, bound)
        elif isinstance(gains, float):
            g = g * gains
        else:
            g = g * (each[p].unsqueeze(-1) if p.is_complex() and each[p].ndim else each[p])
        return g

    return clipped


def _column(numbers: Sequence[float | Tensor], like: Tensor) -> Tensor:
    """(n,) numbers beside (n,) sums; those that an accelerator holds are not waited for."""
    if any(isinstance(number, Tensor) for number in numbers):
        return torch.stack([torch.as_tensor(number, dtype=like.dtype, device=like.device).reshape(()) for number in numbers])
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)


def rates(now: View) -> Reading:
    """``effective_lr/<layer>/q1``, ``q50``, ``q99``: quantiles of η/σ over a fixed random sample of each tensor's entries."""
    yield
    known = _known(now)
    places = {p: _entries(flat(p).numel(), flat(p).device) for p in known}
    trained = {id(p) for p in now.parameters}
    with torch.no_grad():
        found = {p: rate.reshape(-1) for p, rate in known.rates(places) if id(p) in trained and rate.numel()}
        if found and all(rate.numel() == 1 for rate in found.values()) and any(p.numel() > 1 for p in found):
            raise Unavailable("the optimizer has no σ: every entry moves at the rate itself")
        if not found:
            return {}
        parameters = list(found)
        names, place = now.layers(parameters)
        home = next(iter(found.values())).device
        at = torch.tensor(QUANTILES, device=home)
        rows = []
        for layer in range(len(names)):
            some = [found[p].to(home, torch.float32) for p, where in zip(parameters, place, strict=True) if where == layer]
            rows.append(torch.quantile(torch.cat(some), at))
    labels = [f"effective_lr/{name}/q{100 * q:g}" for name in names for q in QUANTILES]
    return spread(labels, torch.cat(rows))


@cache
def _entries(count: int, device: torch.device | str) -> Tensor:
    """(k,) places of the sample: all of few, else drawn once from a seed of their own."""
    if count <= SAMPLE:
        return torch.arange(count, device=device)
    drawn = torch.randint(count, (SAMPLE,), generator=torch.Generator().manual_seed(count))
    return drawn.sort().values.to(device)


def _known(now: View) -> EffectiveRates:
    try:
        return effective_lr(now.optimizer)
    except InputError as error:
        raise Unavailable("the optimizer's update has no η/σ that is known") from error


def _moments(now: View) -> list[Moments]:
    """Of the parameters that may change; none that share their scale over rows or columns."""
    trained = {id(p) for p in now.parameters}
    return [one for one in _known(now).moments() if id(one.parameter) in trained]
