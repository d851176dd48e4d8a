"""Sweeps that label runs by construction: every rate of a grid, constant and scheduled, written to ``sweeps.jsonl.gz``.

Fifteen tasks x four optimizers x thirteen rates half a decade apart, each under a constant rate, under warm-up and cosine, and
under warm-up, stable, decay: 2,340 runs, one seed each. A run's label is its place in its sweep (see `labelled`), by the loss
over the training data after the last update. ``python benchmarks/doctor/sweeps.py`` makes what is missing (all: half an hour on
two cores).
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "regret"))
from tasks import DIGITS, TASKS, Optimizing, cross_entropy, mlp, simple, text, trained

from lrkit import Task, attach, parse
from lrkit.binding.rates import set_lr
from lrkit.task import make, seed_everything, updates, validation

FILE = Path(__file__).with_name("sweeps.jsonl.gz")
SCHEDULES = {
    "constant": "hold 100%",
    "cosine": "warmup 5% > cosine",
    "wsd": "warmup 5% > hold 75% > 1-sqrt 20%",
}
LENGTH = {"constant": 2.0, "cosine": 1.0, "wsd": 1.0}  # of the task's own steps
OPTIMIZERS: dict[str, tuple[Optimizing, float]] = {  # and the decade of the highest of 13 rates
    "sgd": (lambda params: torch.optim.SGD(trained(params), lr=0.1), 2.0),
    "momentum": (lambda params: torch.optim.SGD(trained(params), lr=0.01, momentum=0.9), 1.0),
    "adamw": (lambda params: torch.optim.AdamW(trained(params), lr=1e-3), 0.0),
    "rmsprop": (lambda params: torch.optim.RMSprop(trained(params), lr=1e-3), 0.0),
}
RATES = 13
SHIFT = {"hundredfold": {"sgd": -2.0, "momentum": -2.0}, "vae": {"sgd": -1.5, "momentum": -1.5}}


class VAE(nn.Module):
    """A small variational autoencoder of the digits; its loss is a sum over pixels, as usual (arXiv:1312.6114)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp(64, 48, last=16), mlp(8, 48, last=64)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_var = self.encode(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp() if self.training else mean
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
        return ((self.decode(z) - x).square().sum(-1) + kl).mean()


class Quadratic(nn.Module):
    """A noisy quadratic of 100 dimensions whose curvatures lie between 0.01 and 100, nine of ten below 1."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(100))
        self.register_buffer("curvature", torch.cat([torch.linspace(0.01, 1, 90), torch.logspace(0.5, 2, 10)]))

    def forward(self, noise: Tensor) -> Tensor:
        return 0.5 * (self.curvature * (self.theta - noise.mean(0)).square()).sum()


class Residual(nn.Module):
    """Three residual blocks with BatchNorm on the digits."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.parts = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(3)
        )  # fmt: skip
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.unflatten(1, (1, 8, 8)))
        for part in self.parts:
            x = x + part(x)
        return self.head(x.mean((2, 3)))


class Noise:
    """Batches of noise, as many as asked for."""

    def __len__(self) -> int:
        return 50

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(50):
            yield torch.randn(16, 100)


def of_itself(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0])


def quadratic(optimizer: Optimizing) -> Task:
    return Task(Quadratic, lambda model, batch: model(batch), Noise, optimizer, 400)


MORE: dict[str, Callable[[Optimizing], Task]] = {
    "vae": simple(VAE, of_itself, DIGITS, 64, 400),
    "quadratic": quadratic,
    "residual": simple(Residual, cross_entropy, DIGITS, 64, 200),
}
ALL = TASKS | MORE


def whole_loss(name: str, task: Task, model: nn.Module) -> float:
    """The loss over (at most 2,048 windows or all rows of) the training data, in eval mode."""
    if name == "quadratic":
        batch: Any = torch.zeros(1, 100)
    elif name.startswith("char"):
        train, _, _ = text()
        window = train[torch.arange(128)[:, None] * 7001 % (len(train) - 40) + torch.arange(33)]
        batch = (window[:, :-1], window[:, 1:])
    else:
        loader: Any = task.batches()
        batch = (loader.x, loader.y)
    model.eval()
    with torch.no_grad():
        return float(task.loss(model, batch))


def one(name: str, optimizer: str, schedule: str, place: int) -> dict[str, Any]:
    """Train one run of the sweep."""
    make_optimizer, top = OPTIMIZERS[optimizer]
    task = ALL[name](make_optimizer)
    lr = 10 ** (top + SHIFT.get(name, {}).get(optimizer, 0.0) - place / 2)
    steps = int(task.steps * LENGTH[schedule])
    seed_everything(1000 + place)
    model, made, batches = make(task)
    start = whole_loss(name, task, model)
    set_lr(made, lr)
    attach(made, lr=parse(SCHEDULES[schedule]).resolve(total=steps))
    losses: list[float] = []
    values: list[tuple[int, float]] = []
    for update in updates(model, made, task.loss, batches, steps, task.step):
        losses.append(float(update.loss))
        if not math.isfinite(losses[-1]):
            break
        if task.validate is not None and (update.ends_epoch or update.step == steps - 1):
            values.append((update.step, validation(task.validate, model)["val_loss"]))
    final = whole_loss(name, task, model) if math.isfinite(losses[-1]) else math.nan
    return {
        "task": name, "optimizer": optimizer, "schedule": schedule, "lr": short(lr), "steps": steps, "start": short(start),
        "final": short(final), "loss": [short(v) for v in losses], "val": [(step, short(v)) for step, v in values],
    }  # fmt: skip


def short(value: float) -> float | None:
    """Five digits; None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def labelled(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs of one sweep with their label and the sweep's best rate.

    diverged: not finite, or ends above 1.02 of its own start; ok: the final loss within a tenth of the drop that the best rate
    achieves; else too_low or too_high, by the side of the best rate on which the run lies.
    """
    finals = {run["lr"]: run["final"] for run in runs if run["final"] is not None}
    start = median(run["start"] for run in runs)
    best = min(finals, key=lambda lr: finals[lr])
    drop = start - finals[best]
    out = []
    for run in runs:
        final = run["final"]
        if final is None or final > run["start"] + 0.02 * abs(run["start"]) or None in run["loss"]:
            label = "diverged"
        elif final <= finals[best] + 0.1 * drop:
            label = "ok"
        else:
            label = "too_low" if run["lr"] < best else "too_high"
        out.append({**run, "label": label, "best_lr": best, "best_final": finals[best]})
    return out


def sweep(key: tuple[str, str, str]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    return labelled([one(*key, place) for place in range(RATES)])


def place_of(run: dict[str, Any]) -> tuple[str, str, str]:
    """The sweep that a run belongs to."""
    return run["task"], run["optimizer"], run["schedule"]


def load() -> list[dict[str, Any]]:
    """All runs that were made."""
    if not FILE.exists():
        return []
    runs = [json.loads(line) for line in gzip.decompress(FILE.read_bytes()).decode().splitlines()]
    return [run for _, group in groupby(runs, key=place_of) for run in labelled(list(group))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="make everything anew")
    known = [] if parser.parse_args().again else load()
    there = {(run["task"], run["optimizer"], run["schedule"]) for run in known}
    keys = [(t, o, s) for s in SCHEDULES for t in ALL for o in OPTIMIZERS if (t, o, s) not in there]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for i, runs in enumerate(pool.imap_unordered(sweep, keys)):
            known += runs
            print(f"{i + 1}/{len(keys)}", *(runs[0][k] for k in ("task", "optimizer", "schedule")), flush=True)
            if i % 20 == 19 or i == len(keys) - 1:
                known.sort(key=lambda run: (run["task"], run["optimizer"], run["schedule"], run["lr"]))
                text_ = "\n".join(json.dumps(run, separators=(",", ":")) for run in known)
                FILE.write_bytes(gzip.compress(text_.encode(), mtime=0))


if __name__ == "__main__":
    main()
