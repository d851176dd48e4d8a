"""Visits: gauges at work. Each is led through the hooks of the updates it spans, timed, and left out where it cannot be read.

What a gauge does ends here: none of its errors reaches the training.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

import torch

from lrkit.gauges.catalogue import Gauge
from lrkit.gauges.norms import Reading
from lrkit.gauges.pace import Pace
from lrkit.gauges.view import Unavailable, Value, View

_log = logging.getLogger("lrkit")


class Visits:
    """Gauges, and those that are under way.

    Args:
        view: What they see.
        pace: When they are due.
        gauges: By name.

    Attributes:
        left_out: {gauge: why}.
    """

    def __init__(self, view: View, pace: Pace, gauges: dict[str, Gauge]) -> None:
        self.view, self.pace, self._gauges = view, pace, gauges
        self.under_way: list[_Visit] = []
        self.left_out: dict[str, str] = {}
        self._clocks: list[tuple[str, Any, Any, float]] = []  # what an accelerator takes is known when it has done so
        self._device = next((p.device for p in view.model.parameters() if p.device.type == "cuda"), None)

    def before(self, step: int) -> None:
        """An update begins."""
        self.view.step = step
        for visit in list(self.under_way):
            self._lead(visit, step)
        if step >= self.pace.soonest:
            for name in self.pace.due(step):
                visit = _Visit(name, self._gauges[name].read(self.view))
                self.under_way.append(visit)
                self._lead(visit, step)

    def after(self, step: int) -> dict[str, Value]:
        """An update has been made: what has been read of it."""
        seen: dict[str, Value] = {}
        for visit in list(self.under_way):
            seen |= self._lead(visit, step)
        return seen

    def drop(self) -> None:
        """Give up what is under way: the update is not made, or the training went back."""
        for visit in self.under_way:
            visit.reading.close()
            self.pace.visited(visit.name, visit.seconds, self.view.step)
        self.under_way = []

    def read_clocks(self) -> None:
        """Charge what an accelerator took beyond the time to hand it over; the host has just waited for it."""
        for name, begin, end, seconds in self._clocks:
            self.pace.charge(name, max(0.0, begin.elapsed_time(end) / 1e3 - seconds))
        self._clocks = []

    def _lead(self, visit: _Visit, step: int) -> dict[str, Value]:
        """To its next ``yield``, or to its end."""
        begin = self._clock()
        since, seen, over = perf_counter(), {}, True
        try:
            next(visit.reading)
            over = False
        except StopIteration as end:
            seen = end.value
        except Unavailable as reason:
            self.left_out[visit.name] = str(reason)
        except Exception as error:  # whatever it is, the training goes on
            text = (str(error).strip().splitlines() or [""])[0]
            self.left_out[visit.name] = f"{type(error).__name__}: {text:.200}"
            _log.warning("watch: the gauge %s is left out from step %d on: %s", visit.name, step, self.left_out[visit.name])
        seconds = perf_counter() - since
        if begin is not None:
            self._clocks.append((visit.name, begin, self._clock(), seconds))
        self.pace.charge(visit.name, seconds)
        visit.seconds += seconds
        if over:
            self.under_way.remove(visit)
            if visit.name in self.left_out:
                self.pace.leave_out(visit.name)
            else:
                self.pace.visited(visit.name, visit.seconds, step)
        return seen

    def _clock(self) -> Any:
        if self._device is None:
            return None
        clock = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        clock.record(torch.cuda.current_stream(self._device))
        return clock


class _Visit:
    """One gauge, led so far."""

    def __init__(self, name: str, reading: Reading) -> None:
        self.name, self.reading, self.seconds = name, reading, 0.0
