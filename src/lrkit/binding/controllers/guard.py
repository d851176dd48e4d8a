"""DivergenceGuard: when the loss explodes, back to where it was good, with a lower rate.

Knows snapshots and one model; judges by the loss alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lrkit.binding import record
from lrkit.binding.controllers.base import UNRECORDED, Controller, State
from lrkit.errors import InputError, StateError, whole
from lrkit.snapshot import Restore, capture, capture_module

_WINDOW = 10  # reports over which the level of the loss is averaged
_NOISE = 6.0  # mean deviations around the level that are no rise yet
_EXPLODED = 2.0  # so many times its size must the very first loss have grown to count as a rise before the noise is known
_SCALE, _LEVEL, _SPREAD, _LOW, _START, _HEARD, _HIGH, _RETRIES = range(8)


@dataclass(frozen=True, kw_only=True)
class DivergenceGuard(Controller):
    """Go back to the last good snapshot, and multiply the rate by `factor`, where the loss is not finite or has risen for good.

    A rise is confirmed when for `confirm` reports in a row the level of the loss (its moving average over ten reports) lies
    above its lowest by more than `rise` of the drop so far, and by more than six times the mean deviation of the reports around
    it; among the first ten reports, when each is above three times the first. A snapshot is taken before the first update and at
    every `every`-th report where the level is near its lowest, and trusted once the next one is due: weights that an update has
    spoilt while the loss still looked fine are never gone back to.

    Weights, buffers, optimizer state and step go back; batches and random numbers go on, so that the batch that broke the run
    does not come again. The event is recorded in `attachment.events`, and in the Run of a `watch` on the same optimizer.

    Args:
        model: The model; weights, buffers and modes are captured. It costs up to two copies of model and optimizer state.
        also: Whatever else goes back: an EMA of the weights, a scaler; modules, or objects whose attributes are captured.
        every: Reports between two snapshots, at least 1.
        rise: Share of the drop so far that may be lost again, above 0.
        confirm: Reports in a row that confirm a rise, at least 1; a loss that is not finite needs none.
        factor: Between 0 and 1.
        retries: Times that it goes back, at least 1; the next divergence raises.
        metric: The name under which it hears.
        key: What it scales.
        name: By which its state is found.

    Raises:
        InputError: If a setting breaks its rule.
        StateError: From `report`, if the loss diverges once more after `retries`, or before the first update.
    """

    model: nn.Module = field(kw_only=False, metadata=UNRECORDED)
    also: tuple[Any, ...] = field(default=(), metadata=UNRECORDED)
    every: int = 100
    rise: float = 0.5
    confirm: int = 5
    factor: float = 0.3
    retries: int = 3
    _kept: dict[str, Restore] = field(default_factory=dict, init=False, repr=False, compare=False)

    def check(self) -> None:
        """Refuse settings that break a rule."""
        if not isinstance(self.model, nn.Module):
            raise InputError(f"DivergenceGuard(model={type(self.model).__name__}): needs the torch module that is trained.")
        object.__setattr__(self, "also", tuple(self.also) if isinstance(self.also, tuple | list) else (self.also,))
        for name in ("every", "confirm", "retries"):
            object.__setattr__(self, name, whole("DivergenceGuard", name, getattr(self, name)))
        self._real("rise", above=0.0)
        self._real("factor", above=0.0, below=1.0)

    def start(self) -> State:
        """Scale 1: scale, level, mean deviation, lowest level, first level, reports, reports above in a row, times gone back."""
        return 1.0, 0.0, 0.0, math.inf, math.nan, 0.0, 0.0, 0.0

    def heard(self, state: State, value: float) -> State:
        """Follow the level; where the loss has diverged, one more retry and a lower scale."""
        scale, level, spread, low, first, heard, high, retries = state
        if not math.isfinite(value):
            return self._back(state)
        weight = max(2.0 / (_WINDOW + 1), 1.0 / (heard + 1))
        if heard:
            spread += weight * (abs(value - level) - spread)
        level += weight * (value - level)
        heard += 1
        if heard <= _WINDOW:  # the first reports say where it starts, and how it scatters; only an explosion is seen in them
            first = value if heard == 1 else first
            above = value - first > _EXPLODED * abs(first)
            low, first = (level, level) if heard == _WINDOW and not above else (min(low, level), first)
        else:
            above = level - low > max(self.rise * (first - low), _NOISE * spread)
            low = min(low, level)
        high = high + 1 if above else 0.0
        after = scale, level, spread, low, first, heard, high, retries
        return self._back(after) if high >= self.confirm else after

    def _back(self, state: State) -> State:
        """Lower the scale; the level is learnt anew."""
        return state[_SCALE] * self.factor, *self.start()[1:_RETRIES], state[_RETRIES] + 1

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the snapshot that is there from the first update on."""
        self._kept.clear()
        self._kept["good"] = self._capture(optimizer)

    def act(self, before: State, after: State, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Take snapshots while all is well; go back where it is not."""
        if after[_RETRIES] == before[_RETRIES]:
            if _well(after) and after[_HEARD] % self.every == 0:
                if "fresh" in self._kept:
                    self._kept["good"] = self._kept["fresh"]
                self._kept["fresh"] = self._capture(optimizer)
            return None
        if after[_RETRIES] > self.retries:
            raise StateError(
                f"DivergenceGuard: the loss diverged again after going back {self.retries} times. Lower the rate, or look for "
                "another cause: a bad batch, half precision, the model."
            )
        if "good" not in self._kept:
            raise StateError(
                "DivergenceGuard: the loss is not finite before the first update. Look at the model and the first batch."
            )
        at, back = self._go_back(optimizer)
        return {"what": f"back from step {at} to step {back}, {self.key} × {self.factor:.4g}", "from": at, "back_to": back}

    def _go_back(self, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
        """Restore the trusted snapshot; the step it was at, and the step it is at now."""
        groups = optimizer.param_groups
        at = record.read_step(groups[0]) or 0
        kept = [{key: group[key] for key in group if key == record.SPEC or key.startswith(record.BASE)} for group in groups]
        self._kept["good"]()
        self._kept.pop("fresh", None)
        for group, own in zip(groups, kept, strict=False):
            group.update(own)  # a rebase since then was meant to stay
        optimizer.zero_grad(set_to_none=True)
        return at, record.read_step(groups[0]) or 0

    def _capture(self, optimizer: torch.optim.Optimizer) -> Restore:
        seen: dict[int, Restore] = {}
        parts: list[Restore] = [capture_module(self.model, seen)]
        for one in self.also:
            parts.append(capture_module(one, seen) if isinstance(one, nn.Module) else capture(vars(one), seen))
        # Not the optimizer's hooks: a watch that came since then stays.
        parts += [capture(optimizer.state, seen), capture(optimizer.param_groups, seen)]
        return lambda: [part() for part in parts]


def _well(state: State) -> bool:
    """Whether the level is near its lowest."""
    return state[_LEVEL] - state[_LOW] <= max(0.1 * (state[_START] - state[_LOW]), state[_SPREAD])
