"""The two limits of a cyclical rate, read off a range test. Knows a Run; knows no net, no optimizer and no schedule."""

from __future__ import annotations

import math

import numpy as np

from lrkit.errors import InputError, real
from lrkit.finder.rules import NoAnswer
from lrkit.run import Array, Run

_FEWEST = 5  # points of a curve
_WIDTH = 0.4  # decades that the running median reaches over, however many rates they hold
_ENOUGH = 15  # windows in a curve: with fewer of them, what goes on between them is the curve itself
_ROUNDING = 2**-19  # of the loss: what float32 loses
_SURE = 4.5  # times the noise of the smoothed curve: by as much it must get better
_AS_GOOD = 0.1  # of the gain: what is closer to the best than this, and than twice the noise, is as good


def cyclical(run: Run, share: float = 0.25) -> tuple[float, float]:
    """(share · max_lr, max_lr), where max_lr is the last rate at which the metric, or the loss, is at its best.

    The curve is smoothed by a centred median over 0.4 decades, which has no lag. Of the rates that are as good as the best, to
    twice the noise and a tenth of the gain, the last one counts. Neither the scale nor the offset of what was measured matters.

    Args:
        run: What `range_test` returns. Where it has a `metric`, that decides (larger is better), else the loss.
        share: base_lr over max_lr, in (0, 1): a quarter or a third.

    Returns:
        Both rates. They are the first group's; groups keep their ratio.

    Raises:
        NoAnswer: If the curve says nothing: too short, not finite from the start, never better by more than its noise, or still
            at its best at the last rate.
        InputError: If the run is no range test, or `share` out of its range.

    Examples:
        >>> import numpy as np
        >>> from lrkit.schedules import compat, exp_range, triangular, triangular2
        >>> power = np.linspace(-6, 1, 99)
        >>> curve = 2 - 1 / (1 + 10 ** (-2 - power)) + np.maximum(0, power)
        >>> base_lr, max_lr = cyclical(Run({"loss": curve, "lr": 10**power}))
        >>> round(base_lr, 2), round(max_lr, 2)
        (0.21, 0.85)

        The optimizer gets max_lr, and `lrkit.attach(optimizer, lr=wave)` does the rest:

        >>> low = base_lr / max_lr
        >>> for wave in triangular(10, low), triangular2(10, low), exp_range(10, 0.99, low):
        ...     print((max_lr * wave([0, 10, 20, 30])).round(2))
        [0.21 0.85 0.21 0.85]
        [0.21 0.85 0.21 0.53]
        [0.21 0.79 0.21 0.68]
        >>> compat.torch.CyclicLR(base_lr, max_lr, step_size_up=10)([0, 10, 20, 30]).round(2)
        array([0.21, 0.85, 0.21, 0.85])

    Source: arXiv:1506.01186, §3.3: the accuracy's turn, and a third or a quarter of it.
    """
    share = real("cyclical", "share", share, above=0.0)
    if share >= 1:
        raise InputError(
            f"cyclical(share={share:g}): must be below 1, as base_lr is below max_lr. A quarter or a third is usual."
        )
    rates, values, whole = _curve(run)
    window = _window(rates)
    smooth = Run({"value": values}).smooth("value", window)[1]
    best = int(np.argmin(smooth))
    gain = min(_level(values), float(smooth[0])) - float(smooth[best])
    noise = 1.25 * _noise(values[: max(_FEWEST, best + 1)], 1) / math.sqrt(window)  # that of a median of so many
    drift = _noise(smooth, window) if len(smooth) >= _ENOUGH * window else 0.0  # of batches that take after their neighbours
    if gain <= max(_SURE * noise, _SURE * drift, _ROUNDING * abs(float(values[0]))):
        raise NoAnswer(
            "cyclical(run): nothing gets better by more than its noise. Begin lower, take more steps or larger batches."
        )
    worse = np.flatnonzero(smooth[best:] > smooth[best] + min(2 * noise, _AS_GOOD * gain))
    if not len(worse) and whole:
        raise NoAnswer(f"cyclical(run): still at its best at the last rate, {rates[-1]:g}. Test with a larger end.")
    top = float(rates[best + worse[0] - 1] if len(worse) else rates[-1])
    return share * top, top


def _curve(run: Run) -> tuple[Array, Array, bool]:
    """(rates, what they led to, smaller is better), as far as it is finite, and whether that is all of it."""
    if not isinstance(run, Run) or "lr" not in run or not ("metric" in run or "loss" in run):
        raise InputError("cyclical(run): needs a Run with lr and loss or metric. lrkit.range_test makes one.")
    rates, values = run["lr"], -run["metric"] if "metric" in run else run["loss"]
    if not (np.isfinite(rates) & (rates > 0)).all() or (np.diff(rates) < 0).any():
        raise InputError("cyclical(run): needs a Run whose rate only rises, as that of lrkit.range_test.")
    finite = np.isfinite(values) & np.isfinite(run.get("loss", values))
    if run.meta.get("per") == "epoch" and run.meta.get("edge") is not None:
        finite[-1] = False  # the epoch in which it blew up, whatever its mean
    end = len(finite) if finite.all() else int(np.argmin(finite))
    # A batch's loss is that before its update: what came of the rate of the row above.
    late = int("metric" not in run and run.meta.get("per", "batch") == "batch")
    rates, values = rates[: max(0, end - late)], values[late:end]
    if len(values) < _FEWEST:
        raise NoAnswer(f"cyclical(run): needs {_FEWEST} finite rows before it diverges, got {len(values)}. Begin lower.")
    return rates, values, bool(finite.all())


def _window(rates: Array) -> int:
    """How many rates the running median reaches over: an odd number, at least 3."""
    decades = math.log10(rates[-1] / rates[0])
    return max(3, int(_WIDTH * (len(rates) - 1) / decades) | 1) if decades > 0 else 3


def _level(values: Array) -> float:
    """The median at the begin: of an odd number, so that it is one of the values, whatever their offset."""
    return float(np.median(values[: max(3, len(values) // 8 | 1)]))


def _noise(values: Array, lag: int) -> float:
    """Its standard deviation from neighbour to neighbour: second differences see no slope, and those of 0 no noise."""
    bends = np.abs(values[2 * lag :] - 2 * values[lag:-lag] + values[: -2 * lag])
    bends = bends[bends > 0]
    return float(np.median(bends)) / (0.6745 * math.sqrt(6)) if len(bends) else 0.0
