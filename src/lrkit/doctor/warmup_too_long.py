"""Warm-up too long: the rate reaches its peak late or never, and the loss falls only as fast as the rate rises.

Google's tuning playbook keeps warm-ups below a tenth of the steps; one-cycle schedules spend 30 to 45 % of them on it by design.
A log that is cut within its warm-up looks like one whose warm-up fills the run: of short ones nothing is said.
"""

from __future__ import annotations

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import Phases, level_of, phases

_LONG, _BEYOND = 0.35, 0.55  # of the steps: beyond what one-cycle does
_AS_IT_RISES = ", and the loss falls only as the rate rises"
_FEW = 120  # rows of a log that may be the beginning of a run


def warmup_too_long(curve: Curve) -> Finding | None:
    """A warm-up over more than a third of the run at whose middle the loss had not made half of its drop."""
    plan = phases(curve)
    if plan is None or curve.rates is None or plan.warm == 0 or not plan.simple:
        return None
    length = max(1, curve.last - curve.first)
    share = float(curve.rows[min(plan.warm, curve.points - 1)] - curve.first) / length
    if curve.planned is not None and curve.planned > 1.1 * (curve.last + 1):
        return None
    held_back = curve.start - _around(curve, plan.warm // 2) < 0.5 * (curve.start - min(curve.end, curve.low))
    falls = curve.start - curve.end > max(4 * curve.noise, 3 * curve.spread)
    if share < _LONG or not falls or (plan.rising and curve.points < _FEW) or not (held_back or share > _BEYOND):
        return None
    return _finding(curve, plan, share, held_back)


def _around(curve: Curve, row: int) -> float:
    width = max(2, curve.points // 40)
    return level_of(curve.values[max(0, row - width) : row + width + 1])[0]


def _finding(curve: Curve, plan: Phases, share: float, held_back: bool) -> Finding:
    length = curve.last - curve.first
    short = max(1, round(0.05 * length))
    lost = max(1, int((share * length - short) / 2))
    sure = 0.5 if not held_back else 0.8 if share > _BEYOND else 0.55
    when = "still rises at the last step" if plan.rising else f"reaches its peak at step {int(curve.rows[plan.warm])}"
    return Finding(
        "warmup_too_long", f"the rate {when}{_AS_IT_RISES if held_back else ''}: the warm-up is too long", sure,
        (curve.first, int(curve.rows[min(plan.warm, curve.points - 1)])),
        (
            f"{share:.0%} of {length} steps are warm-up: about {lost} steps lost",
            f"at its middle the loss is {_around(curve, plan.warm // 2):.4g}; it goes from {curve.start:.4g} to {curve.end:.4g}",
        ),
        ("a log that was cut within its warm-up looks alike",) if plan.rising else ("one-cycle schedules do so by design",),
        f"warm up over {short} steps in place of {int(share * length)}; the peak of {plan.peak:.3g} stays",
        "the loss of the middle of the warm-up is reached in a quarter of the steps", restart=curve.first,
    )  # fmt: skip
