"""Floor: the run has come to where neither a lower nor a higher rate brings it further: a minimum, or a ball of noise around one.

Seen: the loss stands still, a decay would gain little of its level (see `gauged`), the gradient without its noise is no larger
than that, and the smallest curvature shows no way down. Said is "stationary for this data", never "a global minimum": searches
for critical points often end where the gradient is merely flat (arXiv:2003.10397).
"""

from __future__ import annotations

import math

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.gauged import Stretch, stretches
from lrkit.doctor.oscillation import held_up, signal_of
from lrkit.doctor.saddle_by_curvature import DOUBT, at_start, way_down

_MOST = 0.95  # sure
_UNPROVED = 0.5  # sure, where something essential is not known
_HELD = 0.02  # of the level: what is worth a decay
_TURNS, _TURNS_NOISY = 6.0, 50.0  # along the steepest direction, see `gauged`: below, nothing is said, or not much by batches
_WAY = 0.35  # of the run's way: in less of it, as after a decay, a loss stands still anyway
_SLOW = 0.01  # of the level: a fall
_REACH = 0.2  # levels that the updates promise in all: below, the rate is too low to tell
_BENT = -0.003  # of the largest curvature: what may be a way down
_SLOPE = 0.02  # levels that the gradient without its noise leads down: it is there


def floor(curve: Curve) -> Finding | None:
    """The end of the run stands still, and nothing there promises progress."""
    seen, _ = stretches(curve)
    if seen is None or way_down(seen, curve) >= 0.5 or (sure := _MOST - held_up(seen)) < 0.45:
        return None
    if _too_low(seen) or (seen.way < _WAY and not seen.whole):
        return None
    counter = _doubts(seen, curve)
    return Finding(
        "floor",
        f"from step {seen.first} on the run is stationary for this data: at {seen.level:.4g} "
        + ("the noise of the batches keeps it a little above its floor" if seen.decay > _HELD else "it has reached its floor"),
        min(sure, _UNPROVED) if counter else sure, (seen.first, seen.last),
        (f"the loss stands still, within {seen.doubt:.1%}", signal_of(seen), *_curvature(seen)), tuple(counter),
        _advice(seen), "a branch at a tenth of the rate ends where the decay is said to end, and no lower",
    )  # fmt: skip


def _too_low(seen: Stretch) -> bool:
    """Whether the gradient is there, and steps follow it that are merely too short."""
    there = not seen.whole and seen.signal - 2 * seen.error > 0 and seen.depth > _SLOPE
    return seen.turns < _TURNS or (there and not seen.gain_ratio < 0.9 and seen.reach < 1)


def _advice(seen: Stretch) -> str:
    gains = f"a decay to a tenth of the rate still gains about {0.9 * seen.decay:.0%}, {0.9 * seen.decay * abs(seen.level):.2g}"
    if seen.decay > _HELD:
        return f"{gains}; after that only data, model or regularisation bring it lower"
    return "stop here, or change data, model or regularisation: no rate brings the training loss lower"


def _curvature(seen: Stretch) -> tuple[str, ...]:
    if math.isnan(seen.bent):
        return ()
    if seen.bent > -0.01:
        return (f"the smallest curvature is {seen.bent:+.2g} of the largest: no way down to the sides",)
    return (f"the smallest curvature, {seen.bent:+.2g} of the largest, would have been followed long ago: it is a batch's own",)


def _doubts(seen: Stretch, curve: Curve) -> list[str]:
    found = []
    if seen.doubt > DOUBT:
        found.append(f"the loss is so noisy that it could be falling by {seen.doubt:.0%} there")
    if not seen.whole and (seen.turns < _TURNS_NOISY or seen.reach < _REACH):
        found.append("the rate is so low, or the stretch so short, that even a real gradient would hardly have moved the loss")
    if not seen.whole and seen.fall > max(_SLOW, 1.5 * (seen.doubt - seen.fall)):
        found.append(f"the loss still falls, by {seen.fall:.1%} there")
    if at_start(seen, curve):
        found.append("the loss is hardly below where it began: a saddle whose curvature is not seen looks alike")
    if seen.gain_ratio < 0.5 and seen.bent < _BENT:
        found.append(f"the smallest curvature is {seen.bent:+.2g} of the largest, of the walls it bounces between or of a saddle")
    if math.isnan(seen.bent):
        found.append("the curvature was not read: a saddle looks alike")
    return found
