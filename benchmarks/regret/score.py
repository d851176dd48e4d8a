"""Regret: how much worse than the truth's best a rate is, as a share of what training can gain at all.

    R(η̂) = (min(L(η̂), L_init) − L*) / (L_init − L*)

L(η) is the mean over the truth's seeds of min(loss, untrained loss), linear in log-rate between the sweep's rates; beyond them
it is the end's. L* is cross-fitted: the best rate of one half of the seeds, judged by the other half, averaged over all the ways
to halve them, so that nobody profits from the luck of the seeds. A rate may therefore come out slightly better than "the best".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FILE = Path(__file__).with_name("truth.json")
_FINE = 0.01  # decades: how finely bands are drawn


class Truth:
    """The dense sweep of one pair of task and optimizer.

    Args:
        entry: ``steps, untrained, lr`` and ``loss``, a list a rate with a loss a seed, None where it diverged.
    """

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.steps, self.untrained = int(entry["steps"]), float(entry["untrained"])
        self.x: Array = np.log10(entry["lr"])
        raw = np.array([[math.inf if v is None else v for v in values] for values in entry["loss"]])
        self.dead = (raw >= self.untrained).mean(axis=1)  # share of the seeds, by rate
        self.losses = np.minimum(raw, self.untrained)
        self.mean = self.losses.mean(axis=1)
        seeds = set(range(raw.shape[1]))
        halves = [list(half) for half in combinations(sorted(seeds), len(seeds) // 2)]
        curves = [self.losses[:, half].mean(axis=1) for half in halves]
        others = [self.losses[:, sorted(seeds - set(half))].mean(axis=1) for half in halves]
        self.bests = np.array([self.x[int(np.argmin(curve))] for curve in curves])  # each half's best rate
        self.best = float(self.bests.mean())
        self.vertex = float(np.mean([vertex(self.x, curve) for curve in curves]))
        self.lowest = float(np.mean([other[int(np.argmin(curve))] for curve, other in zip(curves, others, strict=True)]))

    def regret(self, lr: float) -> float:
        """Of a rate: 0 is the cross-fitted best, 1 the untrained net."""
        return self.regret_of(float(np.interp(math.log10(lr), self.x, self.mean)))

    def regret_of(self, loss: float) -> float:
        """Of a mean loss."""
        return (min(loss, self.untrained) - self.lowest) / (self.untrained - self.lowest)

    def outside(self, lr: float) -> bool:
        """Whether the sweep does not reach so far, so that the end's loss stands for it."""
        return not self.x[0] <= math.log10(lr) <= self.x[-1]

    def diverged(self, lr: float) -> bool:
        """Whether a rate above the best leaves half of the seeds, or more, no better than untrained."""
        x = math.log10(lr)
        return x > self.best and float(np.interp(x, self.x, self.dead)) >= 0.5

    def band(self, regret: float = 0.01) -> tuple[float, float]:
        """The log-rates around the lowest mean that are no worse than this regret."""
        fine = np.arange(self.x[0], self.x[-1] + _FINE / 2, _FINE)
        curve = np.interp(fine, self.x, self.mean)
        good = curve <= max(self.lowest + regret * (self.untrained - self.lowest), float(curve.min()))
        low = high = int(np.argmin(curve))
        while low > 0 and good[low - 1]:
            low -= 1
        while high < len(fine) - 1 and good[high + 1]:
            high += 1
        return float(fine[low]), float(fine[high])

    def covers(self, low: float, high: float) -> dict[str, bool]:
        """Whether an interval of rates holds the optimum, by four meanings of "holds".

        Returns:
            ``best``: the geometric mean of the halves' best rates lies in it. ``vertex``: that of the halves' smoothed curves'
            lowest points does. ``strict``: every half's best rate does. ``loose``: it has a rate of at most 1 % regret.
        """
        a, b = math.log10(low), math.log10(high)
        band = self.band()
        return {
            "best": a <= self.best <= b,
            "vertex": a <= self.vertex <= b,
            "strict": a <= float(self.bests.min()) and float(self.bests.max()) <= b,
            "loose": a <= band[1] and band[0] <= b,
        }


def vertex(x: Array, curve: Array) -> float:
    """Where a curve, smoothed over three neighbours (1, 2, 1), is lowest: by the parabola through the lowest three."""
    padded = np.pad(curve, 1, mode="edge")
    smooth = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    i = int(np.argmin(smooth))
    if not 0 < i < len(x) - 1:
        return float(x[i])
    below, above = smooth[i - 1] - smooth[i], smooth[i + 1] - smooth[i]
    return float(x[i] + (x[i + 1] - x[i]) * (below - above) / (2 * (below + above))) if below + above > 0 else float(x[i])


def truths() -> dict[str, Truth]:
    """``task/optimizer`` → its truth, as far as it has been made."""
    return {name: Truth(entry) for name, entry in json.loads(FILE.read_text()).items()}
