"""The table: the finder beside every peer, on every pair of task and optimizer whose truth is known.

``python benchmarks/regret/table.py`` makes what is missing, prints the table for the tasks that constants were tuned on, for
those that only judge, and for all, and writes ``benchmarks/results/regret.json``. What has been made is kept, a case at a time,
in ``benchmarks/results/regret_cases.json``, so an interrupted run goes on. lrkit's own cases are kept only as long as the code
that made them stays as it is. Everything takes about an hour on two cores; ``--rows lrkit`` a few minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from peers import Case, Pair, default, dog, ladder, ours, prodigy, ranged, searched, swept
from score import Truth, truths
from tasks import PAIRS, TUNING

import lrkit
from lrkit.finder.rules import RULES

RESULTS = Path(__file__).parents[1] / "results"
OUT, KEPT = RESULTS / "regret.json", RESULTS / "regret_cases.json"
SEEDS = (0, 1, 2)
HALVES = ("tuning", "judging", "all")
SAVED = 5.0  # seconds between savings
Job = tuple[str, str, int]  # row, pair, seed


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        run: (pair, seed) ↦ Case.
        kind: ``ours``; ``rule`` of a library; ``search`` by trainings; ``free`` of rates.
        seeds: One where the seed changes nothing.
        budget: What its cost must not exceed by more than 5 %, in training runs.
    """

    run: Callable[[Pair, int], Case]
    kind: str
    seeds: tuple[int, ...] = SEEDS
    budget: float | None = None


def three(sampler: str) -> partial[Case]:
    """A sampler that starts to model after 3 random trials: by default it takes 10, more than the budget holds."""
    return partial(searched, sampler=sampler, n_startup_trials=3)


ROWS = {
    "lrkit 1.0": Row(partial(ours, budget=1.0), "ours", budget=1.0),
    "lrkit 0.25": Row(partial(ours, budget=0.25), "ours", budget=0.25),
    "lrkit 1.0 unvalidated": Row(partial(ours, budget=1.0, validated=False), "ours", budget=1.0),
    **{rule.name: Row(partial(ranged, rule=rule), "rule") for rule in RULES},
    "default rate": Row(default, "rule", seeds=(0,)),
    "ladder of 10 T/8": Row(partial(ladder, share=8), "search"),
    "ladder of 10 T/4 parabola": Row(partial(ladder, share=4, parabola=True), "search"),
    "random search": Row(partial(searched, sampler="RandomSampler"), "search"),
    "Optuna TPE": Row(three("TPESampler"), "search"),
    "Optuna GP": Row(three("GPSampler"), "search"),
    "dense sweep one seed": Row(swept, "search"),
    "Prodigy": Row(prodigy, "free", seeds=(0,)),
    "DoG": Row(partial(dog, averaged=False), "free", seeds=(0,)),
    "DoG averaged": Row(partial(dog, averaged=True), "free", seeds=(0,)),
}


# -- what is made ---------------------------------------------------------------------------------------------------------


@cache
def code() -> str:
    """Of everything that lrkit's finder may depend on."""
    home = Path(lrkit.__file__).parent
    rooms = [home / name for name in ("finder", "binding", "schedules", "task.py", "snapshot.py", "errors.py", "run.py")]
    files = sorted(file for room in rooms for file in (room.rglob("*.py") if room.is_dir() else [room]))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def stamp(job: Job, truth: Truth, keep: bool) -> list[Any]:
    """What a kept case must bear to count: its task as it is, and for lrkit's rows the code as it is."""
    return [truth.steps, truth.untrained, *([code()] if ROWS[job[0]].kind == "ours" and not keep else [])]


def key(job: Job) -> str:
    """A case's name in the file."""
    return "|".join(map(str, job))


def make(jobs: Sequence[Job]) -> list[tuple[Job, dict[str, Any]]]:
    """Some cases."""
    made = []
    for row, pair, seed in jobs:
        name, _, optimizer = pair.partition("/")
        made.append(((row, pair, seed), asdict(ROWS[row].run((name, optimizer), seed))))
    return made


def grouped(jobs: Iterable[Job]) -> list[list[Job]]:
    """The libraries' rules on one pair and seed together, because some share a ramp; every other case by itself."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job[1:] if ROWS[job[0]].kind == "rule" else job, []).append(job)
    return list(groups.values())


def fill(jobs: Sequence[Job], known: dict[str, Any], truth: dict[str, Truth]) -> None:
    """Make the cases that are missing, in two processes, and keep them."""
    began = saved = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2, torch.set_num_threads, (1,)) as pool:
        done = 0
        for made in pool.imap_unordered(make, grouped(jobs)):
            for job, case in made:
                known[key(job)] = case | {"stamp": stamp(job, truth[job[1]], False)}
            done, now = done + len(made), time.perf_counter()
            if now - saved > SAVED or done == len(jobs):
                write(KEPT, known)
                print(f"\r{done} of {len(jobs)} cases, {now - began:.0f} s ", end="", flush=True)
                saved = now
    print()


def write(file: Path, value: object) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(file)


# -- what it says ---------------------------------------------------------------------------------------------------------


def judged(job: Job, case: dict[str, Any], truth: Truth) -> dict[str, Any]:
    """A case with its regret."""
    out = {"row": job[0], "pair": job[1], "seed": job[2], **case}
    if case["losses"]:
        losses = [truth.untrained if v is None else min(v, truth.untrained) for v in case["losses"]]
        dead = float(np.mean([v >= truth.untrained for v in losses]))
        return out | {"regret": truth.regret_of(float(np.mean(losses))), "diverged": dead >= 0.5, "outside": False}
    lr = case["lr"]
    out |= {"regret": truth.regret(lr), "diverged": truth.diverged(lr), "outside": truth.outside(lr)}
    if case["low"] is not None and case["answered"]:
        width = float(np.log10(case["high"] / case["low"]))
        out |= {"covers": truth.covers(case["low"], case["high"]), "width": width}
    return out


def summary(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row's figures over some cases; shares are of 1."""
    regret = np.array([case["regret"] for case in cases])
    cost = np.array([case["cost"] for case in cases])
    out: dict[str, Any] = {
        "cases": len(cases), "pairs": len({case["pair"] for case in cases}),
        "median": float(np.median(regret)), "mean": float(regret.mean()), "worst": float(regret.max()),
        **{f"within {p}%": float((regret <= p / 100).mean()) for p in (1, 5, 10)},
        "cost": [float(cost.mean()), float(cost.min()), float(cost.max())],
    }  # fmt: skip
    for name in ("diverged", "outside"):
        out[name] = float(np.mean([case[name] for case in cases]))
    out["no answer"] = float(np.mean([not case["answered"] for case in cases]))
    spans = [case for case in cases if "width" in case]
    if spans:
        held = {name: float(np.mean([case["covers"][name] for case in spans])) for name in spans[0]["covers"]}
        out["interval"] = {"cases": len(spans), **held, "width": float(np.median([case["width"] for case in spans]))}
        out["statuses"] = {s: sum(case["status"] == s for case in cases) for s in sorted({c["status"] for c in cases})}
    return out


def in_half(pair: str, half: str) -> bool:
    """Whether a pair belongs to a half."""
    return half == "all" or (pair.partition("/")[0] in TUNING) == (half == "tuning")


def head(half: str, cases: Sequence[dict[str, Any]]) -> None:
    """A table's title and columns."""
    print(f"\n{half}: {len({case['pair'] for case in cases})} pairs; regret and shares in %, cost in training runs")
    columns = "".join(f"{name:>8}" for name in ("median", "mean", "worst", "≤ 1", "≤ 5", "≤ 10", "div.", "none", "outside"))
    print(f"{'':28}{'cases':>6}{columns}{'cost':>8} (from–to)")


def line(name: str, s: dict[str, Any]) -> None:
    """A row of a table."""
    shown = ("median", "mean", "worst", "within 1%", "within 5%", "within 10%", "diverged", "no answer", "outside")
    digits = (2, 2, 1, 0, 0, 0, 1, 1, 0)
    cells = "".join(f"{100 * s[column]:8.{d}f}" for column, d in zip(shown, digits, strict=True))
    mean, low, high = s["cost"]
    print(f"{name:28}{s['cases']:6}{cells}{mean:8.2f} ({low:.2f}–{high:.2f})")


def intervals(rows: dict[str, dict[str, Any]]) -> None:
    """What lrkit's intervals hold."""
    if not any("interval" in s for s in rows.values()):
        return
    print(f"{'interval holds':28}{'cases':>6}{'best':>8}{'vertex':>8}{'every':>8}{'1 %':>8}{'width':>8}  statuses")
    for name, s in rows.items():
        if "interval" in s:
            i = s["interval"]
            cells = "".join(f"{100 * i[column]:8.0f}" for column in ("best", "vertex", "strict", "loose"))
            said = ", ".join(f"{status} {count}" for status, count in s["statuses"].items())
            print(f"{name:28}{i['cases']:6}{cells}{i['width']:8.2f}  {said}")


def by_pair(cases: Sequence[dict[str, Any]], truth: dict[str, Truth]) -> None:
    """Each pair's truth and every row's mean regret on it."""
    for pair in sorted({case["pair"] for case in cases}):
        t = truth[pair]
        low, high = t.band()
        print(f"\n{pair}: best 10^{t.best:.2f} (smoothed {t.vertex:.2f}; within 1 % from {low:.2f} to {high:.2f})", end="")
        print(f"; loss from {t.untrained:.3g} to {t.lowest:.3g}")
        for row in ROWS:
            some = [case for case in cases if case["pair"] == pair and case["row"] == row]
            if some:
                rates = ", ".join(f"{np.log10(case['lr']):.2f}{'' if case['answered'] else '?'}" for case in some)
                marks = " diverged" * any(case["diverged"] for case in some)
                regrets = ", ".join(f"{100 * case['regret']:.2f}" for case in some)
                print(f"  {row:28} regret {regrets} %; log-rates {rates if not some[0]['losses'] else '–'}{marks}")


def bars(half: str, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What must hold on a half, and whether it does."""
    out: list[dict[str, Any]] = []

    def bar(what: str, got: float, holds: bool) -> None:
        out.append({"half": half, "bar": what, "got": got, "holds": bool(holds)})

    for name, rivals in (("lrkit 1.0", ("rule", "search", "free")), ("lrkit 0.25", ("rule",))):
        if name not in rows:
            continue
        s = rows[name]
        if name == "lrkit 1.0":
            bar(f"{name}: median regret ≤ 1 %", 100 * s["median"], s["median"] <= 0.01)
            bar(f"{name}: mean regret ≤ 3 %", 100 * s["mean"], s["mean"] <= 0.03)
            bar(f"{name}: ≤ 10 % in at least 95 %", 100 * s["within 10%"], s["within 10%"] >= 0.95)
            bar(f"{name}: none diverged", 100 * s["diverged"], s["diverged"] == 0)
        for measure in ("mean", "worst"):
            others = {row: r[measure] for row, r in rows.items() if ROWS[row].kind in rivals and r["pairs"] == s["pairs"]}
            if others:
                best = min(others, key=lambda row: others[row])
                what = f"{name}: {measure} below {best}'s {100 * others[best]:.2f} %"
                bar(what, 100 * s[measure], s[measure] < others[best])
    for name, s in rows.items():
        if ROWS[name].budget is not None:
            bar(f"{name}: cost at most 5 % above the budget", s["cost"][2], s["cost"][2] <= 1.05 * ROWS[name].budget)
        if "interval" in s:
            i = s["interval"]
            bar(f"{name}: 80 % interval holds the best in 70–90 %", 100 * i["best"], 0.7 <= i["best"] <= 0.9)
            bar(f"{name}: median width ≤ 1 decade", i["width"], i["width"] <= 1)
    return out


# -- the program ----------------------------------------------------------------------------------------------------------


def jobs_of(rows: Iterable[str], given: argparse.Namespace, truth: dict[str, Truth]) -> list[Job]:
    """The cases of some rows."""
    pairs = [pair for pair in map("/".join, PAIRS) if pair in truth and in_half(pair, given.half)]
    most = None
    if given.quick:
        pairs, most = pairs[::5], 1
    return [(row, pair, seed) for row in rows for seed in ROWS[row].seeds[:most] for pair in pairs]


def named(text: str | None) -> list[str]:
    """The rows that are meant by names, or parts of names, with commas; by none, all."""
    names = {row.lower(): row for row in ROWS}
    parts = [part.strip().lower() for part in (text or "").split(",")]
    return [row for name, row in names.items() if any(name == part or (part not in names and part in name) for part in parts)]


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", help="rows to make, by parts of names, with commas; what was made before is shown too")
    parser.add_argument("--half", choices=HALVES, default="all", help="whose tasks")
    parser.add_argument("--pairs", action="store_true", help="print every pair too")
    parser.add_argument("--quick", action="store_true", help="a fifth of the pairs, one seed: to see that it runs")
    parser.add_argument("--again", action="store_true", help="make those rows anew")
    parser.add_argument("--keep", action="store_true", help="let lrkit's cases stand though its code has changed")
    parser.add_argument("--made", action="store_true", help="make nothing: show what there is")
    return parser.parse_args()


def main() -> None:
    """Make what is missing, print the tables and the bars, keep them as JSON."""
    given, truth = arguments(), truths()
    known: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}

    def there(job: Job) -> bool:
        needed = stamp(job, truth[job[1]], given.keep)
        return key(job) in known and known[key(job)]["stamp"][: len(needed)] == needed

    missing = [job for job in jobs_of(named(given.rows), given, truth) if given.again or not there(job)]
    if missing and not given.made:
        fill(missing, known, truth)
    report(given, [judged(job, known[key(job)], truth[job[1]]) for job in jobs_of(ROWS, given, truth) if there(job)], truth)


def report(given: argparse.Namespace, cases: list[dict[str, Any]], truth: dict[str, Truth]) -> None:
    """Print, and keep what was printed."""
    unknown = [pair for pair in map("/".join, PAIRS) if pair not in truth and in_half(pair, given.half)]
    print(f"torch {torch.__version__}, {os.cpu_count()} processors" + f"; no truth yet of {', '.join(unknown)}" * bool(unknown))
    print("regret: share of the drop from the untrained net; below 0 by the luck of the seeds. div.: half of the seeds end no")
    print("better than untrained. none: no answer, judged at the default rate. outside: beyond the sweep, judged at its end")
    tables: dict[str, Any] = {}
    for half in HALVES if given.half == "all" else (given.half,):
        some = [case for case in cases if in_half(case["pair"], half)]
        rows = {row: [case for case in some if case["row"] == row] for row in ROWS}
        if not some:
            continue
        tables[half] = {row: summary(these) for row, these in rows.items() if these}
        head(half, some)
        for row, figures in tables[half].items():
            line(row, figures)
        intervals(tables[half])
    if given.pairs:
        by_pair(cases, truth)
    checks = [check for half in tables for check in bars(half, tables[half])]
    print("\nbars")
    for check in checks:
        print(f"  {'holds' if check['holds'] else 'FAILS'}  {check['half']:8}{check['bar']:72}{check['got']:8.2f}")
    if not given.quick:
        write(OUT, {"torch": torch.__version__, "code": code(), "tables": tables, "bars": checks, "cases": cases})


if __name__ == "__main__":
    main()
