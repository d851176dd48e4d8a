"""Curve: a run's loss as the rules read it. Blocks of equal length, the drop, the noise, the trend, and the rate beside it.

Nothing depends on the loss's scale; the offset is unknown, so every size is a share of the drop from start to lowest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrkit.errors import InputError
from lrkit.run import Run

Array = NDArray[np.float64]
BLOCKS = 100
_FIRST = 50  # updates among which a jolt is looked for: among more, noise alone throws one up
_HEAD = 200  # rows that tell how noisy a single one is at the start
FEWEST = 30  # points below which no rule speaks
# Columns that a row has because an update was made; any other, such as a validation's, may stand in a row without a loss.
_ABOUT_TRAINING = (
    "step", "epoch", "loss", "lr", "loss_scale", "scale", "grad_scale", "grad_norm", "clip_factor", "update_ratio", "grad_cosine",
    "coherence", "rms_t", "effective_lr", "half_product", "grad_noise", "noise_scale", "gain", "gain_ratio", "curvature_max",
    "curvature_min", "edge",
)  # fmt: skip
_HUGE = 1e100  # a value beyond exploded, or is broken; its square would overflow


@dataclass(frozen=True)
class Curve:
    """What the rules look at.

    Args:
        steps: (b,) middle step of each block.
        loss: (b,) mean loss of each block.
        lr: (b,) mean rate of each block, or None where the run has none.
        start: Loss before training: the first row, or the median of the first three if that is lower.
        spread: Between neighbouring rows at the start of the log: what a single loss, such as the first, may be off by.
        peak: The highest rate of any row, or None where the run has none.
        jolt: Highest single loss of the first tenth, 50 rows at most, above the start, in units of the spread between neighbours.
        rows: (n,) step of each row with a finite loss.
        values: (n,) those losses.
        rates: (n,) the rate of those rows, each held until the next is logged, or None where the run has none.
        run: The run itself, for its other columns and its meta.
        nonfinite: First step of the tail whose loss is not finite, or None.
        first: First step of the run.
        last: Last step of the run.
    """

    steps: Array
    loss: Array
    lr: Array | None
    start: float
    spread: float
    peak: float | None
    jolt: float
    rows: Array
    values: Array
    rates: Array | None
    run: Run
    nonfinite: int | None
    first: int
    last: int

    @property
    def points(self) -> int:
        """Finite losses in the run."""
        return len(self.values)

    @property
    def end(self) -> float:
        """Median loss of the last tenth."""
        return float(np.median(self.loss[-max(3, len(self.loss) // 10) :]))

    @property
    def low(self) -> float:
        """Lowest smoothed loss."""
        return float(np.min(median3(self.loss)))

    @property
    def drop(self) -> float:
        """From the start to the lowest, never 0."""
        return max(self.start - self.low, 1e-12 * max(1.0, abs(self.start)))

    @property
    def noise(self) -> float:
        """Spread of one block around its neighbours: 1.05 · median |difference|."""
        return spread_of(self.loss)

    @property
    def planned(self) -> float | None:
        """The steps that the run was to have, where its meta tells."""
        told = (self.run.meta.get(name) for name in ("steps", "total_steps", "max_steps"))
        return next((float(one) for one in told if isinstance(one, int | float) and one > 0), None)

    def rise(self) -> tuple[float, int]:
        """(height, block) of the highest stretch of three blocks in the first tenth (six at least), above the start."""
        head = self.loss[: max(6, len(self.loss) // 10)]
        lows = np.array([np.min(head[i : i + 3]) for i in range(max(1, len(head) - 2))])
        return float(np.max(lows)) - self.start, int(np.argmax(lows))


def spread_of(values: Array) -> float:
    """1.05 · median |difference of neighbours|: the standard deviation, if they are independent and normal."""
    return 1.05 * float(np.median(np.abs(np.diff(values)))) if len(values) > 1 else 0.0


def _jolt(values: Array) -> float:
    """How far one of the first updates threw the loss up, in units of 1.05 · median |difference of neighbours|."""
    if len(values) < FEWEST:
        return 0.0
    spread = spread_of(values)
    above = float(np.max(values[1 : max(6, min(_FIRST, len(values) // 10))])) - float(min(values[0], np.median(values[:3])))
    return above / spread if spread > 0 else 0.0


def _held(rates: Array) -> Array:
    """Rates that are logged now and then, each held until the next."""
    known = np.flatnonzero(np.isfinite(rates))
    if not len(known):
        return rates
    return np.asarray(rates[known[np.maximum(np.searchsorted(known, np.arange(len(rates)), side="right") - 1, 0)]])


def median3(values: Array) -> Array:
    """(n,) the median of each value and its two neighbours."""
    if len(values) < 3:
        return values
    padded = np.concatenate([values[:1], values, values[-1:]])
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 3), axis=1))


def curve_of(run: Run) -> Curve:
    """Read a run.

    Raises:
        InputError: If it has no `loss`, or no row of it.
    """
    if "loss" not in run or len(run) == 0:
        raise InputError(f"diagnose(run): there is no loss to read; columns are {', '.join(run.columns)}. Name it 'loss'.")
    run = _bounded(run)
    loss, step = run["loss"], run["step"]
    finite = np.isfinite(loss)
    seen = np.flatnonzero(finite)
    tail = _exploded(run, loss, seen)
    if len(seen) == 0:
        nothing = np.empty(0)
        first, last = int(step[0]), int(step[-1])
        return Curve(nothing, nothing, None, float("nan"), 0.0, None, 0.0, nothing, nothing, None, run, first, first, last)
    values, steps = loss[finite], step[finite]
    parts = np.array_split(np.arange(len(values)), min(BLOCKS, len(values)))
    rate = _held(run["lr"])[finite] if "lr" in run else np.full(len(values), np.nan)
    known = bool(np.isfinite(rate).all() and np.min(rate) >= 0 and np.max(rate) > 1 / _HUGE)
    return Curve(
        steps=np.array([steps[part].mean() for part in parts]),
        loss=np.array([values[part].mean() for part in parts]),
        lr=np.array([rate[part].mean() for part in parts]) if known else None,
        start=float(min(values[0], np.median(values[:3]))),
        spread=spread_of(values[:_HEAD]),
        peak=float(np.max(rate)) if known else None,
        jolt=_jolt(values),
        rows=steps,
        values=values,
        rates=rate if known else None,
        run=run,
        nonfinite=int(step[tail[0]]) if len(tail) else None,
        first=int(step[0]),
        last=int(step[-1]),
    )


def _bounded(run: Run) -> Run:
    """The run with every value beyond `_HUGE` infinite."""
    huge = [name for name in run if (np.abs(run.observed(name)[1]) > _HUGE).any()]
    if not huge:
        return run
    cut = {name: np.where(np.abs(run[name]) > _HUGE, np.copysign(np.inf, run[name]), run[name]) for name in huge}
    return Run({**dict(run), **cut}, run.meta)


def _exploded(run: Run, loss: Array, seen: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows after the last finite loss in which the loss exploded; a row that merely lacks one does not count.

    An infinite loss was surely seen. A NaN may be a gap: where the row carries another measure (a validation), and where gaps of
    this length are usual in the log, because the loss is logged now and then.
    """
    others = [run[name] for name in run.columns if name.split("/")[0] not in _ABOUT_TRAINING]
    carries = np.isfinite(others).any(axis=0) if others else np.zeros(len(run), bool)
    after = np.arange(len(run)) > (seen[-1] if len(seen) else -1)
    usual = int(np.max(np.diff(seen), initial=1)) - 1
    if len(seen) and int(after.sum()) <= usual and not np.isinf(loss[after]).any():
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(after & ~np.isfinite(loss) & ~(carries & np.isnan(loss)))


def advised(curve: Curve, factor: float) -> str:
    """``from 0.3 to 0.03``, or the factor alone where the rate is unknown."""
    if curve.peak is None:
        return f"{'multiply' if factor > 1 else 'divide'} the rate by about {max(factor, 1 / factor):.2g}"
    return f"change the rate from {curve.peak:.3g} to {curve.peak * factor:.3g}"
