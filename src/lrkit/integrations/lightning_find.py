"""How `find` searches inside Lightning: a quiet Trainer begins a fit, and in place of its first batch comes `lrkit.find`.

So whatever Lightning sets up is set up by Lightning. Knows Lightning's Trainer and strategies; which callbacks take part, and
that there are schedules among them, it is told.
"""

import copy
import inspect
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

from lrkit.binding.attach import attached
from lrkit.binding.slots import slot
from lrkit.errors import InputError, MissingExtra, StateError
from lrkit.finder.search import find as search
from lrkit.finder.suggestion import Suggestion
from lrkit.integrations.finding import Windows, ending, kept, of_updates, validation_batches
from lrkit.integrations.torch import Passive
from lrkit.schedules.parts import Hold
from lrkit.snapshot import preserved

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers.logger import DummyLogger
    from lightning.pytorch.strategies import SingleDeviceStrategy
except ModuleNotFoundError as error:
    raise MissingExtra("lrkit.integrations.lightning", "lightning", "lightning") from error


def check_findable(trainer: Trainer, module: LightningModule) -> None:
    """Refuse what cannot be searched with.

    Raises:
        InputError: If one of the two is something else, there are several processes, or optimization is manual.
        StateError: If the Trainer has been fitted.
    """
    if not isinstance(trainer, Trainer) or not isinstance(module, LightningModule):
        came = f"{type(trainer).__name__}, {type(module).__name__}"
        raise InputError(f"find({came}): needs the Trainer and the LightningModule, in this order; before torch.compile.")
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        raise InputError(
            f"find(trainer): it searches in one process, and the Trainer has a {type(trainer.strategy).__name__} over "
            f"{trainer.world_size}. Give it a Trainer(devices=1) that accumulates as many times more batches: the same updates."
        )
    if not module.automatic_optimization:
        raise InputError("find(trainer, module): optimization is manual, so its steps are its own. Call lrkit.find with step=….")
    if trainer.global_step:
        raise StateError(f"find(trainer): it has made {trainer.global_step} updates. Find before fit.")


@contextmanager
def as_it_was(module: LightningModule, datamodule: Any, loaders: list[Any]) -> Iterator[None]:
    """Afterwards the module, its data and whatever optimizer it holds already are as before; a second Trainer is not announced.

    Args:
        module: The module.
        datamodule: The LightningDataModule, or None.
        loaders: What is given to ``fit`` for loaders.
    """
    own = [*vars(module).values(), *(vars(datamodule).values() if datamodule is not None else ())]
    sources = [one for one in own if isinstance(one, DataLoader | Dataset | Sampler | torch.Generator)]
    optimizers = [one for one in own if isinstance(one, Optimizer)]
    groups = [group for one in optimizers for group in one.param_groups]
    places = {p.device for p in module.parameters()}
    things = [*optimizers, *groups, *([] if datamodule is None else [datamodule])]
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with preserved(module, None, [*sources, *loaders]), kept(*things):
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
            if len(places) == 1 and {p.device for p in module.parameters()} != places:
                module.to(places.pop())


def quiet(trainer: Trainer, callbacks: list[Callback]) -> Trainer:
    """A Trainer that makes the same updates, and shows and writes nothing.

    Args:
        trainer: The Trainer.
        callbacks: Its callbacks.
    """
    device = trainer.strategy.root_device
    return Trainer(
        accelerator=trainer.accelerator, devices=[device.index] if device.type == "cuda" else 1,
        plugins=[copy.deepcopy(trainer.precision_plugin)], max_epochs=trainer.max_epochs, max_steps=trainer.max_steps,
        limit_train_batches=trainer.limit_train_batches, overfit_batches=trainer.overfit_batches,
        accumulate_grad_batches=trainer.accumulate_grad_batches, gradient_clip_val=trainer.gradient_clip_val,
        gradient_clip_algorithm=trainer.gradient_clip_algorithm, callbacks=callbacks, logger=DummyLogger(),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=trainer.limit_val_batches, log_every_n_steps=1,
    )  # fmt: skip


class Found(Exception):
    """Leaves the fit."""


class Seeker(Callback):
    """Searches in place of the first batch, and leaves. What goes wrong is kept for outside: Lightning would end the process at
    Ctrl-C.
    """

    def __init__(self, steps: int | None, schedule: Any, validate: Any, given: dict[str, Any]) -> None:
        self._steps, self._schedule, self._validate, self._given = steps, schedule, validate, given
        self._suggestion: Suggestion | None = None
        self._error: BaseException | None = None

    def answer(self) -> Suggestion:
        """What was found, or went wrong."""
        if self._error is not None:
            raise self._error
        if self._suggestion is None:
            raise InputError("find(trainer, module): its fit has no batch to train on. Look at the data and limit_train_batches.")
        return self._suggestion

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count the updates, and limit the batches of a validation before they are loaded."""
        if self._steps is None:
            steps = trainer.estimated_stepping_batches
            if not 0 < steps < math.inf:
                raise InputError("find(trainer, module): nobody knows how many updates the fit will make. Say steps=….")
            self._steps = int(steps)
        most = validation_batches(self._steps, self._given["budget"]) if isinstance(self._validate, str) else 0
        limit = trainer.limit_val_batches  # a number of batches, or a share of them
        trainer.limit_val_batches = most if isinstance(limit, float) and limit else min(limit, most)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_batch: Any) -> None:
        """Search: all hooks of the beginning have been called."""
        try:
            self._suggestion = self._search(trainer, pl_module)
        except BaseException as error:
            self._error = error
        raise Found

    def _search(self, trainer: Trainer, module: LightningModule) -> Suggestion:
        if len(trainer.optimizers) != 1:
            raise InputError(
                f"find(trainer, module): configure_optimizers gives {len(trainer.optimizers)} optimizers, and it seeks one rate. "
                "Call lrkit.find with each of them and step=…."
            )
        optimizer, loader = trainer.optimizers[0], trainer.train_dataloader
        if isinstance(loader, Mapping | list | tuple):
            raise InputError("find(trainer, module): there are several training loaders. Pass one that gives what they give.")
        most = trainer.num_training_batches
        windows = Windows(loader, trainer.accumulate_grad_batches, None if most == math.inf else int(most))
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        update, schedule = _Update(trainer), self._shape(trainer, optimizer)
        validate = partial(_logged, update, self._validate) if isinstance(self._validate, str) else self._validate
        step = ending(update, scaler)
        found = search(module, optimizer, update.loss, windows, self._steps, schedule, step, validate, **self._given)
        return of_updates(found, trainer.accumulate_grad_batches)

    def _shape(self, trainer: Trainer, optimizer: Optimizer) -> Any:
        """What `lrkit.find` takes for the schedule of the real run; None: the attached one."""
        foreign = [one.scheduler for one in trainer.lr_scheduler_configs if not isinstance(one.scheduler, Passive)]
        if foreign and self._schedule is None:
            raise InputError(
                f"find(trainer, module): configure_optimizers returns a {type(foreign[0]).__name__}, whose shape cannot be told. "
                "Say schedule=, e.g. schedule='warmup 5% > cosine'."
            )
        for group in optimizer.param_groups if foreign else ():
            if "initial_lr" in group:
                slot("lr").put(group, group.pop("initial_lr"))
        drives = any("lr" in one.schedules for one in attached(optimizer))
        return self._schedule if drives or self._schedule is not None else Hold()


@dataclass(frozen=True, slots=True)
class _Update:
    """One update of the fit. With slots, for a search looks through the attributes of what it calls and puts back what it finds
    there, and this Trainer is thrown away.
    """

    trainer: Trainer

    def __call__(self, module: Any, window: list[tuple[int, Any]], optimizer: Optimizer) -> Tensor:
        losses: list[Tensor] = []
        for i, (index, batch) in enumerate(window, 1):
            batch = self._moved(module, batch)
            module.on_train_batch_start(batch, index)
            backward = partial(self._backward, module, batch, index, optimizer, losses, fresh=i == 1)
            if i < len(window):
                backward()
            else:
                module.optimizer_step(self.trainer.current_epoch, index, module.optimizers(), backward)
            module.on_train_batch_end({"loss": losses[-1]}, batch, index)
        return torch.stack(losses).mean()

    def loss(self, module: Any, window: list[tuple[int, Any]]) -> Tensor:
        """The mean loss of the batches of one update."""
        return torch.stack([self._loss(module, self._moved(module, batch), index) for index, batch in window]).mean()

    @torch.enable_grad()
    def _backward(self, module: Any, batch: Any, index: int, optimizer: Optimizer, losses: list[Tensor], fresh: bool) -> Tensor:
        """What Lightning gives the optimizer as its closure: forward, zero the gradients where an update begins, backward."""
        loss = self._loss(module, batch, index)
        if fresh:
            module.on_before_zero_grad(optimizer)
            module.optimizer_zero_grad(self.trainer.current_epoch, index, optimizer)
        self.trainer.strategy.backward(loss / self.trainer.accumulate_grad_batches, optimizer)
        losses.append(loss.detach())
        return losses[-1]

    def _loss(self, module: Any, batch: Any, index: int) -> Tensor:
        takes = inspect.signature(module.training_step).parameters.values()
        one = len(takes) == 1 and not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in takes)
        output = self.trainer.strategy.training_step(*((batch,) if one else (batch, index)))
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            raise InputError("find(trainer, module): training_step gave no loss. It must return a tensor, or a dict with 'loss'.")
        return loss

    def _moved(self, module: Any, batch: Any) -> Any:
        """The batch on the device, by all hooks that it passes."""
        batch = module._on_before_batch_transfer(self.trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
        return self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def _logged(update: _Update, name: str, _module: Any) -> float:
    """What Lightning's own validation logs under a name."""
    trainer = update.trainer
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True
    if name not in trainer.callback_metrics:
        have = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
        raise InputError(f"find(validate={name!r}): the validation logs {have}. Name a loss that it logs, or pass a function.")
    return float(trainer.callback_metrics[name])
