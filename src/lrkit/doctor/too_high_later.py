"""Too high later: falls fast, then stays on one level with its noise, far above where a lower rate would bring it."""

import numpy as np

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.odds import Odds
from lrkit.doctor.rate import changed, compared, confidence
from lrkit.doctor.too_high_at_start import harmed_at_once


def too_high_later(curve: Curve, odds: Odds) -> Finding | None:
    """Where the odds say too high of a run that began well: since when it is flat is where the rate is to be lowered."""
    if odds.word != "too high" or harmed_at_once(curve):
        return None
    made = (curve.start - np.minimum.accumulate(curve.loss)) / curve.drop
    flat = int(np.argmax(made >= 0.9))
    since = int(curve.steps[flat]) if flat else curve.first
    share = (since - curve.first) / max(1, curve.last - curve.first)
    sure, counter = confidence(curve, odds)
    return Finding(
        "too_high_later",
        "the loss falls fast at first, then only jitters on one level: there the rate is probably too high", sure,
        (since, curve.last),
        (f"90% of the fall came in the first {max(share, 0.01):.0%}; then it stays between "
         f"{np.quantile(curve.loss[flat:], 0.1):.4g} and {np.quantile(curve.loss[flat:], 0.9):.4g}", *compared(curve, odds)),
        (*counter, "the model may have reached its limit: a short branch at the lower rate (lrkit.probe) tells"),
        f"{changed(curve, odds)} and go back to step {since}, or let the rate decay from there on",
        "the loss falls below its plateau within a tenth of the run", factor=odds.factor, restart=since,
    )  # fmt: skip
