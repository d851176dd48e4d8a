"""Diverged: the loss is not finite any more, or ends above where it began.

A NaN may be masked: some trainers log a loss of exactly 0 then (Hugging Face's ``logging_nan_inf_filter``), beside a gradient
norm that is NaN. In half precision the loss scale is looked at before the rate. That the loss ends above its start must stand out
of the noise of a single row, which the start is; or the run was wild: blocks at more than twice the start, and never back below.
"""

from __future__ import annotations

import numpy as np

from lrkit.doctor.curve import Curve, advised, spread_of
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import phases
from lrkit.run import Run

_ABOVE = 0.02  # of the start, and so much of a drop that was made before: less is no divergence
_CLEAR, _PLAIN = 3.5, 1.5  # spreads of a row: what a start is off by alone, and with the first rows saying the same
_WILD = 2.0  # times the start
_SECOND = "the rate is the second suspect"
_SCALES = ("loss_scale", "scale", "grad_scale")


def diverged(curve: Curve) -> Finding | None:
    """Non-finite to the end (also where that is masked), or an end clearly above the start."""
    if curve.points == 0 or (curve.nonfinite == 0 and curve.points < 2):
        return _broken_at_once(curve)
    since, masked = curve.nonfinite, False
    if since is None:
        since = _masked(curve.run)
        masked = since is not None
    if since is not None:
        seen = f"the loss is {'exactly 0' if masked else 'not finite'} from step {since} on; it began at {curve.start:.4g}"
        more = ("its gradient norm is not finite, or the loss had not come near 0: a masked NaN",) if masked else ()
        return _blown(curve, since, (seen, *more), True)
    if (leap := _leaps(curve)) is not None:
        return _blown(
            curve, leap, (f"the log ends as the loss leaps to {curve.values[-1]:.4g}; it began at {curve.start:.4g}",), True
        )
    if _ends_above(curve):
        start = int(curve.steps[int(curve.loss.argmin())])
        return _blown(curve, start, (f"the loss ends at {curve.end:.4g}, above its start {curve.start:.4g}",), False)
    return _on_validation(curve)


def _broken_at_once(curve: Curve) -> Finding:
    return Finding(
        "diverged", "the loss is not finite from the first row on, before any update could do harm", 0.98,
        (curve.first, curve.last), ("no finite loss at all",), (),
        "leave the rate; look at the data (NaN, infinity), the loss function (log or division of 0) and the precision",
        "the loss of the untrained model must be finite", restart=curve.first,
    )  # fmt: skip


def _on_validation(curve: Curve) -> Finding | None:
    """An infinite validation loss beside a finite training loss; a NaN there is a row without a validation."""
    if "val_loss" not in curve.run or not np.isinf(curve.run["val_loss"]).any():
        return None
    bad = np.flatnonzero(np.isinf(curve.run["val_loss"]))
    if np.isfinite(curve.run["val_loss"][bad[-1] :]).any():
        return None
    return Finding(
        "diverged", "the validation loss is infinite while the training loss is finite: not the rate", 0.55,
        (int(curve.run["step"][bad[0]]), curve.last), (f"{len(bad)} infinite validation losses",), (),
        "leave the rate; look at the validation data and the loss in evaluation mode", "the validation loss is finite",
    )  # fmt: skip


def _masked(run: Run) -> int | None:
    """First step of a tail of losses that are exactly 0, where the gradient norm is not finite or the loss fell there at once."""
    loss = run["loss"]
    seen = np.flatnonzero(np.isfinite(loss))
    others = seen[loss[seen] != 0]
    zeros = seen[seen > others[-1]] if len(others) else seen
    if not len(zeros) or not len(others):
        return None
    before, norm = loss[others[-5:]], run["grad_norm"] if "grad_norm" in run else np.full(len(loss), np.nan)
    measured = bool(np.isfinite(norm[zeros]).any())
    at_once = (
        len(zeros) >= 3 and len(others) == len(seen) - len(zeros) and float(np.min(before)) > 1e-2 * abs(float(loss[seen[0]]))
    )
    lost = np.isfinite(norm[others]).any() and not measured
    return int(run["step"][zeros[0]]) if lost or (at_once and not measured) else None


def _leaps(curve: Curve) -> int | None:
    """First step of a climb far above all before, at which the log ends: what was stopped, or died, as it exploded."""
    values = curve.values
    below = np.flatnonzero(values <= curve.start)
    row = int(below[-1]) + 1 if len(below) else 0
    climbs = 2 <= len(values) - row <= max(3, len(values) // 20) and values[-1] >= np.max(values)
    if not climbs or row < 5:
        return None
    reach = curve.start - float(np.min(values)) + _row_spread(values[:row])
    return int(curve.rows[row]) if values[-1] > curve.start + 20 * reach else None


def _ends_above(curve: Curve) -> bool:
    values, n, start = curve.values, curve.points, curve.start
    if n < 5:
        return False
    end = float(np.median(values[-max(3, n // 10) :]))
    margin = max(_ABOVE * abs(start), 2.5 * _ABOVE * curve.drop)
    row = _row_spread(values)
    first = (end - float(np.mean(values[:5]))) / (row / 5**0.5)  # in errors; after a blow at once the first rows lie far above
    clear = end - start > _CLEAR * row or (end - start > _PLAIN * row and abs(first) > _CLEAR)
    if end - start > margin and clear:
        return True
    half = float(np.median(curve.loss[len(curve.loss) // 2 :]))
    wild = float(np.min(values)) > 0 and len(curve.loss) >= 5 and float(np.sort(curve.loss)[-3]) > _WILD * start
    return bool(wild and half > start + margin and curve.end > 1.1 * start)


def _row_spread(values: np.ndarray) -> float:
    """What a single row at the start may be off by: the quietest quarter of the first 200 rows, since a blow is no noise."""
    head = values[:200]
    parts = np.array_split(head, max(1, min(4, len(head) // 50)))
    return max(min(map(spread_of, parts)), 1e-300)


def _blown(curve: Curve, since: int, seen: tuple[str, ...], exploded: bool) -> Finding:
    row, length = _onset(curve, since) if exploded else 0, max(1, curve.last - curve.first)
    onset = int(curve.rows[row]) if exploded else since
    early = onset - curve.first <= 0.1 * length
    plan = phases(curve)
    warming = plan is not None and curve.rates is not None and plan.warm > 0 and row < plan.warm and exploded
    if warming and plan is not None and curve.rates is not None and curve.rates[row] > 0:
        factor, restart = float(curve.rates[row]) / 3 / plan.peak, curve.first
        seen = (*seen, f"the rise began at step {onset}, where the warm-up had reached {float(curve.rates[row]):.3g}")
    else:
        factor, restart = (0.1, curve.first) if early else (1 / 3, max(curve.first, int(onset - 0.05 * length)))
    half = _half_precision(curve.run)
    again = "restart" if restart == curve.first else f"go back to step {restart}"
    advice = f"{advised(curve, factor)} and {again}; if it blows up again, clip the gradient norm or lengthen the warm-up"
    return Finding(
        "diverged", "the training blew up and did not come back", 0.98 if exploded else 0.95,
        (min(onset, since), curve.last), seen,
        (half,) if half else ("in half precision, look at the loss scale first",) if exploded else (),
        f"first train in bfloat16 or look at the loss scale; then {advice}" if half else advice,
        "the loss stays below its first value", factor=factor, restart=restart,
    )  # fmt: skip


def _onset(curve: Curve, since: int) -> int:
    """Row at which the loss last lay near its lowest before it exploded."""
    values = curve.values[: max(1, int(np.searchsorted(curve.rows, since)))]
    values = values[max(0, len(values) - 2000) :]
    skipped = max(1, int(np.searchsorted(curve.rows, since))) - len(values)
    lowest = np.minimum.accumulate(values) + 4 * _row_spread(values[-200:]) if len(values) > 5 else np.minimum.accumulate(values)
    return skipped + int(np.flatnonzero(values <= lowest)[-1])


def _half_precision(run: Run) -> str:
    """What says that the run was in float16, or nothing."""
    for name in _SCALES:
        if name in run and len(scale := run.observed(name)[1]) > 1 and scale[-1] <= np.max(scale) / 16:
            return f"the loss scale falls from {np.max(scale):g} to {scale[-1]:g}: float16 overflows; {_SECOND}"
    words = " ".join(str(run.meta[name]).lower() for name in ("precision", "dtype", "amp", "mixed_precision") if name in run.meta)
    if run.meta.get("fp16") is True or "float16" in words.replace("bfloat16", "") or "fp16" in words or words.startswith("16"):
        return "" if "bf16" in words else f"it was trained in float16: look at the loss scale first; {_SECOND}"
    return ""
