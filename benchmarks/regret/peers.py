"""The rows of the table: lrkit's finder, and what it is measured against. Each is a function of (pair, seed) that answers a Case.

Everything is counted: every update 1, every forward of `validate` a third. No row knows the truth; those that need a range of
rates search where the truth was swept before it grew (`truth.RANGES`), which is kind to them: the best is inside. Trainings of
one case all start from the same weights and see the same batches.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from score import truths
from tasks import task
from tasks import trained as trainable
from torch import Tensor, nn
from truth import RANGES, SEEDS, SHIFTED, trained

import lrkit
from lrkit import Task, attach
from lrkit.binding.rates import rates_of, set_lr
from lrkit.finder.rules import NoAnswer, Ramp, Rule
from lrkit.run import Run
from lrkit.task import make, seed_everything, updates, validation

Pair = tuple[str, str]
SCHEDULE = "warmup 5% > cosine"  # the truth's


@dataclass(frozen=True)
class Case:
    """What a row answers for one pair and seed.

    Args:
        lr: The rate to train with; of a case that is no answer, the rate that was there.
        cost: What it took, in training runs.
        answered: Whether it found anything.
        losses: Of rows that train themselves, in place of a rate: the validation losses of whole runs, None where diverged.
        low: Lower end of the interval, where there is one.
        high: Its upper end.
        status: In the row's own words.
    """

    lr: float
    cost: float
    answered: bool = True
    losses: tuple[float | None, ...] = ()
    low: float | None = None
    high: float | None = None
    status: str = ""


class Meter:
    """Trains one task from one seed, as often as asked, and counts the cost.

    Args:
        task: The task.
        seed: Of every training.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.seed = task, seed
        self.updates, self.forwards = 0, 0

    @property
    def cost(self) -> float:
        """So far, in training runs."""
        return (self.updates + self.forwards / 3) / self.task.steps

    def started(self) -> tuple[nn.Module, torch.optim.Optimizer, Iterator[float]]:
        """A new model, its optimizer, and an endless loop that yields the loss of each update, before it."""
        seed_everything(self.seed)
        model, optimizer, batches = make(self.task)
        loop = updates(model, optimizer, self.task.loss, batches, 10**9, self.task.step)
        return model, optimizer, self._counted(loop)

    def _counted(self, loop: Iterator[Any]) -> Iterator[float]:
        for update in loop:
            self.updates += 1
            yield float(update.loss)

    def train(self, lr: float, share: int = 1) -> float:
        """The validation loss after a run of a share of the task's steps under the compressed schedule; infinite if diverged.

        Args:
            lr: Peak rate.
            share: The run makes one `share`-th of the task's updates.
        """
        model, optimizer, losses = self.started()
        steps = max(1, self.task.steps // share)
        set_lr(optimizer, lr)
        attach(optimizer, lr=SCHEDULE, total=steps)
        for _ in range(steps):
            if not math.isfinite(next(losses)):
                return math.inf
        self.forwards += 1  # the validations of these tasks are one forward each
        assert self.task.validate is not None, "these tasks validate"
        value = validation(self.task.validate, model)["val_loss"]
        return value if math.isfinite(value) else math.inf

    def answer(self, lr: float | None, status: str = "") -> Case:
        """What came out: a rate, or None."""
        before = rates_of(make(self.task)[1])[0]
        return Case(before if lr is None else lr, self.cost, lr is not None, status=status)


def interval(pair: Pair) -> tuple[float, float]:
    """The log-rates between which a pair is searched."""
    shift = SHIFTED.get(pair[0], {}).get(pair[1], 0.0)
    low, high = RANGES[pair[1]]
    return low + shift, high + shift


# -- lrkit ----------------------------------------------------------------------------------------------------------------


def ours(pair: Pair, seed: int, budget: float, validated: bool = True) -> Case:
    """`lrkit.find`, within a budget."""
    one = task(*pair) if validated else replace(task(*pair), validate=None)
    found = lrkit.find(one, budget=budget, seed=seed)
    return Case(found.lr, found.cost, found.found, low=found.low, high=found.high, status=found.status)


# -- rules of libraries ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)  # for the rules that share a library's ramp
def ramped(pair: Pair, seed: int, ramp: Ramp) -> tuple[Run, Meter]:
    """A library's range test: its raw losses, up to the update at which the library stops."""
    meter = Meter(task(*pair), seed)
    _, optimizer, loop = meter.started()
    losses: list[float] = []
    for lr in ramp.rates:
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses.append(next(loop))
        kept = len(ramp.record(np.array(losses)))
        if kept < len(losses):  # it had stopped one update ago
            losses, meter.updates = losses[:kept], kept
            break
    return Run({"loss": losses, "lr": ramp.rates[: len(losses)]}), meter


def ranged(pair: Pair, seed: int, rule: Rule) -> Case:
    """A library's rule, read off its own ramp."""
    run, meter = ramped(pair, seed, rule.ramp)
    try:
        return meter.answer(rule.choose(run))
    except NoAnswer:
        return meter.answer(None, "no answer")


# -- searches -------------------------------------------------------------------------------------------------------------


def default(pair: Pair, seed: int) -> Case:
    """The rate that torch's optimizer comes with."""
    return replace(Meter(task(*pair), seed).answer(None), answered=True)


def ladder(pair: Pair, seed: int, share: int, rates: int = 10, parabola: bool = False) -> Case:
    """Evenly spaced log-rates, each trained for a share of the run; the best wins.

    Args:
        pair: Task and optimizer.
        seed: Of the trainings.
        share: One `share`-th of the updates each.
        rates: How many over the interval.
        parabola: Whether the answer is the vertex through the best and its neighbours.
    """
    meter, (low, high) = Meter(task(*pair), seed), interval(pair)
    xs = np.linspace(low, high, rates)
    losses = [meter.train(10**x, share) for x in xs]
    i = int(np.argmin(losses))
    if not math.isfinite(losses[i]):
        return meter.answer(None, "diverged")
    x = float(xs[i])
    if parabola and 0 < i < len(xs) - 1 and math.isfinite(losses[i - 1]) and math.isfinite(losses[i + 1]):
        below, above = losses[i - 1] - losses[i], losses[i + 1] - losses[i]
        x += float(xs[1] - xs[0]) * (below - above) / (2 * (below + above)) if below + above > 0 else 0.0
    return meter.answer(10**x)


def swept(pair: Pair, seed: int) -> Case:
    """The best of a dense sweep with one seed: read off the truth's own, so it has seen a sixth of what judges it."""
    truth = truths()["/".join(pair)]
    case = Meter(task(*pair), seed).answer(10 ** float(truth.x[int(np.argmin(truth.losses[:, seed]))]))
    return replace(case, cost=len(truth.x) * (1 + 1 / 3 / truth.steps))


def searched(pair: Pair, seed: int, sampler: str, share: int = 8, **settings: Any) -> Case:
    """Optuna with one of its samplers: log-uniform over the interval, as many short runs as cost no more than one training."""
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)
    meter, (low, high) = Meter(task(*pair), seed), interval(pair)
    one = (meter.task.steps // share + 1 / 3) / meter.task.steps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a sampler is experimental, that a value is infinite
        study = optuna.create_study(sampler=getattr(optuna.samplers, sampler)(seed=seed, **settings))
        while meter.cost + one <= 1:
            trial = study.ask()
            study.tell(trial, meter.train(trial.suggest_float("lr", 10**low, 10**high, log=True), share))
    if not math.isfinite(study.best_value):
        return meter.answer(None, "diverged")
    return meter.answer(float(study.best_params["lr"]))


# -- optimizers that need no rate -----------------------------------------------------------------------------------------
# They choose nothing by a seed, so each is trained once by each of the truth's seeds, and its mean loss is compared with the
# truth's mean loss. The task's batches, clipping and (for Prodigy) weight decay stay.


def prodigy(pair: Pair, _seed: int) -> Case:
    """Prodigy (arXiv:2306.06101) in place of the task's optimizer, as its authors recommend: rate 1 under a cosine."""
    from prodigyopt import Prodigy

    one = task(*pair)
    decay = make(one)[1].param_groups[0]["weight_decay"]
    other = replace(one, optimizer=lambda params: Prodigy(trainable(params), weight_decay=decay))
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it decays weights
        losses = [trained(other, 1.0, seed, schedule="cosine") for seed in SEEDS]
    return Case(1.0, 1.0, losses=finite(losses))


class DoG(torch.optim.Optimizer):
    """x ← x − r̄_t / √(Σ_{i≤t} ‖g_i‖² + ε) · g_t,   r̄_t = max(r_ε, max_{i≤t} ‖x_i − x_0‖) (arXiv:2302.12022).

    Args:
        params: What is trained.
        relative: r_ε as a share of 1 + ‖x_0‖; 1e-6, and 1e-4 where there is batch normalisation, say the authors.
        lr: Left at 1.
    """

    def __init__(self, params: list[Tensor], relative: float, lr: float = 1.0) -> None:
        super().__init__(params, {"lr": lr})
        self.start = [p.detach().clone() for p in params]
        self.farthest, self.gradients = relative * (1 + norm(self.start)), 1e-8

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        assert closure is None, "the tasks pass none"
        group = self.param_groups[0]
        held = [p for p in group["params"] if p.grad is not None]
        self.gradients += norm([p.grad for p in held]) ** 2
        self.farthest = max(self.farthest, norm([p - s for p, s in zip(group["params"], self.start, strict=True)]))
        for p in held:
            p -= group["lr"] * self.farthest / math.sqrt(self.gradients) * p.grad


def norm(tensors: Sequence[Tensor]) -> float:
    """Of all of them as one vector."""
    return float(torch.stack([t.norm() for t in tensors]).norm())


def dog(pair: Pair, _seed: int, averaged: bool) -> Case:
    """DoG at a constant rate; the last weights, or their polynomial average, which the paper evaluates."""
    losses = []
    for seed in SEEDS:
        with_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in task(*pair).model().modules())
        relative = 1e-4 if with_norm else 1e-6
        one = replace(task(*pair), optimizer=lambda params, r=relative: DoG(trainable(params), r))
        losses.append(averaged_loss(one, seed) if averaged else trained(one, 1.0, seed, schedule="constant"))
    return Case(1.0, 1.0, losses=finite(losses))


def averaged_loss(task: Task, seed: int, gamma: float = 8.0) -> float:
    """The validation loss of x̄_t = (1 − w) x̄_{t−1} + w x_t, w = (γ + 1)/(γ + t), buffers too; infinite where it diverged."""
    model, _, losses = Meter(task, seed).started()
    average = copy.deepcopy(model)
    for t in range(1, task.steps + 1):
        if not math.isfinite(next(losses)):
            return math.inf
        for mean, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            mean.lerp_(now, (gamma + 1) / (gamma + t)) if mean.is_floating_point() else mean.copy_(now)
    assert task.validate is not None, "these tasks validate"
    value = validation(task.validate, average)["val_loss"]
    return value if math.isfinite(value) else math.inf


def finite(losses: Sequence[float]) -> tuple[float | None, ...]:
    """With None where it diverged."""
    return tuple(loss if math.isfinite(loss) else None for loss in losses)
