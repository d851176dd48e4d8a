"""Schedule: step ↦ factor of a base value, as an immutable value. Segment, Hold and Join are all that a schedule is made of.

Pure maths: knows no optimizer, no epoch, no file. A step is one optimizer update, counted from 0; the value at step t is in
force for update t.

Conventions, each with one default:
  * a warm-up arrives (its last update has the end value), a decay departs (its first update has the start value); `arrive`;
  * a boundary belongs to the new segment;
  * before the first step the start holds, past the end the last value holds; `steps` is None where there is no end.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, overload

from lrkit.errors import LARGEST, InputError
from lrkit.schedules.easing import Easing, Exponential, Floats, linear, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Schedule(ABC):
    """Step ↦ factor of a base value. Call it with an int, a float, or an array of NumPy, torch or JAX.

    Attributes:
        steps: How many updates it plans; None if it has no end.
        base: The base value where the values are absolute; None where they are factors.
    """

    steps: int | None
    base: float | None = None

    @overload
    def __call__(self, step: float) -> float: ...
    @overload
    def __call__(self, step: Any) -> Any: ...
    def __call__(self, step: Any) -> Any:
        if isinstance(step, int | float):
            return self.value(step, Floats)
        library = type(step).__module__.partition(".")[0]
        if library == "torch":
            torch = sys.modules["torch"]
            # Small integers would overflow in the middle of a formula.
            return self.value(step if step.is_floating_point() else step.to(torch.get_default_dtype()), torch)
        if library in ("jax", "jaxlib"):
            return self.value(step, sys.modules["jax.numpy"])
        import numpy

        array = numpy.asarray(step)
        if array.dtype.kind not in "iuf":
            raise InputError(f"schedule({type(step).__name__}): a step is a number, or an array of numbers.")
        values = self.value(array.astype(numpy.float64), numpy)
        return values if array.ndim else float(values)

    @abstractmethod
    def value(self, step: Any, m: Any) -> Any:
        """The formula, with the functions of `m` (see `easing`); `schedule(step)` is the way to ask."""

    @abstractmethod
    def words(self, level: float, duration: str | None = None) -> str:
        """Its text, where the value before it is `level`; `duration` stands for one that is not in steps."""

    @property
    @abstractmethod
    def end_value(self) -> float:
        """What holds past the end."""

    def __str__(self) -> str:
        return self.words(1.0)

    def plot(self, ax: Axes | None = None, base: float | None = None) -> Axes:
        """Draw the curve; endless schedules are drawn over 1,000 steps more than their finite part.

        Args:
            ax: Axes to draw on; a new figure's where None.
            base: Draw rates instead of factors: the base value to multiply with.
        """
        import numpy

        from lrkit.figures.charts import schedule_curve

        total = self.steps or sum(stage.steps or 1000 for stage in getattr(self, "stages", (self,)))
        # Both sides of a jump are drawn: every step of a short run, a fine grid of a long one.
        steps = numpy.unique(numpy.linspace(0, total - 1, min(total, 4000)).round())
        label = "factor of the base rate" if base is None else "learning rate"
        return schedule_curve(steps, self(steps) * (1.0 if base is None else base), ax, ylabel=label)

    def _repr_html_(self) -> str:
        from lrkit.figures.style import figure_of, to_svg

        return to_svg(figure_of(self.plot()), str(self))


def check_steps(call: str, steps: object, instead: str) -> int:
    """The number of steps as an int; refused if it is not a whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise InputError(f"{call}(steps={steps!r}): steps must be a whole number of optimizer updates. {instead}")
    if not 1 <= int(steps) <= LARGEST:
        raise InputError(f"{call}(steps={steps}): steps must be at least 1, got {steps}. {instead}")
    return int(steps)


def check_value(call: str, name: str, value: object) -> float:
    """The value as a float; refused if it is not a finite number of at least 0: a negative rate climbs the loss."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        came = f"{call}({name}={value!r})"
        raise InputError(f"{came}: {name} must be a finite number of at least 0. Factors are usually in [0, 1].")
    return float(value)


@dataclass(frozen=True)
class Segment(Schedule):
    """Go from `start` to `end` in `steps` updates, along `easing`.

    value(t) = easing between start and end at u = clip((t + arrive) / steps, 0, 1)

    Args:
        start: Value that the segment comes from. A factor of the base value, so usually in [0, 1].
        end: Value that it goes to; it holds from step `steps` on.
        steps: Optimizer updates. At least 1.
        easing: The shape between the two.
        arrive: False (a decay): update 0 has `start`, and `end` is what follows the last update. True (a warm-up): the last
            update has `end`, and update 0 is already one step on the way.

    Raises:
        InputError: If `steps` is below 1, a value is negative or not finite, or an exponential has an end at 0.

    Examples:
        >>> warmup = Segment(0.0, 1.0, steps=4, arrive=True)
        >>> [warmup(t) for t in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    start: float
    end: float
    steps: int
    easing: Easing = linear
    arrive: bool = False

    def __post_init__(self) -> None:
        steps = check_steps("Segment", self.steps, "For one value use Hold.")
        ends = [check_value("Segment", name, getattr(self, name)) for name in ("start", "end")]
        for name, value in zip(("steps", "start", "end"), (steps, *ends), strict=True):
            object.__setattr__(self, name, value)
        if not hasattr(self.easing, "between"):
            raise InputError(f"Segment(easing={self.easing!r}): must be an easing, e.g. lrkit.schedules.Power(2).")
        if isinstance(self.easing, Exponential) and not (self.start > 0 and self.end > 0):
            came = f"start={number_text(self.start)}, end={number_text(self.end)}"
            raise InputError(f"Segment({came}): an exponential never reaches 0. Give it a small end such as 0.001.")

    def value(self, step: Any, m: Any) -> Any:
        """The easing at u = clip((step + arrive) / steps, 0, 1)."""
        return self.easing.between(self.start, self.end, m.clip((step + self.arrive) / self.steps, 0.0, 1.0), m)

    @property
    def end_value(self) -> float:
        """`end`."""
        return self.end

    def words(self, level: float, duration: str | None = None) -> str:
        """``warmup 500``, ``cosine 9500 to 0.1``: what is as usual is left out."""
        warmup = self.arrive and self.easing == linear and self.end > self.start
        start, end = (0.0 if level == 1.0 else level, 1.0) if warmup else (level, 0.0)
        parts = ["warmup" if warmup else str(self.easing), str(self.steps) if duration is None else duration]
        parts += ["from", number_text(self.start)] if self.start != start else []
        parts += ["to", number_text(self.end)] if self.end != end else []
        parts += ["arrive"] if self.arrive and not warmup else []
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Hold(Schedule):
    """Stay at `value_held` for `steps` updates, or for ever.

    Args:
        value_held: The value, at least 0.
        steps: Optimizer updates, at least 1; None has no end.

    Raises:
        InputError: If the value is negative or not finite, or `steps` is below 1.

    Examples:
        >>> Hold(0.5)(9000)
        0.5
    """

    value_held: float = 1.0
    steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_held", check_value("Hold", "value_held", self.value_held))
        if self.steps is not None:
            object.__setattr__(self, "steps", check_steps("Hold", self.steps, "Leave steps out to hold for ever."))

    def value(self, step: Any, m: Any) -> Any:
        """The value, in the shape of `step`."""
        return self.value_held if isinstance(step, int | float) else m.full_like(step, self.value_held)

    @property
    def end_value(self) -> float:
        """The value."""
        return float(self.value_held)

    def words(self, level: float, duration: str | None = None) -> str:
        """``hold 100``, or ``constant`` where it has no end; ``at`` where it differs from the value before."""
        at = "" if self.value_held == level else f" at {number_text(self.value_held)}"
        if duration is None:
            return ("constant" if self.steps is None else f"hold {self.steps}") + at
        return f"hold {duration}".rstrip() + at


@dataclass(frozen=True, init=False, repr=False)
class Join(Schedule):
    """One schedule after the other. A boundary belongs to the new one; past the end the last value holds.

    Joining is associative: ``Join(Join(a, b), c) == Join(a, Join(b, c)) == Join(a, b, c)``.

    Args:
        stages: Schedules; only the last may have no end.

    Raises:
        InputError: If there is no stage, or one before the last has no end.

    Examples:
        >>> both = Join(Segment(0, 1, 4, arrive=True), Segment(1, 0, 4))
        >>> [both(t) for t in range(9)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    stages: tuple[Schedule, ...]

    def __init__(self, *stages: Schedule) -> None:
        for stage in stages:
            if not isinstance(stage, Schedule):
                raise InputError(f"Join({stage!r}): every stage must be a Schedule. Parse a text, resolve a Template first.")
        flat = tuple(part for stage in stages for part in (stage.stages if isinstance(stage, Join) else (stage,)))
        if not flat:
            raise InputError("Join(): there must be at least one stage. For one value use Hold.")
        for stage in flat[:-1]:
            if stage.steps is None:
                raise InputError(f"Join: {stage} has no end, so what follows it is never reached. Give it steps.")
        lengths = [stage.steps for stage in flat]
        bounds = tuple(accumulate(steps for steps in lengths if steps is not None))
        object.__setattr__(self, "stages", flat)
        object.__setattr__(self, "steps", None if lengths[-1] is None else bounds[-1])
        object.__setattr__(self, "_starts", (0, *bounds)[: len(flat)])

    def value(self, step: Any, m: Any) -> Any:
        """The value of the stage that owns the step, asked in its own time."""
        starts: tuple[int, ...] = self._starts  # type: ignore[attr-defined]
        if isinstance(step, int | float):
            i = max(0, bisect_right(starts, step) - 1)
            return self.stages[i].value(step - starts[i], m)
        out = self.stages[0].value(step, m)
        for start, stage in zip(starts[1:], self.stages[1:], strict=True):
            out = m.where(step >= start, stage.value(step - start, m), out)
        return out

    @property
    def end_value(self) -> float:
        """The last stage's."""
        return self.stages[-1].end_value

    def words(self, level: float, duration: str | None = None) -> str:  # noqa: ARG002  (a join has no duration of its own)
        """The stages' texts, with ``>`` between them."""
        texts = []
        for stage in self.stages:
            texts.append(stage.words(level))
            level = stage.end_value
        return " > ".join(texts)

    def __repr__(self) -> str:
        return f"Join({', '.join(map(repr, self.stages))})"
