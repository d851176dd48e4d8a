"""Durations in units, and the clock that turns them into steps: the border at which epochs, tokens and shares become updates."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from lrkit.errors import InputError, real, whole
from lrkit.schedules.easing import number_text

UNITS = {"": None, "%": "total", "ep": "steps_per_epoch", "tok": "tokens_per_step", "samples": "samples_per_step"}


def rounded(steps: float) -> int:
    """The nearest whole number; what is beyond the halves of a float is whole already."""
    return int(steps + 0.5) if steps < 2**52 else int(steps)


@dataclass(frozen=True)
class Clock:
    """What turns units into steps: updates of the run and of an epoch, tokens and samples of an update; None if not known.

    `total` may be a duration itself: ``"90ep"``, ``"1e12tok"``.
    """

    total: Any = None  # an int, once it is made
    steps_per_epoch: int | None = None
    tokens_per_step: float | None = None
    samples_per_step: float | None = None

    def __post_init__(self) -> None:
        for name in ("total", "steps_per_epoch"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, str):
                given = int(given) if isinstance(given, float) and given == given // 1 else given  # 1e12 / 4e6
                object.__setattr__(self, name, whole("resolve", name, given, what="a whole number of updates"))
        for name in ("tokens_per_step", "samples_per_step"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, real("resolve", name, getattr(self, name), above=0.0))
        if isinstance(self.total, str):
            total = _duration_of(self.total).steps(Clock(None, *self._units()))
            object.__setattr__(self, "total", whole("resolve", "total", total, what="a whole number of updates"))

    def _units(self) -> tuple[int | None, float | None, float | None]:
        return self.steps_per_epoch, self.tokens_per_step, self.samples_per_step


@dataclass(frozen=True)
class Duration:
    """An amount of training: `amount` in `unit`: ``""`` steps, ``"%"`` of the run, ``"ep"`` epochs, ``"tok"``, ``"samples"``."""

    amount: float
    unit: str = ""

    def __str__(self) -> str:
        return number_text(self.amount) + self.unit

    def exact(self, clock: Clock) -> float:
        """In optimizer updates, not rounded.

        Raises:
            InputError: If what the unit needs was not given.
        """
        name = UNITS[self.unit]
        if name is None:
            return self.amount
        given = getattr(clock, name)
        if given is None:
            raise InputError(f"resolve: {self} cannot be turned into steps. Pass {name}=…")
        if self.unit == "%":
            return float(self.amount * given / 100)
        return float(self.amount * given if self.unit == "ep" else self.amount / given)

    def steps(self, clock: Clock) -> int:
        """In optimizer updates, rounded to a whole number of at least 1."""
        return max(1, rounded(self.exact(clock)))


def _duration_of(text: str) -> Duration:
    """``"90ep"`` as a duration."""
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE]\+?\d+)?)\s*(ep|tok|samples)?\s*", text)
    if match is None or not 0 < float(match[1]) < math.inf:
        raise InputError(f"resolve(total={text!r}): total must be a number of updates, or a duration: '90ep', '1e12tok'.")
    return Duration(float(match[1]), match[2] or "")
