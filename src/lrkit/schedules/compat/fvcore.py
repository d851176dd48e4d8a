"""fvcore 0.1.5's parameter schedulers (`fvcore.common.param_scheduler`), as rates of a run of `steps` updates.

They are functions of the fraction of training; update t of n has the value at t/n. Those that jump do so 1e-6 of the run early, a
guard of the library's against rounding, and the new piece owns the boundary. Past the end the end value holds, where most of them
climb again or fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain, choice, count, exactly, held, items, note_of, noted, poly
from lrkit.schedules.compat.frame import Frame, joined
from lrkit.schedules.compat.stairs import staircase
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import Easing, cosine, exponential, linear
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.points import Custom, Points

__all__ = [
    "CompositeParamScheduler", "ConstantParamScheduler", "CosineParamScheduler", "ExponentialParamScheduler",
    "LinearParamScheduler", "MultiStepParamScheduler", "PolynomialDecayParamScheduler", "StepParamScheduler",
    "StepWithFixedGammaParamScheduler",
]  # fmt: skip

_EARLY = 1e-6  # of the run: how much before its boundary a piece begins


def ConstantParamScheduler(value: float, *, steps: int) -> Rates:
    """value(t) = value."""
    return Rates(Hold(1.0, count("ConstantParamScheduler", "steps", steps, 1)), real("ConstantParamScheduler", "value", value))


def _way(call: str, start: float, end: float, steps: int, easing: Easing) -> Rates:
    """From one value to the other, during the run."""
    frame = Frame.over(call, (start, end))
    return frame.rates(Segment(frame.of(start), frame.of(end), count(call, "steps", steps, 1), easing))


def CosineParamScheduler(start_value: float, end_value: float, *, steps: int) -> Rates:
    """value(t) = end + (start − end)·(1 + cos(πt/steps))/2."""
    return _way("CosineParamScheduler", start_value, end_value, steps, cosine)


def LinearParamScheduler(start_value: float, end_value: float, *, steps: int) -> Rates:
    """value(t) = end·t/steps + start·(1 − t/steps)."""
    return _way("LinearParamScheduler", start_value, end_value, steps, linear)


def ExponentialParamScheduler(start_value: float, decay: float, *, steps: int) -> Rates:
    """value(t) = start · decay^(t/steps).

    Args:
        start_value: Value at update 0.
        decay: What the whole run leaves of it, at least 0.
        steps: Optimizer updates of the run.

    Raises:
        InputError: If `decay` is negative.
    """
    call = "ExponentialParamScheduler"
    total, start = count(call, "steps", steps, 1), real(call, "start_value", start_value)
    if real(call, "decay", decay, least=0.0) == 0:
        return Rates(chain(Hold(1.0, 1), held(0.0, total - 1)), start)
    return Rates(Segment(1.0, decay, total, exponential), start)


def PolynomialDecayParamScheduler(base_value: float, power: float, *, steps: int) -> Rates:
    """value(t) = base · (1 − t/steps)^power."""
    call = "PolynomialDecayParamScheduler"
    total, base = count(call, "steps", steps, 1), real(call, "base_value", base_value)
    constant = real(call, "power", power, least=0.0) == 0
    return Rates(Hold(1.0, total) if constant else Segment(1.0, 0.0, total, poly(power)), base)


@dataclass(frozen=True)
class _Levels:
    """Values, each from a place of `units` on: what a schedule of jumps is made of, in any time."""

    values: tuple[float, ...]
    places: tuple[int, ...]
    units: int

    def rates(self, call: str, steps: int, begin: int, start: float, share: float, total: int) -> Rates:
        """The schedule squeezed into a share of the run that begins at `start`, as `steps` updates from `begin` on see it."""
        frame = Frame.over(call, self.values)
        places = [self._place(place, begin, start, share, total) for place in self.places]
        rates = frame.rates(staircase(places, [frame.of(value) for value in self.values], steps))
        return noted(rates, self)  # for CompositeParamScheduler: squeezed, they jump at other updates than whole ones of the run

    def _place(self, place: int, begin: int, start: float, share: float, total: int) -> int:
        """The update, counted from `begin`, of a jump."""

        def reached(t: int) -> bool:
            return (((t + begin) / total - start) / share + _EARLY) * self.units >= place

        return _first(reached, (start + (place / self.units - _EARLY) * share) * total - begin)


def _first(reached: Callable[[int], bool], guess: float) -> int:
    """The first update at which it is reached, found from near it, in the library's own arithmetic."""
    t = max(0, math.floor(guess))
    while t > 0 and reached(t - 1):
        t -= 1
    while not reached(t):
        t += 1
    return t


def _levels(call: str, values: Sequence[float], places: Sequence[int], units: int, steps: int) -> Rates:
    """The schedule of jumps over the run."""
    n = count(call, "steps", steps, 1)
    levels = _Levels(tuple(real(call, "values", value) for value in values), tuple(places), units)
    return levels.rates(call, n, 0, 0.0, 1.0, n)


def MultiStepParamScheduler(
    values: Sequence[float], num_updates: int | None = None, milestones: Sequence[int] | None = None, *, steps: int
) -> Rates:
    """value(t) = values[number of milestones ≤ int(num_updates·t/steps)].

    Args:
        values: One for each piece, absolute.
        num_updates: Length of the run in the unit of the milestones; the last milestone where None.
        milestones: Where the pieces but the last end, in order, all above 0 and below `num_updates`; equal pieces where None.
        steps: Optimizer updates of the run.

    Raises:
        InputError: If the numbers of values and milestones do not fit, or a milestone is out of order.
    """
    call = "MultiStepParamScheduler"
    values = items(call, "values", values, least=1)
    milestones = None if milestones is None else items(call, "milestones", milestones)
    if num_updates is None and not milestones:
        raise InputError(f"{call}(num_updates=None, milestones=None): the run needs a length. Give one of the two.")
    if milestones is None:
        width = math.ceil(whole(call, "num_updates", num_updates) / len(values))
        milestones = [width * (k + 1) for k in range(len(values) - 1)]
    places = [whole(call, "milestones", milestone) for milestone in milestones]
    total = places.pop() if num_updates is None else whole(call, "num_updates", num_updates)
    if len(places) != len(values) - 1 or total < len(values):
        came = f"{call}({len(values)} values, {len(milestones)} milestones, num_updates={num_updates})"
        raise InputError(f"{came}: each value has a piece of at least one update that a milestone ends. Change the lists.")
    if any(b <= a for a, b in zip([0, *places], [*places, total], strict=True)):
        raise InputError(f"{call}(milestones={places}): they must rise and stay below {total}. Sort them, or raise num_updates.")
    return _levels(call, values, places, total, steps)


def StepParamScheduler(num_updates: float, values: Sequence[float], *, steps: int) -> Rates:
    """value(t) = values[int(number of values · t/steps)]: equal pieces, whatever `num_updates` is.

    Args:
        num_updates: Only checked, as in the library; above 0.
        values: One for each piece, absolute.
        steps: Optimizer updates of the run.

    Raises:
        InputError: If there is no value.
    """
    real("StepParamScheduler", "num_updates", num_updates, above=0.0)
    values = items("StepParamScheduler", "values", values, least=1)
    return _levels("StepParamScheduler", values, range(1, len(values)), len(values), steps)


def StepWithFixedGammaParamScheduler(base_value: float, num_decays: int, gamma: float, num_updates: int, *, steps: int) -> Rates:
    """value(t) = base · gamma^int((num_decays + 1)·t/steps)."""
    call = "StepWithFixedGammaParamScheduler"
    values = [real(call, "base_value", base_value, above=0.0)]
    for _ in range(whole(call, "num_decays", num_decays)):
        values.append(values[-1] * real(call, "gamma", gamma, above=0.0))
    whole(call, "num_updates", num_updates)
    return _levels(call, values, range(1, len(values)), len(values), steps)


def CompositeParamScheduler(
    schedulers: Sequence[Schedule], lengths: Sequence[float], interval_scaling: Sequence[str], *, steps: int
) -> Rates:
    """One schedule after the other, each for its share of the run.

    A piece that begins between two updates is not asked before its own start, where the library goes up to 1e-6 of the run ahead.

    Args:
        schedulers: Schedules of this module, for the same number of `steps`.
        lengths: Share of each; their sum is 1, to 0.001 (the last takes what is left).
        interval_scaling: For each ``"rescaled"``, the whole of it in its share, or ``"fixed"``, the part of it that is due.
        steps: Optimizer updates of the run.

    Raises:
        InputError: If the lists do not fit, the shares do not sum to 1, or a schedule is for another number of steps.
    """
    call = "CompositeParamScheduler"
    n = count(call, "steps", steps, 1)
    shares = [real(call, "lengths", length, least=0.0) for length in items(call, "lengths", lengths, least=1)]
    schedulers, interval_scaling = items(call, "schedulers", schedulers), items(call, "interval_scaling", interval_scaling)
    if not len(schedulers) == len(shares) == len(interval_scaling) or abs(sum(shares) - 1.0) >= 1e-3:
        came = f"{call}({len(schedulers)} schedulers, lengths={shares}, {len(interval_scaling)} scalings)"
        raise InputError(f"{came}: each scheduler has a share and a scaling, and the shares sum to 1. Change the lists.")
    shares[-1] = max(0.0, 1.0 - sum(shares[:-1])) if sum(shares) != 1.0 else shares[-1]
    stages: list[tuple[Schedule, int | None]] = []
    begin, total = 0, 0.0
    for i, (child, share, scaling) in enumerate(zip(schedulers, shares, interval_scaling, strict=True)):
        total += share
        if not isinstance(child, Rates) or child.steps != n:
            raise InputError(f"{call}({child}): must be a schedule of this module for {n} updates. Give it steps={n}.")
        rescaled = choice(call, "interval_scaling", scaling, ("rescaled", "fixed")) == "rescaled"
        end = n if i == len(shares) - 1 else _beyond(total, n)
        if end > begin:
            piece = _rescaled(call, child, begin, end, n, total - share, share) if rescaled else child.cut(begin, end)
            stages.append((piece, end - begin))
            begin = end
    return joined(call, stages)


def _beyond(share: float, n: int) -> int:
    """The first update past a share of the run, or its end."""

    def reached(t: int) -> bool:
        return t >= n or t / n + _EARLY > share

    return _first(reached, (share - _EARLY) * n)


def _rescaled(call: str, child: Rates, begin: int, end: int, n: int, start: float, share: float) -> Rates:
    """The whole child in its share of the run, as the updates from `begin` to `end` see it."""
    levels = note_of(child, _Levels)
    if levels is not None:
        return levels.rates(call, end - begin, begin, start, share, n)
    return Rates(_placed(child.schedule, begin, end, start * n, share * n), child.base, child.origin)


def _placed(factors: Schedule, begin: int, end: int, start: float, length: float) -> Schedule:
    """Factors of the whole run squeezed into `length` updates from `start` on, both of which may lie between two updates."""
    if isinstance(factors, Hold):
        return Hold(factors.value_held, end - begin)
    fits = abs(start - begin) < 1e-12 * max(1.0, start) and abs(length - (end - begin)) < 1e-12 * max(1.0, length)
    if isinstance(factors, Segment):
        if fits:
            return Segment(factors.start, factors.end, end - begin, factors.easing)
        place = start - begin + 1  # points may not lie before update 0: shifted by one update, and back
        points = Points(((place, factors.start), (place + length, factors.end)), factors.easing)
        return Part(points, 1, 1 + end - begin)
    if isinstance(factors, Join | Points | Part) and fits:
        return Part(factors, 0, factors.steps, end - begin)
    n = factors.steps or 1
    return exactly(Custom(lambda t: factors((t + begin - start) / length * n), end - begin, "rescaled"), end - begin)
