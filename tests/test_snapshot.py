"""Whatever happens inside `preserved`, afterwards everything is as before, bit for bit, in the same objects."""

import functools
import random
from types import SimpleNamespace

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


def test_whether_gradients_are_recorded_is_as_before():
    """A signal in the middle of a no_grad's end leaves them switched off."""
    with preserved():
        torch.set_grad_enabled(False)
    assert torch.is_grad_enabled()


def test_the_optimizer_inside_of_one_that_wraps_it_is_as_before():
    class Wrapping(torch.optim.Optimizer):  # as SAM does
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})
            self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
            self.param_groups = self.base_optimizer.param_groups

        def step(self, closure=None):
            return self.base_optimizer.step(closure)

    model = nn.Linear(2, 2)
    optimizer = Wrapping(model.parameters())
    update(model, optimizer, torch.ones(1, 2))
    momentum = optimizer.base_optimizer.state[model.weight]["momentum_buffer"]
    before = momentum.clone()
    with preserved(model, optimizer):
        update(model, optimizer, torch.ones(1, 2))
    assert optimizer.base_optimizer.state[model.weight]["momentum_buffer"] is momentum and torch.equal(momentum, before)


class Stateful:
    """A loader that goes on, after a load, where its state was taken; and hands out what it goes on writing in."""

    def __init__(self):
        self.place, self.resumed = [0], None

    def __iter__(self):
        begin, self.resumed = self.resumed or 0, None
        for i in range(begin, 5):
            self.place[0] = i
            yield torch.tensor([float(i)])

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place, self.resumed = list(state["place"]), state["place"][0]


def test_a_loader_with_a_state_neither_resumes_nor_loses_its_place():
    loader = Stateful()
    mine = iter(loader)
    next(mine), next(mine), next(mine)
    place = loader.place
    with preserved(batches=loader):
        list(loader)
    assert loader.place is place and place == [2]
    assert [float(x) for x in mine] == [3.0, 4.0] and len(list(loader)) == 5


SCALER = torch.amp.GradScaler("cpu", init_scale=8.0)


def reading_a_global():
    return SCALER


def calling_another():
    return reading_a_global()


class Trainer:
    def __init__(self, scaler):
        self.parts = {"amp": [SimpleNamespace(scaler=scaler)]}

    def step(self):
        return self.parts["amp"][0].scaler

    __call__ = step


def within(scaler):
    return lambda: scaler


def decorated(scaler):
    @torch.no_grad()
    def step():
        return scaler

    return step


def with_an_inner_function(scaler):
    def step():
        def inner():
            return scaler

        return inner()

    return step


WAYS = {
    "closure": within,
    "default": lambda scaler: lambda one=scaler: one,
    "keyword default": lambda scaler: lambda *, one=scaler: one,
    "partial": lambda scaler: functools.partial(lambda *given, one=None: one or given[0], scaler),
    "partial's keyword": lambda scaler: functools.partial(lambda one: one, one=scaler),
    "method": lambda scaler: Trainer(scaler).step,
    "callable object": Trainer,
    "decorated": decorated,
    "inner function": with_an_inner_function,
    "function in a closure": lambda scaler: within(within(scaler)),
    "global": lambda scaler: reading_a_global,
    "global's global": lambda scaler: calling_another,
}


class TestFunctions:
    @pytest.mark.parametrize("way", WAYS)
    def test_a_scaler_is_found(self, way):
        scaler = SCALER if "global" in way else torch.amp.GradScaler("cpu", init_scale=8.0)
        function = WAYS[way](scaler)
        before = dict(vars(scaler))
        assert before["_scale"] is None  # it makes its tensors when they are first needed
        with preserved(None, None, None, None, function):
            scaler.scale(torch.ones(()))
            scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0, "_growth_tracker": 3})
            assert scaler.get_scale() == 2.0
        assert {key: value for key, value in vars(scaler).items() if key[0] == "_"} == before

    def test_a_scaler_in_mid_run_keeps_its_tensors(self):
        scaler, model = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2), nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            scaler.scale(model(x).mean()).backward()
            scaler.step(optimizer)
            scaler.update()

        step(torch.ones(2))
        scale, first = scaler._scale, scaler._init_scale
        with preserved(model, optimizer, None, step):
            step(torch.ones(2))
            step(torch.full((2,), torch.inf))
            step(torch.full((2,), torch.inf))
            assert scaler.get_scale() == 4.0
        assert scaler._scale is scale and scaler.get_scale() == 8.0 and scaler._init_scale == first == 8.0
        assert scaler._growth_tracker.item() == 1 and set(scaler._per_optimizer_states) == set()

    def test_what_holds_state_is_as_before(self):
        model, teacher = nn.Linear(3, 3), nn.Linear(3, 3)
        optimizer = torch.optim.SGD([scale := nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        generators = torch.Generator(), np.random.default_rng(1), random.Random(2)
        loader = DataLoader(TensorDataset(X), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
        average = {"weight": model.weight.detach().clone(), "ema of the loss": torch.ones(())}

        def step():
            with torch.no_grad():
                teacher.weight.mul_(2)
                average["weight"].lerp_(teacher.weight, 0.5)
                average["ema of the loss"].add_(1)
            scale.sum().backward()
            optimizer.step()
            scheduler.step()
            drawn = [float(torch.rand((), generator=generators[0])), generators[1].random(), generators[2].random()]
            tensors = [teacher.weight, scale, *average.values(), next(iter(loader))[0]]
            return [*(one.detach().clone() for one in tensors), scheduler.get_last_lr(), drawn]

        with preserved(model, None, None, step):
            once, twice = step(), step()
        again = step()
        assert not any(map(equal, once, twice)) and all(map(equal, once, again))

    def test_variables_are_bound_to_what_they_were(self):
        calls, lazy = 0, None

        class Counting:
            def __init__(self):
                self.calls, self.lazy = 0, None

            def step(self):
                nonlocal calls, lazy
                global COUNTED
                calls, lazy, COUNTED = calls + 1, nn.Linear(1, 1), COUNTED + 1
                self.calls, self.lazy, self.late = self.calls + 1, {}, 1

        def counted():
            counted.calls += 1

        counting, counted.calls = Counting(), 0
        with preserved(None, None, None, counting.step, counted):
            counting.step(), counting.step(), counted()
            assert (calls, COUNTED, counting.calls, counted.calls) == (2, 2, 2, 1)
        assert (calls, lazy, COUNTED, counted.calls, vars(counting)) == (0, None, 0, 0, {"calls": 0, "lazy": None})

    def test_variables_that_others_assign_are_not_touched(self):
        spent = 0

        def progress():
            nonlocal spent
            spent += 1

        def loss():
            return spent

        with preserved(None, None, None, loss):
            progress()
        assert spent == 1

    def test_logs_and_data_are_not_rolled_back(self):
        losses, best, data = [], {"loss": 3.0}, torch.zeros(7)

        def step():
            losses.append(1.0)
            best["loss"] = 1.0
            data[0] = 1.0

        with preserved(nn.Linear(2, 2), None, None, step):
            step()
        assert losses == [1.0] and best == {"loss": 1.0} and data[0] == 1.0

    def test_what_refers_to_itself_or_is_empty_is_no_trouble(self):
        ring = [0.0]
        ring.append(ring)
        later = lambda: (ring, unborn)  # noqa: E731
        with preserved(None, None, None, later, print, functools.lru_cache(later), Trainer):
            pass
        unborn = 1
        assert later()[1] == 1

    def test_what_cannot_be_captured_leaves_everything_as_it_was(self):
        loader = DataLoader(TensorDataset(X), 4)
        loader._iterator = mine = iter([])  # as persistent workers have it
        lazy = nn.LazyLinear(3)
        with pytest.raises(InputError, match="lazy parameter"), preserved(None, None, loader, lambda: (loader, lazy)):
            pass
        assert loader._iterator is mine


COUNTED = 0


def equal(a, b) -> bool:
    return torch.equal(a, b) if torch.is_tensor(a) else a == b
