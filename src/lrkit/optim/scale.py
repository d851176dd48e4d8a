"""Scales: σ, one a parameter entry. ``v ← bv·v + av·g²``, and ``σ = √(d·v) + ε``.

What distinguishes Adagrad, RMSProp, Adam and the rest is only the weights of the past gradients: each scale is one method,
`weigh`. Where ε stands differs among libraries and papers, and matters where gradients are small: `Epsilon` says it.
Knows nothing of directions and rates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from lrkit.errors import InputError, real
from lrkit.optim.direction import check_word
from lrkit.optim.part import Hyper, Hypers, Number, Part, shown, where


class Weights(NamedTuple):
    """``v ← bv·v + av·g²``; d corrects v."""

    bv: Number
    av: Number
    d: Number


@dataclass(frozen=True)
class Scale(Part, ABC):
    """The base of all scales.

    Attributes:
        buffer: v's name in the state; empty where there is none.
        initial: What v begins with.
    """

    buffer: str = field(default="", kw_only=True)

    @abstractmethod
    def weigh(self, t: Number, group: Mapping[str, Any]) -> Weights:
        """The three numbers of update t, counted from 1."""

    def first(self, group: Mapping[str, Any]) -> float:
        """What v begins with."""
        return 0.0

    @abstractmethod
    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """v in symbols, as it stands under the root; and its recursion."""


@dataclass(frozen=True)
class Unit(Scale):
    """No scale: σ = 1."""

    def weigh(self, t: Number, group: Mapping[str, Any]) -> Weights:
        """No memory."""
        return Weights(0.0, 0.0, 1.0)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """Nothing."""
        return "", ""


@dataclass(frozen=True)
class Mean(Scale):
    """The mean of **all** past squares, ``σ = √(1/t · Σ g²)``: the root mean square of the lecture.

    Adagrad with rate η is this with rate η/√t.

    Source: the tutorials, `σᵗ = √(1/(t+1) Σᵢ₌₀ᵗ (gⁱ)²)`.
    """

    buffer: str = field(default="square_mean", kw_only=True)

    def weigh(self, t: Number, group: Mapping[str, Any]) -> Weights:
        """((t − 1)/t, 1/t, 1)."""
        return Weights((t - 1.0) / t, 1.0 / t, 1.0)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """v and its recursion."""
        return "v", "v ← mean of all g²"


@dataclass(frozen=True)
class Sum(Scale):
    """Adagrad's: the sum of all past squares; σ only grows.

    Args:
        initial: What the sum begins with, at least 0.

    Source: Duchi et al. 2011.
    """

    HYPERS: ClassVar[Hypers] = {"initial": ("initial_accumulator_value", 0.0, None)}
    buffer: str = field(default="sum", kw_only=True)
    initial: Hyper = 0.0

    def weigh(self, t: Number, group: Mapping[str, Any]) -> Weights:
        """(1, 1, 1)."""
        return Weights(1.0, 1.0, 1.0)

    def first(self, group: Mapping[str, Any]) -> float:
        """The initial accumulator."""
        return float(self.read(group, "initial"))

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """v and its recursion."""
        return "v", "v ← v + g²"


@dataclass(frozen=True)
class Average(Scale):
    """``v ← β·v + (1 − β)·g²``: RMSProp's; with the correction ``v/(1 − βᵗ)`` Adam's.

    Args:
        beta: β, from 0 up to below 1.
        corrected: Whether v is divided by ``1 − βᵗ``, so that it is a mean of the squares from the first update on.
        centered: Whether the square of the mean gradient is taken off: σ² is then the variance.
        seeded: Whether v begins with the first g² (the tutorials' σ⁰ = |g⁰|); else with `initial`.
        initial: What v begins with.
        mean: The name in the state of the mean gradient, where centered.

    Source: Hinton's lecture 6e; Graves 2013 (arXiv 1308.0850), eq. 38–45, for the centered form; Kingma & Ba 2014.
    """

    HYPERS: ClassVar[Hypers] = {"beta": ("beta2", 0.0, 1.0)}
    buffer: str = field(default="square_avg", kw_only=True)
    beta: Hyper = 0.9
    corrected: bool = False
    centered: bool = False
    seeded: bool = False
    initial: float = 0.0
    mean: str = "grad_avg"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        real(type(self).__name__, "initial", self.initial, least=0.0)
        if self.centered and self.seeded:
            raise InputError(
                f"{type(self).__name__}(centered=True, seeded=True): after one gradient its variance is 0. Give one of them."
            )

    def weigh(self, t: Number, group: Mapping[str, Any]) -> Weights:
        """(β, 1 − β, 1/(1 − βᵗ))."""
        beta = self.read(group, "beta")
        d = 1.0 / (1.0 - beta**t) if self.corrected else 1.0
        if self.seeded:
            return Weights(where(t == 1, 0.0, beta), where(t == 1, 1.0, 1.0 - beta), d)
        return Weights(beta, 1.0 - beta, d)

    def first(self, group: Mapping[str, Any]) -> float:
        """What v begins with."""
        return self.initial

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """v or v̂, and the recursion."""
        start = ", from the first g²" if self.seeded else ""
        b = "α" if self.beta == "alpha" else "β₂"
        symbol, correction = ("v̂", f",   v̂ = v/(1 − {b}ᵗ)") if self.corrected else ("v", "")
        mean = f",   ḡ ← {b}·ḡ + (1 − {b})·g" if self.centered else ""
        recursion = f"v ← {b}·v + (1 − {b})·g²{start}{correction}{mean}    {shown(self, group, 'beta')}"
        return f"({symbol} − ḡ²)" if self.centered else symbol, recursion


@dataclass(frozen=True)
class Maximum(Average):
    """AMSGrad's: the largest average so far.

    Args:
        of: ``"raw"``: of v, corrected afterwards, so that σ can still fall (torch, Keras). ``"corrected"``: of v̂, so that it
            never does (optax).
        largest: The name in the state of the largest.

    Source: Reddi et al. 2018 (arXiv 1904.09237), algorithm 2.
    """

    buffer: str = field(default="exp_avg_sq", kw_only=True)
    beta: Hyper = 0.999
    corrected: bool = True
    of: str = "raw"
    largest: str = "max_exp_avg_sq"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        check_word("Maximum", "of", self.of, ("raw", "corrected"))

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """The maximum and the recursion."""
        _, recursion = super().formula(group)
        return ("max(v̂)" if self.of == "corrected" else "(max(v)/(1 − β₂ᵗ))"), recursion


@dataclass(frozen=True)
class Belief(Average):
    """AdaBelief's: the mean square of ``g − m``, the deviation from what was expected; ε is added to v at every update.

    Source: Zhuang et al. 2020 (arXiv 2010.07468), algorithm 2.
    """

    buffer: str = field(default="exp_avg_var", kw_only=True)
    beta: Hyper = 0.999
    corrected: bool = True

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """v̂ and the recursion."""
        return "v̂", f"v ← β₂·v + (1 − β₂)·(g − m)² + ε,   v̂ = v/(1 − β₂ᵗ)    {shown(self, group, 'beta')}"


@dataclass(frozen=True)
class Steps(Scale):
    """Adadelta's: σ is the root mean square of the gradients over that of the steps, so that a step has the unit of θ.

    Source: Zeiler 2012 (arXiv 1212.5701), algorithm 1.
    """

    HYPERS: ClassVar[Hypers] = {"rho": ("rho", 0.0, None)}
    buffer: str = field(default="square_avg", kw_only=True)
    rho: Hyper = 0.9
    steps: str = "acc_delta"

    def weigh(self, t: Number, group: Mapping[str, Any]) -> Weights:
        """(ρ, 1 − ρ, 1)."""
        rho = self.read(group, "rho")
        return Weights(rho, 1.0 - rho, 1.0)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """The ratio and the recursions."""
        return "v", f"v ← ρ·v + (1 − ρ)·g²,   u ← ρ·u + (1 − ρ)·step²    {shown(self, group, 'rho')}"


@dataclass(frozen=True)
class Epsilon(Part):
    """ε, and where it stands.

    Args:
        value: ε, at least 0.
        place: ``"outside"``: √v̂ + ε (torch's Adam, Kingma & Ba, Duchi). ``"inside"``: √(v̂ + ε) (the tutorials; optax's and
            Keras' Adagrad and RMSprop). ``"uncorrected"``: (√v + ε)/√(1 − βᵗ), added before the bias is corrected (Keras' Adam,
            torch's RAdam).
    """

    HYPERS: ClassVar[Hypers] = {"value": ("eps", 0.0, None)}
    value: Hyper = 1e-8
    place: str = "outside"

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        check_word("Epsilon", "place", self.place, ("outside", "inside", "uncorrected"))

    def at(self, group: Mapping[str, Any], d: Number) -> Number:
        """What is added: to the root, or inside of it to d·v."""
        eps = self.read(group, "value")
        return eps * d**0.5 if self.place == "uncorrected" else eps

    def formula(self, square: str) -> str:
        """σ in symbols."""
        if self.place == "inside":
            return f"√({square} + ε)"
        return f"(√{square} + ε)" if self.place == "outside" else f"(√{square} + ε/√(1 − β₂ᵗ))"
