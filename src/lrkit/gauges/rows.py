"""Rows: what a row of a watched run is made of, on whatever device it is, and how it comes to the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lrkit.errors import InputError
from lrkit.gauges.view import Value

OURS = frozenset(("step", "lr", "meta", "lrkit_run"))  # names that the watch writes itself


def on_host(buffer: list[dict[str, Value]]) -> list[dict[str, float]]:
    """Rows of numbers: one copy a kind of tensor, so that an accelerator is hardly waited for; what a CPU has are numbers."""
    rows, kinds = (
        [dict(row) for row in buffer],
        dict[tuple[torch.device, torch.dtype], list[tuple[dict[str, Value], str, Tensor]]](),
    )
    for row in rows:
        for name, value in row.items():
            if isinstance(value, Tensor):
                kinds.setdefault((value.device, value.dtype), []).append((row, name, value))
    for some in kinds.values():
        for (row, name, _), number in zip(some, torch.stack([value for *_, value in some]).tolist(), strict=True):
            row[name] = float(number)
    return rows  # type: ignore[return-value]  # no tensor is left in them


def is_number(value: Value) -> bool:
    """False for a NaN that is on the host: a quantity that has no value here is left out."""
    return isinstance(value, Tensor) or not math.isnan(value)


def rates_of(optimizer: torch.optim.Optimizer) -> dict[str, Value]:
    """``lr`` of the first group, and ``lr/<name>`` of each where there are several."""
    groups = optimizer.param_groups
    out: dict[str, Value] = {}
    for i, group in enumerate(groups):
        value = group.get("lr")
        if value is None:
            continue
        value = value.detach().reshape(()).clone() if isinstance(value, Tensor) and not value.is_cpu else float(value)
        if i == 0:
            out["lr"] = value
        if len(groups) > 1:
            out[f"lr/{group.get('name', i)}"] = value
    return out


def number(name: str, value: Value) -> Value:
    """A value as a number; where an accelerator holds it, as a detached 0-d tensor."""
    if name in OURS:
        raise InputError(f"watch: {name!r} is written by the watch itself. Choose another name.")
    if not isinstance(value, Tensor):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"watch: {name} must be one number, got {type(value).__name__}. Take its mean.") from error
    if value.is_complex():
        raise InputError(f"watch: {name} must be a real number, got a complex tensor. Record its parts.")
    if value.numel() != 1:
        raise InputError(f"watch: {name} must be one number, got a tensor of shape {tuple(value.shape)}. Take its mean.")
    return float(value.item()) if value.is_cpu else value.detach().reshape(()).clone()
