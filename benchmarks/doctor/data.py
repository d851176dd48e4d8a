"""The doctor's cases: runs whose label is known from their place in a sweep, and runs that are known to be healthy.

Three sources: DeepOBS (5 problems x 3 optimizers x 36 constant rates; MIT), the sweeps of our own (see ``sweeps.py``), and
AlgoPerf (runs without a label; those that reached the benchmark's target are healthy; Apache-2.0). The logs lie in the folder
that LRKIT_LOGS names, ``../shared/logs`` without it. Whoever fits anything leaves out whole problems: `Case.problem`.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lrkit import Run

WORDS = {"too_low": "too low", "ok": "ok", "too_high": "too high", "diverged": "diverged"}
Finals = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Case:
    """One run and what is known of it.

    Args:
        run: Columns ``step, loss, lr`` (and `grad_norm` where logged), ``meta["optimizer"]``. A loss that is not finite is NaN.
        problem: The group that is left out as a whole: DeepOBS' problem, our task, AlgoPerf's workload.
        optimizer: As its source names it; AlgoPerf's submission.
        lr: The base rate, before the schedule; None where unknown.
        label: too low, ok, too high or diverged; None where the run has no sweep.
        best_lr: The sweep's best rate.
        gap: (final - best) / (start - best), 0 for the best rate; infinite where the run ended without a finite loss.
        sweep: ``problem/optimizer/schedule``.
        schedule: constant, cosine or wsd; "other" for AlgoPerf.
        steps: How many steps the run had, or was to have where it was cut.
        final: The run's own final loss; infinite where it diverged.
        finals: (log10 rate, final loss) of the sweep, ascending: the median over the seeds, infinite where diverged.
        weight: 1 / the number of seeds of the same sweep and rate.
        spread: (n,) standard deviation of the losses that a row is the mean of; None where rows are single losses.
        hit: Whether the run reached AlgoPerf's target; None elsewhere.
        watched: The run with its gauges' columns, where it was watched.
    """

    run: Run
    problem: str
    optimizer: str
    lr: float | None
    label: str | None
    best_lr: float | None
    gap: float | None
    sweep: str
    schedule: str
    steps: int
    final: float
    finals: Finals = ()
    weight: float = 1.0
    spread: np.ndarray | None = None
    hit: bool | None = None
    watched: Run | None = None

    def final_at(self, lr: float) -> float:
        """What the sweep's final loss is at a rate: linear in log rate; infinite beside a rate that diverged.

        Beyond the grid the end stands for what is there, so a rate above a grid whose highest rate diverged is infinite.
        """
        x, y = np.array(self.finals).T
        at = math.log10(lr)
        if at <= x[0] or at >= x[-1]:
            return float(y[0] if at <= x[0] else y[-1])
        i = int(np.searchsorted(x, at, side="right"))
        if at - x[i - 1] < 1e-3:  # decades: the rate itself, so that a neighbour that diverged does not count
            return float(y[i - 1])
        if x[i] - at < 1e-3:
            return float(y[i])
        return float(np.interp(at, x[i - 1 : i + 1], y[i - 1 : i + 1])) if np.isfinite(y[i - 1 : i + 1]).all() else math.inf


def first(case: Case, share: float) -> Case:
    """The case as it looked after the first share of its steps."""
    stop = math.ceil(share * case.steps)
    watched = None if case.watched is None else case.watched.slice(stop=stop)
    return replace(case, run=case.run.slice(stop=stop), watched=watched)


def blind(case: Case) -> Case:
    """The case with nothing but the curve: no rate and no optimizer in the run. The case's own fields stay, for the score."""
    run = Run({name: case.run[name] for name in ("step", "loss")})
    return replace(case, run=run)


def watched(cases: Iterable[Case], rate: bool = True) -> list[Case]:
    """The cases that were watched, with their gauges; without `rate`, neither rate nor optimizer is in the run."""
    seen = [replace(case, run=case.watched) for case in cases if case.watched is not None]
    if rate:
        return seen
    return [replace(case, run=Run({name: case.run[name] for name in case.run if name != "lr"})) for case in seen]


def logs() -> Path:
    """The folder of other people's logs."""
    return Path(os.environ.get("LRKIT_LOGS", "../shared/logs"))


def deepobs() -> list[Case]:
    """The labelled sweeps of DeepOBS; nothing where the file is absent."""
    cases = []
    for entry in _lines(logs() / "deepobs_sweeps.jsonl.gz"):
        steps, loss, spread = _deepobs_curve(entry)
        run = Run({"step": steps, "loss": loss, "lr": np.full(len(loss), entry["lr"])}, {"optimizer": entry["optimizer"]})
        case = _labelled(entry, run, entry["problem"], "constant", entry["n_steps"], entry["gap"])
        cases.append(replace(case, spread=spread))
    return _swept(cases)


def own() -> list[Case]:
    """Our own sweeps, as far as they have been made."""
    import sweeps

    import gauges
    from lrkit import parse

    courses: dict[tuple[str, int], Any] = {}
    cases = []
    for entry in sweeps.load():
        key = (entry["schedule"], entry["steps"])
        if key not in courses:
            course = parse(sweeps.SCHEDULES[entry["schedule"]]).resolve(total=entry["steps"])
            courses[key] = np.array([course(step) for step in range(entry["steps"])])
        loss = np.array(entry["loss"], dtype=float)
        run = Run({"loss": loss, "lr": entry["lr"] * courses[key][: len(loss)]}, {"optimizer": entry["optimizer"]})
        drop = entry["start"] - entry["best_final"]
        gap = None if entry["final"] is None else (entry["final"] - entry["best_final"]) / drop
        case = _labelled(entry, run, entry["task"], entry["schedule"], entry["steps"], gap)
        seen = gauges.load().get((case.problem, case.optimizer, case.schedule, case.lr))
        cases.append(case if seen is None else replace(case, watched=gauges.joined(run, seen)))
    return _swept(cases)


def algoperf() -> list[Case]:
    """The runs of AlgoPerf, without a label; nothing where the file is absent."""
    cases = []
    for entry in _lines(logs() / "algoperf_runs.jsonl.gz"):
        names = {"step": "steps", "loss": "loss", "grad_norm": "grad_norm", "lr": "lr"}
        columns = {name: np.array(entry[key], dtype=float) for name, key in names.items() if entry[key] is not None}
        peak = float(np.nanmax(columns["lr"])) if "lr" in columns else None
        case = Case(
            run=Run(columns, {"optimizer": entry["sub"]}), problem=entry["workload"], optimizer=entry["sub"], lr=peak,
            label=None, best_lr=None, gap=None, sweep=f"{entry['workload']}/{entry['sub']}/other", schedule="other",
            steps=int(columns["step"][-1]) + 1, final=float(columns["loss"][-1]), hit=entry["hit_step"] is not False,
        )  # fmt: skip
        cases.append(case)
    return cases


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()] if file.exists() else []


def _deepobs_curve(entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first 200 losses, then the mean of every block that begins later, at its middle step; and their spread.

    A block that holds a loss which is not finite is NaN, though the log has the mean of its finite ones.
    """
    edges = np.linspace(0, entry["n_steps"], len(entry["block_mean"]) + 1).astype(int)
    later = edges[:-1] >= len(entry["first200"])
    means = np.array(entry["block_mean"], dtype=float)
    means[np.array(entry["block_nonfinite"]) > 0] = np.nan
    middles = (edges[:-1] + edges[1:] - 1) // 2
    steps = np.concatenate([np.arange(len(entry["first200"])), middles[later]])
    spread = np.nan_to_num(np.array(entry["block_sd"], dtype=float))
    head = np.array(entry["first200"], dtype=float)
    return steps, np.concatenate([head, means[later]]), np.concatenate([np.zeros(len(head)), spread[later]])


def _labelled(entry: dict[str, Any], run: Run, problem: str, schedule: str, steps: int, gap: float | None) -> Case:
    label = WORDS[entry["label"]]
    final = math.inf if label == "diverged" or entry["final"] is None else float(entry["final"])
    return Case(
        run=run, problem=problem, optimizer=entry["optimizer"], lr=float(entry["lr"]), label=label,
        best_lr=float(entry["best_lr"]), gap=math.inf if gap is None else float(gap),
        sweep=f"{problem}/{entry['optimizer']}/{schedule}", schedule=schedule, steps=int(steps), final=final,
    )  # fmt: skip


def _swept(cases: list[Case]) -> list[Case]:
    """The cases with what only the whole sweep knows: finals and weights."""
    finals: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        finals[case.sweep][_place(case)].append(case.final)
    seeds = Counter((case.sweep, _place(case)) for case in cases)
    medians = {sweep: tuple((x, float(np.median(y))) for x, y in sorted(rates.items())) for sweep, rates in finals.items()}
    return [replace(case, finals=medians[case.sweep], weight=1 / seeds[case.sweep, _place(case)]) for case in cases]


def _place(case: Case) -> float:
    """The log rate, rounded: DeepOBS writes the same rate with 11 digits in one folder and 17 in another."""
    assert case.lr is not None, "labelled cases have a rate"
    return round(math.log10(case.lr), 3)
