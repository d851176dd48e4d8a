"""What gauges say of trained nets: a spike that is foreseen, gradients that vanish, a clip that acts as the rate; and twins."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrkit import Run, diagnose, watch
from lrkit.doctor.clipping import clipping
from lrkit.doctor.curve import curve_of
from lrkit.doctor.spike_due import foresee, spike_due
from lrkit.doctor.vanishing import vanishing


def net(*widths: int, act: type[nn.Module] = nn.Tanh, gain: float | None = None) -> nn.Sequential:
    """A perceptron, its weights normal with this gain, or as torch makes them."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), act()]
        if gain is not None:
            nn.init.normal_(layers[-2].weight, std=gain / math.sqrt(i))
            nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


def waves(rows: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 6)
    return x, torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]


def clouds(rows: int) -> tuple[Tensor, Tensor]:
    y = torch.randint(0, 4, (rows,))
    return 2 * torch.randn(4, 8)[y] + torch.randn(rows, 8), y


def train(
    make: Callable[[], nn.Module], data, optimizer, steps: int, *, batch: int = 0, every: int = 5, seed: int = 0,
    edge: bool = False, clip: float | None = None, tell: bool = True,
) -> Run:  # fmt: skip
    """A watched run; `clip` limits the gradient norm, `tell` records what it was before."""
    torch.manual_seed(seed)
    (x, y), model = data, make()
    measure = functional.mse_loss if y.is_floating_point() else functional.cross_entropy
    adam = optimizer(model.parameters())
    again = (lambda m, b: measure(m(b[0]), b[1])) if edge else None
    with watch(model, adam, loss=again, every=every) as w:
        for _ in range(steps):
            rows = torch.randint(0, len(x), (batch,)) if batch else slice(None)
            loss = measure(model(x[rows]), y[rows])
            adam.zero_grad()
            loss.backward()
            said = {}
            if clip is not None:
                norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
                said = {"grad_norm": norm} if tell else {}
            w.record(loss=loss, batch=(x[rows], y[rows]), **said)
            adam.step()
        return w.run


def fading(lr: float, seed: int, steps: int) -> Run:
    """Adam on all the data: σ decays until the edge is crossed."""
    torch.manual_seed(100 + seed)
    data = waves(64)
    adam = lambda params: torch.optim.Adam(params, lr, betas=(0.9, 0.999), eps=1e-12)  # noqa: E731
    return train(lambda: net(6, 24, 24, 1), data, adam, steps, seed=seed, edge=True)


def test_a_spike_that_adams_old_sigma_makes_is_foreseen_and_its_cured_twin_is_calm():
    ill, cured = fading(0.03, 1, 350), fading(0.001, 1, 200)
    loss = ill["loss"]
    lowest = np.minimum.accumulate(loss)
    spike = int(np.flatnonzero((loss > 30 * lowest) & (loss > 1e-3))[0])
    ahead = [spike - row for row in range(max(60, spike - 200), spike - 4) if foresee(ill, row + 1) >= 0.6]
    assert ahead and max(ahead) >= 5
    assert not any(foresee(cured, stop) for stop in range(60, len(cured) + 1, 5))
    finding = spike_due(curve_of(ill.slice(stop=spike - max(ahead) + 1)))
    assert finding is not None and "0.03 to 0.015" in finding.advice


def deep(act: type[nn.Module], gain: float | None, adam: bool = False) -> Run:
    torch.manual_seed(1)
    data = clouds(256)
    if adam:
        return train(lambda: net(8, *[16] * 8, 4, act=act, gain=gain), data, lambda p: torch.optim.Adam(p, 1e-3), 150, batch=32)
    return train(lambda: net(8, *[16] * 8, 4, act=act, gain=gain), data, lambda p: torch.optim.SGD(p, 0.05), 150, batch=32)


def test_gradients_that_vanish_are_found_and_healthy_twins_are_not():
    finding = vanishing(curve_of(deep(nn.Sigmoid, 1.0)))
    assert finding is not None and finding.sure == "likely" and finding.factor == 1.0
    assert vanishing(curve_of(deep(nn.Tanh, 1.0))) is None
    assert vanishing(curve_of(deep(nn.ReLU, math.sqrt(2)))) is None


def test_adam_moves_small_gradients_as_fast_as_large_ones():
    assert vanishing(curve_of(deep(nn.Sigmoid, 1.0, adam=True))) is None


@pytest.mark.parametrize("tell", [True, False])
def test_a_clip_that_acts_as_the_rate_is_found_with_the_rate_that_it_makes(tell):
    torch.manual_seed(2)
    data = clouds(256)
    sgd = lambda params: torch.optim.SGD(params, 0.5)  # noqa: E731
    hard = train(lambda: net(8, 24, 4), data, sgd, 200, batch=32, clip=0.02, tell=tell)
    finding = clipping(curve_of(hard))
    assert finding is not None and finding.sure != "possible"
    assert (finding.factor < 0.5) == tell
    assert "clipping" in {one.code for one in diagnose(hard).findings}
    assert clipping(curve_of(train(lambda: net(8, 24, 4), data, sgd, 200, batch=32, clip=5.0, tell=tell))) is None
