"""What the gauges say of the sweeps' runs: the same trainings again, to the bit, watched; written to ``gauges.jsonl.gz``.

Every gauge is read two dozen times a run, whatever that takes (these runs are too short for the default budget; at 2 % of its
time, a run of some thousand updates is read as often). ``python benchmarks/doctor/gauges.py cosine`` makes what is missing of the
runs under that schedule, and checks that each loss is the one that the sweep had.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sweeps
import torch

from lrkit import Run, attach, parse, watch
from lrkit.binding.rates import set_lr
from lrkit.task import make, seed_everything, updates, validation

FILE = Path(__file__).with_name("gauges.jsonl.gz")
VISITS = 24  # a run
Key = tuple[str, str, str, float]


def one(name: str, optimizer: str, schedule: str, place: int) -> dict[str, Any]:
    """Train one run of the sweep as `sweeps.one` does, watched."""
    make_optimizer, top = sweeps.OPTIMIZERS[optimizer]
    task = sweeps.ALL[name](make_optimizer)
    lr = 10 ** (top + sweeps.SHIFT.get(name, {}).get(optimizer, 0.0) - place / 2)
    steps = int(task.steps * sweeps.LENGTH[schedule])
    seed_everything(1000 + place)
    model, made, batches = make(task)
    set_lr(made, lr)
    attach(made, lr=parse(sweeps.SCHEDULES[schedule]).resolve(total=steps))
    losses = []
    with watch(model, made, loss=task.loss, every=max(1, steps // VISITS)) as w:
        loop = updates(model, made, task.loss, batches, steps, task.step, lambda batch: w.record(batch=batch))
        for update in loop:
            losses.append(float(update.loss))
            if not math.isfinite(losses[-1]):
                break
            if task.validate is not None and (update.ends_epoch or update.step == steps - 1):
                validation(task.validate, model)
    columns = {n: column for n, column in w.run.items() if "/" not in n and n not in ("step", "lr", "loss")}
    seen = {
        n: {int(t): sweeps.short(v) for t, v in zip(w.run.step, column, strict=True) if np.isfinite(v)}
        for n, column in columns.items()
    }
    return {"key": [name, optimizer, schedule, sweeps.short(lr)], "loss": [sweeps.short(v) for v in losses], "gauges": seen}


def sweep(key: tuple[str, str, str]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    return [one(*key, place) for place in range(sweeps.RATES)]


@cache
def load() -> dict[Key, dict[str, dict[str, float]]]:
    """What has been made: (task, optimizer, schedule, rate) ↦ column ↦ step ↦ value."""
    if not FILE.exists():
        return {}
    return {tuple(run["key"]): run["gauges"] for run in map(json.loads, gzip.decompress(FILE.read_bytes()).decode().splitlines())}


def joined(run: Run, seen: dict[str, dict[str, float]]) -> Run:
    """The run with the gauges' columns."""
    more = {name: np.full(len(run), np.nan) for name in seen}
    for name, values in seen.items():
        for step, value in values.items():
            if int(step) < len(run):
                more[name][int(step)] = value
    return Run({**dict(run), **more}, run.meta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schedules", nargs="*", default=["cosine", "wsd"], help="of the sweeps, by default cosine and wsd")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    known = dict(load())
    before = {(r["task"], r["optimizer"], r["schedule"], r["lr"]): r["loss"] for r in sweeps.load()}
    there = {key[:3] for key in known}
    keys = [(t, o, s) for s in given.schedules for t in sweeps.ALL for o in sweeps.OPTIMIZERS if (t, o, s) not in there]
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for i, runs in enumerate(pool.imap_unordered(sweep, keys)):
            known |= {tuple(run["key"]): run["gauges"] for run in runs}
            same = sum(run["loss"] == before.get(tuple(run["key"])) for run in runs)
            print(f"{i + 1}/{len(keys)}", *runs[0]["key"][:3], f"{same} of {len(runs)} runs have the sweep's losses", flush=True)
            if i % 10 == 9 or i == len(keys) - 1:
                lines = [json.dumps({"key": key, "gauges": known[key]}, separators=(",", ":")) for key in sorted(known)]
                FILE.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


if __name__ == "__main__":
    main()
