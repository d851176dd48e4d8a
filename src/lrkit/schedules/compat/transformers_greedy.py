"""transformers 5.23's GreedyLR: up while the metric improves, down while it does not; value i is the rate after metric i."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lrkit.errors import real, whole
from lrkit.schedules.compat.common import absolute, count
from lrkit.schedules.compat.plateau import better, left_by, metrics_of, replay, worst
from lrkit.schedules.compose import Rates


@dataclass
class _Greedy:
    """The state between two metrics."""

    initial: float
    factor: float
    patience: int
    cooldown: int
    warmup: int
    limits: tuple[float, float]
    eps: float
    window: int
    reset_start: int
    worst: float
    is_better: Callable[[float, float], bool]

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As at the start."""
        self.rate, self.best = self.initial, self.worst
        self.good = self.bad = self.cooling = self.warming = 0
        self.left = self.reset_start
        self.recent: deque[float] = deque(maxlen=self.window)

    def see(self, metric: float) -> float:
        """The rate after the metric."""
        self.recent.append(metric)
        metric = math.fsum(self.recent) / len(self.recent)
        if self.cooling > 0 or self.warming > 0:
            self.cooling, self.warming = (self.cooling - 1, self.warming) if self.cooling > 0 else (0, self.warming - 1)
            self.good = self.bad = 0
            return self.rate
        if self.is_better(metric, self.best):
            self.best, self.good, self.bad = metric, self.good + 1, 0
        else:
            self.good, self.bad = 0, self.bad + 1
        if self.good > self.patience:
            self.move(min(self.rate / self.factor, self.limits[1]), up=True)
            self.warming, self.good, self.left = self.warmup, 0, self.reset_start
        elif self.bad > self.patience:
            self.reduce()
        return self.rate

    def move(self, rate: float, up: bool) -> None:
        """To the rate, where that is that way and far enough."""
        if (rate - self.rate if up else self.rate - rate) > self.eps:
            self.rate = rate

    def reduce(self) -> None:
        """Down; at the floor for long enough, back to the start."""
        self.move(max(self.rate * self.factor, self.limits[0]), up=False)
        if self.rate <= self.limits[0]:
            self.left -= 1
            if self.left <= 0:
                self.reset()
        self.cooling, self.bad = self.cooldown, 0


def GreedyLR(
    base_lr: float, mode: str = "min", factor: float = 0.95, patience: int = 10, threshold: float = 1e-6,
    threshold_mode: str = "abs", cooldown: int = 0, warmup: int = 0, min_lr: float = 1e-3, max_lr: float = 1.0,
    eps: float = 1e-8, smooth: bool = False, window_size: int = 50, reset_start: int = 500, *, metrics: Sequence[float],
) -> Rates:  # fmt: skip
    """value(i) = the rate after metric i: /factor after more than `patience` better ones, × factor after as many that were not.

    Args:
        base_lr: The optimizer's rate.
        threshold_mode: ``"abs"`` or ``"rel"``: what `threshold` means.
        warmup: Metrics after a rise that do not count, as `cooldown` those after a fall.
        smooth: Take the mean of the last `window_size` metrics.
        reset_start: How often it must not get below min_lr before all begins anew.
        metrics: What was seen, one for each step; the rates are their replay.

    Raises:
        InputError: If there is no metric, or an argument is out of its range.
    """
    call = "GreedyLR"
    is_better, factor = better(call, mode, threshold, threshold_mode), left_by(call, factor, above=0.0)
    base, eps, resets = real(call, "base_lr", base_lr), real(call, "eps", eps), count(call, "reset_start", reset_start)
    patience, cooldown, warmup = (
        count(call, name, n) for name, n in (("patience", patience), ("cooldown", cooldown), ("warmup", warmup))
    )
    limits = (real(call, "min_lr", min_lr, least=0.0), real(call, "max_lr", max_lr, least=0.0))
    window = whole(call, "window_size", window_size) if smooth else 1
    state = _Greedy(base, factor, patience, cooldown, warmup, limits, eps, window, resets, worst(mode), is_better)
    return absolute(replay([state.see(metric) for metric in metrics_of(call, metrics)], base), base)


def get_greedy_schedule(base_lr: float, *, metrics: Sequence[float], **kwargs: Any) -> Rates:
    """value(i) = the rate after metric i, by `GreedyLR`, whose arguments it takes."""
    return GreedyLR(base_lr, metrics=metrics, **kwargs)
