"""Tail: the one schedule without an end that is no constant, along a law: geometric, hyperbolic, or RAdam's rectification."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule, check_steps, check_value, onward
from lrkit.schedules.easing import Floats, number_text


class Law(Protocol):
    """What a tail goes along: step ↦ factor of its start, from 1 at step 0 (RAdam's: to 1)."""

    def factor(self, t: Any, m: Any) -> Any:
        """The factor at step `t`."""
        ...

    def words(self) -> str:
        """Its words in a schedule's text."""
        ...


def _time_words(law: Any) -> str:
    every = "" if law.every == 1 else f" every {number_text(law.every)}"
    return every + (" stairs" if law.stairs else "")


def _time(law: Any, t: Any, m: Any) -> Any:
    """t / every, rounded down on stairs."""
    if law.every != 1.0:
        t = t / law.every
    return m.floor(t) if law.stairs else t


def _check_time(call: str, law: Any) -> None:
    object.__setattr__(law, "every", real(call, "every", law.every, least=1e-3))
    object.__setattr__(law, "stairs", bool(law.stairs))


@dataclass(frozen=True)
class Geometric:
    """factor^(t / every): the same ratio every `every` steps; on stairs, floor(t / every), a step decay.

    Args:
        ratio: What is left after `every` steps; above 0, not 1. Above 1 it grows.
        every: Optimizer updates, at least 0.001.
        stairs: Whether it stays level in between.

    Raises:
        InputError: If a number is out of its range.
    """

    ratio: float
    every: float = 1.0
    stairs: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", real("Geometric", "ratio", self.ratio, above=0.0))
        if self.ratio == 1.0:
            raise InputError("Geometric(ratio=1): it would never change. For one value use Hold.")
        _check_time("Geometric", self)

    def factor(self, t: Any, m: Any) -> Any:
        """ratio^(t / every), kept below the largest float."""
        x = _time(self, t, m)
        return m.power(self.ratio, x if self.ratio < 1 else m.clip(x, 0.0, 700.0 / math.log(self.ratio)))

    def words(self) -> str:
        """``decay 0.1 every 30 stairs``."""
        return f"decay {number_text(self.ratio)}{_time_words(self)}"


@dataclass(frozen=True)
class Hyperbolic:
    """(1 + rate·t / every)^−p: inverse-time decay; p = ½ is the inverse square root.

    Args:
        rate: How much 1/value grows every `every` steps, above 0.
        p: Power, above 0.
        every: Optimizer updates, at least 0.001.
        stairs: Whether it stays level in between.

    Raises:
        InputError: If a number is out of its range.
    """

    rate: float
    p: float = 1.0
    every: float = 1.0
    stairs: bool = False

    def __post_init__(self) -> None:
        for name in ("rate", "p"):
            object.__setattr__(self, name, real("Hyperbolic", name, getattr(self, name), above=0.0))
        _check_time("Hyperbolic", self)

    def factor(self, t: Any, m: Any) -> Any:
        """(1 + rate·t / every)^−p."""
        x = 1.0 + self.rate * _time(self, t, m)
        return 1.0 / x if self.p == 1.0 else 1.0 / m.sqrt(x) if self.p == 0.5 else m.power(x, -self.p)

    def words(self) -> str:
        """``inverse 0.01 power 0.5``."""
        power = "" if self.p == 1 else f" power {number_text(self.p)}"
        return f"inverse {number_text(self.rate)}{power}{_time_words(self)}"


@dataclass(frozen=True)
class Rectified:
    """RAdam's warm-up (arXiv:1908.03265, Algorithm 2): √((ρₙ−4)(ρₙ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρₙ)), n = t + offset.

    ρ∞ = 2/(1−β₂) − 1,  ρₙ = ρ∞ − 2nβ₂ⁿ/(1−β₂ⁿ)

    Args:
        beta2: Adam's β₂, above 0.6 and below 1.
        offset: n of update 0, such that ρₙ > 4.

    Raises:
        InputError: If β₂ is out of its range, or ρₙ is not above 4 at `offset`.
    """

    beta2: float = 0.999
    offset: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta2", real("Rectified", "beta2", self.beta2, above=0.0))
        object.__setattr__(self, "offset", check_steps("Rectified", self.offset, "Count from 1."))
        if not 0.6 < self.beta2 < 1 or self._rho(float(self.offset), Floats) <= 4:
            came = f"Rectified(beta2={number_text(self.beta2)}, offset={self.offset})"
            raise InputError(f"{came}: the variance is infinite there (ρ ≤ 4). Take beta2 in (0.6, 1) and a higher offset.")

    def _rho(self, n: Any, m: Any) -> Any:
        decay = m.power(self.beta2, n)
        return 2.0 / (1.0 - self.beta2) - 1.0 - 2.0 * n * decay / (1.0 - decay)

    def factor(self, t: Any, m: Any) -> Any:
        """The rectification of update t."""
        top, rho = 2.0 / (1.0 - self.beta2) - 1.0, self._rho(t + float(self.offset), m)
        return m.sqrt((rho - 4.0) * (rho - 2.0) * top / ((top - 4.0) * (top - 2.0) * rho))

    def words(self) -> str:
        """``radam 0.999 offset 5``."""
        return f"radam {number_text(self.beta2)}" + ("" if self.offset == 5 else f" offset {self.offset}")


@dataclass(frozen=True)
class Tail(Schedule):
    """Go on from `start` along a law, as far as `limit`, for ever or for `steps` updates.

    value(t) = start · law(t), not beyond limit

    Args:
        law: `Geometric`, `Hyperbolic` or `Rectified`.
        start: Value at step 0 (of RAdam's: in the end), above 0.
        limit: Where it stops: the floor of what falls (0 where not given), the ceiling of what grows (to be given).
        steps: Optimizer updates, at least 1; None has no end.

    Raises:
        InputError: If a number is out of its range, or what grows has no ceiling.

    Examples:
        >>> halving = Tail(Geometric(0.5, every=10, stairs=True), limit=0.1)
        >>> [halving(t) for t in (0, 9, 10, 20, 1000)]
        [1.0, 1.0, 0.5, 0.25, 0.1]
    """

    law: Law
    start: float = 1.0
    limit: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.law, "factor"):
            raise InputError(f"Tail({self.law!r}): must be a law, e.g. lrkit.schedules.Geometric(0.95).")
        object.__setattr__(self, "start", check_value("Tail", "start", self.start))
        grows = isinstance(self.law, Geometric) and self.law.ratio > 1
        if grows and self.limit is None:
            raise InputError(f"Tail({self.law}): what grows needs a ceiling. Say limit=…, in a text 'to …'.")
        if self.limit is not None:
            object.__setattr__(self, "limit", check_value("Tail", "limit", self.limit))
            beyond = self.limit < self.start if grows else self.limit > self.start
            if beyond or isinstance(self.law, Rectified):
                came = f"Tail(start={number_text(self.start)}, limit={number_text(self.limit)})"
                way = (
                    "RAdam's rectification has no limit. Leave it out."
                    if isinstance(self.law, Rectified)
                    else (f"a {'ceiling' if grows else 'floor'} must lie on the way, {'above' if grows else 'below'} the start.")
                )
                raise InputError(f"{came}: {way}")
        if self.steps is not None:
            object.__setattr__(self, "steps", check_steps("Tail", self.steps, "Leave steps out to go on for ever."))
        bounds = (self.start, self.limit) if grows else (self.limit or 0.0, self.start)
        object.__setattr__(self, "_bounds", bounds)

    def value(self, step: Any, m: Any) -> Any:
        """start · law(t), kept within the limit."""
        t = onward(step, self.steps, m)
        low, high = self.bounds
        return m.clip(self.start * self.law.factor(t, m), low, high)

    @property
    def bounds(self) -> tuple[float, float]:
        """`start` and `limit`."""
        bounds: tuple[float, float] = self._bounds  # type: ignore[attr-defined]
        return bounds

    @property
    def end_value(self) -> float:
        """The value at `steps`; where there is no end, the limit."""
        if self.steps is not None:
            return self(self.steps)
        return self.start if isinstance(self.law, Rectified) else self.limit or 0.0

    def words(self, level: float) -> str:
        """``decay 0.1 every 30 stairs from 0.5 to 0.001 for 90``."""
        start = "" if self.start == level else f" from {number_text(self.start)}"
        limit = "" if self.limit is None else f" to {number_text(self.limit)}"
        steps = "" if self.steps is None else f" for {self.steps}"
        return f"{self.law.words()}{start}{limit}{steps}"
