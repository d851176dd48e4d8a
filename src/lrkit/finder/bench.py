"""The bench on which candidates run: the same start, the same batches, the same random numbers for each.

Plan the rates itself, so an attached schedule is paused and only asked for its shape. Counts every update and every forward
of `validate`. Knows no search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from lrkit.binding.driver import driver_of
from lrkit.binding.hooks import owners
from lrkit.binding.rates import rates_of
from lrkit.binding.record import BASE
from lrkit.binding.slots import slot, unshare
from lrkit.errors import InputError
from lrkit.schedules.base import Schedule
from lrkit.snapshot import Restore, capture_module, capture_optimizer, capture_random, preserved
from lrkit.task import Loss, Step, Validate, check_loss_function, seed_everything, updates, validation

_MAX_CACHED = 4096  # batches kept in memory; beyond, they come round again


class OutOfBudget(Exception):
    """The limit was reached in the middle of a validation."""


class Bench:
    """Runs a training from its present state under any rate, as often as wanted. Use inside ``with bench.open():``.

    Args:
        model: The model; put back after every run.
        optimizer: Its optimizer; put back after every run.
        loss: ``(model, batch) → Tensor``.
        batches: A loader that can be iterated again; its first batches are kept.
        schedule: What a run is shaped by where nothing is attached.
        steps: Updates of the real run, which short runs compress.
        step: ``(model, batch, optimizer) → loss`` in place of forward, backward and update.
        validate: ``(model) → float``.
        seed: Of every run.
        limit: What may be spent, in updates.
        progress: Called with (spent, limit).
        follow: Whether an attached schedule of the rate shapes the runs; else `schedule` does.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        batches: Iterable[Any],
        schedule: Schedule,
        steps: int,
        step: Step | None,
        validate: Validate | None,
        seed: int,
        limit: float,
        progress: Callable[[float, float], object] | None = None,
        follow: bool = True,
    ) -> None:
        self.model, self.optimizer, self.loss, self.validate = model, optimizer, loss, validate
        self.schedule, self.steps, self.limit = schedule, steps, limit
        self.updates_made, self.forwards = 0, 0
        self._batches, self._step, self._seed, self._progress = batches, step, seed, progress
        self._cache: list[Any] = []
        self._source: Iterator[Any] | None = None
        self._epoch_began = 0
        self._start: list[Restore] = []
        self._driver, self._follow = driver_of(optimizer), follow
        self._loader_random: Restore | None = None
        if isinstance(batches, Iterator):
            raise InputError("batches: an iterator can be read only once. Pass what makes it: a list, a DataLoader.")
        check_loss_function("find", loss)
        self.bases = rates_of(optimizer)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Inside, runs can be made; afterwards everything is as before."""
        with preserved(self.model, self.optimizer, self._batches), ExitStack() as quiet:
            for owner in owners(self.optimizer):
                quiet.enter_context(owner.paused())  # attachments do not drive, watches do not see
            unshare(self.optimizer, "lr")
            seen: dict[int, Restore] = {}
            self._start = [capture_module(self.model, seen), capture_optimizer(self.optimizer, seen)]
            try:
                yield
            finally:
                self._cache, self._source, self._start = [], None, []

    @property
    def spent(self) -> float:
        """Cost so far, in updates."""
        return self.updates_made + self.forwards / 3

    @property
    def left(self) -> float:
        """What is left of the limit, in updates."""
        return self.limit - self.spent

    def run(self, rate: Callable[[int], float], length: int, shaped: bool = False) -> Iterator[float]:
        """Train from the start; yields the loss of each update, before it.

        Args:
            rate: update → rate of the first group; the others keep their ratio.
            length: Updates at most.
            shaped: Whether the schedule, compressed to `length`, multiplies the rate (and drives whatever else is attached).
        """
        for restore in self._start:
            restore()
        batches = self._cached(length)
        seed_everything(self._seed)
        loop = updates(self.model, self.optimizer, self.loss, batches, length, self._step)
        with closing(loop):
            for t in range(length):
                # The middle of the stretch of the real run that this update stands for.
                self._drive(rate(t), (t + 0.5) / length * self.steps - 0.5 if shaped else None)
                update = next(loop)
                self.updates_made += 1
                if self._progress is not None:
                    self._progress(min(self.spent, self.limit), self.limit)
                yield float(update.loss)

    def judge(self, lr: float, length: int, hopeless: float) -> float:
        """The loss after a short run of the compressed schedule with this peak rate; NaN where it diverged.

        Args:
            lr: Peak rate of the first group.
            length: Updates.
            hopeless: A loss beyond which the run is given up as diverged.
        """
        losses: list[float] = []
        for loss in self.run(lambda _: lr, length, shaped=True):
            losses.append(loss)
            if not math.isfinite(loss) or (len(losses) >= 3 and float(np.median(losses[-3:])) > hopeless):
                return math.nan
        if self.validate is None:
            return float(np.mean(losses[-max(1, math.ceil(length / 4)) :]))
        return self.validation_loss()

    def validation_loss(self) -> float:
        """The validation loss of the model as it is now."""
        if self.validate is None:
            raise InputError("find: there is no validate to ask.")
        depth = [0]

        def enter(_module: nn.Module, _args: object) -> None:
            depth[0] += 1
            if depth[0] == 1:
                self.forwards += 1
                if self.spent > self.limit:
                    raise OutOfBudget

        def leave(_module: nn.Module, _args: object, _out: object) -> None:
            depth[0] -= 1

        # Every module counts, so that a validate that calls a part of the model is not free; parts within parts do not.
        hooks: list[Any] = []
        for module in self.model.modules():
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
        try:
            value = validation(self.validate, self.model)["val_loss"]
        finally:
            for hook in hooks:
                hook.remove()
        return value if math.isfinite(value) else math.nan

    def _drive(self, lr: float, at: float | None) -> None:
        """Write the rates: `lr` for the first group, times the schedule at step `at` of the real run."""
        for base, group in zip(self.bases, self.optimizer.param_groups, strict=True):
            factor = 1.0 if at is None else self.schedule(at)
            if at is not None and self._driver is not None:
                for key in self._driver.plan.courses:
                    own = self._driver.plan.schedule_of(key, group)
                    if key == "lr":
                        if self._follow:
                            factor = 1.0 if own is None else own(at)
                    elif own is not None and BASE + key in group:
                        slot(key).put(group, own(at) * group[BASE + key])
            slot("lr").put(group, lr * factor * base / self.bases[0])

    def _cached(self, length: int) -> list[Any]:
        """The first `length` batches, the same for every run; read once, over as many epochs as it takes."""
        wanted = min(length, _MAX_CACHED)
        if len(self._cache) < wanted:
            # The loader goes on with random numbers of its own, so that no run sees what another drew.
            seed_everything(self._seed) if self._loader_random is None else self._loader_random()
        while len(self._cache) < wanted:
            before = len(self._cache)
            if self._source is None:
                self._source = iter(self._batches)
            self._cache += islice(self._source, wanted - before)
            if len(self._cache) < wanted:
                self._source = None  # the epoch is over
                if len(self._cache) == before == self._epoch_began:
                    raise InputError("find: the batches yielded nothing, so there is nothing to train on. Is the data set empty?")
                self._epoch_began = len(self._cache)
            self._loader_random = capture_random()
        return self._cache[:wanted]
