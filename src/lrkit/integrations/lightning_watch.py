"""lrkit's `Watch` inside Lightning: `lrkit.watch` on a fit's optimizers, as a callback.

Knows the order in which Lightning calls: an update's batch, then, inside of the optimizer's step, its loss. What is measured, and
when, it leaves to `lrkit.watch`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrkit.errors import MissingExtra
from lrkit.gauges.recorder import Sink
from lrkit.gauges.watch import Watch as Watched
from lrkit.integrations.watching import Loss, Watching, check, place, run_of
from lrkit.run import Run

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise MissingExtra("lrkit.integrations.lightning", "lightning", "lightning") from error


class Watch(Callback):
    """Watches a fit: ``Trainer(callbacks=[Watch("runs/first")])``.

    Each update's loss is recorded, as ``training_step`` gives it, the mean over accumulated batches; after a validation what it
    logged, as ``val_…``. Weights are the same to the bit as without it.

    Args:
        path: Folder for the run. A fit that is resumed, or a second one of the same Trainer, writes beside it, to ``<path>-2``;
            of several optimizers each has a folder inside, ``<path>/0``. None: in memory only.
        loss: ``(module, batch) → loss``, for gain, noise and curvature, which evaluate the batch again: in the Trainer's
            precision. It must not log; a ``training_step`` that logs is none. None: without these.
        budget: As for `lrkit.watch`.
        every: As for `lrkit.watch`.
        sinks: As for `lrkit.watch`; in several processes the first hands over.
        meta: As for `lrkit.watch`.

    Attributes:
        watches: What `lrkit.watch` made, one an optimizer, from the start of the training on: to record more, or for curvature.

    Raises:
        InputError: As `lrkit.watch`.
        FileError: At the start of a new training, if `path` holds a run.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        loss: Loss | None = None,
        budget: float = 0.02,
        every: int | None = None,
        sinks: Iterable[Sink] = (),
        meta: dict[str, Any] | None = None,
    ) -> None:
        self._path, self._loss = path, loss
        sinks = (sinks,) if callable(sinks) else tuple(sinks)
        self._given: dict[str, Any] = {"budget": budget, "every": every, "sinks": sinks, "meta": meta}
        check({**self._given, "loss": loss})
        self.watches: list[Watched] = []
        self._each: list[Watching] = []
        self._optimizers: list[Optimizer] = []
        self._alone = self._begins = self._fresh = True
        self._said: list[Tensor] = []  # losses of which nobody knows yet whose they are

    @property
    def run(self) -> Run:
        """What has been seen so far.

        Raises:
            StateError: Before the training, and where there are several optimizers, which have `runs`.
        """
        return run_of(self.watches, "Watch")

    @property
    def runs(self) -> list[Run]:
        """One an optimizer."""
        return [one.run for one in self.watches]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enter a watch on each optimizer; a checkpoint has been restored by now."""
        self._close()
        done, self._optimizers = trainer.global_step, list(trainer.optimizers)
        several = len(self._optimizers) > 1
        given = self._given if trainer.is_global_zero else {**self._given, "sinks": ()}
        given = {**given, "loss": None if self._loss is None else _in_precision(trainer, self._loss)}
        for i, optimizer in enumerate(self._optimizers):
            path = place(self._path, done > 0, i if several else None)
            self._each.append(Watching(pl_module, optimizer, path, _steps(optimizer, done, several), given))
        self.watches = [one.watch for one in self._each]
        self._alone, self._begins, self._said = not several, True, []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Tell of the batch; a first one begins a new update."""
        if self._alone and self._begins:
            for one in self._each:
                one.begin()
        self._begins, self._fresh = False, True
        for one in self._each:
            if not self._alone:
                one.begin()
            one.batch(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Tell of the loss, without what Lightning multiplied it by: the share of an accumulated batch, a scaler's factor."""
        value, automatic = loss.detach(), pl_module.automatic_optimization
        if automatic and not self._fresh:
            return  # an optimizer that evaluates a batch several times: the first loss is the one before the update
        self._fresh = False
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            value = value / scaler.scale(torch.ones_like(value))
        if automatic and trainer.accumulate_grad_batches > 1:
            value = value * trainer.accumulate_grad_batches
        if self._alone:
            for one in self._each:
                one.loss(value)
        else:
            self._said.append(value.clone())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        """An update comes. Of several optimizers, it is the one whose loss it was, if there was but one since the last update."""
        self._begins = True
        said, self._said = self._said, []
        if len(said) == 1:
            for one, its in zip(self._each, self._optimizers, strict=True):
                if its is optimizer:
                    one.loss(said[0])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Amend what the validation logged."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged = trainer._logger_connector.metrics["callback"]  # of this loop; trainer.callback_metrics holds the training's too
        names = {name: re.sub(r"\W", "_", name) for name in logged}
        values = {new if new.startswith("val") else f"val_{new}": logged[name] for name, new in names.items()}
        for one in self._each:
            one.amend(values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Leave the watch."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Leave the watch, with all rows there are."""
        self._close()

    def _close(self) -> None:
        each, self._each = self._each, []
        for one in each:
            one.close()


def _in_precision(trainer: Trainer, loss: Loss) -> Loss:
    """The loss as the Trainer would evaluate it, under autocast where it does."""

    def evaluated(module: Any, batch: Any) -> Tensor:
        with trainer.precision_plugin.forward_context():
            return loss(module, batch)

    return evaluated


def _steps(optimizer: Optimizer, done: int, several: bool) -> int:
    """Updates that an optimizer has made: as its schedule says, or its own state, or, where it is alone, the Trainer."""
    if done == 0:
        return 0
    for group in optimizer.param_groups:
        if "lrkit_step" in group:
            return int(group["lrkit_step"])
    if not several:
        return done
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)
