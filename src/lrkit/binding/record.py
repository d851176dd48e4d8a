"""The record of an attachment: a few flat keys inside each of the optimizer's own param groups.

    lrkit_step        0-d int64 CPU tensor: updates done. Replaced, never mutated: copies of the group stay true, and a
                      compiled step does not recompile.
    lrkit_spec        str: the schedules' text, so that another schedule on resume can be named and refused.
    lrkit_base_<key>  float: the value that the schedule's factor multiplies.

Whoever checkpoints the optimizer has checkpointed the schedule. Knows torch's groups; knows no schedule.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from lrkit.errors import InputError, real

STEP, SPEC, BASE = "lrkit_step", "lrkit_spec", "lrkit_base_"


def step_tensor(step: int) -> Tensor:
    """A new record of a step."""
    return torch.tensor(step, dtype=torch.int64, device="cpu")


def read_step(group: Mapping[str, Any]) -> int | None:
    """The step on record, whatever form a host gave it; None where there is none."""
    step = group.get(STEP)
    return None if step is None else int(step)


def number_in(group: Mapping[str, Any], key: str) -> float:
    """The present value of a group's key, a number or a tensor of one."""
    return float(group[key])


def unshare(optimizer: torch.optim.Optimizer, key: str) -> None:
    """Give each group its own tensor: torch lets all groups and `defaults` share the one that was passed."""
    taken = {id(optimizer.defaults.get(key))}
    for group in optimizer.param_groups:
        value = group.get(key)
        if isinstance(value, Tensor):
            if id(value) in taken:
                group[key] = value.detach().clone()
            taken.add(id(group[key]))


def write(group: dict[str, Any], key: str, value: float) -> None:
    """Set a group's key: a tensor in place (whoever compiled a step holds it), a number anew."""
    present = group.get(key)
    if isinstance(present, Tensor):
        with torch.no_grad():
            present.fill_(value)
    else:
        group[key] = value


def has_updates(state: Mapping[Any, Any]) -> bool:
    """Whether an optimizer's state (live or from a checkpoint) shows that updates were taken.

    Some, such as Adagrad, have state from birth, with ``step`` 0.
    """
    return any(bool(entry) and float(entry.get("step", 1)) > 0 for entry in state.values())


class Pausable:
    """Whose hooks can be told to keep still for a while."""

    _paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the hooks neither count, write nor see: someone else, such as the finder, drives."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before


def owned(owner: Pausable, hook: Callable[..., None]) -> Callable[..., None]:
    """A hook by which `owners` finds its owner, and which torch.compile leaves alone: traced, it would compile anew each step."""
    kept: Any = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    kept.owner = owner
    return cast(Callable[..., None], kept)


def owners(optimizer: torch.optim.Optimizer) -> list[Pausable]:
    """Whose hooks of ours an optimizer carries: attachments and watches."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    return [hook.owner for hook in hooks if hasattr(hook, "owner")]


def without_gradient(optimizer: torch.optim.Optimizer) -> bool:
    """Whether no parameter has a gradient, or only zeros: as in the dry step of torch's distributed checkpoints."""
    grads = (p.grad for group in optimizer.param_groups for p in group["params"])
    return not any(grad is not None and bool(grad.any()) for grad in grads)


def skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the update was not made: under GradScaler a fused kernel skips it, and the hook fires all the same."""
    found_inf = getattr(optimizer, "found_inf", None)
    return isinstance(found_inf, Tensor) and bool(found_inf.item())


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the first group's rate, and the others' in the same proportion.

    Raises:
        InputError: If `lr` is not a finite number above 0, or the first group's rate is 0.
    """
    lr = real("train", "lr", lr, above=0.0)
    unshare(optimizer, "lr")
    bases = rates_of(optimizer)
    for group, base in zip(optimizer.param_groups, bases, strict=True):
        write(group, "lr", lr * (base / bases[0]))


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
