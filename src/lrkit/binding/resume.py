"""What happens where a record and the schedules at hand differ: refused with the difference named, or one of them wins.

Knows schedules and records as texts. Knows no optimizer and no hook.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from lrkit.binding import record
from lrkit.binding.controllers.base import Controller
from lrkit.errors import InputError, LrkitError, StateError
from lrkit.schedules.base import Schedule
from lrkit.schedules.compare import diff
from lrkit.schedules.template import resolved
from lrkit.schedules.text import parse

OnMismatch = Literal["refuse", "keep", "replace"]
Kept = tuple[str, dict[str | None, Schedule] | Controller]  # a key, and what drives it from now on
_ADVICE = (
    "Attach the recorded one, or say attach(…, on_mismatch='keep') to go on with the recorded one, or on_mismatch='replace' to "
    "let the new one take over from there"
)


@dataclass(frozen=True)
class Mismatch:
    """One entry of the record that is not what is at hand; None where one side lacks it."""

    key: str
    group: str
    there: str | None
    here: str | None

    def __str__(self) -> str:
        of = f"{self.key}{self.group}"
        if self.there is None:
            return f"{of} was not driven, now it is by {_shown(self.here)}"
        if self.here is None:
            return f"{of} was driven by {_shown(self.there)}, now nothing drives it"
        return f"{of} was {_shown(self.there)}, now it is {_shown(self.here)}{_parting(self.there, self.here)}"


def check_mode(mode: object) -> OnMismatch:
    """Refuse what is no way to deal with a mismatch."""
    for known in get_args(OnMismatch):
        if mode == known:
            return known  # type: ignore[no-any-return]
    raise InputError(f"attach(on_mismatch={mode!r}): must be 'refuse', 'keep' or 'replace'. Leave it out to refuse.")


def mismatches(
    groups: Iterable[Mapping[str, Any]], here: Callable[[Mapping[str, Any]], Mapping[str, str]], keys: Iterable[str] | None = None
) -> list[Mismatch]:
    """Every entry in which recorded groups differ from what would drive them.

    Args:
        groups: Param groups, live or from a checkpoint; those without a record are passed over.
        here: group → key → text of what would drive it.
        keys: Only these; None: all on either side.
    """
    found = []
    for i, group in enumerate(groups):
        if record.STEP in group:
            there, now = record.read_spec(group), here(group)
            for key in dict.fromkeys((*there, *now) if keys is None else keys):
                if there.get(key) != now.get(key):
                    name = f" of group {group.get('name', i)!r}" if "name" in group or i else ""
                    found.append(Mismatch(key, name, there.get(key), now.get(key)))
    return found


def refusal(call: str, found: list[Mismatch]) -> StateError:
    """The sentence that names the first difference, and how many more there are."""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return StateError(f"{call}: the optimizer's record is of another schedule: {found[0]}{more}. {_ADVICE}.")


def recorded(groups: Iterable[Mapping[str, Any]], key: str, controllers: Mapping[str, Controller]) -> Kept:
    """What the record says drives a key: group's name → schedule, under None where it is the same for all; or a controller with
    the settings on record.

    Raises:
        InputError: If a recorded text cannot be read back: it was the user's own function, or a controller that is not here.
    """
    texts: dict[str | None, str | None] = {}
    for group in groups:
        if record.STEP in group:
            texts.setdefault(group.get("name"), record.read_spec(group).get(key))
    if len(set(texts.values())) == 1:
        texts = {None: next(iter(texts.values()))}
    present = {name: text for name, text in texts.items() if text is not None}
    try:
        if key.startswith(record.CONTROLLER):
            return key, _with_settings(controllers[key.removeprefix(record.CONTROLLER)], next(iter(present.values())))
        return key, {name: resolved(parse(text)) for name, text in present.items()}
    except (LrkitError, KeyError, TypeError, ValueError) as error:
        text = next(iter(present.values()))
        raise InputError(
            f"attach(on_mismatch='keep'): {text!r}, recorded for {key}, cannot be read back. Attach it as it was."
        ) from error


def _with_settings(controller: Controller, text: str) -> Controller:
    """A controller with the settings on record."""
    ((kind, settings),) = json.loads(text).items()
    if kind != type(controller).__name__:
        raise ValueError(f"a {kind} is on record")
    return replace(controller, **settings)


def check_known(groups: list[dict[str, Any]], state: Mapping[Any, Any], call: str) -> None:
    """Refuse updates without a record of them."""
    if all(record.STEP not in group for group in groups) and record.has_updates(state):
        raise StateError(
            f"{call}: updates were taken without lrkit's record, so the position is unknown. Load such a checkpoint before you "
            "attach, then say attach(…, step=number of updates done)."
        )


def check_foreign(optimizer: torch.optim.Optimizer, step: int | None = None) -> None:
    """Refuse a torch scheduler on the same groups; where `step` is said, one that is gone and left its mark is none."""
    here = hasattr(optimizer.step, "_wrapped_by_lr_sched")  # what a torch scheduler makes of the optimizer that it drives
    if any("initial_lr" in group for group in optimizer.param_groups) and (here or step is None):
        advice = (
            "Remove that scheduler and build the optimizer anew"
            if here
            else "If it is gone, and the groups are a checkpoint's, say attach(…, step=updates done): its initial_lr is the base"
        )
        raise StateError(
            "attach(optimizer): a torch scheduler has been made on it (its groups hold 'initial_lr'), and two cannot drive one "
            f"rate. {advice}."
        )


def _shown(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 200 else text[:197] + "...")


def _parting(there: str, here: str) -> str:
    """From which step on the two differ, where both can be read."""
    try:
        apart = diff(there, here)
    except (LrkitError, AttributeError):
        return ""
    return "" if apart.first is None else f" (they part at step {apart.first})"
