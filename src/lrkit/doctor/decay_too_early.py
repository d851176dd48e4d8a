"""Decay too early: the rate is (nearly) nothing for a good part of the run, though the loss was still falling at the high rate.

What the rest of the steps would have gained at the high rate is read off the fall before the decay, which is continued as it
slowed down there; what they did gain, the drop of the decay itself included, is taken off.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import level_of, phases

_LOW = 0.05  # of the peak: a rate that hardly moves anything
_LONG = 0.3  # of the steps
_LOST = 0.1  # of the drop


def decay_too_early(curve: Curve) -> Finding | None:
    """At least 30 % of the steps at a rate below 5 % of the peak, and a tenth of the drop missed by it."""
    plan = phases(curve)
    if plan is None or curve.rates is None or not plan.simple or plan.decay >= curve.points:
        return None
    rate = curve.rates
    high = np.flatnonzero(rate >= _LOW * plan.peak)
    tail, end_high = int(high[-1]) + 1, int(np.flatnonzero(rate >= 0.5 * plan.peak)[-1]) + 1
    length = max(1, curve.last - curve.first)
    if tail >= curve.points or (curve.last - curve.rows[tail]) < _LONG * length or end_high - plan.warm < 12:
        return None
    halves, error, gone = _halves(curve, plan.warm, end_high)
    if halves is None:
        return None
    one, two = halves
    steps = float(curve.last - curve.rows[end_high])
    slowing = float(np.clip(two / one, 0.0, 0.97)) if one > 0 else 0.0
    rounds = steps / max(gone, 1.0)  # of half the stretch before
    gain = two * slowing * (1 - slowing**rounds) / (1 - slowing)
    did = level_of(curve.values[max(plan.warm, end_high - max(3, (end_high - plan.warm) // 8)) : end_high])[0] - curve.end
    if two < 5 * error or gain - max(did, 0.0) < max(_LOST * curve.drop, 3 * error):
        return None
    first, lost = int(curve.rows[end_high - 1]), int(curve.last - curve.rows[tail])
    return Finding(
        "decay_too_early", f"the rate decays at step {first} while the loss still falls; the steps after it gain little", 0.8,
        (first, curve.last),
        (
            f"{lost} of {length} steps run below {_LOW:.0%} of the peak rate: about {lost} steps lost",
            f"at the high rate they would have gained about {gain:.3g}; they gained {max(did, 0.0):.3g}",
        ),
        ("what a longer high rate would gain is a guess from the fall before the decay",),
        f"let the decay begin at step {int(curve.last - 0.2 * length)} in place of {first}, and end with the run; "
        "the peak rate stays",
        "the loss ends lower after as many steps", restart=max(curve.first, first),
    )  # fmt: skip


def _halves(curve: Curve, first: int, last: int) -> tuple[tuple[float, float] | None, float, float]:
    """((fall of the first half, of the second), error of one, steps of a half) of the stretch at the high rate."""
    cuts = np.linspace(first, last, 9).round().astype(int)
    levels = [level_of(curve.values[a:b]) for a, b in pairwise(cuts)]
    error = 1.4 * max(levels[4][1], levels[-1][1])
    falls = (levels[0][0] - levels[3][0]) * 4 / 3, (levels[4][0] - levels[7][0]) * 4 / 3
    gone = float(curve.rows[last - 1] - curve.rows[first]) / 2
    return (falls if falls[0] > 0 and np.isfinite(error) else None), error, gone
