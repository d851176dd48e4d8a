"""How well somebody tells too low, ok and too high apart. Pure functions over arrays.

`labels` and `answers` are words; `weights` weigh the runs, one each without them. `probabilities` have a row a run and a column
a word of WORDS. A figure that has nothing to stand on is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
WORDS = ("too low", "ok", "too high", "diverged")
THREE = WORDS[:3]
_COLUMNS = {
    "balanced": "balanced accuracy over too low, ok, too high",
    "low": "recall of too low",
    "ok": "recall of ok",
    "high": "recall of too high",
    "swapped": "too low called too high, or the reverse",
    "div rec": "recall of diverged",
    "div prec": "precision of diverged",
    "half": "accuracy on the most confident half",
    "half bal": "the same, balanced",
    "ece": "expected calibration error",
}


def answers_of(probabilities: ArrayLike) -> NDArray[np.str_]:
    """The likeliest word of each row."""
    return np.array(WORDS)[np.argmax(np.asarray(probabilities), axis=1)]


def confidence_of(probabilities: ArrayLike) -> Array:
    """The probability of the likeliest word of each row."""
    return np.max(np.asarray(probabilities, dtype=float), axis=1)


def mean(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The weighted mean; NaN of nothing."""
    x = np.asarray(values, dtype=float)
    w = _weights(weights, len(x))
    return float((x * w).sum() / w.sum()) if w.sum() > 0 else float("nan")


def recall(labels: ArrayLike, answers: ArrayLike, weights: ArrayLike | None = None) -> dict[str, float]:
    """label → the weighted share of its runs that are called so."""
    truth, said = np.asarray(labels), np.asarray(answers)
    w = _weights(weights, len(truth))
    return {word: mean(said[truth == word] == word, w[truth == word]) for word in WORDS}


def balanced(labels: ArrayLike, answers: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The mean recall of too low, ok and too high, as far as they occur.

    Runs whose label is diverged do not count; a run of the three that is called diverged or cannot tell is wrong.
    """
    known = [value for word, value in recall(labels, answers, weights).items() if word in THREE and value == value]
    return float(np.mean(known)) if known else float("nan")


def swapped(labels: ArrayLike, answers: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Of the runs that are too low or too high, the share that is called the opposite: advice in the wrong direction."""
    truth, said = np.asarray(labels), np.asarray(answers)
    either = (truth == "too low") | (truth == "too high")
    opposite = ((truth == "too low") & (said == "too high")) | ((truth == "too high") & (said == "too low"))
    return mean(opposite[either], _weights(weights, len(truth))[either])


def diverged(labels: ArrayLike, answers: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """(recall, precision) of the word diverged."""
    truth, said = np.asarray(labels) == "diverged", np.asarray(answers) == "diverged"
    w = _weights(weights, len(truth))
    return mean(said[truth], w[truth]), mean(truth[said], w[said])


def most_confident(
    labels: ArrayLike, answers: ArrayLike, confidence: ArrayLike, weights: ArrayLike | None = None, share: float = 0.5
) -> tuple[float, float]:
    """(accuracy, balanced accuracy) on the most confident share, by weight, of the runs of the three classes."""
    truth = np.asarray(labels)
    three = np.isin(truth, THREE)
    truth, said, sure = truth[three], np.asarray(answers)[three], np.asarray(confidence, dtype=float)[three]
    w = _weights(weights, len(three))[three]
    order = np.argsort(-sure, kind="stable")
    before = np.cumsum(w[order]) - w[order]
    kept = order[before < share * w.sum()]
    return mean(said[kept] == truth[kept], w[kept]), balanced(truth[kept], said[kept], w[kept])


def calibration_error(
    labels: ArrayLike, answers: ArrayLike, confidence: ArrayLike, weights: ArrayLike | None = None, bins: int = 10
) -> float:
    """The weighted mean, over bins of equal weight, of the distance between mean confidence and accuracy. All labels count."""
    right = np.asarray(labels) == np.asarray(answers)
    sure = np.asarray(confidence, dtype=float)
    w = _weights(weights, len(sure))
    order = np.argsort(sure, kind="stable")
    middles = np.cumsum(w[order]) - w[order] / 2
    bin_of = np.minimum((middles / w.sum() * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        rows = order[bin_of == b]
        if len(rows):
            total += w[rows].sum() * abs(mean(sure[rows], w[rows]) - mean(right[rows], w[rows]))
    return float(total / w.sum())


def false_alarms(answers: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Of runs known to be healthy, the share that is called too low, too high or diverged. Cannot tell is no alarm."""
    said = np.asarray(answers)
    return mean(np.isin(said, ("too low", "too high", "diverged")), weights)


def advice(
    advised: ArrayLike, best: ArrayLike, advised_final: ArrayLike, own_final: ArrayLike, weights: ArrayLike | None = None
) -> tuple[float, float, float]:
    """What advised rates are worth.

    Args:
        advised: A rate a run; NaN where none was advised.
        best: The sweep's best rate.
        advised_final: The sweep's final loss at the advised rate (`Case.final_at`); infinite where it diverges.
        own_final: The run's own final loss; infinite where it diverged.
        weights: Of the runs.

    Returns:
        (the share of the runs that got advice; the median decades from the advised to the best rate; the share whose advised
        rate ends lower than the run itself did). The last two count only runs that got advice.
    """
    rate = np.asarray(advised, dtype=float)
    given = np.isfinite(rate)
    w = _weights(weights, len(rate))
    lower = np.asarray(advised_final, dtype=float)[given] < np.asarray(own_final, dtype=float)[given]
    off = np.abs(np.log10(rate[given] / np.asarray(best, dtype=float)[given]))
    return mean(given, w), median(off, w[given]), mean(lower, w[given])


def median(values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The weighted median: the lowest value that half of the weight does not exceed."""
    x = np.asarray(values, dtype=float)
    if not len(x):
        return float("nan")
    order = np.argsort(x)
    reached = np.cumsum(_weights(weights, len(x))[order])
    return float(x[order][int(np.searchsorted(reached, reached[-1] / 2))])


def summary(
    labels: ArrayLike, answers: ArrayLike, confidence: ArrayLike | None = None, weights: ArrayLike | None = None
) -> dict[str, float]:
    """All figures of a row of the table; those that need a confidence only where there is one."""
    recalls = recall(labels, answers, weights)
    out = {
        "balanced": balanced(labels, answers, weights),
        "low": recalls["too low"], "ok": recalls["ok"], "high": recalls["too high"],
        "swapped": swapped(labels, answers, weights),
    }  # fmt: skip
    out["div rec"], out["div prec"] = diverged(labels, answers, weights)
    if confidence is not None:
        out["half"], out["half bal"] = most_confident(labels, answers, confidence, weights)
        out["ece"] = calibration_error(labels, answers, confidence, weights)
    return out


def show(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str] = tuple(_COLUMNS), title: str = "") -> None:
    """Print a table, a row a name; what a row lacks, or has nothing to stand on, is a dash."""
    width = max([len(title), *map(len, rows)])
    wide = {column: max(8, len(column)) for column in columns}
    print(f"{title:{width}s}", *(f"{column:>{n}s}" for column, n in wide.items()))
    for name, row in rows.items():
        cells = ((row.get(column, float("nan")), n) for column, n in wide.items())
        print(f"{name:{width}s}", *(f"{value:{n}.2f}" if value == value else f"{'-':>{n}s}" for value, n in cells))


def legend() -> str:
    """What the columns mean, a line each."""
    return "\n".join(f"{name:9s} {meaning}" for name, meaning in _COLUMNS.items())


def _weights(weights: ArrayLike | None, n: int) -> Array:
    return np.ones(n) if weights is None else np.asarray(weights, dtype=float)
