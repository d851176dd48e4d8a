"""Task: a training job as a value; train: the package's only loop.

The demo, the command line and the finder all train through `updates`. Knows models, batches, schedules and gauges; knows no data
set, no illness, no picture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrkit.binding.attach import attach, attached
from lrkit.errors import InputError
from lrkit.gauges.watch import Watch, watch
from lrkit.run import Run
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template, resolved
from lrkit.schedules.text import as_schedule
from lrkit.snapshot import capture_random

Loss = Callable[[Any, Any], Tensor]
Step = Callable[[Any, Any, torch.optim.Optimizer], Tensor]
Validate = Callable[[Any], float | Mapping[str, float]]


@dataclass(frozen=True)
class Task:
    """A training job as a value: everything that a training needs except the rate and its schedule.

    Args:
        model: ``() → nn.Module``: a new, untrained model.
        loss: ``(model, batch) → Tensor``: the loss of one batch, one number.
        batches: ``() → iterable of batches``: what one epoch iterates over; called once, iterated again every epoch.
        optimizer: ``(params) → Optimizer``; its lr is the base rate where none is given.
        steps: Optimizer updates of the whole run, at least 1.
        step: ``(model, batch, optimizer) → loss`` in place of forward, backward and update (clipping, AMP, accumulation).
        validate: ``(model) → float``: the validation loss; or ``{"loss": …, "accuracy": …}``. Called in eval mode, without
            gradients, after every epoch and at the end.

    Raises:
        InputError: If a factory is not callable or `steps` is below 1.
    """

    model: Callable[[], nn.Module]
    loss: Loss
    batches: Callable[[], Iterable[Any]]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    steps: int
    step: Step | None = None
    validate: Validate | None = None

    def __post_init__(self) -> None:
        for name in ("model", "loss", "batches", "optimizer", "step", "validate"):
            value = getattr(self, name)
            if not callable(value) and not (value is None and name in ("step", "validate")):
                hint = f"Pass lambda: {name}." if name in ("model", "batches") else "Pass a function."
                raise InputError(f"Task({name}=…): {name} must be a function, got {type(value).__name__}. {hint}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"Task(steps={self.steps!r}): steps must be a whole number of updates, at least 1.")


def train(
    task: Task,
    lr: float | None = None,
    schedule: str | Schedule | Template = "warmup 5% > cosine",
    seed: int = 0,
    out: str | Path | None = None,
    *,
    echo: Callable[[str], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Run:
    """Train a task from the start, its rate driven by a schedule, watched.

    Stops early where the loss is no longer finite: no update can mend that.

    Args:
        task: What to train.
        lr: Base rate of the first group; other groups keep their ratio to it. None: as the task's optimizer has it.
        schedule: What drives the rate over the task's steps.
        seed: Of Python's, NumPy's and torch's generators, whose own states are put back afterwards.
        out: Folder for ``run.jsonl``, which must not hold one yet.
        echo: Called with a line an epoch: epoch, step, rate, loss.
        progress: Called with (updates done, updates in all).

    Returns:
        The run: ``step, loss, lr, epoch, grad_norm, update_ratio``, and ``val_loss`` (and other ``val_…``) where the task
        validates.

    Raises:
        InputError: If there are no batches, the schedule cannot be resolved, or the untrained model's loss is not finite.
        FileError: If `out` holds a run already.

    Examples:
        >>> import torch
        >>> task = Task(
        ...     model=lambda: torch.nn.Linear(2, 1),
        ...     loss=lambda model, batch: model(batch).square().mean(),
        ...     batches=lambda: [torch.ones(4, 2)] * 5,
        ...     optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        ...     steps=10,
        ... )
        >>> train(task)["lr"].round(3)
        array([0.1  , 0.1  , 0.097, 0.088, 0.075, 0.059, 0.041, 0.025, 0.012,
               0.003])
    """
    restore = capture_random()
    try:
        seed_everything(seed)
        model = task.model()
        optimizer = task.optimizer(model.parameters())
        if lr is not None:
            set_lr(optimizer, lr)
        batches = task.batches()
        per_epoch = len(batches) if isinstance(batches, Sized) else None
        if attached(optimizer) is None:
            driven = resolved(as_schedule(schedule), task.steps, per_epoch or None)
            attach(optimizer, lr=driven)
        else:
            raise InputError(
                "train: the task's optimizer comes with schedules attached. Pass the schedule to train instead."
            )
        base = float(optimizer.param_groups[0]["lrkit_base_lr"])
        meta = {"base_lr": base, "schedule": str(driven), "seed": seed, "steps": task.steps}
        loop = updates(model, optimizer, task.loss, batches, task.steps, task.step)
        with watch(model, optimizer, out, meta=meta) as w:
            _loop(task, model, loop, w, echo, progress)
        return w.run
    finally:
        restore()


def _loop(
    task: Task,
    model: nn.Module,
    loop: Iterator[Update],
    w: Watch,
    echo: Callable[[str], object] | None,
    progress: Callable[[int, int], object] | None,
) -> None:
    """Go through the updates: amend the rows, validate at each epoch's end, stop where the loss is no longer finite."""
    for update in loop:
        w.amend(loss=update.loss, epoch=update.epoch)
        # Each look at the loss waits for the device, so between the first updates and an epoch's end it is rare.
        looked = update.step < 10 or update.step % 10 == 0 or update.ends_epoch or update.step == task.steps - 1
        finite = not looked or math.isfinite(float(update.loss))
        if update.step == 0 and not finite:
            raise InputError(
                f"train: the loss of the untrained model is {float(update.loss)}, which no rate can mend. Look at the "
                "first batch and the loss function: a NaN or an infinity in the data, a log or a division of 0."
            )
        last = update.step == task.steps - 1 or not finite
        if (update.ends_epoch or last) and task.validate is not None:
            w.amend(
                **{
                    name: value
                    for name, value in validation(task.validate, model).items()
                    if finite or name == "val_loss"
                }
            )
        if (update.ends_epoch or last) and echo is not None:
            row = w.last
            val = f"  val_loss {row['val_loss']:.4f}" if "val_loss" in row else ""
            echo(
                f"epoch {update.epoch + 1:3d}  step {update.step + 1:5d}  rate {row['lr']:.3g}  loss {row['loss']:.4f}{val}"
            )
        if progress is not None:
            progress(update.step + 1, task.steps)
        if not finite:
            w.add_meta(stopped=f"the loss was {float(update.loss)} at step {update.step}")
            return


@dataclass(frozen=True)
class Update:
    """One update that was made: its step and epoch (from 0), its loss (before the update), whether it ended an epoch."""

    step: int
    epoch: int
    loss: Tensor
    ends_epoch: bool


def updates(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Iterable[Any],
    steps: int,
    step: Step | None = None,
) -> Iterator[Update]:
    """Make `steps` updates, one after each `next`, going over `batches` as often as needed, the model in train mode.

    Raises:
        InputError: If `batches` is empty or cannot be iterated again, or the loss is not one number.
    """
    if iter(batches) is batches:
        raise InputError("batches: an iterator can be read only once. Pass what makes it: a list, a DataLoader.")
    model.train()
    done = epoch = 0
    while done < steps:
        pending: Any = _NOTHING
        # One batch ahead, to know which update ends the epoch; the end of the run does not draw one in vain.
        for batch in batches:
            if pending is not _NOTHING:
                yield Update(done, epoch, _one_update(model, optimizer, loss, pending, step), ends_epoch=False)
                done += 1
                if done == steps:
                    return
            pending = batch
        if pending is _NOTHING:
            raise InputError("batches: it yielded nothing, so there is nothing to train on. Is the data set empty?")
        yield Update(done, epoch, _one_update(model, optimizer, loss, pending, step), ends_epoch=True)
        done, epoch = done + 1, epoch + 1


_NOTHING = object()


def _one_update(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, batch: Any, step: Step | None
) -> Tensor:
    if step is not None:
        value = step(model, batch, optimizer)
    else:
        optimizer.zero_grad()
        value = loss(model, batch)
        _check_loss(value)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    _check_loss(value)
    return value.detach()


def _check_loss(value: object) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        came = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"loss(model, batch): must return a tensor of one number, got {came}. Take its mean.")


def validation(validate: Validate, model: nn.Module) -> dict[str, float]:
    """``{"val_loss": …}`` and the task's other measures, taken in eval mode without gradients; modes are put back.

    Raises:
        InputError: If `validate` returns neither a number nor a mapping with a ``loss``.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            value = validate(model)
    finally:
        for module, mode in modes:
            module.training = mode
    if isinstance(value, Mapping):
        if "loss" not in value:
            raise InputError(f"validate(model): the mapping must hold 'loss', got {', '.join(map(str, value))}.")
        return {f"val_{name}": float(one) for name, one in value.items()}
    try:
        return {"val_loss": float(value)}
    except (TypeError, ValueError) as error:
        raise InputError(f"validate(model): must return the validation loss, got {type(value).__name__}.") from error


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the first group's rate, and the others' in the same proportion.

    Raises:
        InputError: If `lr` is not a finite number above 0, or the first group's rate is 0.
    """
    from lrkit.binding.record import number_in, unshare, write

    if isinstance(lr, bool) or not isinstance(lr, int | float) or not math.isfinite(lr) or lr <= 0:
        raise InputError(f"lr={lr!r}: the learning rate must be a finite number above 0.")
    unshare(optimizer, "lr")
    first = number_in(optimizer.param_groups[0], "lr")
    if first == 0:
        raise InputError(
            "lr: the first group's rate is 0, so the others have no ratio to it. Build the optimizer with one."
        )
    for group in optimizer.param_groups:
        write(group, "lr", float(lr) * (number_in(group, "lr") / first))
