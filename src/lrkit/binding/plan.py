"""Plan: everything that drives one optimizer, as a value: schedules by key, controllers, and what holds where a record differs.

Knows what is on record and whether it agrees. Changes nothing: what is to be is made first, checked, and then put in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lrkit.binding import record
from lrkit.binding.controllers.base import Controller
from lrkit.binding.course import Course
from lrkit.binding.record import ParamGroups
from lrkit.binding.resume import Kept, OnMismatch, mismatches, recorded, refusal
from lrkit.binding.slots import slot
from lrkit.errors import InputError, StateError
from lrkit.schedules.base import Schedule


@dataclass(frozen=True)
class Plan:
    """What drives an optimizer.

    Args:
        courses: key → what drives it.
        controllers: name → what scales a key.
        modes: key, or ``controller <name>`` → what happens where the record differs.
        rest: What happens to what is on record and nothing here drives.
    """

    courses: dict[str, Course] = field(default_factory=dict)
    controllers: dict[str, Controller] = field(default_factory=dict)
    modes: dict[str, OnMismatch] = field(default_factory=dict)
    rest: OnMismatch = "refuse"

    def schedule_of(self, key: str, group: Mapping[str, Any]) -> Schedule | None:
        """The schedule that drives this key of this group, if one does."""
        course = self.courses.get(key)
        return None if course is None else course.schedule_of(group)

    def spec_of(self, group: Mapping[str, Any]) -> dict[str, str]:
        """Key → text of what drives a group, controllers among it: what the record holds."""
        driven = ((key, course.schedule_of(group)) for key, course in self.courses.items())
        texts = {key: str(schedule) for key, schedule in driven if schedule is not None}
        return texts | {record.CONTROLLER + name: controller.text() for name, controller in self.controllers.items()}

    def joined_by(self, courses: dict[str, Course], controllers: list[Controller], mode: OnMismatch) -> Plan:
        """These, and others too.

        Raises:
            StateError: If a key is driven already.
            InputError: If two controllers have one name.
        """
        for key in courses:
            if key in self.courses:
                by = str(next(iter(self.courses[key].by_name.values())))
                raise StateError(
                    f"attach({key}=…): {key} is driven already, by {by!r}. Use replace on that attachment, or detach it."
                )
        names = [*self.controllers, *(str(one.name) for one in controllers)]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"attach(controllers=…): two controllers are called {name!r}. Give one another name=….")
        guards = [str(one.name) for one in (*self.controllers.values(), *controllers) if one.alone]
        if len(guards) > 1:
            raise InputError(f"attach(controllers=…): {' and '.join(guards)} would undo each other's work. Attach one of them.")
        named = {str(one.name): one for one in controllers}
        modes = dict.fromkeys((*courses, *(record.CONTROLLER + name for name in named)), mode)
        return Plan(self.courses | courses, self.controllers | named, self.modes | modes, mode)

    def with_kept(self, kept: Iterable[Kept]) -> Plan:
        """These, but what was kept of a record as it was there."""
        courses, controllers = dict(self.courses), dict(self.controllers)
        for key, what in kept:
            if isinstance(what, Controller):
                controllers[str(what.name)] = what
            else:
                courses[key] = Course(slot(key), what)
        return replace(self, courses=courses, controllers=controllers)

    def without(self, keys: Iterable[str], controllers: Iterable[str]) -> Plan:
        """These, less some."""
        courses = {key: course for key, course in self.courses.items() if key not in set(keys)}
        named = {name: one for name, one in self.controllers.items() if name not in set(controllers)}
        return replace(self, courses=courses, controllers=named)

    def reconciled(self, groups: ParamGroups, call: str, keys: Iterable[str] | None = None) -> list[Kept]:
        """Compare a record with what drives here.

        Args:
            groups: Live groups, or a checkpoint's.
            call: For the message.
            keys: Only these; None: all on either side.

        Returns:
            What is to be kept of the record.

        Raises:
            StateError: If they differ and that is to be refused.
            InputError: If what is to be kept cannot be, or what replaces it is shorter than the updates done.
        """
        found = mismatches(groups, self.spec_of, keys)
        refused = [one for one in found if self.modes.get(one.key, self.rest) == "refuse"]
        if refused:
            raise refusal(call, refused)
        kept = {one.key for one in found if one.there is not None and self.modes.get(one.key, self.rest) == "keep"}
        for key in {one.key for one in found} - kept:
            if key in self.courses:
                self.courses[key].check_length(next(record.steps(groups), 0), call)
        return [recorded(groups, key, self.controllers) for key in kept]
