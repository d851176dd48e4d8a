"""Too low: slow all along; at the end the loss still falls as if there were far to go (the yellow curve)."""

import numpy as np

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.odds import Odds
from lrkit.doctor.rate import changed, compared, confidence


def too_low(curve: Curve, odds: Odds) -> Finding | None:
    """Where the odds say so: what the second half still makes, and when the first half of the drop was made."""
    if odds.word != "too low":
        return None
    half = len(curve.loss) // 2
    made = (curve.start - np.minimum.accumulate(curve.loss)) / curve.drop
    late = float(made[-1] - made[half])
    when = (curve.steps[int(np.argmax(made >= 0.5))] - curve.first) / max(1, curve.last - curve.first)
    sure, counter = confidence(curve, odds)
    return Finding(
        "too_low", "the loss was still on its way when the run ended: a higher rate would probably have brought it lower", sure,
        (int(curve.steps[half]), curve.last),
        (f"half of the whole fall took {when:.0%} of the steps; {late:.0%} of it came in the second half of the run",
         *compared(curve, odds)),
        (*counter, "a longer run at this rate would get there too"),
        f"{changed(curve, odds)} and restart",
        "the new run reaches this run's last loss in less than half the updates", factor=odds.factor, restart=curve.first,
    )  # fmt: skip
