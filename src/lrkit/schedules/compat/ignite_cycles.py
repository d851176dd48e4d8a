"""pytorch-ignite 0.5.5's cycles, as parts of a schedule and as many as there are; conventions as in `compat.ignite`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain, count, way
from lrkit.schedules.compose import Rates, Repeat
from lrkit.schedules.easing import Easing
from lrkit.schedules.parts import Join, Segment
from lrkit.schedules.points import Custom, Points

_MOST = 10_000  # cycles that are written out


@dataclass(frozen=True)
class _Cycles:
    """The numbers of the first cycle, and what each is multiplied with from one to the next."""

    shape: Easing | None  # None is a triangle
    start: float
    end: float
    size: int
    back: int
    size_mult: float
    start_mult: float
    end_mult: float

    def __iter__(self) -> Iterator[Schedule]:
        start, end, size, back = self.start, self.end, self.size, self.back
        while size > 0:
            after = start * self.start_mult
            yield _cycle(self.shape, start, end, after, size, back)
            start, end = after, end * self.end_mult
            size, back = int(size * self.size_mult), int(back * self.size_mult)


def _cycle(shape: Easing | None, start: float, end: float, after: float, size: int, back: int) -> Schedule:
    """From the start to the end, and back to the next one's start if there is time; or there and back."""
    if shape is not None:
        return chain(Segment(start, end, size, shape), way(end, after, back))
    if size % 2:
        return Points(((0, start), (size / 2, end), (size, start)))
    return Join(Segment(start, end, size // 2), Segment(end, start, size // 2))


@dataclass
class _Endless:
    """The value at any step, with cycles that are made when they are asked for."""

    cycles: Iterator[Schedule]
    made: list[Schedule] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])

    def __call__(self, t: float) -> float:
        """The value of the cycle that owns the step."""
        while t >= self.starts[-1]:
            self.made.append(next(self.cycles))
            self.starts.append(self.starts[-1] + (self.made[-1].steps or 0))
        k = bisect_right(self.starts, t) - 1
        return self.made[k](t - self.starts[k])


def cyclical(
    call: str, shape: Easing | None, start_value: float, end_value: float, cycle_size: int, cycle_mult: float,
    start_value_mult: float, end_value_mult: float, warmup_duration: int, times: int | None,
) -> Rates:  # fmt: skip
    """The schedule of all cycles: a Repeat where one says it, a Join where they end or are counted, else a function.

    Raises:
        InputError: If an argument is out of its range.
    """
    start, end = real(call, "start_value", start_value, least=0.0), real(call, "end_value", end_value, least=0.0)
    mult = real(call, "cycle_mult", cycle_mult, above=0.0)
    start_mult = real(call, "start_value_mult", start_value_mult, least=0.0)
    end_mult = real(call, "end_value_mult", end_value_mult, least=0.0)
    size, back = count(call, "cycle_size", cycle_size, least=2), count(call, "warmup_duration", warmup_duration)
    times = None if times is None else count(call, "cycles", times, least=1)
    if times is not None and times > _MOST:
        raise InputError(f"{call}(cycles={times}): more than {_MOST} cycles cannot be written out. Plan fewer.")
    base = max(start, end)
    unit = base or 1.0
    cycles = _Cycles(shape, start / unit, end / unit, size, back, mult, start_mult, end_mult)
    scale = start_mult if start_mult == end_mult or not end else end_mult if not start else None
    exact = mult == int(mult) and scale is not None and scale > 0
    if exact and scale is not None and (scale <= 1 or times is not None):
        return Rates(Repeat(next(iter(cycles)), times, mult, scale), base)
    if times is not None or mult < 1:
        return Rates(Join(*islice(cycles, times)), base)
    return Rates(Custom(_Endless(iter(cycles)), name=call), base)
