"""What the constructors share: absolute values, stages of which some may be missing, and arguments that are checked alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from difflib import get_close_matches
from typing import TypeVar

from lrkit.errors import LARGEST, InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import Easing, Polynomial, linear
from lrkit.schedules.parts import Hold, Join, Part, Segment

T = TypeVar("T")
QUANTITIES = ("lr", "momentum", "weight_decay")


def absolute(factors: Schedule, base_lr: float) -> Rates:
    """base_lr × factors, with `base` set.

    Raises:
        InputError: If `base_lr` is not finite.
    """
    return Rates(factors, real("compat", "base_lr", base_lr))


def way(start: float, end: float, steps: int, easing: Easing = linear, arrive: bool = False) -> Segment | None:
    """A Segment; None where it has no update, for `chain`."""
    return Segment(start, end, steps, easing, arrive) if steps > 0 else None


def held(value: float, steps: int) -> Hold | None:
    """A Hold; None where it has no update, for `chain`."""
    return Hold(value, steps) if steps > 0 else None


def chain(*stages: Schedule | None) -> Schedule:
    """The stages joined; those that are None are left out."""
    there = [stage for stage in stages if stage is not None]
    return Join(*there)


def exactly(schedule: Schedule, steps: int) -> Schedule:
    """The schedule for that many updates, cut off or holding its last value."""
    return schedule if schedule.steps == steps else Part(schedule, 0, steps)


def poly(power: float) -> Easing:
    """(1 − u)^power as an easing: the straight line where the power is 1."""
    return linear if power == 1 else Polynomial(power)


def choice(call: str, name: str, value: object, among: Sequence[str]) -> str:
    """The value; refused if it is not one of a few words.

    Raises:
        InputError: If it is none of them.
    """
    if not isinstance(value, str) or value not in among:
        near = get_close_matches(str(value), among, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{call}({name}={value!r}): {name} must be one of {', '.join(map(repr, among))}.{hint}")
    return value


def count(
    call: str, name: str, value: object, least: int = 0, floor: int | None = None, what: str = "a whole number of updates"
) -> int:
    """A number of updates as an int; a float without a fraction is taken, and what is below `floor` counts as `floor`.

    Raises:
        InputError: If it is no whole number, or below `least`.
    """
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    number = whole(call, name, value, least if floor is None else -LARGEST, what=what)
    return number if floor is None else max(floor, number)


def share(call: str, name: str, value: object, of: str = "the run") -> float:
    """A number in [0, 1].

    Raises:
        InputError: If it is none.
    """
    number = real(call, name, value, least=0.0)
    if number > 1:
        raise InputError(f"{call}({name}={number:g}): {name} is a share of {of}, at most 1. For 10 per cent say 0.1.")
    return number


def items(call: str, name: str, value: Iterable[T], least: int = 0) -> list[T]:
    """A sequence as a list.

    Raises:
        InputError: If it is none, or shorter than `least`.
    """
    number = len(value) if isinstance(value, Sized) and isinstance(value, Iterable) and not isinstance(value, str) else -1
    if number < least:
        raise InputError(f"{call}({name}={value!r}): {name} must be a list with at least {least} in it. Give one.")
    return list(value)


def overwritten(call: str, base_lr: float | None) -> None:
    """Refuse an optimizer's rate that is none, although it has no effect.

    Raises:
        InputError: If it is no finite number.
    """
    if base_lr is not None:
        real(call, "base_lr", base_lr)


def noted(rates: Rates, note: object) -> Rates:
    """The same Rates, which remember what made them; not as a subclass, for what is read back from its text must be equal."""
    object.__setattr__(rates, "_note", note)
    return rates


def note_of(schedule: Schedule, kind: type[T]) -> T | None:
    """What `noted` has left on the schedule; None where there is nothing of that kind."""
    note = getattr(schedule, "_note", None)
    return note if isinstance(note, kind) else None
