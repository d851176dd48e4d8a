"""Weight decay: pulled through the gradient (coupled), or apart from it (decoupled), in three conventions that have names.

Knows nothing of directions and scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lrkit.optim.direction import check_word
from lrkit.optim.part import Hyper, Hypers, Number, Part, shown


@dataclass(frozen=True)
class Decay(Part):
    """None; and the base of the others."""

    def pull(self, group: Mapping[str, Any], rate: Number) -> tuple[Number, Number]:
        """(wd, rho) of ``g ← g + wd·θ`` and ``θ ← rho·θ − step``; `rate` is the group's lr at this update."""
        return 0.0, 1.0

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """What θ is multiplied by; and what is said of it."""
        return "θ", ""


@dataclass(frozen=True)
class Coupled(Decay):
    """``g ← g + λ·θ``: the gradient of ½λ‖θ‖², which a scale then scales, too.

    Args:
        weight_decay: λ, at least 0.
    """

    HYPERS: ClassVar[Hypers] = {"weight_decay": ("weight_decay", 0.0, None)}
    weight_decay: Hyper = 0.0

    def pull(self, group: Mapping[str, Any], rate: Number) -> tuple[Number, Number]:
        """(λ, 1)."""
        return self.read(group, "weight_decay"), 1.0

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """θ, and the gradient."""
        some = self.read(group, "weight_decay") != 0
        return "θ", f"g ← g + λ·θ    {shown(self, group, 'weight_decay')}" if some else ""


@dataclass(frozen=True)
class Decoupled(Decay):
    """``θ ← (1 − pull)·θ − step``: apart from the gradient, so that no scale touches it.

    Args:
        weight_decay: λ, at least 0.
        by: The convention. ``"rate"``: pull = η·λ (torch, optax): a lower rate decays less. ``"schedule"``: pull = λ·η/η₀, η₀
            being the group's base rate: only the schedule's factor counts (Loshchilov & Hutter). ``"constant"``: pull = λ.

    Source: Loshchilov & Hutter 2017 (arXiv 1711.05101), algorithm 2.
    """

    HYPERS: ClassVar[Hypers] = {"weight_decay": ("weight_decay", 0.0, None)}
    weight_decay: Hyper = 0.01
    by: str = "rate"

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        check_word("Decoupled", "by", self.by, ("rate", "schedule", "constant"))

    def pull(self, group: Mapping[str, Any], rate: Number) -> tuple[Number, Number]:
        """(0, 1 − pull)."""
        wanted = self.read(group, "weight_decay")
        if self.by == "rate":
            return 0.0, 1.0 - rate * wanted
        if self.by == "constant":
            return 0.0, 1.0 - wanted
        base = group.get("lrkit_base_lr", group.get("initial_lr", group.get("base_lr")))
        return 0.0, 1.0 - (rate / base * wanted if base else wanted)

    def formula(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """θ's factor, and λ."""
        pull = {"rate": "η·λ", "schedule": "λ·η/η₀", "constant": "λ"}[self.by]
        if self.read(group, "weight_decay") == 0:
            return "θ", ""
        return f"(1 − {pull})·θ", f"{shown(self, group, 'weight_decay')}, decoupled by {self.by}"
