"""The base rates of an optimizer's groups, whoever drives them."""

from __future__ import annotations

import torch

from lrkit.binding.record import BASE
from lrkit.binding.slots import slot, unshare
from lrkit.errors import InputError, real


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
