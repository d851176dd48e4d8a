"""Points and Custom: a schedule through given points, and one that is the user's own function."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from lrkit.errors import LARGEST, InputError
from lrkit.schedules.base import Schedule, check_steps, check_value, onward
from lrkit.schedules.easing import Easing, Exponential, Floats, easing, is_finite, linear, number_text


@dataclass(frozen=True)
class Points(Schedule):
    """Through points (step, value), along one easing from each to the next. Before the first and after the last, it holds.

    Args:
        points: Pairs of a step (at least 0, also between two updates: 1.5) and a value, in order. Two at one step are a jump;
            the second owns it.
        easing: The shape between neighbours.

    Raises:
        InputError: If there is no point, steps are not in order, a value is negative, or an exponential passes through 0.

    Examples:
        >>> Points([(0, 0.1), (10, 1.0), (30, 0.0)])(20)
        0.5
    """

    points: tuple[tuple[float, float], ...]
    easing: Easing | str = linear  # a name becomes its easing

    def __post_init__(self) -> None:
        points = _checked(self.points)
        places = [place for place, _ in points]
        if places != sorted(places):
            raise InputError(f"Points({places}): the steps must be in order. Sort the points.")
        object.__setattr__(self, "easing", easing("Points", self.easing))
        if isinstance(self.easing, Exponential) and not all(value > 0 for _, value in points):
            raise InputError("Points(exponential): an exponential never reaches 0. Give every point a value above 0.")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "steps", max(1, math.ceil(places[-1])))
        object.__setattr__(self, "_places", places)

    def value(self, step: Any, m: Any) -> Any:
        """The easing between the two points around the step."""
        places: list[float] = self._places  # type: ignore[attr-defined]
        last = len(places) - 1
        shape: Any = self.easing
        if m is Floats:
            i = bisect_right(places, step) - 1
            if i < 0 or i == last:
                return self.points[max(i, 0)][1]
            (x, start), (beyond, end) = self.points[i], self.points[i + 1]
            value = shape.between(start, end, (step - x) / (beyond - x), m)
            return m.clip(value, min(start, end), max(start, end))
        i = m.searchsorted(m.asarray(places), step, side="right") - 1
        before, after = m.clip(i, 0, last), m.clip(i + 1, 0, last)
        xs, ys = m.asarray(places), m.asarray([value for _, value in self.points])
        gap = xs[after] - xs[before]
        u = m.clip((step - xs[before]) / m.where(gap > 0, gap, 1.0), 0.0, 1.0)
        start, end = ys[before], ys[after]
        inside = m.clip(shape.between(start, end, u, m), m.minimum(start, end), m.maximum(start, end))
        return m.where((i < 0) | (i >= last), ys[before], inside)

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest point."""
        values = [value for _, value in self.points]
        return min(values), max(values)

    @property
    def end_value(self) -> float:
        """The last point's."""
        return self.points[-1][1]

    def words(self, level: float) -> str:  # noqa: ARG002  (points have their own values)
        """``points(cosine) 0:0.04 1.5:1 9:4e-06``."""
        shape = "" if self.easing == linear else f"({self.easing})"
        return f"points{shape} " + " ".join(f"{number_text(x)}:{number_text(y)}" for x, y in self.points)


def _checked(points: Iterable[Any]) -> tuple[tuple[float, float], ...]:
    try:
        pairs = [(place, value) for place, value in points]
    except (TypeError, ValueError):
        raise InputError(f"Points({points!r}): must be pairs of a step and a value, e.g. [(0, 0.1), (500, 1.0)].") from None
    if not pairs:
        raise InputError("Points([]): there must be at least one point. For one value use Hold.")
    for place, _ in pairs:
        if isinstance(place, bool) or not isinstance(place, Real) or not (is_finite(place) and 0 <= float(place) <= LARGEST):
            raise InputError(f"Points: a step must be a number of at least 0, got {place!r}. Count updates from 0.")
    return tuple((float(place) + 0.0, check_value("Points", "value", value)) for place, value in pairs)


@dataclass(frozen=True)
class Custom(Schedule):
    """The user's own function of the step. It has no text and no JSON form, for nobody could read it back.

    Args:
        fn: step → factor: finite, at least 0, and the same whenever it is asked.
        steps: Optimizer updates that it plans, at least 1; None has no end. What follows holds the value at `steps`.
        name: By which it is shown, and recognised on resume; the function's own where None.

    Raises:
        InputError: If `fn` cannot be called; when asked, if it gives something else than a finite number of at least 0.
    """

    fn: Callable[[float], float]
    steps: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise InputError(f"custom({self.fn!r}): fn must be a function of the step, e.g. lambda t: 0.9**t.")
        if self.steps is not None:
            object.__setattr__(self, "steps", check_steps("custom", self.steps, "Leave steps out to go on for ever."))
        name = getattr(self.fn, "__name__", type(self.fn).__name__) if self.name is None else self.name
        object.__setattr__(self, "name", str(name))

    def value(self, step: Any, m: Any) -> Any:
        """fn(step), checked; an array's steps are asked one by one, JAX's all at once."""
        if m is Floats:
            step = onward(step, self.steps, Floats)
            return check_value("custom", f"{self.name} at step {number_text(step)}", self.fn(step))
        if m.__name__ == "numpy":
            asked = onward(step, None, m).reshape(-1).tolist()
            return m.array([self.value(_whole(t), Floats) for t in asked]).reshape(step.shape)
        return self.fn(onward(step, self.steps, m))

    @property
    def bounds(self) -> tuple[float, float]:
        """Anything that is not negative."""
        return 0.0, math.inf

    @property
    def end_value(self) -> float:
        """The value at `steps`; the first one where it has no end."""
        return self(0 if self.steps is None else self.steps)

    def words(self, level: float) -> str:  # noqa: ARG002  (a function has its own values)
        """``custom my_rate``: it cannot be read back."""
        return f"custom {self.name}" + ("" if self.steps is None else f" {self.steps}")


def _whole(step: float) -> float:
    return int(step) if step == int(step) else step


def custom(fn: Callable[[float], float], steps: int | None = None, name: str | None = None) -> Custom:
    """A schedule from the user's own function of the step. It cannot be written as text or JSON, and says so.

    Args:
        fn: step → factor: finite, at least 0, and the same whenever it is asked.
        steps: Optimizer updates that it plans, at least 1; None has no end.
        name: By which it is shown, and recognised on resume; the function's own where None.

    Raises:
        InputError: If `fn` cannot be called; when asked, if it gives something else than a finite number of at least 0.

    Examples:
        >>> custom(lambda t: 1 / (1 + t), steps=10, name="harmonic")(1)
        0.5
    """
    return Custom(fn, steps, name)
