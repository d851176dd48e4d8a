"""Too high at the start: the loss rises at once and does not make up for it (the red curve)."""

from lrkit.doctor.curve import Curve, advised
from lrkit.doctor.finding import Finding

_JOLT = 6.0  # spreads: what noise alone does not do in a tenth of a run


def too_high_at_start(curve: Curve) -> Finding | None:
    """Three blocks in a row above the start within the first tenth, or one jolt far out of the noise, and never made up for.

    A rise that is followed by a deep fall (a catapult) is no fault; after a mere jolt the loss has to be stuck at its start.
    """
    height, block = curve.rise()
    fallen = (curve.start - curve.end) / abs(curve.start) if curve.start else 0.0
    stuck = fallen < 0.05
    risen = height > max(4 * curve.noise, 4 * curve.spread, 0.05 * curve.drop, 0.005 * abs(curve.start))
    if fallen > 0.5 or not (risen or (stuck and curve.jolt > _JOLT)):
        return None
    if risen:
        seen = f"it rises by {height:.3g} above its first value {curve.start:.4g} and ends at {curve.end:.4g}"
    else:
        seen = f"one of the first updates throws it up by {curve.jolt:.0f} times its noise, and it ends at {curve.end:.4g}"
    factor = 0.1 if stuck else 1 / 3
    return Finding(
        "too_high_at_start", "the loss rises in the first updates and never makes up for it: the rate is too high from the start",
        0.95 if risen else 0.8, (curve.first, int(curve.steps[min(len(curve.steps) - 1, block + 2)])), (seen,),
        () if curve.lr is not None else ("no rate in the log",),
        f"{advised(curve, factor)} and restart; if it rises again, lengthen the warm-up",
        "in the first tenth of the new run the loss falls below its first value", factor=factor, restart=curve.first,
    )  # fmt: skip
