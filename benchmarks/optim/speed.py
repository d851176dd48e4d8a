"""What a step costs: lrkit's optimizers beside torch's three forms (default, foreach, fused), and beside what memory allows.

Two sets of parameters: ResNet-18's (62 tensors, 11.7 million values), where memory is the limit, and 300 tensors of 1,000 values,
where Python is. The candidates of a row, and plain streams over memory, are run in turn, in a new order every round, so that the
machine's slow phases hit all alike. Each has its own parameters, gradients and state. Before each step, outside of the clock, the
gradients change sign: the same objects (main tables), or new ones, as after `zero_grad(set_to_none=True)`.

    default, foreach, fused   torch's; `–`: there is none
    lrkit                     what a user gets
    no cc                     what one without a C compiler gets: torch's fused kernels; `*`: the plain reference
    /fused, /torch            lrkit's, over that of torch's fused form, and of the fastest of torch's forms
    GB/s, limit               the bytes that a step must move (p, g, m, v, x read once, all but g written once) over its
                              time; and as a fraction of the fastest of the streams (add, multiply, multiply-add, copy)
                              of the same rounds, which a kernel that keeps more of memory busy can exceed
    extra MB                  the most memory of torch's held beyond parameters, gradients and state, in the first step
                              or a later one; and what of the gradients is still held after zero_grad (`held`)

Figures are medians over the rounds (seed 0), with 10–90 % in brackets. A row takes as many rounds as it says, or, on a slow
machine, as many as fit into its seconds, but 5; the fewest of a table are said below it. Options: ``--quick``, few rounds;
``--threads N``; ``--only Adam,RAdam``. Where others use the machine, take one thread: with more, threads wait for each other for
whole slices of the scheduler's time. Writes runs/benchmarks/optim_speed.json.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, optim

import lrkit.optim as ours

OUT = Path("runs/benchmarks/optim_speed.json")
LEAST = 5  # rounds
Make = Callable[..., torch.optim.Optimizer]
Times = dict[str, list[float]]


class Row(NamedTuple):
    """One rule."""

    name: str
    bytes: int  # an entry, at least
    ours: Make
    torchs: Make | None = None  # None: torch has no such rule
    fused: bool = False  # whether torch has a fused form
    bars: tuple[float, float] | None = None  # the most that lrkit / torch may be on the large set, on the small
    of: str = "fused"  # which form of torch's, or "torch", the fastest
    warm: int = 3  # steps before the clock runs


def rows() -> list[Row]:
    """Every rule, with its bytes, its peer and its bars."""
    ball, ahead = {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}
    level, best = (1.05, 0.4), "torch"

    def both(name: str, size: int, cls: str, fused: bool, bars: Any = None, of: str = "fused", **hypers: Any) -> Row:
        return Row(name, size, partial(getattr(ours, cls), **hypers), partial(getattr(optim, cls), **hypers), fused, bars, of)

    return [
        both("SGD", 12, "SGD", True, level, lr=1e-3),
        both("SGD momentum", 20, "SGD", True, level, lr=1e-3, **ball),
        both("SGD Nesterov", 20, "SGD", True, level, lr=1e-3, **ahead),
        both("Adagrad", 20, "Adagrad", True, level),
        both("Adam", 28, "Adam", True, level),
        both("AdamW", 28, "AdamW", True, level),
        both("RMSprop", 20, "RMSprop", False, (0.35, 0.35), best, lr=1e-3),
        both("RAdam", 28, "RAdam", False, (0.25, 0.25), best)._replace(warm=7),  # it scales from its sixth step on
        both("NAdam", 28, "NAdam", False, (0.25, 0.25), best),
        both("Adadelta", 28, "Adadelta", False),
        Row("AMSGrad", 36, ours.AMSGrad, partial(optim.Adam, amsgrad=True), True),
        both("RMSprop centered", 28, "RMSprop", False, lr=1e-3, centered=True),
        Row("RMS", 20, ours.RMS),
        Row("AdaBelief", 28, ours.AdaBelief),
        Row("Lion", 20, ours.Lion),
    ]


def resnet18() -> list[tuple[int, ...]]:
    """The shapes of ResNet-18's parameters, in its order: convolutions, batch norms, the last layer."""

    def layer(out: int, into: int, width: int) -> list[tuple[int, ...]]:
        return [(out, into, width, width), (out,), (out,)]

    shapes, channels = layer(64, 3, 7), 64
    for out in (64, 128, 256, 512):
        for into in (channels, out):
            shapes += layer(out, into, 3) + layer(out, out, 3)
            shapes += layer(out, into, 1) if into != out else []
        channels = out
    return [*shapes, (1000, 512), (1000,)]


SETS: dict[str, list[tuple[int, ...]]] = {"large": resnet18(), "small": [(1000,)] * 300}
VALUES = {name: sum(torch.Size(shape).numel() for shape in shapes) for name, shapes in SETS.items()}


class Candidate:
    """An optimizer with parameters of its own.

    Args:
        make: parameters ↦ optimizer.
        shapes: Theirs.
        new: Whether gradients are new objects before each step.
    """

    def __init__(self, make: Make, shapes: Sequence[tuple[int, ...]], new: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        self._gradients = [torch.randn(shape, generator=generator) * 1e-2 for shape in shapes]
        self._new = new
        if not new:
            for p, g in zip(self.parameters, self._gradients, strict=True):
                p.grad = g
        self.optimizer = make(self.parameters)

    def ready(self) -> None:
        """What a backward pass would have done."""
        torch._foreach_neg_(self._gradients)
        if self._new:
            for p in self.parameters:
                p.grad = None
            for p, g in zip(self.parameters, self._gradients, strict=True):
                p.grad = g.clone()

    def milliseconds(self, calls: int) -> float:
        """Of one step, the mean of some calls."""
        spent = 0.0
        for _ in range(calls):
            self.ready()
            start = time.perf_counter()
            self.optimizer.step()
            spent += time.perf_counter() - start
        return spent / calls * 1e3

    def ran(self) -> str:
        """Which of lrkit's backends executed the last step."""
        ledgers: Any = getattr(self.optimizer, "_ledgers", [])
        return "/".join(sorted({type(b.runner[1]).__name__.lower() for one in ledgers for b, _ in one._buckets}))


def candidates(row: Row, shapes: Sequence[tuple[int, ...]], new: bool) -> dict[str, Candidate]:
    """torch's forms, and ours."""
    made: dict[str, Make] = {}
    if row.torchs is not None:
        made = {"default": row.torchs, "foreach": partial(row.torchs, foreach=True)}
        if row.fused:
            made["fused"] = partial(row.torchs, fused=True)
    made |= {"lrkit": row.ours, "no cc": partial(row.ours, backend="fused")}
    return {name: Candidate(make, shapes, new) for name, make in made.items()}


def streams(values: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """Plain passes over memory: the bytes of each, and what does it."""
    a, b, c = (torch.full((values,), 0.5) for _ in range(3))  # written, so that each has memory of its own
    return {
        "add": (12 * values, lambda: a.add_(b)),
        "multiply": (8 * values, lambda: a.mul_(0.5)),
        "multiply-add": (16 * values, lambda: a.addcmul_(b, c)),
        "copy": (8 * values, lambda: a.copy_(b)),
    }


def measure(row: Row, kind: str, new: bool, rounds: int, seconds: float) -> dict[str, Any]:
    """One row of a table."""
    entrants = candidates(row, SETS[kind], new)
    memory = {name: extra(one) for name, one in entrants.items()} if kind == "large" and not new else {}
    calls = {name: warmed(one, row.warm, 5 if kind == "small" else 1) for name, one in entrants.items()}
    plain = streams(VALUES[kind]) if kind == "large" and not new else {}
    times: Times = {name: [] for name in (*entrants, *plain)}
    order, shuffle = list(times), random.Random(0).shuffle
    gc.collect()
    gc.disable()
    end = time.perf_counter() + seconds
    while len(times["lrkit"]) < rounds and (len(times["lrkit"]) < LEAST or time.perf_counter() < end):
        shuffle(order)
        for name in order:
            times[name].append(stream(plain[name][1]) if name in plain else entrants[name].milliseconds(calls[name]))
    gc.enable()
    return summary(row, kind, times, {name: bytes_ for name, (bytes_, _) in plain.items()}) | {
        "new": new, "extra": memory, "backends": [entrants[name].ran() for name in ("lrkit", "no cc")],
    }  # fmt: skip


def warmed(one: Candidate, steps: int, most: int) -> int:
    """Warm a candidate up; and how many of its steps a round is to have: fewer of a slow one."""
    took = [one.milliseconds(1) for _ in range(steps)]
    return max(1, min(most, int(5 / took[-1])))


def stream(run: Callable[[], object]) -> float:
    """Milliseconds of one pass."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def summary(row: Row, kind: str, times: Times, plain: dict[str, int]) -> dict[str, Any]:
    """Medians, spreads, ratios; and how near memory's limit ours is."""
    ms = {name: statistics.median(some) for name, some in times.items() if name not in plain}
    low, high = spread(times["lrkit"])
    forms = {name: ms[name] for name in ("default", "foreach", "fused") if name in ms}
    best = min(forms, key=lambda name: forms[name]) if forms else None
    out: dict[str, Any] = {
        "name": row.name,
        "set": kind,
        "ms": ms,
        "low": low,
        "high": high,
        "best": best,
        "rounds": len(times["lrkit"]),
    }
    for key, peer in (("fused", "fused" if "fused" in ms else None), ("torch", best)):
        if peer:
            pairs = [a / b for a, b in zip(times["lrkit"], times[peer], strict=True)]
            out[f"/{key}"] = {"ratio": ms["lrkit"] / ms[peer], "of each round": spread(pairs), "no cc": ms["no cc"] / ms[peer]}
    speed = row.bytes * VALUES[kind] / ms["lrkit"] / 1e6
    rates = {name: bytes_ / statistics.median(times[name]) / 1e6 for name, bytes_ in plain.items()}
    return out | {"GB/s": speed, "streams": rates, "limit": speed / max(rates.values()) if rates else None}


def spread(some: Sequence[float]) -> tuple[float, float]:
    """10 % and 90 %."""
    ordered = sorted(some)
    return ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]


def extra(one: Candidate) -> dict[str, float]:
    """Memory of torch's, in MB, beyond parameters, gradients and state.

    Returns:
        ``peak``: the most that is held in the first step, or in one later. ``held``: of the gradients, after zero_grad.
    """
    one.ready()
    gc.collect()
    peak, kept = allocated(one.optimizer.step)
    entries = one.optimizer.state.values()
    state = sum(t.nbytes for entry in entries for t in entry.values() if isinstance(t, Tensor) and t.dim())
    scratch = kept - state
    later, _ = allocated(one.optimizer.step)
    there = [p.grad for p in one.parameters]
    _, held = allocated(partial(cycle, one))
    for p, g in zip(one.parameters, there, strict=True):
        p.grad = g
    return {"peak": max(peak - state, scratch + later, 0) / 1e6, "held": max(held, 0) / 1e6}


def cycle(one: Candidate) -> None:
    """New gradients, held by nobody else; a step; and they are let go."""
    for p in one.parameters:
        p.grad = torch.ones_like(p)
    one.optimizer.step()
    one.optimizer.zero_grad()


def allocated(step: Callable[[], object]) -> tuple[int, int]:
    """The bytes that a step takes from torch's allocator: at its peak, and for good."""
    with silent(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        step()
    found: Any = profile.kineto_results
    there = peak = 0
    for event in sorted((one for one in found.events() if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        there += event.nbytes()
        peak = max(peak, there)
    return peak, there


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """The profiler says on stderr that it starts and stops."""
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)


# -- what is printed ------------------------------------------------------------------------------------------------------


def head(title: str, large: bool) -> None:
    """A table's title and columns."""
    print(f"\n{title}")
    columns = (
        f"{'ms':18}{'default':>9}{'foreach':>9}{'fused':>9}{'lrkit':>9} {'(10–90 %)':15}{'no cc':>8} {'/fused':>8}{'/torch':>8}"
    )
    print(columns + f"{'no cc/torch':>13}" + (f"{'GB/s':>8}{'limit':>7}" if large else ""))


def line(one: dict[str, Any]) -> None:
    """A row of a table."""
    digits = 2 if one["set"] == "large" else 3
    cells = [f"{one['ms'][name]:9.{digits}f}" if name in one["ms"] else f"{'–':>9}" for name in ("default", "foreach", "fused")]
    between = f"({one['low']:.{digits}f}–{one['high']:.{digits}f})"
    mark = "*" if "reference" in one["backends"][1] else " "
    text = f"{one['name']:18}{''.join(cells)}{one['ms']['lrkit']:9.{digits}f} {between:15}{one['ms']['no cc']:8.{digits}f}{mark}"
    text += "".join(f"{one[key]['ratio']:8.2f}" if key in one else f"{'–':>8}" for key in ("/fused", "/torch"))
    text += f"{one['/torch']['no cc']:13.2f}" if "/torch" in one else f"{'–':>13}"
    print(text + (f"{one['GB/s']:8.1f}{one['limit']:7.2f}" if one["limit"] is not None else ""), flush=True)


def memory(table: list[dict[str, Any]]) -> None:
    """The table of extra memory."""
    print(f"\nextra MB, large set (one copy of the parameters: {4 * VALUES['large'] / 1e6:.1f}); + what is held after zero_grad")
    names = ("default", "foreach", "fused", "lrkit", "no cc")
    print(f"{'':18}" + "".join(f"{name:>14}" for name in names))
    for one in table:
        cells = [one["extra"].get(name) for name in names]
        print(f"{one['name']:18}" + "".join(f"{c['peak']:7.2f} + {c['held']:4.1f}" if c else f"{'–':>14}" for c in cells))


def bars(table: list[dict[str, Any]], wanted: list[Row]) -> list[dict[str, Any]]:
    """What was to be shown, and whether it holds in this run."""
    found = {(one["set"], one["name"]): one for one in table if not one["new"]}
    out = []
    for row in wanted:
        for kind, most in zip(SETS, row.bars or (), strict=False):
            got = found[kind, row.name][f"/{row.of}"]
            low, high = got["of each round"]
            peer = "torch fused" if row.of == "fused" else f"torch {found[kind, row.name]['best']}"
            what = f"{row.name}, {kind} set: at most {most:.2f} of {peer}"
            out.append({"bar": what, "got": got["ratio"], "spread": (low, high), "holds": got["ratio"] <= most})
    for row in wanted:
        one = found["large", row.name]
        out.append({"bar": f"{row.name}, large set: ≥ 0.80 of memory's limit", "got": one["limit"], "holds": one["limit"] >= 0.8})
    for row in wanted:
        got = found["large", row.name]["extra"]["lrkit"]
        out.append({"bar": f"{row.name}: no extra memory in a step, MB", "got": got["peak"], "holds": got["peak"] < 0.01})
        out.append({"bar": f"{row.name}: no gradients held after zero_grad, MB", "got": got["held"], "holds": got["held"] < 0.01})
    return out


def main() -> None:
    """Print the tables and the bars, keep them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs, not to be quoted")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--only", help="names of rows, with commas")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    wanted = [row for row in rows() if not given.only or row.name in given.only.split(",")]
    plans = [("large", False, 21, 5.0), ("small", False, 25, 3.0), ("large", True, 15, 5.0), ("small", True, 15, 2.0)]
    where = {
        "torch": torch.__version__, "processor": processor(), "threads": given.threads, "load": os.getloadavg(),
        "quick": given.quick, "values": VALUES,
    }  # fmt: skip
    print(f"torch {torch.__version__}, {where['processor']}, {given.threads} threads, load {os.getloadavg()[0]:.1f}")
    began = time.perf_counter()
    for one in wanted:  # what is compiled, and probed, once
        for make in (one.ours, partial(one.ours, backend="fused")):
            Candidate(make, [(3,)], False).optimizer.step()
    table: list[dict[str, Any]] = []
    for kind, new, rounds, seconds in plans:
        some = [row for row in wanted if not new or row.bars]
        table += tabulate(kind, new, LEAST if given.quick else rounds, 0.0 if given.quick else seconds, some)
    memory([one for one in table if one["extra"]])
    checks = bars(table, wanted)
    print("\nbars")
    for check in checks:
        between = "({:.2f}–{:.2f})".format(*check["spread"]) if "spread" in check else ""
        print(f"  {'holds' if check['holds'] else 'FAILS'}  {check['bar']:58} {check['got']:6.2f} {between}")
    print(f"{sum(check['holds'] for check in checks)} of {len(checks)} hold; {time.perf_counter() - began:.0f} s")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"where": where, "rows": table, "bars": checks}, indent=1) + "\n")


def tabulate(kind: str, new: bool, rounds: int, seconds: float, some: list[Row]) -> list[dict[str, Any]]:
    """One table, printed while it is made."""
    said = "new gradients each step" if new else "kept gradients"
    head(f"{kind} set: {len(SETS[kind])} tensors, {VALUES[kind]:,} values; {said}; {rounds} rounds", kind == "large" and not new)
    table = []
    for row in some:
        table.append(measure(row, kind, new, rounds, seconds))
        line(table[-1])
    fewest = min((one["rounds"] for one in table), default=rounds)
    if fewest < rounds:
        print(f"on this machine a row had as few as {fewest} rounds")
    for one in table:
        if one["backends"][0] != "compiled":
            print(f"{one['name']}: lrkit ran {one['backends'][0]}, there being no C compiler")
    return table


def processor() -> str:
    """Its name."""
    with contextlib.suppress(OSError):
        for one in Path("/proc/cpuinfo").read_text().splitlines():
            if one.startswith("model name"):
                return one.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
