"""timm 1.0.31's noise, bit for bit: drawn by NumPy from the generator that torch has too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Times
from lrkit.schedules.points import Custom

Range = float | Sequence[float] | None
_MOST_DRAWS = 10_000


@dataclass(frozen=True)
class _Noise:
    """t ↦ 1 + noise: torch's generator seeded with seed + t, drawn again until the noise is small enough."""

    first: float
    last: float
    pct: float
    std: float
    seed: int
    normal: bool
    offset: int

    def __call__(self, t: float) -> float:
        epoch = int(t) + self.offset
        if not self.first <= epoch < self.last:
            return 1.0
        import numpy

        generator = numpy.random.RandomState((self.seed + epoch) % 2**32)
        if not self.normal:
            return 1.0 + 2.0 * (_bits(generator) % 2**24 / 2**24 - 0.5) * self.pct
        for _ in range(_MOST_DRAWS):
            angle, size = ((_bits(generator) << 32 | _bits(generator)) % 2**53 / 2**53 for _ in range(2))
            radius = math.sqrt(-2.0 * math.log1p(-size))
            for draw in (radius * math.cos(2.0 * math.pi * angle), radius * math.sin(2.0 * math.pi * angle)):
                noise = float(numpy.float32(draw)) * self.std
                if abs(noise) < self.pct:
                    return 1.0 + noise
        raise InputError(f"timm(noise_pct={self.pct:g}, noise_std={self.std:g}): no noise is that small. Raise noise_pct.")


def _bits(generator: Any) -> int:
    return int(generator.randint(0, 2**32, dtype="uint32"))


def noisy(
    curve: Schedule, noise_range_t: Range, noise_pct: float, noise_std: float, noise_seed: int | None,
    noise_type: str = "normal", offset: int = 0, warm: int = 0,
) -> Schedule:  # fmt: skip
    """value(t) = curve(t)·(1 + noise(t)) while t is in the range: [first, last), or first and onwards.

    Args:
        curve: Schedule of factors.
        noise_range_t: Range; None for no noise.
        noise_pct: What the noise stays below, in (0, 1].
        noise_std: Deviation of the normal noise.
        noise_seed: Seed of update 0; 42 where None.
        noise_type: ``"normal"``, or anything else for a uniform one.
        offset: Epoch of update 0.
        warm: Epochs without noise.

    Raises:
        InputError: If a number is out of its range.
    """
    if noise_range_t is None:
        return curve
    first, last = noise_range_t if isinstance(noise_range_t, Sequence) else (noise_range_t, math.inf)
    if real("timm", "noise_pct", noise_pct, above=0.0) > 1:
        raise InputError(f"timm(noise_pct={noise_pct:g}): noise_pct must be at most 1. Beyond, the rate would be negative.")
    seed = 42 if noise_seed is None else whole("timm", "noise_seed", noise_seed, 0)
    noise = _Noise(max(first, warm + offset), last, noise_pct, noise_std, seed, noise_type == "normal", offset)
    return Times(curve, Custom(noise, steps=curve.steps, name=f"noise {noise_seed}"))
