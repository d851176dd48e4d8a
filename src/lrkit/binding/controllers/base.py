"""Controller: settings, and a pure function from what it remembers and what it hears to what it remembers next.

    value = base × schedule(step) × scale₁ × scale₂ …

What it remembers is a tuple of numbers, its scale first; it lies in the optimizer's groups beside the step. Knows numbers; knows
no schedule.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch

from lrkit.errors import InputError, real

State = tuple[float, ...]
UNRECORDED = {"recorded": False}  # metadata of a field that is no setting: the model, for example


@dataclass(frozen=True, kw_only=True)
class Controller(ABC):
    """What a closed loop consists of. A subclass adds its settings, and says how it starts and what follows from a report.

    Args:
        metric: The name under which it hears: ``attachment.report(loss=…)``.
        key: What it scales, a key that the same `attach` drives.
        name: By which its state is found in the groups; two of one kind need two names. None: the class's.

    Raises:
        InputError: If one of them is no text.
    """

    alone: ClassVar[bool] = False  # whether no other of this sort may stand beside it

    metric: str = "loss"
    key: str = "lr"
    name: str | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            object.__setattr__(self, "name", type(self).__name__.lower())
        for what in ("metric", "key", "name"):
            value = getattr(self, what)
            if not isinstance(value, str) or not value.replace("_", "a").replace("[", "a").replace("]", "a").isalnum():
                raise InputError(f"{type(self).__name__}({what}={value!r}): must be a name of letters, digits and underscores.")
        self.check()

    def check(self) -> None:  # noqa: B027
        """Refuse settings that break a rule."""

    @abstractmethod
    def start(self) -> State:
        """What it remembers before the first report: numbers, the scale first."""

    @abstractmethod
    def heard(self, state: State, value: float) -> State:
        """What it remembers after one report.

        Args:
            state: What it remembers.
            value: The metric; may be NaN or infinite.
        """

    def begin(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: B027
        """Called once before the first update after attaching or loading."""

    def end(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: B027
        """Called when it is detached: let go of what was kept for this optimizer."""

    def act(self, before: State, after: State, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:  # noqa: ARG002
        """What there is to tell of a report, once heard; a controller that does more than scale does it here.

        Args:
            before: What it remembered before.
            after: What it remembers now.
            optimizer: Whose groups it lives in.

        Returns:
            ``{"what": …}`` for the events; None where nothing happened.
        """
        times = f"× {after[0] / before[0]:.4g}" if before[0] else f"scaled by {after[0]:.4g}"
        return None if after[0] == before[0] else {"what": f"{self.key} {times}"}

    def settings(self) -> dict[str, Any]:
        """The settings, plain values only: what a record can hold."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.init and one.metadata.get("recorded", True)}

    def text(self) -> str:
        """The settings as JSON, under the class's name."""
        return json.dumps({type(self).__name__: self.settings()})

    def _real(self, name: str, least: float | None = None, above: float | None = None, below: float | None = None) -> None:
        """Check one setting and make it a float."""
        call = type(self).__name__
        value = real(call, name, getattr(self, name), least=least, above=above)
        if below is not None and value >= below:
            raise InputError(f"{call}({name}={value:g}): {name} must be below {below:g}, got {value:g}.")
        object.__setattr__(self, name, value)


def checked(name: str, before: State, after: object) -> State:
    """What a controller returned, if it is a state.

    Args:
        name: The controller's.
        before: The state before.
        after: What `heard` returned.

    Raises:
        InputError: If it is not as many numbers as before, the first of them a finite scale of at least 0.
    """
    try:
        state = tuple(float(number) for number in after)  # type: ignore[attr-defined]
        if len(state) == len(before) > 0 and 0 <= state[0] < math.inf:
            return state
        came = f"{len(state)} numbers for {len(before)}" if len(state) != len(before) else f"the scale {state[0]:g}"
    except (TypeError, ValueError):
        came = repr(after)[:60]
    raise InputError(f"{name}: heard() returned {came}. Return as many as start() does, the first a finite scale of at least 0.")
