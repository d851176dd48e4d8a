"""A training is the same to the bit with all gauges at every update, whatever the loop and whatever the loss function does."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from lrkit import attach, clip, controllers, optim, watch
from lrkit.gauges.watch import Watch

X = torch.randn(12, 8, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """All that a forward pass may change: random states, buffers in place and anew, a counter, a generator of its own."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.drop, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2)
        self.table = nn.Embedding(5, 8)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.zeros(8))
        self.calls, self.generator = 0, torch.Generator().manual_seed(3)

    def forward(self, x):
        self.calls += 1
        x = self.body(x) + 0.01 * torch.randn(8, generator=self.generator)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        x = self.drop(self.norm(x)) + self.table.weight[self.calls % 5]
        return self.frozen(self.head(x)) + np.random.rand() * random.random()


def loss(model, batch):
    return model(batch).square().mean()


def adamw(p):
    return torch.optim.AdamW(p, lr=0.01)


def everything(model, optimizer):
    """All tensors and states that matter, to be compared by the bit."""
    inner = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
    states = [one for entry in inner for one in entry.values() if isinstance(one, torch.Tensor)]
    grads = [torch.zeros(0) if p.grad is None else p.grad for p in model.parameters()]
    own = [module.generator.get_state() for module in model.modules() if hasattr(module, "generator")]
    return [*model.parameters(), *model.buffers(), *grads, *states, *own, torch.get_rng_state()], (
        random.getstate(), np.random.get_state()[1].tolist(), [getattr(m, "calls", None) for m in model.modules()],
        [m.training for m in model.modules()],
    )  # fmt: skip


def plain(model, optimizer, w):
    for x in X:
        optimizer.zero_grad()
        value = loss(model, x)
        value.backward()
        w.record(loss=value, batch=x)
        optimizer.step()


def accumulated(model, optimizer, w):
    for k in range(4):
        optimizer.zero_grad()
        for x in X[3 * k : 3 * k + 3]:
            (loss(model, x) / 3).backward()
            w.record(batch=x)
        optimizer.step()


def scaled(model, optimizer, w):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=2)  # its first updates overflow, and are skipped
    for x in X:
        optimizer.zero_grad()
        scaler.scale(loss(model, x)).backward()
        w.record(batch=x)
        scaler.step(optimizer)
        scaler.update()


def autocast(model, optimizer, w):
    for x in X:
        with torch.autocast("cpu", torch.bfloat16):
            optimizer.zero_grad()
            loss(model, x).backward()
            w.record(batch=x)
            optimizer.step()


def closure(model, optimizer, w):
    for x in X[:5]:

        def evaluate(x=x):
            optimizer.zero_grad()
            value = loss(model, x)
            value.backward()
            return value

        w.record(batch=x)
        optimizer.step(evaluate)


def guarded(model, optimizer, w):
    """It goes back twice: once the update is left out, once it is made all the same, and void."""
    guard = controllers.DivergenceGuard(model, every=2)
    attachment = attach(optimizer, lr="warmup 2 > cosine 30", controllers=guard)
    for i, x in enumerate([*X, *X]):
        optimizer.zero_grad()
        value = loss(model, x)
        value.backward()
        w.record(batch=x, loss=value)
        back = attachment.report(loss=float("nan") if i in (8, 15) else value.item())
        if not back or i == 15:
            optimizer.step()
    assert attachment.step == (w.run.step[-1] + 1 if isinstance(w, Watch) else attachment.step)


CASES = {
    "adamw": (plain, adamw), "sgd": (plain, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    "fused": (plain, lambda p: torch.optim.Adam(p, lr=0.01, fused=True)),
    "accumulated": (accumulated, adamw), "accumulated sgd": (accumulated, lambda p: torch.optim.SGD(p, lr=0.05)),
    "scaled": (scaled, lambda p: torch.optim.AdamW(p, lr=0.01, fused=True)), "scaled, not fused": (scaled, adamw),
    "autocast": (autocast, adamw), "closure": (closure, adamw), "lbfgs": (closure, lambda p: torch.optim.LBFGS(p, max_iter=4)),
    "ours": (plain, lambda p: optim.AdamW(p, lr=0.01, clip=clip.norm(0.1))),
    "ours adaptive": (plain, lambda p: optim.SGD(p, lr=0.05, momentum=0.9, clip=clip.adaptive(0.01))),
    "ours by value": (plain, lambda p: optim.Adam(p, lr=0.01, clip=clip.value(0.01))),
    "guarded": (guarded, adamw),
}  # fmt: skip


class Nobody:
    """Stands for a watch where none is."""

    def record(self, **values):
        pass


def trained(loop, make, watched, evaluate=loss, build=Net, **options):
    """(all there is afterwards, the watch): with one seed."""
    torch.manual_seed(0)
    model = build()
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    if not watched:
        loop(model, optimizer, Nobody())
        return everything(model, optimizer), None
    with watch(model, optimizer, loss=evaluate, **({"every": 1} | options)) as w:
        loop(model, optimizer, w)
    return everything(model, optimizer), w


def check_same(one, other):
    assert len(one[0]) == len(other[0]) and one[1] == other[1]
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))


@pytest.mark.parametrize("case", CASES)
def test_with_all_gauges_at_every_update(case):
    loop, make = CASES[case]
    without, _ = trained(loop, make, False)
    same, w = trained(loop, make, True)
    check_same(without, same)
    read = {gauge for gauge, told in w.run.meta["gauges"].items() if isinstance(told, dict)}
    assert {"gradient_norm", "update_ratio", "gradient_cosine", "gain", "edge"} <= read
    assert ("parts" in read) == ("accumulated" in case)


def test_within_the_budget_and_with_curvature_in_between():
    def asking(model, optimizer, w):
        for x in X:
            optimizer.zero_grad()
            loss(model, x).backward()
            w.record(batch=x)
            optimizer.step()
            if isinstance(w, Nobody):
                continue
            w.curvature(steps=3)
            w.run  # noqa: B018

    without, _ = trained(asking, adamw, False)
    check_same(without, trained(asking, adamw, True, every=None, budget=1.0)[0])


def raises(model, batch):
    if model.training:
        model.eval()
        loss(model, batch)
        raise ZeroDivisionError("of the loss\nand more")


def shape(model, batch):
    return model(batch).square()


def number(model, batch):
    return loss(model, batch).item()


def writes_into_its_batch(model, batch):
    return loss(model, batch.mul_(0.5))


def moves_weights(model, batch):
    with torch.no_grad():
        model.head.weight.clamp_(-0.1, 0.1)
    return loss(model, batch)


def moves_weights_by_data(model, batch):
    model.head.weight.data.clamp_(-0.1, 0.1)
    raise ValueError("and fails")


def calls_backward(model, batch):
    value = loss(model, batch)
    value.backward()
    return value


def depends_on_nothing(model, batch):
    return loss(model, batch).detach()


def forgets(model, batch):
    torch.set_grad_enabled(False)
    return loss(model, batch)


FAILING = {
    raises: "ZeroDivisionError: of the loss", shape: "does not return a tensor of one number",
    number: "does not return a tensor of one number", writes_into_its_batch: "changes its batch",
    moves_weights: "changes the weights", moves_weights_by_data: "ValueError: and fails", calls_backward: "calls backward",
    depends_on_nothing: "depends on no trained weight", forgets: "depends on no trained weight",
}  # fmt: skip


@pytest.mark.parametrize("evaluate", FAILING, ids=lambda function: function.__name__)
def test_a_loss_that_fails_is_left_out_with_a_reason(evaluate):
    batches = X.clone()
    without, _ = trained(plain, adamw, False)
    same, w = trained(plain, adamw, True, evaluate)
    check_same(without, same)
    assert torch.equal(X, batches)
    assert FAILING[evaluate] in w.run.meta["gauges"]["gain"] and FAILING[evaluate] in w.run.meta["gauges"]["edge"]
    assert "gain" not in w.run and len(w.run) == 12 and w.run.observed("grad_norm")[0].size == 12


def stepped(model, optimizer):
    """Weights as the update makes them, by a copy."""
    twin, theirs = copy.deepcopy((model, optimizer))
    for p, other in zip(twin.parameters(), model.parameters(), strict=True):
        p.grad = None if other.grad is None else other.grad.clone()
    theirs.step()
    return list(twin.parameters())


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("at", [1, 3, 4, 5, 9, 14, 25])
def test_an_interrupt_within_a_gauge_leaves_all_as_it_was(at, moving):
    """Ctrl-C in a gauge's loss: all is as just before or just after the update; and one may go on."""
    calls = []

    def evaluate(model, batch):
        calls.append(1)
        if len(calls) == at:
            torch.rand(3)
            model.head.weight.data.mul_(0.5 if moving else 1.0)
            raise KeyboardInterrupt
        return loss(model, batch)

    torch.manual_seed(0)
    model = Net()
    optimizer, interrupts = adamw([p for p in model.parameters() if p.requires_grad]), 0
    with watch(model, optimizer, loss=evaluate, every=1) as w:
        for x in X:
            optimizer.zero_grad()
            loss(model, x).backward()
            w.record(batch=x)
            before, after = copy.deepcopy(everything(model, optimizer)), stepped(model, optimizer)
            try:
                optimizer.step()
            except KeyboardInterrupt:
                interrupts += 1
                now = everything(model, optimizer)
                weights = before[0] if torch.equal(now[0][1], before[0][1]) else after
                assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=False))
                buffers = len(list(model.parameters())) + len(list(model.buffers()))
                assert all(
                    torch.equal(a, b) for a, b in zip(list(model.buffers()), before[0][buffers - 4 : buffers], strict=True)
                )
                assert now[1] == before[1] and torch.equal(now[0][-1], before[0][-1]) and torch.equal(now[0][-2], before[0][-2])
    assert interrupts == 1 and len(w.run) == optimizer.state[model.body.weight]["step"]
    assert w.run.observed("gain")[0].size >= 10 and w.run.observed("grad_cosine")[0].size >= 8
