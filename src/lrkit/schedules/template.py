"""Template: a schedule whose durations are still relative (``5%``, ``2ep``, ``1e9tok``, or the rest of the run).

`resolve` is the one border at which percentages, epochs, tokens and samples become steps; inside the house there are only steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from lrkit.errors import InputError
from lrkit.schedules.base import Schedule
from lrkit.schedules.clock import UNITS, Clock
from lrkit.schedules.syntax import Chain, Node


@dataclass(frozen=True, eq=False)
class Template:
    """A schedule whose durations are still relative. `resolve` makes it a Schedule; `str` prints it back.

    Examples:
        >>> from lrkit.schedules.text import parse
        >>> template = parse("warmup 5% > cosine")
        >>> str(template.resolve(total=2000))
        'warmup 100 > cosine 1900'
    """

    syntax: Node

    def resolve(
        self,
        total: int | str | None = None,
        steps_per_epoch: int | None = None,
        tokens_per_step: float | None = None,
        samples_per_step: float | None = None,
    ) -> Schedule:
        """Turn every duration into steps.

        Args:
            total: Optimizer updates of the whole run, or its duration as a text (``"90ep"``, ``"1e12tok"``); what ``%`` and a
                stage without a duration need.
            steps_per_epoch: Optimizer updates of one epoch; what ``ep`` needs.
            tokens_per_step: Tokens of one update, over all processes; what ``tok`` needs.
            samples_per_step: Samples of one update, over all processes; what ``samples`` needs.

        Raises:
            InputError: If one of them is needed and missing, or the stages do not fit into `total`.
        """
        return self.build(Clock(total, steps_per_epoch, tokens_per_step, samples_per_step))

    def build(self, clock: Clock, level: float = 1.0, done: int = 0) -> Schedule:
        """The same by a clock, where the value before it is `level` and `done` updates of the run are over."""
        room = None if clock.total is None else clock.total - done
        syntax = self.syntax if isinstance(self.syntax, Chain) else Chain((self.syntax,))
        return syntax.build(clock, room, level)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arguments of `resolve` that it cannot do without."""
        units = ["%" if d is None else d.unit for d in self.syntax.durations()]
        return tuple(name for unit, name in UNITS.items() if name is not None and unit in units)

    def to_json(self) -> str:
        """Its JSON form, with a version; `lrkit.from_json` reads it back."""
        import lrkit

        return lrkit.schedules.spec.to_json(self)

    def __call__(self, step: object) -> NoReturn:
        raise InputError(f"Template({str(self)!r})({step!r}): it has no steps yet. Call .resolve(total=…) first.")

    def __str__(self) -> str:
        return str(self.syntax)

    def __repr__(self) -> str:
        return f"Template({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return _read, (str(self),)


def _read(text: str) -> object:
    """A template from its text: what a pickle holds."""
    import lrkit

    return lrkit.parse(text)


def resolved(
    spec: Schedule | Template,
    total: int | str | None = None,
    steps_per_epoch: int | None = None,
    tokens_per_step: float | None = None,
    samples_per_step: float | None = None,
) -> Schedule:
    """The schedule itself, or the template resolved."""
    given = (total, steps_per_epoch, tokens_per_step, samples_per_step)
    return spec.resolve(*given) if isinstance(spec, Template) else spec


def read_for(spec: Schedule | Template, clock: Clock) -> Schedule:
    """The schedule as it stands beside a run: a template that needs no total is not told it, and may turn out longer."""
    if isinstance(spec, Schedule):
        return spec
    return spec.build(clock if "total" in spec.needs else replace(clock, total=None))
