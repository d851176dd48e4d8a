"""The syntax of a schedule's text as values: stages with durations, and the chains, products, loops and pieces that hold them.

A clock turns durations into steps; each piece of syntax says how long it is by a clock, and builds its schedule. Knows no text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Each, Repeat, Times
from lrkit.schedules.easing import number_text
from lrkit.schedules.parts import Join, Part

UNITS = {"": None, "%": "total", "ep": "steps_per_epoch", "tok": "tokens_per_step", "samples": "samples_per_step"}
ENDLESS = math.inf


@dataclass(frozen=True)
class Clock:
    """What turns units into steps: updates of the run and of an epoch, tokens and samples of an update; None if not known.

    `total` may be a duration itself: ``"90ep"``, ``"1e12tok"``.
    """

    total: Any = None  # an int, once it is made
    steps_per_epoch: int | None = None
    tokens_per_step: float | None = None
    samples_per_step: float | None = None

    def __post_init__(self) -> None:
        for name in ("total", "steps_per_epoch"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, str):
                given = int(given) if isinstance(given, float) and given == given // 1 else given  # 1e12 / 4e6
                object.__setattr__(self, name, whole("resolve", name, given, what="a whole number of updates"))
        for name in ("tokens_per_step", "samples_per_step"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, real("resolve", name, getattr(self, name), above=0.0))
        if isinstance(self.total, str):
            object.__setattr__(self, "total", _duration_of(self.total).steps(Clock(None, *self._units())))

    def _units(self) -> tuple[int | None, float | None, float | None]:
        return self.steps_per_epoch, self.tokens_per_step, self.samples_per_step


@dataclass(frozen=True)
class Duration:
    """An amount of training: `amount` in `unit`: ``""`` steps, ``"%"`` of the run, ``"ep"`` epochs, ``"tok"``, ``"samples"``."""

    amount: float
    unit: str = ""

    def __str__(self) -> str:
        return number_text(self.amount) + self.unit

    def exact(self, clock: Clock) -> float:
        """In optimizer updates, not rounded.

        Raises:
            InputError: If what the unit needs was not given.
        """
        name = UNITS[self.unit]
        if name is None:
            return self.amount
        given = getattr(clock, name)
        if given is None:
            raise InputError(f"resolve: {self} cannot be turned into steps. Pass {name}=…")
        if self.unit == "%":
            return float(self.amount * given / 100)
        return float(self.amount * given if self.unit == "ep" else self.amount / given)

    def steps(self, clock: Clock) -> int:
        """In optimizer updates, rounded to a whole number of at least 1."""
        return max(1, int(self.exact(clock) + 0.5))


def _duration_of(text: str) -> Duration:
    """``"90ep"`` as a duration."""
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE]\+?\d+)?)\s*(ep|tok|samples)?\s*", text)
    if match is None or not 0 < float(match[1]) < math.inf:
        raise InputError(f"resolve(total={text!r}): total must be a number of updates, or a duration: '90ep', '1e12tok'.")
    return Duration(float(match[1]), match[2] or "")


class Node(Protocol):
    """A piece of syntax."""

    def length(self, clock: Clock) -> float | None:
        """Updates: None takes the rest of the run, infinity has no end."""
        ...

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:
        """The schedule of that many updates, where the value before it is `level`."""
        ...

    def durations(self) -> Iterator[Duration | None]:
        """Every duration in it; None for the rest of the run."""
        ...


@dataclass(frozen=True)
class Stage:
    """One stage that waits for its steps.

    Args:
        text: As it is printed.
        make: (clock, steps, level) → Schedule.
        duration: How long; None takes what the others leave of the run. An endless stage is its own.
        endless: Whether the stage has no end.
        others: Durations inside it that are not its length.
    """

    text: str
    make: Callable[[Clock, int, float], Schedule]
    duration: Duration | None
    endless: bool = False
    others: tuple[Duration, ...] = ()

    def length(self, clock: Clock) -> float | None:
        """Its duration."""
        return ENDLESS if self.endless else None if self.duration is None else self.duration.exact(clock)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:
        """What `make` makes."""
        try:
            return self.make(clock, steps or 1, level)
        except InputError as error:
            raise InputError(f"{error} It stands in {self.text!r}.") from None

    def durations(self) -> Iterator[Duration | None]:
        """Its own, and the others."""
        yield from self.others
        if not self.endless:
            yield self.duration

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Chain:
    """Stages one after the other."""

    parts: tuple[Node, ...]

    def length(self, clock: Clock) -> float | None:
        """The sum of the parts'."""
        lengths = [part.length(clock) for part in self.parts]
        return ENDLESS if lengths[-1] == ENDLESS else None if None in lengths else float(sum(self._known(clock, lengths)))

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:
        """The parts' schedules joined; one of them may take what the others leave."""
        lengths = [part.length(clock) for part in self.parts]
        known = self._known(clock, lengths)
        rest = [i for i, length in enumerate(lengths) if length is None]
        if rest and steps is None:
            raise InputError(f"resolve: the last word on the length of {str(self)!r} is missing. Pass total=…")
        left = 0 if steps is None else steps - sum(known)
        if steps is not None and (left < 0 or (rest and left < 1)):
            raise InputError(
                f"resolve(total={steps}): {str(self)!r} needs {sum(known)} steps{' and one more' * bool(rest)}. "
                "Shorten its stages, or train longer."
            )
        for i in rest:
            known[i] = left
        built = []
        for part, length in zip(self.parts, known, strict=True):
            built.append(part.build(clock, length or None, level))
            level = built[-1].end_value
        return built[0] if len(built) == 1 else Join(*built)

    def _known(self, clock: Clock, lengths: Sequence[float | None]) -> list[int]:
        """Each part's steps, 0 for the rest of the run. Percentages are rounded at their ends, so that they fit together."""
        out, exact, done, shares = [], 0.0, 0, {}
        for i, (part, length) in enumerate(zip(self.parts, lengths, strict=True)):
            length = 0.0 if length is None or length == ENDLESS else length
            exact += length
            steps = 0 if length == 0 else max(1, int(exact + 0.5) - done)
            out.append(steps)
            done += steps
            if isinstance(part, Stage) and part.duration is not None and part.duration.unit == "%":
                shares[i] = part.duration.amount
            else:
                exact = float(done)
        # Short stages are rounded up to one step; what that makes too much is taken from the longest percentage.
        if clock.total is not None and len(shares) == len(self.parts) and sum(shares.values()) <= 100 + 1e-9:
            longest = max(shares, key=lambda i: out[i])
            out[longest] -= min(max(0, sum(out) - clock.total), out[longest] - 1)
        return out

    def durations(self) -> Iterator[Duration | None]:
        """The parts'."""
        for part in self.parts:
            yield from part.durations()

    def __str__(self) -> str:
        return " > ".join(f"({part})" if isinstance(part, Chain | Product) else str(part) for part in self.parts)


def is_constant(node: Node) -> bool:
    """Whether it is a value without an end, which as a factor has no length of its own."""
    return isinstance(node, Stage) and node.endless and not node.others


@dataclass(frozen=True)
class Product:
    """Stages at the same time, multiplied."""

    factors: tuple[Node, ...]

    def length(self, clock: Clock) -> float | None:
        """The longest factor's; the rest of the run if one takes it. A constant has no length of its own."""
        lengths = [factor.length(clock) for factor in self.factors if not is_constant(factor)]
        return None if None in lengths else max((length for length in lengths if length is not None), default=ENDLESS)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (each starts at 1)
        """The factors' schedules; those that take the rest of the run take all of it."""
        lengths = [factor.length(clock) for factor in self.factors]
        if None in lengths and steps is None:
            raise InputError(f"resolve: the last word on the length of {str(self)!r} is missing. Pass total=…")
        own = [steps if n is None else None if n == ENDLESS else max(1, int(n + 0.5)) for n in lengths]
        return Times(*(factor.build(clock, n, 1.0) for factor, n in zip(self.factors, own, strict=True)))

    def durations(self) -> Iterator[Duration | None]:
        """The factors'."""
        for factor in self.factors:
            yield from factor.durations()

    def __str__(self) -> str:
        return " * ".join(f"({factor})" if isinstance(factor, Chain | Product) else str(factor) for factor in self.factors)


@dataclass(frozen=True)
class Loop:
    """A cycle, repeated."""

    cycle: Node
    times: int | None
    stretch: float
    scale: float
    text: str

    def length(self, clock: Clock) -> float | None:
        """The sum of the cycles'."""
        length = self.cycle.length(clock)
        return ENDLESS if self.times is None else None if length is None else length * self._cycles()

    def _cycles(self) -> float:
        """The length of all cycles in lengths of the first."""
        times, s = self.times or 1, self.stretch
        return float(times) if s == 1 else (s ** min(times, 10_000.0 / abs(math.log(s))) - 1) / (s - 1)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (a cycle starts at 1)
        """The repeated schedule; a cycle that takes the rest of the run takes its share of it."""
        length = self.cycle.length(clock)
        if length is not None:
            own = None if length == ENDLESS else max(1, int(length + 0.5))
        elif self.times is None or steps is None:
            raise InputError(f"resolve: {str(self)!r} does not say how long a cycle is. Give it a duration, or times and total=…")
        else:
            own = max(1, math.ceil(steps / self._cycles()))
        loop = Repeat(self.cycle.build(clock, own, 1.0), self.times, self.stretch, self.scale)
        # A share is rounded up, and the end cut off: no update is left over, for which a rate of 0 would hold.
        return loop if length is not None or steps in (None, loop.steps) or (loop.steps or 0) < (steps or 0) else loop[:steps]

    def durations(self) -> Iterator[Duration | None]:
        """The cycle's."""
        return self.cycle.durations()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Slower:
    """What is in brackets, each of its values for a while."""

    body: Node
    every: Duration

    def length(self, clock: Clock) -> float | None:
        """The body's, so many times."""
        length = self.body.length(self._slower(clock))
        return length if length in (None, ENDLESS) else max(1, int((length or 0) + 0.5)) * self.every.steps(clock)

    def _slower(self, clock: Clock) -> Clock:
        """The clock of the body, which counts in units of so many updates."""
        n = self.every.steps(clock)
        total = None if clock.total is None else max(1, clock.total // n)
        epoch = None if clock.steps_per_epoch is None or clock.steps_per_epoch % n else clock.steps_per_epoch // n
        tokens, samples = (None if one is None else one * n for one in (clock.tokens_per_step, clock.samples_per_step))
        return Clock(total, epoch, tokens, samples)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (it starts at 1)
        """The slower schedule; a body that takes the rest of the run takes it in the larger units."""
        slower, every = self._slower(clock), self.every.steps(clock)
        length = self.body.length(slower)
        own = None if length == ENDLESS else int(length + 0.5) if length is not None else steps and max(1, steps // every)
        return Each(self.body.build(slower, own, 1.0), every)

    def durations(self) -> Iterator[Duration | None]:
        """Its own, and the body's."""
        yield self.every
        yield from self.body.durations()

    def __str__(self) -> str:
        return f"each {self.every} ({self.body})"


@dataclass(frozen=True)
class Slice:
    """A piece of what is in brackets."""

    body: Node
    start: int
    stop: int | None
    over: int | None
    text: str

    def length(self, clock: Clock) -> float | None:
        """Its own; the whole, where that takes the rest of the run, is as long as the run."""
        if self.over is not None:
            return float(self.over)
        whole_length = self.body.length(clock)
        stop = self.stop if self.stop is not None else clock.total if whole_length is None else whole_length
        return None if stop is None else max(1.0, stop - self.start)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (it has its own level)
        """The piece."""
        length = self.body.length(clock)
        own = clock.total if length is None else None if length == ENDLESS else max(1, int(length + 0.5))
        return Part(self.body.build(clock, own, 1.0), self.start, self.stop, self.over)

    def durations(self) -> Iterator[Duration | None]:
        """The whole's."""
        return self.body.durations()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Wrapped:
    """What is in brackets, between other limits or as absolute values."""

    body: Node
    wrap: Callable[[Schedule], Schedule]
    text: str

    def length(self, clock: Clock) -> float | None:
        """The body's."""
        return self.body.length(clock)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (it has its own level)
        """The body's schedule, wrapped."""
        return self.wrap(self.body.build(clock, steps, 1.0))

    def durations(self) -> Iterator[Duration | None]:
        """The body's."""
        return self.body.durations()

    def __str__(self) -> str:
        return self.text
