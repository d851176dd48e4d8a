"""Schedule: step ↦ factor of a base value, as an immutable value: what every schedule can be asked.

Pure maths: knows no optimizer, no epoch, no file. A step is one optimizer update, counted from 0; the value at step t is in
force for update t.

Conventions, each with one default:
  * a warm-up arrives (its last update has the end value), a decay departs (its first update has the start value); `arrive`;
  * a boundary belongs to the new segment;
  * before the first step the start holds, past the end the last value holds; `steps` is None where there is no end.
"""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, overload

from lrkit.errors import LARGEST, InputError
from lrkit.schedules.easing import Floats, is_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_BLOCK = 16384  # elements of an array that are evaluated at once: what a formula makes on its way stays in the cache


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
        kind = type(step)
        if kind is int or (kind is float and step == step):
            try:
                return self.value(step, Floats)
            except OverflowError:  # an integer beyond all floats
                return self.value(LARGEST if step > 0 else -LARGEST, Floats)
        return self._array(step)

    def _array(self, step: Any) -> Any:
        """The values at an array of steps, in its library, shape and (where that is a float) type."""
        library = type(step).__module__.partition(".")[0]
        if library == "torch":
            torch = sys.modules["torch"]
            # Through NumPy in double precision: the same bits on every device, and no integer overflows inside a formula.
            try:
                plain = step.detach().to("cpu", torch.float64).resolve_neg().numpy()
            except (TypeError, RuntimeError):
                raise InputError("schedule(tensor): its steps cannot be read. Pass a dense tensor of real numbers.") from None
            values = torch.from_numpy(self(plain.reshape(-1))).reshape(step.shape)
            return values.to(step.device, step.dtype if step.is_floating_point() else torch.get_default_dtype())
        if library in ("jax", "jaxlib"):
            return self.value(step, sys.modules["jax.numpy"])
        import numpy

        try:
            array = numpy.asarray(step)
        except ValueError:
            array = numpy.empty(0, dtype=object)
        if array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and numpy.isnan(array).any()):
            raise InputError(f"schedule({type(step).__name__}): a step is a number, or an array of numbers, none of them NaN.")
        flat = array.reshape(-1)
        out = numpy.empty(flat.size)
        with numpy.errstate(over="ignore", under="ignore"):  # what grows is cut at its limit
            for i in range(0, flat.size, _BLOCK):
                out[i : i + _BLOCK] = self.value(flat[i : i + _BLOCK].astype(numpy.float64), numpy)
        return out.reshape(array.shape) if array.ndim else float(out[0])

    @abstractmethod
    def value(self, step: Any, m: Any) -> Any:
        """The formula, with the functions of `m` (see `easing`); `schedule(step)` is the way to ask."""

    @abstractmethod
    def words(self, level: float) -> str:
        """Its text, where the value before it is `level`."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The range that it declares: no value lies outside."""

    @property
    @abstractmethod
    def end_value(self) -> float:
        """What holds past the end; where there is none, what it tends to."""

    @property
    def start_value(self) -> float:
        """Where it comes from: the value that a smooth join has before it."""
        return self(0)

    def __str__(self) -> str:
        return self.words(1.0)

    @property
    def spec_hash(self) -> str:
        """Sixteen hexadecimal digits that stand for the text: equal schedules have equal ones, in every process."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Its JSON form, with a version; `lrkit.from_json` reads it back.

        Raises:
            InputError: If a part is the user's own function.
        """
        return str(_room().spec.to_json(self))

    def __getitem__(self, part: slice) -> Schedule:
        """``schedule[a:b]``: the updates from `a` up to `b`, as a schedule that begins at step 0; then its value at `b` holds.

        Raises:
            InputError: If it is not a slice with 0 ≤ a < b.
        """
        whole: Schedule = _room().change.part_of(self, part)
        return whole

    def cut(self, start: int, stop: int | None) -> Schedule:
        """`schedule[start:stop]`, where the bounds are known to be good."""
        part: Schedule = _room().parts.Part(self, start, stop)
        return part

    def branch(
        self,
        step: int,
        tail: Any,
        *,
        steps_per_epoch: int | None = None,
        tokens_per_step: float | None = None,
        samples_per_step: float | None = None,
    ) -> Schedule:
        """Leave this schedule at `step` and go on along `tail`. Every value before `step` stays the same to the bit.

        Args:
            step: The first update of the tail, at least 1.
            tail: A text, which starts at the value that this schedule has at `step` (``"linear 1000"``, a cool-down), or a
                Schedule; one that starts elsewhere is scaled so that the join is continuous.
            steps_per_epoch: Optimizer updates of one epoch, where the tail counts in ``ep``.
            tokens_per_step: Tokens of one update, where it counts in ``tok``.
            samples_per_step: Samples of one update, where it counts in ``samples``.

        Raises:
            InputError: If the step is below 1, or no factor makes the join continuous.
        """
        units = (steps_per_epoch, tokens_per_step, samples_per_step)
        branched: Schedule = _room().change.branch(self, step, tail, units)
        return branched

    def extend(self, step: int, total: int) -> Schedule:
        """Change the horizon in mid-run: end at `total` instead. Every value before `step` stays the same to the bit.

        What is held from `step` on is held for longer (or shorter), so that a cool-down keeps its length; where nothing is
        held, the rest is stretched in time. The join is continuous either way.

        Args:
            step: Updates done, at least 1 and before the end.
            total: Updates of the whole run, above `step`.

        Raises:
            InputError: If the schedule has no end or is over at `step`, or `total` leaves no room.
        """
        extended: Schedule = _room().change.extend(self, step, total)
        return extended

    def resolve(
        self,
        total: int | str | None = None,  # noqa: ARG002  (the arguments of Template.resolve)
        steps_per_epoch: int | None = None,  # noqa: ARG002
        tokens_per_step: float | None = None,  # noqa: ARG002
        samples_per_step: float | None = None,  # noqa: ARG002
    ) -> Schedule:
        """Itself: its durations are steps already. So what `parse` gives can be resolved, whatever it is."""
        return self

    def plot(self, ax: Axes | None = None, base: float | None = None) -> Axes:
        """Draw the curve; endless schedules are drawn over 1,000 steps more than their finite part.

        Args:
            ax: Axes to draw on; a new figure's where None.
            base: Draw rates instead of factors: the base value to multiply with.
        """
        from lrkit.figures.charts import schedule_curve

        steps = grid(length_shown(self), most=4000)  # both sides of a jump are drawn
        absolute = base is not None or self.base is not None
        label = "learning rate" if absolute else "factor of the base rate"
        return schedule_curve(steps, self(steps) * (1.0 if base is None else base), ax, ylabel=label)

    def _repr_html_(self) -> str:
        from lrkit.figures.style import figure_of, to_svg

        return to_svg(figure_of(self.plot()), str(self))


def length_shown(schedule: Schedule) -> int:
    """Over how many steps a schedule is drawn: its own, or 1,000 more than its finite part."""
    if schedule.steps is not None:
        return schedule.steps
    for name in ("stages", "factors"):
        if parts := getattr(schedule, name, ()):
            lengths = [length_shown(part) for part in parts]
            return sum(lengths) if name == "stages" else max(lengths)
    inner = getattr(schedule, "schedule", None) or getattr(schedule, "shape", None)
    return 1000 if inner is None else length_shown(inner) * int(getattr(schedule, "every", 1))


def grid(total: int, most: int) -> Any:
    """(n,) every step of a run, or so many of them, evenly spread."""
    import numpy

    return numpy.unique(numpy.linspace(0, total - 1, min(total, most)).round())


def onward(step: Any, last: int | None, m: Any) -> Any:
    """The step, not before 0 and not beyond `last`; where there is none, not beyond what counts exactly."""
    if last is None and m is not Floats and m.__name__ != "numpy":
        return m.maximum(step, 0)  # JAX counts in 32 bits
    return m.clip(step, 0, LARGEST if last is None else last)


def _room() -> Any:
    """The room's front door, opened when something is asked: a value knows what can be done with it, without a cycle."""
    import lrkit

    return lrkit.schedules


def check_steps(call: str, steps: object, instead: str) -> int:
    """The number of steps as an int; refused if it is not a whole number of at least 1."""
    if isinstance(steps, str):
        raise InputError(f"{call}(steps={steps!r}): relative durations are for the text form, e.g. parse('warmup 5% > cosine').")
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise InputError(f"{call}(steps={steps!r}): steps must be a whole number of optimizer updates. {instead}")
    if int(steps) > LARGEST:
        raise InputError(f"{call}(steps=…): steps must be at most 2^53, got a number of {len(str(steps))} digits. {instead}")
    if int(steps) < 1:
        raise InputError(f"{call}(steps={steps}): steps must be at least 1, got {steps}. {instead}")
    return int(steps)


def check_value(call: str, name: str, value: object) -> float:
    """The value as a float; refused if it is not a finite number of at least 0: a negative rate climbs the loss."""
    if isinstance(value, bool) or not isinstance(value, Real) or not is_finite(value) or value < 0:
        came = f"{call}({name}={value!r})"
        raise InputError(f"{came}: {name} must be a finite number of at least 0. Factors are usually in [0, 1].")
    return float(value) + 0.0  # −0 has a sign that no text has


def check_schedule(call: str, schedule: object) -> Schedule:
    """The schedule; refused if it is none, or one of absolute values."""
    if not isinstance(schedule, Schedule):
        raise InputError(f"{call}({schedule!r}): must be a Schedule. Parse a text, resolve a Template first.")
    if schedule.base is not None:
        raise InputError(f"{call}({schedule}): its values are absolute, and only factors can be composed. Compose its .schedule.")
    return schedule
