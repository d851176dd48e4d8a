"""What is lost on resume: torch's schedulers, and the same curves attached by lrkit, interrupted at every update of a short run.

A run of 12 updates is cut after each of its first 11, its checkpoint goes through a file, and it is resumed in another optimizer
in each order that people write:

    A  create the scheduler, load the optimizer, load the scheduler        (torch's documented order)
    B  load the optimizer, create the scheduler, load the scheduler        (the order in which a script is usually read)
    C  load the optimizer, create the scheduler with last_epoch            (no scheduler state saved)

lrkit has no scheduler state: attach then load, and load then attach. A resume is exact when every later rate, as the optimizer
used it, and the final weights equal the uninterrupted run's to the bit. Three optimizers: SGD with momentum, Adam, AdamW fused.
Writes runs/benchmarks/resume_matrix.json.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler as torchs

import lrkit
from lrkit.schedules import compat

STEPS, LR = 12, 0.1
OUT = Path("runs/benchmarks/resume_matrix.json")
DATA = torch.randn(STEPS, 4, 3, generator=torch.Generator().manual_seed(1))
WARM = compat.torch.LinearLR(LR, 0.1, 1.0, 4)
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=LR),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=LR, fused=True),
}


def half(t: int) -> float:
    """A user's own factor."""
    return 1 / (1 + 0.1 * t)


# The form's name; torch's scheduler, `last` being what goes to last_epoch where it takes one; the same curve in lrkit.
FORMS: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
    "StepLR": (lambda o, **k: torchs.StepLR(o, 4, 0.5, **k), lambda: compat.torch.StepLR(LR, 4, 0.5)),
    "MultiStepLR": (lambda o, **k: torchs.MultiStepLR(o, [3, 8], 0.5, **k), lambda: compat.torch.MultiStepLR(LR, [3, 8], 0.5)),
    "ExponentialLR": (lambda o, **k: torchs.ExponentialLR(o, 0.9, **k), lambda: compat.torch.ExponentialLR(LR, 0.9)),
    "PolynomialLR": (lambda o, **k: torchs.PolynomialLR(o, 12, 2.0, **k), lambda: compat.torch.PolynomialLR(LR, 12, 2.0)),
    "CosineAnnealingLR": (lambda o, **k: torchs.CosineAnnealingLR(o, 12, **k), lambda: compat.torch.CosineAnnealingLR(LR, 12)),
    "MultiplicativeLR": (
        lambda o, **k: torchs.MultiplicativeLR(o, lambda _: 0.9, **k), lambda: compat.torch.MultiplicativeLR(LR, lambda _: 0.9)
    ),
    "LinearLR": (lambda o, **k: torchs.LinearLR(o, 0.1, 1.0, 6, **k), lambda: compat.torch.LinearLR(LR, 0.1, 1.0, 6)),
    "ConstantLR": (lambda o, **k: torchs.ConstantLR(o, 0.5, 6, **k), lambda: compat.torch.ConstantLR(LR, 0.5, 6)),
    "WarmRestarts": (
        lambda o, **k: torchs.CosineAnnealingWarmRestarts(o, 4, **k), lambda: compat.torch.CosineAnnealingWarmRestarts(LR, 4)
    ),
    "OneCycleLR": (
        lambda o, **k: torchs.OneCycleLR(o, 1.0, total_steps=13, cycle_momentum=False, **k),
        lambda: compat.torch.OneCycleLR(1.0, total_steps=13),
    ),
    "CyclicLR": (
        lambda o, **k: torchs.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=False, **k), lambda: compat.torch.CyclicLR(0.01, 0.1, 3)
    ),
    "LambdaLR": (lambda o, **k: torchs.LambdaLR(o, half, **k), lambda: compat.torch.LambdaLR(LR, half)),
    "SequentialLR": (
        lambda o, last_epoch=-1: torchs.SequentialLR(
            o, [torchs.LinearLR(o, 0.1, 1.0, 4), torchs.CosineAnnealingLR(o, 8)], [4], last_epoch=last_epoch
        ),
        lambda: compat.torch.SequentialLR(LR, [WARM, compat.torch.CosineAnnealingLR(LR, 8)], [4]),
    ),
    "ChainedScheduler": (
        lambda o: torchs.ChainedScheduler([torchs.LinearLR(o, 0.1, 1.0, 4), torchs.CosineAnnealingLR(o, 12)]),
        lambda: compat.torch.ChainedScheduler([WARM, compat.torch.CosineAnnealingLR(LR, 12)], LR),
    ),
}  # fmt: skip
Build = Callable[[], tuple[nn.Module, torch.optim.Optimizer]]


def build(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A new model and its optimizer."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, OPTIMIZERS[name](model.parameters())


def train(model: nn.Module, optimizer: Any, scheduler: Any, start: int, stop: int) -> list[float]:
    """The rates that the updates used."""
    rates = []
    for t in range(start, stop):
        optimizer.zero_grad()
        model(DATA[t]).square().mean().backward()
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return rates


def through_a_file(state: Any) -> Any:
    """As a checkpoint goes."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def resume_torchs(order: str, create: Callable[..., Any], optimizer: Any, saved: dict[str, Any], cut: int) -> Any:
    """Resume in an order; the scheduler."""
    if order == "A":
        scheduler = create(optimizer)
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
    elif order == "B":
        optimizer.load_state_dict(saved["optimizer"])
        scheduler = create(optimizer)
        scheduler.load_state_dict(saved["scheduler"])
    else:
        optimizer.load_state_dict(saved["optimizer"])
        scheduler = create(optimizer, last_epoch=cut - 1)
    return scheduler


def resume_ours(order: str, create: Callable[[], Any], optimizer: Any, saved: dict[str, Any]) -> None:
    """Resume in an order."""
    if order == "attach, load":
        lrkit.attach(optimizer, lr=create())
        optimizer.load_state_dict(saved["optimizer"])
    else:
        optimizer.load_state_dict(saved["optimizer"])
        lrkit.attach(optimizer, lr=create())


def wrong(form: str, name: str, order: str) -> int:
    """At how many of the 11 cuts the resumed run is not the uninterrupted one."""
    theirs, ours = FORMS[form]
    torch_order = len(order) == 1

    def begin() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        model, optimizer = build(name)
        if torch_order:
            return model, optimizer, theirs(optimizer)
        lrkit.attach(optimizer, lr=ours())
        return model, optimizer, None

    whole, optimizer, scheduler = begin()
    reference = train(whole, optimizer, scheduler, 0, STEPS)
    bad = 0
    for cut in range(1, STEPS):
        first, before, scheduler = begin()
        train(first, before, scheduler, 0, cut)
        saved = {"model": first.state_dict(), "optimizer": before.state_dict()}
        if torch_order:
            saved["scheduler"] = {k: v for k, v in scheduler.state_dict().items() if not callable(v)}
        saved = through_a_file(saved)
        model, resumed = build(name)
        model.load_state_dict(saved["model"])
        try:
            after = None
            if torch_order:
                after = resume_torchs(order, theirs, resumed, saved, cut)
            else:
                resume_ours(order, ours, resumed, saved)
            rates = train(model, resumed, after, cut, STEPS)
        except TypeError:  # no such argument
            return -1
        same = rates == reference[cut:] and all(map(torch.equal, model.parameters(), whole.parameters()))
        bad += not same
    return bad


def main() -> None:
    """Print the table, keep it as JSON."""
    warnings.simplefilter("ignore")  # torch's, about the order of steps
    torch.set_num_threads(1)
    orders = ["A", "B", "C", "attach, load", "load, attach"]
    rows = {form: {order: max(wrong(form, name, order) for name in OPTIMIZERS) for order in orders} for form in FORMS}
    cuts = STEPS - 1
    print(f"cuts of {cuts} at which a resumed run is wrong, worst of {', '.join(OPTIMIZERS)}")
    print(f"{'':20s}{'torch: A':>10s}{'B':>10s}{'C':>10s}{'lrkit: attach, load':>22s}{'load, attach':>16s}")
    for form, row in rows.items():
        cells = ["exact" if n == 0 else "no such argument" if n < 0 else f"{n} of {cuts}" for n in row.values()]
        cells[2] = "–" if row["C"] < 0 else cells[2]
        print(f"{form:20s}{cells[0]:>10s}{cells[1]:>10s}{cells[2]:>10s}{cells[3]:>22s}{cells[4]:>16s}")
    lost = {order: sum(row[order] != 0 for row in rows.values()) for order in orders}
    a, b, c, ours, reverse = lost.values()
    print(f"{'forms that lose':20s}{a:>10d}{b:>10d}{c:>10d}{ours:>22d}{reverse:>16d}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
