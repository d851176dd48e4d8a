"""Segment, Hold, Join and Part: one way, one value, one after the other, and a piece of a whole."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from lrkit.errors import InputError
from lrkit.schedules.base import Schedule, check_schedule, check_steps, check_value, onward
from lrkit.schedules.easing import Easing, Exponential, Floats, easing, linear, number_text


@dataclass(frozen=True)
class Segment(Schedule):
    """Go from `start` to `end` in `steps` updates, along `easing`.

    value(t) = easing between start and end at u = clip((t + arrive) / steps, 0, 1)

    Args:
        start: Value that the segment comes from. A factor of the base value, so usually in [0, 1].
        end: Value that it goes to; it holds from step `steps` on.
        steps: Optimizer updates. At least 1.
        easing: The shape between the two: ``"cosine"``, ``"1-sqrt"``, …, or an easing such as ``Power(3)``.
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
    easing: Easing | str = linear  # a name becomes its easing
    arrive: bool = False
    _inside: tuple[Any, ...] = field(init=False, repr=False, compare=False)  # what `value` needs, at hand in one look

    def __post_init__(self) -> None:
        steps = check_steps("Segment", self.steps, "For one value use Hold.")
        ends = [check_value("Segment", name, getattr(self, name)) for name in ("start", "end")]
        for name, value in zip(("steps", "start", "end"), (steps, *ends), strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "arrive", bool(self.arrive))
        shape = easing("Segment", self.easing)
        object.__setattr__(self, "easing", shape)
        object.__setattr__(self, "_inside", (int(self.arrive), steps, shape.between, *ends, min(ends), max(ends)))
        if isinstance(self.easing, Exponential) and not (self.start > 0 and self.end > 0):
            came = f"start={number_text(self.start)}, end={number_text(self.end)}"
            raise InputError(f"Segment({came}): an exponential never reaches 0. Give it a small end such as 0.001.")

    def value(self, step: Any, m: Any) -> Any:
        """The easing at u = clip((step + arrive) / steps, 0, 1), kept from rounding past the ends."""
        arrive, steps, between, start, end, low, high = self._inside
        u = (step + arrive) / steps
        if m is not Floats:
            return m.clip(between(start, end, m.clip(u, 0.0, 1.0), m), low, high)
        value = between(start, end, u if 0.0 < u < 1.0 else 0.0 if u < 0.5 else 1.0, m)
        return value if low <= value <= high else low if value < low else high

    @property
    def bounds(self) -> tuple[float, float]:
        """The two ends."""
        return self._inside[-2:]

    @property
    def start_value(self) -> float:
        """`start`."""
        return self.start

    @property
    def end_value(self) -> float:
        """`end`."""
        return self.end

    def words(self, level: float) -> str:
        """``warmup 500``, ``cosine 9500 to 0.1``: what is as usual is left out."""
        warmup = self.arrive and self.end > self.start
        start, end = (0.0 if level == 1.0 else level, 1.0) if warmup else (level, 0.0)
        shape = str(self.easing)
        parts = [("warmup" if self.easing == linear else f"warmup({shape})") if warmup else shape, str(self.steps)]
        parts += ["from", number_text(self.start)] if self.start != start else []
        parts += ["to", number_text(self.end)] if self.end != end else []
        parts += ["arrive"] if self.arrive and not warmup else []
        return " ".join(parts)


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
        return self.value_held if m is Floats else m.full(step.shape, self.value_held)

    @property
    def bounds(self) -> tuple[float, float]:
        """The value, twice."""
        return self.value_held, self.value_held

    @property
    def end_value(self) -> float:
        """The value."""
        return self.value_held

    def cut(self, start: int, stop: int | None) -> Schedule:
        """A shorter, or longer, hold of the same value."""
        if stop is None:
            return self if self.steps is None else Hold(self.value_held, max(1, self.steps - start))
        return Hold(self.value_held, stop - start)

    def words(self, level: float) -> str:
        """``hold 100``, or ``constant`` where it has no end; ``at`` where it differs from the value before."""
        at = "" if self.value_held == level else f" at {number_text(self.value_held)}"
        return ("constant" if self.steps is None else f"hold {self.steps}") + at


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

    def __new__(cls, *stages: Schedule) -> Schedule:  # type: ignore[misc]
        """A join of one is that one: it has the same text."""
        return check_schedule("Join", stages[0]) if len(stages) == 1 else super().__new__(cls)

    def __init__(self, *stages: Schedule) -> None:
        checked = [check_schedule("Join", stage) for stage in stages]
        flat = tuple(part for stage in checked for part in (stage.stages if isinstance(stage, Join) else (stage,)))
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

    def __call__(self, step: Any) -> Any:
        """See `Schedule`. One whole step inside, which a training asks for at every update, takes the shortest way."""
        if type(step) is int and step > 0:
            starts: tuple[int, ...] = self._starts  # type: ignore[attr-defined]
            i = bisect_right(starts, step) - 1
            try:
                return self.stages[i].value(step - starts[i], Floats)
            except OverflowError:  # an integer beyond all floats
                pass
        return super().__call__(step)

    def value(self, step: Any, m: Any) -> Any:
        """The value of the stage that owns the step, asked in its own time."""
        starts: tuple[int, ...] = self._starts  # type: ignore[attr-defined]
        if m is Floats:
            i = bisect_right(starts, step) - 1 if step > 0 else 0
            return self.stages[i].value(step - starts[i], m)
        if m.__name__ == "numpy":
            return self._curve(step, m)
        out = self.stages[0].value(step, m)
        for start, stage in zip(starts[1:], self.stages[1:], strict=True):
            at = start if start < 2**31 else float(start)  # JAX counts in 32 bits
            out = m.where(step >= at, stage.value(step - at, m), out)
        return out

    def _curve(self, step: Any, numpy: Any) -> Any:
        """The same in one pass: each stage is asked for its own steps only."""
        if not step.size:
            return numpy.empty(step.shape)
        flat, starts = step.reshape(-1), numpy.array(self._starts, dtype=numpy.float64)  # type: ignore[attr-defined]
        in_order = bool((flat[1:] >= flat[:-1]).all())
        order = None if in_order else numpy.argsort(flat, kind="stable")
        ordered = flat if order is None else flat[order]
        out = numpy.empty_like(ordered)
        first, last = (max(0, int(numpy.searchsorted(starts, t, side="right")) - 1) for t in (ordered[0], ordered[-1]))
        cuts = [0, *numpy.searchsorted(ordered, starts[first + 1 : last + 1], side="left").tolist(), len(ordered)]
        for i, a, b in zip(range(first, last + 1), cuts[:-1], cuts[1:], strict=True):
            if b > a:
                out[a:b] = self.stages[i].value(ordered[a:b] - starts[i], numpy)
        if order is not None:
            out, shuffled = numpy.empty_like(out), out
            out[order] = shuffled
        return out.reshape(step.shape)

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest of all stages."""
        pairs = [stage.bounds for stage in self.stages]
        return min(low for low, _ in pairs), max(high for _, high in pairs)

    @property
    def start_value(self) -> float:
        """The first stage's."""
        return self.stages[0].start_value

    @property
    def end_value(self) -> float:
        """The last stage's."""
        return self.stages[-1].end_value

    def cut(self, start: int, stop: int | None) -> Schedule:
        """The stages inside, the first and the last of them cut."""
        starts: tuple[int, ...] = self._starts  # type: ignore[attr-defined]
        first = bisect_right(starts, start) - 1
        last = len(starts) - 1 if stop is None else bisect_right(starts, stop - 1) - 1
        pieces = list(self.stages[first : last + 1])
        ends = [None if s.steps is None else starts[first + i] + s.steps for i, s in enumerate(pieces)]
        if stop is not None and stop != ends[-1]:
            pieces[-1] = pieces[-1].cut(0, stop - starts[last])
        if start != starts[first]:
            length = pieces[0].steps
            pieces[0] = pieces[0].cut(start - starts[first], length)
        return Join(*pieces)

    def words(self, level: float) -> str:
        """The stages' texts, with ``>`` between them."""
        texts = []
        for stage in self.stages:
            text = stage.words(level)
            texts.append(f"({text})" if hasattr(stage, "factors") else text)
            level = stage.end_value
        return " > ".join(texts)

    def __repr__(self) -> str:
        return f"Join({', '.join(map(repr, self.stages))})"


@dataclass(frozen=True)
class Part(Schedule):
    """A piece of a schedule, as it is or in another time: ``schedule[start:stop]``.

    value(t) = whole(start + min(t, steps)·(stop − start)/steps)

    Args:
        whole: Schedule of which it is a piece.
        start: Its first step, at least 0.
        stop: The step after its last; None goes to the end of the whole.
        steps: Optimizer updates that the piece takes; None as many as in the whole.

    Raises:
        InputError: If there is no step between `start` and `stop`, or an endless piece is to take a number of steps.

    Examples:
        >>> Part(Segment(1, 0, 10), 0, 5)(4), Part(Segment(1, 0, 10), 0, 5)(9)
        (0.6, 0.5)
    """

    whole: Schedule
    start: int = 0
    stop: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        check_schedule("Part", self.whole)
        start = check_steps("Part", self.start, "Count from 0.") if self.start else 0
        stop = self.whole.steps if self.stop is None else check_steps("Part", self.stop, "A piece has at least one step.")
        if stop is not None and stop <= start:
            raise InputError(f"Part(start={start}, stop={stop}): a piece has at least one step. Choose stop above start.")
        steps = self.steps
        if steps is not None:
            steps = check_steps("Part", steps, "A piece has at least one step.")
            if stop is None:
                raise InputError(f"Part(steps={steps}): {self.whole} has no end to be stretched to. Give it a stop.")
        length = None if stop is None else stop - start
        for name, value in (("start", start), ("stop", stop), ("steps", length if steps is None else steps)):
            object.__setattr__(self, name, value)

    def value(self, step: Any, m: Any) -> Any:
        """The whole's value, asked in its own time."""
        if self.stop is None or self.steps is None:
            return self.whole.value(onward(step, None, m) + self.start, m)
        t = m.clip(step, 0, self.steps)
        if self.steps != self.stop - self.start:
            t = t * float(self.stop - self.start) / self.steps  # in this order it is whole at the end
        return self.whole.value(t + self.start, m)

    @property
    def bounds(self) -> tuple[float, float]:
        """The whole's."""
        return self.whole.bounds

    @property
    def end_value(self) -> float:
        """The whole's value at `stop`."""
        return self.whole.end_value if self.stop is None else self.whole(self.stop)

    def cut(self, start: int, stop: int | None) -> Schedule:
        """A piece of a piece: of the whole, unless it has a time of its own."""
        stretched = self.stop is not None and self.steps != self.stop - self.start
        if stretched or (self.steps is not None and (start >= self.steps or (stop is not None and stop > self.steps))):
            return super().cut(start, stop)
        return Part(self.whole, self.start + start, self.stop if stop is None else self.start + stop)

    def words(self, level: float) -> str:  # noqa: ARG002  (a piece starts at its own level)
        """``(cosine 9500)[:4000]``, ``(cosine 9500)[4000: over 9000]``."""
        start = "" if self.start == 0 else str(self.start)
        stop = "" if self.stop == self.whole.steps else str(self.stop)
        same = self.stop is None or self.steps == self.stop - self.start
        return f"({self.whole})[{start}:{stop}{'' if same else f' over {self.steps}'}]"
