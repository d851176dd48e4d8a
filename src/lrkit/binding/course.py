"""Course: what drives one key of an optimizer's groups, and what cannot be driven."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrkit.binding import record
from lrkit.binding.record import ParamGroups
from lrkit.binding.slots import Slot
from lrkit.errors import InputError
from lrkit.schedules.base import Schedule


@dataclass(frozen=True)
class Course:
    """What drives one key: group's name, or None for every group → schedule."""

    slot: Slot
    by_name: dict[str | None, Schedule]

    def name_of(self, group: Mapping[str, Any]) -> str | None:
        """Under which name a group is driven: its own, one it lies under (``vit`` of ``vit.blocks.3/no_decay``), else None."""
        name = group.get("name")
        while isinstance(name, str) and name not in self.by_name:
            name = name[: max(name.rfind("/"), name.rfind("."), 0)] or None
        return name

    def schedule_of(self, group: Mapping[str, Any]) -> Schedule | None:
        """The schedule of a group, if it is driven."""
        return self.by_name.get(self.name_of(group))

    def check_names(self, groups: ParamGroups, call: str) -> None:
        """Refuse a name that no group has."""
        known = {self.name_of(group) for group in groups}
        for name in self.by_name:
            if name is not None and name not in known:
                names = [group.get("name") for group in groups]
                have = ", ".join(repr(n) for n in names if n is not None) or "no named group; give groups a 'name'"
                raise InputError(f"{call}: there is no group {name!r}; the optimizer has {have}.")

    def check_bases(self, groups: ParamGroups, call: str) -> None:
        """Refuse what cannot be driven: no number, no number of at least 0, 0 under a factor, a beta that would reach 1."""
        key = self.slot.key
        bases: dict[str | None, list[float]] = {}
        for i, group in enumerate(groups):
            schedule = self.schedule_of(group)
            if schedule is not None:
                base = group[record.BASE + key] if record.BASE + key in group else self.slot.number(group, call, i)
                bases.setdefault(self.name_of(group), []).append(base)
                highest = schedule.bounds[1] * (1.0 if schedule.base is not None else base)
                if self.slot.field == "betas" and 1 <= highest < math.inf:
                    raise InputError(
                        f"{call}({key}=…): {schedule} takes {key} to {highest:g}, and a beta stays below 1. Lower it."
                    )
        for name, found in bases.items():
            if not any(found) and self.by_name[name].base is None:
                where = "every group" if name is None else f"group {name!r}"
                raise InputError(f"{call}({key}=…): {key} is 0 in {where}, and 0 × a factor stays 0. Give it a base above 0.")

    def check_length(self, step: int, call: str) -> None:
        """Refuse a schedule that would have ended before the updates already done."""
        for schedule in self.by_name.values():
            if schedule.steps is not None and schedule.steps < step:
                raise InputError(
                    f"{call}({self.slot.key}=…): {str(schedule)!r} plans {schedule.steps} updates, and {step} are done. Make it "
                    "longer, or let it end in '> constant' if its last value is to hold."
                )
