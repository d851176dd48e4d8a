"""Clipping: gradients are clipped so often that the clip, not the schedule, sets the length of the updates.

    θ ← θ − η · f · g,   f = limit / ‖g‖ wherever that is below 1

Seen on the share of updates whose f is below 1, in the whole log and in its later half: a clip that engages in a warm-up alone
does what it is for. Google's tuning playbook calls more than half extremely aggressive and places the limit at the 90th
percentile of the norms. Where only the norm that is left was logged, it sits at its maximum; then f is not known. Adam and its
like divide by the gradient's size: a constant f cancels there, and what is left is that all batches weigh the same.
"""

from __future__ import annotations

import numpy as np

from lrkit.doctor.curve import Curve, advised
from lrkit.doctor.finding import Finding
from lrkit.doctor.odds import family
from lrkit.doctor.signal import Rows

_OFTEN = 0.5  # of the updates
_CLIPPED = 0.999  # a factor below is no rounding
_SAME = 1e-3  # of the limit: so near to it a norm was clipped
_FEWEST = 10  # values
_BARE, _SURE, _CANCELS, _HIDDEN = 0.65, 0.95, 0.55, 0.7  # confidence: half of them, all of them, under Adam, without the factor


def clipping(curve: Curve) -> Finding | None:
    """More than half of the updates are clipped, and not only early on: how hard, and what rate or limit says the same."""
    if "clip_factor" in curve.run:
        return _known(curve)
    return _hidden(curve) if "grad_norm" in curve.run else None


def _known(curve: Curve) -> Finding | None:
    steps, factor = curve.run.observed("clip_factor")
    share = _share(factor < _CLIPPED)
    if share is None:
        return None
    engaged = steps[factor < _CLIPPED]
    median, hardest = (float(q) for q in np.quantile(factor[factor < _CLIPPED], (0.5, 0.1)))
    window = int(engaged[0]), int(engaged[-1])
    cancels = family(curve.run.meta.get("optimizer"), curve.run.meta.get("momentum")) in ("adam", "rmsprop")
    what = (
        f"{share:.0%} of the updates are clipped, to {median:.2g} of their gradient: every batch weighs the same, small or large"
        if cancels
        else f"the clip acts as the rate: {share:.0%} of the updates are clipped, the median one to {median:.2g} of its length"
    )
    evidence = [f"clip_factor is below 1 in {share:.0%} of {len(factor)} updates, also in the later half"]
    evidence += [f"the median factor of those is {median:.2g}, a tenth of them {hardest:.2g} or less"]
    if curve.peak is not None and not cancels:
        evidence += [f"the true rate is about {curve.peak * median:.3g}, not {curve.peak:.3g}"]
    counter = ("under Adam and its like a constant factor cancels: it does not change the rate",) if cancels else ()
    sure = _CANCELS if cancels else _BARE + (_SURE - _BARE) * (share - _OFTEN) / (1 - _OFTEN)
    limit = _limit(curve)
    lower = f"{advised(curve, median)}, which is what it comes to, and " if not cancels else ""
    return Finding(
        "clipping", what, sure, window, tuple(evidence), counter, f"{lower}{limit}",
        "fewer than one update in ten is clipped, and the loss falls at least as fast", factor=1.0 if cancels else median,
    )  # fmt: skip


def _share(engaged: Rows) -> float | None:
    """The share of updates that are clipped; None of half or fewer, in all or in the later half, or of few values."""
    if len(engaged) < _FEWEST:
        return None
    share, later = float(engaged.mean()), float(engaged[len(engaged) // 2 :].mean())
    return share if min(share, later) > _OFTEN else None


def _limit(curve: Curve) -> str:
    """Where the limit belongs: the 90th percentile of the norms before clipping, where these are known."""
    if "grad_norm" not in curve.run:
        return "raise the limit to the 90th percentile of the gradient norms before clipping"
    norm, factor = curve.run["grad_norm"], curve.run["clip_factor"]
    both = np.isfinite(norm) & np.isfinite(factor)
    if not both.any():
        return "raise the limit to the 90th percentile of the gradient norms before clipping"
    now = float(np.median((norm * factor)[both & (factor < _CLIPPED)])) if (both & (factor < _CLIPPED)).any() else float("nan")
    wanted = float(np.quantile(norm[both], 0.9))
    return f"raise the limit from {now:.3g} to {wanted:.3g}, the 90th percentile of the norms"


def _hidden(curve: Curve) -> Finding | None:
    """The norm was logged after the clip: it has a ceiling, at which it sits."""
    steps, norm = curve.run.observed("grad_norm")
    top = float(np.max(norm, initial=0.0))
    if top <= 0:
        return None
    at = norm >= top * (1 - _SAME)
    share = _share(at)
    if share is None:
        return None
    return Finding(
        "clipping",
        f"the gradient norm sits at {top:.4g}, its maximum, in {share:.0%} of the updates: the clip acts as the rate",
        _HIDDEN, (int(steps[at][0]), int(steps[at][-1])),
        (f"{int(at.sum())} of {len(norm)} norms lie within {_SAME:.1%} of {top:.4g}, and none above",),
        ("the norms before clipping are not in the log, so by how much they are clipped is not known",
         "an optimizer or a loss that normalises its gradients would look the same"),
        f"log the norm before clipping, record(grad_norm=…) as clip_grad_norm_ returns it; then raise the limit from {top:.4g} "
        "to the 90th percentile of these norms, or multiply the rate by limit / median norm",
        "fewer than one update in ten has a norm above the limit",
    )  # fmt: skip
