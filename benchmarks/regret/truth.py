"""The truth that finders are judged by: dense sweeps of the rate, several seeds, written to ``truth.json`` beside this file.

Every rate of a quarter-decade grid is trained over the whole horizon under "warmup 5% > cosine", by six seeds that no finder
sees. Where the best is within half a decade of the grid's end the grid grows. ``python benchmarks/regret/truth.py`` makes what
is missing (about half an hour on two cores); ``--again`` makes everything anew.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from pathlib import Path

import numpy as np
import torch
from tasks import PAIRS, task

from lrkit import Task, attach
from lrkit.binding.rates import set_lr
from lrkit.task import make, seed_everything, updates, validation

FILE = Path(__file__).with_name("truth.json")
SEEDS = tuple(range(100, 106))
SPACING = 0.25
RANGES = {"sgd": (-3.5, 0.75), "adamw": (-4.5, -0.25), "rmsprop": (-5.0, -0.75)}
SHIFTED = {"hundredfold": {"sgd": -2.0}}  # SGD's rate is that of a loss a hundred times as steep


def trained(task: Task, lr: float, seed: int, steps: int | None = None, schedule: str = "warmup 5% > cosine") -> float:
    """The validation loss after a whole training; infinite where it diverged."""
    seed_everything(seed)
    model, optimizer, batches = make(task)
    steps = task.steps if steps is None else steps
    set_lr(optimizer, lr)
    attach(optimizer, lr=schedule, total=steps)
    for update in updates(model, optimizer, task.loss, batches, steps, task.step):
        if not math.isfinite(float(update.loss)):
            return math.inf
    value = validation(task.validate, model)["val_loss"] if task.validate else math.nan
    return value if math.isfinite(value) else math.inf


def untrained(task: Task) -> float:
    """The validation loss before any update: the median over the seeds."""
    values = []
    for seed in SEEDS:
        seed_everything(seed)
        values.append(validation(task.validate, make(task)[0])["val_loss"])  # type: ignore[arg-type]
    return float(np.median(values))


def sweep(pair: tuple[str, str]) -> tuple[str, dict[str, object]]:
    """The whole curve of one pair."""
    torch.set_num_threads(1)
    one, start = task(*pair), untrained(task(*pair))
    low, high = (round((end + SHIFTED.get(pair[0], {}).get(pair[1], 0.0)) / SPACING) for end in RANGES[pair[1]])
    losses: dict[int, list[float]] = {}
    waiting = list(range(low, high + 1))
    while waiting:
        for i in waiting:
            losses[i] = [trained(one, 10 ** (i * SPACING), seed) for seed in SEEDS]
        mean = {i: float(np.mean(np.minimum(values, start))) for i, values in losses.items()}
        best = min(mean, key=lambda i: mean[i])
        waiting = [i for i in range(best - 3, best + 4) if i not in losses]
    grid = sorted(losses)
    rates = [10 ** (i * SPACING) for i in grid]
    values = [[v if math.isfinite(v) else None for v in losses[i]] for i in grid]
    return "/".join(pair), {"steps": one.steps, "untrained": start, "seeds": SEEDS, "lr": rates, "loss": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="make everything anew")
    known = {} if parser.parse_args().again or not FILE.exists() else json.loads(FILE.read_text())
    missing = [pair for pair in PAIRS if "/".join(pair) not in known]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for name, curve in pool.imap_unordered(sweep, missing):
            known[name] = curve
            FILE.write_text(json.dumps({name: known[name] for name in sorted(known)}, indent=1))
            print(name, flush=True)


if __name__ == "__main__":
    main()
