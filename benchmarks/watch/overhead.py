"""What watching costs an update: lrkit with everything on at its default budget, with loss and rates alone, and other ways.

Everything is measured in pairs, on one model with one optimizer: short blocks of updates alternate, plain, watched, watched,
plain (ABBA), so that a slow drift of the machine cancels within each quadruple, and what the watch needs is hooked on and off
between the blocks. Some plain updates, which nobody times, go before each quadruple. The quadruples of all ways take turns,
more of them for lrkit's two. ``A/A`` does nothing in its B blocks: what it shows is noise.

    lrkit, everything        watch(…, loss=…), the batch recorded, written to a file
    lrkit, loss and rates    watch(…, budget=0), written to a file
    lrkit, a visit a block   everything, every gauge read once in each B block: see below
    wandb, hooks alone       what wandb.watch(log="gradients") does at a backward pass that it does not log: a hook on every
                             parameter, which counts
    wandb, one a block       and at one that it logs: of each gradient a copy, two looks for what is not finite, minimum and
                             maximum to the host, a histogram of 64 bins to the host as a list; what then happens to it, which
                             is more work, is left out
    Lightning, grad_norm     each parameter's norm and that of the norms, as lightning.pytorch.utilities.grad_norm takes them
                             in on_before_optimizer_step, all of them as numbers, each update; logging them is left out
    total norm, item         torch's total norm as a number, each update

Rare events. A visit of a gauge is rare and long, at log_freq=1000 a histogram too: in a few minutes they come a few times or
not at all, a trimmed mean would cut them away, and a plain mean has their luck. So each way is shown by several numbers:

    wall, cpu    all of it: the mean over the quadruples of (B − A)/A, nothing trimmed, ± its standard error, by the clock and
                 by the process's CPU time, which waits for nobody and is less noisy where others use the machine
    trimmed      of the blocks without what the gauges' own clock says, the trimmed mean of the log ratios (a fifth on each
                 side), and then that clock's time in full. What a visit leaves behind (cold caches) is not in that clock
    own          the share of the gauges' own clock alone

What comes once a block is there to be measured well: (B − A) over the own clock's time, both by the clock, tells how much more
a visit takes than its clock says, ``beyond``; the budget aims at half of itself to leave room for that. From it comes ``at
rest``, what all gauges take together at most, however long the run is: the base (loss and rates) + half the budget × beyond. A
histogram's cost gives wandb's two rows at log_freq 1000, its default, and 100: hooks + cost / log_freq. These are computed.

    python benchmarks/watch/overhead.py [--quick] [--seconds 480] [--threads 1] [--only mlp-1M,gpt]

Ten minutes on a quiet machine. Writes runs/benchmarks/watch_overhead.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ways import JOBS, WAYS, Job, Way

from lrkit.gauges.pace import _AIM

QUICK = ("mlp-1M", "gpt-small")
OUT = Path("runs/benchmarks/watch_overhead.json")
BUDGET, BARE = 0.02, 0.003  # what everything may take, and loss and rates
BLOCK_SECONDS, LEAST_ROUNDS, RARE_ROUNDS, SLOW = 0.25, 2, 2, 0.5  # an update of so many seconds is slow


# -- pairs ------------------------------------------------------------------------------------------------------


@dataclass
class Quads:
    """What was measured of one way: one entry a quadruple, each of two blocks plain and two watched."""

    plain: list[tuple[float, float]] = field(default_factory=list)
    watched: list[tuple[float, float]] = field(default_factory=list)
    own: list[float] = field(default_factory=list)

    def add(self, job: Job, way: Way, block: int) -> None:
        """Measure one."""
        gc.collect()
        job.train(1)  # the first after something else are slower
        gc.disable()
        sums, since = {False: [0.0, 0.0], True: [0.0, 0.0]}, way.own()
        for on in (False, True, True, False):
            before = way.enter() if on else None
            took = job.train(block, before)
            if on:
                way.leave()
            sums[on] = [a + b for a, b in zip(sums[on], took, strict=True)]
        gc.enable()
        self.plain.append((sums[False][0], sums[False][1]))
        self.watched.append((sums[True][0], sums[True][1]))
        self.own.append(way.own() - since)

    def summary(self) -> dict[str, float]:
        """Shares of a plain update's time, and the cost beyond the own clock's."""
        plain = [sum(one[i] for one in self.plain) for i in (0, 1)]
        extra = [[b[i] - a[i] for a, b in zip(self.plain, self.watched, strict=True)] for i in (0, 1)]
        rest = [math.log((b[0] - own) / a[0]) for a, b, own in zip(self.plain, self.watched, self.own, strict=True)]
        own = sum(self.own) / plain[0]
        return {
            "quads": len(self.plain), "wall": sum(extra[0]) / plain[0], "wall_se": error(extra[0]) / plain[0] * len(rest),
            "cpu": sum(extra[1]) / plain[1], "cpu_se": error(extra[1]) / plain[1] * len(rest),
            "trimmed": math.expm1(trimmed(rest)) + own, "own": own,
            "beyond": sum(extra[0]) / sum(self.own) if sum(self.own) > 0 else math.nan,
        }  # fmt: skip


def error(values: list[float]) -> float:
    """The standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def trimmed(values: list[float]) -> float:
    """The mean without a fifth on each side."""
    cut = len(values) // 5
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def measure(make: Callable[[], Job], seconds: float, folder: Path, rare: int) -> dict[str, Any]:
    """One model: all ways in turn until the time is over.

    Args:
        make: Of the model.
        seconds: So long, about.
        folder: For the runs' files.
        rare: Rounds of ways whose blocks take long.
    """
    job, end = make(), time.perf_counter() + seconds
    job.train(3)
    one = min(job.train(2)[0] / 2 for _ in range(2))
    block = max(1, min(200, round(min(BLOCK_SECONDS, seconds / 100) / one)))
    ways = {name: way(job, block, folder / str(i)) for i, (name, way) in enumerate(WAYS.items())}
    quads = {name: Quads() for name in ways}
    for way in ways.values():  # warm up: first calls take longer
        job.train(block, way.enter())
        way.leave()
    rare, rounds = 1 if one > SLOW else rare, 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for name, way in ways.items():
            for _ in range(way.often if rounds < rare or not way.rare else 0):
                quads[name].add(job, way, block)
        rounds += 1
    plain = [one for some in quads.values() for one in some.plain]
    rows = {name: some.summary() | ways[name].close() for name, some in quads.items()}
    return {
        "parameters": sum(p.numel() for p in job.model.parameters()), "tensors": len(list(job.model.parameters())),
        "block": block, "update_ms": statistics.median(wall for wall, _ in plain) / (2 * block) * 1e3,
        "rows": rows, "computed": computed(rows, block),
    }  # fmt: skip


def computed(rows: dict[str, dict[str, Any]], block: int) -> dict[str, float]:
    """What follows for rates at which nothing can be measured in minutes."""
    hooks, often = (rows[name]["cpu"] for name in ("wandb, hooks alone", "wandb, one a block"))
    histogram = (often - hooks) * block  # in updates
    beyond, bare = rows["lrkit, a visit a block"]["beyond"], rows["lrkit, loss and rates"]["cpu"]
    return {
        "lrkit, everything, at rest": max(0.0, bare) + _AIM * BUDGET * beyond,
        "wandb, log_freq=1000": hooks + histogram / 1000,
        "wandb, log_freq=100": hooks + histogram / 100,
    }


# -- the table ------------------------------------------------------------------------------------------------------


def show(name: str, found: dict[str, Any]) -> None:
    """Print one model's table."""
    print(
        f"\n{name}: {found['parameters'] / 1e6:.1f} M parameters in {found['tensors']} tensors, {found['update_ms']:.1f} ms an "
        f"update, blocks of {found['block']}"
    )
    print(f"{'':28s}{'wall %':>16s}{'cpu %':>16s}{'trimmed %':>11s}{'own %':>8s}{'beyond':>8s}{'quads':>7s}")
    for way, row in found["rows"].items():
        wall, cpu = (f"{100 * row[k]:.2f} ± {100 * row[k + '_se']:.2f}" for k in ("wall", "cpu"))
        beyond = f"{row['beyond']:.2f}" if way == "lrkit, a visit a block" else ""
        print(f"{way:28s}{wall:>16s}{cpu:>16s}{100 * row['trimmed']:11.2f}{100 * row['own']:8.2f}{beyond:>8s}{row['quads']:7d}")
    for way, share in found["computed"].items():
        print(f"{way:28s}{'':16s}{100 * share:9.2f} (computed)")
    for way in ("lrkit, everything", "lrkit, a visit a block"):
        gauges = found["rows"][way]["gauges"]
        told = [
            f"{g} {v['visits']} × {1e3 * v['seconds'] / v['visits']:.1f} ms" for g, v in gauges.items() if isinstance(v, dict)
        ]
        print(f"  visits, {way}: {', '.join(told) or 'none yet'}")
    print(f"  everything ≤ {BUDGET:.1%}: {verdict(found, 'lrkit, everything', BUDGET)}", end=", ")
    rest, se = found["computed"]["lrkit, everything, at rest"], found["rows"]["lrkit, loss and rates"]["cpu_se"]
    print(f"at rest: {'yes' if rest + 2 * se <= BUDGET else 'NO' if rest - 2 * se > BUDGET else 'within the noise'}", end="; ")
    print(f"loss and rates ≤ {BARE:.1%}: {verdict(found, 'lrkit, loss and rates', BARE)}")


def verdict(found: dict[str, Any], way: str, most: float) -> str:
    """By CPU time, two standard errors away; where they are too wide, that is said."""
    row = found["rows"][way]
    share, se = row["cpu"], row["cpu_se"]
    if share + 2 * se <= most:
        return "yes"
    return "NO" if share - 2 * se > most else f"within the noise ({100 * share:.2f} ± {100 * se:.2f} %)"


def strict(found: Any) -> Any:
    """For JSON, which has no NaN."""
    if isinstance(found, dict):
        return {name: strict(one) for name, one in found.items()}
    return None if isinstance(found, float) and math.isnan(found) else found


def main() -> None:
    """Print the tables, keep them as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two small models, about a minute: the numbers are noise")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    seconds, found = 40.0 if given.quick else given.seconds, {}
    names = (
        given.only.split(",")
        if given.only
        else [name for name in JOBS if (name in QUICK if given.quick else name != "gpt-small")]
    )
    for name in names:
        make, share = JOBS[name]
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(make, share * seconds, Path(folder), 1 if given.quick else RARE_ROUNDS)
        show(name, found[name])
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(strict({"threads": given.threads, "seconds": seconds, "models": found}), indent=1) + "\n")


if __name__ == "__main__":
    main()
