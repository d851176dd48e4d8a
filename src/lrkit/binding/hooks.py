"""Hooks: whose an optimizer carries, what they must not do, and what they can tell of the update at hand.

Knows torch's optimizers; knows no schedule and no record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo import eval_frame  # no public way says whether the compiler watches

compiler = eval_frame.get_eval_frame_callback  # not None: it would compile what is called natively


class Owner:
    """Whose hooks an optimizer carries; it can be told to keep still for a while, and is told what happened.

    A hook is a bound method, by which its owner is found. torch.compile has to leave it alone, for traced it would compile anew
    each step: so each hook begins by handing itself to `compiled.apart` where the compiler traces it, or watches what it calls.
    A wrapper around every call would cost as much as counting a step does.
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

    def note(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Take notice of what has happened so far; the last of it just now."""


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
