"""Part: what an optimizer is put together from. A part is a value: a few numbers and a formula, no state.

A part's number may be given as such, then it becomes the hyperparameter of that name in every param group; or as the name of one
that is there already (``"betas[0]"``). Either way it lives in the groups, where schedules reach it, and is read at each update.
This module knows param groups; it knows no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lrkit.errors import InputError, real

Hypers = dict[str, tuple[str, float, float | None]]  # field → key in a group, least, below
Hyper = float | str  # a number, or where it is found in a param group
Number = Any  # a float; where the step is a tensor on a device (capturable): a tensor, too

P = TypeVar("P", bound="Part")


@dataclass(frozen=True)
class Part:
    """The base of directions, scales, decays and factors.

    Attributes:
        HYPERS: field → (its key in a param group, what it must at least be, what it must be below).
    """

    HYPERS: ClassVar[Hypers] = {}

    def placed(self: P) -> tuple[P, dict[str, float]]:
        """This part with every number replaced by its key, and the numbers by their keys.

        Raises:
            InputError: If a number is outside of its range.
        """
        numbers, names = {}, {}
        for field, (key, least, below) in self.HYPERS.items():
            value = getattr(self, field)
            if isinstance(value, str):
                continue
            call = type(self).__name__
            numbers[key] = real(call, field, value, least=least)
            if below is not None and numbers[key] >= below:
                raise InputError(f"{call}({field}={value}): {field} must be below {below:g}, got {value}.")
            names[field] = key
        return replace(self, **names), numbers

    def read(self, group: Mapping[str, Any], field: str) -> Number:
        """A hyperparameter of this part, as a param group has it."""
        value = getattr(self, field)
        return number(group, value) if isinstance(value, str) else value


def number(group: Mapping[str, Any], key: str) -> Number:
    """A param group's number: a float; a tensor stays one where the group is to be captured in a device's graph."""
    field, index = place(key)
    value = group[field] if index is None else group[field][index]
    return value.item() if isinstance(value, Tensor) and not group.get("capturable") else value


@cache
def place(key: str) -> tuple[str, int | None]:
    """``"betas[0]"`` → ``("betas", 0)``; ``"alpha"`` → ``("alpha", None)``."""
    field, _, item = key.partition("[")
    return field, int(item.rstrip("]")) if item else None


def where(condition: Any, yes: Number, no: Number) -> Number:
    """`yes` or `no`, also where the condition is a tensor that Python must not look at."""
    if not isinstance(condition, Tensor):
        return yes if condition else no
    return torch.where(condition, torch.as_tensor(yes, device=condition.device), torch.as_tensor(no, device=condition.device))


def shown(part: Part, group: Mapping[str, Any], field: str) -> str:
    """A hyperparameter for people: ``betas[0] = 0.9``."""
    key = getattr(part, field)
    return f"{key} = {float(number(group, key)):g}" if isinstance(key, str) else f"{field} = {key:g}"
