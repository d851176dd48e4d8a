"""The tasks on which finders are measured: small nets on real data, each with the horizon and the optimizers it is tried with.

Half of them (`TUNING`) may be looked at while the finder's constants are chosen; the other half only judges. Every task draws
its weights and its batches from torch's generator, so a seed is a whole training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrkit import Task

Batch = tuple[Tensor, Tensor]


class Shuffled:
    """Batches of rows in a new order each epoch; the last, smaller one is left out."""

    def __init__(self, x: Tensor, y: Tensor, size: int) -> None:
        self.x, self.y, self.size = x, y, size

    def __len__(self) -> int:
        return len(self.x) // self.size

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.x))
        for i in range(len(self)):
            rows = order[i * self.size : (i + 1) * self.size]
            yield self.x[rows], self.y[rows]


class Windows:
    """Random windows of a text: each batch is (characters, the characters that follow)."""

    def __init__(self, text: Tensor, length: int, size: int, count: int) -> None:
        self.text, self.length, self.size, self.count = text, length, size, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.count):
            at = torch.randint(len(self.text) - self.length - 1, (self.size, 1)) + torch.arange(self.length + 1)
            window = self.text[at]
            yield window[:, :-1], window[:, 1:]


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8 × 8 in an order of our own, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(7).permutation(len(data.target))
    return torch.tensor(data.data[order] / 16, dtype=torch.float32), torch.tensor(data.target[order])


@cache
def text() -> tuple[Tensor, Tensor, int]:
    """(characters to train on, characters to validate on, size of the alphabet)."""
    folder = Path(os.environ.get("LRKIT_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = folder / "tinyshakespeare.txt"
    raw = (
        path.read_text() if path.exists() else "".join(p.read_text() for p in sorted(Path(os.__file__).parent.glob("*.py"))[:60])
    )
    alphabet = sorted(set(raw))
    place = {letter: i for i, letter in enumerate(alphabet)}
    codes = torch.tensor([place[letter] for letter in raw])
    return codes[: len(codes) * 9 // 10], codes[len(codes) * 9 // 10 :], len(alphabet)


@cache
def tabular() -> tuple[Tensor, Tensor]:
    """Friedman's first function with noise, standardised; ten columns, five of which matter."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(1500, noise=1.0, random_state=3)
    return torch.tensor(x * 2 - 1, dtype=torch.float32), torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)


@cache
def rare() -> tuple[Tensor, Tensor]:
    """A class of 6 % among 2,000 rows of 20 columns."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        2000, 20, n_informative=8, n_clusters_per_class=3, weights=[0.94], class_sep=1.2, flip_y=0.01, random_state=5
    )
    return torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32), torch.tensor(y)


@cache
def diabetes() -> tuple[Tensor, Tensor]:
    """442 patients, ten measures, the disease's progress."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    order = np.random.default_rng(1).permutation(len(data.target))
    x, y = data.data[order], data.target[order]
    return torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32), torch.tensor(
        (y - y.mean()) / y.std(), dtype=torch.float32
    )


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(batch[0])
    return functional.cross_entropy(scores.flatten(0, -2), batch[1].flatten())


def squared(model: nn.Module, batch: Batch) -> Tensor:
    return functional.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def hundredfold(model: nn.Module, batch: Batch) -> Tensor:
    return 100 * squared(model, batch)


def rebuild(model: nn.Module, batch: Batch) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[0])


def mlp(*sizes: int, last: int, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers, nn.Linear(sizes[-1], last))


def conv() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(24, 10),
    )  # fmt: skip


class CharLSTM(nn.Module):
    def __init__(self, letters: int, width: int = 48) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(letters, 24), nn.LSTM(24, width, batch_first=True)
        self.head = nn.Linear(width, letters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.a, self.b = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (part.view(n, t, self.heads, c // self.heads).transpose(1, 2) for part in self.qkv(self.a(x)).chunk(3, -1))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, c))
        return x + self.narrow(functional.gelu(self.wide(self.b(x))))


class CharGPT(nn.Module):
    def __init__(self, letters: int, width: int = 40, length: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.embed(x) + self.place.weight[: x.shape[1]])))


class LowRank(nn.Module):
    """A frozen linear layer plus B·A of a low rank (arXiv:2106.09685); B starts at 0."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.a.T) @ self.b.T


@cache
def pretrained() -> dict[str, Tensor]:
    """A net for the digits 0 to 4, trained well."""
    x, y = digits()
    rows = y[:1200] < 5
    state = torch.get_rng_state()
    torch.manual_seed(11)
    model = mlp(64, 96, 96, last=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        for batch in Shuffled(x[:1200][rows], y[:1200][rows], 64):
            optimizer.zero_grad()
            cross_entropy(model, batch).backward()
            optimizer.step()
    torch.set_rng_state(state)
    return {name: value.clone() for name, value in model.state_dict().items()}


def tuned(low_rank: bool = False) -> nn.Module:
    """The net for 0 to 4, to be tuned to 5 to 9: whole, or by low-rank adapters and a new head."""
    model = mlp(64, 96, 96, last=10)
    model.load_state_dict(pretrained())
    model[4].reset_parameters()
    if low_rank:
        model[0], model[2] = LowRank(model[0]), LowRank(model[2])
    return model


def clipped(limit: float, loss: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    """An update whose gradient is clipped to the norm `limit`."""

    def step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        return value

    return step


def validating(loss: Callable[[Any, Any], Tensor], x: Tensor, y: Tensor) -> Callable[[Any], float]:
    return lambda model: float(loss(model, (x, y)))


Source = tuple[Callable[[], Batch], slice, slice, Callable[[Tensor], Tensor]]  # data, training rows, validation rows, labels kept


def rows_of(source: Source) -> list[Batch]:
    """[(x, y) to train on, (x, y) to validate on]."""
    data, train, val, keep = source
    x, y = data()
    return [(x[part][keep(y[part])], y[part][keep(y[part])]) for part in (train, val)]


def every(labels: Tensor) -> Tensor:
    return torch.ones(len(labels), dtype=torch.bool)


def new(labels: Tensor) -> Tensor:
    """The digits that the pretrained net has not seen."""
    return labels >= 5


Optimizing = Callable[[Any], torch.optim.Optimizer]


def simple(
    make: Callable[[], nn.Module], loss: Callable[[Any, Any], Tensor], source: Source, size: int, steps: int
) -> Callable[[Optimizing], Task]:
    """A task but for its optimizer."""

    def with_optimizer(optimizer: Optimizing) -> Task:
        (x, y), val = rows_of(source)
        return Task(make, loss, lambda: Shuffled(x, y, size), optimizer, steps, validate=validating(loss, *val))

    return with_optimizer


def language(make: Callable[[int], nn.Module], size: int, length: int, steps: int, limit: float) -> Callable[[Optimizing], Task]:
    """Characters, one after the other; the gradient is clipped."""

    def with_optimizer(optimizer: Optimizing) -> Task:
        train, val, letters = text()
        fixed = val[torch.arange(64)[:, None] * 601 + torch.arange(length + 1)]
        return Task(
            lambda: make(letters), cross_entropy, lambda: Windows(train, length, size, 50), optimizer, steps,
            step=clipped(limit, cross_entropy), validate=validating(cross_entropy, fixed[:, :-1], fixed[:, 1:]),
        )  # fmt: skip

    return with_optimizer


REST = slice(1200, None)
DIGITS: Source = (digits, slice(0, 1200), REST, every)
FEW_DIGITS: Source = (digits, slice(0, 500), REST, every)
NEW_DIGITS: Source = (digits, slice(0, 1200), REST, new)
FRIEDMAN: Source = (tabular, slice(0, 1000), slice(1000, None), every)
RARE: Source = (rare, slice(0, 1500), slice(1500, None), every)
PATIENTS: Source = (diabetes, slice(0, 320), slice(320, None), every)

TASKS: dict[str, Callable[[Optimizing], Task]] = {
    # For tuning.
    "digits_mlp": simple(lambda: mlp(64, 64, 32, last=10), cross_entropy, DIGITS, 64, 300),
    "tabular": simple(lambda: mlp(10, 48, 48, last=1), squared, FRIEDMAN, 32, 400),
    "char_lstm": language(CharLSTM, 16, 32, 240, 1.0),
    "fine_tune": simple(tuned, cross_entropy, NEW_DIGITS, 32, 150),
    "dropout": simple(lambda: mlp(64, 96, 96, last=10, dropout=0.3), cross_entropy, FEW_DIGITS, 32, 360),
    "deep": simple(lambda: mlp(20, *[24] * 6, last=2), cross_entropy, RARE, 50, 300),
    # For judging alone.
    "autoencoder": simple(lambda: nn.Sequential(mlp(64, 48, last=12), nn.ReLU(), mlp(12, 48, last=64)), rebuild, DIGITS, 64, 400),
    "imbalanced": simple(lambda: mlp(20, 40, last=2), cross_entropy, RARE, 64, 250),
    "conv": simple(conv, cross_entropy, DIGITS, 64, 200),
    "char_gpt": language(CharGPT, 8, 32, 200, 1.0),
    "low_rank": simple(lambda: tuned(low_rank=True), cross_entropy, NEW_DIGITS, 32, 200),
    "hundredfold": simple(lambda: mlp(10, 32, last=1), hundredfold, PATIENTS, 32, 160),
}
TUNING = ("digits_mlp", "tabular", "char_lstm", "fine_tune", "dropout", "deep")
DECAY = {"dropout": 0.1}  # AdamW's, where it is not torch's


def task(name: str, optimizer: str) -> Task:
    """A task with one of the optimizers, at torch's default rate."""
    made: dict[str, Optimizing] = {
        "sgd": lambda params: torch.optim.SGD(trained(params), lr=1e-3, momentum=0.9),
        "adamw": lambda params: torch.optim.AdamW(trained(params), lr=1e-3, weight_decay=DECAY.get(name, 0.01)),
        "rmsprop": lambda params: torch.optim.RMSprop(trained(params), lr=1e-2),
    }
    return TASKS[name](made[optimizer])


def trained(params: Any) -> list[Tensor]:
    """Those that are not frozen."""
    return [p for p in params if p.requires_grad]


OPTIMIZERS = ("sgd", "adamw", "rmsprop")
PAIRS = [(name, optimizer) for name in TASKS for optimizer in OPTIMIZERS]
