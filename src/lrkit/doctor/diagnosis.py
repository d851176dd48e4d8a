"""`diagnose`: all rules on one run, the surest first, at most three; and the rate in a word, with probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lrkit.doctor.clipping import clipping
from lrkit.doctor.curve import FEWEST, Curve, curve_of
from lrkit.doctor.decay_too_early import decay_too_early
from lrkit.doctor.decay_too_late import decay_too_late
from lrkit.doctor.diverged import diverged
from lrkit.doctor.doubt import with_probes
from lrkit.doctor.finding import Finding
from lrkit.doctor.floor import floor
from lrkit.doctor.late_spikes import late_spikes
from lrkit.doctor.no_progress import no_progress, too_short
from lrkit.doctor.odds import MISSED, Odds, odds_of, surely
from lrkit.doctor.oscillation import oscillation
from lrkit.doctor.overfitting import overfitting
from lrkit.doctor.saddle_by_curvature import saddle_by_curvature
from lrkit.doctor.spike_due import spike_due
from lrkit.doctor.too_high_at_start import never_recovers, too_high_at_start
from lrkit.doctor.too_high_later import too_high_later
from lrkit.doctor.too_low import too_low
from lrkit.doctor.vanishing import vanishing
from lrkit.doctor.warmup_too_long import warmup_too_long
from lrkit.doctor.warmup_too_short import warmup_too_short
from lrkit.errors import InputError
from lrkit.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Word = Literal["ok", "too low", "too high", "diverged", "cannot tell"]

RATE_RULES: tuple[Callable[[Curve, Odds], Finding | None], ...] = (too_low, too_high_at_start, too_high_later)
RULES: tuple[Callable[[Curve], Finding | None], ...] = (
    late_spikes, warmup_too_short, warmup_too_long, decay_too_early, decay_too_late, saddle_by_curvature, overfitting,
    oscillation, floor, spike_due, vanishing, clipping,
)  # fmt: skip

# What an illness makes look like another, which is then not reported beside it.
_EXPLAINS: dict[str, tuple[str, ...]] = {
    "saddle": ("too_low", "too_high_at_start", "too_high_later"),
    "oscillation": ("too_low", "too_high_at_start", "too_high_later"),
    "floor": ("too_low",),
    "warmup_too_long": ("too_low",),
    "decay_too_early": ("too_low",),
    "decay_too_late": ("too_high_later",),
    "overfitting": ("too_low",),
    "vanishing": ("too_low", "too_high_at_start"),
    "clipping": ("too_low",),
    "too_high_at_start": ("spike_due",),
    "too_high_later": ("spike_due",),
    "cannot_tell": ("too_low", "too_high_at_start", "too_high_later"),
}
_NEVER = 0.95  # see `never_recovers`
_LEAST = 0.4  # below, no word is said


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says of a run.

    Args:
        run: The run.
        findings: At most three, the surest first; empty where the run is healthy.
        missing: Signals that would have helped and are not in the log.
        probabilities: {word: probability} of too low, ok, too high and diverged, calibrated on labelled sweeps; equal to one
            another where nothing can be told.
        rate: The answer in a word: ok, too low, too high, diverged or cannot tell.
        peak: The highest rate, which the advice refers to; None where the log has no usable rate.
    """

    run: Run
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    probabilities: dict[str, float]
    rate: Word
    peak: float | None

    @property
    def healthy(self) -> bool:
        """Whether the rate is ok and nothing was found that is at least likely."""
        return self.rate == "ok" and not self.serious

    @property
    def serious(self) -> bool:
        """Whether a fault is at least likely."""
        return any(finding.accuses and finding.sure != "possible" for finding in self.findings)

    @property
    def probe(self) -> int | None:
        """The step at which a probe would settle what is in doubt; None where nothing is."""
        return next((finding.probe for finding in self.findings if finding.probe is not None), None)

    @property
    def advised_lr(self) -> float | None:
        """The base rate that the surest finding with advice on it advises; None where there is none, or no rate in the log."""
        factors = [finding.factor for finding in self.findings if finding.factor != 1.0 and not self.healthy]
        return self.peak * factors[0] if factors and self.peak is not None else None

    @property
    def well(self) -> str:
        """What is said of a healthy run."""
        if any(finding.accuses for finding in self.findings):
            return f"nothing is more than possible, but look at {'this' if len(self.findings) == 1 else 'these'}"
        loss = self.run.observed("loss")[1]
        end = np.median(loss[-max(3, len(loss) // 10) :])
        return f"the loss falls from {loss[0]:.4g} to {end:.4g} without a sign of a wrong rate"

    def plot(self, ax: Axes | None = None, finding: int = 0) -> Axes:
        """Draw the loss with the window of a finding shaded, the first by default."""
        from lrkit.figures.charts import window

        ax = self.run.plot(ax)
        if 0 <= finding < len(self.findings):
            window(ax, *self.findings[finding].window, self.findings[finding].title)
        return ax

    def _repr_html_(self) -> str:
        from html import escape

        from lrkit.figures.style import figure_of, to_svg

        text = f"<pre>{escape(str(self))}</pre>"
        return to_svg(figure_of(self.plot()), str(self)) + text if np.isfinite(self.run["loss"]).any() else text

    def __str__(self) -> str:
        lines = [f"healthy: {self.well}"] if self.healthy else []
        lines += [str(finding) for finding in self.findings]
        if self.missing:
            lines.append(f"not in the log: {', '.join(self.missing)}")
        return "\n".join(lines)


def diagnose(run: Run) -> Diagnosis:
    """Say what is wrong with a run, how sure that is, and which rate to use instead.

    Args:
        run: Needs `loss`; `lr` lets the advice name rates.

    Returns:
        A Diagnosis; ``print(diagnosis)`` shows it.

    Raises:
        InputError: If the run has no loss.

    Examples:
        >>> import numpy as np
        >>> t = np.arange(200)
        >>> slow = Run({"step": t, "loss": 2.3 - 0.004 * t, "lr": np.full(200, 1e-5)})
        >>> diagnose(slow).rate, diagnose(slow).advised_lr > 1e-4
        ('too low', True)
    """
    if not isinstance(run, Run):
        raise InputError(f"diagnose({type(run).__name__}): needs a Run. lrkit.read(path) makes one of a log.")
    if run.meta.get("kind") == "range_test":
        raise InputError("diagnose(run): this is a range test, which is made to blow up. Diagnose a training.")
    curve = curve_of(run)
    missing = (
        [] if curve.lr is not None else ["lr" if "lr" not in run else "a usable lr (positive in some row, negative in none)"]
    )
    exploded = diverged(curve)
    if exploded is not None and exploded.sure != "possible":
        return Diagnosis(run, (exploded,), tuple(missing), _chances(None, exploded.confidence), "diverged", curve.peak)
    if curve.points < FEWEST or len(np.unique(curve.rows)) < FEWEST:
        findings = (too_short(curve), *([exploded] if exploded else []))
        return Diagnosis(run, findings, tuple(missing), _chances(None, 0.25), "cannot tell", curve.peak)
    odds = odds_of(curve)
    if never_recovers(curve):
        odds = surely(odds, "too high", _NEVER)
    if curve.lr is not None and odds.usual is None:
        missing.append("optimizer")
    seen = [finding for rule in RULES if (finding := rule(curve)) is not None] + ([exploded] if exploded else [])
    seen += [finding for rate_rule in RATE_RULES if (finding := rate_rule(curve, odds)) is not None]
    flat = no_progress(curve) if odds.usual is None and not odds.gauged else None
    findings = with_probes(_ranked([*seen, flat] if flat is not None else seen), curve)
    lost = any(finding.code in ("cannot_tell", "saddle") for finding in findings)
    word = "cannot tell" if lost or odds.probabilities[odds.word] < _LEAST else odds.word
    return Diagnosis(run, findings, tuple(missing), _chances(odds, MISSED), word, curve.peak)  # type: ignore[arg-type]


def _ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """At most three, the surest first, without those that another explains."""
    seen = sorted(findings, key=lambda finding: -finding.confidence)
    explained = {code for finding in seen for code in _EXPLAINS.get(finding.code, ())}
    return tuple(finding for finding in seen if finding.code not in explained)[:3]


def _chances(odds: Odds | None, lost: float) -> dict[str, float]:
    """The four words' probabilities; where the odds were not weighed, the three others share the rest."""
    three = odds.probabilities if odds is not None else dict.fromkeys(("too low", "ok", "too high"), 1 / 3)
    return {**{word: (1 - lost) * chance for word, chance in three.items()}, "diverged": lost}
