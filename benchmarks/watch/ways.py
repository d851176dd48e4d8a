"""What overhead.py trains, and the ways of watching it that it compares.

Knows models and hooks. Knows no clock but the gauges' own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import lrkit

BINS = 64
Batch = tuple[Tensor, Tensor]
Before = Callable[[Tensor, Batch], None]


# -- what is trained ------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """A model, its optimizer, some batches.

    Args:
        model: What is trained.
        batches: Taken in turn.
        loss: (model, batch) → loss.
    """

    model: nn.Module
    batches: list[Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    count: int = 0

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def train(self, updates: int, before: Before | None = None) -> tuple[float, float]:
        """Some updates; (seconds, seconds of CPU) of them."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(updates):
            batch = self.batches[self.count % len(self.batches)]
            self.count += 1
            value = self.loss(self.model, batch)
            value.backward()
            if before is not None:
                before(value, batch)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.perf_counter() - wall, time.process_time() - cpu


def mlp(width: int, depth: int, rows: int = 32) -> Job:
    """Fully connected layers of one width, a batch of 32."""
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    batches = [(torch.randn(rows, width), torch.randint(10, (rows,))) for _ in range(8)]
    return Job(
        nn.Sequential(*layers, nn.Linear(width, 10)), batches, lambda model, b: functional.cross_entropy(model(b[0]), b[1])
    )


class GPT(nn.Module):
    """A small transformer that predicts the next token.

    Args:
        words: Tokens there are.
        width: Of a token's vector.
        depth: Blocks.
        length: Tokens of a sequence.
    """

    def __init__(self, words: int, width: int, depth: int, length: int) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, width // 64, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.head = nn.Linear(width, words)

    def forward(self, tokens: Tensor) -> Tensor:
        """(rows, length) → (rows, length, words)."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.word(tokens) + self.place(torch.arange(length))
        for block in self.blocks:
            x = block(x, mask, is_causal=True)
        out: Tensor = self.head(x)
        return out


def gpt(depth: int = 5, width: int = 256, words: int = 512, rows: int = 8, length: int = 250) -> Job:
    """2,000 tokens a batch."""
    torch.manual_seed(0)
    tokens = [torch.randint(words, (rows, length + 1)) for _ in range(8)]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    return Job(GPT(words, width, depth, length), [(t[:, :-1], t[:, 1:]) for t in tokens], loss)


JOBS: dict[str, tuple[Callable[[], Job], float]] = {  # and the share of the time
    "mlp-1M": (lambda: mlp(512, 4), 0.15),
    "mlp-10M": (lambda: mlp(1290, 6), 0.20),
    "mlp-50M": (lambda: mlp(2500, 8), 0.30),
    "gpt": (gpt, 0.35),
    "gpt-small": (lambda: gpt(depth=2, width=64, words=128, rows=2, length=64), 0.15),  # of the quick form
}


# -- ways of watching ------------------------------------------------------------------------------------------------------


class Way:
    """Nothing at all: the control.

    Attributes:
        rare: Whether a block holds something that takes many updates' time, so that a few quadruples do.
        often: Quadruples a round.
    """

    rare, often = False, 1

    def __init__(self, job: Job, block: int, folder: Path) -> None:
        self.job, self.block, self.folder = job, block, folder

    def enter(self) -> Before | None:
        """Hook on; what to call between the backward pass and the update."""
        return None

    def leave(self) -> None:
        """Hook off."""

    def own(self) -> float:
        """Seconds that the gauges took, by their own clock."""
        return 0.0

    def close(self) -> dict[str, Any]:
        """For good; what is worth telling."""
        return {}


class Lrkit(Way):
    """A watch, whose hooks are taken off and put on again; its clocks and its count stay."""

    often = 3

    def __init__(self, job: Job, block: int, folder: Path) -> None:
        super().__init__(job, block, folder)
        self.watch = lrkit.watch(job.model, job.optimizer, folder, **self.given())
        self.watch.__enter__()
        self.leave()

    def given(self) -> dict[str, Any]:
        """The keywords of `lrkit.watch`."""
        return {"loss": self.job.loss}

    def enter(self) -> Before:
        """Hooks as `watch` puts them."""
        before = self.job.optimizer.register_step_pre_hook(self.watch._on_before)
        after = self.job.optimizer.register_step_post_hook(self.watch._on_after)
        self.watch._handles = [before, after]
        return lambda value, batch: self.watch.record(loss=value, batch=batch)

    def leave(self) -> None:
        """Without closing it."""
        for handle in self.watch._handles:
            handle.remove()

    def own(self) -> float:
        """As the pace counts it."""
        return sum(self.watch._pace.spent.values())

    def close(self) -> dict[str, Any]:
        """Leave the watch."""
        self.watch.__exit__(None, None, None)
        return {"gauges": self.watch.gauges}


class Bare(Lrkit):
    """Loss and rates."""

    often = 2

    def given(self) -> dict[str, Any]:
        """No budget, no loss to evaluate again."""
        return {"budget": 0}


class Forced(Lrkit):
    """Every gauge once a block."""

    rare, often = True, 1

    def given(self) -> dict[str, Any]:
        """At each block's length."""
        return {"loss": self.job.loss, "every": self.block}


class Wandb(Way):
    """wandb.watch's rule, in our words: see the module's docstring. Source: wandb/integration/torch/wandb_torch.py."""

    logs = False

    def enter(self) -> None:
        """A hook a parameter, each with a count of its own."""
        self.counts: dict[str, int] = {}
        every = self.block if self.logs else 10**9
        self.handles = [p.register_hook(self.hook(name, every)) for name, p in self.job.model.named_parameters()]

    def hook(self, name: str, every: int) -> Callable[[Tensor], None]:
        """Counts, and looks at each `every`-th gradient."""

        def seen(gradient: Tensor) -> None:
            self.counts[name] = self.counts.get(name, 0) + 1
            if self.counts[name] >= every:
                self.counts[name] = 0
                self.histogram(gradient)

        return seen

    def histogram(self, gradient: Tensor) -> tuple[list[float], list[float]]:
        """(how many in each bin, the bins' edges)."""
        values = gradient.detach().clone().reshape(-1)
        if (~torch.isfinite(values)).all().item():
            return [], []
        if not torch.isfinite(values).all():
            values = values[torch.isfinite(values)]
        low, high = values.min().item(), values.max().item()
        counted = values.histc(bins=BINS, min=low, max=high).cpu().clone()
        return counted.tolist(), torch.linspace(low, high, BINS + 1).tolist()

    def leave(self) -> None:
        """All hooks off."""
        for handle in self.handles:
            handle.remove()


class WandbOften(Wandb):
    """One histogram of each gradient a block."""

    rare = logs = True


class Norms(Way):
    """Lightning's utility, each update."""

    def enter(self) -> Before:
        """Between backward and update, where `on_before_optimizer_step` is."""

        def before(_value: Tensor, _batch: Batch) -> None:
            norms = {name: p.grad.data.norm(2.0) for name, p in self.job.model.named_parameters() if p.grad is not None}
            norms["total"] = torch.tensor(list(norms.values())).norm(2.0)
            self.last = {name: value.item() for name, value in norms.items()}

        return before


class Total(Way):
    """One number, each update."""

    def enter(self) -> Before:
        """As a loop of one's own does it."""

        def before(_value: Tensor, _batch: Batch) -> None:
            self.last = nn.utils.get_total_norm([p.grad for p in self.job.model.parameters() if p.grad is not None]).item()

        return before


WAYS: dict[str, type[Way]] = {
    "A/A, nothing": Way,
    "lrkit, everything": Lrkit,
    "lrkit, loss and rates": Bare,
    "lrkit, a visit a block": Forced,
    "wandb, hooks alone": Wandb,
    "wandb, one a block": WandbOften,
    "Lightning, grad_norm": Norms,
    "total norm, item": Total,
}
