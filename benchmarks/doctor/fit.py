"""Fits the doctor's regressions (`lrkit.doctor.odds`) on labelled sweeps.

Every run is shown in several ways, as loggers show it: whole, every k-th row, means of blocks, with the rows' noise, and its
first 30 %. Every problem weighs the same, DeepOBS' twice; repeated seeds of one rate weigh as one; the three words are brought
closer to equal weight (the power CLASSES). ``python benchmarks/doctor/fit.py`` takes about two minutes and says how far the fit
lies from what the package holds; with ``--write`` it takes its place.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import Case, deepobs, first, own
from lrkit import Run
from lrkit.doctor import odds
from lrkit.doctor.curve import FEWEST, curve_of
from lrkit.doctor.odds import WORDS, Model, Usual, family, horizon_of
from lrkit.doctor.readings import NAMES as READINGS
from lrkit.doctor.readings import REPLAYED, readings_of
from lrkit.doctor.shape import NAMES, shape_of

Array = NDArray[np.float64]
FILE = Path(odds.__file__).with_name("odds.json")
STRENGTH = 0.01  # of the prior on the weights: 1 / (2 · STRENGTH) · |w|²
CLASSES = 0.8  # 0: as often as they come, 1: the three words weigh the same
GAUGED = 10.0  # 1 / the variance of the prior on the weights of readings
KINDS = ("sgd", "momentum", "adam", "rmsprop")
NOTHING = {"mean": [0.0] * len(READINGS), "scale": [1.0] * len(READINGS), "weights": [[0.0] * 3] * (len(READINGS) + 1)}


def thinned(case: Case) -> Run:
    """Every k-th row, about a hundred."""
    run = case.run
    k = max(2, len(run) // 100)
    return Run({name: run[name][::k] for name in run}, run.meta)


def averaged(case: Case) -> Run:
    """Means over stretches of equal length."""
    run = case.run
    count = min(400, max(FEWEST, len(run) // 4))
    place = np.minimum((run["step"] / (run["step"][-1] + 1) * count).astype(int), count - 1)
    keep = np.isfinite(run["loss"])
    rows = np.bincount(place[keep], minlength=count)
    means = {n: np.bincount(place[keep], run[n][keep], count)[rows > 0] / rows[rows > 0] for n in run}
    return Run(means, run.meta)


def noisy(case: Case) -> Run:
    """With the rows that the source's block means stand for, drawn from the blocks' spread; ten a block."""
    if case.spread is None:
        return case.run
    rng = np.random.default_rng(len(case.sweep) + int(1e6 * (case.lr or 0)) % 10_000)
    gaps = np.diff(case.run["step"], append=2 * case.run["step"][-1] - case.run["step"][-2])
    times = np.clip(gaps, 1, 10).astype(int)
    inside = np.concatenate([(np.arange(k) + 0.5) / k - 0.5 for k in times])
    step = np.repeat(case.run["step"], times) + inside * np.repeat(gaps, times)
    step = np.sort(np.where(np.repeat(times, times) == 1, np.repeat(case.run["step"], times), step))
    loss = np.repeat(case.run["loss"], times)
    loss = loss + np.repeat(case.spread, times) * rng.standard_normal(len(loss)) * (np.repeat(times, times) > 1)
    return Run({"step": np.maximum(step, 0), "loss": loss, "lr": np.full(len(loss), case.lr)}, case.run.meta)


VIEWS: dict[str, Callable[[Case], Run]] = {
    "whole": lambda case: case.run,
    "thinned": thinned,
    "averaged": averaged,
    "noisy": noisy,
    "first 30 %": lambda case: first(case, 0.3).run,
}


@dataclass(frozen=True)
class Rows:
    """Cases as numbers.

    Args:
        shapes: {view: (n, k)}; rows of NaN where too little was seen.
        horizons: {view: (n, 2)} log10 of the steps and of |the first loss|.
        word: (n,) place in WORDS.
        lr: (n,) log10 of the rate.
        decades: (n,) log10 of best / rate.
        kind: (n,) the optimizer's family.
        problem: (n,) what is left out as a whole.
        weight: (n,) of the run.
        cases: The cases.
    """

    shapes: dict[str, Array]
    horizons: dict[str, Array]
    word: NDArray[np.intp]
    lr: Array
    decades: Array
    kind: NDArray[np.str_]
    problem: NDArray[np.str_]
    weight: Array
    cases: tuple[Case, ...]

    def only(self, keep: NDArray[np.bool_]) -> Rows:
        parts = {n: getattr(self, n)[keep] for n in ("word", "lr", "decades", "kind", "problem", "weight")}
        chosen = tuple(case for case, kept in zip(self.cases, keep, strict=True) if kept)
        views = [{view: x[keep] for view, x in many.items()} for many in (self.shapes, self.horizons)]
        return Rows(*views, cases=chosen, **parts)


def numbers(run: Run) -> Array:
    """The shape and the horizon of a run; NaN where it is too short."""
    curve = curve_of(run)
    if curve.points < FEWEST or len(np.unique(curve.rows)) < FEWEST:
        return np.full(len(NAMES) + 2, np.nan)
    return np.append(shape_of(curve), horizon_of(curve))


def rows_of(cases: Sequence[Case], views: Sequence[str] = tuple(VIEWS)) -> Rows:
    """The labelled cases that did not diverge, as numbers."""
    cases = [case for case in cases if case.label in WORDS]
    wide = len(NAMES) + 2
    seen = {view: np.array([numbers(VIEWS[view](case)) for case in cases]).reshape(len(cases), wide) for view in views}
    return Rows(
        shapes={view: x[:, :-2] for view, x in seen.items()},
        horizons={view: x[:, -2:] for view, x in seen.items()},
        word=np.array([WORDS.index(case.label or "") for case in cases], dtype=np.intp),
        lr=np.array([np.log10(case.lr or 1) for case in cases]),
        decades=np.array([np.log10((case.best_lr or 1) / (case.lr or 1)) for case in cases]),
        kind=np.array([family(case.optimizer) for case in cases], dtype=str),
        problem=np.array([case.problem for case in cases], dtype=str),
        weight=np.array([case.weight for case in cases]),
        cases=tuple(cases),
    )


@cache
def sources() -> tuple[Rows, Rows]:
    """(DeepOBS, own sweeps)."""
    return rows_of(deepobs()), rows_of(own())


def joined(parts: Sequence[Rows]) -> Rows:
    """Several sources as one; a problem of the first weighs twice as much as one of the others."""

    def scaled(rows: Rows, factor: float) -> Array:
        sums = {name: rows.weight[rows.problem == name].sum() for name in np.unique(rows.problem)}
        return factor * rows.weight / np.array([sums[name] for name in rows.problem]) if len(rows.word) else rows.weight

    join = lambda name: np.concatenate([getattr(rows, name) for rows in parts])  # noqa: E731
    return Rows(
        shapes={view: np.vstack([rows.shapes[view] for rows in parts]) for view in parts[0].shapes},
        horizons={view: np.vstack([rows.horizons[view] for rows in parts]) for view in parts[0].shapes},
        weight=np.concatenate([scaled(rows, 2.0 if i == 0 else 1.0) for i, rows in enumerate(parts)]),
        cases=tuple(case for rows in parts for case in rows.cases),
        **{name: join(name) for name in ("word", "lr", "decades", "kind", "problem")},
    )


def book(rows: Rows) -> dict[str, Any]:
    """The JSON values of ``odds.json``, fitted on these rows."""
    usual = usual_rate(rows)
    x = np.vstack(list(rows.shapes.values()))
    off = np.concatenate([off_usual(rows, Usual(**usual), view) for view in rows.shapes])
    times = len(rows.shapes)
    seen = np.isfinite(x).all(axis=1)
    word, weight, decades = (np.tile(v, times)[seen] for v in (rows.word, rows.weight, rows.decades))
    out: dict[str, Any] = {"names": list(NAMES), "usual": usual}
    for name, numbers in (("blind", x), ("known", np.column_stack([x, off]))):
        model = fitted(numbers[seen], word, weight)
        out[name] = {key: np.round(getattr(model, key), 5).tolist() for key in ("mean", "scale", "weights")}
        if name == "blind":
            out["advice"] = np.round(advised(model.standard(x[seen]), word, decades, weight), 5).tolist()
    base = odds.book_from(out | {"gauged": NOTHING, "gauged_blind": NOTHING})
    return out | {"readings": list(READINGS), **moves(rows.cases, base)}


def moves(cases: Sequence[Case], base: odds.Book) -> dict[str, Any]:
    """The JSON values of the two `odds.Move`, fitted on the cases that were watched.

    Each is shown with all gauges, and with those that need no loss.
    """
    seen = [case for case in cases if case.watched is not None]
    if not seen:
        return {"gauged": NOTHING, "gauged_blind": NOTHING}
    parts = [(case, *numbers) for case in seen for numbers in looks(case)]
    word = np.array([WORDS.index(case.label or "") for case, *_ in parts])
    problem = np.array([case.problem for case, *_ in parts])
    readings = np.array([found for _, _, found in parts])
    x, horizons = np.array([one[:-2] for _, one, _ in parts]), [one[-2:] for _, one, _ in parts]
    usual = [base.usual.log10(family(case.optimizer) or "", *at) for (case, *_), at in zip(parts, horizons, strict=True)]
    off = [odds.off_usual(at - np.log10(curve_peak(case))) for at, (case, *_) in zip(usual, parts, strict=True)]
    blind, known = base.blind.probabilities(x), base.known.probabilities(np.column_stack([x, off]))
    free = np.where(np.isin(READINGS, REPLAYED), np.nan, readings)  # what is left without a loss
    share = np.array([np.mean(problem == one) for one in problem])
    out = {}
    for name, chances in (("gauged", known), ("gauged_blind", blind)):
        start = np.log(np.maximum(chances, 1e-6))
        twice = (np.vstack(pair) for pair in ((readings, free), (start, start)))
        move = moved(*twice, np.tile(word, 2), np.tile(1 / share, 2))
        out[name] = {key: np.round(getattr(move, key), 5).tolist() for key in ("mean", "scale", "weights")}
    return out


_LOOKS: dict[tuple[str, float], list[tuple[Array, Array]]] = {}


def looks(case: Case) -> list[tuple[Array, Array]]:
    """(shape and horizon, readings) of a watched case, where it is long enough. Runs cut short would blur what whole ones say."""
    key = (case.sweep, case.lr or 0.0)
    if key not in _LOOKS:
        pairs = [(numbers(run), readings_of(curve_of(run))) for run in (case.watched,) if run is not None]
        _LOOKS[key] = [(x, readings) for x, readings in pairs if np.isfinite(x).all()]
    return _LOOKS[key]


def curve_peak(case: Case) -> float:
    """The highest rate of the whole run."""
    assert case.watched is not None, "only such are asked"
    return float(np.max(case.watched["lr"]))


def moved(readings: Array, start: Array, word: NDArray[np.intp], weight: Array) -> odds.Move:
    """The regression of the words on readings, begun at log probabilities, by Newton's method."""
    share = np.array([weight[word == c].sum() for c in range(3)]) / weight.sum()
    w = weight * (1 / (3 * share[word])) ** CLASSES
    w *= len(w) / w.sum() / 4  # every run is shown twice, and a sweep's neighbours are alike
    move = odds.Move(np.nanmean(readings, 0), np.nanstd(readings, 0) + 1e-9, np.zeros((readings.shape[1] + 1, 3)))
    z = move.standard(readings)
    prior = np.append(np.full(readings.shape[1], GAUGED), 1.0)
    weights = newton(z, start, np.eye(3)[word], w, prior)
    return odds.Move(move.mean, move.scale, weights)


def usual_rate(rows: Rows) -> dict[str, Any]:
    """The fields of `odds.Usual`: least squares of log10 of the sweeps' best rates."""
    steps, start = rows.horizons["whole"].T
    plain = np.isin(rows.kind, ("sgd", "momentum"))
    x = np.column_stack([*(rows.kind == kind for kind in KINDS), -steps, -start * plain]).astype(float)
    seen = np.isfinite(x).all(axis=1)
    root = np.sqrt(rows.weight[seen])
    found = np.linalg.lstsq(x[seen] * root[:, None], (rows.lr + rows.decades)[seen] * root, rcond=None)[0].round(3)
    return {"centres": dict(zip(KINDS, found[:4].tolist(), strict=True)), "steps": float(found[4]), "start": float(found[5])}


def off_usual(rows: Rows, usual: Usual, view: str) -> Array:
    """(n,) decades from the usual rate to the run's."""
    places = zip(rows.lr, rows.kind, rows.horizons[view], strict=True)
    return np.array([odds.off_usual(usual.log10(str(kind), *horizon) - lr) for lr, kind, horizon in places])


def advised(z: Array, word: NDArray[np.intp], decades: Array, weight: Array) -> Array:
    """The weights of the decades to the best rate, by least squares, for curves whose rate is unknown.

    Where it is known the usual rate is advised: on problems left out, the shape of the curve added nothing to that.
    """
    wrong = word != 1
    w = weight[wrong] * len(weight) / weight.sum()
    zw = z[wrong] * w[:, None]
    return np.linalg.solve(zw.T @ z[wrong] + np.diag(np.append(np.full(z.shape[1] - 1, 30.0), 1e-6)), zw.T @ decades[wrong])


def fitted(x: Array, word: NDArray[np.intp], weight: Array) -> Model:
    """The regression of the words, by Newton's method."""
    share = np.array([weight[word == c].sum() for c in range(3)]) / weight.sum()
    w = weight * (1 / (3 * share[word])) ** CLASSES
    w *= len(w) / w.sum()
    mean = (w[:, None] * x).sum(0) / w.sum()
    scale = np.sqrt((w[:, None] * (x - mean) ** 2).sum(0) / w.sum()) + 1e-9
    z = np.hstack([np.clip((x - mean) / scale, -4, 4), np.ones((len(x), 1))])
    prior = np.append(np.full(x.shape[1], 1 / STRENGTH), 1e-6)
    return Model(mean, scale, newton(z, np.zeros((len(z), 3)), np.eye(3)[word], w, prior))


def newton(z: Array, start: Array, truth: Array, w: Array, prior: Array) -> Array:
    """(d, 3) the weights of a multinomial regression on (n, d) numbers, begun at (n, 3) scores."""
    d, weights = z.shape[1], np.zeros((z.shape[1], 3))
    for _ in range(15):
        score = start + z @ weights
        p = np.exp(score - score.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        slope = z.T @ (w[:, None] * (p - truth)) + prior[:, None] * weights
        bend = np.block([[(z * (w * p[:, a] * ((a == b) - p[:, b]))[:, None]).T @ z for b in range(3)] for a in range(3)])
        step = np.linalg.solve(bend + np.diag(np.tile(prior, 3)) + 1e-8 * np.eye(3 * d), slope.T.ravel()).reshape(3, d).T
        weights -= step
        if np.abs(step).max() < 1e-5:
            break
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into the package")
    write = parser.parse_args().write
    if not len(sources()[0].word):
        print("DeepOBS is not here: set LRKIT_LOGS to the folder that holds it. Nothing fitted: half of the sweeps is no basis.")
        return
    spec = book(joined(sources()))
    held = json.loads(FILE.read_text())
    parts = ("blind", "known", "gauged", "gauged_blind")
    gaps = [np.abs(np.array(spec[name][key]) - held[name][key]).max() for name in parts for key in spec[name]]
    if write:
        FILE.write_text(json.dumps(spec, indent=1) + "\n")
    runs = " and ".join(str(len(rows.word)) for rows in sources())
    print(f"fitted on {runs} runs of DeepOBS and own sweeps; the largest difference from {FILE.name} is {max(gaps):.2g}")
    print(f"{FILE.name}: {'written' if write else 'left as it is'}")


if __name__ == "__main__":
    main()
