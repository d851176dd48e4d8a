"""Directions: what the step follows. ``m ← bm·m + am·g``, and the step is ``η·(cm·m + cg·g)`` before it is scaled.

Each is one method, `mix`: the step's number t (from 1) ↦ the four numbers. Knows nothing of scales and rates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from lrkit.errors import InputError
from lrkit.optim.part import Hyper, Hypers, Number, Part, shown, where


class Mix(NamedTuple):
    """``m ← bm·m + am·g``; the direction is ``cm·m + cg·g``."""

    bm: Number
    am: Number
    cm: Number
    cg: Number


@dataclass(frozen=True)
class Direction(Part, ABC):
    """The base of all directions.

    Attributes:
        CARRY: What is remembered besides m, one number a parameter: its name in the state; empty where nothing is.
        buffer: m's name in the state; empty where there is none.
    """

    CARRY: ClassVar[str] = ""
    buffer: str = field(default="", kw_only=True)

    @property
    def mixes_gradient(self) -> bool:
        """Whether cg can be other than 0."""
        return True

    @abstractmethod
    def mix(self, t: Number, group: Mapping[str, Any], carry: Number | None = None) -> Mix:
        """The four numbers of update t, counted from 1."""

    @abstractmethod
    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """What the step follows, in symbols; and how it is remembered."""


@dataclass(frozen=True)
class Gradient(Direction):
    """The gradient itself: the step follows ``g``."""

    def mix(self, t: Number, group: Mapping[str, Any], carry: Number | None = None) -> Mix:
        """No memory."""
        return Mix(0.0, 0.0, 0.0, 1.0)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """g."""
        return "g", ""


@dataclass(frozen=True)
class HeavyBall(Direction):
    """``m ← μ·m + (1 − dampening)·g``, and the first m is g; the step follows m.

    Args:
        momentum: μ, at least 0.
        dampening: How much of a new gradient is left out, from the second update on.
        of: ``"gradient"``, or ``"update"``: m is of g/σ, the gradient that is scaled already (torch's RMSprop).
        rate: ``"outside"``: the step is η·m. ``"inside"``: η enters m, so that a lower rate reaches only new gradients (Keras,
            optax).
        seeded: Whether the first m is g, whatever the dampening; else m begins at 0.

    Source: Polyak 1964; the form is torch's.
    """

    HYPERS: ClassVar[Hypers] = {"momentum": ("momentum", 0.0, None), "dampening": ("dampening", 0.0, None)}
    buffer: str = field(default="momentum_buffer", kw_only=True)
    momentum: Hyper = 0.9
    dampening: Hyper = 0.0
    of: str = "gradient"
    rate: str = "outside"
    seeded: bool = True

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        check_word("HeavyBall", "of", self.of, ("gradient", "update"))
        check_word("HeavyBall", "rate", self.rate, ("outside", "inside"))

    @property
    def mixes_gradient(self) -> bool:
        """The step is m alone."""
        return False

    def mix(self, t: Number, group: Mapping[str, Any], carry: Number | None = None) -> Mix:
        """(μ, 1 − dampening, 1, 0); at first (0, 1, 1, 0)."""
        first = (t == 1) if self.seeded else False
        bm = where(first, 0.0, self.read(group, "momentum"))
        am = where(first, 1.0, 1.0 - self.read(group, "dampening"))
        return Mix(bm, am, 1.0, 0.0)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """m, and its recursion."""
        new = "g/σ" if self.of == "update" else "g"
        new = f"η·{new}" if self.rate == "inside" else new
        share = "" if self.read(group, "dampening") == 0 else "(1 − dampening)·"
        return "m", f"m ← μ·m + {share}{new}    {shown(self, group, 'momentum')}"


@dataclass(frozen=True)
class Nesterov(HeavyBall):
    """As `HeavyBall`, and the step looks ahead: it follows ``g + μ·m``.

    Source: Sutskever et al. 2013; the form is torch's.
    """

    @property
    def mixes_gradient(self) -> bool:
        """It looks ahead along the gradient."""
        return True

    def mix(self, t: Number, group: Mapping[str, Any], carry: Number | None = None) -> Mix:
        """(μ, 1, μ, 1)."""
        ball = super().mix(t, group, carry)
        return ball._replace(cm=self.read(group, "momentum"), cg=1.0)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """g + μ·m, and m's recursion."""
        _, memory = super().formula(group)
        return "(g/σ + μ·m)" if self.of == "update" else "(g + μ·m)", memory


@dataclass(frozen=True)
class MovingAverage(Direction):
    """``m ← β·m + (1 − β)·g``; the step follows ``m/(1 − βᵗ)``, which is a mean of the gradients from the first update on.

    Args:
        beta: β, from 0 up to below 1.
        corrected: Whether m is divided by ``1 − βᵗ``; without it the first steps are short.

    Source: Kingma & Ba 2014 (arXiv 1412.6980), algorithm 1.
    """

    HYPERS: ClassVar[Hypers] = {"beta": ("beta1", 0.0, 1.0)}
    buffer: str = field(default="exp_avg", kw_only=True)
    beta: Hyper = 0.9
    corrected: bool = True

    @property
    def mixes_gradient(self) -> bool:
        """The step is m alone."""
        return False

    def mix(self, t: Number, group: Mapping[str, Any], carry: Number | None = None) -> Mix:
        """(β, 1 − β, 1/(1 − βᵗ), 0)."""
        beta = self.read(group, "beta")
        return Mix(beta, 1.0 - beta, 1.0 / (1.0 - beta**t) if self.corrected else 1.0, 0.0)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """m or m̂, and the recursion."""
        correction = ",   m̂ = m/(1 − β₁ᵗ)" if self.corrected else ""
        return "m̂" if self.corrected else "m", f"m ← β₁·m + (1 − β₁)·g{correction}    {shown(self, group, 'beta')}"


@dataclass(frozen=True)
class NesterovAverage(Direction):
    """NAdam's: a moving average that looks ahead, by a momentum μ that grows with the steps.

        μₜ = β·(1 − ½·0.96^(t·decay));   the step follows  μₜ₊₁·m/(1 − Πμ₁…ₜ₊₁) + (1 − μₜ)·g/(1 − Πμ₁…ₜ)

    Args:
        beta: β, from 0 up to below 1.
        decay: How fast μ grows.

    Source: Dozat 2016; the form is torch's.
    """

    HYPERS: ClassVar[Hypers] = {"beta": ("beta1", 0.0, 1.0), "decay": ("momentum_decay", 0.0, None)}
    CARRY: ClassVar[str] = "mu_product"
    buffer: str = field(default="exp_avg", kw_only=True)
    beta: Hyper = 0.9
    decay: Hyper = 4e-3

    def momentum(self, t: Number, group: Mapping[str, Any]) -> Number:
        """μ of update t; the product of them is what is carried."""
        return self.read(group, "beta") * (1.0 - 0.5 * 0.96 ** (t * self.read(group, "decay")))

    def mix(self, t: Number, group: Mapping[str, Any], carry: Number | None = None) -> Mix:
        """The four numbers; `carry` is the product of μ₁…μₜ, by default that of the present β and decay."""
        if carry is None:
            carry = 1.0
            for i in range(1, int(t) + 1):
                carry *= self.momentum(i, group)
        beta, after = self.read(group, "beta"), self.momentum(t + 1, group)
        return Mix(beta, 1.0 - beta, after / (1.0 - carry * after), (1.0 - self.momentum(t, group)) / (1.0 - carry))

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """The mixture of m and g, and m's recursion."""
        return "(μₜ₊₁·m̂ + (1 − μₜ)·ĝ)", f"m ← β₁·m + (1 − β₁)·g    {shown(self, group, 'beta')}, {shown(self, group, 'decay')}"


@dataclass(frozen=True)
class Sign(Direction):
    """The sign of a mixture: the step is ``η·sign(β₁·m + (1 − β₁)·g)``, and afterwards ``m ← β₂·m + (1 − β₂)·g``.

    Every entry moves by η, so there is no scale to choose. With β₁ = β₂ it is the sign of a moving average (Signum).

    Args:
        beta: β₁, the memory's share in the step.
        memory: β₂, how long m remembers.

    Source: Chen et al. 2023 (arXiv 2302.06675), algorithm 2.
    """

    HYPERS: ClassVar[Hypers] = {"beta": ("beta1", 0.0, 1.0), "memory": ("beta2", 0.0, 1.0)}
    buffer: str = field(default="exp_avg", kw_only=True)
    beta: Hyper = 0.9
    memory: Hyper = 0.99

    def mix(self, t: Number, group: Mapping[str, Any], carry: Number | None = None) -> Mix:
        """(β₂, 1 − β₂, β₁, 1 − β₁)."""
        beta, memory = self.read(group, "beta"), self.read(group, "memory")
        return Mix(memory, 1.0 - memory, beta, 1.0 - beta)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """The sign, and m's recursion."""
        hypers = f"{shown(self, group, 'beta')}, {shown(self, group, 'memory')}"
        return "sign(β₁·m + (1 − β₁)·g)", f"then m ← β₂·m + (1 − β₂)·g    {hypers}"


def check_word(call: str, name: str, word: object, known: tuple[str, ...]) -> None:
    """Refuse a word that is none of the known ones."""
    if word not in known:
        raise InputError(f"{call}({name}={word!r}): {name} must be one of {', '.join(known)}.")
