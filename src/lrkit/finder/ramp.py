"""The range test: raise the rate geometrically from tiny to huge and see where the loss blows up.

One update a rate, or one epoch a rate; a metric beside the loss if wanted. Its dependable answer is an edge: from here up it
diverges. It brackets the search; it does not choose. Limits of a cyclical rate are read off its Run by `cyclical`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import update_wrapper
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrkit.binding.processes import agreed
from lrkit.errors import InputError, real, whole
from lrkit.finder.bench import Bench
from lrkit.run import Run
from lrkit.schedules.parts import Hold
from lrkit.snapshot import capture_random
from lrkit.task import Loss, Step, length_of, measure, validation

Metric = Callable[[Any], float]

_FEWEST = {"batch": 10, "epoch": 3}  # rates below which a test says nothing
_Used = Callable[[int], int]  # update → batches used before it


def _one_each(t: int) -> int:
    """Where each update takes one batch."""
    return t


def range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Iterable[Any],
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    metric: Metric | None = None,
    per: str = "batch",
    *,
    step: Step | None = None,
    seed: int = 0,
) -> Run:
    """Raise the rate and record the loss: lr_i = start · (end/start)^(i/(steps−1)), for one update or one epoch each.

    Stops where the loss is not finite, or has clearly left its range for good: neither the loss's scale nor its offset matters.
    Everything is as before afterwards.

    Args:
        model: The model.
        optimizer: Its optimizer; groups keep their ratio to the first, whose rate is meant here.
        loss: ``(model, batch) → Tensor``.
        batches: A loader that can be iterated again.
        start: First rate, above 0.
        end: Last rate, above `start`.
        steps: Rates: updates, at least 10, or epochs, at least 3.
        metric: ``(model) → float``, larger is better, e.g. the validation accuracy; asked after the last update at each rate, in
            eval mode, without gradients. It may draw random numbers: the training's stay the same.
        per: ``"batch"``, or ``"epoch"``: each rate is held for one epoch, as many batches as their len() says.
        step: ``(model, batch, optimizer) → loss`` in place of forward, backward and update.
        seed: Of the test.

    Returns:
        A Run, a row a rate: ``step`` of its last update, ``loss`` before that update (per epoch: the mean of its losses, and
        ``epoch``), ``lr``, and ``metric`` after that update. ``meta["edge"]`` is the rate whose updates blew it up, or None.

    Raises:
        InputError: If the range is empty, `steps` too small, `batches` empty or of unknown length where epochs are asked for, or
            `metric` no function to a number.

    Source: arXiv:1506.01186, §3.3, which raises the rate linearly and measures the accuracy.
    """
    start, end = real("range_test", "start", start, above=0.0), real("range_test", "end", end, above=0.0)
    if not start < end < start * 1e30:
        raise InputError(f"range_test(start={start:g}, end={end:g}): needs 0 < start < end. E.g. start=1e-7, end=10.")
    if per not in ("batch", "epoch"):
        raise InputError(f"range_test(per={per!r}): a rate is held for one 'batch' or for one 'epoch'. Say one of the two.")
    steps = whole("range_test", "steps", steps, least=_FEWEST[per])
    if metric is not None and not callable(metric):
        raise InputError(f"range_test(metric={type(metric).__name__}): must be a function (model) -> float, larger is better.")
    length = 1 if per == "batch" else _epoch(batches)
    step, used = (step, _one_each) if per == "batch" or step is None else _counting(step)
    bench = Bench(model, optimizer, loss, batches, Hold(), steps * length, step, metric, seed, steps * length)
    with bench.open():
        return _climb(bench, _geometric(start, end, steps), length, used, metric, {"start": start, "end": end, "per": per})


def _geometric(start: float, end: float, steps: int) -> list[float]:
    ratio = (end / start) ** (1 / (steps - 1))
    return [start * ratio**t for t in range(steps)]


def _climb(bench: Bench, rates: Sequence[float], length: int, used: _Used, metric: Metric | None, meta: dict[str, Any]) -> Run:
    """Hold each rate for `length` batches, of which so many are `used` by update t; one row a rate."""
    losses: list[float] = []
    held: list[int] = []  # which of the rates each update had
    rows: list[dict[str, float]] = []
    at: int | None = None

    def rate(t: int) -> float:
        held.append(used(t) // length)
        return rates[held[-1]]

    with closing(bench.run(rate, len(rates) * length)) as run:
        for loss in run:
            losses.append(loss)
            now, upcoming = held[-1], used(len(losses)) // length
            if math.isfinite(loss) and upcoming == now:
                continue
            at = blown_up(losses)
            row = {"step": len(losses) - 1, "loss": float(np.mean(losses[held.index(now) :])), "lr": rates[now]}
            row |= {"epoch": now} if meta["per"] == "epoch" else {}
            rows.append(row | ({} if metric is None else {"metric": _measured(metric, bench.model)}))
            if at is not None or upcoming >= len(rates):
                break
    # A row's loss is that before its update, so what spoiled it is the update before.
    edge = None if at is None else rates[held[max(0, at - 1)]]
    return Run.from_rows(rows, {"kind": "range_test", "edge": edge, **meta})


def _epoch(batches: Iterable[Any]) -> int:
    """Batches of an epoch."""
    length = length_of(batches)
    if length is None:
        raise InputError("range_test(per='epoch'): the batches have no len(), so no epoch ends. Pass a list or a DataLoader.")
    return max(1, length)  # none at all is refused where they are read


def _counting(step: Step) -> tuple[Step, _Used]:
    """The step, which counts its batches, and the count: it may take several of them for an update."""
    calls = [0]

    def counted(model: Any, batch: Any, optimizer: torch.optim.Optimizer) -> Tensor:
        calls[0] += 1
        return step(model, batch, optimizer)

    return update_wrapper(counted, step, (), ()), lambda _t: calls[0]


def _measured(metric: Metric, model: nn.Module) -> float:
    """The metric of the model as it is now; modes and random states as before."""
    restore = capture_random()
    try:
        return agreed(
            [validation(lambda net: measure("range_test: metric(model)", "one number", metric(net)), model)["val_loss"]]
        )[0]
    finally:
        restore()


def blown_up(losses: Sequence[float]) -> int | None:
    """The update at which a ramp left its range: not finite, or three in a row well above where it started.

    "Well above" is 4 standard deviations of the early losses (more where they are few) and a quarter of the drop so far, and
    more than float32 rounds by: nothing depends on the loss's scale or offset.
    """
    seen = np.array(losses)
    if not np.isfinite(seen).all():
        return int(np.argmin(np.isfinite(seen)))
    if len(seen) < 8:
        return None
    risen = seen - seen[0]  # from here on no offset can matter
    early = risen[: min(len(seen) - 3, max(8, len(seen) // 3))]
    level, spread = float(early.mean()), (4 + 16 / len(early)) * float(early.std())
    smooth = np.median(np.stack([risen[:-2], risen[1:-1], risen[2:]]), axis=0)
    limit = level + max(spread, 2**-19 * abs(float(seen[0]))) + 0.25 * max(0.0, level - float(smooth.min()))
    return len(seen) - 3 if risen[-3:].min() > limit else None
