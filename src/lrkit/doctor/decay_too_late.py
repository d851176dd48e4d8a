"""Decay too late: the loss lay flat at the high rate for half of the run, and the decay that freed it came in the last few steps.

A plateau in the stable phase is by design (warm-up, stable, decay; the plateau hides progress, arXiv:2410.05192), so it alone is
no fault. It is one where the decay has less than an eighth of the run and the loss is still falling fast when the run ends.
"""

from __future__ import annotations

import numpy as np

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import level_of, phases, slope

_LATE = 0.875  # of the steps
_FLAT = 0.03  # of the drop, over half of the run
_PAYS = 0.08  # of the drop


def decay_too_late(curve: Curve) -> Finding | None:
    """A decay in the last eighth, a flat half of the run before it, and a fall that is not over at the end."""
    plan = phases(curve)
    if plan is None or curve.rates is None or not plan.simple or plan.decay >= curve.points - 2:
        return None
    length = max(1, curve.last - curve.first)
    begin, half = plan.decay, int(0.4 * plan.decay)
    if curve.rows[begin] - curve.first < _LATE * length or curve.rates[-1] > 0.5 * plan.peak or half < plan.warm:
        return None
    before, error = level_of(curve.values[begin - max(5, begin // 10) : begin])
    rest = curve.values[begin:]
    last = rest[-max(3, len(rest) // 3) :]
    end, end_error = level_of(last)
    pays = before - end
    if pays < max(_PAYS * curve.drop, 4 * float(np.hypot(error, end_error))):
        return None
    change, change_error = slope(curve.rows[half:begin], curve.values[half:begin])
    if -change > _FLAT * curve.drop + 2 * change_error or -change > 0.3 * pays:
        return None
    third = rest[len(rest) // 3 : -max(1, len(rest) // 3)]
    still = level_of(third)[0] - end > 0.1 * pays and level_of(third)[0] - end > 2 * end_error
    first, lost = int(curve.rows[begin]), int(curve.rows[begin] - curve.rows[half])
    if not still and curve.rows[begin] - curve.first < 0.94 * length:
        return None
    return Finding(
        "decay_too_late", f"the loss lay flat for {lost} steps before the rate decayed at step {first}, and fell at once then",
        0.8 if still else 0.65, (int(curve.rows[half]), curve.last),
        (
            f"the decay gains {pays:.3g}, {pays / curve.drop:.0%} of the whole drop, in {curve.last - first} steps",
            *(("it is still falling at the last step",) if still else ()),
            f"about {max(1, int(lost - 0.2 * length))} steps at the high rate gained nothing",
        ),
        ("a plateau at a high rate can hide progress: a decay from an earlier step shows whether it did",),
        f"let the decay begin at step {int(curve.last - 0.2 * length)} in place of {first}; the peak rate stays",
        "the loss ends lower after as many steps", restart=int(curve.last - 0.2 * length),
    )  # fmt: skip
