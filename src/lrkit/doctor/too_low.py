"""Too low: slow all along; at the end the loss still falls as if there were far to go (the yellow curve)."""

from lrkit.doctor.curve import Curve, advised
from lrkit.doctor.finding import Finding

_CONSTANT, _DECAYING = 0.05, 0.13  # of the drop, made in the last third of the way


def too_low(curve: Curve) -> Finding | None:
    """The last third of the way (in summed rate, while it is high) still makes a good share of the drop, and nothing ever rose.

    A run whose rate decays has its last stretch still to come then, so there the share has to be larger.
    """
    falls, t = curve.trend(since=2 / 3)
    height, _ = curve.rise()
    limit = _DECAYING if curve.decays else _CONSTANT
    if falls < limit or t < 5 or curve.noise > 0.1 * curve.drop or height > max(0.1 * curve.drop, 4 * curve.noise):
        return None
    # A third of the drop in a third of the way, and not much at first: the rate has hardly begun to matter.
    slow_at_first = curve.start - curve.at(0.12) < 0.25 * curve.drop
    factor = 10.0 if falls > 0.25 and slow_at_first else 3.0
    first, last = curve.stretch(since=2 / 3)
    when = f"when its rate begins to fall, at step {last}" if curve.decays else "at the end"
    return Finding(
        "too_low", f"the loss falls slowly all along and is still falling {when}: the rate is too low",
        0.95 if falls > 2 * limit or (not curve.decays and falls > 0.1) else 0.65, (first, last),
        (f"steps {first}–{last} still make {falls:.0%} of the whole drop",),
        ("a longer run at this rate would get there too",),
        f"{advised(curve, factor)} and restart",
        "the new run reaches this run's last loss in less than half the updates", factor=factor, restart=curve.first,
    )  # fmt: skip
