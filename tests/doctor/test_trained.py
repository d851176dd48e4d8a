"""Faults that were trained, not drawn: small nets whose training really falls ill, and their twins, which one cure has healed.

Five nets, which share nothing, are trained at once as one batch of matrices; each is a run with a seed of its own.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from illnesses import accused, found
from lrkit import Run

NETS = 5
Rate = Callable[[float], float]


class Nets(nn.Module):
    """Five perceptrons side by side."""

    def __init__(self, widths: list[int], act: Callable[[Tensor], Tensor], scale: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.act = act
        self.weights = nn.ParameterList(
            scale * torch.randn(NETS, i, o, generator=generator) / math.sqrt(i) for i, o in pairwise(widths)
        )
        self.biases = nn.ParameterList(torch.zeros(NETS, 1, o) for o in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = self.act(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


def rows(count: int, noise: float, dim: int = 16, classes: int = 10) -> tuple[Tensor, Tensor]:
    """(x, y): clouds around ten centres, others for each net."""
    generator = torch.Generator().manual_seed(100)
    centres = 1.5 * torch.randn(NETS, classes, dim, generator=generator)
    y = torch.randint(0, classes, (NETS, count), generator=generator)
    x = torch.gather(centres, 1, y[..., None].expand(-1, -1, dim))
    return x + noise * torch.randn(NETS, count, dim, generator=generator), y


def losses(nets: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(NETS,) mean cross-entropy of each."""
    return functional.cross_entropy(nets(x).transpose(1, 2), y, reduction="none").mean(1)


def train(
    nets: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor], steps: int, *, batch: int = 32,
    rate: Rate = lambda share: 1.0, spoil: Callable[[int, Tensor], Tensor] = lambda step, y: y,
    val: tuple[Tensor, Tensor] | None = None, after: Callable[[int], None] = lambda step: None, meta: dict | None = None,
) -> list[Run]:  # fmt: skip
    """The run of each net: drawn batches of `data`, whose labels `spoil` may change; `after` comes after each backward pass."""
    generator, base = torch.Generator().manual_seed(7), optimizer.param_groups[0]["lr"]
    seen, rates, checks = np.empty((steps, NETS)), np.empty(steps), np.full((steps, NETS), math.nan)
    x, y = data
    for step in range(steps):
        drawn = torch.randint(0, x.shape[1], (NETS, batch), generator=generator)
        labels = spoil(step, torch.gather(y, 1, drawn))
        optimizer.param_groups[0]["lr"] = rates[step] = base * rate(step / steps)
        loss = losses(nets, torch.gather(x, 1, drawn[..., None].expand(-1, -1, x.shape[2])), labels)
        optimizer.zero_grad()
        loss.sum().backward()
        after(step)
        optimizer.step()
        seen[step] = loss.detach().numpy()
        if val is not None and step % 20 == 19:
            with torch.no_grad():
                checks[step] = losses(nets, *val).numpy()
    more = {"val_loss": checks} if val is not None else {}
    return [Run({"loss": seen[:, k], "lr": rates, **{n: v[:, k] for n, v in more.items()}}, meta) for k in range(NETS)]


def stable(begin: float, length: float) -> Rate:
    """A short warm-up, a plateau, and a linear decay."""
    return lambda share: min(1.0, share / 0.03 + 0.01) * min(1.0, max(0.002, 1 - (share - begin) / length))


def rare_gradients(lr: float, beta2: float, eps: float) -> list[Run]:
    """Rows that are learned, among which wrong labels come now and then: Adam's second moment has forgotten gradients by then."""

    def spoil(step: int, y: Tensor) -> Tensor:
        return torch.cat([(y[:, :8] + 1) % 10, y[:, 8:]], 1) if step > 150 and step % 100 == 99 else y

    nets = Nets([16, 32, 32, 10], torch.relu, 1.4)
    adam = torch.optim.Adam(nets.parameters(), lr=lr, betas=(0.9, beta2), eps=eps)
    return train(nets, adam, rows(512, 0.4), 600, spoil=spoil, meta={"optimizer": "Adam", "betas": [0.9, beta2]})


def near_zero(scale: float) -> list[Run]:
    """Four layers of tanh whose weights begin at a fraction of their usual size: the origin is a saddle."""
    nets = Nets([16, 32, 32, 32, 32, 10], torch.tanh, scale)
    return train(nets, torch.optim.SGD(nets.parameters(), lr=0.03, momentum=0.9), rows(512, 1.0), 400)


def first_updates(warm: float) -> list[Run]:
    """Inputs with a mean, so that the first of Adam's updates push all weights one way; with a warm-up or without."""
    nets = Nets([200, 64, 10], torch.relu, 0.5)
    x, y = rows(2000, 4.0, dim=200)
    rate: Rate = lambda share: min(1.0, (share + 0.025) / warm)  # noqa: E731
    return train(nets, torch.optim.Adam(nets.parameters(), lr=0.01), (x + 6, y), 40, batch=64, rate=rate)


def decays(rate: Rate) -> list[Run]:
    nets = Nets([16, 32, 10], torch.tanh, 0.5)
    return train(nets, torch.optim.SGD(nets.parameters(), lr=0.01), rows(2000, 1.5), 500, rate=rate)


def bounces(rate: Rate) -> list[Run]:
    """A linear model on clouds that overlap, at a rate at which it bounces."""
    nets = Nets([16, 10], torch.tanh, 0.5)
    return train(nets, torch.optim.SGD(nets.parameters(), lr=2.0), rows(2000, 2.5), 1200, batch=64, rate=rate)


def half(grows: bool) -> list[Run]:
    """Gradients that go through float16 under a loss scale, which grows without end or is left alone."""
    nets = Nets([16, 32, 10], torch.tanh, 1.0)

    def through_float16(step: int) -> None:
        scale = 2.0 ** (8 + step // 15) if grows else 1024.0
        for parameter in nets.parameters():
            assert parameter.grad is not None
            parameter.grad = (parameter.grad * scale).half().float() / scale

    sgd = torch.optim.SGD(nets.parameters(), lr=0.1)
    return train(nets, sgd, rows(500, 1.0), 300, after=through_float16, meta={"precision": "fp16"})


def few_rows(count: int) -> list[Run]:
    nets = Nets([16, 64, 10], torch.relu, 1.0)
    x, y = rows(1000 + count, 2.5)
    adam = torch.optim.Adam(nets.parameters(), lr=0.01)
    return train(nets, adam, (x[:, :count], y[:, :count]), 400, val=(x[:, count:], y[:, count:]))


CASES = {
    "late_spikes": (lambda: rare_gradients(0.03, 0.999, 1e-12), lambda: rare_gradients(0.003, 0.999, 1e-3)),
    "saddle": (lambda: near_zero(0.2), lambda: near_zero(1.2)),
    "warmup_too_short": (lambda: first_updates(1e-9), lambda: first_updates(0.3)),
    "decay_too_early": (lambda: decays(stable(0.2, 0.05)), lambda: decays(stable(0.8, 0.2))),
    "decay_too_late": (lambda: bounces(stable(0.95, 0.05)), lambda: bounces(stable(0.7, 0.3))),
    "diverged": (lambda: half(True), lambda: half(False)),
    "overfitting": (lambda: few_rows(100), lambda: few_rows(4000)),
}


@pytest.mark.parametrize("code", CASES)
def test_a_trained_fault_is_found_and_its_cured_twin_is_left_alone(code):
    ill, cured = (make() for make in CASES[code])
    hits = [code in found(run) for run in ill]
    assert sum(hits) >= 4, hits
    assert not any(map(accused, cured)), [accused(run) for run in cured]
    if code not in ("decay_too_early", "overfitting"):  # there the training loss tells less than the rate and the validation
        ends = [float(np.nanmedian(run["loss"][-20:])) for run in cured]
        worse = [float(np.max(run["loss"][len(run) // 4 :])) if code == "late_spikes" else run["loss"][-1] for run in ill]
        assert sum(not b <= a for a, b in zip(ends, worse, strict=True)) >= 3


def test_of_an_overflow_in_float16_the_precision_is_suspected_first():
    assert all("float16" in found(run)["diverged"].counter[0] for run in half(True))
