"""What the doctor is worth, beside its peers: the whole of `lrkit.diagnose`, fitted without the problem that is judged.

``python benchmarks/doctor/table.py`` prints every figure (two to eight minutes on one core) and writes them to
``runs/benchmarks/doctor.json``. Needs the logs that LRKIT_LOGS names (../shared/logs without it) for DeepOBS and AlgoPerf; the
own sweeps lie beside this file. Repeated seeds of one rate weigh as one.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from fit import book, joined, sources
from peers import MODELS, RULES, answered, by_the_book, left_out
from score import WORDS, advice, answers_of, calibration_error, confidence_of, false_alarms, legend, show, summary

from data import Case, algoperf, blind, deepobs, first, own, watched
from lrkit import Diagnosis, Run, diagnose
from lrkit.doctor import odds

RESULTS = Path("runs/benchmarks/doctor.json")
LIKELY = 0.6


def judged(cases: Sequence[Case], source: int) -> list[Diagnosis]:
    """Each case's diagnosis by a doctor that was fitted without its problem.

    Args:
        cases: Of one source.
        source: Which of `sources` they are from: 0 DeepOBS, 1 own sweeps.
    """
    out: dict[int, Diagnosis] = {}
    for problem in sorted({case.problem for case in cases}):
        weights = without(source, problem)
        with mock.patch.object(odds, "_book", lambda weights=weights: weights):
            out |= {i: diagnose(case.run) for i, case in enumerate(cases) if case.problem == problem}
    return [out[i] for i in range(len(cases))]


@cache
def without(source: int, problem: str) -> odds.Book:
    """What is fitted without a problem of a source."""
    rest = [rows.only(rows.problem != problem) if i == source else rows for i, rows in enumerate(sources())]
    return odds.book_from(book(joined(rest)))


def figures(cases: Sequence[Case], found: Sequence[Diagnosis]) -> dict[str, float]:
    """A row of the table, by the word that is said; the calibration is that of the likeliest word, also where none is said."""
    chances = np.array([[one.probabilities[word] for word in WORDS] for one in found])
    words = [one.rate for one in found]
    weights = [case.weight for case in cases]
    ok = [(accuses(one), case.weight) for case, one in zip(cases, found, strict=True) if case.label == "ok"]
    row = summary([case.label for case in cases], words, confidence_of(chances), weights) | worth(cases, found)
    labels = [case.label for case in cases]
    row["ece"] = calibration_error(labels, answers_of(chances), confidence_of(chances), weights)
    return row | {"alarms": float(np.average([one for one, _ in ok], weights=[w for _, w in ok]))}


def worth(cases: Sequence[Case], found: Sequence[Diagnosis]) -> dict[str, float]:
    """What the advised rate is worth where the run was too low or too high, in the doctor's word and in truth."""
    pairs = [(c, d) for c, d in zip(cases, found, strict=True) if c.label in ("too low", "too high") and d.rate == c.label]
    rates = [d.advised_lr if d.advised_lr is not None and c.lr is not None else math.nan for c, d in pairs]
    finals = [c.final_at(rate) if rate == rate else math.nan for (c, _), rate in zip(pairs, rates, strict=True)]
    _, decades, better = advice(
        rates, [c.best_lr for c, _ in pairs], finals, [c.final for c, _ in pairs], [c.weight for c, _ in pairs]
    )
    return {"decades": decades, "better": better}


def halves(run: Run, share: float) -> Run:
    """The run up to a share of its steps."""
    return run.slice(stop=math.ceil(share * (run.step[-1] + 1)))


def stable(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """How often the stable phase of a warm-up, stable, decay run is accused, of runs whose rate is ok."""
    good = [case for case in cases if case.schedule == "wsd" and case.label == "ok"]
    shown = {
        "whole runs": judged(good, 1),
        "cut in the stable phase": judged([replace(case, run=halves(case.run, 0.75)) for case in good], 1),
    }
    return {
        name: {"runs": len(found), "too high": float(np.mean([accuses(one, "too_high") for one in found]))}
        for name, found in shown.items()
    }


def gauged(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """With gauges and without, on the same runs."""
    bare = [case for case in cases if case.watched is not None]
    views = {
        "with gauges": watched(bare), "the curve alone": [blind(case) for case in bare], "without": bare,
        "with gauges, rate unknown": watched(bare, rate=False),
        "with gauges, first 30 %": watched([first(case, 0.3) for case in bare]),
        "without, first 30 %": [first(case, 0.3) for case in bare],
    }  # fmt: skip
    return {name: figures(seen, judged(seen, 1)) for name, seen in views.items()}


def accuses(found: Diagnosis, code: str = "") -> bool:
    """Whether a finding whose code begins so is at least likely."""
    return any(one.accuses and one.confidence >= LIKELY and one.code.startswith(code) for one in found.findings)


def alarms(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """False alarms on runs that reached their target, by workload; the doctor was fitted on none of them."""
    out: dict[str, dict[str, float]] = {}
    for problem in ["all", *sorted({case.problem for case in cases})]:
        here = [case for case in cases if problem in ("all", case.problem)]
        out[problem] = {"runs": len(here), "lrkit": float(np.mean([accuses(diagnose(case.run)) for case in here]))}
        out[problem] |= {name: false_alarms(answered(rule, here)) for name, rule in RULES.items()}
    return out


def peers(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Rows of the shipped rules and the regressions, the latter with the problem left out."""
    labels, weights = [case.label for case in cases], [case.weight for case in cases]
    rows = {name: summary(labels, answered(rule, cases), None, weights) for name, rule in RULES.items()}
    for name, (seen, make) in MODELS.items():
        chances = left_out(make, [seen(case) for case in cases])
        rows[name] = summary(labels, answers_of(chances), confidence_of(chances), weights)
        _, decades, better = by_the_book(cases, answers_of(chances))
        rows[name] |= {"decades": decades, "better": better}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--gauges", action="store_true", help="only the runs that were watched, with gauges and without")
    given = parser.parse_args()
    if given.gauges:
        show(gauged(own()), (*summary(["ok"], ["ok"], [1.0]), "decades", "better", "alarms"), "own sweeps, watched")
        return
    with_peers = not given.alone
    out: dict[str, Any] = {}
    columns = (*summary(["ok"], ["ok"], [1.0]), "decades", "better", "alarms")
    for source, (name, cases) in enumerate({"DeepOBS": deepobs(), "own sweeps": own()}.items()):
        if not cases:
            print(f"{name}: not here; set LRKIT_LOGS to the folder that holds it.")
            continue
        views = {
            "": cases, ", the curve alone": [blind(case) for case in cases], ", first 30 %": [first(case, 0.3) for case in cases]
        }  # fmt: skip
        rows = {f"lrkit{view}": figures(seen, judged(seen, source)) for view, seen in views.items()}
        if source == 1:
            for schedule in ("constant", "cosine", "wsd"):
                part = [case for case in cases if case.schedule == schedule]
                rows[f"lrkit, {schedule}"] = figures(part, judged(part, source))
        if with_peers:
            rows |= peers(cases)
        show(rows, columns, title=f"{name}, {len(cases)} runs")
        print()
        out[name] = rows
        if source == 1:
            out["gauges"] = gauged(cases)
            show(out["gauges"], columns, title=f"own sweeps that were watched, {sum(c.watched is not None for c in cases)} runs")
            print()
            out["stable"] = stable(cases)
            show(out["stable"], ("runs", "too high"), "stable phase accused")
            print()
    healthy = [case for case in algoperf() if case.hit]
    if healthy:
        out["false alarms"] = alarms(healthy)
        show(out["false alarms"], ("runs", "lrkit", *RULES), "AlgoPerf, hits")
    print(legend())
    print("decades   median distance of the advised rate from the sweep's best, where too low or too high was rightly said")
    print("better    share of those where the advised rate ends with a lower loss")
    print("alarms    share of the ok runs in which any fault is called at least likely")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
