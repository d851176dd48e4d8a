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

from lrkit.binding.attach import attached
from lrkit.errors import InputError
from lrkit.finder.bench import Bench
from lrkit.finder.ramp import noise_of, ramp
from lrkit.finder.suggestion import Status, Suggestion, Trial
from lrkit.run import Run
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template, resolved
from lrkit.schedules.text import as_schedule
from lrkit.task import Loss, Step, Task, Validate, seed_everything

_DEFAULT = "warmup 5% > cosine"
_TINY, _HUGE = 1e-5, 3.0  # the ramp's range, as the share of the weights' norm that its first and last update would move
_SPACING = 0.5  # decades between candidates
_CLOSE = 0.02  # of the drop: losses nearer than this count as equally good in the interval


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
        seed_everything(seed)
        task, net = model, model.model()
        return find(
            net, task.optimizer(net.parameters()), task.loss, task.batches(), task.steps, schedule,
            task.step, task.validate, budget, max_steps, seed, progress=progress,
        )  # fmt: skip
    if optimizer is None or loss is None or batches is None:
        raise InputError("find(model, optimizer, loss, batches, steps=…): all of them are needed, or one Task.")
    shape, steps = _plan(optimizer, schedule, steps)
    if not (isinstance(budget, int | float) and math.isfinite(budget) and budget > 0):
        raise InputError(f"find(budget={budget!r}): budget must be above 0, in training runs. 0.25 is usual, 1 is thorough.")
    if max_steps is not None and max_steps < 1:
        raise InputError(f"find(max_steps={max_steps}): max_steps must be at least 1, got {max_steps}.")
    if iter(batches) is batches:
        raise InputError("find(batches=…): an iterator can be read only once. Pass what makes it: a list, a DataLoader.")
    bench = Bench(model, optimizer, loss, batches, shape, steps, step, validate, seed, budget * steps, progress)
    if bench.bases[0] <= 0:
        raise InputError("find: the first group's rate is 0, so the other groups have no ratio to it. Give it any rate above 0.")
    started = time.perf_counter()
    with bench.open():
        search = _Search(bench, min(max_steps or steps, steps))
        answer = search.go()
    context = {
        "schedule": str(shape), "horizon": steps, "bases": bench.bases, "seed": seed, "budget": budget,
        "validated": validate is not None, "edge": search.edge, "untrained_loss": search.untrained,
    }  # fmt: skip
    base = bench.bases[0]
    lr = answer.lr if answer.status in ("ok", "edge") else base
    turn = search.turn if search.turn is not None else lr
    return Suggestion(
        lr, lr / base, answer.low, answer.high, answer.status, bench.spent / steps, bench.updates_made,
        time.perf_counter() - started, turn / 4, turn, search.seen, tuple(search.trials), context,
    )  # fmt: skip


def _plan(
    optimizer: torch.optim.Optimizer, schedule: str | Schedule | Template | None, steps: int | None
) -> tuple[Schedule, int]:
    """The real run's schedule and its updates."""
    attachment = attached(optimizer)
    if schedule is None and attachment is not None:
        own = attachment.schedule_of("lr", optimizer.param_groups[0])
        if own is not None:
            schedule = own
    if steps is None and isinstance(schedule, Schedule):
        steps = schedule.steps
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"find(steps={steps!r}): steps must be the number of updates of the real run, at least 1.")
    return resolved(as_schedule(_DEFAULT if schedule is None else schedule), steps), steps


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

    def go(self) -> _Answer:
        """The whole search."""
        bench, base = self.bench, self.bench.bases[0]
        unknown = (base, base)
        updates_ramp = int(min(60, max(16, 0.12 * bench.limit)))
        if bench.limit < updates_ramp + 12:
            return _Answer(base, *unknown, "budget")
        before = 0.0
        if bench.validate is not None:
            self.untrained = bench.validation_loss()
            before = bench.spent
        moved = self._moved_at_rate_one()
        if not math.isfinite(moved):
            return _Answer(base, *unknown, "diverged")
        if moved == 0:
            return _Answer(base, *unknown, "flat")
        self.seen = ramp(bench, _TINY / moved, _HUGE / moved, updates_ramp)
        losses = list(self.seen["loss"])
        level, spread = noise_of(losses)
        if not math.isfinite(level) or not (bench.validate is None or math.isfinite(self.untrained)):
            return _Answer(base, *unknown, "diverged")
        if bench.validate is None:
            self.untrained = level
        rates, smooth = self.seen["lr"], self.seen.smooth("loss", 3)[1]
        self.edge = self.seen.meta["edge"]
        self.turn = float(rates[int(np.argmin(smooth))])
        ceiling = self.edge if self.edge is not None else float(rates[-1])
        hopeless = level + 6 * spread + 1.0 * abs(level - float(np.min(smooth)))
        return self._decide(ceiling, hopeless, spread, before)

    def _moved_at_rate_one(self) -> float:
        """‖Δθ‖/‖θ‖ of one update at rate 1: what a rate means to this net. NaN where loss or gradient is not finite."""
        params = [p for group in self.bench.optimizer.param_groups for p in group["params"] if p.requires_grad]
        start = [p.detach().clone() for p in params]
        loss = next(iter(self.bench.run(lambda _: 1.0, 1)))
        with torch.no_grad():
            moved = _norm([p - s for p, s in zip(params, start, strict=True)]) / max(_norm(start), 1e-12)
        return moved if math.isfinite(loss) else math.nan

    def _decide(self, ceiling: float, hopeless: float, spread: float, one_validation: float) -> _Answer:
        """Two rungs below the ceiling, then the choice."""
        bench = self.bench
        first, second = 5, 3
        # The longer horizon is 2.5 times the shorter; what is left of the budget sets both.
        free = bench.left - (first + second) * one_validation
        short = int(min(free / (first + 2.5 * second), self.longest / 2.5))
        if short < 4:
            return _Answer(bench.bases[0], bench.bases[0], bench.bases[0], "budget")
        top = math.log10(ceiling) - 0.25
        for i in range(first):
            self._try(top - _SPACING * i, short, hopeless)
        best = self._best(short)
        if best is None:
            return _Answer(bench.bases[0], bench.bases[0], bench.bases[0], "diverged")
        drop = self.untrained - best.loss
        worst = max((t.loss for t in self.trials if math.isfinite(t.loss)), default=best.loss)
        if worst - best.loss <= 1e-6 * abs(self.untrained) or drop <= 0:
            return _Answer(bench.bases[0], bench.bases[0], bench.bases[0], "flat")
        if drop < 2 * spread / math.sqrt(max(1, short // 4)) and bench.validate is None:
            return _Answer(bench.bases[0], bench.bases[0], bench.bases[0], "noisy")
        long = int(2.5 * short)
        centre = math.log10(best.lr)
        for x in (centre, centre - _SPACING, centre + _SPACING):
            self._try(x, long, hopeless)
        self._recentre(long, hopeless, one_validation)
        return self._choose(long)

    def _try(self, x: float, steps: int, hopeless: float) -> None:
        self.trials.append(Trial(10**x, steps, self.bench.judge(10**x, steps, hopeless)))

    def _best(self, steps: int) -> Trial | None:
        good = [trial for trial in self.trials if trial.steps == steps and math.isfinite(trial.loss)]
        return min(good, key=lambda trial: trial.loss) if good else None

    def _recentre(self, steps: int, hopeless: float, one_validation: float) -> None:
        """While the best is the last on one side and the budget lasts, go on to that side."""
        while self.bench.left >= steps + one_validation:
            best = self._best(steps)
            tried = sorted(trial.lr for trial in self.trials if trial.steps == steps)
            if best is None or best.lr not in (tried[0], tried[-1]):
                return
            self._try(math.log10(best.lr) + (_SPACING if best.lr == tried[-1] else -_SPACING), steps, hopeless)

    def _choose(self, steps: int) -> _Answer:
        """The vertex of the parabola through the best and its neighbours, in log-rate; the best itself where one diverged."""
        best = self._best(steps) or self._best(min(trial.steps for trial in self.trials))
        assert best is not None, "the first rung had a best"
        same = sorted((t for t in self.trials if t.steps == best.steps), key=lambda t: t.lr)
        i = same.index(best)
        x, width = math.log10(best.lr), _SPACING / 2
        inside = 0 < i < len(same) - 1
        if inside and math.isfinite(same[i - 1].loss) and math.isfinite(same[i + 1].loss):
            below, above = same[i - 1].loss - best.loss, same[i + 1].loss - best.loss
            curve = (below + above) / 2
            x += _SPACING * (below - above) / (4 * curve) if curve > 0 else 0.0
            close = _CLOSE * (self.untrained - best.loss)
            width = _SPACING * math.sqrt(close / curve) if curve > 0 else _SPACING
            width = min(_SPACING, max(0.15, width))
        status: Status = "ok" if inside else "edge"
        return _Answer(10**x, 10 ** (x - width), 10 ** (x + width), status)


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.abs().double().square().sum()) for t in tensors))
