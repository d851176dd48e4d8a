"""Visits: gauges at work. Each is led through the hooks of the updates it spans, timed, and left out where it cannot be read.

What a gauge does ends here: none of its errors reaches the training.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

import torch

from lrkit.gauges.catalogue import Gauge
from lrkit.gauges.evaluation import NotNow, Unavailable
from lrkit.gauges.norms import Reading
from lrkit.gauges.pace import Pace
from lrkit.gauges.view import Value, View

_LAG = 8  # updates after which an accelerator has done what it was told: then asking it for the time waits for nothing
_log = logging.getLogger("lrkit")


class Visits:
    """Gauges, and those that are under way.

    Args:
        view: What they see.
        pace: When they are due.
        gauges: By name.

    Attributes:
        under_way: Visits that are not over, or of which it is not known yet what they took.
        left_out: {gauge: why}.
    """

    def __init__(self, view: View, pace: Pace, gauges: dict[str, Gauge]) -> None:
        self.view, self.pace, self._gauges = view, pace, gauges
        self.under_way: list[_Visit] = []
        self.left_out: dict[str, str] = {}

    def before(self, step: int) -> None:
        """An update begins."""
        self.view.step = step
        for visit in list(self.under_way):
            if visit.over is None:
                self._lead(visit, step)
            elif step >= visit.over + _LAG:
                self._settle(visit, step)
        if step >= self.pace.soonest:
            for name in self.pace.due(step):
                visit = _Visit(name, self._gauges[name].read(self.view), self._device())
                self.under_way.append(visit)
                self._lead(visit, step)

    def after(self, step: int) -> dict[str, Value]:
        """An update has been made: what has been read of it."""
        seen: dict[str, Value] = {}
        for visit in list(self.under_way):
            if visit.over is None:
                seen |= self._lead(visit, step)
        return seen

    def drop(self) -> None:
        """Give up what is under way: the update is not made, or the training went back. Asks no other process."""
        visits, self.under_way = self.under_way, []
        for visit in visits:
            try:
                visit.reading.close()
            except Exception as error:  # whatever it is, the training goes on
                self._note(visit.name, error, self.view.step)
            self.pace.postpone(visit.name, self.view.step)

    def _lead(self, visit: _Visit, step: int) -> dict[str, Value]:
        """To its next ``yield``, or to its end."""
        visit.tick()
        since, seen, over = perf_counter(), {}, True
        try:
            next(visit.reading)
            over = False
        except StopIteration as end:
            seen = end.value
            self.pace.visits[visit.name] += 1
            self.left_out.pop(visit.name, None)
        except NotNow as reason:
            visit.vain = True
            if not self.pace.visits[visit.name]:
                self.left_out[visit.name] = str(reason)
        except Unavailable as reason:
            self.left_out[visit.name] = str(reason)
            visit.failed = True
        except Exception as error:  # whatever it is, the training goes on
            self._note(visit.name, error, step)
            visit.failed = True
        except BaseException:  # Ctrl-C
            self.drop()
            raise
        seconds = perf_counter() - since
        visit.tick()
        self.pace.charge(visit.name, seconds)
        visit.seconds.append(seconds)
        if over:
            visit.over = step
            if not visit.clocks or (visit.failed and not self.view.sharded):
                self._settle(visit, step)
        return seen

    def _settle(self, visit: _Visit, step: int) -> None:
        """All is known of it."""
        self.under_way.remove(visit)
        beyond = visit.beyond()
        self.pace.charge(visit.name, beyond)
        if visit.vain:
            self.pace.postpone(visit.name, step)
        elif self.pace.visited(visit.name, sum(visit.seconds) + beyond, step, visit.failed):
            self.left_out.setdefault(visit.name, "it failed in another process")

    def _note(self, name: str, error: Exception, step: int) -> None:
        text = (str(error).strip().splitlines() or [""])[0]
        self.left_out[name] = f"{type(error).__name__}: {text:.200}"
        _log.warning("watch: the gauge %s is left out from step %d on: %s", name, step, self.left_out[name])

    def _device(self) -> torch.device | None:
        """An accelerator with a clock of its own, if that is where the weights are."""
        first = next((p.device for p in self.view.parameters), None)
        return first if first is not None and first.type == "cuda" else None


class _Visit:
    """One gauge, led so far."""

    def __init__(self, name: str, reading: Reading, device: torch.device | None) -> None:
        self.name, self.reading, self._device = name, reading, device
        self.seconds: list[float] = []  # of the host
        self.clocks: list[Any] = []  # of the accelerator: before and after each part
        self.over: int | None = None
        self.failed = self.vain = False

    def tick(self) -> None:
        """Have the accelerator note the time when it comes here; nobody waits for it."""
        if self._device is not None:
            clock = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            clock.record(torch.cuda.current_stream(self._device))
            self.clocks.append(clock)

    def beyond(self) -> float:
        """Seconds that an accelerator took beyond those that the host took to tell it."""
        if not self.clocks:
            return 0.0
        self.clocks[-1].synchronize()
        pairs = zip(self.clocks[::2], self.clocks[1::2], self.seconds, strict=True)
        beyond: float = sum(max(0.0, begin.elapsed_time(end) / 1e3 - host) for begin, end, host in pairs)
        return beyond
