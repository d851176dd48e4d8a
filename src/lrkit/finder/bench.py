"""The bench on which candidates run: the same start, the same batches, the same random numbers for each.

Plan the rates itself, so an attached schedule is paused and only asked for its shape. Counts every update and every forward
of `validate`. Knows no search.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lrkit.binding.driver import driver_of
from lrkit.binding.hooks import owners
from lrkit.binding.processes import agreed, parallel
from lrkit.binding.rates import rates_of
from lrkit.binding.record import BASE
from lrkit.binding.slots import slot, unshare
from lrkit.errors import InputError
from lrkit.finder.replay import Replay
from lrkit.finder.signals import Signals, signals_held
from lrkit.finder.stacked import Members, faster
from lrkit.schedules.base import Schedule
from lrkit.snapshot import Restore, capture_functions, capture_module, capture_optimizer, preserved
from lrkit.task import Loss, Step, Validate, check_loss_function, seed_everything, updates, validation

_PROBE = 0.02  # share of the limit that finding out about side by side may cost


class OutOfBudget(BaseException):
    """The limit was reached in a validation. Not an `Exception`, so that no ``except Exception`` carries on regardless."""


@dataclass(frozen=True)
class Judged:
    """One short run: what it is judged by, NaN where it diverged, and the losses of its updates."""

    loss: float
    losses: tuple[float, ...]


class Bench:
    """Runs a training from its present state under any rate, as often as wanted. Use inside ``with bench.open():``.

    Several processes that train one model see the same numbers: each loss and each validation is their mean, so that all of them
    decide alike, also where one of them sees a NaN.

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
        self._replay = Replay(batches, seed)
        self._start: list[Restore] = []
        self._driver, self._follow = driver_of(optimizer), follow
        self._signals = Signals()
        self._stacks: bool | None = None  # whether side by side is exact and faster; None before anybody asked
        check_loss_function("find", loss)
        for name, function in (("step", step), ("validate", validate), ("progress", progress)):
            if function is not None and not callable(function):
                raise InputError(f"find({name}={type(function).__name__}): {name} must be a function, or None.")
        if step is None and isinstance(optimizer, torch.optim.LBFGS):
            raise InputError("find(LBFGS): its step needs a closure. Pass step=, which makes one update your way.")
        self.bases = rates_of(optimizer)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Inside, runs can be made; afterwards everything is as before, and only then do handlers hear of signals that came."""
        self._check_alike()
        self._reshard()
        functions = (self.loss, self._step, self.validate)
        with (
            signals_held() as self._signals,
            preserved(self.model, self.optimizer, self._batches, *functions),
            ExitStack() as quiet,
        ):
            for owner in owners(self.optimizer):
                quiet.enter_context(owner.paused())  # attachments do not drive, watches do not see
            unshare(self.optimizer, "lr")
            seen: dict[int, Restore] = {}
            self._start = [
                capture_module(self.model, seen),
                capture_optimizer(self.optimizer, seen),
                capture_functions(functions, seen, self._batches, [*self.model.parameters(), *self.model.buffers()]),
            ]
            try:
                with self._signals.unwinding():
                    yield
            finally:
                self._reshard()
                self._start = []
                self._replay.forget()

    @property
    def spent(self) -> float:
        """Cost so far, in updates."""
        return self.updates_made + self.forwards / 3

    @property
    def left(self) -> float:
        """What is left of the limit, in updates."""
        return self.limit - self.spent

    def run(self, rate: Callable[[int], float], length: int, shaped: bool = False) -> Generator[float, None, None]:
        """Train from the start; yields the loss of each update, before it.

        Args:
            rate: update → rate of the first group; the others keep their ratio.
            length: Updates at most.
            shaped: Whether the schedule, compressed to `length`, multiplies the rate (and drives whatever else is attached).
        """
        self._begin()
        loop = updates(self.model, self.optimizer, self.loss, self._replay, length, self._step)
        with closing(loop):
            for t in range(length):
                self._drive(rate(t), self._place(t, length) if shaped else None)
                update = next(loop)
                self._made(1)
                yield agreed([float(update.loss)])[0]

    @property
    def batch_size(self) -> int | None:
        """Rows of the first batch in one process, where a batch has rows."""
        return self._replay.rows

    def judge(self, lr: float, length: int, hopeless: float, validated: bool) -> Judged:
        """A short run of the compressed schedule with this peak rate.

        Args:
            lr: Peak rate of the first group.
            length: Updates.
            hopeless: A loss beyond which the run is given up as diverged.
            validated: Whether it is judged by the validation loss after it, else by its training loss over the last quarter.
        """
        losses: list[float] = []
        with closing(self.run(lambda _: lr, length, shaped=True)) as run:
            for loss in run:
                losses.append(loss)
                if not math.isfinite(loss) or (len(losses) >= 3 and float(np.median(losses[-3:])) > hopeless):
                    return Judged(math.nan, tuple(losses))
        return self._judged(losses, validated)

    def may_try_together(self, members: int) -> bool:
        """Whether finding out about side by side is cheap beside the limit."""
        return self._step is None and 2 * members + 3 <= _PROBE * self.limit

    def judge_together(self, rates: Sequence[float], length: int, validated: bool) -> list[Judged] | None:
        """`judge` for several rates side by side, where a probe finds that as exact and faster; None where it does not.

        Args:
            rates: Peak rates of the first group.
            length: Updates of each.
            validated: As for `judge`.
        """
        if not self.may_try_together(len(rates)):
            return None
        self._begin()
        self._drive(max(rates), self._place(0, length))
        if self._stacks is None:
            verdict = faster(self.model, self.optimizer, self.loss, next(iter(self._replay)), rates)
            self.updates_made += verdict.updates
            self._stacks = verdict.yes
        if not self._stacks:
            return None
        self._begin()
        members = Members(self.model, self.optimizer, self.loss, rates)
        losses = []
        for t, batch in zip(range(length), self._replay, strict=False):
            self._drive(members.rate, self._place(t, length))
            losses.append(members.update(batch).tolist())
            self._made(len(rates))
        judged = []
        for k, own in enumerate(zip(*losses, strict=True)):
            self._begin()
            members.write(k)
            judged.append(self._judged(list(own), validated))
        return judged

    def validation_loss(self) -> float:
        """The validation loss of the model as it is now."""
        if self.validate is None:
            raise InputError("find: there is no validate to ask.")
        depth = [0]

        def enter(_module: nn.Module, _args: object) -> None:
            depth[0] += 1
            self._signals.check()
            if depth[0] == 1:
                self.forwards += 1
                if self.spent > self.limit and not parallel():  # one of several must not leave the others waiting
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
        value, forwards = agreed([value, self.forwards])
        self.forwards = math.ceil(forwards)
        return value if math.isfinite(value) else math.nan

    def _check_alike(self) -> None:
        """Refuse, in every process, what would let one of them wait for the others for ever.

        Raises:
            InputError: If the processes were not given the same.
        """
        own = {
            "steps": self.steps, "schedule": str(self.schedule), "limit": self.limit, "seed": self._seed, "rates": self.bases,
            "step": self._step is not None, "validate": self.validate is not None,
        }  # fmt: skip
        sums = [float(zlib.crc32(repr(value).encode())) for value in own.values()]
        others = agreed([mine != mean for mine, mean in zip(sums, agreed(sums), strict=True)])
        differ = [f"{name} (here {value!r})" for (name, value), differs in zip(own.items(), others, strict=True) if differs]
        if differ:
            raise InputError(f"find: the processes differ in {', '.join(differ)}. Pass the same in each of them.")

    def _reshard(self) -> None:
        """Leave sharded modules (FSDP) their own part only: those that a validation left whole cannot be put back."""
        for module in self.model.modules():
            reshard = getattr(module, "reshard", None)
            if callable(reshard):
                reshard()

    def _begin(self) -> None:
        """Everything as it was at the start."""
        self._reshard()
        for restore in self._start:
            restore()
        seed_everything(self._seed)

    def _place(self, t: int, length: int) -> float:
        """The middle of the stretch of the real run that update t of a short one stands for, in steps."""
        return (t + 0.5) / length * self.steps - 0.5

    def _made(self, updates: int) -> None:
        self.updates_made += updates
        self._signals.check()
        if self._progress is not None:
            self._progress(min(self.spent, self.limit), self.limit)

    def _judged(self, losses: list[float], validated: bool) -> Judged:
        """What a finished run is judged by; the model is as it left it."""
        if not all(map(math.isfinite, losses)):
            return Judged(math.nan, tuple(losses))
        verdict = self.validation_loss() if validated else float(np.mean(losses[-math.ceil(len(losses) / 4) :]))
        return Judged(verdict, tuple(losses))

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
