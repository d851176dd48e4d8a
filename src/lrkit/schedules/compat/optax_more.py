"""What the constructors of optax and of five other libraries share: one frame for several ranges, steps, stairs, replays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TypeVar

from lrkit.errors import LARGEST, InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain
from lrkit.schedules.compose import Between, Rates, Repeat, Times
from lrkit.schedules.easing import Easing, Polynomial, linear
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.points import Points
from lrkit.schedules.tails import Geometric, Tail

T = TypeVar("T")
_CEILING = 1e300  # of what grows for ever: before it becomes infinite


def count(call: str, name: str, value: object, least: int = 0, floor: int | None = None) -> int:
    """A number of updates as an int; a float without a fraction is taken, and what is below `floor` counts as `floor`.

    Raises:
        InputError: If it is no whole number, or below `least`.
    """
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    number = whole(call, name, value, least if floor is None else -LARGEST, what="a whole number of updates")
    return number if floor is None else max(floor, number)


def items(call: str, name: str, value: Iterable[T], least: int = 0) -> list[T]:
    """A sequence as a list.

    Raises:
        InputError: If it is none, or shorter than `least`.
    """
    number = len(value) if isinstance(value, Sized) and isinstance(value, Iterable) and not isinstance(value, str) else -1
    if number < least:
        raise InputError(f"{call}({name}={value!r}): {name} must be a list with at least {least} in it. Give one.")
    return list(value)


@dataclass(frozen=True)
class Frame:
    """The two values that the factors 0 and 1 stand for."""

    base: float
    origin: float = 0.0

    @classmethod
    def over(cls, call: str, values: Iterable[object], base: float | None = None) -> Frame:
        """The frame of some values: 0 to `base` (the highest, where not given); from the lowest on if that is negative."""
        numbers = [real(call, "value", value) for value in values]
        low, high = min(numbers), max(numbers)
        if low < 0:
            return cls(low) if high == low else cls(high, low)
        return cls(base if base is not None and base > 0 else high)

    def of(self, value: float) -> float:
        """The factor of a value, not below 0."""
        if value == self.base:
            return 1.0
        return 0.0 if value == self.origin else max(0.0, (value - self.origin) / (self.base - self.origin))

    def rates(self, factors: Schedule) -> Rates:
        """The schedule of absolute values."""
        return Rates(factors, self.base, self.origin)


def scaled(schedule: Schedule, ratio: float) -> Schedule:
    """ratio · schedule, in the schedule's own words where it is made of plain parts."""
    if ratio == 1.0:
        return schedule
    if ratio == 0.0:
        return Hold(0.0, schedule.steps)
    if isinstance(schedule, Hold):
        return Hold(ratio * schedule.value_held, schedule.steps)
    if isinstance(schedule, Segment):
        return replace(schedule, start=ratio * schedule.start, end=ratio * schedule.end)
    if isinstance(schedule, Tail):
        return replace(schedule, start=ratio * schedule.start, limit=None if schedule.limit is None else ratio * schedule.limit)
    if isinstance(schedule, Points):
        return replace(schedule, points=tuple((place, ratio * value) for place, value in schedule.points))
    if isinstance(schedule, Join):
        return Join(*(scaled(stage, ratio) for stage in schedule.stages))
    if isinstance(schedule, Repeat):
        return replace(schedule, cycle=scaled(schedule.cycle, ratio))
    if isinstance(schedule, Part):
        return replace(schedule, whole=scaled(schedule.whole, ratio))
    return Times(Hold(ratio, schedule.steps), schedule)


def reframed(rates: Rates, frame: Frame) -> Schedule:
    """A schedule of absolute values as factors of another frame."""
    factors = rates.schedule
    if (rates.base, rates.origin) == (frame.base, frame.origin):
        return factors
    if rates.origin == frame.origin == 0.0 and frame.base > 0:
        return scaled(factors, rates.base / frame.base)
    top = max(1.0, factors.bounds[1])
    high = (1.0 - top) * rates.origin + top * rates.base
    return Between(frame.of(rates.origin), frame.of(high), scaled(factors, 1.0 / top))


def joined(call: str, stages: Sequence[tuple[Schedule, int | None]], base: float | None = None) -> Rates:
    """Schedules of absolute values, one after the other, each for some updates (None: as long as it lasts; 0: not at all).

    Raises:
        InputError: If one of them was not made by a constructor of this package.
    """
    there = []
    for schedule, steps in stages:
        if not isinstance(schedule, Rates):
            raise InputError(f"{call}: {schedule} must be one of the library's own schedules. Make it with this module.")
        if steps != 0:
            there.append((schedule, steps))
    ends = [end for schedule, _ in there for end in (schedule.base, *schedule.bounds) if math.isfinite(end)]
    peaks = [schedule.base for schedule, _ in there]
    frame = Frame.over(call, ends, max(peaks) if base is None else base)
    parts = []
    for schedule, steps in there:
        factors = reframed(schedule, frame)
        parts.append(factors if steps in (None, factors.steps) else factors.cut(0, steps))
    return frame.rates(chain(*parts))


def geometric(ratio: float, every: int = 1, stairs: bool = False, floor: float | None = None) -> Schedule:
    """ratio^(t/every), or ratio^floor(t/every), for ever; also for the ratios 0 and 1. `floor` is where it stops, if it falls."""
    if ratio == 1.0:
        return Hold(1.0)
    if ratio == 0.0:
        return Join(Hold(1.0, every if stairs else 1), Hold(floor or 0.0))
    return Tail(Geometric(ratio, every, stairs), limit=_CEILING if ratio > 1 and floor is None else floor)


def staircase(places: Sequence[int], values: Sequence[float], steps: int | None = None) -> Schedule:
    """values[k] from places[k] on (the first from 0), up to `steps`; a place that comes twice belongs to its last value.

    Args:
        places: One fewer than values, in order.
        values: Factors.
        steps: Updates in all; None has no end.
    """
    starts = [0, *(max(0, place) for place in places)]
    ends: list[int | None] = [*starts[1:], steps]
    out: list[Hold] = []
    for value, start, end in zip(values, starts, ends, strict=True):
        start, end = (start, end) if steps is None else (min(start, steps), min(steps if end is None else end, steps))
        if end is not None and end <= start:
            continue
        length = None if end is None else end - start
        if out and out[-1].value_held == value and out[-1].steps is not None:
            length = None if length is None else length + out[-1].steps
            out.pop()
        out.append(Hold(value, length))
    return chain(*out)


def replayed(values: Sequence[float], base: float) -> Rates:
    """One value for each update, and the last one holds: what a scheduler made of the metrics that it saw."""
    places = [i for i in range(1, len(values)) if values[i] != values[i - 1]]
    kept = [values[0], *(values[i] for i in places)]
    frame = Frame.over("replay", kept, base)
    return frame.rates(staircase(places, [frame.of(value) for value in kept], len(values)))


def poly(power: float) -> Easing:
    """(1 − u)^power as an easing: the straight line where the power is 1."""
    return linear if power == 1 else Polynomial(power)
