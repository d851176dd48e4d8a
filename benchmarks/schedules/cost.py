"""What a schedule costs: one evaluation, and a whole curve of a million steps, beside torch's schedulers and optax.

All in one run on one thread. Each time is the least of several repetitions, with the largest beside it; torch's schedulers make
their curve by a million calls of step(), as a training does (once: a repetition takes a minute). optax's is one jitted call over
an array, compiled before the clock starts, in JAX's own single precision. Writes runs/benchmarks/schedules_cost.json.
"""

import json
import math
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR

import lrkit

STEPS, WARM = 1_000_000, 50_000
OUT = Path("runs/benchmarks/schedules_cost.json")


def once(call: Callable[[], object], repeat: int = 7) -> tuple[float, float]:
    """Least and largest seconds of a call."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times), max(times)


def small(call: Callable[[], object], number: int = 50_000) -> tuple[float, float]:
    """Least and largest seconds of a call that takes about a microsecond, an empty call's own cost taken off."""
    empty = min(timeit.repeat(lambda: None, number=number, repeat=7))
    times = timeit.repeat(call, number=number, repeat=7)
    return (min(times) - empty) / number, (max(times) - empty) / number


def factor(t: int) -> float:
    """The same curve as a plain function, for LambdaLR."""
    return (t + 1) / WARM if t < WARM else 0.5 * (1 + math.cos(math.pi * (t - WARM) / (STEPS - WARM)))


def torch_schedulers() -> dict[str, Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]]:
    """The peers, each made on an optimizer."""
    rest = STEPS - WARM
    return {
        "torch LambdaLR": lambda o: LambdaLR(o, factor),
        "torch CosineAnnealingLR": lambda o: CosineAnnealingLR(o, STEPS),
        "torch OneCycleLR": lambda o: OneCycleLR(o, 0.1, total_steps=STEPS + 1),
        "torch SequentialLR": lambda o: SequentialLR(o, [LinearLR(o, 1 / WARM, 1.0, WARM), CosineAnnealingLR(o, rest)], [WARM]),
    }


def torch_curve(make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]) -> tuple[float, float, float]:
    """Seconds of the whole curve, of one step (least and largest over a hundred stretches)."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.step()
    scheduler = make(optimizer)
    stretches = []
    for _ in range(100):
        start = time.perf_counter()
        for _ in range(STEPS // 100):
            scheduler.step()
        stretches.append(time.perf_counter() - start)
    return sum(stretches), min(stretches) * 100 / STEPS, max(stretches) * 100 / STEPS


def optax_rows() -> dict[str, tuple[tuple[float, float], tuple[float, float]]]:
    """Curve and single evaluation of optax, jitted; none where it is not installed."""
    try:
        import jax
        import optax
    except ModuleNotFoundError:
        print("optax is not installed (pip install optax): no row for it")
        return {}
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, WARM, STEPS)
    jitted = jax.jit(schedule)
    steps, one = jax.numpy.arange(STEPS), jax.numpy.asarray(5000)
    return {"optax, jitted": (once(lambda: jitted(steps).block_until_ready()), small(lambda: jitted(one), 5000))}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    schedule = lrkit.parse(f"warmup {WARM} > cosine {STEPS - WARM}")
    steps = np.arange(STEPS)
    curve, single = once(lambda: schedule(steps)), small(lambda: schedule(500_000))
    rows = {"lrkit": (curve, single)}
    for name, make in torch_schedulers().items():
        total, least, most = torch_curve(make)
        rows[name] = ((total, total), (least, most))
    rows |= optax_rows()
    print(f"\nwarmup {WARM} > cosine {STEPS - WARM}, one thread; ratios to lrkit\n")
    print(f"{'':24s} {'whole curve':>22s} {'ratio':>8s}   {'one evaluation':>24s} {'ratio':>7s}")
    for name, ((low, high), (one, worst)) in rows.items():
        whole = f"{low * 1e3:9.1f} to {high * 1e3:8.1f} ms"
        each = f"{one * 1e6:8.2f} to {worst * 1e6:6.2f} µs"
        print(f"{name:24s} {whole:>22s} {low / curve[0]:8.1f}   {each:>24s} {one / single[0]:7.1f}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({name: {"curve_s": a, "evaluation_s": b} for name, (a, b) in rows.items()}, indent=1))


if __name__ == "__main__":
    main()
