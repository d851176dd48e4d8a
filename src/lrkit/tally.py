"""Tally: what a clip judged of an update, and what it has done so far; and which optimizer is clipped by whom.

Knows no gradient: it counts verdicts.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer


class Verdict(NamedTuple):
    """What a clip says of one update."""

    finite: bool  # False: a gradient is not finite; skip the update
    gains: float | list[Tensor]  # each gradient's factor; adaptive, if engaged: one tensor each, (rows, 1, …) or (), local rows
    bound: float | None  # then every entry is clamped to ±bound, a complex one in its absolute value; None: nothing to clamp
    size: float  # before: the norm; value: the largest |entry|; adaptive: the largest ‖gᵢ‖ / max(‖wᵢ‖, eps)
    engaged: bool  # whether anything is changed by it


class Tally:
    """What a clip has done so far. Gradients that are all zero are no update: torch's distributed checkpoints step with such."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule
        self.updates = 0  # made, clipped or not
        self.engaged = 0  # of these, clipped
        self.skipped = 0  # not made, since a gradient was not finite
        self.hardest: float | None = None  # the smallest factor, limit / size, of all that were clipped
        self.last: Verdict | None = None  # on the last update
        self._sum = 0.0

    def note(self, verdict: Verdict) -> None:
        """Count one update."""
        self.last = verdict
        self.skipped += not verdict.finite
        self.updates += verdict.finite and verdict.size > 0.0
        if verdict.engaged:
            factor = self.rule.limit / verdict.size
            self.engaged, self._sum = self.engaged + 1, self._sum + factor
            self.hardest = min(factor, self.hardest or factor)

    @property
    def share(self) -> float:
        """engaged / updates; 0 before the first."""
        return self.engaged / self.updates if self.updates else 0.0

    @property
    def mean(self) -> float | None:
        """The mean factor, limit / size, of the updates that were clipped; None before the first."""
        return self._sum / self.engaged if self.engaged else None

    def columns(self) -> dict[str, float]:
        """Of the last update, for a log: ``clip_factor``, what is left, and of a clip of the 2-norm ``grad_norm`` before it."""
        if self.last is None:
            return {}
        left = self.rule.limit / self.last.size if self.last.engaged else 1.0
        by_norm = getattr(self.rule, "type", None) == 2.0
        return {"grad_norm": self.last.size, "clip_factor": left} if by_norm else {"clip_factor": left}

    def as_dict(self) -> dict[str, str | int | float | None]:
        """All of it, for a log."""
        numbers = {"updates": self.updates, "engaged": self.engaged, "skipped": self.skipped, "share": self.share}
        return {"rule": repr(self.rule), **numbers, "mean": self.mean, "hardest": self.hardest}

    def __repr__(self) -> str:
        text = f"{type(self.rule).__name__.lower()} {self.rule.limit}: engaged in {self.engaged} of {self.updates} updates"
        if self.engaged:
            text += f" ({100.0 * self.share:.3g} %), to {self.mean:.2g} on average, {self.hardest:.2g} at the hardest"
        skipped = f"{self.skipped} update{'s' * (self.skipped != 1)} skipped (gradient not finite)"
        return f"{text}; {skipped}" if self.skipped else text


_TALLIES: WeakKeyDictionary[Optimizer, Tally] = WeakKeyDictionary()


def tally_of(optimizer: Optimizer) -> Tally | None:
    """What clips this optimizer has counted, where lrkit clips it: by itself, by `clip.on`, or by `clip.apply` with a tally."""
    own = getattr(optimizer, "tally", None)
    return own if isinstance(own, Tally) else _TALLIES.get(optimizer)


def remember(optimizer: Optimizer, tally: Tally | None) -> None:
    """This tally counts what is clipped of this optimizer; None: nobody clips it any more."""
    if tally is None:
        _TALLIES.pop(optimizer, None)
    else:
        _TALLIES[optimizer] = tally
