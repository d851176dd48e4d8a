"""`diagnose`: all rules on one run, the surest first, at most three."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lrkit.doctor.curve import FEWEST, Curve, curve_of
from lrkit.doctor.diverged import diverged
from lrkit.doctor.finding import Finding
from lrkit.doctor.too_high_at_start import too_high_at_start
from lrkit.doctor.too_high_later import too_high_later
from lrkit.doctor.too_low import too_low
from lrkit.errors import InputError
from lrkit.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rule = Callable[[Curve], Finding | None]
Word = Literal["ok", "too low", "too high", "diverged", "cannot tell"]

RULES: tuple[Rule, ...] = (diverged, too_high_at_start, too_high_later, too_low)

_WORDS: dict[str, Word] = {
    "diverged": "diverged",
    "too_high_at_start": "too high",
    "too_high_later": "too high",
    "too_low": "too low",
    "cannot_tell": "cannot tell",
}


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says of a run.

    Args:
        run: The run.
        findings: At most three, the surest first; empty where the run is healthy.
        missing: Signals that would have helped and are not in the log.
        peak: The highest rate, which the advice refers to; None where the log has no usable rate.
    """

    run: Run
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    peak: float | None

    @property
    def healthy(self) -> bool:
        """Whether nothing was found, on enough data to say so."""
        return not self.findings

    @property
    def rate(self) -> Word:
        """The answer in a word: ok, too low, too high, diverged or cannot tell."""
        return _WORDS[self.findings[0].code] if self.findings else "ok"

    @property
    def advised_lr(self) -> float | None:
        """The base rate that the first finding advises; None where there is none, or no rate in the log."""
        if not self.findings or self.findings[0].factor == 1.0 or self.peak is None:
            return None
        return self.peak * self.findings[0].factor

    @property
    def well(self) -> str:
        """What is said of a run in which nothing was found."""
        loss = self.run.observed("loss")[1]
        end = np.median(loss[-max(3, len(loss) // 10) :])
        return f"the loss falls from {loss[0]:.4g} to {end:.4g} without a sign of a wrong rate"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the loss with the first finding's window shaded."""
        from lrkit.figures.charts import window

        ax = self.run.plot(ax)
        if self.findings:
            window(ax, *self.findings[0].window)
        return ax

    def _repr_html_(self) -> str:
        from html import escape

        from lrkit.figures.style import figure_of, to_svg

        text = f"<pre>{escape(str(self))}</pre>"
        return to_svg(figure_of(self.plot()), str(self)) + text if np.isfinite(self.run["loss"]).any() else text

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings]
        if self.healthy:
            lines = [f"healthy: {self.well}"]
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
        >>> diagnose(slow).rate, diagnose(slow).advised_lr
        ('too low', 0.0001)
    """
    if not isinstance(run, Run):
        raise InputError(f"diagnose({type(run).__name__}): needs a Run. lrkit.read(path) makes one of a log.")
    if run.meta.get("kind") == "range_test":
        raise InputError("diagnose(run): this is a range test, which is made to blow up. Diagnose a training.")
    curve = curve_of(run)
    missing = ("lr",) if curve.lr is None else ()
    findings = [finding for rule in RULES if _speaks(rule, curve) and (finding := rule(curve)) is not None]
    findings.sort(key=lambda finding: -finding.confidence)
    if not findings and curve.points < FEWEST:
        findings = [_too_short(curve)]
    elif not findings and (unclear := _no_progress(curve)) is not None:
        findings = [unclear]
    return Diagnosis(run, tuple(findings[:3]), missing, curve.peak)


def _speaks(rule: Rule, curve: Curve) -> bool:
    """An explosion shows on any number of rows; the rules about shapes need enough of them."""
    return rule is diverged or (curve.points >= FEWEST and curve.nonfinite is None)


def _too_short(curve: Curve) -> Finding:
    return Finding(
        "cannot_tell", f"{curve.points} losses are too few to judge a curve", 1.0, (int(curve.steps[0]), curve.last),
        (f"at least {FEWEST} are needed",), (), "log every update, or train longer", "run the doctor again",
    )  # fmt: skip


def _no_progress(curve: Curve) -> Finding | None:
    """Hardly any drop and no trend: a rate far too low, a symmetry plateau and a broken loss all look like this."""
    falls, t = curve.trend(since=0.0)
    fallen = curve.start - curve.end
    if fallen > max(3 * curve.noise, 3 * curve.spread, 0.02 * abs(curve.start)) or (falls > 0.3 and t > 4):
        return None
    return Finding(
        "cannot_tell", "the loss moves less than its noise: far too low a rate, a plateau, broken data look alike", 1.0,
        (int(curve.steps[0]), curve.last), (f"it begins at {curve.start:.4g} and ends at {curve.end:.4g}",), (),
        "search the rate with lrkit.find; if it finds none, look at the data and the labels",
        "the loss leaves its first level",
    )  # fmt: skip
