"""What the constructors share: absolute values from factors, the quantities, and pieces that several libraries have."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Rates, Times
from lrkit.schedules.parts import Hold, Join, Part


def absolute(factors: Schedule, base_lr: float) -> Rates:
    """base_lr × factors, with `base` set.

    Raises:
        InputError: If `base_lr` is not finite.
    """
    return Rates(factors, real("compat", "base_lr", base_lr))


def exactly(schedule: Schedule, steps: int) -> Schedule:
    """The schedule for that many updates, cut off or holding its last value."""
    return schedule if schedule.steps == steps else Part(schedule, 0, steps)


def chain(*stages: Schedule | None) -> Schedule:
    """The stages joined; those that are None are left out, so that a stage of no steps can be written as None."""
    there = [stage for stage in stages if stage is not None]
    return Join(*there)


def factors_of(schedules: Sequence[Schedule], base: float) -> list[Schedule]:
    """Schedules of absolute values as factors of one base, so that they can be joined or multiplied.

    Raises:
        InputError: If one of them is not an absolute schedule from 0.
    """
    out: list[Schedule] = []
    for schedule in schedules:
        if not isinstance(schedule, Rates) or schedule.origin != 0:
            raise InputError(f"compat: {schedule} must be one of the library's own schedules, made by this module.")
        same = schedule.base == base
        out.append(schedule.schedule if same else Times(Hold(schedule.base / base), schedule.schedule))
    return out


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
