"""Whatever a search runs on and however it ends, afterwards every bit is as before, and so is the training that goes on."""

import copy
import math
import os
import random
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from operator import is_

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

import lrkit
from lrkit import find, range_test

STEPS, LATE = 100, 25  # updates of the real run; calls of the loss until a search is disturbed
GENERATOR = torch.Generator().manual_seed(0)
IMAGES, TOKENS = torch.randn(64, 2, 6, 6, generator=GENERATOR), torch.randint(0, 11, (64, 5), generator=GENERATOR)
LABELS = torch.randint(0, 3, (64,), generator=GENERATOR)


# -- what is trained ---------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 5, num_layers=2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(self.table(x))[0][:, -1])


class Tied(nn.Module):
    """An embedding that is its own head, and a class for each token; what it saw last, and how often it was asked."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight
        self.asked, self.last = 0, None

    def forward(self, x):
        self.asked += 1
        self.last = torch.tanh(self.mix(self.table(x).mean(1)))
        return self.head(self.last)


def convolutions():
    normed = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(64, 3))
    normed[1].momentum = None  # a mean over all batches, for which batches are counted
    return normed


def parametrized():
    spectral = parametrizations.spectral_norm(nn.Linear(72, 8))  # moves a buffer at every forward pass
    return nn.Sequential(nn.Flatten(), spectral, nn.Tanh(), parametrizations.weight_norm(nn.Linear(8, 3)))


NETS = {"conv": convolutions, "lstm": Recurrent, "tied": Tied, "parametrized": parametrized}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "adamw, tensor lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.002)),
    "lrkit's adamw": lambda p: lrkit.optim.AdamW(p, lr=0.002, clip=lrkit.clip.norm(1.0)),
}


# -- what it is trained on ---------------------------------------------------------------------------------------------------


class StatefulSampler(torch.utils.data.Sampler):
    """Hands out its own containers as its state, and what it draws from where nobody looks."""

    __slots__ = ("_rng", "own")

    def __init__(self, count):
        self._rng, self.own = random.Random(3), {"order": list(range(count)), "epoch": 0}

    def __iter__(self):
        self.own["epoch"] += 1
        self._rng.shuffle(self.own["order"])
        yield from self.own["order"]

    def __len__(self):
        return len(self.own["order"])

    def state_dict(self):
        return {"own": self.own, "rng": self._rng.getstate()}

    def load_state_dict(self, state):
        self.own.update(state["own"])
        self._rng.setstate(state["rng"])


class Jittered(torch.utils.data.Dataset):
    """Adds noise from a generator of its own."""

    def __init__(self, data):
        self.data, self.rng = data, np.random.default_rng(4)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        x, y = self.data[i]
        return x + 0.1 * float(self.rng.normal()) if x.is_floating_point() else x, y


def seeded(data):
    return RandomSampler(data, generator=torch.Generator().manual_seed(5))


LOADERS = {
    "shuffled": lambda data: DataLoader(data, 8, shuffle=True),
    "subset, sampler with a generator": lambda data: DataLoader(half := Subset(data, range(0, 64, 2)), 8, sampler=seeded(half)),
    "sampler with a state": lambda data: DataLoader(data, 8, sampler=StatefulSampler(len(data))),
    "noisy data": lambda data: DataLoader(Jittered(data), 8, shuffle=True, generator=torch.Generator().manual_seed(6)),
}


# -- how it is trained -------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """A training in mid-run: a scaler, two averages of the weights, accumulation, an attached schedule, a validation."""

    net: str
    kind: str
    loaded: str
    calls: int = 0
    log: list[float] = field(default_factory=list)

    def __post_init__(self):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        self.model = NETS[self.net]()
        self.optimizer = OPTIMIZERS[self.kind](self.model.parameters())
        inputs = IMAGES if self.net in ("conv", "parametrized") else TOKENS
        self.batches = LOADERS[self.loaded](TensorDataset(inputs, LABELS))
        self.held_out = DataLoader(TensorDataset(inputs[:16], LABELS[:16]), 8, sampler=seeded(inputs[:16]))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=7)
        self.ema = torch.optim.swa_utils.AveragedModel(self.model)
        self.attachment = lrkit.attach(self.optimizer, lr="warmup 5 > cosine 95")
        self.step, self.averages = self.make_step()
        self.train(3)

    def during(self):
        """What happens at each call of the loss."""

    def loss(self, model, batch):
        self.during()
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def make_step(self):
        """A step as people write it, with everything in a closure."""
        scaler, ema, micro, best = self.scaler, self.ema, 0, math.inf
        averages = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

        def step(model, batch, optimizer):
            nonlocal micro, best
            value = self.loss(model, batch)
            scaler.scale(value).backward()
            micro += 1
            if micro % 2 == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                ema.update_parameters(model)
                with torch.no_grad():
                    for name, present in model.state_dict().items():
                        averages[name].mul_(0.9).add_(present, alpha=0.1) if present.is_floating_point() else None
            best = min(best, float(value.detach()))
            self.log.append(best)
            return value

        return step, averages

    def validate(self, model):
        self.calls += 1
        return sum(float(self.loss(model, batch)) for batch in self.held_out)

    def train(self, micro_steps):
        """Some steps as in a loop of one's own; the last gradients stay."""
        self.model.train()
        return [
            float(self.step(self.model, batch, self.optimizer).detach())
            for batch, _ in zip(self.batches, range(micro_steps), strict=False)
        ]

    def everything(self):
        """Every value, copied; and every object that others may hold, itself."""
        optimizer, modules = self.optimizer, [*self.model.modules(), *self.ema.modules()]
        tensors = [t for m in modules for t in (*m.parameters(False), *m.buffers(False))]
        state = [v for entry in optimizer.state.values() for v in entry.values()]
        scaler = {key: value for key, value in vars(self.scaler).items() if key != "_per_optimizer_states"}
        values = {
            "tensors": tensors,
            "grads": [t.grad for t in tensors],
            "wants": [t.requires_grad for t in tensors],
            "state": [dict(entry) for entry in optimizer.state.values()],
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
            "modes": [m.training for m in modules],
            "hooks": [len(getattr(m, name)) for m in modules for name in ("_forward_hooks", "_forward_pre_hooks")],
            "optimizer's hooks": [len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)],
            "clipped": vars(optimizer.tally) if hasattr(optimizer, "tally") else None,
            "random": (random.getstate(), torch.get_rng_state(), np.random.get_state()[1], torch.is_grad_enabled()),
            "loaders": [self.state_of(loader) for loader in (self.batches, self.held_out)],
            "scaler": scaler,
            "per optimizer": [dict(one) for one in self.scaler._per_optimizer_states.values()],
            "averages": self.averages,
            "variables": [cell.cell_contents for cell in self.step.__closure__ if isinstance(cell.cell_contents, int | float)],
            "own": [self.calls, getattr(self.model, "asked", None), getattr(self.model, "last", None)],
            "position": self.attachment.step,
        }
        held = [*tensors, *state, *optimizer.param_groups, *(group["lr"] for group in optimizer.param_groups), scaler["_scale"]]
        return copied(values), [one for one in held if not isinstance(one, float)]

    @staticmethod
    def state_of(loader):
        sampler = loader.sampler
        generators = [g.get_state() for g in (loader.generator, getattr(sampler, "generator", None)) if g is not None]
        own = copy.deepcopy(sampler.state_dict()) if isinstance(sampler, StatefulSampler) else None
        return generators, own, str(getattr(loader.dataset, "rng", None) and loader.dataset.rng.bit_generator.state)


def copied(value):
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [copied(one) for one in value]
    return torch.as_tensor(value).detach().clone() if isinstance(value, torch.Tensor | np.ndarray) else copy.copy(value)


def differences(now, before, where=""):
    """Where two copies differ, NaN being NaN: the names, for the report."""
    if isinstance(before, torch.Tensor) and isinstance(now, torch.Tensor):
        same = now.dtype == before.dtype and torch.equal(now, before)
        return [] if same or torch.allclose(now, before, 0, 0, equal_nan=True) else [where]
    if isinstance(before, dict | list) and type(now) is type(before) and len(now) == len(before):
        keys = before if isinstance(before, dict) else range(len(before))
        return [one for key in keys for one in differences(now[key], before[key], f"{where}/{key}")]
    return [] if type(now) is type(before) and now == before else [where]


class Broken(Exception):
    """What a loss may raise."""


def raising(error):
    raise error


ENDINGS = {
    "success": (lambda: None, None),
    "exception": (lambda: raising(Broken()), Broken),
    "ctrl-c": (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt),
    "sigterm": (lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit),
}


def found(job):
    """The whole search."""
    find(job.model, job.optimizer, job.loss, job.batches, STEPS, step=job.step, validate=job.validate, budget=0.7)


def ramped(job):
    """The range test."""
    range_test(job.model, job.optimizer, job.loss, job.batches, 1e-6, 1e-1, 20, step=job.step)


@pytest.fixture
def saved():
    """A SIGTERM handler that saves and leaves, as clusters want it: what it saves."""
    job, checkpoints = [], []

    def handler(signum, frame):
        checkpoints.append(job[0].everything()[0])
        raise SystemExit(143)

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield job, checkpoints
    assert signal.getsignal(signal.SIGTERM) is handler
    for signum, one in before.items():
        signal.signal(signum, one)


PAIRS = list(zip(NETS, LOADERS, strict=True))  # each loader once for each optimizer


def went_on(job):
    """The losses of the next steps, and everything after them."""
    torch.manual_seed(9), random.seed(9)
    return job.train(4), job.everything()[0]


@cache
def without(net, kind, loaded):
    """The same training without a search: how it stands, and how it goes on."""
    job = Job(net, kind, loaded)
    return job.everything()[0], *went_on(job)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(("net", "loaded"), PAIRS)
@pytest.mark.parametrize("search", [found, ramped])
def test_everything_is_as_before_and_training_goes_on_as_without(net, loaded, kind, ending, search, saved):
    stands, losses, after = without(net, kind, loaded)
    job, calls, (act, leaves) = Job(net, kind, loaded), [], ENDINGS[ending]
    values, held = job.everything()
    assert differences(values, stands) == [], "the two do not begin alike"
    saved[0].append(job)

    def during():
        calls.append(1)
        if len(calls) == LATE:
            act()

    job.during = during
    with nullcontext() if leaves is None else pytest.raises(leaves):
        search(job)
    del job.during
    assert len(calls) >= LATE, "it ended before it was disturbed"
    now, holds = job.everything()
    assert differences(now, values) == []
    assert len(holds) == len(held) and all(map(is_, holds, held))
    assert [differences(one, values) for one in saved[1]] == [[]] * (ending == "sigterm"), "the checkpoint is not of before"
    again = went_on(job)
    assert again[0] == losses and differences(again[1], after) == []


def test_a_sigterm_that_kills_kills_as_usual():
    code = """
import os, signal, torch, lrkit
model = torch.nn.Linear(2, 1)
calls = []
def loss(model, batch):
    calls.append(1)
    if len(calls) == 9:
        os.kill(os.getpid(), signal.SIGTERM)
    return model(batch).square().mean()
lrkit.range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, [torch.ones(4, 2)] * 5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
