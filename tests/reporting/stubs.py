"""Diagnoses as the doctor gives them, without asking its rules: what is shown is tested here, not what is found."""

import numpy as np

from lrkit import Run
from lrkit.doctor.diagnosis import Diagnosis
from lrkit.doctor.finding import Finding

T = np.arange(400)
NOISE = np.random.default_rng(0).standard_normal(400)
FLAT = Run({"step": T, "loss": 1.1 + np.exp(-T / 10) + 0.1 * NOISE, "lr": np.full(400, 0.03)}, {"format": "csv"})
DECAYED = Run(
    {
        "step": T,
        "loss": 0.3 + 2 * np.exp(-T / 40),
        "lr": 0.003 * (1.001 - T / 400),
        "val_loss": np.where(T % 50 == 49, 0.4, np.nan),
    }
)
LOST = Run({"step": T, "loss": np.where(T < 300, 2 * np.exp(-T / 200), np.nan)})


def finding(code="too_high_later", confidence=0.78, window=(40, 399), **more) -> Finding:
    """One with words of the usual lengths."""
    words = {
        "sentence": "the loss falls fast, then jitters on one level: the rate is too high for what is left to learn",
        "evidence": ("86% of the drop is made in the first tenth, 0.1% of it in the last third", "blocks differ by 9.1% of it"),
        "counter": ("a floor looks alike on the loss alone; a short branch at a tenth of the rate tells them apart",),
        "advice": "change the rate from 0.03 to 0.01 and go back to step 40, or let the rate decay from there on",
        "verify": "the loss falls below its plateau within a tenth of the run",
        "factor": 1 / 3,
        "restart": 40,
    }
    return Finding(code, confidence=confidence, window=window, **words | more)


ODDS = {"too low": 0.02, "ok": 0.15, "too high": 0.78, "diverged": 0.05}


def said(
    run: Run = FLAT,
    findings: tuple[Finding, ...] = (),
    missing: tuple[str, ...] = (),
    rate: str = "ok",
    probabilities: dict[str, float] = ODDS,
    peak: float | None = 0.03,
) -> Diagnosis:
    """What the doctor says, whatever it is."""
    return Diagnosis(run, findings, missing, probabilities, rate, peak)


HIGH = said(FLAT, (finding(),), ("grad_norm",), rate="too high", probabilities=ODDS)
WELL = said(DECAYED, rate="ok", probabilities={"too low": 0.03, "ok": 0.96, "too high": 0.01, "diverged": 0.0})
TWO = said(
    LOST, (finding("diverged", 0.98, (300, 399)), finding("late_spikes", 0.64, (295, 295))), ("lr", "grad_norm"),
    rate="diverged", probabilities={"too low": 0.001, "ok": 0.01, "too high": 0.03, "diverged": 0.959},
)  # fmt: skip
MAYBE = said(FLAT, (finding(confidence=0.4),), rate="too high", probabilities=ODDS)
UNCLEAR = said(FLAT, (finding("cannot_tell", 1.0, factor=1.0, restart=None),), rate="cannot tell", probabilities=ODDS)
ALL = {"runs/digits/first": WELL, "logs/a/b.csv": HIGH, "log.jsonl": TWO, "maybe.csv": MAYBE, "unclear": UNCLEAR}
