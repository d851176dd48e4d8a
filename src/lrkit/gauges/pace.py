"""Pace: when which gauge is visited, so that all of them together stay within a share of the training's time.

A gauge that costs c seconds and may have the share w of the budget B is visited every c / (w · B · T) updates of T seconds: it
saves up for a visit before it makes one. T is the median of the last updates, without what the gauges took. And no visit begins
that all of them together have not saved up for, so that the budget holds at any time, also where updates get faster or a visit
was dearer than thought. Knows no gauge and no tensor.
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
        agreed: Makes numbers the same in all processes that have to visit together: then all of these call `due` and `visited`
            at the same steps.
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
        self._apart: dict[str, int] = {}  # updates from the last visit to the next
        self._next: dict[str, int] = {}
        self.visits, self.spent = dict.fromkeys(gauges, 0), dict.fromkeys(gauges, 0.0)
        self._beats = [0.0] * _WINDOW
        self._count, self._last, self._own, self._begun = 0, 0.0, 0.0, 0.0
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
            self._begun = perf_counter()
            self._next = {name: step + self._wait(name, math.inf) for name in self._gauges}
        found = [name for name, at in sorted(self._next.items(), key=lambda one: one[1]) if at <= step]
        if found:
            found = self._affordable(found, step)
        self._settle()
        return found

    def _affordable(self, found: list[str], step: int) -> list[str]:
        """Those that have been saved up for; the others wait until they are."""
        training = perf_counter() - self._begun - sum(self.spent.values())
        room, update = self._agreed([_AIM * self.budget * training - sum(self.spent.values()), self.seconds])
        update, chosen = max(update, 1e-9), []
        for name in found:
            cost = self._cost.get(name, self._gauges[name][1] * update)
            if cost <= room:
                room -= cost
                chosen.append(name)
                self._next[name] = _LATER  # until it is known what this visit costs
            else:
                lacking = (cost - room) / (_AIM * self.budget * update) if math.isfinite(cost) else 1.0
                self._next[name] = step + max(1, math.ceil(min(lacking, _LATER)))
        return chosen

    def charge(self, name: str, seconds: float) -> None:
        """Part of a visit took so long."""
        self.spent[name] += seconds
        self._own += seconds

    def visited(self, name: str, seconds: float, step: int, failed: bool = False) -> bool:
        """A visit is over: when comes the next?

        Returns:
            Whether the gauge is to be left out, since this visit failed, here or in another process.
        """
        seconds, update, failures = self._agreed([seconds, self.seconds, float(failed)])
        if failures > 0:
            self.leave_out(name)
            return True
        if self.every is None and name in self._gauges:
            old = self._cost.get(name)
            self._cost[name] = seconds if old is None else max(seconds, _OLD * old + (1 - _OLD) * seconds)
            self._apart[name] = self._wait(name, update)
            self._next[name] = step + self._apart[name]
            self._settle()
        return False

    def postpone(self, name: str, step: int) -> None:
        """A visit was given up, and says nothing of what one costs: it is made up for after the usual time, or at once."""
        if self.every is not None:
            self.soonest = min(self.soonest, step)
        elif name in self._gauges:
            self._next[name] = step + self._usual(name)
            self._settle()

    def leave_out(self, name: str) -> None:
        """It is not available: its share goes to the others."""
        self._gauges.pop(name, None)
        self._next.pop(name, None)
        self._settle()

    def rewind(self, step: int) -> None:
        """The training went back to this step."""
        self.soonest = step
        self._next = {name: min(at, step + self._usual(name)) for name, at in self._next.items()}
        self._settle()

    def _usual(self, name: str) -> int:
        """Updates from one visit to the next, by what all processes know."""
        return self._apart.get(name) or self._wait(name, math.inf)

    def _wait(self, name: str, update: float) -> int:
        """Updates of so many seconds until a visit is paid for."""
        share, guess, least = self._gauges[name]
        share *= _AIM * self.budget / sum(one for one, _, _ in self._gauges.values())
        updates = guess if name not in self._cost else self._cost[name] / max(update, 1e-9)
        return min(max(least, math.ceil(updates / share)), _LATER)

    def _settle(self) -> None:
        if self.every is None:
            self.soonest = min(self._next.values(), default=_LATER)
