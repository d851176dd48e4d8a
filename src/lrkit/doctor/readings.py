"""Readings: what the gauges of a watched run say of its rate, as a few numbers without units.

They are what `odds` weighs beside the curve. Each is a median over the visits between a tenth and seven tenths of the run: after
the warm-up, and before a decay has made every step small. Knows the names of the gauges' columns; knows no tensor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lrkit.doctor.curve import Curve

Array = NDArray[np.float64]
_FROM, _TO = 0.1, 0.7  # of the steps
_FEWEST = 3  # visits
NAMES = (
    "curved",  # log10 of 1 − gain ratio: how much of the promised gain the curvature along the step takes away
    "cosine",  # of successive gradients
    "edge",  # log10 of the largest curvature's share of the stable limit
    "coherence",  # Adam's κ
    "out_of_date",  # log10 of RMS_t
    "signal",  # share of the squared gradient that is no noise
    "worst_gain",  # log10 of 1 − the lowest gain ratio of the first part
    "worst_edge",  # log10 of the highest edge
)
REPLAYED = ("curved", "edge", "signal", "worst_gain", "worst_edge")  # need watch(…, loss=…) and record(batch=…)


def readings_of(curve: Curve) -> Array:
    """(8,) the numbers of NAMES; NaN where the run was not watched so closely."""
    length = max(curve.last - curve.first, 1)

    def seen(name: str, start: float = _FROM, stop: float = _TO) -> Array:
        if name not in curve.run:
            return np.empty(0)
        steps, values = curve.run.observed(name)
        inside = (steps >= curve.first + start * length) & (steps < curve.first + stop * length)
        return np.asarray(values[inside])

    gains, edges = seen("gain_ratio", 0.0), seen("edge", 0.0)
    signal, noise = _middle(seen("half_product")), _middle(seen("grad_noise"))
    return np.array([
        _log(1 - _middle(seen("gain_ratio")), 1e-3, 3.0),
        _middle(seen("grad_cosine")),
        _log(_middle(seen("edge")), 1e-4, 10.0),
        _middle(seen("coherence")),
        _log(_middle(seen("rms_t")), 1e-3, 10.0),
        signal / (abs(signal) + max(noise, 0.0) + 1e-300) if signal == signal and noise == noise else np.nan,
        _log(1 - float(np.min(gains)), 1e-3, 10.0) if len(gains) >= _FEWEST else np.nan,
        _log(float(np.max(edges)), 1e-4, 100.0) if len(edges) >= _FEWEST else np.nan,
    ])  # fmt: skip


def _middle(values: Array) -> float:
    return float(np.median(values)) if len(values) >= _FEWEST else float("nan")


def _log(value: float, least: float, most: float) -> float:
    return float(np.log10(np.clip(value, least, most)))
