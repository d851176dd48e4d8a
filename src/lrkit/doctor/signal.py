"""Signal: what the rules beyond the plain rate verdict read off the rows of a curve: phases of the schedule, spikes, slopes.

All is robust (medians, quantiles of the run's own noise), free of the loss's scale, and a few passes over the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrkit.doctor.curve import Curve, spread_of

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Rows = NDArray[np.bool_]
_TOP = 0.98  # of the peak: there the rate has arrived
_LEFT = 0.9  # of the peak: below it the decay has begun
_MOST = 200_000  # rows that are looked at one by one; of more, means are
_OUT = 6.0  # yardsticks: so far out of the noise is a spike


@dataclass(frozen=True)
class Phases:
    """The schedule, as its logged rates show it; rows count the finite losses.

    Args:
        peak: The highest rate.
        warm: Row at which the rate arrives at its peak; 0 where it begins there.
        decay: First row after the last one at (nearly) the peak; the number of rows where there is none.
        rising: Whether the rate still rises at the last row.
        simple: Whether it only rises, holds and falls: no restart, no cycle.
    """

    peak: float
    warm: int
    decay: int
    rising: bool
    simple: bool


def phases(curve: Curve) -> Phases | None:
    """Warm-up, stable phase and decay of the run, or None where the log has no rate."""
    if curve.rates is None:
        return None
    rate = curve.rates
    peak, n = float(np.max(rate)), len(rate)
    at_top = np.flatnonzero(rate >= _TOP * peak)
    warm, decay = int(at_top[0]), int(np.flatnonzero(rate >= _LEFT * peak)[-1]) + 1
    climbs = np.maximum(np.diff(rate), 0.0)
    late = max(1, n // 20)
    rising = n > late and warm >= n - late and float(rate[-1]) > 1.02 * float(rate[-1 - late])
    falls_before = float(np.maximum(-np.diff(rate[: warm + 1]), 0.0).sum())
    simple = float(climbs[warm:].sum()) < 0.1 * peak and falls_before < 0.1 * peak
    return Phases(peak, warm if rate[0] < 0.5 * peak else 0, decay, rising, simple)


@dataclass(frozen=True)
class Spike:
    """A stretch of rows far above the level around them.

    Args:
        first: Its first row.
        last: Its last row.
        height: How far it reaches above the level before it, in units of the loss.
        level: The loss before it.
    """

    first: int
    last: int
    height: float
    level: float


def spikes(curve: Curve, persistence: int = 3, since: float = 0.0) -> list[Spike]:
    """Stretches of at least `persistence` rows that stand out of the run's own noise, on the logarithm of a positive loss.

    What is compared is the smallest of so many neighbours, above the level; the yardstick is how far single neighbours lie apart
    around there. So noise with a heavy tail, or with two modes (mixup), has a long yardstick and does not stand out; and spikes
    that fill a third of the rows do not hide one another, since they are few jumps.

    Args:
        curve: The curve.
        persistence: Rows in a row.
        since: Share of the rows before which neither spikes nor noise are looked at.
    """
    skip, every = int(since * curve.points), curve.points // _MOST + 1
    values = averaged(curve.values[skip:], every)
    n = len(values)
    if n < 10 * persistence:
        return []
    y = np.log(values) if float(np.min(values)) > 0 else values
    width = int(np.clip(n // 40, 5, 50))
    level = baseline(y, width)
    above = (y - level) / _apart(y, 2 * width)
    held = above.copy()
    for shift in range(1, persistence):
        held[: n - shift] = np.minimum(held[: n - shift], above[shift:])
    held = held[: n - persistence + 1]
    starts = np.flatnonzero(held > _OUT)
    inside = np.zeros(n, dtype=bool)
    for shift in range(persistence):
        inside[starts + shift] = True
    level = np.exp(level) if y is not values else level
    return [
        Spike(
            skip + every * first,
            skip + every * last + every - 1,
            float(np.max(values[first : last + 1]) - level[first]),
            float(level[first]),
        )
        for first, last in _stretches(inside, max(3, n // 200))
    ]


def _apart(y: Array, width: int) -> Array:
    """(n,) the standard deviation of a single row, from how far neighbours lie apart: the ninth decile, which sees two modes."""
    steps = np.abs(np.diff(y, append=y[-1]))
    blocks = _ranked(steps, width, int(0.9 * (width - 1) + 0.5)) / 2.33
    wide = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(blocks, 4, mode="edge"), 9), axis=1)
    wide = np.maximum(wide, max(float(np.median(wide)) / 3, 1e-12))
    return np.append(np.repeat(wide, width), np.full(width, wide[-1]))[: len(y)]


def _ranked(values: Array, width: int, rank: int) -> Array:
    """The value of this rank in each whole block of `width` rows."""
    blocks = values[: len(values) // width * width].reshape(-1, width)
    return np.asarray(np.partition(blocks, rank, axis=1)[:, rank])


def _stretches(inside: Rows, gap: int) -> list[tuple[int, int]]:
    """(first, last) of each stretch of true rows; stretches closer than `gap` are one."""
    rows = np.flatnonzero(inside)
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows) > gap)
    return list(zip(rows[np.r_[0, cuts + 1]].tolist(), rows[np.r_[cuts, len(rows) - 1]].tolist(), strict=True))


def baseline(y: Array, width: int) -> Array:
    """(n,) the level before each row: the median of the medians of the three short blocks before its own."""
    n = len(y)
    medians = _ranked(y, width, width // 2)
    before = np.pad(medians, (3, 0), mode="edge")
    level = np.median(np.lib.stride_tricks.sliding_window_view(before, 3), axis=1)
    return np.repeat(level, width)[:n]


def way(curve: Curve) -> Array:
    """(b,) share of the way at each block: rates summed over the steps (of a log that is dense at first), or steps alone."""
    middles = (curve.steps[1:] + curve.steps[:-1]) / 2
    ends = np.r_[float(curve.first), middles, float(max(curve.last, curve.steps[-1]))]
    known = curve.lr is not None and float(np.max(curve.lr)) > 0
    parts = np.maximum(np.diff(ends), 1e-12) * (curve.lr if known and curve.lr is not None else 1.0)
    return np.asarray(np.cumsum(parts) / parts.sum())


def averaged(values: Array, every: int) -> Array:
    """Means of blocks of so many rows; the rows themselves for one."""
    return values if every == 1 else values[: len(values) // every * every].reshape(-1, every).mean(axis=1)


def slope(x: Array, y: Array) -> tuple[float, float]:
    """(change, error) of a straight line over its whole length, the error from the residual; (0, inf) of fewer than 5 points."""
    span = float(np.ptp(x)) if len(x) else 0.0
    if len(x) < 5 or span == 0:
        return 0.0, float("inf")
    centred = x - x.mean()
    spread = float((centred**2).sum())
    rate = float((centred * y).sum()) / spread
    residual = y - y.mean() - rate * centred
    error = float(np.sqrt((residual**2).sum() / (len(x) - 2) / spread))
    return rate * span, max(error * span, 1e-300)


def level_of(values: Array) -> tuple[float, float]:
    """(median, its error) of rows without a trend to speak of; the error from the spread of neighbours."""
    if not len(values):
        return float("nan"), float("inf")
    return float(np.median(values)), 1.25 * spread_of(values) / float(np.sqrt(len(values)))


def edges(curve: Curve) -> Index:
    """Rows, among the finite losses, at which a new epoch begins; empty where no epoch is logged."""
    if "epoch" not in curve.run:
        return np.empty(0, dtype=np.intp)
    epoch, loss = curve.run["epoch"], curve.run["loss"]
    epoch = epoch[np.isfinite(loss)]
    known = np.flatnonzero(np.isfinite(epoch))
    turns = known[1:][np.diff(np.floor(epoch[known] + 1e-9)) > 0] if len(known) > 1 else known[:0]
    return np.asarray(turns, dtype=np.intp)
