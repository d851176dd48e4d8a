"""What a param group of an optimizer must be; refused are numbers out of range, and keys that are nearly one of ours.

The ranges, and the first words of what is said, are torch's.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from torch import Tensor

from lrkit.errors import InputError, StateError
from lrkit.optim.part import place
from lrkit.optim.rule import Rule, Scalars

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
    "dampening": ("dampening value", math.inf, False),
    "beta1": ("beta1 value", 1.0, False),
    "beta2": ("beta2 value", 1.0, True),
}
_FLAGS = {"maximize", "capturable", "nesterov", "amsgrad", "centered", "decoupled_weight_decay", "bias_correction"}
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
    for key in _FLAGS & group.keys():
        if not isinstance(group[key], bool | int):
            raise InputError(f"{call}({key}={group[key]!r}): {key} must be True or False.")
    for p in group["params"]:
        if not (p.is_floating_point() or p.is_complex()):
            raise InputError(f"{call}(params=…): a parameter is of {p.dtype}, and cannot move by fractions. Leave it out.")
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
        value = math.nan if value.is_complex() else float(value)
    if isinstance(value, str) or hasattr(value, "bounds"):
        raise InputError(
            f"{call}({key}={str(value)!r}): a schedule comes by lrkit.attach(optimizer, {key}=…). Give the base value here."
        )
    try:
        right = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        right = right and (0.0 <= value < most or (allowed and value == most) or word == "dampening value")
    except OverflowError:
        right = False
    if not right:
        end = f" and {'at most' if allowed else 'below'} {most:g}" if most < math.inf else ", and finite"
        raise InputError(f"{call}({key}=…): Invalid {word}: {value}. It must be a number of at least 0{end}.")


def check_keys(call: str, rule: Rule, group: Mapping[str, Any]) -> None:
    """Refuse a part that reads what groups do not have.

    Raises:
        InputError: If one does.
    """
    for part in (rule.direction, rule.scale, rule.decay, rule.eps, *rule.factors):
        for field in part.HYPERS:
            key = getattr(part, field)
            if isinstance(key, str) and place(key)[0] not in group:
                raise InputError(f"{call}: {type(part).__name__} reads {key!r}, which groups do not have. Give it a number.")


def check_finite(call: str, t: int, scalars: Scalars) -> None:
    """Refuse hyperparameters that make no number.

    Raises:
        InputError: If one of the ten is not finite.
    """
    try:
        right = all(map(math.isfinite, scalars))
    except TypeError:
        right = False
    if not right:
        raise InputError(f"{call}.step(): update {t} would be made with {scalars}. Look at the group's hyperparameters.")


def check_entry(call: str, rule: Rule, entry: Mapping[str, Any], parameter: Tensor) -> None:
    """Refuse a checkpoint that is of another rule, or of another model.

    Args:
        call: The optimizer's name.
        rule: What it does.
        entry: The checkpoint's state of one parameter.
        parameter: That parameter.

    Raises:
        StateError: If it is.
    """
    counters = {"step", rule.direction.CARRY}
    buffers = {name: one for name, one in entry.items() if isinstance(one, Tensor) and name not in counters}
    own = {name for name in rule.names if name}
    missing, foreign = sorted(own - buffers.keys()), sorted(buffers.keys() - own)
    if missing and foreign:
        raise StateError(
            f"{call}.load_state_dict: the checkpoint has {', '.join(foreign)} and lacks {', '.join(missing)}: it is of another "
            "rule. Load it into an optimizer like the one that made it."
        )
    for name in own & buffers.keys():
        if buffers[name].shape != parameter.shape:
            raise StateError(
                f"{call}.load_state_dict: {name} has the shape {tuple(buffers[name].shape)}, its parameter "
                f"{tuple(parameter.shape)}: it is of another model. Load it into that model's optimizer."
            )
