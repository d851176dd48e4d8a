"""Factors on the rate: η is multiplied by a number that depends on the step alone. So a warm-up that a rule derives for itself
can be read, plotted, and replaced by one of your own.

Any function of the step's number t, counted from 1, is a factor. Knows nothing of directions and scales.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lrkit.errors import real
from lrkit.optim.part import Hyper, Hypers, Number, Part, where


@dataclass(frozen=True)
class Factor(Part, ABC):
    """The base of all factors."""

    @abstractmethod
    def at(self, t: Number, group: Mapping[str, Any]) -> Number:
        """The factor of update t."""

    def scaled(self, t: Number, group: Mapping[str, Any]) -> Any:
        """Whether σ is to be used in update t."""
        return True

    @abstractmethod
    def formula(self, group: Mapping[str, Any]) -> str:
        """The factor in symbols; empty where it is 1."""


@dataclass(frozen=True)
class Rectified(Factor):
    """RAdam's: a warm-up from the variance of σ. Where that is not finite yet (ρ ≤ 5), the step is not scaled at all.

        ρ∞ = 2/(1 − β) − 1,   ρ = ρ∞ − 2tβᵗ/(1 − βᵗ),   r = √((ρ − 4)(ρ − 2)ρ∞ / ((ρ∞ − 4)(ρ∞ − 2)ρ))

    Args:
        beta: β of the scale.

    Source: Liu et al. 2019 (arXiv 1908.03265), algorithm 2; the threshold 5, where the paper has 4, is torch's.
    """

    HYPERS: ClassVar[Hypers] = {"beta": ("beta2", 0.0, 1.0)}
    beta: Hyper = 0.999

    def _lengths(self, t: Number, group: Mapping[str, Any]) -> tuple[Number, Number]:
        beta = self.read(group, "beta")
        longest = 2.0 / (1.0 - beta) - 1.0
        return longest, longest - 2.0 * t * beta**t / (1.0 - beta**t)

    def at(self, t: Number, group: Mapping[str, Any]) -> Number:
        """r, or 1 where there is none yet."""
        longest, length = self._lengths(t, group)
        if not isinstance(longest, Tensor) and longest <= 5.0:
            return 1.0  # β is so small that σ's variance is never finite
        tractable = length > 5.0
        safe = where(tractable, length, 6.0)
        r = ((safe - 4.0) * (safe - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * safe)) ** 0.5
        return where(tractable, r, 1.0)

    def scaled(self, t: Number, group: Mapping[str, Any]) -> Any:
        """Whether ρ > 5."""
        return self._lengths(t, group)[1] > 5.0

    def formula(self, group: Mapping[str, Any]) -> str:
        """r."""
        return "rₜ"


@dataclass(frozen=True)
class InverseTime(Factor):
    """``1/(1 + (t − 1)·decay)``: torch's Adagrad has it.

    Args:
        decay: At least 0.
    """

    HYPERS: ClassVar[Hypers] = {"decay": ("lr_decay", 0.0, None)}
    decay: Hyper = 0.0

    def at(self, t: Number, group: Mapping[str, Any]) -> Number:
        """The factor of update t."""
        return 1.0 / (1.0 + (t - 1.0) * self.read(group, "decay"))

    def formula(self, group: Mapping[str, Any]) -> str:
        """As it stands."""
        return "1/(1 + (t − 1)·lr_decay)" if self.read(group, "decay") else ""


@dataclass(frozen=True)
class Given(Factor):
    """A function of your own: t, counted from 1 ↦ factor.

    Args:
        function: What is asked at each update; it should be defined in a module, if the optimizer is to be pickled.
    """

    function: Callable[[int], float] = float

    def at(self, t: Number, group: Mapping[str, Any]) -> Number:
        """What it says."""
        return real(self.formula(group), "factor", self.function(t), least=0.0)

    def formula(self, group: Mapping[str, Any]) -> str:
        """Its name."""
        return f"{getattr(self.function, '__name__', 'factor')}(t)"
