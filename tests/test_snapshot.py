"""Whatever happens inside `preserved`, afterwards everything is as before, bit for bit, in the same objects."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lrkit.errors import InputError
from lrkit.snapshot import preserved


class Net(nn.Module):
    """Everything that a net can hide: batch norm, dropout, a tied weight, a replaced buffer, a counter, a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.calls, self.last, self.history = 0, torch.zeros(4), []

    def forward(self, x):
        self.seen = self.seen + 1  # replaced, not changed in place
        self.calls += 1
        self.history.append(float(x.mean()))
        out = self.b(self.drop(self.norm(self.a(x))))
        self.last = out.detach()[0]
        return out


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "tensor_lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1)),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


def fingerprint(model, optimizer):
    """Every number and flag, and the identity of every object that others may hold."""
    tensors = [t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    state = [v for entry in optimizer.state.values() for v in flat(entry)]
    groups = [v for group in optimizer.param_groups for v in flat(group)]
    grads = [p.grad for p in model.parameters()]
    values = [
        *tensors,
        *state,
        *groups,
        *grads,
        model.last,
        model.calls,
        list(model.history),
        [m.training for m in model.modules()],
    ]
    kept = (
        [id(p) for p in model.parameters()]
        + [id(g) for g in optimizer.param_groups]
        + [id(v) for v in state if torch.is_tensor(v)]
    )
    return [v.detach().clone() if torch.is_tensor(v) else v for v in values], kept, sorted(map(str, optimizer.state))


def flat(value):
    if isinstance(value, dict):
        return [x for v in value.values() for x in flat(v)]
    return [x for v in value for x in flat(v)] if isinstance(value, list) else [value]


def same(a, b) -> bool:
    return all(torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in zip(a[0], b[0], strict=True)) and a[1:] == b[1:]


def update(model, optimizer, x) -> None:
    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("started", [False, True], ids=["fresh", "in mid-run"])
@pytest.mark.parametrize("name", OPTIMIZERS)
class TestModelAndOptimizer:
    def ready(self, name, started):
        torch.manual_seed(0)
        model = Net()
        model.norm.eval()  # a part that is frozen by its mode
        optimizer = OPTIMIZERS[name](model.parameters())
        if started:
            for _ in range(3):
                update(model, optimizer, torch.randn(8, 4))
        return model, optimizer

    @pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
    def test_are_as_before(self, name, started, error):
        """After success, an exception and Ctrl-C."""
        model, optimizer = self.ready(name, started)
        before = fingerprint(model, optimizer)
        try:
            with preserved(model, optimizer):
                model.train()
                for _ in range(3):
                    update(model, optimizer, torch.randn(8, 4))
                optimizer.param_groups[0]["lr"] = 5.0
                optimizer.param_groups[0]["new"] = 1
                if error is not None:
                    raise error("in the middle")
        except (RuntimeError, KeyboardInterrupt):
            pass
        assert same(fingerprint(model, optimizer), before)

    def test_train_on_as_if_nothing_had_happened(self, name, started):
        model, optimizer = self.ready(name, started)
        other, twin = self.ready(name, started)
        torch.manual_seed(3)
        with preserved(model, optimizer):
            update(model, optimizer, torch.randn(8, 4))
        for m, o in ((model, optimizer), (other, twin)):
            torch.manual_seed(3)
            for _ in range(3):
                update(m, o, torch.randn(8, 4))
        assert torch.equal(model.a.weight, other.a.weight) and torch.equal(model.norm.running_mean, other.norm.running_mean)


def test_random_states_are_as_before():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with preserved():
        expected = random.random(), np.random.rand(), float(torch.rand(()))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected


class OwnRandom:
    """A loader that people write: its own generator, an epoch counter, an order shuffled in place."""

    def __init__(self) -> None:
        self.rng, self.epoch, self.order, self.list = np.random.default_rng(0), 0, np.arange(10), list(range(10))

    def __iter__(self):
        self.epoch += 1
        self.rng.shuffle(self.order)
        random.Random(self.epoch).shuffle(self.list)
        yield from (torch.tensor([float(i), float(j), float(self.epoch)]) for i, j in zip(self.order, self.list, strict=True))


X = torch.arange(40.0).reshape(20, 2)
LOADERS = {
    "shuffled": lambda: DataLoader(TensorDataset(X), batch_size=4, shuffle=True),
    "own generator": lambda: DataLoader(TensorDataset(X), 4, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "weighted": lambda: DataLoader(
        TensorDataset(X), 4, sampler=WeightedRandomSampler([1.0] * 20, 20, generator=torch.Generator().manual_seed(2))
    ),
    "own random": OwnRandom,
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_loaders_next_batches_are_as_before(name):
    loader, twin = LOADERS[name](), LOADERS[name]()
    torch.manual_seed(7)
    expected = list(twin)
    torch.manual_seed(7)
    with preserved(batches=loader):
        for _ in range(2):
            list(loader)
    assert all(torch.equal(torch.as_tensor(a[0]), torch.as_tensor(b[0])) for a, b in zip(list(loader), expected, strict=True))


def test_a_lazy_parameter_is_refused():
    with (
        pytest.raises(InputError, match=r"a lazy parameter has no values yet. Run one batch"),
        preserved(nn.LazyLinear(3)),
    ):
        pass
