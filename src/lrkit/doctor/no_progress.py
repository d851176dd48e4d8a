"""No progress: too little was seen, or the loss moves less than its noise. Nothing can be told of such a run."""

import numpy as np

from lrkit.doctor.curve import FEWEST, Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import slope

_JOLT = 6.0  # spreads of a row: what noise alone does not do among the first updates


def too_short(curve: Curve) -> Finding:
    """Fewer rows, or fewer different steps, than a rule can look at."""
    first = int(curve.steps[0]) if len(curve.steps) else curve.first
    on = f" on {len(np.unique(curve.rows))} steps" if curve.points >= FEWEST else ""
    seen = "1 loss is" if curve.points == 1 else f"{curve.points} losses{on} are"
    return Finding(
        "cannot_tell", f"{seen} too few to judge a curve", 1.0, (first, curve.last),
        (f"at least {FEWEST}{' different steps' if on else ''} are needed",), (),
        "log every update, or train longer", "run the doctor again",
    )  # fmt: skip


def no_progress(curve: Curve) -> Finding | None:
    """Hardly any drop, no trend and no jolt: a rate far too low, a symmetry plateau and a broken loss all look like this."""
    change, error = slope(curve.steps, curve.loss)
    fallen, (height, _) = curve.start - curve.end, curve.rise()
    small = max(3 * curve.noise, 3 * curve.spread, 0.02 * abs(curve.start))
    if fallen > small or -change > 4 * error or curve.jolt > _JOLT or height > max(4 * curve.noise, 4 * curve.spread):
        return None
    return Finding(
        "cannot_tell", "the loss moves less than its noise: far too low a rate, a plateau, broken data look alike", 1.0,
        (int(curve.steps[0]), curve.last), (f"it begins at {curve.start:.4g} and ends at {curve.end:.4g}",), (),
        "search the rate with lrkit.find; if it finds none, look at the data and the labels",
        "the loss leaves its first level",
    )  # fmt: skip
