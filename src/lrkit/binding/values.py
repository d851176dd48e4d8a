"""Values: base × factor × scale, written where each belongs, and whether somebody else has written since.

The hot path: one call of `untouched` and one of `write` an update. What takes no time is what is not there: the loops are plain,
and plain floats have one of their own. Knows slots and schedules; knows no hook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lrkit.binding import record
from lrkit.binding.course import Course
from lrkit.binding.record import ParamGroups
from lrkit.binding.slots import Slot
from lrkit.schedules.base import Schedule


class Values:
    """Which factor times which base goes where."""

    def __init__(self) -> None:
        self._factors: list[tuple[Schedule, float]] = []  # distinct schedules, and the scale of their key
        self._plain: list[tuple[int, str, int, float]] = []  # floats: group's place, field, factor's place, base
        self._tensors: list[tuple[int, Slot, int, float, Tensor]] = []  # tensors, wherever: the same, and the tensor
        self._other: list[tuple[int, Slot, int, float]] = []  # items of tuples, whole numbers: the same
        self._watched: list[tuple[int, str]] = []  # what else may not change behind our back: group's place, field
        self._left: list[Any] = []  # the very objects left: the plain ones' first, then the watched ones'
        self._versions: list[int] = []  # of the tensors, when they were written
        self._one: tuple[Schedule, float, str, float] | None = None  # where there is one plain value: all that it takes
        self._rates: dict[int, int] = {}  # group's place → where its lr is among those left
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def arrange(self, groups: ParamGroups, courses: Mapping[str, Course], scales: Mapping[str, float]) -> None:
        """Read from the groups what does not change from update to update.

        Args:
            groups: Each with its bases.
            courses: key → what drives it.
            scales: key → what the controllers make of it.
        """
        places: dict[tuple[int, str], int] = {}
        self._factors, self._plain, self._tensors, self._other = [], [], [], []
        self._size = len(groups)
        watched: dict[tuple[int, str], None] = {}
        for i, group in enumerate(groups):
            for key, course in courses.items():
                schedule = course.schedule_of(group)
                if schedule is None:
                    continue
                place = places.setdefault((id(schedule), key), len(places))
                if place == len(self._factors):
                    self._factors.append((schedule, scales[key]))
                base = 1.0 if schedule.base is not None else float(group[record.BASE + key])
                present = course.slot.present(group)
                if course.slot.index is None and type(present) is float:
                    self._plain.append((i, key, place, base))
                    continue
                watched[i, course.slot.field] = None
                if isinstance(present, Tensor) and not present.requires_grad:
                    self._tensors.append((i, course.slot, place, base, present))
                else:
                    self._other.append((i, course.slot, place, base))
            watched[i, "lr"] = None  # by its identity a dry step is told from a rate that is 0
        known = {(i, key): n for n, (i, key, _, _) in enumerate(self._plain)}
        self._watched = [one for one in watched if one not in known]
        known |= {one: len(self._plain) + n for n, one in enumerate(self._watched)}
        self._rates = {i: n for (i, key), n in known.items() if key == "lr"}
        if len(groups) == len(self._plain) == len(known) == 1:
            ((_, key, place, base),) = self._plain
            self._one = (*self._factors[place], key, base)
        else:
            self._one = None

    def at(self, step: int) -> list[dict[str, float]]:
        """key → value at a step, one dict a group."""
        factors = [schedule(step) * scale for schedule, scale in self._factors]
        out: list[dict[str, float]] = [{} for _ in range(self._size)]
        for i, key, place, base in self._plain:
            out[i][key] = factors[place] * base
        for i, slot, place, base in (*(one[:4] for one in self._tensors), *self._other):
            out[i][slot.key] = factors[place] * base
        return out

    def write(self, groups: ParamGroups, step: int) -> None:
        """Write the values of a step, and remember what was left there."""
        if self._one is not None:
            schedule, scale, key, base = self._one
            value = groups[0][key] = schedule(step) * scale * base
            self._left[:] = (value,)
            return
        factors = []
        for schedule, scale in self._factors:
            factors.append(schedule(step) * scale)  # a comprehension is one call more
        left: list[Any] = []
        for i, field, place, base in self._plain:
            value = factors[place] * base
            groups[i][field] = value
            left.append(value)
        if self._watched:
            for _, _, place, base, tensor in self._tensors:
                tensor.fill_(factors[place] * base)
            for i, slot, place, base in self._other:
                slot.put(groups[i], factors[place] * base)
            self._versions = [tensor._version for *_, tensor in self._tensors]
            left += [groups[i].get(field) for i, field in self._watched]
        self._left = left

    def untouched(self, groups: ParamGroups) -> bool:
        """Whether the groups hold the very objects that were left there, and no torch scheduler has marked them."""
        if len(groups) != self._size or "initial_lr" in groups[0]:
            return False
        left = self._left
        if self._one is not None:
            return groups[0].get(self._one[2]) is left[0]
        n = 0
        for i, field, _, _ in self._plain:
            if groups[i].get(field) is not left[n]:
                return False
            n += 1
        if self._watched:
            for i, field in self._watched:
                if groups[i].get(field) is not left[n]:
                    return False
                n += 1
            for (*_, tensor), version in zip(self._tensors, self._versions, strict=True):
                if tensor._version != version:
                    return False
        return True

    def overruled(self, groups: ParamGroups) -> list[tuple[str, float, float]]:
        """Plain values that are not as they were left: key, what is there, what was left."""
        found = []
        for (i, key, _, _), left in zip(self._plain, self._left, strict=False):
            there = groups[i].get(key) if i < len(groups) else None
            if isinstance(there, float) and there != left:
                found.append((key, there, left))
        return found

    def rate_left(self, i: int) -> Any:
        """The very object that was left as a group's lr."""
        return self._left[self._rates[i]]
