"""Sleepers: groups whose rate is held at 0 until their turn, and that cost nothing until then.

A group whose schedule begins with a hold at 0 (``hold 500 at 0 > warmup 100 > cosine``) sleeps through it: its parameters want no
gradient, so that the backward pass stops short of them, and the optimizer passes them over and keeps no state for them. Under
torch.distributed, where the gradients of all processes are awaited, only the update is passed over.

Knows parameters and the first stage of a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from lrkit.binding.processes import parallel
from lrkit.binding.record import ASLEEP, ParamGroups
from lrkit.errors import StateError
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Rates
from lrkit.schedules.parts import Hold, Join

_MARK = "_lrkit_asleep"


def sleeps_until(schedule: Schedule | None) -> float:
    """The step at which a schedule leaves the hold at 0 that it begins with; 0 where it begins otherwise."""
    until = 0.0
    inner = schedule.schedule if isinstance(schedule, Rates) and schedule.origin == 0 else schedule
    for stage in inner.stages if isinstance(inner, Join) else (inner,):
        if not isinstance(stage, Hold) or stage.value_held != 0:
            break
        until += math.inf if stage.steps is None else stage.steps
    return until


class Sleepers:
    """Which groups sleep, and what was taken from them.

    What is frozen here is told from what the user froze by a mark on the parameter, which a new optimizer of the same model
    finds, and by one in the group, which copies of the optimizer carry.
    """

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self._asleep: set[int] = set()
        self._frozen: dict[int, list[Tensor]] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def arrange(self, groups: ParamGroups, schedules: list[Schedule | None]) -> None:
        """Say what drives the rate of each group, and forget who sleeps: the next `tuck` looks at all anew."""
        turns = ((i, sleeps_until(schedule)) for i, schedule in enumerate(schedules))
        self._until = {i: until for i, until in turns if until > 0}
        self._asleep = {-1} if self._until or self._frozen or any(ASLEEP in group for group in groups) else set()

    def tuck(self, groups: ParamGroups, step: int, paused: bool) -> None:
        """Put to sleep whose turn has not come by this step, wake the others.

        Raises:
            StateError: If torch.distributed was started after parameters were frozen.
        """
        asleep = {i for i, until in self._until.items() if step < until and not paused}
        if asleep == self._asleep:
            return
        awake = [group for i, group in enumerate(groups) if i not in asleep]
        if not any(p.requires_grad or hasattr(p, _MARK) for group in awake for p in group["params"]):
            asleep = set()  # a backward pass needs something that wants a gradient
        if self._frozen and parallel():
            raise StateError(
                "attach: torch.distributed was started after attach had put groups to sleep, so their gradients would not be "
                "shared. Call attach after init_process_group."
            )
        for i, group in enumerate(groups):
            if i in asleep and not parallel():
                self._freeze(i, group)
            else:
                _wake([p for p, ours in _with_mark(group) if ours])
                self._frozen.pop(i, None)
                group.pop(ASLEEP, None)
        self._asleep = asleep

    def _freeze(self, i: int, group: dict[str, Any]) -> None:
        """Let what wants a gradient, or was frozen here before, want none."""
        mark = [p.requires_grad or ours for p, ours in _with_mark(group)]
        self._frozen[i] = [p for p, ours in zip(group["params"], mark, strict=True) if ours]
        for parameter in self._frozen[i]:
            parameter.requires_grad_(False)
            setattr(parameter, _MARK, True)
        group[ASLEEP] = "".join("1" if ours else "0" for ours in mark)

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
            for parameter in groups[i]["params"] if i >= 0 else ():
                parameter.grad = None

    def wake(self) -> None:
        """Wake all."""
        for parameters in self._frozen.values():
            _wake(parameters)
        self._frozen.clear()
        self._asleep = {-1}


def _with_mark(group: Mapping[str, Any]) -> Iterator[tuple[Tensor, bool]]:
    """Each parameter, and whether it was frozen here."""
    mark = group.get(ASLEEP, "")
    for n, parameter in enumerate(group["params"]):
        yield parameter, hasattr(parameter, _MARK) or mark[n : n + 1] == "1"


def _wake(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)
        if hasattr(parameter, _MARK):
            delattr(parameter, _MARK)
