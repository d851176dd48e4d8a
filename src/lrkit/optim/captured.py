"""Steps that can be captured in a graph of the device: counts, rates and all numbers stay tensors on it, and Python never looks.

Slower than a kernel where nothing is captured; the numbers are the same.
This module knows rules and the reference.
"""

from __future__ import annotations

from typing import Any

from lrkit.errors import InputError
from lrkit.optim.bucket import complete
from lrkit.optim.lists import flat
from lrkit.optim.reference import Values, apply
from lrkit.optim.rule import Rule


def check_captured(clipped: bool, rounded: bool) -> None:
    """Refuse what has to look at what stays on the device.

    Args:
        clipped: Whether gradients are clipped.
        rounded: Whether values are rounded at random, by a count that Python knows.

    Raises:
        InputError: If either is.
    """
    if rounded:
        raise InputError("capturable=True: stochastic_rounding=True counts updates here, not on the device. Leave one out.")
    if clipped:
        raise InputError("capturable=True: clip= looks at the gradients, which a captured step must not. Leave one out.")


def step_on_device(group: dict[str, Any], rule: Rule, state: Any) -> None:
    """One update of a group.

    Args:
        group: The param group.
        rule: What it follows.
        state: The optimizer's.
    """
    gain = -1.0 if group["maximize"] else 1.0
    for p in group["params"]:
        if p.grad is None:
            continue
        entry = state[p]
        begun = complete(p, entry, rule, group)
        t: Any = entry["step"].add_(1) if rule.counts else 2 if begun else 1
        carry = entry[rule.direction.CARRY] if rule.direction.CARRY else None
        if carry is not None:
            carry.mul_(rule.direction.momentum(t, group))  # type: ignore[attr-defined]
        values = Values(flat(p), *(flat(entry[name]) if name else None for name in rule.names))
        apply(values, flat(p.grad), rule.scalars(t, group, carry), rule.form, gain)
