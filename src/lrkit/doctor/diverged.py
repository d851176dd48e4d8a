"""Diverged: the loss is not finite any more, or ends above where it began."""

import math

from lrkit.doctor.curve import Curve, advised
from lrkit.doctor.finding import Finding


def diverged(curve: Curve) -> Finding | None:
    """Non-finite to the end, or an end clearly above the start."""
    if curve.points == 0 or (curve.nonfinite == 0 and curve.points < 2):
        return Finding(
            "diverged", "the loss is not finite from the first row on, before any update could do harm", 0.98,
            (0, curve.last), ("no finite loss at all",), (),
            "leave the rate; look at the data (NaN, infinity), the loss function (log or division of 0) and the precision",
            "the loss of the untrained model must be finite", restart=0,
        )  # fmt: skip
    above = curve.end - curve.start
    exploded = curve.nonfinite is not None
    if not exploded and not (above > max(4 * curve.noise, 4 * curve.spread, 0.02 * abs(curve.start)) and len(curve.loss) >= 5):
        return None
    since = curve.nonfinite if exploded else int(curve.steps[int(curve.loss.argmin())])
    assert since is not None, "an explosion has a step"
    length = max(1, curve.last - curve.first)
    early = since - curve.first <= 0.1 * length
    factor, restart = (0.1, curve.first) if early else (1 / 3, max(curve.first, int(since - 0.05 * length)))
    seen = (
        f"the loss is not finite from step {since} on"
        if exploded
        else f"the loss ends at {curve.end:.4g}, above its start {curve.start:.4g}"
    )
    if math.isfinite(curve.start) and exploded:
        seen += f"; it began at {curve.start:.4g}"
    return Finding(
        "diverged", "the training blew up and did not come back", 0.98, (since, curve.last), (seen,),
        ("in half precision, look at the loss scale first",) if exploded else (),
        f"{advised(curve, factor)} and {'restart' if early else f'go back to step {restart}'}; if it blows up again, clip the "
        "gradient norm or lengthen the warm-up",
        "the loss stays below its first value", factor=factor, restart=restart,
    )  # fmt: skip
