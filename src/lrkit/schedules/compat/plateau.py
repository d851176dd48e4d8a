"""Schedules that follow a metric: torch's plateau rule, what counts as better, and the rates of a whole log replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain, choice, count
from lrkit.schedules.parts import Hold


def metrics_of(call: str, metrics: Iterable[float]) -> list[float]:
    """The metrics as floats; NaN and infinity are seen in training, so they pass.

    Raises:
        InputError: If one is no number, or there is none.
    """
    try:
        numbers = [] if isinstance(metrics, str | bytes) else [float(metric) for metric in metrics]
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # a tensor of several numbers
        raise InputError(f"{call}(metrics={metrics!r}): must be a list of numbers, in the order in which they came.") from error
    if not numbers:
        raise InputError(f"{call}(metrics={metrics!r}): the metrics that were seen decide the rate. Give at least one.")
    return numbers


def left_by(call: str, factor: float, above: float | None = None) -> float:
    """The factor of a drop: at least 0 (or above a number), below 1.

    Raises:
        InputError: If it is another.
    """
    number = real(call, "factor", factor, least=0.0 if above is None else None, above=above)
    if number >= 1:
        raise InputError(f"{call}(factor={number:g}): factor must be below 1. It is what a drop leaves, e.g. 0.1.")
    return number


def better(call: str, mode: str, threshold: float, threshold_mode: str) -> Callable[[float, float], bool]:
    """(metric, best) ↦ whether it is better: by more than `threshold`, relative to the best or absolute.

    Raises:
        InputError: If a word or the threshold is out of its range.
    """
    sign = 1.0 if choice(call, "mode", mode, ("min", "max")) == "max" else -1.0
    threshold = real(call, "threshold", threshold)
    if choice(call, "threshold_mode", threshold_mode, ("rel", "abs")) == "rel":
        return lambda metric, best: sign * metric > sign * (best * (1.0 + sign * threshold))
    return lambda metric, best: sign * metric > sign * (best + sign * threshold)


def worst(mode: str) -> float:
    """What every metric is better than."""
    return -math.inf if mode == "max" else math.inf


def plateau(
    call: str, base_lr: float, metrics: Sequence[float], mode: str, factor: float, patience: int, threshold: float,
    threshold_mode: str, cooldown: int, min_lr: float, eps: float,
) -> list[float]:  # fmt: skip
    """The rate after each metric: × `factor`, not below `min_lr`, at the (patience + 1)-th in a row that was no better.

    Raises:
        InputError: If a word or a number is out of its range.
    """
    is_better, factor = better(call, mode, threshold, threshold_mode), left_by(call, factor)
    patience, cooldown = count(call, "patience", patience), count(call, "cooldown", cooldown)
    min_lr, eps = real(call, "min_lr", min_lr), real(call, "eps", eps)
    rate, best = real(call, "base_lr", base_lr), worst(mode)
    bad, cooling, rates = 0, 0, []
    for metric in metrics:
        if is_better(metric, best):
            best, bad = metric, 0
        else:
            bad += 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        if bad > patience:
            lower = max(rate * factor, min_lr)
            rate = lower if rate - lower > eps else rate
            cooling, bad = cooldown, 0
        rates.append(rate)
    return rates


def replay(values: Sequence[float], base: float) -> Schedule:
    """value(t) = values[t]/base: what was seen, held as long as it stayed; the last one past the end."""
    return chain(*(Hold(value / base if base else 0.0, len(list(run))) for value, run in groupby(values)))
