"""Plateaus that were trained: small nets and analytic losses, each with a label that an intervention has proved.

From where a run hangs branches go on: as before, at a tenth of the rate, after a kick of the weights, and at five times the rate.
What they gain tells the kinds apart, whatever any gauge says: a lower rate alone frees a valley, a kick or patience a saddle,
nothing a floor.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from landscapes import TASKS, Batch
from torch import Tensor

from lrkit import Run, watch

KINDS = ("valley", "saddle", "floor", "healthy")
VISITS = 40  # of every gauge in a run


@dataclass(frozen=True)
class Plan:
    """One training.

    Args:
        task: Name in TASKS.
        optimizer: Name in OPTIMIZERS.
        lr: Rate.
        batch: Rows; 0: all.
        init: Scale of the initial weights.
        steps: Updates.
        seed: Of data, weights and batches.
        decay: Share of the run over which the rate falls to a twentieth.
        at: Share of the run at which the branches leave, where that is not its end.
    """

    task: str
    optimizer: str
    lr: float
    batch: int = 16
    init: float = 1.0
    steps: int = 1000
    seed: int = 0
    decay: float = 0.0
    at: float = 1.0


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.0),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
}


# (task, init, batch, at, {optimizer: rates}); what each becomes is for the branches to say
Row = tuple[str, float, int, float, dict[str, tuple[float, ...]]]
ROWS: tuple[Row, ...] = (
    ("ridge", 1, 16, 1, {"sgd": (1.0,), "momentum": (0.03, 0.3), "adamw": (0.001, 0.3), "rmsprop": (0.01, 0.2)}),
    ("ridge", 1, 0, 1, {"sgd": (0.3,), "rmsprop": (0.03,)}),
    ("clouds", 1, 16, 1, {"sgd": (0.1,), "momentum": (0.1,), "adamw": (0.1,), "rmsprop": (0.001,)}),
    ("clouds", 1, 0, 1, {"momentum": (0.03,)}),
    ("teacher", 1, 16, 1, {"momentum": (0.15,), "adamw": (0.003, 0.15)}),
    ("teacher", 1, 0, 1, {"sgd": (0.3,), "rmsprop": (0.1,)}),
    ("teacher", 0, 16, 0.5, {"sgd": (0.05,), "momentum": (0.01,)}),
    ("teacher", 0, 0, 0.6, {"rmsprop": (0.003,)}),
    ("factors", 1, 16, 1, {"sgd": (0.03, 0.6, 2.2), "momentum": (0.6,), "adamw": (0.005, 0.15)}),
    ("factors", 1, 0, 1, {"adamw": (0.01,), "rmsprop": (0.06,)}),
    ("factors", 0.001, 16, 0.2, {"momentum": (0.005,), "adamw": (0.0001,)}),
    ("factors", 0.001, 0, 0.25, {"sgd": (0.05,), "momentum": (0.002,)}),
    ("deep", 0.05, 16, 1, {"sgd": (0.05, 0.5)}),
    ("deep", 0.2, 16, 0.3, {"sgd": (0.05,), "momentum": (0.01,)}),
    ("deep", 1, 16, 1, {"sgd": (0.1,), "rmsprop": (0.0005, 0.1)}),
    ("banana", 1, 16, 1, {"adamw": (0.003, 0.05), "rmsprop": (0.01,)}),
    ("banana", 1, 0, 1, {"momentum": (0.03,)}),
    ("logits", 1, 16, 1, {"momentum": (0.01, 0.2), "adamw": (0.01, 0.15), "rmsprop": (0.15,)}),
    ("logits", 1, 0, 1, {"sgd": (1.0, 2.5)}),
    ("linear3", 1, 16, 1, {"sgd": (0.3,), "adamw": (0.003, 0.1), "rmsprop": (0.05,)}),
    ("linear3", 1, 0, 1, {"adamw": (0.01,), "rmsprop": (0.03,)}),
    ("linear3", 0.03, 16, 0.4, {"sgd": (0.02,), "momentum": (0.005,)}),
    ("parity", 1, 16, 1, {"sgd": (3.0,), "momentum": (0.4,), "rmsprop": (0.01,)}),
    ("parity", 1, 0, 1, {"sgd": (1.0,)}),
    ("parity", 0.1, 0, 0.25, {"sgd": (0.3,), "momentum": (0.03,)}),
    ("parity", 0, 0, 0.5, {"momentum": (0.05,)}),
    ("waves", 1, 16, 1, {"sgd": (0.3,), "adamw": (0.003,)}),
    ("waves", 1, 0, 1, {"rmsprop": (0.1,)}),
    ("waves", 0.15, 16, 1, {"sgd": (0.05,)}),
    ("bent", 1, 16, 1, {"adamw": (0.05,), "rmsprop": (0.3,)}),
    ("student", 1, 16, 1, {"momentum": (0.2,), "adamw": (0.1,), "rmsprop": (0.0005, 0.05)}),
    ("student", 0.05, 0, 0.3, {"sgd": (0.3,), "momentum": (0.05,)}),
    ("pairs", 0.5, 16, 1, {"sgd": (0.1, 8.0), "momentum": (1.0,), "adamw": (0.003, 0.1), "rmsprop": (0.001, 0.2)}),
    ("pairs", 0.5, 0, 1, {"adamw": (0.03,)}),
    ("pairs", 0.01, 16, 0.5, {"sgd": (0.3, 0.1), "momentum": (0.03,)}),
    ("pairs", 0.01, 0, 0.3, {"sgd": (0.5,), "momentum": (0.04,)}),
    ("attention", 1, 16, 1, {"sgd": (1.0,), "momentum": (0.003, 0.2), "adamw": (0.003, 0.15), "rmsprop": (0.003, 0.05)}),
    ("attention", 0.05, 16, 0.4, {"sgd": (0.03, 0.01), "momentum": (0.002,)}),
    ("attention", 0.05, 0, 0.2, {"sgd": (0.05,), "momentum": (0.005,)}),
    ("bottleneck", 1, 16, 1, {"sgd": (4.0,), "momentum": (0.03, 0.5), "adamw": (0.003, 0.15), "rmsprop": (0.003, 0.1)}),
    ("bottleneck", 1, 0, 1, {"sgd": (1.0,), "adamw": (0.02,), "rmsprop": (0.1,)}),
    ("bottleneck", 0.01, 16, 0.3, {"sgd": (0.03,), "momentum": (0.003,)}),
    ("bottleneck", 0.01, 0, 0.3, {"sgd": (0.05,), "momentum": (0.003,)}),
    ("bottleneck", 0, 0, 0.6, {"sgd": (0.5,), "momentum": (0.05,), "adamw": (0.003,)}),
    ("robust", 1, 16, 1, {"sgd": (0.2, 2.5), "momentum": (0.01, 0.6), "adamw": (0.001, 0.02, 0.6), "rmsprop": (0.01, 0.6)}),
    ("robust", 1, 0, 1, {"sgd": (0.5,), "momentum": (0.1,), "rmsprop": (0.8,)}),
    ("residual", 1, 16, 1, {"sgd": (0.01, 1.0), "adamw": (0.15,), "rmsprop": (0.1,)}),
    ("wells", 1, 16, 0.6, {"sgd": (0.01,), "momentum": (0.001,)}),
    ("wells", 1, 16, 1, {"adamw": (0.03, 1.5), "rmsprop": (0.6,)}),
    ("wells", 1, 0, 1, {"sgd": (0.1,), "momentum": (0.03,)}),
)  # fmt: skip


def plans() -> list[Plan]:
    """All of them; every tenth, where it has noise and no small start, ends in a decay."""
    found: list[Plan] = []
    for task, init, batch, at, rates in ROWS:
        for optimizer, some in rates.items():
            for lr in some:
                i = len(found)
                decay = 0.3 if i % 10 == 0 and at == 1 and batch and init == 1 else 0.0
                found.append(Plan(task, optimizer, lr, batch if i % 4 else 2 * batch, init, seed=i % 7, decay=decay, at=at))
    return found


# -- training ---------------------------------------------------------------------------------------------------------------


@dataclass
class Trained:
    """A run, and what the branches from where it hangs have shown.

    Args:
        plan: How it was trained.
        run: What `watch` has seen.
        facts: start, before, level, control, lower, kicked, raised: losses on all data.
        label: The kind that the branches prove; "" where they prove none.
    """

    plan: Plan
    run: Run
    facts: dict[str, float] = field(default_factory=dict)
    label: str = ""


class Bench:
    """A training that can be left and taken up again."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.task = plan, TASKS[plan.task]
        torch.manual_seed(plan.seed)
        self.data = self.task.data(plan.seed + 100)
        self.model = self.task.model(plan.init)
        self.optimizer = OPTIMIZERS[plan.optimizer](self.model.parameters(), plan.lr)
        self.generator = torch.Generator().manual_seed(plan.seed + 7)

    def batch(self) -> Batch:
        """The next one."""
        if not self.plan.batch:
            return self.data
        rows = torch.randint(0, len(self.data[0]), (self.plan.batch,), generator=self.generator)
        return tuple(part[rows] for part in self.data)

    def update(self, note: Callable[[Tensor, Batch], None] | None = None) -> None:
        """One more."""
        batch = self.batch()
        self.optimizer.zero_grad()
        loss = self.task.loss(self.model, batch)
        loss.backward()
        if note is not None:
            note(loss, batch)
        self.optimizer.step()

    def level(self) -> float:
        """The loss on all data."""
        with torch.no_grad():
            return float(self.task.loss(self.model, self.data))

    def branch(self, steps: int, factor: float = 1.0, kick: float = 0.0) -> float:
        """The mean loss over the last fifth of a branch; this training stays where it is."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizer = OPTIMIZERS[self.plan.optimizer](other.model.parameters(), self.plan.lr)
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        other.generator = torch.Generator().manual_seed(99)
        for group in other.optimizer.param_groups:
            group["lr"] *= factor
        torch.manual_seed(5)
        with torch.no_grad():
            for p in other.model.parameters():
                p.add_(kick * torch.randn_like(p) / math.sqrt(max(p.shape[-1], 1)))
        seen = []
        for step in range(steps):
            other.update()
            if step >= 0.8 * steps and step % 4 == 0:
                seen.append(other.level())
        return sum(seen) / len(seen) if all(math.isfinite(one) for one in seen) else math.inf


def train(plan: Plan) -> Trained:
    """Train, watch, and go on in branches from where the run hangs."""
    bench = Bench(plan)
    begin, fork = bench.level(), int(plan.at * plan.steps)
    levels: list[float] = []
    facts: dict[str, float] = {}
    with watch(bench.model, bench.optimizer, loss=bench.task.loss, every=max(10, plan.steps // VISITS)) as w:
        for step in range(plan.steps):
            if plan.decay and step >= (1 - plan.decay) * plan.steps:
                gone = (step / plan.steps - 1 + plan.decay) / plan.decay
                bench.optimizer.param_groups[0]["lr"] = plan.lr * (1 - 0.95 * gone)
            bench.update(lambda loss, batch: w.record(loss=loss, batch=batch))
            if step % 5 == 0 and step < fork:
                levels.append(bench.level())
            if step == fork - 1:
                facts = forked(bench, begin, levels)
    run = w.run
    if plan.decay:
        run.meta["schedule"] = "linear decay"
    return Trained(plan, run, facts, label_of(facts))


def forked(bench: Bench, begin: float, levels: list[float]) -> dict[str, float]:
    """Where the run hangs, since when, and where the branches go from there."""
    tenth = max(4, len(levels) // 10)
    here, before = sum(levels[-tenth:]) / tenth, sum(levels[-3 * tenth : -2 * tenth]) / tenth
    steps = bench.plan.steps // 2
    facts = {"start": begin, "before": before, "level": here, "control": bench.branch(steps), "lower": bench.branch(steps, 0.1)}
    if label_of(facts) in ("valley", "healthy"):
        return facts
    return facts | {"kicked": bench.branch(2 * steps, kick=0.5), "raised": bench.branch(steps, 5.0)}


def label_of(facts: dict[str, float]) -> str:
    """The kind that the branches prove, or ""; a share is one of the level.

    valley: a tenth of the rate gains a fifth, going on gains nothing. healthy: going on gains, a lower rate gains less.
    saddle: it stood still, a kick or patience gains a fifth, a lower rate nothing. floor: nothing gains anything.
    """
    level = facts["level"]
    if not all(math.isfinite(one) for one in (level, facts["control"], facts["lower"])) or level <= 0:
        return ""
    moved = (facts["before"] - level) / level
    control, lower = ((level - facts[name]) / level for name in ("control", "lower"))
    if lower > 0.2 and control < 0.4 * lower and moved < 0.4 * lower and level < facts["start"]:
        return "valley"
    if moved > 0.03 and control > 0.05 and lower < control:
        return "healthy"
    if "kicked" not in facts or abs(moved) > 0.03:
        return ""
    freed = max((level - facts["kicked"]) / level, control)
    leaves = control > 8 * max(moved, 0.0)  # faster than it came: a way down opens, where a slow run goes on as before
    if freed > 0.2 and lower < min(0.1, 0.25 * freed) and (control < 0.03 or leaves):
        return "saddle"
    raised = (level - facts["raised"]) / level if math.isfinite(facts["raised"]) else 0.0
    if abs(control) < 0.02 and abs(moved) < 0.02 and lower < 0.1 and freed < 0.03 and raised < 0.04:
        return "floor"
    return ""
