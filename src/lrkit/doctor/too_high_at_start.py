"""Too high at the start: the loss rises at once and does not make up for it (the red curve)."""

from lrkit.doctor.curve import Curve, advised
from lrkit.doctor.finding import Finding


def too_high_at_start(curve: Curve) -> Finding | None:
    """Three blocks in a row above the start within the first tenth, and an end that is not far below it.

    A rise that is followed by a deep fall (a catapult) is no fault.
    """
    height, block = curve.rise()
    small = max(4 * curve.noise, 0.05 * curve.drop, 0.005 * abs(curve.start))
    fallen = (curve.start - curve.end) / abs(curve.start) if curve.start else 0.0
    if height <= small or fallen > 0.5:
        return None
    stuck = fallen < 0.05
    factor = 0.1 if stuck else 1 / 3
    return Finding(
        "too_high_at_start", "the loss rises in the first updates and never makes up for it: the rate is too high from the start",
        0.95, (0, int(curve.steps[min(len(curve.steps) - 1, block + 2)])),
        (f"it rises by {height:.3g} above its first value {curve.start:.4g} and ends at {curve.end:.4g}",),
        () if curve.lr is not None else ("no rate in the log",),
        f"{advised(curve, factor)} and restart; if it rises again, lengthen the warm-up",
        "in the first tenth of the new run the loss falls below its first value", factor=factor, restart=0,
    )  # fmt: skip
