"""Easings: the shapes of a segment between its two ends.

Each maps progress u ∈ [0, 1] to a value that is `start` at 0 and `end` at 1. `m` is where cos and pi come from: the floats of
this module, NumPy or JAX, so that one formula serves a number and a whole curve.
"""

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Real
from typing import Any, ClassVar, Protocol, TypeVar

from lrkit.errors import InputError

T = TypeVar("T")  # a float, or an array of any library


class Floats:
    """The few functions of an array library that the formulas need, for plain floats.

    Where NumPy's kernels round otherwise than the C library (powers, tanh), NumPy's serve here too: 1 − u^p near u = 1 would
    make much of the difference, and a number has to equal its place on the curve.
    """

    sin = staticmethod(math.sin)
    sqrt = staticmethod(math.sqrt)
    floor = staticmethod(math.floor)

    @staticmethod
    def clip(value: float, low: float, high: float) -> float:
        """The value, kept between `low` and `high`."""
        return low if value < low else high if value > high else value

    @staticmethod
    def where(condition: bool, yes: float, no: float) -> float:
        """`yes` or `no`."""
        return yes if condition else no

    @staticmethod
    def power(base: float, exponent: float) -> float:
        """base^exponent, by the loop that serves arrays: NumPy takes shortcuts for single numbers."""
        import numpy

        with numpy.errstate(over="ignore", under="ignore"):
            return float(numpy.power(numpy.array([base], dtype=float), numpy.array([exponent], dtype=float))[0])

    @staticmethod
    def tanh(value: float) -> float:
        """The hyperbolic tangent."""
        import numpy

        return float(numpy.tanh(value))


_QUARTER = math.pi / 2  # a quarter of a turn
_sin = math.sin


def powered(x: Any, p: float, m: Any) -> Any:
    """x^p, by an exactly rounded operation where there is one."""
    return x if p == 1.0 else x * x if p == 2.0 else m.sqrt(x) if p == 0.5 else m.power(x, p)


def is_finite(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


class Easing(Protocol):
    """What a shape has to be. `str(easing)` is its word in a schedule's text."""

    def between(self, start: float, end: float, u: T, m: Any) -> T:
        """The value at progress `u` of the way from `start` to `end`."""
        ...


class _Shape:
    """What the easings below have in common: a weight w(u) between the ends, a word, and parameters that are checked."""

    word: ClassVar[str]
    above_zero: ClassVar[tuple[str, ...]] = ("p", "k")

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            least = "above 0" if field.name in self.above_zero else "of any sign"
            wrong = isinstance(value, bool) or not (isinstance(value, Real) and is_finite(value))
            if wrong or (field.name in self.above_zero and not value > 0):
                came = f"{type(self).__name__}({field.name}={value!r})"
                raise InputError(f"{came}: {field.name} must be a finite number {least}. For one value use Hold.")
            object.__setattr__(self, field.name, float(value))

    def left(self, u: Any, m: Any) -> Any:
        """1 − w, how much of `start` is left at `u`. Small numbers count here: near the end of a decay to 0 it is the value."""
        return 1.0 - self.weight(u, m)

    def weight(self, u: Any, m: Any) -> Any:
        """w, how much of `end` there is at `u`: 0 at 0, 1 at 1. A shape has its formula here or in `left`."""
        return 1.0 - self.left(u, m)

    def between(self, start: float, end: float, u: Any, m: Any) -> Any:
        """(1 − w)·start + w·end."""
        return self.left(u, m) * start + self.weight(u, m) * end

    def __str__(self) -> str:
        given = [(f.name, getattr(self, f.name), f.default) for f in fields(self)]  # type: ignore[arg-type]
        return self.word + parameters_text(given)


def parameters_text(given: list[tuple[str, float, Any]]) -> str:
    """``(0.9, k=2)``: what is as usual is left out, and what stands behind it is named."""
    texts, skipped = [], False
    for name, value, default in given:
        if value == default:
            skipped = True
        else:
            texts.append(f"{name}={number_text(value)}" if skipped else number_text(value))
    return f"({', '.join(texts)})" if texts else ""


@dataclass(frozen=True)
class Linear(_Shape):
    """w = u: a straight line."""

    word = "linear"

    def between(self, start: float, end: float, u: Any, m: Any) -> Any:  # noqa: ARG002  (the protocol's shape)
        """start + u·(end − start)."""
        return (1.0 - u) * start + u * end


@dataclass(frozen=True)
class Cosine(_Shape):
    """w = (1 − cos πu) / 2: half a wave (arXiv:1608.03983, eq. 5)."""

    word = "cosine"

    def between(self, start: float, end: float, u: Any, m: Any) -> Any:
        """end + (start − end)·(1 + cos πu)/2, by the half angle's sine: (1 − cos πv)/2 = sin²(πv/2) keeps what is small."""
        if m is Floats:
            if u > 0.5:
                sine = _sin(_QUARTER * (1.0 - u))
                small = sine * sine
                return small * start + (1.0 - small) * end
            sine = _sin(_QUARTER * u)
            small = sine * sine
            return (1.0 - small) * start + small * end
        late = u > 0.5
        sine = m.sin(_QUARTER * m.where(late, 1.0 - u, u))
        small = sine * sine
        rest = 1.0 - small
        return m.where(late, small, rest) * start + m.where(late, rest, small) * end


@dataclass(frozen=True)
class Wave(_Shape):
    """1 − w = ((1 + cos πu^k) / 2)^p: the cosine with a power of the wave and of time.

    Args:
        p: Power of the wave, above 0 (optax's `exponent`).
        k: Power of time, above 0: above 1 it stays high for longer (k-decay, arXiv:2004.05909).

    Raises:
        InputError: If a parameter is not above 0.
    """

    word = "wave"
    p: float = 1.0
    k: float = 1.0

    def left(self, u: Any, m: Any) -> Any:
        """((1 + cos πu^k)/2)^p."""
        return powered(cosine.between(1.0, 0.0, powered(u, self.k, m), m), self.p, m)


@dataclass(frozen=True)
class Power(_Shape):
    """w = u^p. From 1 to 0, p = ½ is the "1-sqrt" decay of warmup–stable–decay (arXiv:2405.18392), p = 2 "1-square".

    Args:
        p: Exponent, above 0. Below 1 it starts fast, above 1 slowly.

    Raises:
        InputError: If `p` is not a finite number above 0.
    """

    word = "power"
    p: float

    def weight(self, u: Any, m: Any) -> Any:
        """u^p."""
        return powered(u, self.p, m)

    def left(self, u: Any, m: Any) -> Any:
        """1 − u^p, without cancellation where p is ½ or 2."""
        if self.p == 2.0:
            return (1.0 - u) * (1.0 + u)
        return (1.0 - u) / (1.0 + m.sqrt(u)) if self.p == 0.5 else 1.0 - powered(u, self.p, m)

    def __str__(self) -> str:
        return _NAMES.get(self.p) or super().__str__()


@dataclass(frozen=True)
class Polynomial(_Shape):
    """1 − w = (1 − u^k)^p: the "poly" decay of segmentation and of BERT.

    Args:
        p: Power, above 0: 0.9 bends little, 2 falls fast first.
        k: Power of time, above 0 (k-decay, arXiv:2004.05909).

    Raises:
        InputError: If a parameter is not above 0.
    """

    word = "polynomial"
    p: float
    k: float = 1.0

    def left(self, u: Any, m: Any) -> Any:
        """(1 − u^k)^p."""
        return powered(1.0 - powered(u, self.k, m), self.p, m)


@dataclass(frozen=True)
class Exponential(_Shape):
    """start^(1−u)·end^u: the same factor every step, a straight line on a logarithmic axis. Both ends are above 0."""

    word = "exponential"

    def between(self, start: float, end: float, u: Any, m: Any) -> Any:
        """start^(1−u) · end^u."""
        return m.power(start, 1.0 - u) * m.power(end, u)


@dataclass(frozen=True)
class Relax(_Shape):
    """w = (1 − b^u) / (1 − b): an exponential that does arrive. b = ½ is Megatron's "exponential" decay, 2·0.5^u − 1.

    Args:
        b: What is left of the way in one time constant, above 0 and not 1: the smaller, the faster the start.

    Raises:
        InputError: If `b` is not above 0, or is 1.
    """

    word = "relax"
    above_zero = ("b",)
    b: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.b == 1.0:
            raise InputError("Relax(b=1): b must not be 1. For a straight line use linear.")

    def weight(self, u: Any, m: Any) -> Any:
        """(1 − b^u) / (1 − b)."""
        return (1.0 - m.power(self.b, u)) / (1.0 - self.b)

    def left(self, u: Any, m: Any) -> Any:
        """(b^u − b) / (1 − b)."""
        return (m.power(self.b, u) - self.b) / (1.0 - self.b)


@dataclass(frozen=True)
class Tanh(_Shape):
    """1 − w = (1 − tanh(low·(1 − u^k) + high·u^k)) / 2, and w = 1 at u = 1 (hyperbolic-tangent decay, arXiv:1806.01593).

    Args:
        low: Where the curve begins; −7 and below start at `start` to six digits.
        high: Where it ends, above `low`; then it drops to `end`.
        k: Power of time, above 0 (k-decay, arXiv:2004.05909).

    Raises:
        InputError: If `high` is not above `low`, or `k` not above 0.
    """

    word = "tanh"
    above_zero = ("k",)
    low: float = -6.0
    high: float = 3.0
    k: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.high > self.low:
            raise InputError(f"Tanh(low={self.low}, high={self.high}): high must be above low. The paper has -6 and 3.")

    def left(self, u: Any, m: Any) -> Any:
        """(1 − tanh(low·(1 − u^k) + high·u^k)) / 2, and 0 at the end."""
        x = powered(u, self.k, m)
        return m.where(u >= 1.0, 0.0, (1.0 - m.tanh(self.low * (1.0 - x) + self.high * x)) / 2.0)


@dataclass(frozen=True)
class Rex(_Shape):
    """1 − w = (1 − u) / (1 − u/2): slower than a line, then faster (REX, arXiv:2107.04197)."""

    word = "rex"

    def left(self, u: Any, m: Any) -> Any:  # noqa: ARG002  (the shape of all weights)
        """(1 − u) / (1 − u/2)."""
        return (1.0 - u) / (1.0 - 0.5 * u)


_NAMES = {0.5: "1-sqrt", 2.0: "1-square"}
linear, cosine, exponential = Linear(), Cosine(), Exponential()

# The words of the text form: those that stand alone, and the classes whose parameters follow in brackets.
EASINGS: dict[str, Easing] = {
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "rex": Rex(),
    **{name: Power(p) for p, name in _NAMES.items()},
}
SHAPES: dict[str, type[_Shape]] = {
    kind.word: kind for kind in (Linear, Cosine, Wave, Power, Polynomial, Exponential, Relax, Tanh, Rex)
}


def easing(call: str, name: "str | Easing") -> Easing:
    """The easing of that name; an easing is handed through.

    Raises:
        InputError: If there is none of that name, or it is neither.

    Examples:
        >>> easing("Segment", "1-sqrt")
        Power(p=0.5)
    """
    if hasattr(name, "between"):
        return name
    if not isinstance(name, str):
        raise InputError(f"{call}(easing={name!r}): must be an easing or its name, e.g. 'cosine' or lrkit.schedules.Power(2).")
    if name not in EASINGS:
        near = get_close_matches(name, EASINGS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        known = f"There are {', '.join(EASINGS)}, and Power(p)."
        raise InputError(f"{call}(easing={name!r}): there is none of that name. {hint}{known}")
    return EASINGS[name]


def number_text(value: float) -> str:
    """The shortest text that reads back as the same number: 0.1, 500, 1e-7."""
    short = f"{value:.12g}"
    return short if float(short) == value else repr(float(value))
