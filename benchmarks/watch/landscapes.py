"""Small nets and analytic losses to train: models, losses, data, and the tasks that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Task:
    """What is trained.

    Args:
        half: "tune" or "judge".
        data: seed → tensors of one length.
        model: init → model; `init` scales the usual initial weights, 0 makes hidden units alike.
        loss: (model, batch) → loss.
    """

    half: str
    data: Callable[[int], Batch]
    model: Callable[[float], nn.Module]
    loss: Callable[[nn.Module, Batch], Tensor]


# -- models -----------------------------------------------------------------------------------------------------------------


def perceptron(*widths: int, act: type[nn.Module] = nn.Tanh) -> Callable[[float], nn.Module]:
    """Layers of these widths; init 0: hidden units alike, else a scale."""

    def make(init: float) -> nn.Module:
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), act()]
        model = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for layer in model:
                if isinstance(layer, nn.Linear):
                    layer.bias.zero_()
                    if init == 0 and layer is not model[-1]:
                        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
                    elif init == 0:
                        layer.weight.copy_(layer.weight[:, :1].expand_as(layer.weight))
                    else:
                        layer.weight.mul_(init)
        return model

    return make


class Linears(nn.Module):
    """A product of matrices without biases."""

    def __init__(self, widths: tuple[int, ...], init: float) -> None:
        super().__init__()
        self.weights = nn.ParameterList(init * torch.randn(i, o) / math.sqrt(i) for i, o in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = x @ weight
        return x


class Conv(nn.Module):
    """Two convolutions over a sequence, and a readout."""

    def __init__(self, init: float) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv1d(1, 6, 3), nn.Conv1d(6, 6, 3), nn.Linear(6, 4)
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(init if p.ndim > 1 else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.tanh(self.second(torch.tanh(self.first(x[:, None]))))
        out: Tensor = self.last(seen.square().mean(2))
        return out


class Pairs(nn.Module):
    """Two tables of vectors whose products say how well two things go together."""

    def __init__(self, init: float) -> None:
        super().__init__()
        self.left, self.right = (nn.Parameter(init * torch.randn(16, 4)) for _ in range(2))

    def forward(self, which: Tensor) -> Tensor:
        return (self.left[which[:, 0]] * self.right[which[:, 1]]).sum(1)


class Attention(nn.Module):
    """One head over a few tokens, and a readout of what the first one gathers."""

    def __init__(self, init: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Parameter(init * torch.randn(5, 5) / 5**0.5) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax((x[:, :1] @ self.query) @ (x @ self.key).transpose(1, 2), dim=-1)
        return (weights @ (x @ self.value) @ self.out)[:, 0, :2]


class Residual(nn.Module):
    """Two blocks with a norm each, around which the input goes."""

    def __init__(self, init: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8)) for _ in "ab")
        self.last = nn.Linear(8, 3)
        with torch.no_grad():
            self.last.weight.mul_(init)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.last(x)
        return out


class Point(nn.Module):
    """Two coordinates, or more: a surface."""

    def __init__(self, *start: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(start))


# -- losses -----------------------------------------------------------------------------------------------------------------


def squared(model: nn.Module, batch: Batch) -> Tensor:
    """Half the mean square."""
    return 0.5 * (model(batch[0]) - batch[1]).square().mean()


def entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def likelihood(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross-entropy."""
    return functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def robust(model: nn.Module, batch: Batch) -> Tensor:
    """Huber's."""
    return functional.huber_loss(model(batch[0]), batch[1])


def wells(model: nn.Module, batch: Batch) -> Tensor:
    """Two wells, between which there is a saddle, and a steep coordinate that the rows move about."""
    x, y = model.at[0], model.at[1]
    return ((x * x - 1).square() / 4 + 3 * (y - 0.5 * batch[0][:, 1]).square()).mean()


def banana(model: nn.Module, batch: Batch) -> Tensor:
    """Rosenbrock's, each row of which lies a little aside."""
    x, y = model.at[0], model.at[1]
    z = batch[0]
    return ((1 - x + z[:, 0]).square() + 20 * (y - x * x + 0.3 * z[:, 1]).square()).mean() * 0.3


def bent(model: nn.Module, batch: Batch) -> Tensor:
    """A ravine along a sine, with walls that flatten out."""
    x, y = model.at[0], model.at[1]
    z = batch[0]
    across = 4 * (y - torch.sin(2 * x) + 0.3 * z[:, 1])
    return (torch.sqrt(1 + across.square()) - 1 + 0.05 * (x - 2 + z[:, 0]).square()).mean()


# -- data -------------------------------------------------------------------------------------------------------------------


def regression(rows: int, dim: int, out: int, noise: float, spread: float = 0.0, hidden: int = 0) -> Callable[[int], Batch]:
    """Linear targets, or those of a tanh net, with noise; features whose sizes span `spread` decades."""

    def make(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, dim, generator=g) * torch.logspace(0, -spread, dim)
        if hidden:
            first = 1.5 * torch.randn(dim, hidden, generator=g) / math.sqrt(dim)
            y = torch.tanh(x @ first) @ torch.randn(hidden, out, generator=g)
        else:
            y = x @ torch.randn(dim, out, generator=g)
        return x, y + noise * torch.randn(rows, out, generator=g)

    return make


def clouds(rows: int, dim: int, classes: int, noise: float, mean: float = 0.0) -> Callable[[int], Batch]:
    """Gaussian clouds; `mean` moves all features."""

    def make(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        centres = torch.randn(classes, dim, generator=g)
        y = torch.randint(0, classes, (rows,), generator=g)
        return centres[y] + noise * torch.randn(rows, dim, generator=g) + mean, y

    return make


def low_rank(rows: int, dim: int, rank: int, noise: float) -> Callable[[int], Batch]:
    """Inputs that are white, targets by a matrix of low rank whose singular values fall by half."""

    def make(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        u, v = (torch.linalg.qr(torch.randn(dim, dim, generator=g))[0][:, :rank] for _ in range(2))
        x = torch.randn(rows, dim, generator=g)
        sizes = 3.0 * 0.5 ** torch.arange(rank, dtype=torch.float32)
        return x, x @ (u * sizes) @ v.T + noise * torch.randn(rows, dim, generator=g)

    return make


def parity(rows: int, dim: int, wrong: float) -> Callable[[int], Batch]:
    """The product of two signs among `dim`; some labels are wrong."""

    def make(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        x = torch.randint(0, 2, (rows, dim), generator=g).float() * 2 - 1
        y = ((x[:, 0] * x[:, 1]) > 0).long()
        return x, torch.where(torch.rand(rows, generator=g) < wrong, 1 - y, y)

    return make


def waves(rows: int, length: int, noise: float) -> Callable[[int], Batch]:
    """Sines of four frequencies in noise."""

    def make(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 4, (rows,), generator=g)
        phase = 6.28 * torch.rand(rows, 1, generator=g)
        x = torch.sin((0.4 + 0.6 * y[:, None]) * torch.arange(length) + phase)
        return x + noise * torch.randn(rows, length, generator=g), y

    return make


def normal(rows: int, dim: int) -> Callable[[int], Batch]:
    """Noise alone, that moves a surface about."""

    def make(seed: int) -> Batch:
        z = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
        return (z - z.mean(0),)

    return make


def matches(rows: int) -> Callable[[int], Batch]:
    """Which of 16 things go with which: the signs of a matrix of rank two, some of them wrong."""

    def make(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        which = torch.randint(0, 16, (rows, 2), generator=g)
        truth = (torch.randn(16, 2, generator=g) @ torch.randn(2, 16, generator=g))[which[:, 0], which[:, 1]] > 0
        return which, (truth ^ (torch.rand(rows, generator=g) < 0.15)).float()

    return make


def tokens(rows: int, noise: float) -> Callable[[int], Batch]:
    """Four tokens; the target is that one of the others which the first resembles most, roughly."""

    def make(seed: int) -> Batch:
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, 4, 5, generator=g)
        near = torch.softmax(2 * (x[:, :1] * x).sum(2), dim=1)
        return x, (near[..., None] * x).sum(1)[:, :2] + noise * torch.randn(rows, 2, generator=g)

    return make


TASKS: dict[str, Task] = {
    "ridge": Task("tune", regression(256, 20, 1, 0.5, 1.0), perceptron(20, 1), squared),
    "clouds": Task("tune", clouds(512, 8, 5, 0.9), perceptron(8, 16, 5, act=nn.ReLU), entropy),
    "teacher": Task("tune", regression(256, 6, 1, 0.3, hidden=4), perceptron(6, 16, 1), squared),
    "factors": Task("tune", low_rank(256, 8, 3, 0.2), lambda init: Linears((8, 8, 8), init), squared),
    "deep": Task("tune", clouds(512, 8, 4, 0.7), perceptron(8, 12, 12, 12, 4), entropy),
    "banana": Task("tune", normal(256, 2), lambda _: Point(-1.0, 1.0), banana),
    "logits": Task("tune", clouds(512, 10, 3, 1.5, mean=1.0), perceptron(10, 3), entropy),
    "linear3": Task("tune", low_rank(256, 6, 2, 0.2), lambda init: Linears((6, 6, 6, 6), init), squared),
    "parity": Task("tune", parity(512, 6, 0.1), perceptron(6, 16, 2), entropy),
    "waves": Task("tune", waves(512, 16, 0.5), lambda init: Conv(init), entropy),
    "bent": Task("tune", normal(256, 2), lambda _: Point(-2.0, 1.5), bent),
    "student": Task("tune", regression(256, 10, 2, 0.2, 0.5, hidden=6), perceptron(10, 20, 20, 2, act=nn.GELU), squared),
    "pairs": Task("judge", matches(512), Pairs, likelihood),
    "attention": Task("judge", tokens(256, 0.3), Attention, squared),
    "bottleneck": Task("judge", regression(256, 8, 8, 0.4, hidden=3), perceptron(8, 3, 8), squared),
    "robust": Task("judge", regression(256, 12, 1, 1.0, 0.7), perceptron(12, 1), robust),
    "residual": Task("judge", clouds(512, 8, 3, 2.0), Residual, entropy),
    "wells": Task("judge", normal(256, 2), lambda init: Point(1e-4 * init, 1.0), wells),
}
