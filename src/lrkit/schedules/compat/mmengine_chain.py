"""mmengine 0.10.7's stages: what one scheduler does from its `begin` up to its `end`, and several of them on one parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import QUANTITIES, chain, choice, count, held, note_of, noted
from lrkit.schedules.compat.frame import scaled
from lrkit.schedules.compose import Between, Rates, Repeat, Times
from lrkit.schedules.parts import Hold
from lrkit.schedules.points import Points

INF = 1_000_000_000  # mmengine's word for no end
_MOST = 100_000  # updates that are worked out one by one


@dataclass(frozen=True)
class Stage:
    """A scheduler in its own time: it moves the parameter towards `floor` as `shape` falls from 1, or sets it outright.

    Args:
        shape: Its values in local time; in [0, 1] where there is a floor.
        begin: Its first update.
        end: The update after its last.
        floor: What the parameter moves towards, as a factor of the base.
        own: Whether it sets the value `floor + (1 − floor)·shape` whatever the parameter was.
    """

    shape: Schedule
    begin: int
    end: int
    floor: float = 0.0
    own: bool = False

    def piece(self, start: int, stop: int, before: float) -> Schedule:
        """The updates from `start` up to `stop` where nothing else acts and the value before them is `before`."""
        local, last = start - self.begin, self.shape(start - self.begin - 1) if start > self.begin else 1.0
        shape = part(self.shape, local, None if stop == INF else local + stop - start)
        if self.own:
            return shape if self.floor == 0 else Between(self.floor, 1.0, shape)
        if last == 0:
            return Hold(before, stop - start)
        if self.floor == 0:
            return scaled(shape, before / last)
        return Between(self.floor, max(0.0, self.floor + (before - self.floor) / last), shape)

    def step(self, t: int, value: float) -> float:
        """The value at update t, from the one before it; from the bottom the way up is the base's."""
        s = t - self.begin
        now, last = self.shape(s), self.shape(s - 1) if s else 1.0
        return value + (1.0 - self.floor) * now if last == 0 else self.floor + (value - self.floor) * (now / last)

    def plain(self, before: float) -> bool:
        """Whether it goes one way: a cosine that climbs again does not come back to where it began, but to the base."""
        return before == 1.0 or not isinstance(self.shape, Repeat)


def part(shape: Schedule, start: int, stop: int | None) -> Schedule:
    """A piece of a schedule; then the value of the last update holds, not the one that would come next."""
    if stop is None:
        return shape.cut(start, None) if start else shape
    last, whole = shape(stop - 1), start == 0 and shape.steps == stop
    cut = shape if whole else shape.cut(start, stop)
    return cut if cut.end_value == last else chain(shape.cut(start, stop - 1) if stop - start > 1 else None, Hold(last, 1))


def interval(call: str, begin: int, end: int) -> tuple[int, int]:
    """The checked interval.

    Raises:
        InputError: If it is empty.
    """
    first, stop = count(call, "begin", begin), count(call, "end", end)
    if stop <= first:
        raise InputError(f"{call}(begin={first}, end={stop}): end must be above begin. It is the update after the last.")
    return first, min(stop, INF)


def stage(call: str, base: float, stage: Stage, quantity: str) -> Rates:
    """One scheduler alone: the base before `begin`, its last value from `end` on."""
    choice(call, "quantity", quantity, QUANTITIES)
    real(call, "base_lr", base, above=0.0)
    rates = Rates(chain(held(1.0, stage.begin), stage.piece(stage.begin, stage.end, 1.0)), base)
    return noted(rates, stage)  # for param_schedulers: its values alone do not say what it does to another value than the base


def chained(call: str, schedules: Sequence[Schedule], base: float) -> Rates:
    """All stages on one parameter, each in turn at every update, from the value that the one before it left.

    Raises:
        InputError: If one was not made by this library's module, or too many updates would have to be worked out one by one.
    """
    stages: list[Stage] = []
    for schedule in schedules:
        one = note_of(schedule, Stage)
        if one is None:
            raise InputError(f"{call}({schedule}): must be one of the library's own schedules. Make it with this module.")
        stages.append(one)
    marks = sorted({0, *(mark for one in stages for mark in (one.begin, one.end))})
    pieces: list[Schedule] = []
    value = 1.0
    for start, stop in pairwise(marks):
        acting = [one for one in stages if one.begin <= start < one.end]
        pieces.append(_piece(call, acting, start, stop, value))
        value = pieces[-1](stop - start - 1)
    return Rates(chain(*pieces), base)


def _piece(call: str, acting: Sequence[Stage], start: int, stop: int, value: float) -> Schedule:
    """The updates between two marks, with the stages that act on all of them."""
    if not acting:
        return Hold(value, stop - start)
    if len(acting) == 1 and acting[0].plain(value):
        return acting[0].piece(start, stop, value)
    if all(one.floor == 0 and not one.own and one.plain(0.0) for one in acting):
        first, *others = acting
        return Times(first.piece(start, stop, value), *(one.piece(start, stop, 1.0) for one in others))
    if len(acting) > 1 and any(one.own for one in acting):
        came = f"{call}: a scheduler that sets its values itself and another act at update {start}"
        raise InputError(f"{came}. Let OneCycleLR and CosineRestartLR act alone.")
    if stop - start > _MOST:
        came = f"{call}: schedulers with a floor act together for {stop - start} updates, more than {_MOST}"
        raise InputError(f"{came}. Let one begin where the other ends.")
    points = []
    for t in range(start, stop):
        for one in acting:
            value = one.step(t, value)
        points.append((t - start, value))
    return Points((*points, (stop - start, value)))
