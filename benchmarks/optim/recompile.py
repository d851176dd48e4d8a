"""What torch.compile has to compile anew while hyperparameters change: a training step with lrkit's Adam, and with torch's.

Compiled is the whole step (forward, backward, update), or `optimizer.step` alone; it is run 20 times, and before each one
hyperparameter gets another value: a float, or (torch's remedy, where it takes one) a tensor that is written in place. Counted are
the graphs handed to a backend that runs them as they are, so that no compiler of code is waited for; with inductor each takes
seconds, and their number, tried with a changing rate, is the same. `beyond` are those that the same step with nothing changed has
not. At 8 recompilations of a function torch would give up, and run it uncompiled. `seconds` are those of the 20 steps. Seed 0.
Writes runs/benchmarks/optim_recompile.json.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lrkit.optim as ours

STEPS = 20
OUT = Path("runs/benchmarks/optim_recompile.json")
Change = Callable[[dict[str, Any], int], None]


def rate(group: dict[str, Any], t: int) -> None:
    """Another η, a float or in place: a warm-up from 0."""
    value = 1e-3 * t / STEPS
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value


CHANGES: dict[str, Change] = {
    "nothing": lambda group, t: None,  # noqa: ARG005
    "lr": rate,
    "betas": lambda group, t: group.update(betas=(0.9 - 0.01 * t, 0.999 - 1e-4 * t)),
    "weight_decay": lambda group, t: group.update(weight_decay=1e-2 / (t + 1)),
    "eps": lambda group, t: group.update(eps=1e-8 * (t + 1)),
    "all of them": lambda group, t: [CHANGES[name](group, t) for name in ("lr", "betas", "weight_decay", "eps")] and None,
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "lrkit Adam": lambda p: ours.Adam(p, lr=1e-3, weight_decay=1e-2),
    "torch Adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-2),
    "torch Adam foreach": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-2, foreach=True),
    "torch Adam, lr a tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3), weight_decay=1e-2),
}


def run(make: Callable[[Any], torch.optim.Optimizer], change: Change, whole: bool) -> dict[str, Any]:
    """Graphs, whether torch gave up, and seconds, of 20 training steps that are compiled, as a whole or the update alone."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer, inputs = make(net.parameters()), torch.randn(32, 8)
    graphs, warned = [0], Warned()

    def backend(graph: torch.fx.GraphModule, example: Any) -> Callable[..., Any]:  # noqa: ARG001
        graphs[0] += 1
        return graph.forward

    update: Callable[[], object] = optimizer.step if whole else torch.compile(optimizer.step, backend=backend)

    def step() -> None:
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        update()

    act = torch.compile(step, backend=backend) if whole else step
    logging.getLogger("torch._dynamo").addHandler(warned)
    start = time.perf_counter()
    for t in range(STEPS):
        change(optimizer.param_groups[0], t)
        act()
    took = time.perf_counter() - start
    logging.getLogger("torch._dynamo").removeHandler(warned)
    return {"graphs": graphs[0], "gave up": warned.limit, "seconds": took}


class Warned(logging.Handler):
    """Hears whether torch says that it gives up."""

    limit = False

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one line of the log."""
        self.limit = self.limit or "recompile_limit" in record.getMessage()


def main() -> None:
    """Print the table, keep it as JSON."""
    torch.set_num_threads(1)
    log = logging.getLogger("torch._dynamo")
    log.propagate, log.handlers = False, []
    print(f"torch {torch.__version__}; graphs compiled in {STEPS} steps")
    print(f"{'compiled':12}{'changed every step':22}{'optimizer':26}{'graphs':>8}{'beyond':>8}{'gave up':>9}{'seconds':>9}")
    rows: list[dict[str, Any]] = []
    still: dict[tuple[str, bool], int] = {}
    for whole in (True, False):
        for what, change in CHANGES.items():
            for name, make in OPTIMIZERS.items():
                compiled = "whole step" if whole else "update"
                one = {"compiled": compiled, "changed": what, "optimizer": name} | run(make, change, whole)
                still.setdefault((name, whole), one["graphs"])
                one["beyond"] = one["graphs"] - still[name, whole]
                rows.append(one)
                numbers = f"{one['graphs']:8d}{one['beyond']:8d}{'yes' if one['gave up'] else 'no':>9}{one['seconds']:9.2f}"
                print(f"{compiled:12}{what:22}{name:26}{numbers}", flush=True)
    holds = all(one["beyond"] == 0 and not one["gave up"] for one in rows if one["optimizer"].startswith("lrkit"))
    print(f"\n{'holds' if holds else 'FAILS'}  changing any hyperparameter of lrkit's Adam every step recompiles nothing")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
