"""Repeat, Each, Times, Between and Rates: again and again, more slowly, at once, in other limits, in absolute values."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import reduce
from numbers import Real
from operator import mul
from typing import Any

from lrkit.errors import LARGEST, InputError, real
from lrkit.schedules.base import Schedule, check_schedule, check_steps, check_value, onward
from lrkit.schedules.easing import Floats, is_finite, number_text
from lrkit.schedules.parts import Hold

MOST_CYCLES = 2_000  # of different length; cycles of one length are not counted


@dataclass(frozen=True)
class Repeat(Schedule):
    """A cycle again and again: each `stretch` times as long, and `scale` times as high, as the one before it.

    value(t) = scale^k · cycle((t − start_k) / stretch^k) for start_k ≤ t < start_(k+1),  start_k = n·Σ_(i<k) stretch^i

    The cycle that owns a step is found by whole-number arithmetic or a table, never by a rounded logarithm.

    Args:
        cycle: Schedule with an end, of n steps.
        times: How often, at least 1; None has no end.
        stretch: Length of a cycle over the one before it, above 0.
        scale: Height of a cycle over the one before it, above 0; at most 1 where there is no end.

    Raises:
        InputError: If the cycle has no end, a number is out of its range, or there are too many cycles of different length.

    Examples:
        >>> from lrkit.schedules import cosine
        >>> restarts = Repeat(cosine(10), times=3, scale=0.8)
        >>> restarts(0), restarts(10), round(restarts(20), 2), restarts.steps
        (1.0, 0.8, 0.64, 30)
    """

    cycle: Schedule
    times: int | None = None
    stretch: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_schedule("Repeat", self.cycle)
        if self.cycle.steps is None:
            raise InputError(f"Repeat({self.cycle}): it has no end, so it never begins again. Give it steps.")
        if self.times is not None:
            object.__setattr__(self, "times", check_steps("Repeat", self.times, "Leave times out to go on for ever."))
        for name in ("stretch", "scale"):
            object.__setattr__(self, name, real("Repeat", name, getattr(self, name), above=0.0))
        if self.scale > 1 and (self.times is None or (self.times - 1) * math.log(self.scale) > 100):
            raise InputError(f"Repeat(scale={number_text(self.scale)}): the cycles grow beyond all bounds. Lower scale or times.")
        if self.stretch > 1e6:
            raise InputError(f"Repeat(stretch={number_text(self.stretch)}): at most a million times as long. Lower stretch.")
        starts, widths = self._table(self.cycle.steps)
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_widths", widths)
        total = None if self.times is None else self.times * self.cycle.steps if not starts else math.ceil(starts[-1])
        object.__setattr__(self, "steps", None if total is None else min(total, LARGEST))

    def _table(self, n: int) -> tuple[list[float], list[float]]:
        """Where each cycle starts (the end included), and how often the first goes into it; empty if all are as long."""
        if self.stretch == 1.0:
            return [], []
        ratio: float = int(self.stretch) if self.stretch == int(self.stretch) else self.stretch
        starts: list[float] = [0]
        widths: list[float] = []
        width: float = 1
        while starts[-1] <= LARGEST and len(widths) != self.times:
            if len(widths) == MOST_CYCLES or width < 1e-9:
                came = f"Repeat(stretch={number_text(self.stretch)})"
                many = "the cycles vanish" if width < 1e-9 else f"more than {MOST_CYCLES} cycles of different length"
                raise InputError(f"{came}: {many}. Say a small number of times, or take stretch=1.")
            widths.append(width)
            starts.append(starts[-1] + n * width)
            width *= ratio
        return starts, widths

    def value(self, step: Any, m: Any) -> Any:
        """The cycle that owns the step, asked in its own time."""
        t = onward(step, None, m)
        n, last = self.cycle.steps, None if self.times is None else self.times - 1
        starts, widths = self._starts, self._widths  # type: ignore[attr-defined]
        if not starts:
            k = t // n
            k = k if last is None else m.clip(k, 0, last)
            local = t - k * n
        elif m is Floats:
            k = min(bisect_right(starts, t), len(widths)) - 1
            local = n if self.steps is not None and t >= self.steps else (t - starts[k]) / widths[k]
        else:
            k = m.clip(m.searchsorted(m.asarray(starts, dtype=float), t, side="right"), 1, len(widths)) - 1
            local = (t - m.asarray(starts, dtype=float)[k]) / m.asarray(widths, dtype=float)[k]
            local = local if self.steps is None else m.where(t >= self.steps, n, local)  # past the end, to the bit
        out = self.cycle.value(local, m)
        return out if self.scale == 1.0 else out * m.power(self.scale, k)

    @property
    def bounds(self) -> tuple[float, float]:
        """The cycle's, times the lowest and the highest scale."""
        low, high = self.cycle.bounds
        shrinks_for_ever = self.times is None and self.scale < 1
        last = 0.0 if shrinks_for_ever else 1.0 if self.scale == 1 else Floats.power(self.scale, (self.times or 1) - 1)
        return low * min(1.0, last), high * max(1.0, last)

    @property
    def start_value(self) -> float:
        """The cycle's."""
        return self.cycle.start_value

    @property
    def end_value(self) -> float:
        """The last cycle's; where there is none, the first one's, or 0 if they shrink."""
        return self.cycle.end_value * float(self.scale == 1.0) if self.steps is None else self(self.steps)

    def words(self, level: float) -> str:  # noqa: ARG002  (a cycle starts at its own level)
        """``repeat 5 (cosine 2000) stretch 2 scale 0.8``."""
        options = [f" {name} {number_text(getattr(self, name))}" for name in ("stretch", "scale") if getattr(self, name) != 1]
        return f"repeat{'' if self.times is None else f' {self.times}'} ({self.cycle}){''.join(options)}"


@dataclass(frozen=True)
class Each(Schedule):
    """Each value of a schedule for `every` updates: a schedule that counts epochs, among updates.

    value(t) = schedule(floor(t / every))

    Args:
        schedule: Schedule that counts in larger units.
        every: Optimizer updates of one of them, at least 1.

    Raises:
        InputError: If `every` is below 1.

    Examples:
        >>> from lrkit.schedules import linear
        >>> epochs = Each(linear(4), every=100)
        >>> epochs(99), epochs(100), epochs.steps
        (1.0, 0.75, 400)
    """

    schedule: Schedule
    every: int

    def __post_init__(self) -> None:
        check_schedule("Each", self.schedule)
        object.__setattr__(self, "every", check_steps("Each", self.every, "It is the updates of an epoch."))
        steps = self.schedule.steps
        object.__setattr__(self, "steps", None if steps is None else min(LARGEST, steps * self.every))

    def value(self, step: Any, m: Any) -> Any:
        """The schedule's, at a slower clock."""
        return self.schedule.value(onward(step, None, m) // self.every, m)

    @property
    def bounds(self) -> tuple[float, float]:
        """The schedule's."""
        return self.schedule.bounds

    @property
    def end_value(self) -> float:
        """The schedule's."""
        return self.schedule.end_value if self.steps is None else self(self.steps)

    def words(self, level: float) -> str:  # noqa: ARG002  (it starts at its own level)
        """``each 100 (cosine 90)``."""
        return f"each {self.every} ({self.schedule})"


@dataclass(frozen=True, init=False, repr=False)
class Times(Schedule):
    """The product of schedules, step by step: a warm-up on top of anything. It ends when the longest of them does, and a
    constant without an end does not count for that.

    Args:
        factors: Schedules, at least one.

    Raises:
        InputError: If there is no factor, or one is not a schedule of factors.

    Examples:
        >>> from lrkit.schedules import linear, warmup
        >>> Times(warmup(2), linear(10))(0)
        0.5
    """

    factors: tuple[Schedule, ...]

    def __new__(cls, *factors: Schedule) -> Schedule:  # type: ignore[misc]
        """A product of one is that one: it has the same text."""
        return check_schedule("Times", factors[0]) if len(factors) == 1 else super().__new__(cls)

    def __init__(self, *factors: Schedule) -> None:
        checked = [check_schedule("Times", factor) for factor in factors]
        flat = tuple(part for factor in checked for part in (factor.factors if isinstance(factor, Times) else (factor,)))
        if not flat:
            raise InputError("Times(): there must be at least one factor. For one value use Hold.")
        constants = [isinstance(factor, Hold) and factor.steps is None for factor in flat]
        lengths = [factor.steps for factor, constant in zip(flat, constants, strict=True) if not constant] or [None]
        object.__setattr__(self, "factors", flat)
        object.__setattr__(self, "steps", None if None in lengths else max(steps for steps in lengths if steps is not None))
        highs = [factor.bounds[1] for factor in flat]
        if all(map(math.isfinite, highs)) and not math.isfinite(_product([high for high in highs if high > 1])):
            raise InputError("Times: the product grows beyond all bounds. Lower the factors; they are usually in [0, 1].")

    def value(self, step: Any, m: Any) -> Any:
        """The factors' values, multiplied from left to right."""
        return reduce(mul, (factor.value(step, m) for factor in self.factors))

    @property
    def bounds(self) -> tuple[float, float]:
        """The products of the factors'."""
        pairs = [factor.bounds for factor in self.factors]
        return math.prod(low for low, _ in pairs), _product([high for _, high in pairs])

    @property
    def start_value(self) -> float:
        """The product of the factors'."""
        return math.prod(factor.start_value for factor in self.factors)

    @property
    def end_value(self) -> float:
        """The product of the factors'."""
        return math.prod(factor.end_value for factor in self.factors)

    def words(self, level: float) -> str:  # noqa: ARG002  (each factor starts at its own level)
        """The factors' texts, with ``*`` between them."""
        return " * ".join(f"({factor})" if hasattr(factor, "stages") else str(factor) for factor in self.factors)

    def __repr__(self) -> str:
        return f"Times({', '.join(map(repr, self.factors))})"


def _product(highs: list[float]) -> float:
    """The product of upper bounds, where 0 times infinity is 0: a factor that is always 0 leaves nothing."""
    return 0.0 if 0.0 in highs else math.prod(highs)


@dataclass(frozen=True)
class Between(Schedule):
    """Another schedule's shape between other limits: 0 becomes `low`, 1 becomes `high`.

    value(t) = (1 − s(t))·low + s(t)·high

    Args:
        low: Value where the shape is 0, at least 0. It may be the higher one: 1 and 0 turn a shape upside down.
        high: Value where the shape is 1, at least 0.
        shape: Schedule whose values lie in [0, 1].

    Raises:
        InputError: If a value is negative, or the shape leaves [0, 1].

    Examples:
        >>> from lrkit.schedules import linear
        >>> Between(0.5, 1.0, linear(10))(5)
        0.75
    """

    low: float
    high: float
    shape: Schedule

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, check_value("Between", name, getattr(self, name)))
        check_schedule("Between", self.shape)
        low, high = self.shape.bounds
        if low < 0 or high > 1:
            came = f"{number_text(low)} to {number_text(high)}"
            raise InputError(f"Between({self.shape}): the shape must stay within 0 and 1, its values are {came}. Scale it first.")
        object.__setattr__(self, "steps", self.shape.steps)

    def value(self, step: Any, m: Any) -> Any:
        """(1 − s)·low + s·high, kept from rounding past them."""
        s = self.shape.value(step, m)
        return m.clip((1.0 - s) * self.low + s * self.high, min(self.low, self.high), max(self.low, self.high))

    @property
    def bounds(self) -> tuple[float, float]:
        """The two limits."""
        return min(self.low, self.high), max(self.low, self.high)

    @property
    def start_value(self) -> float:
        """The shape's, between the limits."""
        return self._at(self.shape.start_value)

    @property
    def end_value(self) -> float:
        """The shape's, between the limits."""
        return self._at(self.shape.end_value)

    def _at(self, s: float) -> float:
        low, high = self.bounds
        return Floats.clip((1.0 - s) * self.low + s * self.high, low, high)

    def words(self, level: float) -> str:  # noqa: ARG002  (the shape starts at its own level)
        """``between 0.1 and 1 (…)``."""
        return f"between {number_text(self.low)} and {number_text(self.high)} ({self.shape})"


@dataclass(frozen=True)
class Rates(Schedule):
    """Absolute values: what the factors of a schedule make of a base value. `attach` takes `base` for every group.

    value(t) = (1 − f(t))·origin + f(t)·base

    Args:
        schedule: Schedule of factors.
        base: Value where the factor is 1.
        origin: Value where it is 0; 0 unless a range is wanted. Other libraries allow negative ones; `lint` names them.

    Raises:
        InputError: If `base` or `origin` is not finite.

    Examples:
        >>> from lrkit.schedules import cosine
        >>> rates = Rates(cosine(10), base=0.05)
        >>> rates(0), rates.base
        (0.05, 0.05)
    """

    schedule: Schedule
    base: float
    origin: float = 0.0

    def __post_init__(self) -> None:
        check_schedule("Rates", self.schedule)
        for name in ("base", "origin"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not is_finite(value):
                raise InputError(f"Rates({name}={value!r}): {name} must be a finite number. It is a value such as 0.001.")
            object.__setattr__(self, name, float(value) + 0.0)
        ends = [self._of(f) for f in self.schedule.bounds if math.isfinite(f)]
        if not all(map(math.isfinite, ends)):
            raise InputError(
                f"Rates(base={number_text(self.base)}): its values grow beyond all bounds. Lower base, or the factors."
            )
        object.__setattr__(self, "steps", self.schedule.steps)

    def value(self, step: Any, m: Any) -> Any:
        """(1 − f)·origin + f·base."""
        return self._of(self.schedule.value(step, m))

    def _of(self, f: Any) -> Any:
        return f * self.base if self.origin == 0.0 else (1.0 - f) * self.origin + f * self.base

    @property
    def bounds(self) -> tuple[float, float]:
        """What the schedule's bounds make of the base."""
        slope = self.base - self.origin
        ends = [slope * f if f == math.inf and slope else self._of(min(f, 1.0) if not slope else f) for f in self.schedule.bounds]
        return min(ends), max(ends)

    @property
    def start_value(self) -> float:
        """What the schedule's makes of the base."""
        return float(self._of(self.schedule.start_value))

    @property
    def end_value(self) -> float:
        """What the schedule's makes of the base."""
        return float(self._of(self.schedule.end_value))

    def cut(self, start: int, stop: int | None) -> Schedule:
        """The same piece of the schedule, for the same base."""
        return Rates(self.schedule.cut(start, stop), self.base, self.origin)

    def words(self, level: float) -> str:  # noqa: ARG002  (absolute values have no level before them)
        """``base 0.05 (cosine 100)``."""
        origin = "" if self.origin == 0.0 else f" origin {number_text(self.origin)}"
        return f"base {number_text(self.base)}{origin} ({self.schedule})"
