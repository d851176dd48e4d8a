"""What OLMo-core 3.0.0's schedulers share: a run that may not be known yet, and lengths and ends in the library's words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NoReturn, ParamSpec

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain, count, exactly, share, way
from lrkit.schedules.compose import Rates
from lrkit.schedules.parts import Hold, Segment

P = ParamSpec("P")
Length = tuple[int | None, int | None, float | None]


@dataclass(frozen=True)
class Unplaced(Rates):
    """A scheduler whose run is not known yet: a member for `SequentialScheduler`. It refuses to be asked for values."""

    place: Callable[[float, int], Rates] = field(kw_only=True, repr=False, compare=False)
    name: str = field(kw_only=True)

    def value(self, step: Any, m: Any) -> NoReturn:  # noqa: ARG002  (the shape of all values)
        """None: it is refused."""
        self._refuse()

    def words(self, level: float) -> NoReturn:  # noqa: ARG002  (the shape of all words)
        """None: it is refused."""
        self._refuse()

    @property
    def bounds(self) -> tuple[float, float]:
        """None: they are refused."""
        self._refuse()

    @property
    def start_value(self) -> float:
        """None: it is refused."""
        self._refuse()

    @property
    def end_value(self) -> float:
        """None: it is refused."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        ask = "Say t_max_of_run=…, or give it to SequentialScheduler."
        raise InputError(f"{self.name}(t_max_of_run=None): its values depend on the length of the run. {ask}")


def placed(make: Callable[P, Rates]) -> Callable[P, Rates]:
    """A constructor that gives an `Unplaced` member where t_max_of_run is left out."""
    signature, name = inspect.signature(make), make.__name__

    @wraps(make)
    def scheduler(*args: P.args, **kwargs: P.kwargs) -> Rates:
        given = signature.bind(*args, **kwargs).arguments
        if given.get("t_max_of_run") is not None:
            return make(*args, **kwargs)

        def place(base: float, run: int) -> Rates:
            return make(**{**given, "base_lr": base, "t_max_of_run": run})  # type: ignore[call-arg]

        return Unplaced(Hold(1.0), given["base_lr"], place=place, name=name)

    return scheduler


def run_of(call: str, t_max: int | None) -> int:
    """The run's length."""
    return count(call, "t_max_of_run", t_max, 1)


def updates_of(call: str, name: str, given: Length, total: int) -> int:
    """A length in updates, from the one way in which it is given: by its name, its older name, or as a share of `total`.

    Raises:
        InputError: If it is given twice or not at all, or out of its range.
    """
    steps, old, fraction = given
    steps = old if steps is None else steps
    if (steps is None) == (fraction is None):
        hint = " The fraction is 0.1 unless it is set to None." if name == "decay" and steps is not None else ""
        raise InputError(f"{call}: exactly one of {name} and {name}_fraction must be given.{hint} Leave out the other.")
    if fraction is None:
        return count(call, name, steps)
    return round(total * share(call, f"{name}_fraction", fraction))


def rise_of(call: str, steps: int, low: float, base: float, peak: float = 1.0) -> Segment | None:
    """The warm-up from a rate to a factor; None where it has no update."""
    return way(below(call, "warmup_min_lr", low, base, peak), peak, steps)


def decay_of(call: str, start: float, low: float, base: float, steps: int) -> Schedule | None:
    """The decay from a factor to a rate; None where it has no update."""
    return way(start, below(call, "decay_min_lr", low, base, start), steps) if steps else None


def below(call: str, name: str, low: float, base: float, level: float) -> float:
    """A rate as a factor, which the library wants below the level it belongs to.

    Raises:
        InputError: If it is not.
    """
    factor = real(call, name, low, least=0.0) / real(call, "base_lr", base, above=0.0)
    if factor >= level:
        raise InputError(
            f"{call}({name}={low:g}): it must be below the rate that it leads to or from, {level * base:g}. Lower it."
        )
    return factor


def until(schedule: Schedule, steps: int) -> Schedule:
    """The schedule for that many updates: cut off, or with its end value held."""
    if schedule.steps is not None and schedule.steps < steps:
        return chain(schedule, Hold(schedule(schedule.steps), steps - schedule.steps))
    return exactly(schedule, steps)
