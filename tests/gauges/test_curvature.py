"""Curvature: against the full Hessian by torch.autograd, and against what really diverges."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from lrkit import optim, watch
from lrkit.errors import StateError
from lrkit.gauges.curvature import stable

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def build(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)


def loss(model, batch):
    return (model(batch) - batch.sum(1, keepdim=True).sin()).square().mean()


def full(model, batch):
    """(n, n) the Hessian of all weights, by torch."""
    twin = copy.deepcopy(model).double()
    names, shapes = zip(*((name, p.shape) for name, p in twin.named_parameters()), strict=True)

    def of(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return (functional_call(twin, weights, batch.double()) - batch.double().sum(1, keepdim=True).sin()).square().mean()

    return hessian(of, torch.cat([p.detach().flatten() for p in twin.parameters()]))


def go(model, optimizer, updates, **options):
    with watch(model, optimizer, loss=loss, **options) as w:
        for _ in range(updates):
            optimizer.zero_grad()
            batch = X.to(next(model.parameters()).dtype)
            loss(model, batch).backward()
            w.record(batch=batch)
            optimizer.step()
    return w


KINDS = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.05), 2 / 0.05),
    "momentum": (lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9), 3.8 / 0.02),
    "dampened": (lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, dampening=0.5), 7.6 / 0.02),
    "nesterov": (lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True), 3.8 / 2.8 / 0.02),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=0.003), 38 / 0.003),
    "ours": (lambda p: optim.AdamW(p, lr=0.003), 38 / 0.003),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.003), 2 / 0.003),
    "unknown": (lambda p: torch.optim.Rprop(p, lr=0.001), None),
    "nadam": (lambda p: torch.optim.NAdam(p, lr=0.003), None),
    "lion": (lambda p: optim.Lion(p, lr=0.001), None),
    "parts": (lambda p: optim.Optimizer(p, lr=0.05, direction=optim.direction.Nesterov(0.9)), None),
}


def metric(name, model, optimizer):
    """σ of each weight, of the optimizer's state."""
    key = {"adamw": "exp_avg_sq", "ours": "exp_avg_sq", "rmsprop": "square_avg"}.get(name)
    if key is None:
        return None
    t = 20 if key == "exp_avg_sq" else math.inf
    v = torch.cat([optimizer.state[p][key].double().flatten() for p in model.parameters()])
    return (v / (1 - 0.999**t)).sqrt() + 1e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", KINDS)
def test_on_demand_it_equals_the_hessians_extremes(name, dtype):
    make, limit = KINDS[name]
    model = build(dtype)
    optimizer = make(model.parameters())
    w = go(model, optimizer, 20, budget=0)
    weights = [p.detach().clone() for p in model.parameters()]
    found = w.curvature(steps=40)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    plain = full(model, X)
    sigma = metric(name, model, optimizer)
    scaled = plain if sigma is None else plain / sigma.sqrt() / sigma.sqrt()[:, None]
    within = 1e-3 if dtype == torch.float64 else 3e-2
    if name != "nadam":
        assert found.largest == pytest.approx(float(torch.linalg.eigvalsh(scaled)[-1]), rel=within)
    assert found.smallest == pytest.approx(float(torch.linalg.eigvalsh(plain)[0]), rel=10 * within, abs=0.003)
    assert found.limit == (None if limit is None else pytest.approx(limit))
    assert found.doubt < 0.01 and (found.edge is None) == (limit is None)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_by_the_way_it_comes_near_after_some_visits(name):
    make, limit = KINDS[name]
    model = build(torch.float32)
    optimizer = make(model.parameters())
    w = go(model, optimizer, 20, every=3)
    at = int(w.run.observed("edge")[0][-1])
    assert at == 18
    again = build(torch.float32)
    optimizer = make(again.parameters())
    go(again, optimizer, at + 1, budget=0)
    plain = full(again, X)
    if name == "adamw":
        v = torch.cat([optimizer.state[p]["exp_avg_sq"].double().flatten() for p in again.parameters()])
        root = ((v / (1 - 0.999 ** (at + 1))).sqrt() + 1e-8).sqrt()
        plain = plain / root / root[:, None]
    largest = float(torch.linalg.eigvalsh(plain)[-1])
    assert w.run["curvature_max"][at] == pytest.approx(largest, rel=0.1)
    assert w.run["edge"][at] == pytest.approx(largest / limit, rel=0.1)


def test_two_rates_are_one_metric():
    model = build()
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters()}], lr=0.08)
    w = go(model, optimizer, 3, budget=0)
    rate = torch.cat([torch.full((p.numel(),), 0.02 if i < 2 else 0.08) for i, p in enumerate(model.parameters())]).double()
    scaled = full(model, X) * rate.sqrt() * rate.sqrt()[:, None]
    assert w.curvature(steps=40).edge == pytest.approx(float(torch.linalg.eigvalsh(scaled)[-1]) / 2, rel=1e-3)


@pytest.mark.parametrize(
    "group",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.3}, {"betas": (0.8, 0.9)}],
)
def test_the_limit_is_where_a_quadratic_diverges(group):
    """One weight, curvature 1: the rate just below the limit shrinks it, the one just above does not."""
    for share, grows in ((0.98, False), (1.02, True)):
        weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        if "betas" in group:  # σ is held at 1
            optimizer = optim.Optimizer([weight], lr=share * stable(group), direction=optim.direction.MovingAverage(0.8))
        else:
            optimizer = torch.optim.SGD([weight], lr=share * stable(group), **group)
        for _ in range(2000):
            weight.grad = weight.detach().clone()
            optimizer.step()
        assert (weight.abs() > 1).item() == grows


def test_before_the_first_update_there_is_no_metric_yet():
    model = build()
    for optimizer in (torch.optim.AdamW(model.parameters()), torch.optim.Adagrad(model.parameters())):
        found = watch(model, optimizer, loss=loss).curvature(X, steps=40)
        assert found.limit is None
        assert found.largest == pytest.approx(float(torch.linalg.eigvalsh(full(model, X))[-1]), rel=1e-3)


def test_what_does_not_train_does_not_count():
    model = build()
    model[0].weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([*model.parameters(), unused], lr=0.003)
    w = go(model, optimizer, 20, budget=0)
    v = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in list(model.parameters())[1:]])
    root = ((v / (1 - 0.999**20)).sqrt() + 1e-8).sqrt()
    scaled = full(model, X)[12:, 12:] / root / root[:, None]
    assert w.curvature(steps=40).largest == pytest.approx(float(torch.linalg.eigvalsh(scaled)[-1]), rel=1e-3)


def test_of_several_batches_it_is_the_means():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer, loss=loss, budget=0) as w:
        for batch in (X[:8], X[8:]):
            loss(model, batch).backward()
            w.record(batch=batch)
        optimizer.step()
        found = w.curvature(steps=40)
    assert found.largest == pytest.approx(float(torch.linalg.eigvalsh(full(model, X))[-1]), rel=1e-3)


def test_it_is_refused_without_a_loss_or_a_batch():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(StateError, match="no loss= was given"):
        watch(model, optimizer).curvature(X)
    with pytest.raises(StateError, match="no batch= was recorded"):
        watch(model, optimizer, loss=loss).curvature()
