"""`find`: which rate? Tiny runs bracket, short runs of the real, compressed schedule decide, a belief about the basin chooses.

How far one update at rate 1 moves the weights says where to begin, so neither the loss's scale nor the rate that the optimizer
had matters. All runs start from the same weights, on the same batches, with the same random numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lrkit.binding.driver import driver_of
from lrkit.binding.processes import world_size
from lrkit.errors import InputError, real, whole
from lrkit.finder.bench import Bench, OutOfBudget
from lrkit.finder.rungs import Answer, Search
from lrkit.finder.signals import Interrupted
from lrkit.finder.suggestion import Suggestion
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template, resolved
from lrkit.schedules.text import as_schedule
from lrkit.snapshot import capture_random
from lrkit.task import Loss, Step, Task, Validate, length_of, make, seed_everything

_DEFAULT = "warmup 5% > cosine"


def find(
    model: nn.Module | Task,
    optimizer: torch.optim.Optimizer | None = None,
    loss: Loss | None = None,
    batches: Iterable[Any] | None = None,
    steps: int | None = None,
    schedule: str | Schedule | Template | None = None,
    step: Step | None = None,
    validate: Validate | None = None,
    budget: float = 0.25,
    max_steps: int | None = None,
    seed: int = 0,
    *,
    progress: Callable[[float, float], object] | None = None,
) -> Suggestion:
    """Find the learning rate of a training: of live objects, which are left as they were, or of a Task.

    Under several processes every one of them must call it, with the same arguments but its own batches, and gets the same answer.
    Where one of them alone raises, the others wait until torch's timeout, as in any such training.

    Args:
        model: The model; or a Task, which brings everything but `schedule`, `budget`, `max_steps` and `seed`.
        optimizer: Its optimizer. Groups keep the ratio of their rates; the rate that is found is the first group's.
        loss: ``(model, batch) → Tensor`` of one number.
        batches: A loader that can be iterated again (a list, a DataLoader).
        steps: Updates of the real run, which short runs compress. May be left out where an attached schedule has an end.
        schedule: Of the real run. None: the attached one, else ``"warmup 5% > cosine"``.
        step: ``(model, batch, optimizer) → loss`` in place of forward, backward and update (clipping, AMP, accumulation).
        validate: ``(model) → float`` ranks the candidates; without it the training loss does.
        budget: What the search may cost, in training runs; every forward of `validate` counts a third of an update.
        max_steps: Longest short run, in updates.
        seed: Of the search.
        progress: Called with (spent, limit) in updates.

    Returns:
        A Suggestion; its status says how far to trust it. Where nothing can be said, `lr` is the untouched rate.

    Raises:
        InputError: If an argument is missing or breaks its rule, or there are no batches.
    """
    if isinstance(model, Task):
        if any(given is not None for given in (optimizer, loss, batches, steps, step, validate)):
            raise InputError("find(task, …): the Task brings optimizer, loss, batches, steps, step and validate. Leave them out.")
        return _find_task(model, schedule, budget, max_steps, seed, progress)
    if optimizer is None or loss is None or batches is None:
        raise InputError("find(model, optimizer, loss, batches, steps=…): all of them are needed, or one Task.")
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        came = f"{type(model).__name__}, {type(optimizer).__name__}"
        raise InputError(f"find({came}, …): needs a torch module and its optimizer, in this order.")
    shape, steps = _plan(optimizer, schedule, steps, batches)
    budget = real("find", "budget", budget, above=0.0)
    max_steps = None if max_steps is None else whole("find", "max_steps", max_steps)
    follow = schedule is None  # the attached one, where there is one
    bench = Bench(model, optimizer, loss, batches, shape, steps, step, validate, seed, budget * steps, progress, follow)
    started = time.perf_counter()
    with bench.open():
        search = Search(bench, min(max_steps or steps, steps))
        try:
            answer = search.go()
        except (OutOfBudget, Interrupted):
            answer = search.so_far()
    seconds = time.perf_counter() - started
    context = {
        "schedule": str(shape), "horizon": steps, "bases": bench.bases, "optimizer": type(optimizer).__name__,
        "batch_size": bench.batch_size, "processes": world_size(), "clip": _clipping(optimizer, step), "seed": seed,
        "budget": budget, "validated": search.validated,
    }  # fmt: skip
    return _suggestion(bench, search, answer, seconds, context)


def _suggestion(bench: Bench, search: Search, answer: Answer, seconds: float, context: dict[str, Any]) -> Suggestion:
    return Suggestion(
        lr=answer.lr, factor=answer.lr / bench.bases[0], low=answer.low, high=answer.high, status=answer.status,
        cost=bench.spent / bench.steps, steps=bench.updates_made, seconds=seconds, base_lr=answer.turn / 4, max_lr=answer.turn,
        trials=tuple(search.trials), fit=answer.fit, untrained=search.untrained, context=context,
    )  # fmt: skip


def _clipping(optimizer: torch.optim.Optimizer, step: Step | None) -> str:
    """What clips the gradient, as far as it can be seen from here."""
    own = getattr(optimizer, "clip", None)
    return str(own) if own is not None else "none" if step is None else "as step does"


def _find_task(
    task: Task,
    schedule: str | Schedule | Template | None,
    budget: float,
    max_steps: int | None,
    seed: int,
    progress: Callable[[float, float], object] | None,
) -> Suggestion:
    """Make what the task describes, and search on it."""
    restore = capture_random()
    try:
        seed_everything(seed)
        model, optimizer, batches = make(task)
        return find(
            model, optimizer, task.loss, batches, task.steps, schedule, task.step, task.validate,
            budget, max_steps, seed, progress=progress,
        )  # fmt: skip
    finally:
        restore()


def _plan(
    optimizer: torch.optim.Optimizer,
    schedule: str | Schedule | Template | None,
    steps: int | None,
    batches: Iterable[Any],
) -> tuple[Schedule, int]:
    """The real run's schedule and its updates."""
    driver = driver_of(optimizer)
    if schedule is None and driver is not None:
        own = driver.plan.schedule_of("lr", optimizer.param_groups[0])
        if own is not None:
            schedule = own
    if steps is None and isinstance(schedule, Schedule):
        steps = schedule.steps
    steps = whole("find", "steps", steps, what="the number of updates of the real run")
    per_epoch = length_of(batches)
    return resolved(as_schedule(_DEFAULT if schedule is None else schedule), steps, per_epoch or None), steps
