"""The demo's task: scikit-learn's digits (1,797 real images of 8 × 8 pixels), a small conv net, AdamW."""

from collections.abc import Iterator
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lrkit.task import Task

EPOCHS, BATCH, TRAINING = 15, 64, 1437  # the other 360 images are for validation

Batch = tuple[Tensor, Tensor]


class Shuffled:
    """Batches of a set that fits into memory, in a new order each epoch."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        self.images, self.labels, self.size = images, labels, size

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        for index in torch.split(torch.randperm(len(self.images)), self.size):
            yield self.images[index], self.labels[index]


def network() -> nn.Module:
    """Two convolutions, two linear layers: 37,706 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def task() -> Task:
    """15 epochs of digits; validates on images that are not trained on, by loss and accuracy."""
    data: Any = load_digits()
    images = torch.tensor(data.data / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    unseen, truth = images[TRAINING:], labels[TRAINING:]

    def validate(model: nn.Module) -> dict[str, float]:
        scores = model(unseen)
        right = (scores.argmax(dim=1) == truth).float().mean()
        return {"loss": cross_entropy(scores, truth).item(), "accuracy": right.item()}

    return Task(
        model=network,
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        batches=lambda: Shuffled(images[:TRAINING], labels[:TRAINING], BATCH),
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-3),
        steps=EPOCHS * -(-TRAINING // BATCH),
        validate=validate,
    )
