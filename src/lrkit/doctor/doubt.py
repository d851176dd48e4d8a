"""Doubt: where the log does not decide, a probe at the right step would.

A probe trains on from one state of the run, at a lower, the same and a higher rate (`lrkit.probe`); so it needs the model as it
was at that step, and a rate that has not decayed.
"""

from __future__ import annotations

from dataclasses import replace

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import phases

# What a probe can decide: whether a lower or a higher rate would have helped.
_ABOUT_THE_RATE = (
    "too_low", "too_high_at_start", "too_high_later", "decay_too_early", "decay_too_late", "oscillation", "floor", "saddle",
    "cannot_tell",
)  # fmt: skip


def with_probes(findings: tuple[Finding, ...], curve: Curve) -> tuple[Finding, ...]:
    """The findings; those about the rate that are not even likely, or say nothing, with the step at which to probe."""
    at = _settled_at(curve)
    return tuple(
        replace(one, probe=at) if one.code in _ABOUT_THE_RATE and (one.sure == "possible" or not one.accuses) else one
        for one in findings
    )


def _settled_at(curve: Curve) -> int:
    """Where the peak rate has done its work: the last step before the decay, or, without one, three quarters of the run."""
    seen = phases(curve)
    if seen is not None and 0 < seen.decay < curve.points:
        return int(curve.rows[max(seen.warm, seen.decay - 1)])
    return int(curve.first + 0.75 * (curve.last - curve.first))
