"""The record of what drives an optimizer: a few flat keys inside each of the optimizer's own param groups.

    lrkit_step          0-d int64 CPU tensor: updates done. A tensor, so that a compiled step does not recompile; every state
                        dict gets its own.
    lrkit_spec          str: JSON of key → the schedule's text, so that another schedule on resume can be named and refused, and
                        the recorded one be taken up.
    lrkit_base_<key>    float: the value that the schedule's factor multiplies.
    lrkit_state_<name>  1-d float64 CPU tensor: what a controller remembers; its scale comes first. Replaced, never mutated.

Whoever checkpoints the optimizer has checkpointed the schedule. Knows torch's groups; knows no schedule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from lrkit.errors import InputError

STEP, SPEC, BASE, STATE = "lrkit_step", "lrkit_spec", "lrkit_base_", "lrkit_state_"
ASLEEP = "lrkit_asleep"  # which parameters of a sleeping group were frozen; for copies of the optimizer, not for state dicts
CONTROLLER = "controller "  # before the name of a controller, where the key of a schedule stands in a spec
ParamGroups = list[dict[str, Any]]


class StepCell:
    """The tensor that holds the step in every group, and the number in it.

    It is counted up in place, through memory shared with NumPy: making a tensor an update costs more than all else that an
    update needs. So whoever makes a state dict is given a tensor of its own (see `Driver`), which stays true.
    """

    def __init__(self, step: int) -> None:
        memory = numpy.array([step], dtype=numpy.int64)
        self.tensor = torch.from_numpy(memory).reshape(())
        self.number = memory.data  # a memoryview: the fastest way to set one number


def step_tensor(step: int) -> Tensor:
    """A record of a step that is nobody else's; on the CPU whatever the default device."""
    return torch.from_numpy(numpy.array(step, dtype=numpy.int64))


def state_tensor(state: Sequence[float]) -> Tensor:
    """A new record of a controller's state."""
    return torch.from_numpy(numpy.array(state, dtype=numpy.float64))


def read_step(group: Mapping[str, Any]) -> int | None:
    """The step on record, whatever form a host gave it; None where there is none."""
    step = group.get(STEP)
    return None if step is None else int(step)


def steps(groups: ParamGroups) -> Iterator[int]:
    """The steps on record; a late group, which has none yet, may stand first."""
    return (step for group in groups if (step := read_step(group)) is not None)


def read_spec(group: Mapping[str, Any]) -> dict[str, str]:
    """Key → text on record; empty where there is none.

    Raises:
        InputError: If the record is not lrkit's.
    """
    text = group.get(SPEC)
    if text is None:
        return {}
    try:
        return {str(key): str(one) for key, one in json.loads(text).items()}
    except (TypeError, ValueError, AttributeError):
        raise InputError(f"attach: the optimizer's {SPEC} is {text!r}, which lrkit did not write. Delete that key.") from None


def write_spec(group: dict[str, Any], spec: Mapping[str, str]) -> None:
    """Record key → text."""
    group[SPEC] = json.dumps(spec, ensure_ascii=False)


def forget(group: dict[str, Any]) -> None:
    """Take the whole record out of a group."""
    for key in [key for key in group if key in (STEP, SPEC, ASLEEP) or key.startswith((BASE, STATE))]:
        del group[key]


def has_updates(state: Mapping[Any, Any]) -> bool:
    """Whether an optimizer's state (live or from a checkpoint) shows that updates were taken.

    Some, such as Adagrad, have state from birth, with ``step`` 0.
    """
    return any(bool(entry) and float(entry.get("step", 1)) > 0 for entry in state.values())
