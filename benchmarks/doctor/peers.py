"""The doctor's peers: the rules that other tools ship, restated from their descriptions, and two regressions that are the bar.

A rule takes a run and returns a word or None, its silence. Silence counts as "ok": a tool that warns of nothing says so. Each
rule's docstring says what it fires on and which word that becomes; where the tool names no cause, the word is the one that does
it more good. The rules count rows, as they count batches at home; DeepOBS' rows are block means after step 200, so that spikes
of single batches are not seen there. ``python benchmarks/doctor/peers.py`` prints the tables: a few minutes on one core.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from score import THREE, WORDS, advice, answers_of, balanced, confidence_of, false_alarms, legend, show, summary
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from data import Case, algoperf, blind, deepobs, first, own
from lrkit import Run

Array = NDArray[np.float64]
Rule = Callable[[Run], str | None]


class Model(Protocol):
    """What is fitted on cases of other problems and gives every case a row of probabilities, in the order of WORDS."""

    def fit(self, cases: Sequence[Case]) -> Model: ...

    def probabilities(self, cases: Sequence[Case]) -> Array: ...


# ---- shipped rules -----------------------------------------------------------------------------------------------------------


def lightning(run: Run) -> str | None:
    """Lightning's SpikeDetection: a loss above the last one and at least 3 times the mean of the last 10. It ends the training.

    Words: diverged where a loss is not finite, which it counts as a spike too; too high for a spike.
    """
    window: deque[float] = deque(maxlen=10)
    for loss in run["loss"].tolist():
        if not math.isfinite(loss):
            return "diverged"
        if window:
            usual = sum(window) / len(window)
            if loss > window[-1] and abs(loss - usual) >= abs(2 * usual):
                return "too high"
        window.append(loss)
    return None


def megatron(run: Run) -> str | None:
    """Megatron's spiky loss: a loss more than 10 times the highest of the first 100; and its check for NaN.

    Words: diverged where a loss is not finite, too high for a spike.
    """
    loss = run["loss"]
    if not np.isfinite(loss).all():
        return "diverged"
    return "too high" if len(loss) > 100 and np.abs(loss[100:]).max() >= 10 * np.abs(loss[:100]).max() else None


def llm_foundry(run: Run) -> str | None:
    """llm-foundry's KillLossSpike: 5 losses in a row of at least twice the mean of the last 100 ("Try lowering the learning
    rate."), or half of the last 100 above 10 once 200 are seen ("resubmitting with a lower learning rate").

    Words: too high for either; diverged where a loss is not finite, which Composer's NaNMonitor beside it ends.
    """
    window: deque[float] = deque(maxlen=100)
    outliers = 0
    for row, loss in enumerate(run["loss"].tolist()):
        if not math.isfinite(loss):
            return "diverged"
        if len(window) == 100:
            outliers = outliers + 1 if loss >= 2 * sum(window) / 100 else 0
            if outliers > 4 or (row >= 200 and sum(old > 10 for old in window) >= 50):
                return "too high"
        window.append(loss)
    return None


def sagemaker(run: Run) -> str | None:
    """SageMaker Debugger's LossNotDecreasing, on losses saved every 500 steps: one that is not 0.1 % below the one before.

    Words: too high. It names no cause; too low would score worse.
    """
    at = np.unique(np.searchsorted(run["step"], np.arange(0, run["step"][-1] + 1, 500)))
    saved = run["loss"][at]
    return "too high" if not (saved[1:] <= saved[:-1] * (1 - 0.001)).all() else None


def umlaut(run: Run) -> str | None:
    """UMLAUT's bounds on the rate, whatever the optimizer: above 0.01 is too high, below 1e-7 too low. Silent without a rate."""
    if "lr" not in run:
        return None
    peak = np.nanmax(run["lr"])
    return "too high" if peak > 0.01 else "too low" if peak < 1e-7 else None


def autotrainer_unstable(run: Run) -> str | None:
    """AUTOTRAINER's oscillation: in a fifth of the epochs, a local maximum of accuracy 3 points above the paired local minimum.

    There is no accuracy in these logs: 1 - loss / first loss, between 0 and 1, stands for it, and a hundredth of the run for an
    epoch. Words: too high; diverged where a loss is not finite (it calls that exploding).
    """
    if not np.isfinite(run["loss"]).all():
        return "diverged"
    a = _stand_in(run)
    middle, before, after = a[1:-1], a[:-2], a[2:]
    highs = middle[(middle >= before) & (middle >= after)]
    lows = middle[(middle <= before) & (middle <= after)]
    n = min(len(highs), len(lows))
    return "too high" if (highs[:n] - lows[:n] >= 0.03).sum() >= 0.2 * len(a) else None


def autotrainer_slow(run: Run) -> str | None:
    """AUTOTRAINER's slow convergence: no epoch raises the accuracy by more than 1 point. The stand-ins are those above.

    Words: too low; diverged where a loss is not finite.
    """
    if not np.isfinite(run["loss"]).all():
        return "diverged"
    return "too low" if np.diff(_stand_in(run)).max(initial=0) < 0.01 else None


def dlib(run: Run) -> str | None:
    """dlib's plateau: counted back from the end, 2,000 steps without a decrease, by the slope of a line and its error, for all
    losses and for those below the 90th percentile. It lowers the rate then.

    Words: too high, as lowering is its cure; diverged where a loss is not finite (it goes back to a saved state).
    """
    steps, loss = run["step"], run["loss"]
    if not np.isfinite(loss).all():
        return "diverged"
    idle = min(_idle(loss, np.inf), _idle(loss, float(np.sort(loss)[round((len(loss) - 1) * 0.9)])))
    return "too high" if idle and steps[-1] - steps[-idle] + 1 >= 2000 else None


RULES: dict[str, Rule] = {
    "Lightning SpikeDetection": lightning,
    "Megatron spiky": megatron,
    "llm-foundry KillLossSpike": llm_foundry,
    "SageMaker LossNotDecreasing": sagemaker,
    "UMLAUT rate bounds": umlaut,
    "AUTOTRAINER unstable": autotrainer_unstable,
    "AUTOTRAINER slow": autotrainer_slow,
    "dlib slope": dlib,
}


def _stand_in(run: Run) -> Array:
    """What stands for the accuracy after each hundredth of the run: 1 - mean loss / first loss, between 0 and 1."""
    parts = [part for part in np.array_split(run["loss"], 100) if len(part)]
    return np.clip(1 - np.array([part.mean() for part in parts]) / run["loss"][0], 0, 1)


def _idle(loss: Array, highest: float) -> int:
    """How many rows, counted back from the end, one must look at until a decrease is at all likely (probability 0.51)."""
    y = loss[::-1]
    kept = y <= highest
    n = np.cumsum(kept)
    x = n - 1.0
    values = np.where(kept, y - y[0], 0.0)  # shifted, so that the sums stay exact
    sy, syy, sxy = np.cumsum(values), np.cumsum(values**2), np.cumsum(x * values)
    with np.errstate(divide="ignore", invalid="ignore"):
        sx, sxx = n * (n - 1) / 2, (n - 1) * n * (2 * n - 1) / 6
        varies = sxx - sx**2 / n
        slope = (sxy - sx * sy / n) / varies
        error = np.sqrt(np.maximum(syy - sy**2 / n - slope**2 * varies, 0) / (n - 2) / varies)
        decreases = slope > 0.0250689 * error  # P(slope > 0) > 0.51; looking back, a decrease has a positive slope
    rows = np.flatnonzero((n > 2) & ~decreases)
    return int(rows[-1]) + 1 if len(rows) else 0


# ---- regressions -------------------------------------------------------------------------------------------------------------

STRENGTHS = (0.01, 0.1, 1.0)  # of LogisticRegression's C: small is strong regularisation
FOLDS = 5
FEATURES = (
    "fallen: (first loss - end) / |first loss|",
    "ratio: log10(first loss / end)",
    "rise: log10(highest loss / first loss)",
    "back up: (end - lowest tenth) / drop",
    "half time: log10 of the time at which half of the drop was made",
    "nine-tenths time: log10 of the time at which nine tenths of the drop were made",
    "early share: share of the drop made in the first fiftieth",
    "late share: share of the drop made in the last third",
    "late trend: the slope over the last half as a t-value, its logarithm with the sign kept",
    "late noise: log10(scatter around that line / drop)",
    "late roughness: log10(scatter around that line / end)",
    "late memory: the scatter's correlation from one row to the next",
)


def features(run: Run) -> Array:
    """(12,) what FEATURES says, of the finite losses.

    Time is the share of the run that is seen. The end is the median of the last tenth; the lowest tenth is that tenth of the
    time whose median is lowest; the drop is from the first loss to it. Times are read from the running median.
    """
    steps, loss = run.observed("loss")
    if len(loss) < 10:
        return np.zeros(len(FEATURES))
    t = (steps + 1) / (steps[-1] + 1)
    tiny = 1e-6 * max(abs(loss[0]), 1e-12)
    tenths = [np.median(loss[inside]) for k in range(10) if (inside := (t > k / 10) & (t <= (k + 1) / 10)).any()]
    start, end, low = loss[0], tenths[-1], min(tenths)
    late = t > 0.5
    slope, error, left = _line(t[late], loss[late])
    scatter = max(float(left.std()), tiny)
    drop = max(start - low, scatter)
    smooth = run.smooth("loss")[1]
    third = np.median(loss[(t > 0.57) & (t <= 0.77)]) if ((t > 0.57) & (t <= 0.77)).any() else end
    trend = slope / max(error, tiny)
    return np.array([
        np.clip((start - end) / max(abs(start), tiny), -2, 2),
        np.clip(math.log10(max(abs(start), tiny) / max(abs(end), tiny)), -3, 3),
        np.clip(math.log10(max(loss.max(), tiny) / max(abs(start), tiny)), 0, 3),
        np.clip((end - low) / drop, 0, 3),
        _time(t, smooth, start - 0.5 * drop),
        _time(t, smooth, start - 0.9 * drop),
        np.clip((start - np.median(loss[t <= max(0.02, t[2])])) / drop, -2, 1.5),
        np.clip((third - end) / drop, -1, 1),
        math.copysign(math.log1p(abs(trend)), trend),
        np.clip(math.log10(scatter / drop), -5, 1),
        np.clip(math.log10(scatter / max(abs(end), tiny)), -5, 1),
        float((left[1:] * left[:-1]).mean() / max(left.var(), tiny**2)),
    ])  # fmt: skip


def _line(t: Array, y: Array) -> tuple[float, float, Array]:
    """(slope, its standard error, residuals) of the least-squares line."""
    x = t - t.mean()
    varies = max(float((x**2).sum()), 1e-12)
    slope = float((x * y).sum() / varies)
    left = y - y.mean() - slope * x
    return slope, math.sqrt(float((left**2).sum()) / max(len(y) - 2, 1) / varies), left


def _time(t: Array, smooth: Array, level: float) -> float:
    """log10 of the time at which the smooth curve first reaches a level; 0, the end, where it never does."""
    below = np.flatnonzero(smooth <= level)
    return math.log10(t[below[0]]) if len(below) else 0.0


class Regression:
    """A multinomial logistic regression: standardised, every class of the same weight, repeated seeds weighing as one.

    How strongly it is regularised is chosen among STRENGTHS by leaving out a fifth of the problems that it is fitted on at
    a time, for the best balanced accuracy: with so few problems the customary 1 fits their habits.

    Args:
        words: The classes it is fitted on; with THREE it never says diverged of a run whose losses are finite.
    """

    def __init__(self, words: Sequence[str] = WORDS) -> None:
        self.words = words

    def fit(self, cases: Sequence[Case]) -> Regression:
        cases = [case for case in cases if case.label in self.words and self._usable(case)]
        x = np.array([self.numbers(case) for case in cases])
        labels, problems = np.array([case.label for case in cases]), np.array([case.problem for case in cases])
        weights = np.array([case.weight for case in cases])
        scores = [self._left_out(strength, x, labels, problems, weights) for strength in STRENGTHS]
        self.strength = STRENGTHS[int(np.argmax(scores))]
        self._scaler, self._model = _fitted(self.strength, x, labels, weights)
        return self

    def probabilities(self, cases: Sequence[Case]) -> Array:
        out = np.zeros((len(cases), len(WORDS)))
        columns = [WORDS.index(word) for word in self._model.classes_]
        x = np.array([self.numbers(case) for case in cases])
        out[:, columns] = self._model.predict_proba(_scaled(self._scaler, x))
        out[[not self._usable(case) for case in cases]] = [float(word == "diverged") for word in WORDS]
        return out

    def numbers(self, case: Case) -> Array:
        """The numbers that are regressed on."""
        raise NotImplementedError

    def _usable(self, case: Case) -> bool:
        raise NotImplementedError

    def _left_out(self, strength: float, x: Array, labels: Any, problems: Any, weights: Array) -> float:
        answers = np.empty(len(labels), dtype=object)
        for group in np.array_split(np.unique(problems), min(len(np.unique(problems)), FOLDS)):
            rest = ~np.isin(problems, group)
            if len(np.unique(labels[rest])) < 2:
                return 0.0
            scaler, model = _fitted(strength, x[rest], labels[rest], weights[rest])
            answers[~rest] = model.predict(_scaled(scaler, x[~rest]))
        return balanced(labels, answers.astype(str), weights)


def _fitted(strength: float, x: Array, labels: Any, weights: Array) -> tuple[StandardScaler, LogisticRegression]:
    """The scaler and the regression, every class of the same weight; all weights together are the runs, seeds as one."""
    w = weights.copy()
    for word in np.unique(labels):
        w[labels == word] /= weights[labels == word].sum() * len(np.unique(labels)) / weights.sum()
    scaler = StandardScaler().fit(x, sample_weight=w)
    return scaler, LogisticRegression(C=strength, max_iter=5000).fit(_scaled(scaler, x), labels, sample_weight=w)


def _scaled(scaler: StandardScaler, x: Array) -> Array:
    return np.clip(scaler.transform(x), -4, 4)


class CurveRegression(Regression):
    """On the 12 features of the curve alone. A run with a loss that is not finite has diverged, without a regression."""

    def numbers(self, case: Case) -> Array:
        return features(case.run)

    def _usable(self, case: Case) -> bool:
        return bool(np.isfinite(case.run["loss"]).all())


class RateRegression(Regression):
    """On the optimizer, one of those it was fitted on, and the logarithm of the rate: what one knows without training at all."""

    def fit(self, cases: Sequence[Case]) -> Regression:
        self._names = sorted({case.optimizer for case in cases})
        return super().fit(cases)

    def numbers(self, case: Case) -> Array:
        assert case.lr is not None, "only cases with a rate"
        return np.array([*(float(case.optimizer == name) for name in self._names), math.log10(case.lr)])

    def _usable(self, case: Case) -> bool:
        return case.lr is not None


# ---- the tables --------------------------------------------------------------------------------------------------------------


def left_out(make: Callable[[], Model], cases: Sequence[Case]) -> Array:
    """Each case's probabilities by a model that was fitted on the other problems."""
    problems = np.array([case.problem for case in cases])
    out = np.zeros((len(cases), len(WORDS)))
    for problem in np.unique(problems):
        inside = np.flatnonzero(problems == problem)
        model = make().fit([case for case in cases if case.problem != problem])
        out[inside] = model.probabilities([cases[i] for i in inside])
    return out


def answered(rule: Rule, cases: Sequence[Case]) -> NDArray[np.str_]:
    """A rule's words; its silence is ok."""
    return np.array([rule(case.run) or "ok" for case in cases])


def by_the_book(cases: Sequence[Case], answers: NDArray[np.str_]) -> tuple[float, float, float]:
    """What it is worth to follow a word by the book: three times the rate where too low, a third where too high or diverged."""
    factors = {"too low": 3.0, "too high": 1 / 3, "diverged": 1 / 3}
    rates = [case.lr * factors[word] if word in factors else math.nan for case, word in zip(cases, answers, strict=True)]
    finals = [math.nan if math.isnan(rate) else case.final_at(rate) for case, rate in zip(cases, rates, strict=True)]
    weights = [case.weight for case in cases]
    return advice(rates, [case.best_lr for case in cases], finals, [case.final for case in cases], weights)


MODELS: dict[str, tuple[Callable[[Case], Case], Callable[[], Model]]] = {
    "curve regression": (blind, CurveRegression),
    "curve regression, 3 classes": (blind, lambda: CurveRegression(THREE)),
    "optimizer + rate regression": (lambda case: case, RateRegression),
    "optimizer + rate, 3 classes": (lambda case: case, lambda: RateRegression(THREE)),
}


def table(cases: Sequence[Case], title: str) -> None:
    """Print every peer on these cases, then the regressions problem by problem and what their advice would be worth."""
    labels, weights = [case.label for case in cases], [case.weight for case in cases]
    rows = {name: summary(labels, answered(rule, cases), None, weights) for name, rule in RULES.items()}
    problems = np.array([case.problem for case in cases])
    parts: dict[str, dict[str, float]] = {}
    worth: dict[str, dict[str, float]] = {}
    for name, (seen, make) in MODELS.items():
        p = left_out(make, [seen(case) for case in cases])
        answers = answers_of(p)
        rows[name] = summary(labels, answers, confidence_of(p), weights)
        parts[name] = {}
        for problem in np.unique(problems):
            here = problems == problem
            parts[name][problem] = balanced(np.array(labels)[here], answers[here], np.array(weights)[here])
        worth[name] = dict(zip(("advised", "decades", "better"), by_the_book(cases, answers), strict=True))
    show(rows, title=title)
    print()
    by_problem = {problem: {name: part[problem] for name, part in parts.items()} for problem in np.unique(problems)}
    show(by_problem, tuple(parts), "balanced")
    print()
    show(worth, ("advised", "decades", "better"), "x3 or /3")
    print()


def main() -> None:
    """Print the tables."""
    cases, ours = deepobs(), own()
    healthy = [case for case in algoperf() if case.hit]
    if cases:
        table(cases, "DeepOBS, whole runs")
        table([first(case, 0.3) for case in cases], "DeepOBS, first 30 %")
    if ours:
        table(ours, "own sweeps, whole runs")
        table([first(case, 0.3) for case in ours], "own sweeps, first 30 %")
    if healthy:
        alarms = {name: {"alarms": false_alarms(answered(rule, healthy))} for name, rule in RULES.items()}
        for source, known in (("DeepOBS", cases), ("own", ours)):
            if known:
                model = CurveRegression().fit([blind(case) for case in known])
                p = model.probabilities([blind(case) for case in healthy])
                sure = confidence_of(p) >= 0.8
                alarms[f"curve regression, {source}"] = {
                    "alarms": false_alarms(answers_of(p)),
                    "sure": false_alarms(np.where(sure, answers_of(p), "cannot tell")),
                }
        show(alarms, ("alarms", "sure"), f"AlgoPerf, {len(healthy)} hits")
    print("\n" + legend())


if __name__ == "__main__":
    main()
