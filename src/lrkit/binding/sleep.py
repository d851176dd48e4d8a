"""Sleepers: groups whose rate is held at 0 until their turn, and that cost nothing until then.

A group whose schedule begins with a hold at 0 (``hold 500 at 0 > warmup 100 > cosine``) sleeps through it: its parameters want no
gradient, so that the backward pass stops short of them, and the optimizer passes them over and keeps no state for them. Under
torch.distributed, where the gradients of all processes are awaited, only the update is passed over.

Knows parameters and the first stage of a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lrkit.binding.processes import parallel
from lrkit.binding.record import ParamGroups
from lrkit.errors import StateError
from lrkit.schedules.base import Schedule
from lrkit.schedules.parts import Hold, Join


def sleeps_until(schedule: Schedule | None) -> float:
    """The step at which a schedule leaves the hold at 0 that it begins with; 0 where it begins otherwise."""
    until = 0.0
    for stage in schedule.stages if isinstance(schedule, Join) else (schedule,):
        if not isinstance(stage, Hold) or stage.value_held != 0:
            break
        until += math.inf if stage.steps is None else stage.steps
    return until


class Sleepers:
    """Which groups sleep, and what was taken from them."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self._asleep: list[int] = []
        self._frozen: dict[int, list[Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def arrange(self, schedules: list[Schedule | None]) -> None:
        """Say what drives the rate of each group."""
        turns = ((i, sleeps_until(schedule)) for i, schedule in enumerate(schedules))
        self._until = {i: until for i, until in turns if until > 0}
        if not self._until:
            self.wake()

    def tuck(self, groups: ParamGroups, step: int, paused: bool) -> None:
        """Put to sleep whose turn has not come by this step, wake the others.

        Raises:
            StateError: If torch.distributed was started after parameters were frozen.
        """
        asleep = [i for i, until in self._until.items() if step < until]
        # Where all would sleep nobody does: a backward pass needs something that wants a gradient.
        self._asleep = [] if paused or len(asleep) == len(groups) else asleep
        freeze = not parallel()
        if self._frozen and parallel():
            raise StateError(
                "attach: torch.distributed was started after attach had put groups to sleep, so their gradients would not be "
                "shared. Call attach after init_process_group."
            )
        for i in [i for i in self._frozen if i not in self._asleep or not freeze]:
            self._wake(i)
        for i in self._asleep:
            if freeze and i not in self._frozen:
                self._frozen[i] = [p for p in groups[i]["params"] if p.requires_grad]
                for parameter in self._frozen[i]:
                    parameter.requires_grad_(False)

    def without_state(self, groups: ParamGroups, state: Mapping[Any, Any], step: int) -> list[int]:
        """Places of groups that have been awake by this step, and for which an optimizer that has state holds none."""
        woken = [i for i, until in self._until.items() if until < step]
        others = [p for i, group in enumerate(groups) if i not in woken for p in group["params"]]
        if not any(state.get(p) for p in others):
            return []
        return [i for i in woken if not any(state.get(p) for p in groups[i]["params"])]

    def drop_gradients(self, groups: ParamGroups) -> None:
        """Take their gradients, so that the optimizer passes them over."""
        for i in self._asleep:
            for parameter in groups[i]["params"]:
                parameter.grad = None

    def wake(self) -> None:
        """Wake all."""
        for i in list(self._frozen):
            self._wake(i)
        self._asleep = []

    def _wake(self, i: int) -> None:
        for parameter in self._frozen.pop(i):
            parameter.requires_grad_(True)
