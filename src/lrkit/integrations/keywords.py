"""The keywords of `attach` as a host holds them until its run begins: what they still need, what they listen for.

Knows the keywords of `attach`; knows no host.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lrkit.binding import record
from lrkit.binding.attach import Attachment, attach
from lrkit.errors import InputError, StateError
from lrkit.schedules.template import Template
from lrkit.schedules.text import as_schedule

_OWN = frozenset(inspect.signature(attach).parameters)


def missing(call: str, given: Mapping[str, Any]) -> set[str]:
    """Which of ``total``, ``steps_per_epoch`` and so on the schedules need and nobody gave.

    Args:
        call: Who asks, for the message.
        given: The keywords meant for `attach`.

    Raises:
        InputError: If there is no schedule among them, or one that cannot be read.
    """
    keys = {key: spec for key, spec in given.items() if key not in _OWN}
    if not keys:
        raise InputError(f"{call}: nothing to drive. Say which key, e.g. lr='warmup 5% > cosine'.")
    needed = {"steps_per_epoch"} if isinstance(given.get("total"), str) else set()
    for key, spec in keys.items():
        for one in spec.values() if isinstance(spec, Mapping) else [spec]:
            try:
                schedule = as_schedule(one)
            except InputError as error:
                raise InputError(f"{call}({key}=…): {error}") from error
            needed |= set(schedule.needs) if isinstance(schedule, Template) else set()
    return {name for name in needed if given.get(name) is None}


def heard(given: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """Of what a host measured, what the controllers listen for; ``val/loss`` is heard as ``val_loss``.

    Args:
        given: The keywords meant for `attach`.
        measured: The host's names and values.
    """
    controllers = given.get("controllers", ())
    wanted = {one.metric for one in (controllers if isinstance(controllers, list | tuple) else [controllers])}
    named = {re.sub(r"\W", "_", name): value for name, value in measured.items()} if wanted else {}
    return {name: float(value) for name, value in named.items() if name in wanted}


def check_heard(given: Mapping[str, Any], measured: Mapping[str, Any], prefix: str) -> None:
    """Refuse a controller that listens for a metric of the evaluation which the evaluation does not measure.

    Args:
        given: The keywords meant for `attach`.
        measured: What the host's evaluation gave.
        prefix: With which the host's names of such metrics begin.

    Raises:
        InputError: If there is one.
    """
    controllers = given.get("controllers", ())
    names = {re.sub(r"\W", "_", name) for name in measured}
    for one in controllers if isinstance(controllers, list | tuple) else [controllers]:
        if one.metric.startswith(prefix) and one.metric not in names:
            have = ", ".join(sorted(name for name in names if name.startswith(prefix))) or "nothing of the kind"
            raise InputError(
                f"Schedules(…): {one.name} listens for {one.metric!r}, and the evaluation gave {have}. Name one of those."
            )


def attach_at(optimizer: Optimizer, given: Mapping[str, Any], done: int = 0) -> Attachment:
    """`attach`, where ``step=`` counts only if the optimizer carries no record: the same script starts a run and resumes it.

    Args:
        optimizer: The torch optimizer.
        given: The keywords.
        done: Updates that the host has counted.

    Raises:
        StateError: If the host is in the middle of a run and nobody knows where the schedule is.
    """
    carries = any(record.STEP in group for group in optimizer.param_groups)
    if done and not carries and given.get("step") is None:
        raise StateError(
            f"Schedules(…): the run is at update {done}, but its checkpoint's optimizer holds no record of a schedule. Say step="
            f"{done} to begin there, or train from the start."
        )
    return attach(optimizer, **{key: value for key, value in given.items() if key != "step" or not carries})
