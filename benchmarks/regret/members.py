"""What training members side by side saves: one update of six members together, beside six updates one after another.

Each figure is the least processor time of an update over all rounds, so that what else runs on the machine counts little; the two
ways take turns, in one process with one thread. "probe" is what `faster` says of the same net, and "apart" how far the members'
losses are from those of one after another at the end, relative, at rates that train. Gradients are not clipped: that wants
a step of one's own, and that is never stacked. ``python benchmarks/regret/members.py`` takes a minute; it writes
runs/benchmarks/members.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tasks import task

from lrkit import Task
from lrkit.finder.stacked import Members, faster
from lrkit.snapshot import preserved
from lrkit.task import make, seed_everything, updates

OUT = Path("runs/benchmarks/members.json")
PAIRS = [
    *[(name, kind) for name in ("digits_mlp", "deep", "dropout", "conv", "char_gpt") for kind in ("sgd", "adamw")],
    ("low_rank", "adamw"),
    ("char_lstm", "adamw"),
]
MEMBERS, ROUNDS, UPDATES = 6, 3, 12


def timed(call: Callable[[], Any], seconds: list[float]) -> Any:
    """What the call returns; its processor time is noted."""
    began = time.process_time()
    value = call()
    seconds.append(time.process_time() - began)
    return value


def measured(one: Task, kind: str) -> dict[str, object]:
    """Milliseconds an update of all members, both ways, and what the probe says."""
    top = {"sgd": 0.1, "adamw": 0.01}[kind]
    rates = [top / 2**k for k in range(MEMBERS)]
    seed_everything(0)
    model, optimizer, batches = make(one)
    optimizer.param_groups[0]["lr"] = top
    some = [batch for _, batch in zip(range(UPDATES), batches, strict=False)]
    verdict = faster(model, optimizer, one.loss, some[0], rates)
    together: list[float] = []
    alone: list[float] = []
    apart = 0.0
    for _ in range(ROUNDS if verdict.updates else 0):
        with preserved(model, optimizer):
            seed_everything(1)
            members = Members(model, optimizer, one.loss, rates)
            for batch in some:
                losses = timed(partial(members.update, batch), together)
        for k, rate in enumerate(rates):
            with preserved(model, optimizer):
                seed_everything(1)
                optimizer.param_groups[0]["lr"] = rate
                with closing(updates(model, optimizer, one.loss, some, len(some))) as loop:
                    for _ in some:
                        last = timed(partial(next, loop), alone).loss
            apart = max(apart, float((losses[k] - last).abs() / last.abs()))
    row: dict[str, object] = {"probe": verdict.reason, "yes": verdict.yes, "gain": verdict.gain}
    if together:
        row |= {"alone_ms": MEMBERS * 1e3 * min(alone), "together_ms": 1e3 * min(together), "apart": apart}
    return row


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, dict[str, object]] = {}
    print(f"{'task':24}{'alone':>10}{'together':>10}{'ratio':>7}{'apart':>10}  probe")
    for name, kind in PAIRS:
        row = rows[f"{name}/{kind}"] = measured(task(name, kind), kind)
        if "alone_ms" in row:
            alone, together = row["alone_ms"], row["together_ms"]
            figures = f"{alone:>7.2f} ms{together:>7.2f} ms{alone / together:>7.2f}{row['apart']:>10.0e}"
        else:
            figures = " " * 37
        print(f"{name + '/' + kind:24}{figures}  {str(row['probe'])[:60]}", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"members": MEMBERS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
