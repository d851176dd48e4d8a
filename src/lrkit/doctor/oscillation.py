"""Oscillation: the loss hangs at a level that the rate itself holds up, between a valley's walls or in a ball of noise.

Where the loss stands still, what the updates promise and do not keep is what a lower rate would gain (see `gauged`); if that is a
good part of the level, the rate is too high for where the run is. At the edge of stability alone nothing is wrong: there the
loss still falls over long windows (arXiv:2103.00065), and then this rule is silent. Before a decay that is still to come such a
plateau is how the schedule works (arXiv:2410.05192), and the finding is never more than possible.
"""

from __future__ import annotations

import math

from lrkit.doctor.curve import Curve, advised
from lrkit.doctor.finding import Finding
from lrkit.doctor.gauged import Stretch, stretches
from lrkit.doctor.rate import unfinished

HALF = 0.16  # of the level: what a decay gains where a valley and a floor are as likely
_STEEP = 2.5  # how sharply the odds change with the logarithm of that
_AIM = 0.05  # of the level: what the advised rate may hold up
_MOST = 0.95  # sure
_PLANNED = 0.45  # sure, where a decay may be to come
_FEW, _UNSURE = 6, 0.55  # visits below which it is no more than that
_DECAYED = 0.1  # of the way: in so short a part little can be seen


def oscillation(curve: Curve) -> Finding | None:
    """The end of the run stands still, and a decay would gain a good part of its level."""
    seen, _ = stretches(curve)
    if seen is None or seen.way < _DECAYED or (sure := held_up(seen)) < 0.5:
        return None
    counter = [] if seen.visits >= _FEW else [f"the gauges were read only {seen.visits} times there"]
    if planned := unfinished(curve):
        counter.append("the log ends in the middle of a schedule: its decay is still to come, and it will pay off")
    if math.isnan(seen.cosine) or seen.gain_ratio > 0.9:
        counter.append("single updates keep most of what they promise: it is noise that is averaged too little, not walls")
    factor = min(1 / 3, max(0.1, _AIM / max(seen.decay, 1e-9)))
    sure = min(sure, _PLANNED if planned else 1.0, 1.0 if seen.visits >= _FEW else _UNSURE)
    return Finding(
        "oscillation",
        f"from step {seen.first} on the loss hangs at {seen.level:.4g} because the updates are too long: they bounce", sure,
        (seen.first, seen.last), evidence(seen), tuple(counter),
        f"{advised(curve, factor)} from step {seen.first} on, or start the decay there; less momentum helps too",
        "the loss falls below its level within a few dozen updates", factor=factor, restart=seen.first,
    )  # fmt: skip


def held_up(seen: Stretch) -> float:
    """How surely the rate holds the level up: ½ where a decay gains `HALF` of it."""
    odds = _STEEP * math.log(max(seen.decay, 1e-6) / HALF)
    return _MOST / (1 + math.exp(-odds))


def evidence(seen: Stretch) -> tuple[str, ...]:
    """What the gauges say of a stretch."""
    gains = f"what its updates promise and do not keep: a decay gains about {seen.decay:.0%} of the level ({seen.visits} visits)"
    parts = [f"an update makes {seen.gain_ratio:.2f} of what its gradient promises (1: short steps; ½ and less: too long)"]
    if not math.isnan(seen.cosine):
        parts.append(f"the cosine of successive gradients is {seen.cosine:+.2f} (−1: from wall to wall)")
    if not math.isnan(seen.edge):
        parts.append(f"the largest curvature is at {seen.edge:.2g} of the stable limit")
    return (gains, "; ".join(parts), signal_of(seen))


def signal_of(seen: Stretch) -> str:
    """The noise-corrected gradient in a sentence."""
    if seen.whole:
        return "the batches are all the data, and their gradient is small beside how the examples' gradients differ"
    return f"without its noise the squared gradient is {seen.signal:.2g} ± {seen.error:.1g} of what the noise adds"
