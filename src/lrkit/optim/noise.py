"""Noise for rounding at random, computed from where it is used: seed, update, parameter, entry. Nothing has to be saved for a
resumed run to round as an uninterrupted one would, and a compiled kernel draws the same.

A bfloat16 holds the upper half of a float32. To the nearest, an update that is small against its weight is lost; rounded up with
a probability that is the lost part, it arrives on average.
This module knows tensors; it knows no optimizer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def keys(seed: int, t: int, places: np.ndarray) -> np.ndarray:
    """One key a parameter.

    Args:
        seed: Of the optimizer.
        t: The update.
        places: Where the parameters stand in the optimizer, uint32.
    """
    whole = np.uint64(seed & _MASK) ^ np.uint64(int(_mixed(np.uint64(seed >> 32))))
    start = np.uint32(_mixed(whole ^ np.uint64((t * 0x9E3779B9) & _MASK)))
    return np.asarray(_mixed(_mixed(places.astype(np.uint64)) ^ np.uint64(start)), dtype=np.uint32)


def rounded(value: Tensor, key: int, which: int = 0, first: int = 0) -> Tensor:
    """A float32 tensor rounded to bfloat16, up or down at random.

    Args:
        value: Finite or not; what is not finite stays so.
        key: Of the parameter and the update.
        which: 0 for the parameter, 1, 2, 3 for its buffers.
        first: Where these entries begin in their tensor.
    """
    entry = torch.arange(first, first + value.numel(), dtype=torch.int64, device=value.device).reshape(value.shape)
    noise = _mixed_tensor(entry ^ key)
    if which:
        noise = _mixed_tensor((noise + which) & _MASK)
    bits = value.contiguous().view(torch.int32).to(torch.int64) & _MASK
    up = ((bits + (noise & 0xFFFF)) >> 16) << 16
    up = torch.where(up >= 2**31, up - 2**32, up).to(torch.int32).view(torch.float32)
    return torch.where(value.isfinite(), up, value).to(torch.bfloat16)


def _mixed(h: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
    """Wellons' lowbias32, on the lower half of 64 bits."""
    mask = np.uint64(_MASK)
    h = h ^ (h >> np.uint64(16))
    h = (h * np.uint64(0x7FEB352D)) & mask
    h = h ^ (h >> np.uint64(15))
    with np.errstate(over="ignore"):
        h = (h * np.uint64(0x846CA68B)) & mask
    return h ^ (h >> np.uint64(16))


def _mixed_tensor(h: Tensor) -> Tensor:
    h = h ^ (h >> 16)
    h = (h * 0x7FEB352D) & _MASK
    h = h ^ (h >> 15)
    h = (h * 0x846CA68B) & _MASK
    return h ^ (h >> 16)
