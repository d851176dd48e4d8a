"""Rate: what the findings about the rate have in common: how sure they are, what the rate is compared with, what is advised."""

from __future__ import annotations

import numpy as np

from lrkit.doctor.curve import Curve, advised
from lrkit.doctor.odds import MISSED, Odds
from lrkit.doctor.signal import phases

_SHOWN = 0.9  # how surely the curve alone has to say too low
_DONE = 0.2  # of the peak: a rate that still falls above it has some way to go
_NEAR = 3.0  # times the usual rate: within, it says nothing
_PAID = 0.03  # of the drop
_UNSURE = 0.45  # what a log is good for that does not say where in its schedule the run is


def confidence(curve: Curve, odds: Odds) -> tuple[float, tuple[str, ...]]:
    """(how sure the odds' word is, what speaks against it).

    The probability holds for whole runs under a known rate. Without one, or in the middle of a schedule, a healthy run looks ill:
    of AlgoPerf's runs that reached their target, a fifth are logged for their first updates alone.
    """
    counter: list[str] = []
    if curve.peak is None:
        counter.append("no rate in the log: the run may be in the middle of its schedule, or have been cut")
    if unfinished(curve):
        counter.append("the log ends in the middle of a schedule: its decay is still to come, and it will pay off")
    if odds.word == "too low" and odds.alone["too low"] < _SHOWN:
        counter.append(
            "the curve alone does not show it, and usual rates are those of small nets trained from scratch: a large or "
            "pretrained one wants 10 to 1,000 times less"
        )
    if odds.word == "too high" and (mended := _mended(curve)):
        counter.append(mended)
    sure = (1 - MISSED) * odds.probabilities[odds.word]
    return (min(sure, _UNSURE) if counter else sure), tuple(counter)


def _mended(curve: Curve) -> str:
    """What the decay after a stable phase has brought: a plateau before it is how such a schedule works, and no fault."""
    seen = phases(curve)
    if seen is None or not seen.simple or seen.decay >= curve.points or seen.decay - seen.warm < 0.3 * curve.points:
        return ""
    before = float(np.median(curve.values[max(0, seen.decay - max(5, curve.points // 20)) : seen.decay]))
    if before - curve.end < _PAID * curve.drop:
        return ""
    return f"the decay from step {int(curve.rows[seen.decay])} on brings the loss from {before:.4g} to {curve.end:.4g}"


def unfinished(curve: Curve) -> bool:
    """Whether the log ends before its schedule does: warming up, at the peak after that, half-way down, or short of `steps`."""
    if curve.planned is not None and curve.last - curve.first < 0.9 * (curve.planned - 1):
        return True
    seen = phases(curve)
    if seen is None or curve.rates is None:
        return False
    last, before = float(curve.rates[-1]), float(curve.rates[-1 - max(1, curve.points // 20)])
    half_way = seen.simple and _DONE * seen.peak < last < before
    return seen.rising or half_way or (seen.warm > 0 and seen.decay >= curve.points - 1)


def compared(curve: Curve, odds: Odds) -> tuple[str, ...]:
    """Where the rate lies beside the usual one: evidence, or nothing where it is unknown or says nothing."""
    if odds.usual is None or curve.peak is None:
        return ()
    times = curve.peak / odds.usual if odds.word == "too high" else odds.usual / curve.peak
    if times < _NEAR:
        return ()
    steps = curve.last - curve.first + 1
    return (
        f"the rate, {curve.peak:.3g}, is about {rounded(times)} times {'higher' if odds.word == 'too high' else 'lower'} than is "
        f"usual for its optimizer over {steps:,} steps: {odds.usual:.1g}, give or take a factor of 10",
    )


def rounded(times: float) -> str:
    """Two digits, without an exponent.

    Examples:
        >>> rounded(59.4), rounded(1127), rounded(1.51)
        ('59', '1,100', '1.5')
    """
    return f"{float(f'{times:.2g}'):,.10g}"


def changed(curve: Curve, odds: Odds) -> str:
    """``change the rate from 0.3 to 0.03``."""
    return advised(curve, odds.factor)
