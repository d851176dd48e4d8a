"""torch 2.13's schedulers that follow a metric or have a shape of their own, and the pieces that other libraries take from them.

The first update has the value at 0; a boundary belongs to the new piece; past the end the last value holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import groupby

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice
from lrkit.schedules.compose import Rates, Repeat, Times
from lrkit.schedules.easing import Easing, cosine, linear
from lrkit.schedules.parts import Hold, Part, Segment
from lrkit.schedules.points import Custom, Points
from lrkit.schedules.tails import Geometric, Tail

_CEILING = 1e300  # what grows for ever stops here
_SHAPES: dict[str, Easing] = {"cos": cosine, "linear": linear}


def anneal(call: str, strategy: str) -> Easing:
    """The easing of torch's ``"cos"`` or ``"linear"``.

    Raises:
        InputError: If it is neither.
    """
    return _SHAPES[choice(call, "anneal_strategy", strategy, tuple(_SHAPES))]


def lower_end(base: float, low: float) -> tuple[float, float]:
    """(end, origin): Rates of a shape from 1 to `end`, with `base` and `origin`, goes from `base` to `low`, whatever they are."""
    return (low / base, 0.0) if base > 0 and low >= 0 else (0.0, low)


def geometric(call: str, gamma: float, every: float = 1.0, stairs: bool = True) -> Schedule:
    """value(t) = gamma^(t/every), on stairs gamma^⌊t/every⌋; a gamma of 0 or 1, or above 1, as well.

    Raises:
        InputError: If `gamma` is negative, or `every` not above 0.
    """
    gamma, every = real(call, "gamma", gamma, least=0.0), real(call, "every", every, above=0.0)
    if gamma == 1:
        return Hold(1.0)
    if gamma == 0:
        return chain(Hold(1.0, math.ceil(every) if stairs else 1), Hold(0.0))
    return Tail(Geometric(gamma, every, stairs), limit=_CEILING if gamma > 1 else None)


def staircase(levels: Iterable[tuple[int, float]]) -> Schedule:
    """value(t) = the value of the last pair (first step, value) that has begun; for ever.

    Args:
        levels: In order of their first steps, the first of them at 0 or before. Of several at one step the last counts.
    """
    starts = {max(0, first): value for first, value in levels}
    ends = [*list(starts)[1:], None]
    return chain(*(Hold(starts[a], None if b is None else b - a) for a, b in zip(starts, ends, strict=True)))


def milestone_stairs(call: str, milestones: Iterable[int], gamma: float) -> Schedule:
    """value(t) = gamma^(how many milestones are ≤ t), in any order.

    Raises:
        InputError: If a milestone is no whole number of at least 0, or `gamma` is negative.
    """
    gamma = real(call, "gamma", gamma, least=0.0)
    places = sorted(whole(call, "milestones", place, 0, what="whole numbers of updates") for place in milestones)
    return staircase([(0, 1.0), *((place, gamma ** (i + 1)) for i, place in enumerate(places))])


def replay(values: Sequence[float], base: float) -> Schedule:
    """value(t) = values[t]/base: what was seen, held as long as it stayed; the last one past the end."""
    return chain(*(Hold(value / base if base else 0.0, len(list(run))) for value, run in groupby(values)))


def metrics_of(call: str, metrics: Sequence[float]) -> list[float]:
    """The metrics as floats; NaN and infinity are seen in training, so they pass.

    Raises:
        InputError: If there is none.
    """
    numbers = [float(metric) for metric in metrics]
    if not numbers:
        raise InputError(f"{call}(metrics=[]): the metrics that were seen decide the rate. Give at least one.")
    return numbers


def better(mode: str, threshold: float, threshold_mode: str) -> Callable[[float, float], bool]:
    """(metric, best) ↦ whether it is better: by more than `threshold`, relative to the best or absolute."""
    sign = 1.0 if mode == "max" else -1.0
    if threshold_mode == "rel":
        return lambda metric, best: sign * metric > sign * (best * (1.0 + sign * threshold))
    return lambda metric, best: sign * metric > sign * (best + sign * threshold)


def plateau(
    base_lr: float, metrics: Sequence[float], mode: str, factor: float, patience: int, threshold: float, threshold_mode: str,
    cooldown: int, min_lr: float, eps: float,
) -> list[float]:  # fmt: skip
    """The rate after each metric: × `factor`, not below `min_lr`, at the (patience + 1)-th in a row that was no better.

    Raises:
        InputError: If a word or a number is out of its range.
    """
    call = "ReduceLROnPlateau"
    choice(call, "mode", mode, ("min", "max"))
    choice(call, "threshold_mode", threshold_mode, ("rel", "abs"))
    if real(call, "factor", factor, least=0.0) >= 1:
        raise InputError(f"{call}(factor={factor:g}): factor must be below 1. It is what a drop leaves, e.g. 0.1.")
    is_better = better(mode, threshold, threshold_mode)
    rate, best = base_lr, math.inf if mode == "min" else -math.inf
    bad, cooling, rates = 0, 0, []
    for metric in metrics:
        if is_better(metric, best):
            best, bad = metric, 0
        else:
            bad += 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        if bad > patience:
            lower = max(rate * factor, min_lr)
            rate = lower if rate - lower > eps else rate
            cooling, bad = cooldown, 0
        rates.append(rate)
    return rates


def ReduceLROnPlateau(
    base_lr: float, mode: str = "min", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
    threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0, eps: float = 1e-8, *, metrics: Sequence[float],
) -> Rates:  # fmt: skip
    """value(i) = the rate after metric i: × factor, not below min_lr, after more than `patience` that were no better.

    Args:
        base_lr: The optimizer's rate.
        metrics: What was seen, one for each step; the rates are their replay.

    Raises:
        InputError: If there is no metric, or an argument is out of its range.
    """
    seen = metrics_of("ReduceLROnPlateau", metrics)
    min_lr = real("ReduceLROnPlateau", "min_lr", min_lr, least=0.0)
    rates = plateau(base_lr, seen, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
    return absolute(replay(rates, base_lr), base_lr)


def _wave(up: float, down: float, scale: float) -> Repeat:
    """0 → 1 in `up`, → 0 in `down`, again and again, each `scale` times as high; the lengths may be fractions."""
    if up == int(up) and down == int(down):
        return Repeat(chain(Segment(0.0, 1.0, int(up)), Segment(1.0, 0.0, int(down)) if down else None), scale=scale)
    period = Fraction(up + down).limit_denominator(1000)
    if abs(float(period) - (up + down)) > 1e-12 * (up + down):
        came = f"CyclicLR(step_size_up={up:g}, step_size_down={down:g})"
        raise InputError(f"{came}: a cycle must be a whole number of updates, or a plain fraction of one. Round the sizes.")
    points: list[tuple[float, float]] = []
    for k in range(period.denominator):  # so many cycles take a whole number of updates
        begin, end = float(k * period), float((k + 1) * period)
        points += [(begin, 0.0), (min(begin + up, end) if down else end, scale**k)]
    return Repeat(Points((*points, (float(period.numerator), 0.0))), scale=scale**period.denominator)


def _scale(
    size: float, mode: str, gamma: float, scale_fn: Callable[[float], float] | None, scale_mode: str
) -> tuple[float, Schedule | None]:
    """What a cycle leaves of the height of the one before it, and what is multiplied with that."""
    if scale_fn is None:
        choice("CyclicLR", "mode", mode, ("triangular", "triangular2", "exp_range"))
        decay = geometric("CyclicLR", gamma) if mode == "exp_range" and gamma != 1 else None
        return 0.5 if mode == "triangular2" else 1.0, decay
    if choice("CyclicLR", "scale_mode", scale_mode, ("cycle", "iterations")) == "iterations":
        return 1.0, Custom(scale_fn)
    if not callable(scale_fn):
        raise InputError(f"CyclicLR(scale_fn={scale_fn!r}): must be a function of the cycle. Leave it out to go by mode.")
    per_cycle = scale_fn
    name = getattr(scale_fn, "__name__", "scale_fn")
    return 1.0, Custom(lambda t: per_cycle(math.floor(1 + t / size)), name=f"{name} of the cycle")


def CyclicLR(
    base_lr: float, max_lr: float, step_size_up: float = 2000, step_size_down: float | None = None, mode: str = "triangular",
    gamma: float = 1.0, scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle", cycle_momentum: bool = True,
    base_momentum: float = 0.8, max_momentum: float = 0.9, quantity: str = "lr",
) -> Rates:  # fmt: skip
    """value(t) = base + (max − base)·h(t)·F, h = 0 → 1 → 0 in each cycle; momentum = max − (max − base)·h(t)·F.

    F = 1, ½^(cycle − 1), or gamma^t.

    Args:
        base_lr: Lowest rate; the optimizer's own is overwritten.
        step_size_up: Updates of the rise, above 0; fractions count.
        step_size_down: Updates of the fall; as many where None, and 0 for a saw.
        mode: ``"triangular"``, ``"triangular2"`` or ``"exp_range"``: which F.
        scale_fn: F itself, as a function of the cycle from 1, or of the update.
        scale_mode: ``"cycle"`` or ``"iterations"``: what scale_fn counts.
        quantity: ``"lr"`` or ``"momentum"``; the momentum's base is where it is lowest, as is the rate's where it is highest.

    Raises:
        InputError: If an argument is out of its range, or the momentum is asked for and does not cycle.
    """
    up = real("CyclicLR", "step_size_up", step_size_up, above=0.0)
    down = up if step_size_down is None else real("CyclicLR", "step_size_down", step_size_down, least=0.0)
    scale, factor = _scale(up + down, mode, gamma, scale_fn, scale_mode)
    wave = _wave(up, down, scale)
    shape = wave if factor is None else Times(wave, factor)
    if _is_momentum("CyclicLR", quantity, cycle_momentum):
        return Rates(shape, base_momentum, max_momentum)
    return Rates(shape, max_lr, base_lr)


def _is_momentum(call: str, quantity: str, cycle_momentum: bool) -> bool:
    momentum = choice(call, "quantity", quantity, ("lr", "momentum")) == "momentum"
    if momentum and not cycle_momentum:
        raise InputError(f"{call}(cycle_momentum=False): the momentum stays as it is. Ask for quantity='lr'.")
    return momentum


def _one_cycle(ends: Sequence[float], values: Sequence[float], total: int, shape: Easing) -> Schedule:
    """From value to value, with phases that end at `ends`, fractions of an update included; the last at total − 1."""
    points = [(0.0, values[0]), *zip(ends, values[1:], strict=True)]
    while len(points) > 2 and points[1][0] < 0:  # over before update 0
        points.pop(0)
    while len(points) > 2 and points[-2][0] >= total - 1:  # never begun
        points.pop()
    before = max(0, math.ceil(-points[0][0]))
    curve = Points(tuple((place + before, value) for place, value in points), shape)
    return Part(curve, before, before + total)


def OneCycleLR(
    max_lr: float, total_steps: int | None = None, epochs: int | None = None, steps_per_epoch: int | None = None,
    pct_start: float = 0.3, anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float = 0.85,
    max_momentum: float = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
    quantity: str = "lr", base_lr: float | None = None,
) -> Rates:  # fmt: skip
    """max/div → max at pct_start·T − 1 → max/(div·final) at T − 1; in three phases, back to max/div at 2·pct_start·T − 2 first.

    The momentum goes the other way between its two limits. Phases end between two updates where the numbers say so. Where the
    first one ends at update 0, where torch divides by zero, the run starts at the peak.

    Args:
        max_lr: Peak.
        total_steps: T; or `epochs` · `steps_per_epoch`.
        pct_start: Share of the run that rises, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        quantity: ``"lr"`` or ``"momentum"``.
        base_lr: The optimizer's rate, which torch overwrites; it has no effect.

    Raises:
        InputError: If an argument is out of its range, or there is no length.
    """
    call = "OneCycleLR"
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        raise InputError(f"{call}(total_steps=None): the run needs a length. Give total_steps, or epochs and steps_per_epoch.")
    total = whole(call, "total_steps", total_steps) if total_steps is not None else 0
    if total_steps is None:
        total = whole(call, "epochs", epochs) * whole(call, "steps_per_epoch", steps_per_epoch)
    if base_lr is not None:
        real(call, "base_lr", base_lr)
    if real(call, "pct_start", pct_start, least=0.0) > 1:
        raise InputError(f"{call}(pct_start={pct_start:g}): pct_start is a share of the run, at most 1. For 30 per cent say 0.3.")
    rise = pct_start * total - 1
    ends = [rise, 2 * pct_start * total - 2, total - 1] if three_phase else [rise, total - 1]
    if _is_momentum(call, quantity, cycle_momentum):
        top = real(call, "max_momentum", max_momentum, above=0.0)
        low, base = real(call, "base_momentum", base_momentum, least=0.0) / top, top
        values = [1.0, low, 1.0, 1.0] if three_phase else [1.0, low, 1.0]
    else:
        start = 1.0 / real(call, "div_factor", div_factor, above=0.0)
        end, base = start / real(call, "final_div_factor", final_div_factor, above=0.0), real(call, "max_lr", max_lr)
        values = [start, 1.0, start, end] if three_phase else [start, 1.0, end]
    return Rates(_one_cycle(ends, values, total, anneal(call, anneal_strategy)), base)
