"""Spike due: what the gauges show just before the loss jumps: a scale σ that is out of date, or a step that is too long for it.

Six signs, all read at the end of the log alone, from the last `_WINDOW` visits of the gauges; each without units:

    edge:         the largest curvature of D^½ H D^½, D = η/σ, is at its stable limit, updates keep little of what they promise,
                  and it is on the way up: σ shrinks and is slow to follow (β₂), the rate rises, or gradients burst
    stale:        steps are short only because σ is left over from larger gradients; one such gradient moves the weights by
                  h·(1 − β₁)/√(1 − β₂) of their size, h = update ratio / coherence: how far a step moves them if gradients agree
    out of date:  σ is far below its gradients for several visits, rms_t ≥ 2.3 and twice the usual, and updates are long
    bursts:       among the gradients of late are some far above their neighbours, and updates are long and keep little, or the
                  rate still rises
    turn:         the gradient has grown and, from travelling, turned to pointing back and forth, while the loss does not fall
    surge:        updates have become several times longer than they were, and not by the rate

Sources: StableAdamW (arXiv:2304.13013, section 3.4) finds rms_t ≥ 2.3 one to eight updates before a spike; arXiv:2506.04805 finds
σ decaying by itself until the edge is crossed; arXiv:2207.14484 has the limit for Adam. That edge alone is no fault
(arXiv:2103.00065): the run may live there, and does so where σ follows within a few updates. A bad batch is not foreseen.
`foresee` asks at the end of a prefix, as often as wanted. The thresholds are from ``benchmarks/watch/spikes.py`` (other seeds)
and from the good runs of ``benchmarks/doctor/gauges.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lrkit.doctor.curve import Array, Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import Index
from lrkit.run import Run

_WINDOW, _USUAL, _NOW, _FEWEST = 30, 20, 3, 12  # visits: that are looked at, that are usual, that are the end; too few
_EDGE, _KEPT, _LITTLE = 0.95, 0.15, 0.3  # of the limit; of what an update promises
_SLOW, _SHRINKS, _RISES, _STILL = 0.97, 1.02, 1.05, 1.01  # β₂: σ takes 30 updates to follow; η/σ and η beside those of before
_THROW, _BEHIND, _WEAK = 0.25, 0.5, 0.03  # of the weights' size; usual rms_t; usual coherence
_RMS, _ABOVE = 2.3, 2.0  # StableAdamW's bound; times the usual
_SOME, _MANY, _SURGE = 3.5, 6.0, 4.0  # times the usual
_LONG, _FAIR, _AFTER = 0.03, 0.015, 0.1  # update ratio; that of a surge times how large it is
_GROWN, _TURNED, _FALLEN, _MOVES = 2.5, 0.3, 0.9, 0.005  # times; of the cosine; of the loss before; update ratio
_RAISED = 1.3  # times the rate of before: what grows then grows with it
_END, _LATE = 5, 8  # visits at the end; visits that do not count as before
_AROUND = 4  # visits on either side are neighbours
_COOLED = 0.1  # of the peak: a rate that has decayed so far
_ONE, _MORE = 0.65, 0.1  # confidence of one sign, and what each other adds


@dataclass(frozen=True)
class Seen:
    """The end of a prefix, as the gauges saw it. What was not read is NaN.

    Args:
        step: Of the last visit.
        edge: Median of the last visits.
        kept: Gain ratio, median of the last five.
        throw: What one gradient that σ was made for moves the weights by, beside their size.
        rms: Usual rms_t.
        coherence: Usual coherence.
        lately: rms_t, median of the last visits.
        burst: The 95th percentile of the gradient norms, beside the median of their neighbours.
        grown: The gradient norm of the last five visits, beside that of before.
        cosine: Median cosine of successive gradients at the last five visits.
        cosine_before: That of before.
        fallen: The loss since the last five visits, beside that of before.
        ratio: Update ratio of the last visit.
        surge: Update ratio of the last visits, beside the usual.
        raised: The rate, beside that at the window's start.
        rises: The rate, beside that of five visits before.
        shrinks: How much higher η/σ is than before, without what the rate does.
        beta2: Of the optimizer; 0.999 where it is not known.
    """

    step: int
    edge: float
    kept: float
    throw: float
    rms: float
    coherence: float
    lately: float
    burst: float
    grown: float
    cosine: float
    cosine_before: float
    fallen: float
    ratio: float
    surge: float
    raised: float
    rises: float
    shrinks: float
    beta2: float


def _at_the_edge(s: Seen) -> bool:
    known = s.kept < _KEPT if not math.isnan(s.kept) else s.rms < _BEHIND
    if not (s.edge >= _EDGE and known):
        return False
    if math.isnan(s.rms):
        return s.rises > _RISES or s.burst > _SOME
    return (s.beta2 > _SLOW and s.shrinks > _SHRINKS) or (s.ratio > _FAIR and s.rises > _SHRINKS)


def _bursts_there(s: Seen) -> bool:
    lost = s.burst > _MANY and s.ratio > _FAIR and not s.kept > _LITTLE
    return lost or (s.burst > _SOME and s.ratio > _LONG and s.rises > _STILL)


# Each: whether it is there, and in words.
SIGNS: dict[str, tuple[Callable[[Seen], bool], Callable[[Seen], str]]] = {
    "edge": (
        _at_the_edge,
        lambda s: f"the steepest direction is at {s.edge:.0%} of its stable limit, updates keep {s.kept:.2f} of their promise",
    ),
    "stale": (
        lambda s: s.throw > _THROW and s.rms < _BEHIND and s.coherence < _WEAK,
        lambda s: f"rms_t is {s.rms:.2g}: σ is left over, and one gradient as it was then moves the weights by {s.throw:.0%}",
    ),
    "out of date": (
        lambda s: s.lately >= _RMS and s.lately > _ABOVE * s.rms and s.ratio > _LONG,
        lambda s: f"rms_t is {s.lately:.2g}, usually {s.rms:.2g}: σ is far below its gradients",
    ),
    "bursts": (
        _bursts_there,
        lambda s: f"one gradient in twenty is {s.burst:.2g} times its neighbours, and updates move the weights by {s.ratio:.1%}",
    ),
    "turn": (
        lambda s: s.grown > _GROWN and s.cosine < min(0.0, s.cosine_before - _TURNED) and s.fallen > _FALLEN and s.ratio > _MOVES,
        lambda s: f"gradients are {s.grown:.2g} times as large, their cosine went from {s.cosine_before:+.2f} to {s.cosine:+.2f}",
    ),
    "surge": (
        lambda s: s.surge > _SURGE and s.surge * s.ratio > _AFTER and s.raised < _RAISED,
        lambda s: f"updates are {s.surge:.2g} times as long as usual, {s.ratio:.1%} of the weights, without a higher rate",
    ),
}  # fmt: skip


def spike_due(curve: Curve) -> Finding | None:
    """Whether a spike is due at the end of the log, by which signs, and since which step."""
    seen = look(curve.run)
    signs = signs_of(seen)
    if seen is None or not signs or _cooled(curve):
        return None
    since = _since(curve.run, seen.step)
    rate = None if curve.rates is None else float(curve.rates[-1])
    lower = "divide the rate by 2" if rate is None else f"lower the rate from {rate:.3g} to {rate / 2:.3g}"
    adaptive = not math.isnan(seen.rms)
    follow = f"β2 from {seen.beta2:g} to 0.95, a larger ε (1e-6, 1e-4), updates clipped to rms 1; " if seen.beta2 > _SLOW else ""
    counter = () if not math.isnan(seen.edge) else ("the curvature was not read: watch(…, loss=…) would tell the edge",)
    more = f"; if the signs stay, {follow}" if adaptive and follow else "; if the signs stay, "
    return Finding(
        "spike_due",
        f"a spike of the loss is due: since step {since} {'σ is out of date' if adaptive else 'steps are too long'} "
        f"({', '.join(signs)})",
        sure_of(signs), (since, curve.last), tuple(SIGNS[sign][1](seen) for sign in signs), counter,
        f"{lower} now{more}clip the gradient norm at its usual size",
        "these signs are gone within 1/(1 − β2) updates, and the loss passes without a jump", factor=0.5,
    )  # fmt: skip


def _cooled(curve: Curve) -> bool:
    """Whether a decay has done already what would be advised."""
    return curve.rates is not None and curve.peak is not None and float(curve.rates[-1]) < _COOLED * curve.peak


def foresee(run: Run, stop: int | None = None) -> float:
    """How sure it is that a spike is due at the end of the rows before `stop` (all without it); 0: nothing points to one.

    Reads the last visits alone, so that it may be asked at each visit of a run that is under way.
    """
    return sure_of(signs_of(look(run, stop)))


def signs_of(seen: Seen | None) -> tuple[str, ...]:
    """The signs that are there."""
    return () if seen is None else tuple(sign for sign, (is_there, _) in SIGNS.items() if is_there(seen))


def sure_of(signs: tuple[str, ...]) -> float:
    """The confidence that so many signs are worth."""
    return _ONE + _MORE * (len(signs) - 1) if signs else 0.0


def _since(run: Run, last: int) -> int:
    """The first visit from which on a sign was there at each."""
    rows = np.flatnonzero(np.isfinite(run["update_ratio"]))
    for row in rows[::-1][1 : 4 * _WINDOW]:
        if not signs_of(look(run, int(row) + 1)):
            break
        last = int(run["step"][row])
    return last


def look(run: Run, stop: int | None = None) -> Seen | None:
    """The end of the rows before `stop`; None where the gauges were not read, or too seldom."""
    if not {"update_ratio", "grad_norm", "loss"} <= set(run):
        return None
    stop = len(run) if stop is None else min(stop, len(run))
    rows = np.flatnonzero(np.isfinite(run["update_ratio"][:stop]) & np.isfinite(run["grad_norm"][:stop]))
    if len(rows) < _FEWEST:
        return None
    rows = rows[-_WINDOW:]
    oldest = int(rows[-1] - 3 * np.median(np.diff(rows[-_FEWEST:])))
    norm, ratio = run["grad_norm"][rows], run["update_ratio"][rows]
    gain, edge, cosine = (_last(run, name, stop, oldest) for name in ("gain_ratio", "edge", "grad_cosine"))
    usual = ratio[-_USUAL - _NOW : -_NOW]
    nan, rates = math.nan, (_raised(run, rows), _raised(run, rows[-_END:]))
    seen = Seen(
        int(run["step"][rows[-1]]), _middle(edge[-_NOW:], _NOW), _middle(gain[-_END:], _END), nan, nan, nan, nan, _bursts(norm),
        float(np.median(norm[-_END:]) / max(np.median(norm[:-_LATE]), 1e-300)), _middle(cosine[-_END:], _END),
        _middle(cosine[:-_LATE], _FEWEST - _LATE), _fallen(run, rows, stop), float(ratio[-1]),
        float(np.median(ratio[-_NOW:]) / max(np.median(usual), 1e-300)), *rates, nan, _betas(run)[1],
    )  # fmt: skip
    return _scaled(seen, run, stop, oldest, ratio) if "rms_t" in run else seen


def _scaled(seen: Seen, run: Run, stop: int, oldest: int, ratio: Array) -> Seen:
    """With what is known of σ."""
    rms, agree = _last(run, "rms_t", stop, oldest), _last(run, "coherence", stop, oldest)
    if len(rms) < _FEWEST:
        return seen
    usual = float(np.median(rms[-_USUAL:]))
    seen = replace(seen, rms=usual, lately=float(np.median(rms[-_NOW:])), shrinks=_shrinks(run, stop, seen.raised))
    count = min(len(agree), len(ratio), _USUAL)
    if count < _FEWEST:
        return seen
    step = float(np.median(ratio[-count:] / np.maximum(agree[-count:], 1e-30)))
    throw = step * (1 - _betas(run)[0]) / math.sqrt(max(1 - seen.beta2, 1e-6))
    return replace(seen, throw=throw, coherence=float(np.median(agree[-_USUAL:])))


def _fallen(run: Run, rows: Index, stop: int) -> float:
    """The median loss since the last five visits, beside that of the window before; NaN where it is not positive."""
    late, before = run["loss"][rows[-_END] : stop], run["loss"][rows[0] : rows[-_LATE] + 1]
    late, before = late[np.isfinite(late)], before[np.isfinite(before)]
    level = float(np.median(before)) if len(before) else 0.0
    return float(np.median(late)) / level if level > 0 and len(late) else math.nan


def _bursts(norm: Array) -> float:
    """How far one norm in twenty stands out of its neighbours: of their running median, so that a fall or a climb is none."""
    padded = np.pad(norm, _AROUND, mode="reflect")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1), axis=1)
    return float(np.quantile(norm / np.maximum(around, 1e-300), 0.95))


def _shrinks(run: Run, stop: int, raised: float) -> float:
    """The median over the layers of how much η/σ has grown in the window, without what the rate did."""
    columns = [run[name][:stop] for name in run if name.startswith("effective_lr/") and name.endswith("/q50")]
    kept = [column[np.isfinite(column)] for column in columns]
    grown = [float(one[-1] / max(one[-_WINDOW:][0], 1e-300)) for one in kept if len(one) >= _FEWEST]
    return float(np.median(grown)) / max(raised, 1e-30) if grown else math.nan


def _last(run: Run, name: str, stop: int, oldest: int) -> Array:
    """The values of the last visits; none where the gauge has not been read of late."""
    if name not in run:
        return np.empty(0)
    column = run[name][:stop]
    rows = np.flatnonzero(np.isfinite(column))[-_WINDOW:]
    return column[rows] if len(rows) and rows[-1] >= oldest else np.empty(0)


def _middle(values: Array, count: int) -> float:
    return float(np.median(values)) if len(values) >= count else math.nan


def _raised(run: Run, rows: Index) -> float:
    """The rate at the last visit, beside that at the first of the window; 1 where it is not known."""
    if "lr" not in run:
        return 1.0
    first, last = float(run["lr"][rows[0]]), float(run["lr"][rows[-1]])
    return last / first if first > 0 and math.isfinite(last / first) else 1.0


def _betas(run: Run) -> tuple[float, float]:
    told = run.meta.get("betas")
    known = isinstance(told, list | tuple) and len(told) >= 2 and all(isinstance(one, int | float) for one in told[:2])
    return (float(told[0]), float(told[1])) if known and told is not None else (0.9, 0.999)
