"""What the tests of the doctor's illnesses share: each rule asked by itself, and a plain run to spoil."""

import numpy as np

from lrkit import Run
from lrkit.doctor.curve import FEWEST, curve_of
from lrkit.doctor.decay_too_early import decay_too_early
from lrkit.doctor.decay_too_late import decay_too_late
from lrkit.doctor.diverged import diverged
from lrkit.doctor.finding import Finding
from lrkit.doctor.late_spikes import late_spikes
from lrkit.doctor.overfitting import overfitting
from lrkit.doctor.saddle import saddle
from lrkit.doctor.warmup_too_long import warmup_too_long
from lrkit.doctor.warmup_too_short import warmup_too_short

RULES = (
    diverged, late_spikes, overfitting, saddle, decay_too_early, decay_too_late, warmup_too_long, warmup_too_short,
)  # fmt: skip
N = 1000
T = np.arange(N)


def found(run: Run) -> dict[str, Finding]:
    """What each of these rules finds, whatever the others say."""
    curve = curve_of(run)
    speaking = [rule for rule in RULES if rule is diverged or (curve.points >= FEWEST and curve.nonfinite is None)]
    return {finding.code: finding for rule in speaking if (finding := rule(curve)) is not None}


def accused(run: Run) -> list[str]:
    """The codes that are likely at least."""
    return [code for code, finding in found(run).items() if finding.confidence >= 0.6]


def slide(tau: float = 100, low: float = 0.1, high: float = 2.3, seed: int = 0, noise: float = 0.02):
    """(N,) a loss that falls exponentially, with noise."""
    return low + (high - low) * np.exp(-T / tau) + noise * np.random.default_rng(seed).standard_normal(N)


def run_of(loss, lr=None, meta=None, **columns) -> Run:
    """A run of this loss, at the constant rate 0.1 unless told."""
    return Run({"loss": loss, "lr": np.full(len(loss), 0.1) if lr is None else lr, **columns}, meta)
