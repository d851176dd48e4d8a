"""Settle: what a finding leaves in doubt, a probe decides, from the state that the run had at that step.

The state is made again: the same task, rate, schedule and seed, up to that step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from lrkit.errors import whole
from lrkit.finder.probe import Probe, probe
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template
from lrkit.snapshot import capture_random
from lrkit.task import Task, begin, seed_everything, updates

_LONGEST, _SHORTEST, _SHARE = 100, 10, 0.25  # updates of a probe's run, and their share of the task's


def settle(
    task: Task,
    step: int,
    lr: float | None = None,
    schedule: str | Schedule | Template = "warmup 5% > cosine",
    seed: int = 0,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Probe:
    """Train a task again up to a step, and probe there.

    Args:
        task: What was trained.
        step: Updates before the probe; at most those of the task less one.
        lr: As in `train`.
        schedule: As in `train`.
        seed: As in `train`.
        progress: Called with (updates done, updates in all), those of the probe's runs among them.

    Returns:
        What `probe` says, of a tenth and of three times the rate at that step.

    Raises:
        InputError: As `train` and `probe` do.
    """
    step = min(whole("settle", "step", step, least=0), task.steps - 1)
    steps = max(_SHORTEST, min(_LONGEST, round(_SHARE * task.steps)))
    restore = capture_random()
    try:
        seed_everything(seed)
        model, optimizer, batches, _ = begin(task, lr, schedule)
        if step > 0:
            with closing(updates(model, optimizer, task.loss, batches, step, task.step)) as loop:
                for update in loop:
                    if progress is not None:
                        progress(update.step + 1, step + 15 * steps)
        tell = None if progress is None else lambda done, _of: progress(step + done, step + 15 * steps)
        return probe(model, optimizer, task.loss, batches, steps=steps, step=task.step, seed=seed, progress=tell)
    finally:
        restore()
