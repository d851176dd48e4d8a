"""Task: a training job as a value; train: the package's only loop.

The demo, the command line and the finder all train through `updates`. Knows models, batches, schedules and gauges; knows no data
set, no illness, no picture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrkit.binding.attach import attach
from lrkit.binding.driver import driver_of
from lrkit.binding.hooks import skipped
from lrkit.binding.rates import set_lr
from lrkit.errors import InputError, whole
from lrkit.gauges.watch import Watch, watch
from lrkit.run import Run
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template, resolved
from lrkit.schedules.text import as_schedule
from lrkit.snapshot import capture_random

Loss = Callable[[Any, Any], Tensor]
Step = Callable[[Any, Any, torch.optim.Optimizer], Tensor]
Validate = Callable[[Any], float | Mapping[str, float]]
Echo = Callable[[str], object]
Progress = Callable[[int, int], object]
Begun = tuple[nn.Module, torch.optim.Optimizer, Iterable[Any], Schedule]


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
        check_loss_function("Task", self.loss)
        object.__setattr__(self, "steps", whole("Task", "steps", self.steps, what="a whole number of updates"))


def train(
    task: Task,
    lr: float | None = None,
    schedule: str | Schedule | Template = "warmup 5% > cosine",
    seed: int = 0,
    out: str | Path | None = None,
    *,
    budget: float = 0.02,
    every: int | None = None,
    echo: Echo | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train a task from the start, its rate driven by a schedule, watched.

    Stops early where the loss is no longer finite: no update can mend that.

    Args:
        task: What to train.
        lr: Base rate of the first group; other groups keep their ratio to it. None: as the task's optimizer has it.
        schedule: What drives the rate over the task's steps.
        seed: Of Python's, NumPy's and torch's generators, whose own states are put back afterwards.
        out: Folder for ``run.jsonl``, which must not hold one yet.
        budget: Share of the time that gauges may take, as in `watch`; `every` likewise.
        echo: Called with a line an epoch: epoch, step, rate, mean loss.
        progress: Called with (updates done, updates in all).

    Returns:
        The run: ``step, loss, lr, epoch``, what gauges have read, and ``val_loss`` (and other ``val_…``) if the task validates.

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
    if not isinstance(task, Task):
        raise InputError(f"train({type(task).__name__}): needs an lrkit.Task. See examples/tabular.py.")
    restore = capture_random()
    try:
        seed_everything(seed)
        model, optimizer, batches, driven = begin(task, lr, schedule)
        base = float(optimizer.param_groups[0]["lrkit_base_lr"])
        meta = {"base_lr": base, "schedule": str(driven), "seed": seed, "steps": task.steps}
        with watch(model, optimizer, out, loss=task.loss, budget=budget, every=every, meta=meta) as w:
            loop = updates(model, optimizer, task.loss, batches, task.steps, task.step, lambda batch: w.record(batch=batch))
            _loop(task, model, loop, w, echo, progress)
        return w.run
    finally:
        restore()


def begin(task: Task, lr: float | None, schedule: str | Schedule | Template) -> Begun:
    """Model, optimizer and batches of a training that begins, and the schedule that drives its rate.

    Raises:
        InputError: If the task's optimizer is driven already, or the schedule cannot be resolved.
    """
    model, optimizer, batches = make(task)
    if lr is not None:
        set_lr(optimizer, lr)
    if driver_of(optimizer) is not None:
        raise InputError("train: the task's optimizer comes with schedules attached. Pass the schedule to train instead.")
    driven = resolved(as_schedule(schedule), task.steps, length_of(batches) or None)
    attach(optimizer, lr=driven)
    return model, optimizer, batches, driven


def check_loss_function(call: str, loss: object) -> None:
    """Refuse a loss module such as ``CrossEntropyLoss()``: it takes scores and labels, not the model and a batch.

    Raises:
        InputError: If `loss` is a module, or no function.
    """
    if isinstance(loss, nn.Module) or not callable(loss):
        example = "lambda model, batch: criterion(model(batch[0]), batch[1])"
        raise InputError(f"{call}(loss={type(loss).__name__}): loss takes the model and a batch. E.g. {example}.")


def make(task: Task) -> tuple[nn.Module, torch.optim.Optimizer, Iterable[Any]]:
    """What a task's factories make: model, optimizer, batches.

    Raises:
        InputError: If one of them makes something else.
    """
    model = task.model()
    if not isinstance(model, nn.Module):
        raise InputError(f"Task: model() must return a torch module, got {type(model).__name__}.")
    optimizer = task.optimizer(model.parameters())
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"Task: optimizer(params) must return a torch optimizer, got {type(optimizer).__name__}.")
    batches = task.batches()
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise InputError(f"Task: batches() must return what can be iterated, got {type(batches).__name__}.")
    return model, optimizer, batches


def _loop(task: Task, model: nn.Module, loop: Iterator[Update], w: Watch, echo: Echo | None, progress: Progress | None) -> None:
    """Go through the updates: amend the rows, validate at each epoch's end, stop where the loss is no longer finite."""
    losses: list[Tensor] = []  # of this epoch, for the line that is echoed
    for update in loop:
        if echo is not None:
            losses.append(update.loss)
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
            w.amend(**{name: value for name, value in validation(task.validate, model).items() if finite or name == "val_loss"})
        if (update.ends_epoch or last) and echo is not None:
            row = w.last
            val = f"  val_loss {row['val_loss']:.4f}" if "val_loss" in row else ""
            mean, losses = float(torch.stack(losses).mean()), []
            echo(f"epoch {update.epoch + 1:3d}  step {update.step + 1:5d}  rate {row['lr']:.3g}  loss {mean:.4f}{val}")
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
    seen: Callable[[Any], object] | None = None,
) -> Generator[Update, None, None]:
    """Make `steps` updates, one after each `next`, going over `batches` as often as needed; `seen` is told of each batch first.

    A `step` of one's own may skip an update (a scaler) or make one in several calls (accumulation): only updates that really
    happened are counted and yielded, with the mean loss of the calls that led to them. Where the loss is no longer finite and
    therefore none happens any more, that loss is yielded all the same.

    Raises:
        InputError: If `batches` is empty or cannot be iterated again, the loss is not one number, or `step` makes no update in
            1,000 calls or several in one.
    """
    if isinstance(batches, Iterator):  # asking iter() would already draw from the random state
        raise InputError("batches: an iterator can be read only once. Pass what makes it: a list, a DataLoader.")
    if not model.training:
        model.train()  # single parts in another mode are meant so
    made = _Made(optimizer)
    try:
        done = epoch = 0
        losses: list[Tensor] = []
        ended: int | None = None  # the epoch that has ended since the last update
        while done < steps:
            for batch, last in _marked(batches):
                before = made.updates
                if seen is not None:
                    seen(batch)
                losses.append(_one_call(model, optimizer, loss, batch, step))
                ended = epoch if last and ended is None else ended
                _check_made(made.updates - before, len(losses), step)
                if made.updates == before and step is not None and not _lost(losses):
                    continue
                mean = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
                yield Update(done, epoch if ended is None else ended, mean, ended is not None)
                done, losses, ended = done + 1, [], None
                if done == steps:
                    return
            epoch += 1
    finally:
        made.close()


class _Made:
    """Counts the updates that an optimizer really makes: once where step() calls its parent's, not where a scaler skips."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.updates, self._armed = 0, False
        self._handles = [optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after)]

    def _before(self, _optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        self._armed = True

    def _after(self, optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
        self.updates += self._armed and not skipped(optimizer)
        self._armed = False

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


_PATIENCE = 1000  # calls of a `step` without an update
_LOST = 8  # the same, each with a loss that is not finite


def _lost(losses: list[Tensor]) -> bool:
    """Whether a scaler will never make an update again, since the weights themselves are no longer finite."""
    return len(losses) >= _LOST and not bool(torch.isfinite(torch.stack(losses[-_LOST:])).any())


def _check_made(made: int, calls: int, step: Step | None) -> None:
    """Refuse a `step` that never, or more than once a call, updates the optimizer it is given."""
    if step is not None and made > 1:
        raise InputError(f"step(model, batch, optimizer): made {made} updates in one call. A call makes one, or none.")
    if step is not None and made == 0 and calls >= _PATIENCE:
        raise InputError(f"step(model, batch, optimizer): no update in {calls} calls. Call optimizer.step() in it.")


def _marked(batches: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each batch, and whether it is the epoch's last; drawn one ahead only where the number of batches is unknown."""
    length = length_of(batches)
    if length is not None:
        i = 0
        for i, batch in enumerate(batches, 1):
            yield batch, i == length
    else:
        i, held = 0, None
        for i, batch in enumerate(batches, 1):
            if i > 1:
                yield held, False
            held = batch
        if i:
            yield held, True
    if i == 0:
        raise InputError("batches: it yielded nothing, so there is nothing to train on. Is the data set empty?")


def length_of(batches: Iterable[Any]) -> int | None:
    """The number of batches of an epoch; None where nobody knows (a loader of a stream has a len that raises)."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:
        return None


def _one_call(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, batch: Any, step: Step | None) -> Tensor:
    if step is not None:
        value = step(model, batch, optimizer)
    else:
        optimizer.zero_grad()
        value = loss(model, batch)
        _check_loss(value)
        if not value.requires_grad:
            raise InputError("loss(model, batch): no trained weight leads to it. Is the model frozen, or the loss detached?")
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
        return {f"val_{name}": measure("validate(model)", f"{name} as a number", one) for name, one in value.items()}
    return {"val_loss": measure("validate(model)", "the validation loss as a number", value)}


def measure(call: str, what: str, value: object) -> float:
    """What a function of the user's returned, as a float, which may be NaN or infinite.

    Raises:
        InputError: If it is no number: `call` should have returned `what`.
    """
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)  # type: ignore[arg-type]  # that is the question
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{call}: must return {what}, got {type(value).__name__}.") from error


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators.

    Raises:
        InputError: If `seed` is no whole number of at least 0.
    """
    seed = whole("seed", "seed", seed, least=0)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
