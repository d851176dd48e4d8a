"""optax 0.2.8's schedules (`optax.schedules`) and `optax.contrib.reduce_on_plateau`, as rates.

A schedule is a function of the count, which is 0 at the first update. A boundary belongs to the new piece. A warm-up departs: its
first update has the initial value, the peak comes at `warmup_steps`. Past the end the end value holds. Values may be negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, held, items, poly
from lrkit.schedules.compat.frame import Frame, joined
from lrkit.schedules.compat.plateau import metrics_of, replay
from lrkit.schedules.compat.stairs import geometric
from lrkit.schedules.compat.stairs import staircase as stairs
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import EASINGS, Wave, cosine
from lrkit.schedules.parts import Hold, Segment
from lrkit.schedules.points import Points

__all__ = [
    "constant_schedule", "cosine_decay_schedule", "cosine_onecycle_schedule", "exponential_decay", "join_schedules",
    "linear_onecycle_schedule", "linear_schedule", "piecewise_constant_schedule", "piecewise_interpolate_schedule",
    "polynomial_schedule", "reduce_on_plateau", "sgdr_schedule", "warmup_constant_schedule", "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]  # fmt: skip


def constant_schedule(value: float) -> Rates:
    """value(t) = value, for ever."""
    return Rates(Hold(1.0), real("constant_schedule", "value", value))


def polynomial_schedule(
    init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> Rates:
    """value(t) = end + (init − end)·(1 − n/steps)^power, n = clip(t − begin, 0, steps).

    Args:
        init_value: Value up to `transition_begin`; of the whole run where `transition_steps` is not above 0, or the power is 0.
        end_value: Value from the end of the transition on.
        power: Power of what is left of the transition, at least 0.
        transition_steps: Optimizer updates of the transition.
        transition_begin: Update at which it begins; 0 where negative.

    Raises:
        InputError: If an argument is not a number of its kind.
    """
    call = "polynomial_schedule"
    frame = Frame.over(call, (init_value, end_value))
    start, end, begin = frame.of(init_value), frame.of(end_value), count(call, "transition_begin", transition_begin, floor=0)
    steps = count(call, "transition_steps", transition_steps, floor=0)
    if steps == 0 or real(call, "power", power, least=0.0) == 0:
        return Rates(Hold(1.0), real(call, "init_value", init_value))
    move = Segment(start, end, steps, poly(power))
    return frame.rates(chain(held(start, begin), move))


def linear_schedule(init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> Rates:
    """value(t) = init + (end − init)·clip(t − begin, 0, steps)/steps: `polynomial_schedule` with power 1."""
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def _scales(call: str, boundaries_and_scales: Mapping[Any, float] | None) -> list[tuple[int, float]]:
    """The boundaries in order, each with its scale; JSON's boundaries, which are texts, are taken."""
    given = {} if boundaries_and_scales is None else boundaries_and_scales
    if not isinstance(given, Mapping):
        raise InputError(f"{call}(boundaries_and_scales={given!r}): must be a dict of an update and a factor. Give one.")
    pairs = [(int(b) if isinstance(b, str) and b.isdecimal() else b, scale) for b, scale in given.items()]
    checked = [(count(call, "boundary", b), real(call, "scale", scale, least=0.0)) for b, scale in pairs]
    return sorted(checked)


def piecewise_constant_schedule(init_value: float, boundaries_and_scales: Mapping[int, float] | None = None) -> Rates:
    """value(t) = init · Π scales of the boundaries b ≤ t, for ever.

    Args:
        init_value: Value before the first boundary.
        boundaries_and_scales: The update at which a factor comes in, and the factor, at least 0.

    Raises:
        InputError: If a boundary is no update, or a scale is negative.
    """
    values, places = [1.0], []
    for boundary, scale in _scales("piecewise_constant_schedule", boundaries_and_scales):
        places.append(boundary)
        values.append(values[-1] * scale)
    return Rates(stairs(places, values), real("piecewise_constant_schedule", "init_value", init_value))


def exponential_decay(
    init_value: float, transition_steps: int, decay_rate: float, transition_begin: int = 0, staircase: bool = False,
    end_value: float | None = None,
) -> Rates:  # fmt: skip
    """value(t) = init · rate^(max(t − begin, 0)/steps), for ever; not beyond `end_value`.

    What grows without an end value stops at 10^300 times `init_value`.

    Args:
        init_value: Value up to `transition_begin`; of the whole run where `transition_steps` or `decay_rate` is 0.
        transition_steps: Optimizer updates between two powers of the rate.
        decay_rate: Factor for each of them, at least 0.
        transition_begin: Update at which it begins; 0 where negative.
        staircase: Whether the power is rounded down.
        end_value: Floor of what falls, ceiling of what grows; it also binds the value before `transition_begin`.

    Raises:
        InputError: If an argument is not a number of its kind, or there is an end value to a negative initial one.
    """
    call = "exponential_decay"
    init, begin = real(call, "init_value", init_value), count(call, "transition_begin", transition_begin, floor=0)
    every = count(call, "transition_steps", transition_steps, floor=0)
    if real(call, "decay_rate", decay_rate, least=0.0) == 0 or every == 0:
        return Rates(Hold(1.0), init)
    if end_value is None:
        return Rates(chain(held(1.0, begin), geometric(call, "decay_rate", decay_rate, every, staircase)), init)
    end = real(call, "end_value", end_value)
    if init < 0:
        raise InputError(f"{call}(init_value={init:g}): a negative value has no floor. Leave out end_value, or start above 0.")
    if (end >= init) if decay_rate < 1 else (end <= init):
        return Rates(Hold(1.0), end)
    if decay_rate == 1 or init == 0:
        return Rates(Hold(1.0), init)
    move = geometric(call, "decay_rate", decay_rate, every, staircase, max(0.0, end) / init)
    return Rates(chain(held(1.0, begin), move), init)


def cosine_decay_schedule(init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0) -> Rates:
    """value(t) = init·((1 − alpha)·((1 + cos πu)/2)^exponent + alpha), u = min(t/steps, 1).

    Args:
        init_value: Value at update 0.
        decay_steps: Optimizer updates, at least 1.
        alpha: Where it ends, as a share of `init_value`; negative ones cross 0.
        exponent: Power of the wave, at least 0; with 0 it never moves.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "cosine_decay_schedule"
    init, alpha = real(call, "init_value", init_value), real(call, "alpha", alpha)
    steps = count(call, "decay_steps", decay_steps, least=1)
    if real(call, "exponent", exponent, least=0.0) == 0:
        return Rates(Hold(1.0, steps), init)
    easing = cosine if exponent == 1 else Wave(exponent)
    if alpha < 0:
        return Rates(Segment(1.0, 0.0, steps, easing), init, alpha * init)
    return Rates(Segment(1.0, alpha, steps, easing), init)


def _through(init: float, peak: float, kind: str, scales: Sequence[tuple[int, float]]) -> Rates:
    """The points (boundary, product of the scales so far), with one shape between them, as factors of the peak."""
    points = [(0, init / peak if peak else 1.0)]
    for boundary, scale in scales:
        points.append((boundary, points[-1][1] * scale))
    return Rates(Points(tuple(points), EASINGS[kind]), peak)


def piecewise_interpolate_schedule(
    interpolate_type: str, init_value: float, boundaries_and_scales: Mapping[int, float] | None = None
) -> Rates:
    """From one boundary's value to the next, value(b) = init · Π scales of the boundaries up to b; the last one's holds.

    Args:
        interpolate_type: ``"linear"`` or ``"cosine"``.
        init_value: Value at update 0; with a boundary at 0 the value there.
        boundaries_and_scales: The update at which a factor is reached, and the factor, at least 0.

    Raises:
        InputError: If the type is another, a boundary is no update, or a scale is negative.
    """
    call = "piecewise_interpolate_schedule"
    kind, init = choice(call, "interpolate_type", interpolate_type, ("linear", "cosine")), real(call, "init_value", init_value)
    return _through(init, init, kind, _scales(call, boundaries_and_scales))


def linear_onecycle_schedule(
    transition_steps: int, peak_value: float, pct_start: float = 0.3, pct_final: float = 0.85, div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Rates:  # fmt: skip
    """peak/div → peak at int(pct_start·T) → peak/div at int(pct_final·T) → peak/(div·final) at T, in straight lines.

    Two of these at one update count once, with the factor of the later.

    Args:
        transition_steps: T, optimizer updates of the run.
        peak_value: The highest rate.
        pct_start: Share of the run that rises.
        pct_final: Share of the run after which the last fall begins.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "linear_onecycle_schedule"
    steps, div, final, first = _one_cycle(call, transition_steps, div_factor, final_div_factor, pct_start)
    last = int(real(call, "pct_final", pct_final, least=0.0) * steps)
    scales = {first: div, last: 1.0 / div, steps: 1.0 / final}
    peak = real(call, "peak_value", peak_value)
    return _through(peak / div, peak, "linear", sorted(scales.items()))


def cosine_onecycle_schedule(
    transition_steps: int, peak_value: float, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> Rates:
    """peak/div → peak at int(pct_start·T) → peak/(div·final) at T, in half waves; where both are at T, only the last counts.

    Args:
        transition_steps: T, optimizer updates of the run.
        peak_value: The highest rate.
        pct_start: Share of the run that rises.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "cosine_onecycle_schedule"
    steps, div, final, first = _one_cycle(call, transition_steps, div_factor, final_div_factor, pct_start)
    peak = real(call, "peak_value", peak_value)
    return _through(peak / div, peak, "cosine", sorted({first: div, steps: 1.0 / (div * final)}.items()))


def _one_cycle(call: str, steps: int, div: float, final: float, start: float) -> tuple[int, float, float, int]:
    """The checked numbers of a cycle, and the update of its peak."""
    div, final = real(call, "div_factor", div, above=0.0), real(call, "final_div_factor", final, above=0.0)
    total = count(call, "transition_steps", steps, least=1)
    return total, div, final, int(real(call, "pct_start", start, least=0.0) * total)


def warmup_constant_schedule(init_value: float, peak_value: float, warmup_steps: int) -> Rates:
    """value(t) = init + (peak − init)·min(t/warmup, 1); without a warm-up the initial value holds."""
    return linear_schedule(init_value, peak_value, warmup_steps)


def warmup_cosine_decay_schedule(
    init_value: float, peak_value: float, warmup_steps: int, decay_steps: int, end_value: float = 0.0, exponent: float = 1.0
) -> Rates:
    """init → peak in a straight line up to `warmup_steps`, then end + (peak − end)·((1 + cos πu)/2)^exponent.

    u = (t − warmup)/(decay − warmup). With a peak of 0 there is no fall, whatever `end_value` is.

    Args:
        init_value: Value at update 0.
        peak_value: Value at `warmup_steps`.
        warmup_steps: Optimizer updates of the rise; 0 for none.
        decay_steps: Optimizer updates of the run, the rise included.
        end_value: Value at the end.
        exponent: Power of the wave, at least 0.

    Raises:
        InputError: If an argument is out of its range, or the rise leaves no update for the fall.
    """
    call = "warmup_cosine_decay_schedule"
    warmup, total = count(call, "warmup_steps", warmup_steps), count(call, "decay_steps", decay_steps, least=1)
    if total <= warmup:
        came = f"{call}(warmup_steps={warmup}, decay_steps={total})"
        raise InputError(f"{came}: decay_steps counts the rise as well, so it must be above warmup_steps. Raise it.")
    peak, end = real(call, "peak_value", peak_value), real(call, "end_value", end_value)
    fall = cosine_decay_schedule(peak, total - warmup, end / peak if peak else 0.0, exponent)
    return joined(call, [(linear_schedule(init_value, peak, warmup), warmup), (fall, None)])


def warmup_exponential_decay_schedule(
    init_value: float, peak_value: float, warmup_steps: int, transition_steps: int, decay_rate: float, transition_begin: int = 0,
    staircase: bool = False, end_value: float | None = None,
) -> Rates:  # fmt: skip
    """init → peak in a straight line up to `warmup_steps`, then `exponential_decay` from the peak, counted from there.

    Args:
        init_value: Value at update 0.
        peak_value: Value at `warmup_steps`.
        warmup_steps: Optimizer updates of the rise; 0 for none.
        transition_steps: Optimizer updates between two powers of the rate.
        decay_rate: Factor for each of them, at least 0.
        transition_begin: Updates after the rise before the decay begins.
        staircase: Whether the power is rounded down.
        end_value: Floor of what falls, ceiling of what grows.
    """
    call = "warmup_exponential_decay_schedule"
    warmup = count(call, "warmup_steps", warmup_steps)
    fall = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return joined(call, [(linear_schedule(init_value, peak_value, warmup), warmup), (fall, None)])


def sgdr_schedule(cosine_kwargs: Sequence[Mapping[str, Any]]) -> Rates:
    """One `warmup_cosine_decay_schedule` after the other, each from its own update 0.

    Args:
        cosine_kwargs: The arguments of each; its `decay_steps` is its length.

    Raises:
        InputError: If there is none.
    """
    call = "sgdr_schedule"
    cycles = items(call, "cosine_kwargs", cosine_kwargs, least=1)
    if not all(isinstance(arguments, Mapping) for arguments in cycles):
        raise InputError(
            f"{call}({cycles!r}): each cycle must be a dict of warmup_cosine_decay_schedule's arguments. Give dicts."
        )
    return joined(call, [(warmup_cosine_decay_schedule(**arguments), None) for arguments in cycles])


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Rates:
    """value(t) = schedules[k](t − boundaries[k−1]), k the last one whose boundary is not above t.

    Args:
        schedules: Schedules of this module.
        boundaries: The update at which each but the first begins; one that is not below all later ones is never in force.

    Raises:
        InputError: If the numbers of schedules and boundaries do not fit, or a boundary is no update.
    """
    call = "join_schedules"
    schedules, boundaries = items(call, "schedules", schedules), items(call, "boundaries", boundaries)
    if len(schedules) != len(boundaries) + 1:
        came = f"{call}({len(schedules)} schedules, {len(boundaries)} boundaries)"
        raise InputError(f"{came}: each schedule but the first has a boundary. Give one boundary fewer than schedules.")
    starts = [0, *(count(call, "boundaries", boundary) for boundary in boundaries)]
    ends = [min(starts[k + 1 :], default=None) for k in range(len(starts))]
    stages = [(s, None if b is None else max(0, b - a)) for s, a, b in zip(schedules, starts, ends, strict=True)]
    return joined(call, stages)


def reduce_on_plateau(
    factor: float = 0.1, patience: int = 10, rtol: float = 1e-4, atol: float = 0.0, cooldown: int = 0, accumulation_size: int = 1,
    min_scale: float = 0.0, *, metrics: Sequence[float], base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """× factor at the `patience`-th value in a row that was not below (1 − rtol)·best − atol. Value i is in force after metric i.

    Args:
        factor: What a drop leaves, in (0, 1).
        patience: Values without improvement until a drop, at least 1: one fewer than torch takes.
        rtol: What counts as better, as a share of the best, in [0, 1].
        atol: The same, as a difference.
        cooldown: Values after a drop that are not counted.
        accumulation_size: Metrics whose mean is one value.
        min_scale: Lowest scale.
        metrics: The metrics that were seen, in order.
        base_lr: Rate at scale 1.

    Raises:
        InputError: If an argument is out of its range, or there is no metric.
    """
    call = "reduce_on_plateau"
    group, base = count(call, "accumulation_size", accumulation_size, least=1), real(call, "base_lr", base_lr, above=0.0)
    least = real(call, "min_scale", min_scale, least=0.0)
    patience, cooldown = count(call, "patience", patience, least=1), count(call, "cooldown", cooldown)
    rtol, atol = real(call, "rtol", rtol, least=0.0), real(call, "atol", atol, least=0.0)
    if not 0 < real(call, "factor", factor) < 1 or rtol > 1 or rtol == atol == 0:
        came = f"{call}(factor={factor:g}, rtol={rtol:g}, atol={atol:g})"
        raise InputError(f"{came}: factor must be in (0, 1), rtol in [0, 1], one of rtol and atol above 0. Change them.")
    scale, best, bad, pause, scales = 1.0, float("inf"), 0, 0, []
    values = metrics_of(call, metrics)
    for i in range(len(values)):
        if (i + 1) % group == 0:
            mean = sum(values[i + 1 - group : i + 1]) / group
            best, bad = (mean, 0) if mean < (1.0 - rtol) * best - atol else (best, bad + 1)
            if pause > 0:
                pause, bad = pause - 1, 0
            else:
                drop = bad == patience
                scale = max(scale * factor if drop else scale, least)
                pause, bad = (cooldown, 0) if drop else (0, bad)
        scales.append(scale)
    return absolute(replay([base * scale for scale in scales], base), base)
