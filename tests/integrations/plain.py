"""What every host is compared with: a plain torch loop driven by `lrkit.attach`, and an optimizer that tells what it did."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

import lrkit
from lrkit.binding.controllers import Controller

UPDATES, EPOCH, BATCH = 12, 4, 3  # updates of a run, updates of an epoch, samples of a batch
TEXT = "warmup 25% > cosine"
BETWEEN = "linear 12 to 0.5"
INPUTS = torch.randn(EPOCH * BATCH * 4, 5, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randn(EPOCH * BATCH * 4, 2, generator=torch.Generator().manual_seed(2))
HERE = Path(__file__).parent


class Told(torch.optim.Optimizer):
    """SGD with momentum that notes the rates with which each update was really made."""

    def __init__(self, params, lr=0.1, weight_decay=0.05):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.told = []

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.told.append([(float(group["lr"]), float(group["weight_decay"])) for group in self.param_groups])
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["step"] = state.get("step", 0) + 1
                    state["momentum"] = 0.9 * state["momentum"] + p.grad if "momentum" in state else p.grad.clone()
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * state["momentum"])
        return loss


@dataclass(frozen=True, kw_only=True)
class Heard(Controller):
    """A controller that scales nothing and notes what it hears."""

    values: list = field(default_factory=list, metadata={"recorded": False})

    def start(self):
        return (1.0,)

    def heard(self, state, value):
        self.values.append(value)
        return state


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def optimizer_of(model, kind=Told):
    """Two named groups, the second with a tenth of the rate."""
    first, last = model[0], model[2]
    groups = [
        {"params": list(first.parameters()), "name": "body"},
        {"params": list(last.parameters()), "lr": 0.01, "name": "head"},
    ]
    return kind(groups, lr=0.1, weight_decay=0.05)


def batches(accumulate=1, start=0):
    """The micro-batches of a whole run, from an update on: epoch after epoch in the same order."""
    each = [(INPUTS[i * BATCH : (i + 1) * BATCH], TARGETS[i * BATCH : (i + 1) * BATCH]) for i in range(EPOCH * accumulate)]
    return (each * (UPDATES // EPOCH))[start * accumulate :]


def dataset(accumulate=1):
    return torch.utils.data.TensorDataset(INPUTS[: EPOCH * BATCH * accumulate], TARGETS[: EPOCH * BATCH * accumulate])


def loss_of(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def plain(accumulate=1, clip=None, kind=Told, **keys):
    """The run without any host: its model and optimizer at the end, and the attachment."""
    model = net()
    optimizer = optimizer_of(model, kind)
    attachment = lrkit.attach(optimizer, total=UPDATES, steps_per_epoch=EPOCH, **(keys or {"lr": TEXT, "weight_decay": BETWEEN}))
    for i, batch in enumerate(batches(accumulate)):
        (loss_of(model, batch) / accumulate).backward()
        if (i + 1) % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizer, attachment


def same(one, other):
    """Whether two models have the same weights to the bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(program, folder, *arguments, **environment):
    """A process that runs one of the programs beside this file."""
    places = os.pathsep.join([str(Path(lrkit.__file__).parents[1]), str(HERE.parent)])
    ours = {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(HERE / program), *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **ours, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes, expect=0):
    """Wait for processes; what they said is shown if one ends otherwise than expected."""
    said = [process.communicate(timeout=120)[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == expect, text
    return said


def world(program, folder, size, *arguments):
    """A program in several processes that form a torch.distributed world."""
    port = free_port()
    names = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [start(program, folder, *arguments, RANK=str(i), LOCAL_RANK=str(i), **names) for i in range(size)]
    return finish(*processes)
