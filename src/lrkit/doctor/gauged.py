"""Gauged: what the gauges of a watched run say where its loss stands still. The rules about plateaus read their columns here.

All quantities are without units. For an update u on a batch with gradient g, gain ratio ρ, and gradient noise tr Σ/b:

    gain of a decay ≈ mean(−gᵀu) / 4(1 − β),   −gᵀu = gain / ρ,   β: the optimizer's momentum; 0 where gradients alternate

This is exact for a quadratic in its stationary state, with noise and without: SGD's variance there is ησ²/(λ(2 − ηλ)), and a
bounce between two walls promises four times its height. So where the loss stands still it is what the rate itself holds up.

    folds = N · η|λmin| / (1 − β) = N · |λmin|/λmax · edge · (2 + 2β)/(1 − β)

is how often, in N updates, a way down of curvature λmin would have grown e-fold: beyond some thirty a true one has been taken,
and what the gauge saw is the noise of a batch. Knows the names of the gauges' columns; knows no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrkit.doctor.curve import Curve, spread_of
from lrkit.doctor.signal import Array, slope, way

_SHARES = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3)  # of the run: how long it may have stood still at its end
_PARTS = (0.5, 0.35, 0.2, 0.12)  # or before it fell on; the last one only where the run begins so
_STILL = 0.05  # of the level: a fall that is none
_ALMOST = 0.01  # of the level: a fall that is none even where it is all that the run has fallen
_SWINGS, _WORTH = 0.2, 0.3  # of the level: a fall or a swing that is little, where a decay gains so much
_FELL = 0.2  # of the level: a fall that ends a stretch
_ROUNDING = 1e-6  # of the level
_HELD = 0.3  # of the rate: it is the same
FEWEST = 4  # visits
_WHOLE = -0.5  # of the noise: a product of the halves so far below 0 says that they are all the data


@dataclass(frozen=True)
class Stretch:
    """A part of the run in which the loss stands still, and the gauges' visits in it.

    Args:
        first: Its first step.
        last: Its last step.
        level: The loss there.
        fallen: How far the loss has come down until there, as a share of where it began; NaN where that is not positive.
        fall: How far it falls in it, as a share of the level; below 0 where it rises.
        doubt: How far it may be falling: the fall, if any, and two standard errors.
        left: How far it falls afterwards, as a share of the level; 0 at the end of the run.
        way: Share of the run's way (rate × steps) that it takes.
        visits: How often the gain was read.
        gain_ratio: Median of ρ; NaN where it was not read.
        cosine: Median cosine of successive gradients.
        edge: Median share that the largest curvature has of the stable limit.
        bent: Median of smallest/largest curvature.
        signal: ‖G‖² beside the noise: sum of the halves' products / sum of the gradient's noise.
        error: Of `signal`, one standard error.
        whole: Whether the batches are all the data: the halves' products cancel their noise.
        decay: What a decay gains, as a share of the level; see above.
        reach: What all updates of the stretch promise together, −gᵀu / (1 − β), in levels.
        depth: How far down a slope as steep as the gradient without its noise leads at the largest curvature,
            ‖G‖²/2λ in levels, by the signal less its error.
        folds: How often a way down of the smallest curvature would have grown e-fold in the stretch.
        turns: The same of the largest: N · ηλ / (1 − β), how often the steepest direction could have been run through.
    """

    first: int
    last: int
    level: float
    fallen: float
    fall: float
    doubt: float
    left: float
    way: float
    visits: int
    gain_ratio: float
    cosine: float
    edge: float
    bent: float
    signal: float
    error: float
    whole: bool
    decay: float
    reach: float
    depth: float
    folds: float
    turns: float


def stretches(curve: Curve) -> tuple[Stretch | None, Stretch | None]:
    """(the stretch at the end, the longest one that the loss has left since); None where there is none, or no gauge saw it."""
    blocks = len(curve.loss)
    if blocks < 20 or "gain_ratio" not in curve.run or "half_product" not in curve.run:
        return None, None
    first = next((n for share in _SHARES if _still(curve, n := int(blocks * (1 - share)), blocks)), None)
    return (_hanging(curve) if first is None else _read(curve, first, blocks)), _left(curve)


def _hanging(curve: Curve) -> Stretch | None:
    """The last two fifths, where the loss swings or falls a little, and a decay gains several times as much."""
    blocks = len(curve.loss)
    first = int(0.6 * blocks)
    change, error = slope(curve.steps[first:], curve.loss[first:])
    scale = _scale(curve, first, blocks)
    fall = max(-change, 0.0)
    seen = _read(curve, first, blocks) if fall <= _SWINGS * scale + error else None
    return seen if seen is not None and seen.decay > max(_WORTH, 6 * fall / scale) else None


def _scale(curve: Curve, first: int, last: int) -> float:
    """What a change of the loss is compared with: its level, or the drop of the run where that is not positive."""
    level = float(np.median(curve.loss[first:last]))
    return level if level > 0 else curve.drop


def _left(curve: Curve) -> Stretch | None:
    """The longest stretch after which the loss falls on under the same rate."""
    blocks = len(curve.loss)
    for share in _PARTS:
        length = max(6, int(share * blocks))
        latest = blocks - length - 2 if share > _PARTS[-1] else blocks // 20 + 1
        for first in range(0, latest, max(1, length // 5)):
            if _still(curve, first, first + length) and _falls_on(curve, first, first + length):
                return _read(curve, first, first + length)
    for first, last in ((int(0.05 * blocks), int(end * blocks)) for end in (0.9, 0.75, 0.6)):
        if _still(curve, first, last) and not _still(curve, last, blocks) and _slopes(curve, last, blocks):
            return _read(curve, first, last)  # most of the run, and it is just being left
    return None


def _slopes(curve: Curve, first: int, last: int) -> bool:
    """Whether the loss clearly falls there."""
    change, error = slope(curve.steps[first:last], curve.loss[first:last])
    return change < -4 * error


def _still(curve: Curve, first: int, last: int) -> bool:
    """Whether blocks first … last − 1 lie on one level: their fall is small beside it and beside the whole drop, or an error."""
    part = curve.loss[first:last]
    change, error = slope(curve.steps[first:last], part)
    scale, fall = _scale(curve, first, last), max(-change, 0.0)
    clear = fall > 3 * error and fall > 0.6 * _STILL * scale
    small = fall <= 0.1 * curve.drop + 2 * error or fall <= _ALMOST * scale
    return not clear and small and fall <= _STILL * scale + error and change <= 0.5 * scale


def _falls_on(curve: Curve, first: int, last: int) -> bool:
    """Whether the loss falls by a good part soon after, out of its noise and not because the rate did."""
    part, after = curve.loss[first:last], curve.loss[last : last + (last - first)]
    if len(after) < 3:
        return False
    level, smooth = float(np.median(part)), np.convolve(after, np.ones(3) / 3, "valid")
    scale = _scale(curve, first, last)
    change, error = slope(curve.steps[first:last], part)
    least = max(_FELL * scale, 4 * spread_of(part), 4 * (max(-change, 0.0) + error))
    if level - float(np.min(smooth)) < least:
        return False
    there = last + int(np.argmax(smooth < level - least / 2)) + 2
    return curve.lr is None or bool(np.all(np.abs(curve.lr[first:there] / max(curve.lr[last - 1], 1e-300) - 1) < _HELD))


def _read(curve: Curve, first: int, last: int) -> Stretch | None:
    """The gauges' visits between two blocks; None where they are too few."""
    blocks, run = len(curve.loss), curve.run
    begin = curve.first if first == 0 else int(curve.steps[first])
    end = curve.last if last >= blocks else int(curve.steps[last - 1])
    seen = {name: run[name][(run["step"] >= begin) & (run["step"] <= end)] for name in _COLUMNS if name in run}
    gone = way(curve)
    level = float(np.median(curve.loss[first:last]))
    if "gain" not in seen or "grad_noise" not in seen:
        return None
    promised, ratio = _promised(seen["gain"], seen["gain_ratio"], _ROUNDING * abs(level))
    signal, noise = _products(seen)
    if len(promised) < FEWEST or len(signal) < FEWEST:
        return None
    total = max(float(noise.mean()), 1e-300)
    share = float(signal.mean()) / total
    steps, beta, cosine = end - begin + 1, momentum(curve), _median(seen.get("grad_cosine"))
    slow = 1.0 if cosine < -0.5 else 1 - beta
    whole = float(np.median(signal / np.maximum(noise, 1e-300))) < _WHOLE and share < _WHOLE
    scale = _scale(curve, first, last)
    bent, edge, off = _bent(seen), _median(seen.get("edge")), float(np.std(signal)) / len(signal) ** 0.5 / total
    there = 1.0 if whole else max(share - off, 0.0) / (1 + max(share - off, 0.0))
    turns = edge * (end - begin + 1) * (2 + 2 * beta) / (1 - beta)
    mean, (change, error) = max(trimmed(promised), 0.0), slope(curve.steps[first:last], curve.loss[first:last])
    return Stretch(
        begin, end, level, 1 - level / curve.start if curve.start > 0 else float("nan"), -change / scale,
        (max(-change, 0.0) + 2 * error) / scale, _drop_after(curve, last, level, scale),
        float(gone[last - 1] - (gone[first - 1] if first else 0.0)), len(promised), ratio, cosine, edge, bent, share,
        off, whole, mean / (4 * slow * scale), steps * mean / ((1 - beta) * scale),
        _depth(there * mean, edge, beta) / scale, max(0.0, -bent) * turns, turns,
    )  # fmt: skip


_COLUMNS = ("gain", "gain_ratio", "half_product", "grad_noise", "grad_cosine", "edge", "curvature_min", "curvature_max")


def _depth(promised: float, edge: float, beta: float) -> float:
    """‖G‖²/2λ in units of the loss: η‖g‖² is −gᵀu (1 − β), and ηλ is the edge times its limit."""
    return promised * (1 - beta) / (2 * max(edge, 1e-300) * (2 + 2 * beta)) if edge > 0 else float("nan")


def _promised(gain: Array, ratio: Array, rounding: float) -> tuple[Array, float]:
    """(−gᵀu of each visit, the median of ρ); an update that goes uphill promises what it loses.

    A gain that is lost in the loss's own rounding says nothing of ρ.
    """
    seen = np.isfinite(gain)
    gain, ratio = gain[seen], ratio[seen]
    known = np.isfinite(ratio) & (np.abs(ratio) > 1e-9)
    return np.where(known, gain / np.where(known, ratio, 1.0), np.minimum(gain, 0.0)), _median(ratio[np.abs(gain) > rounding])


def _products(seen: dict[str, Array]) -> tuple[Array, Array]:
    """(‖G‖², noise) of each visit of the gauge that replays the batch."""
    good = np.isfinite(seen["half_product"]) & np.isfinite(seen["grad_noise"]) & np.isfinite(seen["gain"])
    return seen["half_product"][good], np.maximum(seen["grad_noise"][good], 0.0)


def _bent(seen: dict[str, Array]) -> float:
    if "curvature_min" not in seen or "curvature_max" not in seen:
        return float("nan")
    largest = np.maximum(np.abs(seen["curvature_max"]), 1e-300)
    return _median(seen["curvature_min"] / largest)


def _drop_after(curve: Curve, last: int, level: float, scale: float) -> float:
    after = curve.loss[last:]
    return float(max(0.0, level - np.median(after[-max(3, len(after) // 3) :])) / scale) if len(after) else 0.0


def momentum(curve: Curve) -> float:
    """β of the optimizer, or its first one; 0 where the run does not tell."""
    meta = curve.run.meta
    betas = meta.get("betas")
    told = betas[0] if isinstance(betas, list | tuple) and betas else meta.get("momentum", 0.0)
    return float(told) if isinstance(told, int | float) and 0 <= told < 0.9999 else 0.0


def trimmed(values: Array) -> float:
    """The mean without the highest and the lowest tenth."""
    cut = len(values) // 10
    inner = np.sort(values)[cut : len(values) - cut]
    return float(inner.mean()) if len(inner) else float("nan")


def _median(values: Array | None) -> float:
    known = values[np.isfinite(values)] if values is not None else np.empty(0)
    return float(np.median(known)) if len(known) else float("nan")
