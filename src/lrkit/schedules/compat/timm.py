"""timm 1.0.31's schedulers (`timm.scheduler`), as rates.

The value at t is what ``step(t)`` sets, t epochs or updates: the first one has the value at 0, a boundary belongs to the new
piece, and past the end lr_min holds. Unless warmup_prefix is set, the decay runs on under the warm-up: the rate never reaches the
base, and drops where the warm-up ends.

In all: base_lr is the optimizer's rate, above 0; w = warmup_lr_init and lr_min are rates, W = warmup_t; noise_range_t, noise_pct,
noise_std and noise_seed multiply the curve with timm's noise. Where cycles grow, and rounding makes timm miss the first update of
one, these do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, exactly, held, items, way
from lrkit.schedules.compat.plateau import metrics_of, plateau, replay
from lrkit.schedules.compat.stairs import drops, geometric
from lrkit.schedules.compat.timm_noise import Range, noisy
from lrkit.schedules.compose import Rates, Repeat, Times
from lrkit.schedules.easing import Easing, Floats, Polynomial, Power, Relax, Tanh, Wave, cosine, linear
from lrkit.schedules.parts import Hold, Join, Segment
from lrkit.schedules.points import Points
from lrkit.schedules.tails import Hyperbolic, Tail

__all__ = [
    "CosineLRScheduler", "MultiStepLRScheduler", "PlateauLRScheduler", "PolyLRScheduler", "StepLRScheduler", "TanhLRScheduler",
    "WSDLRScheduler", "create_scheduler_v2",
]  # fmt: skip

_UPDATES = "a whole number of epochs or updates"


def _cycles(call: str, base: float, n: int, easing: Easing, lr_min: float, mul: float, decay: float, limit: int) -> Schedule:
    """`limit` cycles from base·decay^i to lr_min, the first of n updates and each `mul` times as long as the one before it."""
    low, limit = real(call, "lr_min", lr_min, least=0.0) / base, whole(call, "cycle_limit", limit, 0)
    mul, decay = real(call, "cycle_mul", mul, above=0.0), real(call, "cycle_decay", decay, least=0.0)
    first = Segment(1.0, low, n, easing)
    if limit <= 1:
        return first if limit else Hold(low)
    if decay == 1 or (low == 0 and decay > 0):
        return Repeat(first, limit, mul, decay)
    points, place = [], 0.0
    for i in range(limit):
        points.append((place, decay**i))
        place += n * mul**i
        points.append((place, low))
    return Points(tuple(points), easing)


def _made(
    call: str, base: float, warmup: tuple[int, float, bool], curve: Schedule, noise: tuple[Range, float, float, int],
    aim: float = 1.0,
) -> Rates:  # fmt: skip
    """w + t·(base·aim − w)/W, then the curve, from its start (a prefix) or from W on; times the noise."""
    steps = count(call, "warmup_t", warmup[0], what=_UPDATES)
    if steps:
        rise = Segment(real(call, "warmup_lr_init", warmup[1], least=0.0) / base, aim, steps)
        if warmup[2]:
            curve = Join(rise, curve)
        elif curve.steps is not None and curve.steps <= steps:
            curve = exactly(Join(rise, Hold(curve.end_value)), steps)
        else:
            curve = Join(rise, curve.cut(steps, curve.steps))
    return absolute(noisy(curve, *noise), base)


def CosineLRScheduler(
    base_lr: float, t_initial: int, lr_min: float = 0.0, cycle_mul: float = 1.0, cycle_decay: float = 1.0, cycle_limit: int = 1,
    warmup_t: int = 0, warmup_lr_init: float = 0.0, warmup_prefix: bool = False, t_in_epochs: bool = True,
    noise_range_t: Range = None, noise_pct: float = 0.67, noise_std: float = 1.0, noise_seed: int = 42, k_decay: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = lr_min + (base·cycle_decay^i − lr_min)·(1 + cos(π·(c/n)^k))/2, c of n = t_initial·cycle_mul^i into cycle i.

    Args:
        base_lr: The optimizer's rate, above 0.
        cycle_limit: Cycles; then lr_min holds.
        warmup_prefix: Whether the cycles begin after the warm-up, and not under it.
        k_decay: k, above 0.
        t_in_epochs: Whether t counts epochs, and not updates; it has no effect on the curve.
    """
    del t_in_epochs
    call, base = "CosineLRScheduler", real("CosineLRScheduler", "base_lr", base_lr, above=0.0)
    easing = cosine if k_decay == 1 else Wave(1.0, k_decay)
    curve = _cycles(call, base, t_initial, easing, lr_min, cycle_mul, cycle_decay, cycle_limit)
    noise = (noise_range_t, noise_pct, noise_std, noise_seed)
    return _made(call, base, (warmup_t, warmup_lr_init, warmup_prefix), curve, noise)


def PolyLRScheduler(
    base_lr: float, t_initial: int, power: float = 0.5, lr_min: float = 0.0, cycle_mul: float = 1.0, cycle_decay: float = 1.0,
    cycle_limit: int = 1, warmup_t: int = 0, warmup_lr_init: float = 0.0, warmup_prefix: bool = False, t_in_epochs: bool = True,
    noise_range_t: Range = None, noise_pct: float = 0.67, noise_std: float = 1.0, noise_seed: int = 42, k_decay: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = lr_min + (base·cycle_decay^i − lr_min)·(1 − (c/n)^k)^power, c of n = t_initial·cycle_mul^i into cycle i.

    Args:
        base_lr: The optimizer's rate, above 0.
        power: Above 0.
        cycle_limit: Cycles; then lr_min holds.
        warmup_prefix: Whether the cycles begin after the warm-up, and not under it.
        k_decay: k, above 0.
        t_in_epochs: Whether t counts epochs, and not updates; it has no effect on the curve.
    """
    del t_in_epochs
    call, base = "PolyLRScheduler", real("PolyLRScheduler", "base_lr", base_lr, above=0.0)
    curve = _cycles(call, base, t_initial, Polynomial(power, k_decay), lr_min, cycle_mul, cycle_decay, cycle_limit)
    noise = (noise_range_t, noise_pct, noise_std, noise_seed)
    return _made(call, base, (warmup_t, warmup_lr_init, warmup_prefix), curve, noise)


def TanhLRScheduler(
    base_lr: float, t_initial: int, lb: float = -7.0, ub: float = 3.0, lr_min: float = 0.0, cycle_mul: float = 1.0,
    cycle_decay: float = 1.0, cycle_limit: int = 1, warmup_t: int = 0, warmup_lr_init: float = 0.0, warmup_prefix: bool = False,
    t_in_epochs: bool = True, noise_range_t: Range = None, noise_pct: float = 0.67, noise_std: float = 1.0, noise_seed: int = 42,
) -> Rates:  # fmt: skip
    """value(t) = lr_min + (base·cycle_decay^i − lr_min)·(1 − tanh(lb·(1 − u) + ub·u))/2, u the progress in cycle i.

    Args:
        base_lr: The optimizer's rate, above 0.
        cycle_limit: Cycles; then lr_min holds.
        warmup_prefix: Whether the cycles begin after the warm-up; under it, the warm-up aims at where the curve is by then.
        t_in_epochs: Whether t counts epochs, and not updates; it has no effect on the curve.
    """
    del t_in_epochs
    call, base = "TanhLRScheduler", real("TanhLRScheduler", "base_lr", base_lr, above=0.0)
    curve = _cycles(call, base, t_initial, Tanh(lb, ub), lr_min, cycle_mul, cycle_decay, cycle_limit)
    aim = 1.0 if warmup_prefix else curve(warmup_t)
    noise = (noise_range_t, noise_pct, noise_std, noise_seed)
    return _made(call, base, (warmup_t, warmup_lr_init, warmup_prefix), curve, noise, aim)


def StepLRScheduler(
    base_lr: float, decay_t: float, decay_rate: float = 1.0, warmup_t: int = 0, warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True, t_in_epochs: bool = True, noise_range_t: Range = None, noise_pct: float = 0.67,
    noise_std: float = 1.0, noise_seed: int = 42,
) -> Rates:  # fmt: skip
    """value(t) = base·decay_rate^⌊t/decay_t⌋, t counted from the end of the warm-up; for ever.

    Args:
        base_lr: The optimizer's rate, above 0.
        decay_t: Above 0; fractions count.
        warmup_prefix: Whether t counts from the end of the warm-up, and not from 0.
        t_in_epochs: Whether t counts epochs, and not updates; it has no effect on the curve.
    """
    del t_in_epochs
    call, base = "StepLRScheduler", real("StepLRScheduler", "base_lr", base_lr, above=0.0)
    curve = geometric(call, "decay_rate", decay_rate, _floored(real(call, "decay_t", decay_t, above=0.0)), stairs=True)
    noise = (noise_range_t, noise_pct, noise_std, noise_seed)
    return _made(call, base, (warmup_t, warmup_lr_init, warmup_prefix), curve, noise)


def _floored(every: float) -> float:
    """A length whose rounded quotients have the floors of the exact ones: 3.6 is a little above 18/5, so 18 holds four of it."""
    plain = Fraction(every).limit_denominator(1_000_000)
    return math.nextafter(every, math.inf) if float(plain) == every and Fraction(every) > plain else every


def MultiStepLRScheduler(
    base_lr: float, decay_t: Sequence[float], decay_rate: float = 1.0, warmup_t: int = 0, warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True, t_in_epochs: bool = True, noise_range_t: Range = None, noise_pct: float = 0.67,
    noise_std: float = 1.0, noise_seed: int = 42,
) -> Rates:  # fmt: skip
    """value(t) = base·decay_rate^(how many of decay_t are ≤ t + 1), for ever: each acts one update early, as in timm.

    Args:
        base_lr: The optimizer's rate, above 0.
        decay_t: In any order; one that is named twice counts twice.
        decay_rate: At least 0.
        warmup_prefix: Whether t counts from the end of the warm-up, and not from 0.
        t_in_epochs: Whether t counts epochs, and not updates; it has no effect on the curve.
    """
    del t_in_epochs
    call, base = "MultiStepLRScheduler", real("MultiStepLRScheduler", "base_lr", base_lr, above=0.0)
    places = [math.ceil(real(call, "decay_t", place)) - 1 for place in items(call, "decay_t", decay_t)]
    curve = drops(call, "decay_rate", decay_rate, places)
    noise = (noise_range_t, noise_pct, noise_std, noise_seed)
    return _made(call, base, (warmup_t, warmup_lr_init, warmup_prefix), curve, noise)


def WSDLRScheduler(
    base_lr: float, t_initial: int, decay_t: int, lr_min: float = 0.0, stable_fn: str = "constant",
    stable_timescale: float | None = None, stable_power: float = 0.5, decay_fn: str | Callable[[float], float] = "1-sqrt",
    decay_power: float = 0.5, decay_ratio: float = 0.1, warmup_t: int = 0, warmup_lr_init: float = 0.0, t_in_epochs: bool = True,
    noise_range_t: Range = None, noise_pct: float = 0.67, noise_std: float = 1.0, noise_seed: int = 42,
) -> Rates:  # fmt: skip
    """value(W + s) = lr_min + (v(s) − lr_min)·D(u), v = max(base·stable(s), lr_min), u = (s − t_initial + decay_t)/decay_t or 0.

    stable = 1, or (1 + s/stable_timescale)^−p; D = 1 − u, 1 − √u, (1 + cos πu)/2, 1 − u^decay_power, or (r^u − r)/(1 − r).

    Args:
        base_lr: The optimizer's rate, above 0.
        t_initial: Updates after the warm-up, of which `decay_t` are the fall.
        stable_fn: ``"constant"``, ``"rsqrt"`` (p = ½) or ``"power"`` (p = stable_power).
        stable_timescale: W where None.
        decay_fn: ``"linear"``, ``"1-sqrt"``, ``"cosine"``, ``"power"``, ``"exp"`` (r = decay_ratio), or D itself.
        t_in_epochs: Whether t counts epochs, and not updates; it has no effect on the curve.

    Raises:
        InputError: If an argument is out of its range.
    """
    del t_in_epochs
    call, base = "WSDLRScheduler", real("WSDLRScheduler", "base_lr", base_lr, above=0.0)
    fall = count(call, "decay_t", decay_t, 1, what=_UPDATES)
    stable = count(call, "t_initial", t_initial, 1, what=_UPDATES) - fall
    if stable < 0:
        raise InputError(f"{call}(t_initial={t_initial}, decay_t={decay_t}): t_initial includes decay_t. Shorten the fall.")
    low = real(call, "lr_min", lr_min, least=0.0) / base
    kind = choice(call, "stable_fn", stable_fn, ("constant", "rsqrt", "power"))
    level: Schedule = Hold(max(1.0, low))
    if kind != "constant" and low <= 1:
        every = real(call, "stable_timescale", warmup_t if stable_timescale is None else stable_timescale, above=0.0)
        level = Tail(Hyperbolic(1.0, 0.5 if kind == "rsqrt" else stable_power, every), limit=low or None, steps=stable + fall)
    curve = _falling(level, low, stable, fall, _decay(call, decay_fn, decay_power, decay_ratio))
    noise = (noise_range_t, noise_pct, noise_std, noise_seed)
    return _made(call, base, (warmup_t, warmup_lr_init, True), curve, noise)


def _decay(call: str, decay_fn: str | Callable[[float], float], power: float, ratio: float) -> Easing | Callable[[float], float]:
    if callable(decay_fn):
        return decay_fn
    if real(call, "decay_ratio", ratio, above=0.0) >= 1:
        raise InputError(f"{call}(decay_ratio={ratio:g}): decay_ratio must be below 1. It is what the fall aims below, e.g. 0.1.")
    shapes: dict[str, Easing] = {
        "linear": linear, "1-sqrt": Power(0.5), "cosine": cosine, "power": Power(power), "exp": Relax(ratio)
    }  # fmt: skip
    return shapes[choice(call, "decay_fn", decay_fn, tuple(shapes))]


def _falling(level: Schedule, low: float, stable: int, fall: int, decay: Easing | Callable[[float], float]) -> Schedule:
    """The level, and in the end low + (level − low)·D."""
    shape = None if callable(decay) else decay
    if shape is not None and isinstance(level, Hold):
        top = level.value_held
        return chain(held(top, stable), Segment(top, low, fall, shape))
    if shape is not None and low == 0:
        return Times(level, chain(held(1.0, stable), Segment(1.0, 0.0, fall, shape)))
    # No part adds two curves that both move, so the fall goes through its values.
    points = [(0.0, level(stable))]
    for d in range(1, fall + 1):
        left = decay(d / fall) if callable(decay) else decay.between(1.0, 0.0, d / fall, Floats)
        points.append((float(d), low + (level(stable + d) - low) * left))
    return chain(level.cut(0, stable) if stable else None, Points(tuple(points)))


def PlateauLRScheduler(
    base_lr: float, decay_rate: float = 0.1, patience_t: int = 10, threshold: float = 1e-4, cooldown_t: int = 0,
    warmup_t: int = 0, warmup_lr_init: float = 0.0, lr_min: float = 0.0, mode: str = "max", noise_range_t: Range = None,
    noise_type: str = "normal", noise_pct: float = 0.67, noise_std: float = 1.0, noise_seed: int | None = None, *,
    metrics: Sequence[float],
) -> Rates:  # fmt: skip
    """value(i) = w + (i + 1)·(base − w)/W for i < W, w = warmup_lr_init; then the rate after metric i, as torch's plateau.

    Args:
        base_lr: The optimizer's rate, above 0.
        decay_rate: What a drop leaves.
        patience_t: Metrics that may be no better, in a row.
        threshold: By what share of the best a metric has to be better.
        warmup_t: W; its metrics do not count.
        metrics: What was seen, one an epoch; the rates are their replay.

    Raises:
        InputError: If there is no metric, or an argument is out of its range.
    """
    call = "PlateauLRScheduler"
    base, warm = real(call, "base_lr", base_lr, above=0.0), count(call, "warmup_t", warmup_t, what="a whole number of epochs")
    seen, low = metrics_of(call, metrics), real(call, "lr_min", lr_min, least=0.0)
    first = real(call, "warmup_lr_init", warmup_lr_init, least=0.0) / base
    rates = plateau(call, base, seen[warm:], mode, decay_rate, patience_t, threshold, "rel", cooldown_t, low, 1e-8)
    rise = way(first, 1.0, warm, arrive=True)
    curve = exactly(chain(rise, replay(rates, base) if rates else None), len(seen))
    return absolute(noisy(curve, noise_range_t, noise_pct, noise_std, noise_seed, noise_type, 1, warm), base)


def create_scheduler_v2(
    base_lr: float, sched: str = "cosine", num_epochs: int = 300, decay_epochs: float | None = None,
    decay_milestones: Sequence[float] = (90, 180, 270), cooldown_epochs: int = 0, patience_epochs: int = 10,
    decay_rate: float = 0.1, min_lr: float = 0.0, warmup_lr: float = 1e-5, warmup_epochs: int = 0, warmup_prefix: bool = False,
    noise: Range = None, noise_pct: float = 0.67, noise_std: float = 1.0, noise_seed: int = 42, cycle_mul: float = 1.0,
    cycle_decay: float = 0.1, cycle_limit: int = 1, k_decay: float = 1.0, decay_fn: str | None = None,
    stable_timescale: float | None = None, plateau_mode: str = "max", step_on_epochs: bool = True, updates_per_epoch: int = 0, *,
    metrics: Sequence[float] | None = None,
) -> Rates:  # fmt: skip
    """The schedule of train.py's options, over the epochs that it plans; with step_on_epochs=False over the updates.

    Args:
        base_lr: The optimizer's rate, above 0.
        sched: ``"cosine"``, ``"tanh"``, ``"step"``, ``"constant"``, ``"multistep"``, ``"plateau"``, ``"poly"``, ``"wsd"``,
            ``"rsqrt"`` or ``"none"``.
        decay_epochs: 90 where None; of the fall of wsd and rsqrt, 0.2. Below 1 it is a share of their run.
        noise: Range in shares of num_epochs.
        metrics: What was seen, for ``"plateau"``.

    Raises:
        InputError: If there is none of that name, or an argument is out of its range.
    """
    call = "create_scheduler_v2"
    kinds = ("cosine", "tanh", "step", "constant", "multistep", "plateau", "poly", "wsd", "rsqrt", "none")
    kind = choice(call, "sched", sched, kinds)
    each = 1 if step_on_epochs else whole(call, "updates_per_epoch", updates_per_epoch)
    total, warm = whole(call, "num_epochs", num_epochs) * each, whole(call, "warmup_epochs", warmup_epochs, 0) * each
    fall = (0.2 if kind in ("wsd", "rsqrt") else 90) if decay_epochs is None else decay_epochs
    where = None if kind == "none" else _range(noise, total)
    given: dict[str, Any] = {"warmup_t": warm, "warmup_lr_init": warmup_lr}
    if kind == "plateau":
        if metrics is None or not step_on_epochs:
            raise InputError(f"{call}('plateau'): it goes by what was seen, once an epoch. Give metrics=[…].")
        given |= {"lr_min": min_lr, "mode": plateau_mode, "metrics": metrics, "noise_range_t": where}
        given |= {"noise_pct": noise_pct, "noise_std": noise_std, "noise_seed": noise_seed}
        return PlateauLRScheduler(base_lr, decay_rate, patience_epochs, **given)
    if kind in ("wsd", "rsqrt"):
        run = total if warmup_prefix else total - warm
        given["stable_timescale"] = None if stable_timescale is None else stable_timescale * each
        given |= (
            {"stable_fn": "rsqrt", "decay_fn": decay_fn or "linear"} if kind == "rsqrt" else {"decay_fn": decay_fn or "1-sqrt"}
        )
        made = WSDLRScheduler(base_lr, run, round(fall * run if 0 < fall < 1 else fall * each), min_lr, **given)
    elif kind == "multistep":
        made = MultiStepLRScheduler(
            base_lr, [m * each for m in decay_milestones], decay_rate, warmup_prefix=warmup_prefix, **given
        )
    elif kind in ("step", "constant", "none"):
        given = {} if kind == "none" else given | {"warmup_prefix": warmup_prefix}
        made = StepLRScheduler(base_lr, *((fall * each, decay_rate) if kind == "step" else (1, 1.0)), **given)
    else:
        given |= {"lr_min": min_lr, "cycle_mul": cycle_mul, "cycle_decay": cycle_decay, "cycle_limit": cycle_limit}
        given |= {"warmup_prefix": warmup_prefix} | ({"k_decay": k_decay} if kind != "tanh" else {})
        given |= {"power": decay_rate} if kind == "poly" else {}
        make: Any = {"cosine": CosineLRScheduler, "tanh": TanhLRScheduler, "poly": PolyLRScheduler}[kind]
        made = make(base_lr, total, **given)
    planned = total + warm * warmup_prefix if made.steps is None else made.steps + cooldown_epochs * each
    return Rates(noisy(exactly(made.schedule, planned), where, noise_pct, noise_std, noise_seed), base_lr)


def _range(noise: Range, total: int) -> Range:
    """Shares of the run as epochs."""
    if noise is None or not isinstance(noise, Sequence):
        return None if noise is None else noise * total
    return [share * total for share in noise] if len(noise) > 1 else noise[0] * total
