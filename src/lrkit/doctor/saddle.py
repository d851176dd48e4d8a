"""Saddle: at the very start the loss stays at the level of a blind guess, and leaves it late or never.

The level is that of a model that answers every row alike: ln C for C balanced classes, or wherever the loss began. The symmetry
of an initialisation (weights near 0) makes it; SGD leaves such points by itself, slowly (arXiv:1703.00887). The rate is never
lowered for it. On the loss alone a rate far too low looks alike where the loss never leaves: that is said as possible only.
"""

from __future__ import annotations

import math

import numpy as np

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import Array, slope, way

_LONG = 0.08  # of the way and of the steps
_FLAT = 0.02  # of the drop
_NEAR = 0.1  # of the drop: where the noise is larger, no plateau is seen
_FALL = 0.4  # of the drop, made after the plateau


def saddle(curve: Curve) -> Finding | None:
    """A plateau from the first tenth on, at chance or at the start, that is left at once later, or never."""
    blocks = curve.loss
    if len(blocks) < 20:
        return None
    first, last, near = _plateau(curve)
    level = float(np.median(blocks[first : last + 1]))
    gone = way(curve)
    steps = (curve.steps[last] - curve.steps[first]) / max(1, curve.last - curve.first)
    share = float(min(gone[last] - (gone[first - 1] if first else 0.0), steps))
    classes = classes_at(level, float(np.std(blocks[first : last + 1])) / (last - first + 1) ** 0.5)
    at_start = abs(level - curve.start) < max(3 * curve.spread, 0.05 * curve.drop)
    if last >= len(blocks) - 3:
        return _never(curve, first, level, classes if near < 0.1 * level else 0)
    if (
        share < _LONG
        or near > _NEAR * curve.drop
        or not (classes or (at_start and curve.lr is not None))
        or level - curve.end < _FALL * curve.drop
    ):
        return None
    if level - curve.end < max(8 * curve.noise, 3 * curve.spread, 0.1 * abs(level)) or not _at_once(curve, gone, last, share):
        return None
    since = int(curve.steps[last])
    at = f"{level:.4g}" + (f" = ln {classes}" if classes else ", where it began,")
    return Finding(
        "saddle", f"the loss stays at the level of a blind guess until step {since}, then falls: a saddle of the initialisation",
        0.75 if curve.lr is not None else 0.5,
        (int(curve.steps[first]), since), (f"it stays at {at} for {share:.0%} of the way and ends at {curve.end:.4g}",),
        ("data that become learnable late look alike" if curve.lr is not None else "no rate in the log: a warm-up looks alike",),
        f"do not lower the rate; a larger initialisation, normalisation or residual paths save about {since - curve.first} "
        "steps, a higher rate or momentum some of them",
        "the loss leaves its first level within a few updates",
    )  # fmt: skip


def _plateau(curve: Curve) -> tuple[int, int, float]:
    """(first, last) block of the longest stretch on one level that begins within the first tenth, and what counts as near it."""
    blocks = curve.loss
    apart = 1.05 * float(np.median(np.abs(np.diff(blocks[: max(6, len(blocks) // 10)]))))
    limit = max(4 * apart, _FLAT * curve.drop)
    best = (0, 0)
    for first in range(max(1, len(blocks) // 10)):
        level = float(np.median(blocks[first : first + 5]))
        near = np.abs(blocks[first:] - level) <= limit
        length = len(near) if near.all() else int(np.argmin(near))
        if length - 1 > best[1] - best[0]:
            best = (first, first + length - 1)
    return *best, limit


def _at_once(curve: Curve, gone: Array, last: int, share: float) -> bool:
    """Whether, beyond the plateau, half of the fall takes no longer a way than the plateau did: a slow start is none."""
    below = np.flatnonzero(curve.loss[last:] < curve.loss[last] - 0.5 * (curve.loss[last] - curve.end))
    return bool(len(below)) and float(gone[last + int(below[0])] - gone[last]) < max(share, 0.1)


def classes_at(level: float, off: float) -> int:
    """The number of classes of which this is the chance level, or 0."""
    if not 0.6 < level < 11:
        return 0
    classes = round(math.exp(level))
    common = classes <= 50 or classes in (100, 200, 1000)
    return classes if common and abs(level - math.log(classes)) < min(max(3 * off, 2e-3 * level), 0.2 / classes) else 0


def _never(curve: Curve, first: int, level: float, classes: int) -> Finding | None:
    change, error = slope(curve.steps[first:], curve.loss[first:])
    came_down = float(curve.values[0]) - level > max(3 * curve.spread, 0.005 * level)  # else a rate that does nothing looks alike
    if not classes or not came_down or change < -4 * error or float(np.max(curve.loss[: first + 1])) > 1.25 * level:
        return None
    return Finding(
        "saddle", f"the loss comes down to {level:.4g} = ln {classes}, the level of a blind guess, and stays there", 0.55,
        (curve.first, curve.last),
        (f"it begins at {curve.start:.4g} and ends at {curve.end:.4g}",),
        ("a rate far too low looks alike, and so do labels that do not belong to the data",),
        "do not lower the rate; look at labels, loss and initialisation, then search the rate with lrkit.find",
        "the loss leaves its first level",
    )  # fmt: skip
