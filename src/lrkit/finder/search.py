"""`find`: bracket the rate by a ramp, then decide by short runs of the real, compressed schedule.

The ramp's range comes from the net itself (how far one update at rate 1 moves the weights), so neither the loss's scale nor the
rate that the optimizer had matters. Candidates half a decade apart run a short horizon; around the best of them a longer one
decides; a parabola through the three refines. All on the same batches with the same random numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrkit.binding.driver import driver_of
from lrkit.errors import InputError, real, whole
from lrkit.finder.bench import Bench, OutOfBudget
from lrkit.finder.ramp import noise_of, ramp
from lrkit.finder.suggestion import Status, Suggestion, Trial
from lrkit.run import Run
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template, resolved
from lrkit.schedules.text import as_schedule
from lrkit.snapshot import capture_random
from lrkit.task import Loss, Step, Task, Validate, length_of, make, seed_everything

_DEFAULT = "warmup 5% > cosine"
_TINY, _HUGE = (
    1e-5,
    3.0,
)  # the ramp's range, as the share of the weights' norm that its first and last update would move
_SPACING = 0.5  # decades between candidates
_CLOSE = 0.02  # of the drop: losses nearer than this count as equally good in the interval
_FIRST, _SECOND = 5, 3  # candidates of the two rungs
_SHORTEST_RAMP, _SHORTEST_RUN = 24, 10  # updates below which neither says anything
_DRIFT = 0.15  # decades by which the best rate falls when the run gets ten times as long
_CAUTION, _NEAR_CLIFF = 0.1, 0.25  # decades below the best


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
        search = _Search(bench, min(max_steps or steps, steps))
        try:
            answer = search.go()
        except OutOfBudget:
            answer = search.so_far()
    context = {
        "schedule": str(shape), "horizon": steps, "bases": bench.bases, "seed": seed, "budget": budget,
        "validated": validate is not None, "edge": search.edge, "untrained_loss": search.untrained,
    }  # fmt: skip
    base, lr = bench.bases[0], answer.lr
    turn = search.turn if search.turn is not None else lr
    return Suggestion(
        lr, lr / base, answer.low, answer.high, answer.status, bench.spent / steps, bench.updates_made,
        time.perf_counter() - started, turn / 4, turn, search.seen, tuple(search.trials), context,
    )  # fmt: skip


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


@dataclass(frozen=True)
class _Answer:
    lr: float
    low: float
    high: float
    status: Status


class _Search:
    """One search on an open bench: ramp, first rung, second rung, choice."""

    def __init__(self, bench: Bench, longest: int) -> None:
        self.bench, self.longest = bench, longest
        self.trials: list[Trial] = []
        self.seen = Run({"step": [], "loss": [], "lr": []})
        self.edge: float | None = None
        self.turn: float | None = None
        self.untrained = math.nan
        self._hopeless = math.inf
        self._one_validation = 0.0
        self._jitter = 0.0  # by how much two validations of the same weights differ
        self._spread = 0.0  # of the training loss over batches

    def go(self) -> _Answer:
        """The whole search."""
        bench = self.bench
        if bench.limit < _SHORTEST_RAMP + 1:
            return self.nothing("budget")
        if bench.validate is not None:
            self.untrained = bench.validation_loss()
            self._one_validation = bench.spent
            if 20 * self._one_validation < bench.left:
                self._jitter = abs(self.untrained - bench.validation_loss())
        moved = self._moved_at_rate_one()
        if not math.isfinite(moved) or (bench.validate is not None and not math.isfinite(self.untrained)):
            return self.nothing("diverged")
        if moved == 0:
            return self.nothing("flat")
        # Two rungs of short runs, the second 2.5 times as long and with one run kept for going on where the best is the last; on
        # what a ramp leaves. Where that is too little, a ramp alone.
        updates = int(min(60, max(_SHORTEST_RAMP, 0.15 * bench.limit)))
        free = bench.left - updates - (_FIRST + _SECOND + 1) * self._one_validation
        short = int(min(free / (_FIRST + 2.5 * (_SECOND + 1)), self.longest / 2.5))
        if short < _SHORTEST_RUN:
            updates = int(min(100, bench.left))
        if updates < _SHORTEST_RAMP:
            return self.nothing("budget")
        level, spread, lowest = self._ramp(_TINY / moved, _HUGE / moved, updates)
        if not math.isfinite(level):
            return self.nothing("diverged")
        if level == lowest:
            return self.nothing("flat")
        seen = level - lowest > 3 * spread
        if short < _SHORTEST_RUN:
            return self._from_ramp() if seen else self.nothing("noisy")
        if not seen:
            # Batches that differ more than a ramp can gain: the short runs may still tell.
            self.turn = (self.edge or float(self.seen["lr"][-1])) / 10
        return self._from_runs(short)

    def so_far(self) -> _Answer:
        """What can be said where the budget ended early: from the finished runs, else from the ramp, else nothing."""
        longest = max((trial.steps for trial in self.trials), default=0)
        best = self._best(longest)
        if best is not None:
            return self._choose(longest) if best.loss < self.untrained else self.nothing("noisy")
        return self._from_ramp() if self.turn is not None and len(self.seen) else self.nothing("budget")

    def nothing(self, status: Status) -> _Answer:
        """No rate found: the untouched one."""
        base = self.bench.bases[0]
        return _Answer(base, base, base, status)

    def _moved_at_rate_one(self) -> float:
        """‖Δθ‖/‖θ‖ of one update at rate 1: what a rate means to this net. NaN where loss or gradient is not finite."""
        params = [p for group in self.bench.optimizer.param_groups for p in group["params"] if p.requires_grad]
        start = [p.detach().clone() for p in params]
        loss = next(iter(self.bench.run(lambda _: 1.0, 1)))
        with torch.no_grad():
            moved = _norm([p - s for p, s in zip(params, start, strict=True)]) / max(_norm(start), _usual_norm(start))
        return moved if math.isfinite(loss) else math.nan

    def _ramp(self, start: float, end: float, updates: int) -> tuple[float, float, float]:
        """Bracket; returns the untrained level of the training loss, its spread over batches, and the lowest it came to."""
        self.seen = ramp(self.bench, start, end, updates)
        self.edge = self.seen.meta["edge"]
        level, spread = noise_of(list(self.seen["loss"]))
        self._spread = spread
        smooth = self.seen.smooth("loss", 5)[1]
        if not len(smooth):
            return level, spread, level
        lowest = float(np.min(smooth))
        self.turn = float(self.seen["lr"][int(np.argmin(smooth))])
        if self.bench.validate is None:
            self.untrained = level
        self._hopeless = level + 10 * max(level - lowest, spread)
        return level, spread, lowest

    def _from_ramp(self) -> _Answer:
        """No budget for short runs: a fifth of where the ramp turned, which is a guess, and a wide interval."""
        assert self.turn is not None, "a ramp with a drop has a turn"
        return _Answer(self.turn / 5, self.turn / 20, self.turn, "budget")

    def _from_runs(self, short: int) -> _Answer:
        """Two rungs below the ceiling, then the choice."""
        assert self.turn is not None, "a ramp with a drop has a turn"
        top = math.log10(min(self.turn * 10 ** (_SPACING / 2), self.edge or math.inf))
        for i in range(_FIRST):
            self._try(top - _SPACING * i, short)
        best = self._best(short)
        if best is None:
            return self.nothing("diverged")
        worst = max(trial.loss for trial in self.trials if math.isfinite(trial.loss))
        if worst == best.loss and all(math.isfinite(trial.loss) for trial in self.trials):
            return self.nothing("flat")
        noise = 5 * self._jitter if self.bench.validate is not None else 2 * self._spread / math.sqrt(max(1, short // 4))
        if self.untrained - best.loss <= noise:
            return self.nothing("noisy")
        long, centre = int(2.5 * short), math.log10(best.lr)
        for x in (centre, centre - _SPACING, centre + _SPACING):
            self._try(x, long)
        self._recentre(long)
        return self._choose(long)

    def _try(self, x: float, steps: int) -> None:
        self.trials.append(Trial(10**x, steps, self.bench.judge(10**x, steps, self._hopeless)))

    def _best(self, steps: int) -> Trial | None:
        good = [trial for trial in self.trials if trial.steps == steps and math.isfinite(trial.loss)]
        return min(good, key=lambda trial: trial.loss) if good else None

    def _recentre(self, steps: int) -> None:
        """While the best is the last on one side and the budget lasts, go on to that side."""
        while self.bench.left >= steps + self._one_validation:
            best = self._best(steps)
            tried = sorted(trial.lr for trial in self.trials if trial.steps == steps)
            if best is None:
                self._try(math.log10(tried[0]) - _SPACING, steps)
            elif best.lr in (tried[0], tried[-1]):
                self._try(math.log10(best.lr) + (_SPACING if best.lr == tried[-1] else -_SPACING), steps)
            else:
                return

    def _choose(self, steps: int) -> _Answer:
        """The vertex of the parabola through the best and its neighbours, in log-rate, and a little below it.

        Below, because a longer run wants a lower rate than a short one, and because too high is dearer than too low; more
        so where the next higher rate diverged, which on a longer run this one might do too.
        """
        best = self._best(steps) or self._best(min(trial.steps for trial in self.trials))
        assert best is not None, "the first rung had a best"
        same = sorted((t for t in self.trials if t.steps == best.steps), key=lambda t: t.lr)
        i = same.index(best)
        x, width = math.log10(best.lr), _SPACING / 2
        inside = 0 < i < len(same) - 1
        below = same[i - 1].loss - best.loss if i > 0 else math.nan
        above = same[i + 1].loss - best.loss if i < len(same) - 1 else math.nan
        curve = (below + above) / 2
        if curve > 0:
            x += _SPACING * (below - above) / (4 * curve)
            width = min(_SPACING, max(0.15, _SPACING * math.sqrt(_CLOSE * (self.untrained - best.loss) / curve)))
        cliff = inside and not math.isfinite(above)
        x -= _DRIFT * math.log10(self.bench.steps / best.steps) + (_NEAR_CLIFF if cliff else _CAUTION)
        tried = math.log10(best.lr)  # the interval reaches from below the choice to above the best that was tried
        low, high = min(x, tried) - width, max(x, tried) + width
        return _Answer(10**x, 10**low, 10**high, "ok" if inside else "edge")


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.abs().double().square().sum()) for t in tensors))


def _usual_norm(tensors: list[Tensor]) -> float:
    """A tenth of the norm that the usual initialisation, 1/√fan-in, gives weights of these shapes: for nets that start at 0."""
    return 0.1 * math.sqrt(sum(t.numel() / max(1, t[0].numel()) for t in tensors if t.ndim > 1 and t.numel())) or 1e-12
