"""The syntax of a schedule's text as values: stages with durations, and the chains, products, loops and pieces that hold them.

Each piece of syntax says how long it is by a clock, and builds its schedule. Knows no text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from lrkit.errors import InputError
from lrkit.schedules.base import Schedule
from lrkit.schedules.clock import Clock, Duration, rounded
from lrkit.schedules.compose import Each, Repeat, Times
from lrkit.schedules.parts import Hold, Join, Part

ENDLESS = math.inf


class Node(Protocol):
    """A piece of syntax, and the character at which it stands."""

    @property
    def at(self) -> int:
        """Where it begins in the text."""
        ...

    def length(self, clock: Clock) -> float | None:
        """Updates: None takes the rest of the run, infinity has no end."""
        ...

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:
        """The schedule of that many updates, where the value before it is `level`."""
        ...

    def durations(self) -> Iterator[Duration | None]:
        """Every duration in it; None for the rest of the run."""
        ...


@contextmanager
def located(node: Node) -> Iterator[None]:
    """What is refused inside says where it stands: in which words, and for the parser at which character."""
    try:
        yield
    except InputError as error:
        if hasattr(error, "at"):
            raise
        told = InputError(f"{error} It stands in {str(node)!r}.")
        told.at = node.at  # type: ignore[attr-defined]
        raise told from None


@dataclass(frozen=True)
class Stage:
    """One stage that waits for its steps.

    Args:
        text: As it is printed.
        make: (clock, steps, level) → Schedule.
        duration: How long; None takes what the others leave of the run. An endless stage is its own.
        endless: Whether the stage has no end.
        others: Durations inside it that are not its length.
        at: The character at which it stands.
    """

    text: str
    make: Callable[[Clock, int, float], Schedule]
    duration: Duration | None
    endless: bool = False
    others: tuple[Duration, ...] = ()
    at: int = 0

    def length(self, clock: Clock) -> float | None:
        """Its duration."""
        return ENDLESS if self.endless else None if self.duration is None else self.duration.exact(clock)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:
        """What `make` makes."""
        with located(self):
            return self.make(clock, steps or 1, level)

    def durations(self) -> Iterator[Duration | None]:
        """Its own, and the others."""
        yield from self.others
        if not self.endless:
            yield self.duration

    def __str__(self) -> str:
        return self.text


def _share(node: Node) -> float | None:
    """The percentage of the run that a stage, or a loop over one, takes; None where it is no percentage."""
    if isinstance(node, Stage):
        return node.duration.amount if node.duration is not None and node.duration.unit == "%" else None
    if isinstance(node, Loop) and node.times is not None and node.stretch == 1:
        inner = _share(node.cycle)
        return None if inner is None else inner * node.times
    return None


@dataclass(frozen=True)
class Chain:
    """Stages one after the other."""

    parts: tuple[Node, ...]
    at: int = 0

    def length(self, clock: Clock) -> float | None:
        """The sum of the parts'."""
        lengths = [part.length(clock) for part in self.parts]
        return ENDLESS if lengths[-1] == ENDLESS else None if None in lengths else float(sum(self._known(clock, lengths)))

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:
        """The parts' schedules joined; one of them may take what the others leave."""
        lengths = [part.length(clock) for part in self.parts]
        known = self._known(clock, lengths)
        rest = [i for i, length in enumerate(lengths) if length is None]
        if len(rest) > 1:
            raise InputError(f"resolve: two stages of {str(self)!r} want the rest of the run. Give one of them a duration.")
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
        out: list[int] = []
        shares: dict[int, float] = {}
        exact: float = 0
        done = 0
        for i, (part, length) in enumerate(zip(self.parts, lengths, strict=True)):
            length = 0 if length is None or length == ENDLESS else length
            share = _share(part)
            exact = exact + length if share is not None else done + length
            steps = 0 if length == 0 else max(1, rounded(exact) - done)
            out.append(steps)
            done += steps
            if share is not None:
                shares[i] = share
            else:
                exact = done
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
    at: int = 0

    def length(self, clock: Clock) -> float | None:
        """The longest factor's; the rest of the run if one takes it. A constant has no length of its own."""
        lengths = [factor.length(clock) for factor in self.factors if not is_constant(factor)]
        if None in lengths:
            return None
        longest = max((length for length in lengths if length is not None), default=ENDLESS)
        return longest if longest == ENDLESS else max(1, rounded(longest))

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (each starts at 1)
        """The factors' schedules; those that take the rest of the run take all of it."""
        lengths = [factor.length(clock) for factor in self.factors]
        if None in lengths and steps is None:
            raise InputError(f"resolve: the last word on the length of {str(self)!r} is missing. Pass total=…")
        own = [steps if n is None else None if n == ENDLESS else max(1, rounded(n)) for n in lengths]
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
    at: int = 0

    def length(self, clock: Clock) -> float | None:
        """The sum of the cycles'."""
        length = self.cycle.length(clock)
        if self.times is None or length is None:
            return ENDLESS if self.times is None else None
        if length == ENDLESS or _share(self) is not None:
            return length * self.times
        return self._repeat(Hold(1.0, max(1, rounded(length)))).steps

    def _repeat(self, cycle: Schedule) -> Repeat:
        with located(self):
            return Repeat(cycle, self.times, self.stretch, self.scale)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (a cycle starts at 1)
        """The repeated schedule; a cycle that takes the rest of the run takes its share of it."""
        length = self.cycle.length(clock)
        if length is not None:
            own = None if length == ENDLESS else max(1, rounded(length))
        elif self.times is None or steps is None:
            raise InputError(f"resolve: {str(self)!r} does not say how long a cycle is. Give it a duration, or times and total=…")
        else:
            unit = self._repeat(Hold(1.0, 1000)).steps or 1000
            own = max(1, math.ceil(steps * 1000 / unit))
            if steps < self.times:
                raise InputError(f"resolve: {steps} updates are too few for the cycles of {str(self)!r}. Repeat less often.")
        loop = self._repeat(self.cycle.build(clock, own, 1.0))
        # Cycles have whole numbers of updates: what they are too long or too short together is made up in time.
        return loop if steps is None or steps == loop.steps else Part(loop, 0, loop.steps, steps)

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
    at: int = 0

    def length(self, clock: Clock) -> float | None:
        """The body's, so many times."""
        length = self.body.length(self._slower(clock))
        return length if length in (None, ENDLESS) else max(1, rounded(length or 0)) * self.every.steps(clock)

    def _slower(self, clock: Clock) -> Clock:
        """The clock of the body, which counts in units of so many updates."""
        n = self.every.steps(clock)
        total = None if clock.total is None else max(1, clock.total // n)
        epoch = None if clock.steps_per_epoch is None else clock.steps_per_epoch // n
        if epoch is not None and clock.steps_per_epoch != epoch * n and any(d and d.unit == "ep" for d in self.body.durations()):
            raise InputError(f"resolve: an epoch is no whole number of {n} updates, for {str(self)!r}. Leave out ep inside it.")
        epoch = epoch or None
        tokens, samples = (None if one is None else one * n for one in (clock.tokens_per_step, clock.samples_per_step))
        return Clock(total, epoch, tokens, samples)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (it starts at 1)
        """The slower schedule; a body that takes the rest of the run takes it in the larger units."""
        slower, every = self._slower(clock), self.every.steps(clock)
        length = self.body.length(slower)
        own = None if length == ENDLESS else rounded(length) if length is not None else steps and -(-steps // every)
        made = Each(self.body.build(slower, own, 1.0), every)
        return made if length is not None or steps is None or steps == made.steps else made[:steps]

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
    at: int = 0

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
        own = clock.total if length is None else None if length == ENDLESS else max(1, rounded(length))
        body = self.body.build(clock, own, 1.0)
        with located(self):
            return Part(body, self.start, self.stop, self.over)

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
    at: int = 0

    def length(self, clock: Clock) -> float | None:
        """The body's."""
        return self.body.length(clock)

    def build(self, clock: Clock, steps: int | None, level: float) -> Schedule:  # noqa: ARG002  (it has its own level)
        """The body's schedule, wrapped."""
        body = self.body.build(clock, steps, 1.0)
        with located(self):
            return self.wrap(body)

    def durations(self) -> Iterator[Duration | None]:
        """The body's."""
        return self.body.durations()

    def __str__(self) -> str:
        return self.text
