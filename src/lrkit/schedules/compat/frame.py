"""Frame: the two values that factors 0 and 1 stand for; schedules of several frames are brought to one, and joined.

Most libraries let a schedule go between any two values, also negative ones; lrkit's factors are at least 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain
from lrkit.schedules.compose import Between, Rates, Repeat, Times
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.points import Points
from lrkit.schedules.tails import Tail


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
