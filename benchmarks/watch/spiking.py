"""Spikes that were trained: small nets that are driven into a spike of the loss by a known mechanism, their cured twins, and
ordinary healthy trainings of the same tasks. Nothing is drawn; whether a run spikes, and where, is measured on its loss alone.

Mechanisms: ``fading``: on little noise Adam's second moment decays by itself until the edge is crossed; ``rare``: a class, a
feature or wrong labels come now and then, and the second moment has forgotten their gradients by then; ``sparse``: rows of an
embedding that hardly ever get a gradient; ``shift``: the data change, at once or within some updates; ``ramp``: the rate still
rises; ``scale``: the logits' or outputs' scale grows; ``decay``: weight decay shrinks weights whose scale does not matter, which
raises their rate; ``batch``: one bad batch out of nowhere, which nothing can foresee.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lrkit import Run, watch

Batch = tuple[Tensor, Tensor]
TOKENS = 48


@dataclass(frozen=True)
class Plan:
    """One training.

    Args:
        mechanism: What drives it into a spike; "healthy" for nothing.
        task: Name in TASKS.
        lr: Peak rate.
        optimizer: adam, adamw, sgd, momentum, nesterov or rmsprop.
        beta2: Of Adam.
        eps: Of Adam.
        batch: Rows; 0: all.
        steps: Updates.
        seed: Of data, weights and batches.
        every: Updates from one visit to the next.
        schedule: constant, warmup, cosine, linear, wsd, ramp (to the end), steps or cycle.
        strength: Of the mechanism; what it means, the mechanism says.
        cure: What was changed to make it healthy; "" where nothing was.
        edge: Whether the loss can be evaluated again, for the gauges that need it.
        noise: Of the labels.
    """

    mechanism: str
    task: str
    lr: float
    optimizer: str = "adam"
    beta2: float = 0.999
    eps: float = 1e-8
    batch: int = 32
    steps: int = 500
    seed: int = 0
    every: int = 2
    schedule: str = "constant"
    strength: float = 1.0
    cure: str = ""
    edge: bool = False
    noise: float = 0.0


@dataclass(frozen=True)
class Task:
    """What is trained.

    Args:
        half: "tune" or "judge".
        data: rows → (inputs, targets).
        model: A new one.
        loss: (outputs, targets) → loss.
    """

    half: str
    data: Callable[[int], Batch]
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]


# -- tasks ------------------------------------------------------------------------------------------------------------------


def perceptron(*widths: int, act: type[nn.Module] = nn.Tanh, norm: bool = False, scale: float = 1.0) -> nn.Sequential:
    """Layers of these widths, with layer norms before the activations or not; `scale` times the usual initial weights."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), *([nn.LayerNorm(o)] if norm else []), act()]
        layers[-3 if norm else -2].weight.data.mul_(scale)  # type: ignore[operator, union-attr]
    return nn.Sequential(*layers[: -2 if norm else -1])


class Attention(nn.Module):
    """An embedding, one layer of attention with a residual, and a head over the tokens."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(TOKENS, width), nn.Parameter(0.1 * torch.randn(8, width))
        self.qkv, self.out, self.head = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.place
        q, k, v = self.qkv(h).chunk(3, -1)
        h = h + self.out(torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v)
        return self.head(h[:, -1])


class Conv(nn.Module):
    """Two convolutions over a sequence, and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv1d(1, 8, 3), nn.Conv1d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x[:, None])))).mean(-1))


def clouds(rows: int, dim: int = 8, classes: int = 5, spread: float = 0.7) -> Batch:
    """Clouds around as many centres as classes."""
    centres = 1.5 * torch.randn(classes, dim, generator=torch.Generator().manual_seed(3))
    y = torch.randint(0, classes, (rows,))
    return centres[y] + spread * torch.randn(rows, dim), y


def waves(rows: int) -> Batch:
    x = torch.randn(rows, 6)
    return x, torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]


def series(rows: int) -> Batch:
    """Sequences of one of four frequencies."""
    y = torch.randint(0, 4, (rows,))
    t = torch.arange(16) / 16
    phase = 6.28 * torch.rand(rows, 1)
    return torch.sin(6.28 * (1 + y[:, None]) * t + phase) + 0.3 * torch.randn(rows, 16), y


def pictures(rows: int) -> Batch:
    """What an autoencoder is fed: four factors, mixed."""
    z = torch.randn(rows, 4)
    x = torch.tanh(z @ torch.randn(4, 20, generator=torch.Generator().manual_seed(5)))
    return x, x


def words(rows: int, length: int = 1) -> Batch:
    """Tokens by Zipf's law, each followed by one that it determines."""
    chance = 1 / torch.arange(1, TOKENS + 1).float() ** 1.3
    x = torch.multinomial(chance, rows * length, replacement=True).view(rows, length)
    after = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(11))
    return (x[:, 0], after[x[:, 0]]) if length == 1 else (x, after[x[:, -2]])


def squared(out: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(out, y)


CE = functional.cross_entropy
TASKS: dict[str, Task] = {
    "clouds": Task("tune", lambda n: clouds(n, 16, 10, 0.4), lambda: perceptron(16, 32, 32, 10, act=nn.ReLU, scale=2.4), CE),
    "waves": Task("tune", waves, lambda: perceptron(6, 24, 24, 1), squared),
    "tokens": Task("tune", lambda n: words(n, 8), lambda: Attention(8), CE),
    "words": Task("tune", words, lambda: nn.Sequential(nn.Embedding(TOKENS, 16), perceptron(16, 24, TOKENS)), CE),
    "normed": Task("tune", lambda n: clouds(n, spread=1.5), lambda: perceptron(8, 24, 24, 5, norm=True), CE),
    "series": Task("judge", series, Conv, CE),
    "pictures": Task("judge", pictures, lambda: perceptron(20, 16, 4, 16, 20, act=nn.GELU), squared),
    "attention": Task("judge", lambda n: words(n, 8), Attention, CE),
    "deep": Task("judge", lambda n: clouds(n, 12, 6), lambda: perceptron(12, 16, 16, 16, 16, 6, act=nn.ReLU, norm=True), CE),
}

# -- training ---------------------------------------------------------------------------------------------------------------


def rate(plan: Plan, step: int) -> float:
    """The rate at this update."""
    share, n = step / plan.steps, plan.steps
    shapes: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "warmup": lambda: min(1.0, (step + 1) / (0.1 * n)),
        "ramp": lambda: (step + 1) / n,
        "cosine": lambda: min(1.0, (step + 1) / (0.05 * n)) * (0.5 + 0.5 * math.cos(math.pi * share)),
        "linear": lambda: 1 - share,
        "wsd": lambda: min(1.0, (step + 1) / (0.05 * n), (1 - share) / 0.2 + 1e-3),
        "steps": lambda: 0.2 ** int(3 * share),
        "cycle": lambda: 0.1 + 0.9 * (1 - abs(2 * share - 1)),
    }
    return plan.lr * shapes[plan.schedule]()


def optimizer_of(plan: Plan, model: nn.Module) -> torch.optim.Optimizer:
    params = model.parameters()
    wd = 0.1 * plan.strength if plan.mechanism == "decay" else 0.01
    match plan.optimizer:
        case "adam":
            return torch.optim.Adam(params, plan.lr, betas=(0.9, plan.beta2), eps=plan.eps)
        case "adamw":
            return torch.optim.AdamW(params, plan.lr, betas=(0.9, plan.beta2), eps=plan.eps, weight_decay=wd)
        case "rmsprop":
            return torch.optim.RMSprop(params, plan.lr, alpha=plan.beta2, eps=plan.eps)
    momentum = 0.0 if plan.optimizer == "sgd" else 0.9
    wd = wd if plan.mechanism == "decay" else 0.0
    return torch.optim.SGD(params, plan.lr, momentum=momentum, nesterov=plan.optimizer == "nesterov", weight_decay=wd)


def spoiled(plan: Plan, step: int, x: Tensor, y: Tensor, draw: Tensor) -> Batch:
    """The batch of this update, as the mechanism makes it; `draw` is one uniform number of this update."""
    rows, late = len(x), plan.steps // 3
    match plan.mechanism:
        case "rare":  # one feature, or some labels, that come once in so many updates
            hit = step > late and float(draw) < 0.02
            k = max(1, int(rows * 0.3 * plan.strength)) if hit else 0
        case "shift":  # within `strength` updates from two fifths on
            since = step - 2 * plan.steps // 5
            k = int(rows * 0.6 * min(1.0, max(0.0, since / plan.strength)))
        case "batch":
            k = rows if step == int(plan.steps * (0.4 + 0.4 * torch.rand((), generator=seeded(plan.seed)).item())) else 0
        case _:
            return x, y
    if k == 0:
        return x, y
    return torch.cat([altered(plan, x[:k]), x[k:]]), torch.cat([other(y[:k]), y[k:]])


def altered(plan: Plan, x: Tensor) -> Tensor:
    """Inputs that are far off (of tokens, the rarest); of rare events only their labels differ."""
    if plan.mechanism == "rare":
        return x
    return TOKENS - 1 - x if not x.is_floating_point() else x.flip(-1) * (3.0 if plan.mechanism == "batch" else 1.0)


def other(y: Tensor) -> Tensor:
    return (y + 1) % 4 if not y.is_floating_point() else -y


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


class Scaled(nn.Module):
    """A model whose outputs are multiplied by a number that is set from outside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.by = model, 1.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.by * self.model(x)
        return out


def trained(plan: Plan) -> Run:
    """The run of a plan, watched."""
    task = TASKS[plan.task]
    torch.manual_seed(plan.seed)
    x, y = task.data(1024 if plan.batch else 64)
    if plan.noise and not y.is_floating_point():
        y = torch.where(torch.rand(len(y)) < plan.noise, torch.randint(0, 4, (len(y),)), y)
    elif plan.noise:
        y = y + plan.noise * torch.randn_like(y)
    model = Scaled(task.model())
    optimizer, draws = optimizer_of(plan, model), seeded(plan.seed)
    again = (lambda m, b: task.loss(m(b[0]), b[1])) if plan.edge else None
    meta = {"optimizer": plan.optimizer, "steps": plan.steps}
    with watch(model, optimizer, loss=again, every=plan.every, meta=meta) as w:
        for step in range(plan.steps):
            optimizer.param_groups[0]["lr"] = rate(plan, step)
            if plan.mechanism == "scale":
                model.by = math.exp(plan.strength * step / plan.steps)
            at = torch.randint(0, len(x), (plan.batch,), generator=draws) if plan.batch else slice(None)
            batch = spoiled(plan, step, x[at], y[at], torch.rand((), generator=draws))
            loss = task.loss(model(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            w.record(loss=loss, batch=batch)
            optimizer.step()
        return w.run


# -- what is trained ----------------------------------------------------------------------------------------------------------

Options = dict[str, tuple[object, ...]]
ADAM, ANY = ("adam", "adamw"), tuple(TASKS)
ILL: dict[str, tuple[int, tuple[Options, ...]]] = {  # how many are drawn of each, by turns, and from what
    "fading": (12, (
        {"task": ("waves", "pictures"), "lr": (0.02, 0.03, 0.05), "eps": (1e-12, 1e-8), "beta2": (0.999, 0.99)},
        {"task": ("waves", "pictures"), "lr": (0.005, 0.01), "eps": (1e-12, 1e-8), "beta2": (0.999, 0.99)},
    )),
    "rare": (12, (
        {"task": ("clouds", "pictures", "series"), "lr": (0.02, 0.03, 0.05), "strength": (0.7, 1.0, 1.5), "eps": (1e-12,)},
        {"task": ("words", "deep", "attention"), "lr": (0.02, 0.03, 0.05), "strength": (0.7, 1.0, 1.5), "eps": (1e-12,)},
    )),
    "sparse": (6, ({"task": ("attention", "tokens"), "lr": (0.03, 0.05, 0.1), "eps": (1e-12, 1e-8), "beta2": (0.999, 0.99)},)),
    "shift": (6, ({"task": ANY, "lr": (0.003, 0.01), "strength": (20.0, 40.0, 80.0)},)),
    "ramp": (10, (
        {"task": ("waves", "deep", "attention"), "lr": (0.2, 0.3), "optimizer": ADAM, "batch": (0, 32)},
        {"task": ("waves", "series", "attention"), "lr": (0.3, 1.0), "optimizer": ("momentum",), "batch": (0, 32)},
        {"task": ("normed", "pictures", "deep", "series"), "lr": (3.0, 10.0), "optimizer": ("sgd",), "batch": (0, 32)},
    )),
    "scale": (7, (
        {"task": ("waves", "pictures", "series", "deep"), "lr": (0.01, 0.03), "strength": (3.0, 4.0), "batch": (0, 32)},
        {"task": ("waves", "pictures"), "lr": (0.03, 0.1), "strength": (2.0, 3.0, 4.0), "optimizer": ("momentum",)},
    )),
    "decay": (8, (
        {"task": ("normed", "deep"), "lr": (0.01,), "strength": (10.0, 30.0), "optimizer": ("adamw",), "batch": (0, 32)},
        {"task": ("normed", "deep"), "lr": (0.3,), "strength": (0.1,), "optimizer": ("sgd",), "batch": (0, 32)},
        {"task": ("normed", "deep"), "lr": (0.05,), "strength": (0.1,), "optimizer": ("momentum",), "batch": (0, 32)},
    )),
    "batch": (4, ({"task": ("clouds", "pictures", "series"), "lr": (0.003, 0.01)},)),
}  # fmt: skip
WELL: tuple[Options, ...] = (
    {"optimizer": ("adam", "adamw"), "lr": (0.001, 0.003, 0.01, 0.02), "beta2": (0.999, 0.999, 0.99, 0.95), "batch": (0, 16, 32)},
    {"optimizer": ("momentum", "nesterov"), "lr": (0.003, 0.01, 0.03), "batch": (0, 16, 32)},
    {"optimizer": ("sgd",), "lr": (0.03, 0.1, 0.3), "batch": (0, 16, 32)},
    {"optimizer": ("rmsprop",), "lr": (0.001, 0.003), "beta2": (0.99,), "batch": (16, 32)},
)
WELLS = 60
SCHEDULES = ("constant", "constant", "warmup", "cosine", "linear", "wsd", "steps", "cycle")


def drawn(rng: random.Random, mechanism: str, options: Options) -> Plan:
    """A plan with one of each option."""
    chosen: dict[str, Any] = {name: rng.choice(values) for name, values in options.items()}
    full = {"batch": 0, "steps": 700} if mechanism == "fading" else {}
    schedule = {"ramp": "ramp", "healthy": rng.choice(SCHEDULES)}.get(mechanism, "constant")
    edge = mechanism in ("fading", "ramp", "scale") or rng.random() < 0.3
    more = {"seed": rng.randrange(1000), "every": rng.choice((4, 5)) if edge else rng.choice((1, 2, 3, 5)), "edge": edge}
    return Plan(mechanism, **({"schedule": schedule} | more | full | chosen))


def ill_plans(scale: int = 1) -> list[Plan]:
    """What should spike; `scale` times as many as usual."""
    rng = random.Random(201)
    return [drawn(rng, name, options[k % len(options)]) for name, (count, options) in ILL.items() for k in range(scale * count)]


def well_plans(scale: int = 1) -> list[Plan]:
    """What should not: ordinary trainings."""
    rng, plans = random.Random(202), list[Plan]()
    for k in range(scale * WELLS):
        plan = drawn(rng, "healthy", {"task": ANY} | WELL[k % len(WELL)])
        plans.append(replace(plan, noise=rng.choice((0.0, 0.0, 0.1, 0.3)), edge=k % 7 < 2))
    return plans


def cured(plan: Plan, k: int) -> Plan:
    """The same training with one thing changed, by turns; the data's own shocks are left out."""
    adaptive = plan.optimizer.startswith("adam")
    change: dict[str, Any] = {"lr": plan.lr / 10} if not adaptive or k % 3 == 0 else {"eps": 1e-2} if k % 3 == 1 else {}
    if not change:
        change = {"beta2": 0.95, "lr": plan.lr / 4}
    calm = plan.mechanism in ("shift", "batch")
    return replace(plan, mechanism="calm" if calm else plan.mechanism, cure=", ".join(change), **change)
