"""Vanishing: on its way from the last layer to the first the gradient shrinks by a factor a layer, and the first stand still.

    ‖g_l‖ ≈ ‖g_L‖ · r^(L − l),   r < 1: the same factor from layer to layer

Seen on the layers' gradient norms: first/last below 1e-3 (AUTOTRAINER's bound), a fall that goes on from layer to layer; and on
their update ratios, which have to fall too, for Adam divides by the gradient's size and moves small gradients as fast as large
ones, until they are below its ε. One layer that differs, such as an embedding, a head that begins at 0 or a frozen part, is no
such fall. It is a matter of the net, not of the rate: activations, initial weights, residuals, normalisation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lrkit.doctor.curve import Array, Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.odds import family

_TINY = 1e-3  # of the last layer's gradient
_BEHIND = 0.03  # of the last layers' update ratio
_ORDER = 0.6  # Kendall's τ of the layers: 1, each below the next
_FEWEST, _VISITS = 4, 3  # layers, visits
_FROZEN = 1e-30  # a gradient that is none
_MOVED = 0.1  # of its own size: a layer that has not even moved so far in the whole run stands still
_STILL, _SLOW = 0.9, 0.7  # confidence: the first layers stand still, or merely lag


class Fall(NamedTuple):
    """How a quantity falls from the last layer to the first.

    Args:
        layers: Their names, the first at first.
        sizes: Its median in each.
        each: The factor from one layer to the one before it.
        whole: First / last.
    """

    layers: list[str]
    sizes: Array
    each: float
    whole: float


def vanishing(curve: Curve) -> Finding | None:
    """The gradient falls geometrically from the last layer to the first, and the first layers hardly move."""
    fall = _fall(curve, "grad_norm")
    if fall is None or fall.whole > _TINY:
        return None
    pace = _paces(curve, fall)
    if pace is None and family(curve.run.meta.get("optimizer"), curve.run.meta.get("momentum")) not in ("sgd", "momentum"):
        return None  # whether small gradients matter is not known
    if pace is not None and not _lags(pace):
        return None
    moved = float("nan") if pace is None else float(pace[0]) * (curve.last - curve.first + 1)
    sure = _STILL if moved < _MOVED else _SLOW
    first, last = fall.layers[0], fall.layers[-1]
    evidence = [f"gradient norm, median: {fall.sizes[-1]:.2g} in {last}, {fall.sizes[0]:.2g} in {first}: {fall.whole:.1g} of it"]
    evidence += [f"layer by layer, towards the first, it shrinks to {fall.each:.2g}, over {len(fall.layers)} layers"]
    if pace is not None:
        evidence += [f"an update moves {first} by {pace[0]:.1g} of its size, {last} by {pace[-1]:.1g}"]
        evidence += [f"in the whole run {first} can have moved by {moved:.2g} of its size"]
    counter = () if pace is not None else ("how far the updates move each layer is not in the log",)
    return Finding(
        "vanishing",
        f"the gradient vanishes on its way to the first layer, {first}, which has {fall.whole:.1g} of what {last} has",
        sure, (curve.first, curve.last), tuple(evidence), counter,
        f"leave the rate: ReLU or GELU instead of sigmoid or tanh, initial hidden weights × {min(1 / fall.each, 9):.2g}, or "
        "He's or Glorot's, a residual connection every two layers, or a normalisation in each",
        "the gradient norm of the first layer comes to within a tenth of the last one's within a few updates",
    )  # fmt: skip


def _fall(curve: Curve, name: str) -> Fall | None:
    """How a quantity falls over the layers; None where they are few, or where it does not fall all along."""
    run = curve.run
    columns = [column for column in run if column.startswith(f"{name}/")]
    sizes = {column.split("/", 1)[1]: _median(run[column], skip=1) for column in columns}
    seen = {layer: size for layer, size in sizes.items() if size > _FROZEN}
    if len(seen) < _FEWEST:
        return None
    y = np.log(np.array(list(seen.values())))
    inner = y[1:-1] if len(y) > _FEWEST else y  # an embedding and a head are of another kind
    lower, upper = np.triu_indices(len(inner), 1)
    slopes = (inner[upper] - inner[lower]) / (upper - lower)
    order = float(np.mean(np.sign(slopes)))
    step = float(np.median(slopes))
    if order < _ORDER or step * (len(y) - 1) < -np.log(_TINY) / 2:
        return None
    return Fall(list(seen), np.exp(y), float(np.exp(-step)), float(np.exp(y[0] - y[-1])))


def _paces(curve: Curve, fall: Fall) -> Array | None:
    """How far an update moves each layer, beside its size; None where that is not in the log."""
    columns = [f"update_ratio/{layer}" for layer in fall.layers]
    if any(column not in curve.run or not np.isfinite(curve.run[column]).any() for column in columns):
        return None
    return np.array([_median(curve.run[column], skip=1) for column in columns])


def _lags(pace: Array) -> bool:
    """Whether the first layers move far less than the last, beside their size, and ever less towards the first."""
    third = max(1, len(pace) // 3)
    return float(np.median(pace[:third])) < _BEHIND * float(np.median(pace[-third:]))


def _median(values: Array, skip: int) -> float:
    """The median of what was read, also of its later half, the higher of both; 0 of fewer than three values."""
    values = values[np.isfinite(values)]
    values = values[skip:] if len(values) > _VISITS + skip else values
    if len(values) < _VISITS:
        return 0.0
    return float(max(np.median(values), np.median(values[len(values) // 2 :])))
