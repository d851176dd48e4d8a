"""Too high at the start: the loss rises at once, or hardly falls at all, and never makes up for it (the red curve)."""

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.odds import Odds
from lrkit.doctor.rate import changed, compared, confidence

_STUCK = 0.1  # of the start
_JOLT = 10.0  # spreads of a row


def too_high_at_start(curve: Curve, odds: Odds) -> Finding | None:
    """Where the odds say too high and the run rose in its first tenth, or has made hardly any way from its start.

    A rise that is followed by a deep fall (a catapult) is no fault.
    """
    if odds.word != "too high" or not harmed_at_once(curve):
        return None
    height, block = curve.rise()
    stuck = curve.start - curve.end < _STUCK * abs(curve.start)
    what = "rises in the first updates" if _rises(curve) else "hardly improves"
    seen = f"it rises by {height:.3g} above its first value {curve.start:.4g}" if _rises(curve) else _thrown(curve)
    sure, counter = confidence(curve, odds)
    return Finding(
        "too_high_at_start", f"the loss {what} and never makes up for it: the rate is probably too high from the start", sure,
        (curve.first, curve.last if stuck else int(curve.steps[min(len(curve.steps) - 1, block + 2)])),
        (f"{seen}, and ends at {curve.end:.4g}", *compared(curve, odds)), counter,
        f"{changed(curve, odds)} and restart; if it rises again, lengthen the warm-up",
        "in the first tenth of the new run the loss falls below its first value", factor=odds.factor, restart=curve.first,
    )  # fmt: skip


def _thrown(curve: Curve) -> str:
    up = f"one of the first updates throws it up by {curve.jolt:.0f} times its noise" if curve.jolt > _JOLT else ""
    return up or f"it hardly leaves its start {curve.start:.4g}"


def never_recovers(curve: Curve) -> bool:
    """Whether the loss rises well above its start in the first tenth and ends hardly below it, if at all.

    Of 65 such runs on labelled sweeps 64 had too high a rate or diverged.
    """
    return _rises(curve) and curve.start - curve.end < 0.05 * abs(curve.start)


def harmed_at_once(curve: Curve) -> bool:
    """Whether the first tenth rose above the start by more than noise, or the whole run fell by less than a tenth of it."""
    fallen = (curve.start - curve.end) / abs(curve.start) if curve.start else 0.0
    return fallen < _STUCK or (_rises(curve) and fallen < 0.5)


def _rises(curve: Curve) -> bool:
    """Whether the first tenth lies above the start by more than noise."""
    return curve.rise()[0] > max(4 * curve.noise, 4 * curve.spread, 0.05 * curve.drop, 0.005 * abs(curve.start))
