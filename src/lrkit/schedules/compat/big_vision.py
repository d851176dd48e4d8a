"""big_vision, big_vision/utils.py at 11eea5740d59: one function of the step, times a warm-up, times a cool-down.

Update 0 has rate 0 where there is a warm-up. The decay begins where the warm-up ends, and goes on under the cool-down; 0 would
come at update total_steps, and holds past the end, where the library turns negative. The library rounds its values to float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, held, share, way
from lrkit.schedules.compat.stairs import staircase
from lrkit.schedules.compose import Rates, Times
from lrkit.schedules.easing import Polynomial, cosine
from lrkit.schedules.parts import Part, Segment
from lrkit.schedules.tails import Hyperbolic, Tail

_CALL = "create_learning_rate_schedule"
_UNITS = ("steps", "examples", "epochs", "percent")


def create_learning_rate_schedule(
    total_steps: int, batch_size: int | None = None, data_size: int | None = None, base: float = 1.0, decay_type: str = "stair",
    scale_with_batchsize: bool = False, *, warmup_steps: int | None = None, warmup_examples: float | None = None,
    warmup_epochs: float | None = None, warmup_percent: float | None = None, cooldown_steps: int | None = None,
    cooldown_examples: float | None = None, cooldown_epochs: float | None = None, cooldown_percent: float | None = None,
    power: float = 1.0, end: float | None = None, linear_end: float = 0.0, timescale: float = 10_000.0,
    timescale_examples: float | None = None, shift: float = 0.0, steps: Sequence[float] = (), mults: Sequence[float] = (),
    base_lr: float | None = None,
) -> Rates:  # fmt: skip
    """decay(t)·min(1, t/W)·min(1, (T − t)/C), where decay starts at base·batch_size/256, or at `base`.

    Args:
        total_steps: T, updates of the run.
        batch_size: Examples of an update; needed where something is counted in examples or epochs, or scaled with it.
        data_size: Examples of an epoch.
        base: The highest rate.
        decay_type: ``"linear"`` and ``"polynomial"``: end + (base − end)·(1 − u)^power; ``"cosine"``; ``"rsqrt"``:
            base/√(1 + (t + shift − W)/timescale); ``"stair"``: base times the mult of the last step that is reached.
        scale_with_batchsize: Whether the rate is base·batch_size/256.
        warmup_steps: W, below T; or one of the next three.
        warmup_examples: W in examples.
        warmup_epochs: W in epochs.
        warmup_percent: W as a share of T, in [0, 1].
        cooldown_steps: C; or one of the next three.
        cooldown_examples: C in examples.
        cooldown_epochs: C in epochs.
        cooldown_percent: C as a share of T, in [0, 1].
        power: Power of the polynomial, above 0.
        end: Rate at the end of the polynomial; linear_end where None.
        linear_end: An older name of it.
        timescale: Updates in which rsqrt comes to 1/√2.
        timescale_examples: The same in examples; it wins.
        shift: Updates that rsqrt is ahead.
        steps: Updates at which the stair goes to its next mult, in order.
        mults: Factors of the base rate, one for each of them.
        base_lr: Not read; `base` is the rate.

    Raises:
        InputError: If a number is out of its range or missing, or a length is given twice.
    """
    del base_lr
    total, peak = count(_CALL, "total_steps", total_steps, 1), real(_CALL, "base", base, above=0.0)
    warm_in = (warmup_steps, warmup_examples, warmup_epochs, warmup_percent)
    cool_in = (cooldown_steps, cooldown_examples, cooldown_epochs, cooldown_percent)
    warm, cool = (_updates(n, x, total, batch_size, data_size) for n, x in (("warmup", warm_in), ("cooldown", cool_in)))
    peak *= _needed("batch_size", batch_size) / 256.0 if scale_with_batchsize else 1.0
    scale = timescale if timescale_examples is None else timescale_examples / _needed("batch_size", batch_size)
    low, stair = real(_CALL, "end", linear_end if end is None else end, least=0.0) / peak, _stair(steps, mults, total)
    curve = _decay(decay_type, total, warm, (power, low), (scale, shift), stair)
    return absolute(Times(curve, _cooldown(cool, total)) if cool else curve, peak)


def _decay(kind: str, total: int, warm: int, poly: tuple[float, float], rsqrt: tuple[float, float], stair: Schedule) -> Schedule:
    """The decay with its warm-up; the stair goes on under the warm-up, the others begin after it."""
    if warm >= total:
        raise InputError(f"{_CALL}(total_steps={total}): the warm-up takes {warm} updates, all there are. Shorten it.")
    fall: Schedule
    if choice(_CALL, "decay_type", kind, ("linear", "polynomial", "cosine", "rsqrt", "stair")) == "stair":
        return Times(Segment(0.0, 1.0, warm), stair) if warm else stair
    if kind == "rsqrt":
        fall = _rsqrt(real(_CALL, "timescale", rsqrt[0]), real(_CALL, "shift", rsqrt[1]), total - warm)
    elif kind == "cosine":
        fall = Segment(1.0, 0.0, total - warm, cosine)
    else:
        fall = Segment(1.0, poly[1], total - warm, Polynomial(poly[0]))
    return chain(way(0.0, fall.start_value, warm), fall)


def _updates(name: str, given: Sequence[float | None], total: int, batch: int | None, data: int | None) -> int:
    """A length in updates, from the one unit in which it is given: at least 1 unless it is 0."""
    units = [unit for unit, value in zip(_UNITS, given, strict=True) if value is not None]
    if not units:
        return 0
    if len(units) > 1:
        raise InputError(f"{_CALL}: {', '.join(f'{name}_{unit}' for unit in units)} are one length. Give it once.")
    unit, call = units[0], f"{name}_{units[0]}"
    value = given[_UNITS.index(unit)]
    if unit == "steps":
        return count(_CALL, call, value)
    length = real(_CALL, call, value, least=0.0)
    if unit == "percent":
        length = share(_CALL, call, value) * total
    elif unit == "examples":
        length /= _needed("batch_size", batch)
    else:
        length *= _needed("data_size", data) / _needed("batch_size", batch)
    return max(1, round(length)) if length else 0


def _needed(name: str, value: int | None) -> int:
    return whole(_CALL, name, value)


def _cooldown(cool: int, total: int) -> Schedule:
    """1, and a line to 0 at the end; of a longer one, the last part."""
    line = Segment(1.0, 0.0, cool)
    return Part(line, cool - total, cool) if cool > total else chain(held(1.0, total - cool), line)


def _rsqrt(scale: float, shift: float, steps: int) -> Tail:
    """1/√(1 + (t + shift)/scale)."""
    if not (scale > 0 and scale + shift > 0):
        raise InputError(
            f"{_CALL}(timescale={scale:g}, shift={shift:g}): the timescale and their sum must be above 0. Raise them."
        )
    return Tail(Hyperbolic(1.0, 0.5, every=scale + shift), start=1.0 / math.sqrt(1.0 + shift / scale), steps=steps)


def _stair(steps: Sequence[float], mults: Sequence[float], total: int) -> Schedule:
    """The mult of the last step that is reached; 1 before the first."""
    places = [real(_CALL, "steps", step) for step in steps]
    if places != sorted(places) or len(mults) < len(places):
        came = f"{_CALL}(steps={list(steps)}, mults={list(mults)})"
        raise InputError(f"{came}: steps must be in order, with a mult for each. Sort them.")
    return staircase([math.ceil(place) for place in places], [1.0, *mults][: len(places) + 1], total)
