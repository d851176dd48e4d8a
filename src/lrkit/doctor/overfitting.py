"""Overfitting: the training loss goes on falling while the validation loss rises, or falls in steps where epochs begin.

No fault of the rate: the model learns its rows by heart. A staircase at the edges of the epochs, each step down at once, is the
same thing seen on the training loss alone: rows that were seen before are known (not a rate that steps down there).
"""

from __future__ import annotations

import numpy as np

from lrkit.doctor.curve import Curve, median3, spread_of
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import edges, level_of, slope

_RISE = 0.1  # of the validation loss's own drop
_COSTLY = 1 / 3  # of it: a smaller rise is common in runs that are the best of their sweep
_ERRORS = 4.0


def overfitting(curve: Curve) -> Finding | None:
    """Validation that clearly rises from its best on while training falls; else a staircase of memorised repeats."""
    return _rises(curve) or _staircase(curve)


def _rises(curve: Curve) -> Finding | None:
    if "val_loss" not in curve.run:
        return None
    steps, values = curve.run.observed("val_loss")
    if len(values) < 6:
        return None
    smooth = median3(values)
    best = int(np.argmin(smooth))
    after = values[best:]
    if len(after) < max(4, len(values) // 8):
        return None
    tail = values[-max(2, len(after) // 4) :]
    rise = float(np.median(tail)) - float(smooth[best])
    noise = spread_of(values)
    change, error = slope(steps[best:], after)
    fallen = max(float(np.max(smooth[: best + 1])) - float(smooth[best]), 1e-3 * abs(float(smooth[best])))
    if rise < _RISE * fallen or rise < 2 * noise or change < _ERRORS * error or not _train_falls(curve, float(steps[best])):
        return None
    first = int(steps[best])
    costly = rise > _COSTLY * fallen and rise > _ERRORS * noise
    return Finding(
        "overfitting", "the training loss falls on while the validation loss rises: the model memorises its training data",
        0.9 if costly else 0.55, (first, curve.last),
        (
            f"the validation loss was best at step {first}: {values[best]:.4g}; it ends at {float(np.median(tail)):.4g}",
            f"it loses {rise / fallen:.0%} of what it had gained",
        ),
        ("a lower rate would only delay it",),
        f"stop at step {first} or keep the weights of it; or more data, augmentation, weight decay, dropout. Leave the rate",
        "the validation loss does not rise any more", restart=None,
    )  # fmt: skip


def _train_falls(curve: Curve, since: float) -> bool:
    """Whether the training loss lies clearly lower at the end than around this step."""
    row = int(np.searchsorted(curve.rows, since))
    width = max(3, min(200, (curve.points - row) // 4))
    here, one = level_of(curve.values[max(0, row - width) : row + width])
    end, other = level_of(curve.values[-width:])
    return here - end > 3 * float(np.hypot(one, other)) and here - end > 0.003 * curve.drop


def _staircase(curve: Curve) -> Finding | None:
    turns = edges(curve)
    if len(turns) < 2 or int(np.min(np.diff(turns))) < 12:
        return None
    length = int(np.median(np.diff(turns)))
    width = min(50, length // 3)
    turns = turns[(turns >= width) & (turns + width <= curve.points)]
    if curve.rates is not None:
        turns = turns[curve.rates[np.minimum(turns + 1, curve.points - 1)] > 0.8 * curve.rates[turns - 1]]
    if len(turns) < 2:
        return None
    pairs = [(level_of(curve.values[t - width : t]), level_of(curve.values[t : t + width])) for t in turns]
    falls = np.array([before[0] - after[0] for before, after in pairs])
    errors = np.array([float(np.hypot(before[1], after[1])) for before, after in pairs])
    total = level_of(curve.values[turns[0] - width : turns[0]])[0] - level_of(curve.values[-width:])[0]
    inside = [_trend_before(curve, int(t), width) for t in turns]
    if np.mean(falls > _ERRORS * errors) < 0.75 or falls.sum() < 0.5 * total or falls.sum() < 0.03 * curve.drop:
        return None
    if float(np.median(falls)) < 3 * max(float(np.median(inside)), 0.0):
        return None
    return Finding(
        "overfitting", "the loss falls in steps where epochs begin: repeated rows are known by heart", 0.65,
        (int(curve.rows[turns[0]]), curve.last),
        (f"{len(turns)} edges of epochs make {min(1.0, falls.sum() / max(total, 1e-300)):.0%} of the fall after the first one",),
        ("no validation loss was logged: it would tell",) if "val_loss" not in curve.run else (),
        "leave the rate; watch the validation loss, and train for fewer epochs if it rises",
        "with more data or fewer epochs the steps go",
    )  # fmt: skip


def _trend_before(curve: Curve, turn: int, width: int) -> float:
    """How far the loss falls, by a straight line, within as many rows before the edge as the step is measured over."""
    return -slope(curve.rows[turn - width : turn], curve.values[turn - width : turn])[0]
