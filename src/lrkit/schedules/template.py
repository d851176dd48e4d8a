"""Template: a schedule whose durations are still relative (``5%``, ``2ep``, or the rest of the run).

`resolve` is the one border at which percentages and epochs become steps; inside the house there are only steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from lrkit.errors import InputError, whole
from lrkit.schedules.base import Join, Schedule
from lrkit.schedules.easing import number_text

UNITS = ("", "%", "ep")  # steps, per cent of the run, epochs


@dataclass(frozen=True)
class Duration:
    """An amount of training: `amount` in `unit`, one of ``""`` (steps), ``"%"`` (of the run) and ``"ep"`` (epochs)."""

    amount: float
    unit: str = ""

    def __str__(self) -> str:
        return number_text(self.amount) + self.unit

    def exact(self, total: int | None, steps_per_epoch: int | None) -> float:
        """In optimizer updates, not rounded.

        Raises:
            InputError: If what the unit needs was not given.
        """
        needs = {"%": ("total", total), "ep": ("steps_per_epoch", steps_per_epoch)}
        if self.unit not in needs:
            return self.amount
        name, given = needs[self.unit]
        if given is None:
            raise InputError(f"resolve: {self} cannot be turned into steps. Pass {name}=…")
        return self.amount * given / (100 if self.unit == "%" else 1)


@dataclass(frozen=True)
class Stage:
    """One stage that waits for its steps.

    Args:
        build: steps → Schedule.
        duration: How long; None takes what the others leave of the run. An endless stage is its own.
        endless: Whether the stage has no end.
    """

    build: Callable[[int], Schedule]
    duration: Duration | None
    endless: bool = False


@dataclass(frozen=True, eq=False)
class Template:
    """A schedule whose durations are still relative. `resolve` makes it a Schedule; `str` prints it back.

    Examples:
        >>> from lrkit.schedules.text import parse
        >>> template = parse("warmup 5% > cosine")
        >>> str(template.resolve(total=2000))
        'warmup 100 > cosine 1900'
    """

    stages: tuple[Stage, ...]

    def resolve(self, total: int | None = None, steps_per_epoch: int | None = None) -> Schedule:
        """Turn every duration into steps.

        Args:
            total: Optimizer updates of the whole run; what ``%`` and a stage without a duration need.
            steps_per_epoch: Optimizer updates of one epoch; what ``ep`` needs.

        Raises:
            InputError: If one of them is needed and missing, or the stages do not fit into `total`.
        """
        what = "a whole number of updates"
        total = None if total is None else whole("resolve", "total", total, what=what)
        steps_per_epoch = None if steps_per_epoch is None else whole("resolve", "steps_per_epoch", steps_per_epoch, what=what)
        known = self._known(total, steps_per_epoch)
        rest = [i for i, s in enumerate(self.stages) if s.duration is None and not s.endless]
        if rest and total is None:
            raise InputError(f"resolve: the last word on the length of {str(self)!r} is missing. Pass total=…")
        left = 0 if total is None else total - sum(known)
        if total is not None and (left < 0 or (rest and left < 1)):
            raise InputError(
                f"resolve(total={total}): {str(self)!r} needs {sum(known)} steps{' and one more' * bool(rest)}. "
                "Shorten its stages, or train longer."
            )
        for i in rest:
            known[i] = left
        built = [stage.build(steps) for stage, steps in zip(self.stages, known, strict=True)]
        return built[0] if len(built) == 1 else Join(*built)

    def _known(self, total: int | None, steps_per_epoch: int | None) -> list[int]:
        """Each stage's steps, 0 for the rest of the run. Percentages are rounded at their ends, so that they fit together."""
        out, exact, done = [], 0.0, 0
        for stage in self.stages:
            length = 0.0 if stage.duration is None else stage.duration.exact(total, steps_per_epoch)
            exact += length
            steps = 0 if length == 0 else max(1, int(exact + 0.5) - done)
            out.append(steps)
            done += steps
            if stage.duration is None or stage.duration.unit != "%":
                exact = float(done)
        # Short stages are rounded up to one step; what that makes too much is taken from the longest percentage.
        shares = {
            i: stage.duration.amount for i, stage in enumerate(self.stages) if stage.duration and stage.duration.unit == "%"
        }
        if total is not None and len(shares) == len(self.stages) and sum(shares.values()) <= 100 + 1e-9:
            longest = max(shares, key=lambda i: out[i])
            out[longest] -= min(max(0, sum(out) - total), out[longest] - 1)
        return out

    def __call__(self, step: object) -> NoReturn:
        raise InputError(f"Template({str(self)!r})({step!r}): it has no steps yet. Call .resolve(total=…) first.")

    def __str__(self) -> str:
        texts, level = [], 1.0
        for stage in self.stages:
            sample = stage.build(1)
            texts.append(sample.words(level, None if stage.endless else str(stage.duration or "")))
            level = sample.end_value
        return " > ".join(texts)

    def __repr__(self) -> str:
        return f"Template({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def resolved(spec: Schedule | Template, total: int | None = None, steps_per_epoch: int | None = None) -> Schedule:
    """The schedule itself, or the template resolved."""
    return spec.resolve(total, steps_per_epoch) if isinstance(spec, Template) else spec
