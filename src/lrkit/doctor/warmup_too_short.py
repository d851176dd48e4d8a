"""Warm-up too short: as the rate arrives the loss is thrown up, and takes long to come back, but does so at that rate.

That it comes back and goes on falling at the peak says that the peak is not too high for the run, only for its first updates
(Adam's second moment is not yet known, curvature is highest there: arXiv:1908.03265, arXiv:2110.04369). A catapult, which is back
within a few per cent of the run, is no fault.
"""

from __future__ import annotations

import numpy as np

from lrkit.doctor.curve import Curve, median3, spread_of
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import Phases, averaged, phases

_HUMP = 0.15  # of the drop
_LOST = 0.1  # of the steps, from the rise to where the loss is back
_ENOUGH = 0.15  # of the steps: a longer warm-up than that is no remedy


def warmup_too_short(curve: Curve) -> Finding | None:
    """A hump that begins within twice the warm-up (or the first twentieth), costs dearly, and is overcome at a high rate."""
    plan = phases(curve)
    if plan is None or curve.rates is None or plan.warm > _ENOUGH * curve.points or plan.rising:
        return None
    every = curve.points // 10_000 + 1
    smooth = median3(averaged(curve.values, every))
    window = int(max(2 * plan.warm, 0.05 * curve.points, 5)) // every
    lowest = np.minimum.accumulate(np.r_[curve.values[0], smooth])[:-1]
    above = smooth - lowest
    top = int(np.argmax(above[: 2 * window]))
    calm = np.flatnonzero(above[: top + 1] <= 0.1 * above[top])
    onset = int(calm[-1]) if len(calm) else 0
    quiet = spread_of(curve.values[curve.points // 2 :])  # where no blow is
    back = np.flatnonzero(smooth[top:] < lowest[top] - 0.02 * curve.drop)
    if above[top] < max(_HUMP * curve.drop, 6 * curve.noise, 4 * quiet) or onset > window or not len(back):
        return None
    until = top + int(back[0])
    better = smooth[until] - curve.end > 0.2 * curve.drop and curve.start - curve.end > 0.05 * abs(curve.start)
    rows = (onset * every, top * every, until * every)
    lost = float(curve.rows[rows[2]] - curve.rows[rows[0]])
    if lost < _LOST * (curve.last - curve.first) or curve.rates[rows[2]] < 0.5 * plan.peak or not better:
        return None
    return _finding(curve, plan, rows, float(above[top]))


def _finding(curve: Curve, plan: Phases, rows: tuple[int, int, int], height: float) -> Finding:
    onset, top, until = (int(curve.rows[row]) for row in rows)
    length = curve.last - curve.first
    warm = int(curve.rows[plan.warm]) - curve.first
    longer = max(3 * warm, round(0.05 * length), 2 * (top - curve.first), 10)
    rate = float(curve.rates[rows[0]]) if curve.rates is not None else plan.peak
    return Finding(
        "warmup_too_short", f"the loss is thrown up at step {onset}, as the rate arrives, and comes back at the same rate",
        0.75 if height > curve.drop else 0.55,
        (onset, until),
        (
            f"it rises by {height:.3g} and is back at step {until}: about {until - onset} steps lost",
            f"the rise began at a rate of {rate:.3g}; the peak is {plan.peak:.3g}",
        ),
        ("a lower rate would avoid it too",),
        f"warm up over {longer} steps in place of {warm}; if it rises again, halve the peak to {plan.peak / 2:.3g}",
        "the loss falls from the first updates on", restart=curve.first,
    )  # fmt: skip
