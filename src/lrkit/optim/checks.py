"""What a param group of an optimizer must be; refused are numbers out of range, and keys that are nearly one of ours.

The ranges, and the first words of what is said, are torch's.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lrkit.errors import InputError

_RANGES: dict[str, tuple[str, float, bool]] = {  # key → (torch's word for it, the largest, whether that is allowed)
    "lr": ("learning rate", math.inf, False),
    "eps": ("epsilon value", math.inf, False),
    "weight_decay": ("weight_decay value", math.inf, False),
    "momentum": ("momentum value", math.inf, False),
    "alpha": ("alpha value", math.inf, False),
    "rho": ("rho value", 1.0, True),
    "lr_decay": ("lr_decay value", math.inf, False),
    "momentum_decay": ("momentum_decay value", math.inf, False),
    "initial_accumulator_value": ("initial_accumulator_value", math.inf, False),
    "beta1": ("beta1 value", 1.0, False),
    "beta2": ("beta2 value", 1.0, True),
}
_OTHER_NAMES = {"learning_rate": "lr", "rate": "lr", "wd": "weight_decay", "epsilon": "eps", "beta": "betas"}
_KNOWN = {
    "params",
    "param_names",
    "name",
    "initial_lr",
    "base_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "lr_scale",
}


def check_group(call: str, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse what a group must not be.

    Args:
        call: The optimizer's name.
        group: The group.
        defaults: The keys that groups of this optimizer have.

    Raises:
        InputError: If a number is out of its range, or a key is misspelt.
    """
    for key in group:
        if key not in defaults and key not in _KNOWN and not key.startswith("lrkit_"):
            near = (
                [_OTHER_NAMES[key]]
                if _OTHER_NAMES.get(key) in defaults
                else difflib.get_close_matches(key, defaults, 1, cutoff=0.75)
            )
            if near:
                raise InputError(f"{call}(params=[{{{key!r}: …}}]): groups have no {key!r}. Did you mean {near[0]!r}?")
    for key, (word, most, allowed) in _RANGES.items():
        if key in group:
            _check(call, key, group[key], word, most, allowed)
    for i, beta in enumerate(group.get("betas", ())):
        _check(call, "betas", beta, f"beta parameter at index {i}", 1.0, False)
    if group.get("nesterov") and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise InputError(f"{call}(nesterov=True): Nesterov momentum requires a momentum and zero dampening. Give momentum=0.9.")
    if group.get("differentiable"):
        raise InputError(
            f"{call}(differentiable=True): an update that gradients flow through is not offered. Use torch.optim.{call}."
        )


def _check(call: str, key: str, value: Any, word: str, most: float, allowed: bool) -> None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise InputError(f"{call}({key}=…): Tensor {key} must be 1-element, got shape {tuple(value.shape)}. Give one number.")
        if value.device.type != "cpu":
            return  # looking at it would wait for the device
        value = float(value)
    if isinstance(value, str) or hasattr(value, "bounds"):
        raise InputError(
            f"{call}({key}={str(value)!r}): a schedule comes by lrkit.attach(optimizer, {key}=…). Give the base value here."
        )
    try:
        right = not isinstance(value, bool) and (0.0 <= value < most or (allowed and value == most))
    except TypeError:
        right = False
    if not right:
        end = f" and {'at most' if allowed else 'below'} {most:g}" if most < math.inf else ", and finite"
        raise InputError(f"{call}({key}=…): Invalid {word}: {value}. It must be a number of at least 0{end}.")
