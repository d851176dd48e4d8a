"""The range test: raise the rate geometrically from tiny to huge, one update a rate, and see where the loss blows up.

Its dependable answer is an edge: from here up it diverges. It brackets the search; it does not choose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from lrkit.errors import InputError, real, whole
from lrkit.finder.bench import Bench
from lrkit.run import Run
from lrkit.schedules.parts import Hold
from lrkit.task import Loss, Step


def range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Iterable[Any],
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    *,
    step: Step | None = None,
    seed: int = 0,
) -> Run:
    """Raise the rate and record the loss: lr_t = start · (end/start)^(t/(steps−1)) (arXiv:1506.01186, §3.3).

    Stops where the loss is not finite, or has clearly left its range for good. Everything is as before afterwards.

    Args:
        model: The model.
        optimizer: Its optimizer; groups keep their ratio to the first, whose rate is meant here.
        loss: ``(model, batch) → Tensor``.
        batches: A loader that can be iterated again.
        start: First rate, above 0.
        end: Last rate, above `start`.
        steps: Updates, at least 10.
        step: ``(model, batch, optimizer) → loss`` in place of forward, backward and update.
        seed: Of the test.

    Returns:
        A Run with ``step, loss, lr``; ``meta["edge"]`` is the rate from which it blew up, or None.

    Raises:
        InputError: If the range is empty, `steps` too small, or `batches` empty.
    """
    start, end = real("range_test", "start", start, above=0.0), real("range_test", "end", end, above=0.0)
    if not start < end < start * 1e30:
        raise InputError(f"range_test(start={start:g}, end={end:g}): needs 0 < start < end. E.g. start=1e-7, end=10.")
    steps = whole("range_test", "steps", steps, least=10)
    bench = Bench(model, optimizer, loss, batches, Hold(), steps, step, None, seed, steps)
    with bench.open():
        return ramp(bench, start, end, steps)


def ramp(bench: Bench, start: float, end: float, steps: int) -> Run:
    """The test itself, on an open bench."""
    ratio = (end / start) ** (1 / (steps - 1))
    rates = [start * ratio**t for t in range(steps)]
    losses: list[float] = []
    for loss in bench.run(lambda t: rates[t], steps):
        losses.append(loss)
        if not math.isfinite(loss) or blown_up(losses) is not None:
            break
    at = blown_up(losses)
    edge = None if at is None else rates[at]
    columns = {"step": range(len(losses)), "loss": losses, "lr": rates[: len(losses)]}
    return Run(columns, {"kind": "range_test", "edge": edge, "start": start, "end": end})


def noise_of(losses: list[float]) -> tuple[float, float]:
    """(level, spread over batches) of the loss at the start of a ramp, where the rate is too small to change anything.

    The spread is 1.05 · median |difference of neighbours| over the first half, which a slow trend does not touch.
    """
    first = np.array(losses[: max(8, len(losses) // 2)])
    spread = 1.05 * float(np.median(np.abs(np.diff(first)))) if len(first) > 1 else 0.0
    return float(np.mean(first[: max(4, len(losses) // 8)])), spread


def blown_up(losses: list[float]) -> int | None:
    """The update at which a ramp left its range: not finite, or three in a row well above where it started.

    "Well above" is 4 spreads of the early losses and a quarter of the drop so far: nothing depends on the loss's scale or offset.
    """
    seen = np.array(losses)
    if not np.isfinite(seen).all():
        return int(np.argmin(np.isfinite(seen)))
    if len(losses) < 8:
        return None
    level, spread = noise_of(losses[: max(8, len(losses) // 3)])
    smooth = np.median(np.stack([seen[:-2], seen[1:-1], seen[2:]]), axis=0)
    limit = level + 4 * spread + 0.25 * max(0.0, level - float(smooth.min()))
    return len(losses) - 3 if min(losses[-3:]) > limit else None
