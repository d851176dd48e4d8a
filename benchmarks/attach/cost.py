"""What driving an optimizer costs an update, beside torch's LambdaLR: one group, ten and 200, floats and tensors.

Each figure is the time of `optimizer.step()` with the scheduler's work, less that of the bare `optimizer.step()`; the optimizer's
own work is nothing, so that the difference is not lost in it. The three are measured in turn, in one process; shown is the median
of the rounds, and their spread. Writes runs/benchmarks/attach_cost.json.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import lrkit

ROUNDS, CALLS = 31, 2_000
OUT = Path("runs/benchmarks/attach_cost.json")


class Still(torch.optim.Optimizer):
    """An optimizer whose step does nothing: what is left is the cost of being driven."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        """Nothing."""


def build(groups: int, tensor: bool) -> Still:
    """An optimizer of so many groups."""
    rates = [torch.tensor(0.1) if tensor else 0.1 for _ in range(groups)]
    return Still([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=0.1)


def ours(groups: int, tensor: bool) -> Callable[[], object]:
    """Driven by attach."""
    optimizer = build(groups, tensor)
    lrkit.attach(optimizer, lr="warmup 500 > cosine 99500")
    return optimizer.step


def theirs(groups: int, tensor: bool) -> Callable[[], object]:
    """Driven by LambdaLR, with the same factor as a closure."""
    import math

    def factor(t: int) -> float:
        return (t + 1) / 500 if t < 500 else 0.5 * (1 + math.cos(math.pi * min(1.0, (t - 500) / 99_500)))

    optimizer = build(groups, tensor)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def step() -> None:
        optimizer.step()
        scheduler.step()

    return step


def microseconds(step: Callable[[], object], calls: int) -> float:
    """Of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls * 1e6


def table() -> list[dict[str, float | str]]:
    """A row for each number of groups and kind of rate."""
    rows = []
    for groups, tensor in ((1, False), (1, True), (10, False), (200, False), (200, True)):
        calls = max(50, CALLS // groups)
        steps = [build(groups, tensor).step, ours(groups, tensor), theirs(groups, tensor)]
        rounds = [[microseconds(step, calls) for step in steps] for _ in range(ROUNDS)]
        added = [sorted(one[i] - one[0] for one in rounds) for i in (1, 2)]
        a, b = statistics.median(added[0]), statistics.median(added[1])
        rows.append({
            "groups": groups, "rate": "tensor" if tensor else "float", "lrkit": a, "LambdaLR": b, "ratio": a / b,
            "lrkit_10": added[0][ROUNDS // 10], "lrkit_90": added[0][-1 - ROUNDS // 10],
        })  # fmt: skip
    return rows


def main() -> None:
    """Print the table, keep it as JSON."""
    torch.set_num_threads(1)
    rows = table()
    print("added to one update, µs     lrkit  (10–90 %)       LambdaLR   lrkit / LambdaLR")
    for row in rows:
        what = f"{row['groups']:4d} groups, {row['rate']} rate"
        spread = f"({row['lrkit_10']:.1f}–{row['lrkit_90']:.1f})"
        print(f"{what:26s} {row['lrkit']:7.2f}  {spread:16s} {row['LambdaLR']:8.2f} {row['ratio']:14.2f}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
