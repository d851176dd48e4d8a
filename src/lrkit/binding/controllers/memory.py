"""Memory: what an optimizer's controllers remember, as it lies in the groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import Tensor

from lrkit.binding import record
from lrkit.binding.controllers.base import Controller, State
from lrkit.binding.record import ParamGroups


class Memory:
    """The states of all controllers; a copy of what is in the groups, which are asked anew where they hold something else."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._told: dict[str, Tensor] = {}  # the very tensors in the groups that hold them

    def __getitem__(self, name: str) -> State:
        return self._states[name]

    def read(self, controllers: Mapping[str, Controller], groups: ParamGroups) -> None:
        """Take the states from the first group that has them, complete them, and put them into every group."""
        self._states = {}
        for name, controller in controllers.items():
            start = controller.start()
            kept = next((group[record.STATE + name] for group in groups if record.STATE + name in group), None)
            known = isinstance(kept, Tensor) and kept.numel() == len(start)
            self._states[name] = tuple(kept.tolist()) if known and kept is not None else start
        self._told = {}
        for name, state in self._states.items():
            self.keep(name, state, groups)

    def keep(self, name: str, state: State, groups: ParamGroups) -> None:
        """Remember a new state, in every group."""
        self._states[name], self._told[name] = state, record.state_tensor(state)
        for group in groups:
            group[record.STATE + name] = self._told[name]

    def holds(self, names: Iterable[str], groups: ParamGroups) -> bool:
        """Whether the groups hold what is remembered here."""
        return all(groups[0].get(record.STATE + name) is self._told.get(name) for name in names)

    def scale_of(self, key: str, controllers: Mapping[str, Controller]) -> float:
        """The product of what the controllers make of a key."""
        return math.prod(self._states[name][0] for name, one in controllers.items() if one.key == key)
