"""Lists: what kernels are handed, flat tensors of a bucket's parameters, gradients and buffers; and what is done to the gradients
first. Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrkit.optim.reference import Values, real


@dataclass
class Lists:
    """Tensors that take the same update, in order.

    Args:
        p: The parameters, as this process has them, real.
        g: Their gradients, likewise.
        m: The directions' memory; None where there is none; likewise v, x.
        walkable: Whether memory can be walked from end to end: dense, and all of a parameter's tensors in the same order.
        addresses: Of the gradients; empty where they are looked up anew each time.
        fresh: Whether these have changed since a kernel last looked.
    """

    p: list[Tensor]
    g: list[Tensor]
    m: list[Tensor | None]
    v: list[Tensor | None]
    x: list[Tensor | None]
    walkable: bool
    addresses: Sequence[int] = ()
    fresh: bool = True

    def values(self, i: int) -> Values:
        """One parameter and its buffers."""
        return Values(self.p[i], self.m[i], self.v[i], self.x[i])


class Change(NamedTuple):
    """What is done to every gradient before the rule sees it.

    Args:
        gain: What it is multiplied by: a number for all, or one tensor a gradient, with an entry a row.
        bound: What its entries are clamped to; None: to nothing.
        keys: One a parameter, for rounding at random; None: to the nearest.
    """

    gain: float | Sequence[Tensor] = 1.0
    bound: float | None = None
    keys: np.ndarray | None = None


def flat(tensor: Tensor) -> Tensor:
    """What a kernel sees of a tensor: this process's part of it, as reals; the same memory."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return real(local.detach().resolve_conj() if local.is_conj() else local.detach())


def fits(values: Values, g: Tensor) -> bool:
    """Whether memory can be walked from end to end: all tensors have the same entries in the same order, none overlaps itself."""
    p = values.p
    tensors = [g, *(one for one in values[1:] if one is not None)]
    if any(type(one) is not Tensor or one.layout != torch.strided or one.is_neg() for one in (p, *tensors)):
        return False  # a subclass may have no memory of its own; a negative view has another sign than its memory
    if any(one.dtype != p.dtype or one.device != p.device or one.shape != p.shape for one in tensors):
        return False
    if p.is_contiguous():
        return all(one.is_contiguous() for one in tensors)
    return torch.ops.aten.is_non_overlapping_and_dense.default(p) and all(one.stride() == p.stride() for one in tensors)
