"""Plateaus that were trained, not drawn: a valley that a lower rate frees, a saddle that a kick frees, a floor that none does."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lrkit import diagnose, watch

PLATEAUS = ("oscillation", "saddle", "floor")
STEPS = 800


class Training:
    """A model, rows with noisy targets, and an optimizer; watched."""

    def __init__(self, model: nn.Module, lr: float, batch: int, momentum: float = 0.0, noise: float = 0.5, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(256, 10, generator=generator) * torch.logspace(0, -1, 10)
        clean = torch.tanh(self.x @ torch.randn(10, 3, generator=generator)) @ torch.randn(3, 1, generator=generator)
        self.y = clean + noise * torch.randn(256, 1, generator=generator)
        self.model, self.batch, self.generator = model, batch, generator
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    def update(self, note: Callable[..., None] = lambda **_: None) -> None:
        rows = torch.randint(0, 256, (self.batch,), generator=self.generator) if self.batch else slice(None)
        loss = self.loss(self.model, (self.x[rows], self.y[rows]))
        self.optimizer.zero_grad()
        loss.backward()
        note(loss=loss, batch=(self.x[rows], self.y[rows]))
        self.optimizer.step()

    def run(self):
        with watch(self.model, self.optimizer, loss=self.loss, every=20) as w:
            for _ in range(STEPS):
                self.update(w.record)
        return w.run

    def branch(self, factor: float = 1.0, kick: float = 0.0, steps: int = 400) -> float:
        """Where a branch from the present state ends."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        lr, momentum = (self.optimizer.param_groups[0][name] for name in ("lr", "momentum"))
        other.optimizer = torch.optim.SGD(other.model.parameters(), lr=factor * lr, momentum=momentum)
        torch.manual_seed(1)
        with torch.no_grad():
            for p in other.model.parameters():
                p.add_(kick * torch.randn_like(p))
        for _ in range(steps):
            other.update()
        with torch.no_grad():
            return float(self.loss(other.model, (self.x, self.y)))


def net(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 12, bias=False), nn.Tanh(), nn.Linear(12, 12, bias=False), nn.Tanh(), nn.Linear(12, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(10, 1)


def said(run) -> str:
    """The surest finding about a plateau, if it is likely."""
    found = [one for one in diagnose(run).findings if one.code in PLATEAUS and one.sure != "possible"]
    return found[0].code if found else ""


CASES = {
    "a line that noise throws about": ("oscillation", lambda: Training(line(), 0.55, 8)),
    "the same with momentum": ("oscillation", lambda: Training(line(), 0.12, 8, 0.9)),
    "weights near zero": ("saddle", lambda: Training(net(0.02), 0.1, 16)),
    "weights near zero, all the data": ("saddle", lambda: Training(net(0.02), 0.1, 0)),
    "a line at a low rate": ("floor", lambda: Training(line(), 0.05, 64)),
    "a line, all the data": ("floor", lambda: Training(line(), 0.4, 0)),
    "a net that still falls": ("", lambda: Training(net(), 0.003, 0, noise=0.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_trained_plateau_is_called_what_its_branches_prove(name):
    code, make = CASES[name]
    training = make()
    run = training.run()
    with torch.no_grad():
        level = float(training.loss(training.model, (training.x, training.y)))
    same, lower, kicked = training.branch(), training.branch(0.1), training.branch(2.0, kick=0.5)
    if code == "oscillation":
        assert lower < 0.85 * same
    elif code == "saddle":
        assert lower > 0.97 * level and kicked < 0.9 * level
    elif code == "floor":
        assert min(lower, kicked) > 0.9 * level
    else:
        assert same < 0.95 * level
    assert said(run) == code
