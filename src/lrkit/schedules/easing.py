"""Easings: the shapes of a segment between its two ends.

Each maps progress u ∈ [0, 1] to a value that is `start` at 0 and `end` at 1, exactly. `m` is where cos and pi come from: the
floats of this module, NumPy, torch or JAX, so that one formula serves a number and a whole curve.
"""

import math
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from typing import Any, Protocol, TypeVar

from lrkit.errors import InputError

T = TypeVar("T")  # a float, or an array of any library


class Floats:
    """The few functions of an array library that the formulas need, for plain floats."""

    pi = math.pi
    cos = staticmethod(math.cos)

    @staticmethod
    def clip(value: float, low: float, high: float) -> float:
        """The value, kept between `low` and `high`."""
        return low if value < low else high if value > high else value


class Easing(Protocol):
    """What a shape has to be. `str(easing)` is its word in a schedule's text."""

    def between(self, start: float, end: float, u: T, m: Any) -> T:
        """The value at progress `u` of the way from `start` to `end`."""
        ...


def _blend(start: float, end: float, w: Any) -> Any:
    """(1 − w)·start + w·end: exact at both ends, never outside them."""
    return (1.0 - w) * start + w * end


@dataclass(frozen=True)
class Linear:
    """w = u: a straight line."""

    def between(self, start: float, end: float, u: Any, m: Any) -> Any:  # noqa: ARG002  (the protocol's shape)
        """start + u·(end − start)."""
        return _blend(start, end, u)

    def __str__(self) -> str:
        return "linear"


@dataclass(frozen=True)
class Cosine:
    """w = (1 − cos πu) / 2: half a wave (arXiv:1608.03983, eq. 5)."""

    def between(self, start: float, end: float, u: Any, m: Any) -> Any:
        """end + (start − end)·(1 + cos πu)/2."""
        return _blend(start, end, (1.0 - m.cos(m.pi * u)) / 2.0)

    def __str__(self) -> str:
        return "cosine"


@dataclass(frozen=True)
class Power:
    """w = u^p. From 1 to 0, p = ½ is the "1-sqrt" decay of warmup–stable–decay (arXiv:2405.18392), p = 2 "1-square".

    Args:
        p: Exponent, above 0. Below 1 it starts fast, above 1 slowly.

    Raises:
        InputError: If `p` is not a finite number above 0.
    """

    p: float

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not (isinstance(self.p, Real) and math.isfinite(self.p) and self.p > 0):
            raise InputError(f"Power(p={self.p!r}): p must be a finite number above 0. For one value use Hold.")

    def between(self, start: float, end: float, u: Any, m: Any) -> Any:  # noqa: ARG002  (the protocol's shape)
        """start + u^p·(end − start)."""
        return _blend(start, end, u**self.p)

    def __str__(self) -> str:
        return _NAMES.get(self.p, f"power({number_text(self.p)})")


@dataclass(frozen=True)
class Exponential:
    """start^(1−u)·end^u: the same factor every step, a straight line on a logarithmic axis. Both ends are above 0."""

    def between(self, start: float, end: float, u: Any, m: Any) -> Any:  # noqa: ARG002  (the protocol's shape)
        """start^(1−u) · end^u."""
        return start ** (1.0 - u) * end**u

    def __str__(self) -> str:
        return "exponential"


_NAMES = {0.5: "1-sqrt", 2.0: "1-square"}
linear, cosine, exponential = Linear(), Cosine(), Exponential()

# The words of the text form. `power` takes its exponent in brackets and is built where it is read.
EASINGS: dict[str, Easing] = {
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    **{name: Power(p) for p, name in _NAMES.items()},
}


def easing(name: "str | Easing") -> Easing:
    """The easing of that name; an easing is handed through.

    Raises:
        InputError: If there is none of that name.

    Examples:
        >>> easing("1-sqrt")
        Power(p=0.5)
    """
    if not isinstance(name, str):
        return name
    if name not in EASINGS:
        near = get_close_matches(name, EASINGS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise InputError(f"easing({name!r}): there is none of that name. {hint}There are {', '.join(EASINGS)}, and Power(p).")
    return EASINGS[name]


def number_text(value: float) -> str:
    """The shortest text that reads back as the same number: 0.1, 500, 1e-7."""
    short = f"{value:.12g}"
    return short if float(short) == value else repr(float(value))
