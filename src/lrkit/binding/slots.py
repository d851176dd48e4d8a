"""Slots: where a driven value lives in a param group: ``lr``, ``weight_decay``, ``betas[0]``, any numeric key.

Knows torch's groups; knows no schedule and no record.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lrkit.errors import InputError

_OTHER_NAMES = {
    "beta1": "betas[0]", "beta2": "betas[1]", "betas": "betas[0]", "momentum": "betas[0]", "wd": "weight_decay",
    "learning_rate": "lr", "rate": "lr", "eta": "lr",
}  # fmt: skip
_ITEM = re.compile(r"(\w+)\[(\d+)\]")


@dataclass(frozen=True)
class Slot:
    """One driven value: a key of the group, or one item of a key that holds several.

    Args:
        key: As the user says it: ``lr``, ``betas[0]``.
        field: The group's key: ``lr``, ``betas``.
        index: The item's place; None where the key holds one number.
    """

    key: str
    field: str
    index: int | None = None

    def present(self, group: Mapping[str, Any]) -> Any:
        """What the group holds there: a number or a tensor; None where there is nothing."""
        value = group.get(self.field)
        if self.index is None:
            return value
        return value[self.index] if isinstance(value, tuple | list) and self.index < len(value) else None

    def put(self, group: dict[str, Any], value: Any) -> None:
        """Set it: a tensor in place (whoever compiled a step holds it), a number anew, an item in a new tuple."""
        present = self.present(group)
        if isinstance(present, Tensor) and not isinstance(value, Tensor):
            if present.requires_grad:
                present = present.detach()  # the same memory; a leaf that wants a gradient is not written to
            present.fill_(value)
        elif self.index is None:
            group[self.field] = value
        else:
            items = list(group[self.field])
            items[self.index] = value
            group[self.field] = type(group[self.field])(items)

    def number(self, group: Mapping[str, Any], call: str, i: int) -> float:
        """The present value as a float.

        Args:
            group: The group.
            call: Who asks, for the message.
            i: The group's place, for the message.

        Raises:
            InputError: If there is no number, or one that is not finite and at least 0.
        """
        value = self.present(group)
        if isinstance(value, Tensor) and not value.is_floating_point():
            raise InputError(f"{call}({self.key}=…): {self.key} of group {i} is a tensor of whole numbers. Make it a float's.")
        if not _numeric(value) or self.key.startswith("lrkit_"):
            have = numeric_keys(group)
            other = [_OTHER_NAMES[self.key]] if _OTHER_NAMES.get(self.key) in have else []
            near = other or difflib.get_close_matches(self.key, have, 1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? It has" if near else "It has"
            raise InputError(f"{call}({self.key}=…): group {i} has no number {self.key!r}. {hint} {', '.join(have)}.")
        number = float(value)
        if not math.isfinite(number) or number < 0:
            raise InputError(
                f"{call}({self.key}=…): {self.key} of group {i} must be finite and at least 0, got {number}. Set it first."
            )
        return number


def slot(key: str) -> Slot:
    """The slot that a key names."""
    item = _ITEM.fullmatch(key)
    return Slot(key, key) if item is None else Slot(f"{item[1]}[{int(item[2])}]", item[1], int(item[2]))


def numeric_keys(group: Mapping[str, Any]) -> list[str]:
    """Every key of a group that can be driven."""
    keys = []
    for field, value in group.items():
        if field.startswith("lrkit_") or field == "params":
            continue
        if _numeric(value):
            keys.append(field)
        elif isinstance(value, tuple | list):
            keys += [f"{field}[{i}]" for i, item in enumerate(value) if _numeric(item)]
    return keys


def unshare(optimizer: torch.optim.Optimizer, key: str) -> None:
    """Give each group its own tensor: torch lets all groups and `defaults` share the one that was passed."""
    where = slot(key)
    taken = {id(where.present(optimizer.defaults))}
    for group in optimizer.param_groups:
        value = where.present(group)
        if isinstance(value, Tensor):
            if id(value) in taken:
                where.put(group, value.detach().clone())
            taken.add(id(where.present(group)))


def _numeric(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.is_floating_point()
    return isinstance(value, Real) and not isinstance(value, bool)
