"""Shape: a loss curve as a few numbers that do not depend on the loss's scale; five of them depend on its offset.

They are what `odds` weighs. Sizes are shares of the drop from the start to the lowest level. Knows no rate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lrkit.doctor.curve import Curve, median3, spread_of

Array = NDArray[np.float64]
_HUGE = 1e30  # drops: beyond, squares overflow
_SPANS = 64  # stretches of equal length, in steps
NAMES = (
    # log10 of the share of the steps after which 25, 50, 75, 90 % of the drop were made
    "quarter", "half", "three_quarters", "most",
    "trend",  # of the second half, in standard errors, tanh(t / 6): 1 falls surely, −1 rises surely
    "memory",  # autocorrelation of what the trend leaves: a walk 1, noise 0, bouncing −1
    "rough",  # log10 of the median second difference in the first quarter
    "noise",  # log10 of the spread between neighbouring rows, last quarter
    "noise_grows",  # the same, minus that of the first tenth
    "noise_level",  # log10 of that spread as a share of the last level
    "jump", "log_jump",  # how far above the start the first fifth comes
    "jump_level",  # the same as a share of the start
    "fallen", "log_fallen",  # the drop as a share of the start
    "log_left",  # log10 of lowest / start; −1 where one is not positive
)  # fmt: skip


def shape_of(curve: Curve) -> Array:
    """(16,) the numbers of NAMES.

    Args:
        curve: At least 30 finite losses over more than one step.
    """
    steps, loss = curve.rows - curve.rows[0], curve.values
    middles, level = _levels(steps, loss)
    start, low = curve.start, float(np.min(median3(level)))
    end = float(np.median(level[-max(3, len(level) // 10) :]))
    size = max(abs(start), 1e-300)
    drop = max(start - low, 1e-9 * size)
    early = loss[1 : max(6, len(loss) // 5)]
    above = float(np.max(early)) - start
    made = np.clip(level / drop, -_HUGE, _HUGE)
    quarter = made[: max(4, len(level) // 4)]
    late, first = spread_of(loss[-max(10, len(loss) // 4) :]), spread_of(loss[: max(10, len(loss) // 10)])
    noise = np.log10(max(late / drop, 1e-6))
    jump = float(np.clip(above / drop, 0, 5))
    return np.array([
        *_times(steps, loss, middles, level, start, drop),
        *_second_half(made),
        np.log10(max(float(np.median(np.abs(np.diff(quarter, 2)))), 1e-5)),
        noise, noise - np.log10(max(first / drop, 1e-6)),
        np.clip(np.log10(max(late, 1e-300) / max(abs(end), 1e-300)), -6, 1),
        jump, np.log10(1e-3 + jump), np.clip(above / size, 0, 5),
        np.clip(drop / size, 0, 2), np.log10(np.clip(drop / size, 1e-4, 2)),
        np.log10(np.clip(low / start, 1e-5, 1)) if start > 0 and low > 0 else -1.0,
    ])  # fmt: skip


def _levels(steps: Array, loss: Array) -> tuple[Array, Array]:
    """(middle, mean loss) of stretches of equal length in steps; where rows are thin, what lies between is a straight line."""
    count = min(_SPANS, max(8, len(loss) // 2))
    span = float(steps[-1]) or 1.0
    place = np.minimum((steps / span * count).astype(np.intp), count - 1)
    rows = np.bincount(place, minlength=count)
    sums = np.bincount(place, weights=loss, minlength=count)
    middles = (np.arange(count) + 0.5) * span / count
    seen = rows > 0
    return middles, np.interp(middles, middles[seen], sums[seen] / rows[seen])


def _times(steps: Array, loss: Array, middles: Array, level: Array, start: float, drop: float) -> list[float]:
    """log10 of the shares of the steps after which 25, 50, 75 and 90 % of the drop were made for the first time."""
    made = np.maximum.accumulate((start - median3(level)) / drop)
    span = max(float(steps[-1]), 1.0)
    out = []
    for share in (0.25, 0.5, 0.75, 0.9):
        reached = np.flatnonzero(made >= share)
        i = int(reached[0]) if len(reached) else len(made) - 1
        at = float(middles[i])
        if i == 0:  # within the first stretch: the rows tell more
            single = np.flatnonzero(start - loss >= share * drop)
            at = float(steps[single[0]]) if len(single) else at
        out.append(float(np.log10(max(at, 1.0) / span)))
    return out


def _second_half(level: Array) -> list[float]:
    """The trend and the memory of the second half."""
    y = level[len(level) // 2 :]
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float((x * y).sum() / (x**2).sum())
    left = y - y.mean() - slope * x
    squares = float((left**2).sum())
    error = np.sqrt(squares / max(1, len(y) - 2) / (x**2).sum())
    return [
        float(np.tanh(-slope / max(error, 1e-9) / 6)),
        float((left[1:] * left[:-1]).sum() / max(squares, 1e-18)),
    ]
