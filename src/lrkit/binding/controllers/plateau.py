"""Plateau and Greedy: the scale falls where the metric stands still; Greedy's also rises while it improves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lrkit.binding.controllers.base import Controller, State
from lrkit.errors import InputError, whole


@dataclass(frozen=True, kw_only=True)
class _Patient(Controller):
    """What both share: when a value is better, and how patience is checked."""

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    relative: bool = True
    mode: str = "min"
    cooldown: int = 0

    def check(self) -> None:
        """Refuse settings that break a rule."""
        call = type(self).__name__
        self._real("factor", above=0.0, below=1.0)
        self._real("threshold", least=0.0)
        for name in ("patience", "cooldown"):
            object.__setattr__(self, name, whole(call, name, getattr(self, name), least=0, what="a number of reports"))
        if self.mode not in ("min", "max"):
            raise InputError(f"{call}(mode={self.mode!r}): must be 'min' (a loss) or 'max' (an accuracy).")

    @property
    def worst(self) -> float:
        """What any value is better than."""
        return math.inf if self.mode == "min" else -math.inf

    def better(self, value: float, best: float) -> bool:
        """Whether a value beats the best one by the threshold; NaN never does."""
        sign = 1.0 if self.mode == "min" else -1.0
        margin = best * (1.0 - sign * self.threshold) if self.relative else best - sign * self.threshold
        return value < margin if self.mode == "min" else value > margin


@dataclass(frozen=True, kw_only=True)
class Plateau(_Patient):
    """Multiply the rate by `factor` once the metric has not improved for more than `patience` reports.

        scale ← max(scale · factor, floor)   after patience + 1 reports without  value < best · (1 − threshold)

    The counting is torch's ReduceLROnPlateau's; unlike there it multiplies any schedule, and survives a resume.

    Args:
        metric: The name under which it hears.
        key: What it scales.
        name: By which its state is found; two of one kind need two names.
        factor: Between 0 and 1.
        patience: Reports without improvement that are tolerated, at least 0.
        threshold: Improvement that counts, at least 0: a share of the best value, or absolute.
        relative: Whether the threshold is a share.
        mode: ``"min"`` for a loss, ``"max"`` for an accuracy.
        cooldown: Reports after a reduction during which none counts as bad, at least 0.
        floor: The lowest scale, at least 0 and below 1: the rate is never below ``floor × base × schedule``.

    Raises:
        InputError: If a setting breaks its rule.

    Examples:
        >>> plateau, state = Plateau(patience=1, factor=0.5), None
        >>> state = plateau.start()
        >>> for loss in (1.0, 1.0, 1.0):
        ...     state = plateau.heard(state, loss)
        >>> state[0]
        0.5
    """

    floor: float = 0.0

    def check(self) -> None:
        """Refuse settings that break a rule."""
        super().check()
        self._real("floor", least=0.0, below=1.0)

    def start(self) -> State:
        """Scale 1, nothing heard yet: scale, best, bad reports, cooldown left."""
        return 1.0, self.worst, 0.0, 0.0

    def heard(self, state: State, value: float) -> State:
        """Count the report, and reduce where patience has run out."""
        scale, best, bad, cooling = state
        if self.better(value, best):
            best, bad = value, 0.0
        else:
            bad += 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0.0
        if bad > self.patience:
            return max(scale * self.factor, self.floor), best, 0.0, float(self.cooldown)
        return scale, best, bad, cooling


@dataclass(frozen=True, kw_only=True)
class Greedy(_Patient):
    """Raise the rate while the metric keeps improving, lower it where it does not.

        scale ← min(scale / factor, ceiling)   after patience + 1 better reports in a row
        scale ← max(scale · factor, floor)     after patience + 1 others in a row

    At the floor for `reset` further reductions, it starts anew.

    Args:
        metric: The name under which it hears.
        key: What it scales.
        name: By which its state is found; two of one kind need two names.
        factor: Between 0 and 1.
        patience: Reports in a row that are waited for, at least 0.
        threshold: Improvement that counts, at least 0.
        relative: Whether the threshold is a share of the best value; else it is absolute.
        mode: ``"min"`` for a loss, ``"max"`` for an accuracy.
        cooldown: Reports after a reduction that are passed over, at least 0.
        warmup: Reports after a rise that are passed over, at least 0.
        floor: The lowest scale, above 0 and at most 1.
        ceiling: The highest scale, at least 1.
        reset: Reductions at the floor after which it starts anew, at least 1.

    Raises:
        InputError: If a setting breaks its rule.

    Source: GreedyLR, arXiv 2512.14527.
    """

    factor: float = 0.95
    threshold: float = 1e-6
    relative: bool = False
    warmup: int = 0
    floor: float = 0.1
    ceiling: float = 10.0
    reset: int = 500

    def check(self) -> None:
        """Refuse settings that break a rule."""
        super().check()
        for name, least in (("warmup", 0), ("reset", 1)):
            object.__setattr__(self, name, whole("Greedy", name, getattr(self, name), least=least, what="a number of reports"))
        self._real("floor", above=0.0)
        self._real("ceiling", least=1.0)
        if self.floor > 1:
            raise InputError(f"Greedy(floor={self.floor:g}): the floor is a scale of at most 1, got {self.floor:g}.")

    def start(self) -> State:
        """Scale 1: scale, best, good reports, bad reports, cooldown left, warm-up left, reductions at the floor left."""
        return 1.0, self.worst, 0.0, 0.0, 0.0, 0.0, float(self.reset)

    def heard(self, state: State, value: float) -> State:
        """Count the report; rise or fall where patience has run out."""
        scale, best, good, bad, cooling, warming, left = state
        if cooling > 0:
            return scale, best, 0.0, 0.0, cooling - 1, warming, left
        if warming > 0:
            return scale, best, 0.0, 0.0, cooling, warming - 1, left
        if self.better(value, best):
            best, good, bad = value, good + 1, 0.0
        else:
            good, bad = 0.0, bad + 1
        if good > self.patience:
            return min(scale / self.factor, self.ceiling), best, 0.0, bad, cooling, float(self.warmup), float(self.reset)
        if bad > self.patience:
            scale = max(scale * self.factor, self.floor)
            left -= scale <= self.floor
            if left <= 0:
                scale, best, good, _, _, warming, left = self.start()
            return scale, best, good, 0.0, float(self.cooldown), warming, left
        return scale, best, good, bad, cooling, warming, left
