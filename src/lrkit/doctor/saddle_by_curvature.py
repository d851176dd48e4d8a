"""Saddle, by curvature: the loss stands still, at the start or anywhere, and the smallest curvature shows ways down.

`saddle` reads the loss alone and knows only the start; this rule needs the gauges. The gradient without its noise is small there,
the updates are short beside the curvature, and |λmin| is a clear part of λmax. A batch's own Hessian has negative curvature by
noise too, but such a way would have been taken long ago (see `gauged`: folds). The rate is never lowered for a saddle.
"""

from __future__ import annotations

import math

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.gauged import Stretch, stretches
from lrkit.doctor.oscillation import held_up, signal_of
from lrkit.doctor.saddle import classes_at, saddle

_CLEAR, _CLEAR_WHOLE = -0.01, -0.002  # of the largest curvature: a smallest one that is below 0, by a batch, and by all the data
_BENT, _BENT_LEFT = -0.015, -0.3  # likewise: a way that is likely, and one that the loss has gone since
_TAKEN, _TAKEN_START = 30.0, 150.0  # folds after which noise has found a way that is there; where nothing has been learned yet
_DEEP, _FLAT = 0.02, 1e-4  # of the level: a slope that leads so far down is no saddle's; where the rate has done little yet
_TURNS = 6.0  # along the steepest direction: a rate that has done something
_TURNS_WHOLE, _TURNS_NOISY = 20.0, 100.0  # the same, where the loss has fallen before, by all the data and by batches
_SHORT = 0.85  # gain ratio: of shorter steps the smallest curvature is that of the level, not of the walls
_NEAR = 0.05  # of the start: hardly fallen
_FEW = 10  # classes: the chance levels of more lie so dense that one is always near
_GUESS = 0.25  # of the start: what a first layer of biases may have brought
DOUBT = 0.14  # of the level: what the loss may be falling by all the same


def saddle_by_curvature(curve: Curve) -> Finding | None:
    """The surer of what the gauges say and what `saddle` sees in the loss: one illness is reported once."""
    seen = [one for one in (_by_curvature(curve), saddle(curve)) if one is not None]
    return max(seen, key=lambda one: one.confidence, default=None)


def _by_curvature(curve: Curve) -> Finding | None:
    """A stretch that the loss left later, or has not left, with a way down."""
    found = [(way_down(one, curve), one) for one in stretches(curve) if one is not None]
    sure, seen = max(found, key=lambda pair: pair[0], default=(0.0, None))
    if seen is None or sure < 0.5:
        return None
    until = f"until step {seen.last}, then falls" if seen.left > 0 else "to the end"
    counter = []
    if not (seen.left > 0 or at_start(seen, curve) or seen.whole):
        counter.append("the curvature is that of single batches, which noise bends too")
    return Finding(
        "saddle", f"the loss stays at {seen.level:.4g} from step {seen.first} {until}: a saddle, with ways down", sure,
        (seen.first, seen.last),
        (f"the smallest curvature is {seen.bent:+.2g} of the largest ({seen.visits} visits)", signal_of(seen)), tuple(counter),
        "do not lower the rate; a larger or less symmetric initialisation, normalisation or residual paths avoid it; "
        + ("a higher rate or more momentum" if not seen.edge > 0.5 else "patience or more momentum") + " leaves it sooner",
        "the loss leaves its level after the weights are moved a little at random",
    )  # fmt: skip


def way_down(seen: Stretch, curve: Curve) -> float:
    """How surely a stretch is a saddle's, 0 to 1."""
    clear = _CLEAR_WHOLE if seen.whole else _CLEAR
    bounces = seen.cosine < -0.5 or (seen.gain_ratio < _SHORT and not seen.whole)
    if math.isnan(seen.bent) or seen.bent > clear or bounces or _slopes(seen) or held_up(seen) > 0.4:
        return 0.0
    if seen.left > 0:
        return 0.85
    if seen.doubt > DOUBT:
        return 0.0
    if at_start(seen, curve):
        return 0.85 if seen.whole or seen.folds < _TAKEN_START else 0.0
    if seen.whole:  # no noise: what is symmetric stays so, and what curves down does
        return 0.0 if seen.turns < _TURNS_WHOLE else 0.8 if seen.bent < _BENT else 0.55
    return 0.55 if seen.folds < _TAKEN and seen.turns > _TURNS_NOISY else 0.0


def _slopes(seen: Stretch) -> bool:
    """Whether the gradient leads down further than a saddle's does; noise may hide that while the rate has done little."""
    if seen.turns > _TURNS or (seen.left > 0 and seen.bent < _BENT_LEFT):
        return seen.depth > _DEEP
    return seen.depth > _FLAT or not (seen.whole or seen.signal > 1.5 * seen.error)


def at_start(seen: Stretch, curve: Curve) -> bool:
    """Whether the loss is hardly below where it began, or not far below and at the level of a blind guess."""
    below = abs(curve.start - seen.level)
    hardly = below < _NEAR * abs(curve.start)
    return hardly or (
        abs(seen.fallen) < _GUESS and (below < 2 * curve.spread or 0 < classes_at(seen.level, 1e-3 * abs(seen.level)) <= _FEW)
    )
