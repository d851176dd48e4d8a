"""Which plateau is it: a valley, a saddle, a floor? `lrkit.diagnose` on trained runs whose kind an intervention has proved.

``python benchmarks/watch/plateaus.py`` trains the plans of `planted` (under four minutes on one core), asks the doctor with the
gauges' columns and with the loss and the rate alone, prints both confusion tables for the half of the tasks on which thresholds
were chosen and for the other half, and writes runs/benchmarks/watch_plateaus.json. Runs of no provable kind are left out. The
other half's mistakes were looked at once, after 76 % of its plateaus had been told apart; ``--seeds 50`` draws data, weights and
batches that nobody has looked at.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscapes import TASKS
from planted import KINDS, Trained, plans, train

from lrkit import Run, diagnose

OUT = Path("runs/benchmarks/watch_plateaus.json")
KIND_OF = {"oscillation": "valley", "saddle": "saddle", "floor": "floor"}
KIND_OF_CURVE = {"too_high_later": "valley", "too_high_at_start": "valley", "decay_too_late": "valley", "saddle": "saddle"}
SAYS = ("valley", "saddle", "floor", "none")
LIKELY = 0.6


def called(run: Run, at: int, codes: dict[str, str], least: float = 0.0) -> str:
    """The kind of the surest finding about a plateau whose window holds step `at`, or "none"."""
    near = 0.1 * (run.step[-1] - run.step[0])
    for finding in diagnose(run).findings:
        first, last = finding.window
        if finding.code in codes and finding.confidence >= least and first - near <= at <= last + near:
            return codes[finding.code]
    return "none"


def blind(run: Run) -> Run:
    """The run without what gauges read."""
    return Run({name: run[name] for name in ("step", "loss", "lr")}, run.meta)


def answers(cases: Sequence[Trained]) -> list[dict[str, Any]]:
    """What is true and what is said of each case; of a healthy one only what is likely at least."""
    found = []
    for case in cases:
        least, at = LIKELY if case.label == "healthy" else 0.0, int(case.plan.at * case.plan.steps) - 1
        gauged = called(case.run, at, KIND_OF, least)
        alone = called(blind(case.run), at, KIND_OF_CURVE, least)
        likely = called(case.run, at, KIND_OF, LIKELY)
        said = {"gauged": gauged, "alone": alone, "likely": likely}
        found.append({"half": TASKS[case.plan.task].half, "true": case.label, **said, **asdict(case.plan), **case.facts})
    return found


def table(rows: Sequence[dict[str, Any]], by: str) -> tuple[str, dict[str, float]]:
    """(confusion table, rows true and columns said; the figures)."""
    counts = Counter((row["true"], row[by]) for row in rows)
    lines = [f"{'':10s}" + "".join(f"{one:>9s}" for one in SAYS) + f"{'right':>9s}"]
    right: dict[str, float] = {}
    for kind in KINDS:
        total = sum(counts[kind, one] for one in SAYS)
        right[kind] = counts[kind, "none" if kind == "healthy" else kind] / max(1, total)
        lines.append(f"{kind:10s}" + "".join(f"{counts[kind, one]:9d}" for one in SAYS) + f"{right[kind]:9.0%}")
    plateaus = [row for row in rows if row["true"] != "healthy"]
    right["plateaus"] = float(np.mean([row[by] == row["true"] for row in plateaus]))
    right["balanced"] = float(np.mean([right[kind] for kind in KINDS[:3]]))
    lines.append(f"of {len(plateaus)} plateaus {right['plateaus']:.0%} are told apart; mean of the kinds {right['balanced']:.0%}")
    return "\n".join(lines), right


def main() -> None:
    """Train, ask, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wrong", action="store_true", help="list the cases that are answered wrongly")
    parser.add_argument("--seeds", type=int, default=0, help="is added to each seed; the file is then not written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    everything = [train(replace(plan, seed=plan.seed + options.seeds)) for plan in plans()]
    cases = [case for case in everything if case.label]
    rows = answers(cases)
    spent = time.perf_counter() - begin
    print(f"{len(cases)} of {len(everything)} trained runs have a kind that branches prove; {spent:.0f} s\n")
    figures: dict[str, Any] = {}
    for half in ("tune", "judge"):
        for by, title in (("gauged", "with gauges"), ("alone", "the loss and the rate alone")):
            text, right = table([row for row in rows if row["half"] == half], by)
            figures[f"{half}, {title}"] = right
            print(f"{half}, {title}\n{text}\n")
    if options.wrong:
        for row in rows:
            if row["gauged"] != ("none" if row["true"] == "healthy" else row["true"]):
                shown = ("half", "true", "gauged", "task", "optimizer", "lr", "batch", "init", "at", "decay", "seed")
                print(" ".join(f"{row[name]}" for name in shown), {k: f"{v:.4g}" for k, v in row.items() if k in _LOSSES})
    if options.seeds:
        return
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"figures": figures, "cases": rows}, indent=1) + "\n")


_LOSSES = ("before", "level", "control", "lower", "kicked", "raised")

if __name__ == "__main__":
    main()
