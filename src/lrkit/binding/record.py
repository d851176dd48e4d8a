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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor

from lrkit.binding.slots import slot, unshare
from lrkit.errors import InputError, real

STEP, SPEC, BASE, STATE = "lrkit_step", "lrkit_spec", "lrkit_base_", "lrkit_state_"
CONTROLLER = "controller "  # before the name of a controller, where the key of a schedule stands in a spec
Groups = list[dict[str, Any]]


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
    for key in [key for key in group if key in (STEP, SPEC) or key.startswith((BASE, STATE))]:
        del group[key]


def has_updates(state: Mapping[Any, Any]) -> bool:
    """Whether an optimizer's state (live or from a checkpoint) shows that updates were taken.

    Some, such as Adagrad, have state from birth, with ``step`` 0.
    """
    return any(bool(entry) and float(entry.get("step", 1)) > 0 for entry in state.values())


class Owner:
    """Whose hooks an optimizer carries; it can be told to keep still for a while, and is told what happened.

    A hook is a bound method, by which its owner is found. torch.compile has to leave it alone, for traced it would compile anew
    each step: so each begins with ``if is_compiling(): return apart(self.method, optimizer)``. A wrapper around every call would
    cost as much as counting a step does.
    """

    _paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the hooks neither count, write nor see: someone else, such as the finder, drives."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def note(self, event: Mapping[str, Any]) -> None:
        """Take notice of something that a controller did."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def apart(hook: Callable[[Any, Any, Any], None], optimizer: torch.optim.Optimizer) -> None:
    """Run a hook outside of what is being compiled."""
    hook(optimizer, (), {})


def owners(optimizer: torch.optim.Optimizer) -> list[Owner]:
    """Whose hooks of ours an optimizer carries: drivers and watches."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    bound = (getattr(hook, "__self__", None) for hook in hooks)
    return [owner for owner in bound if isinstance(owner, Owner)]


def without_gradient(optimizer: torch.optim.Optimizer) -> bool:
    """Whether no parameter has a gradient, or only zeros: as in the dry step of torch's distributed checkpoints."""
    grads = (p.grad for group in optimizer.param_groups for p in group["params"])
    return not any(grad is not None and bool(grad.any()) for grad in grads)


def skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the update was not made: under GradScaler a fused kernel skips it, and the hook fires all the same."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and isinstance(found_inf, Tensor) and bool(found_inf.item())


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the first group's rate, and the others' in the same proportion.

    Raises:
        InputError: If `lr` is not a finite number above 0, or the first group's rate is 0.
    """
    lr = real("train", "lr", lr, above=0.0)
    unshare(optimizer, "lr")
    bases = rates_of(optimizer)
    for group, base in zip(optimizer.param_groups, bases, strict=True):
        slot("lr").put(group, lr * (base / bases[0]))


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each group's base rate: the one on an attachment's record, else the present one.

    Raises:
        InputError: If one is missing, negative or not finite, or the first is 0.
    """
    rates = []
    for i, group in enumerate(optimizer.param_groups):
        value = group.get(BASE + "lr", group.get("lr"))
        if value is None:
            raise InputError(f"the optimizer's group {i} has no lr. Only an optimizer with a learning rate can be given one.")
        rates.append(real("the optimizer", f"lr of group {i}", value, least=0.0))
    if rates[0] == 0:
        raise InputError("the first group's rate is 0, so the other groups have no ratio to it. Give it any rate above 0.")
    return rates
