"""Pace: when which gauge is visited, so that all of them together stay within a share of the training's time.

A gauge that costs c seconds and may have the share w of the budget B is visited every c / (w · B · T) updates of T seconds: it
saves up for a visit before it makes one, so that the budget holds at any time, not only in the end. T is the median of the last
updates, without what the gauges took. Knows no gauge and no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

_AIM = 0.5  # of the budget: what a visit costs those that follow, by caches and memory, no clock of its own sees
_WINDOW = 32  # updates that T is the median of
_OLD = 0.7  # of a cost's mean that the next visit leaves
_LATER = 10**9  # a step that never comes


class Pace:
    """Decides what is due.

    Args:
        gauges: {name: (share, guess, least)}; see `catalogue.Gauge`.
        budget: Share of an update's time that they may take together; 0: none is visited.
        every: Visit each at every so many updates, whatever it costs; None: by the budget.
        agreed: Makes numbers the same in all processes that have to visit together.
    """

    def __init__(
        self,
        gauges: dict[str, tuple[float, float, int]],
        budget: float,
        every: int | None = None,
        agreed: Callable[[Sequence[float]], list[float]] = list,
    ) -> None:
        self.budget, self.every, self._agreed = budget, every, agreed
        self._gauges = dict(gauges)
        self._cost: dict[str, float] = {}  # seconds of a visit
        self._next: dict[str, int] = {}
        self.visits, self.spent = dict.fromkeys(gauges, 0), dict.fromkeys(gauges, 0.0)
        self._beats = [0.0] * _WINDOW
        self._count, self._last, self._own = 0, 0.0, 0.0
        self.soonest = 0  # the first step at which something may be due: before it, nobody needs to ask

    def beat(self) -> None:
        """An update begins: how long the last one took, without the gauges."""
        now = perf_counter()
        self._beats[self._count % _WINDOW] = now - self._last - self._own
        self._last, self._own = now, 0.0
        self._count += 1

    @property
    def seconds(self) -> float:
        """T: the median of the last updates."""
        known = self._beats[1 : self._count] if self._count <= _WINDOW else self._beats
        return median(known) if known else math.inf

    def due(self, step: int) -> list[str]:
        """What is to be visited at this update."""
        if self.every is not None:
            self.soonest = step - step % self.every + self.every
            return [name for name in self._gauges if step % self.every == 0]
        if self.budget <= 0 or not self._gauges:
            self.soonest = _LATER
            return []
        if not self._next:
            self._next = {name: step + self._wait(name) for name in self._gauges}
        found = [name for name, at in self._next.items() if at <= step]
        for name in found:
            self._next[name] = _LATER  # until it is known what this visit costs
        self._settle()
        return found

    def charge(self, name: str, seconds: float) -> None:
        """Part of a visit took so long."""
        self.spent[name] += seconds
        self._own += seconds

    def visited(self, name: str, seconds: float, step: int) -> None:
        """A visit is over, at this update: when comes the next?"""
        self.visits[name] += 1
        if self.every is not None or name not in self._gauges:
            return
        seconds, update = self._agreed([seconds, self.seconds])
        old = self._cost.get(name)
        self._cost[name] = seconds if old is None else max(seconds, _OLD * old + (1 - _OLD) * seconds)
        self._next[name] = step + self._wait(name, update)
        self._settle()

    def leave_out(self, name: str) -> None:
        """It is not available: its share goes to the others."""
        self._gauges.pop(name, None)
        self._next.pop(name, None)
        self._settle()

    def rewind(self, step: int) -> None:
        """The training went back to this step."""
        self.soonest = step
        self._next = {name: min(at, step + self._wait(name)) for name, at in self._next.items()}
        self._settle()

    def _wait(self, name: str, update: float | None = None) -> int:
        """Updates until a visit is paid for."""
        share, guess, least = self._gauges[name]
        share *= _AIM * self.budget / sum(one for one, _, _ in self._gauges.values())
        updates = guess if name not in self._cost else self._cost[name] / max(self.seconds if update is None else update, 1e-9)
        return max(least, math.ceil(updates / share))

    def _settle(self) -> None:
        if self.every is None:
            self.soonest = min(self._next.values(), default=_LATER)
