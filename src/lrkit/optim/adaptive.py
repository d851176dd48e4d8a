"""Optimizers with a scale and no mean of gradients: RMS, Adagrad, RMSprop, Adadelta.

Arguments, groups and state are named as in `torch.optim`, so that each takes the place of torch's class, and checkpoints go both
ways. ``foreach`` and ``fused`` are taken and ignored: what runs is chosen by what is there. ``like=`` says whose form is taken;
arguments that are None are as that form has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Unpack

from torch import Tensor

from lrkit.optim.decay import Coupled
from lrkit.optim.direction import Direction, Gradient, HeavyBall
from lrkit.optim.factor import InverseTime
from lrkit.optim.optimizer import Optimizer
from lrkit.optim.preset import Options, by_form
from lrkit.optim.rule import Rule
from lrkit.optim.scale import Average, Epsilon, Mean, Steps, Sum

_INITIAL = {"torch": 0.0, "keras": 0.1, "optax": 0.1}
_INSIDE = ("keras", "optax", "tutorial")  # whose Adagrad and RMSprop have ε inside of the root


class RMS(Optimizer):
    """``σ = √(1/t · Σ g²)`` over **all** past gradients, ``θ ← θ − η/(σ + ε)·g``: the lecture's first adaptive rate.

    Args:
        params: As in torch.
        lr: η.
        eps: ε, outside of the root.
        weight_decay: λ of ``g ← g + λ·θ``.
        maximize: Whether to climb.
        **options: See `Optimizer`.

    Source: the tutorials; no library has it. Adagrad with rate η is this with η/√t.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-2, eps: float = 1e-8, weight_decay: float = 0.0, *,
        maximize: bool = False, capturable: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        hypers = {"eps": eps, "weight_decay": weight_decay}
        super().__init__(params, lr, rule=rms_rule, hypers=hypers, maximize=maximize, capturable=capturable, **options)


class Adagrad(Optimizer):
    """``v ← v + g²``, ``θ ← θ − η/(√v + ε)·g``: good on sparse data; its rate only falls.

    Args:
        params: As in torch.
        lr: η.
        lr_decay: η is divided by ``1 + (t − 1)·lr_decay``.
        weight_decay: λ of ``g ← g + λ·θ``.
        initial_accumulator_value: What v begins with: 0; like Keras and optax 0.1.
        eps: ε: 1e-10; like Keras and optax 1e-7, like the tutorials 1e-8.
        foreach: Ignored.
        maximize: Whether to climb.
        differentiable: Refused.
        fused: Ignored.
        like: Whose form. ``"torch"``, ``"paper"``: √v + ε. ``"keras"``, ``"optax"``, ``"tutorial"``: √(v + ε).
        **options: See `Optimizer`.

    Source: Duchi et al. 2011.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float | None = None,
        eps: float | None = None,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        like: str = "torch",
        **options: Unpack[Options],
    ) -> None:
        call = "Adagrad"
        hypers = {
            "lr_decay": lr_decay, "weight_decay": weight_decay,
            "initial_accumulator_value": by_form(call, like, initial_accumulator_value, _INITIAL),
            "eps": by_form(call, like, eps, {"torch": 1e-10, "keras": 1e-7, "optax": 1e-7, "tutorial": 1e-8}),
            "foreach": foreach, "differentiable": differentiable, "fused": fused, "like": like,
        }  # fmt: skip
        super().__init__(params, lr, rule=adagrad_rule, hypers=hypers, maximize=maximize, **options)


class RMSprop(Optimizer):
    """``v ← α·v + (1 − α)·g²``, ``θ ← θ − η/(√v + ε)·g``: forgets old gradients, so it reacts when the steepness changes.

    Args:
        params: As in torch.
        lr: η.
        alpha: α: 0.99; like the others 0.9.
        eps: ε: 1e-8; like Keras 1e-7.
        weight_decay: λ of ``g ← g + λ·θ``.
        momentum: μ of ``m ← μ·m + g/σ``, after the scale.
        centered: Whether the square of the mean gradient is taken off v.
        capturable: See `Optimizer`.
        foreach: Ignored.
        maximize: Whether to climb.
        differentiable: Refused.
        like: Whose form. ``"torch"``, ``"paper"`` (Hinton's lecture): √v + ε. ``"keras"``, ``"optax"``: √(v + ε), and η inside
            of the momentum. ``"tutorial"``: √(v + ε), and v begins with the first g².
        **options: See `Optimizer`.

    Source: Tieleman & Hinton 2012, lecture 6e; Graves 2013 (arXiv 1308.0850) for the centered form.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        like: str = "torch",
        **options: Unpack[Options],
    ) -> None:
        others = dict.fromkeys(("keras", "optax", "paper", "tutorial"), 0.9)
        hypers = {
            "momentum": momentum, "alpha": by_form("RMSprop", like, alpha, {"torch": 0.99, **others}),
            "eps": by_form("RMSprop", like, eps, {"torch": 1e-8, "keras": 1e-7}), "centered": centered,
            "weight_decay": weight_decay, "foreach": foreach, "differentiable": differentiable, "like": like,
        }  # fmt: skip
        super().__init__(params, lr, rule=rmsprop_rule, hypers=hypers, maximize=maximize, capturable=capturable, **options)


class Adadelta(Optimizer):
    """``θ ← θ − η·√(u + ε)/√(v + ε)·g``, with v and u the means of squared gradients and steps: needs no unit, and hardly an η.

    Args:
        params: As in torch.
        lr: η.
        rho: ρ of both means.
        eps: ε, inside of both roots.
        weight_decay: λ of ``g ← g + λ·θ``.
        foreach: Ignored.
        capturable: See `Optimizer`.
        maximize: Whether to climb.
        differentiable: Refused.
        **options: See `Optimizer`.

    Source: Zeiler 2012 (arXiv 1212.5701), algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"rho": rho, "eps": eps, "weight_decay": weight_decay, "foreach": foreach, "differentiable": differentiable}
        super().__init__(params, lr, rule=adadelta_rule, hypers=hypers, maximize=maximize, capturable=capturable, **options)


_DECAY = Coupled("weight_decay")
_RMS = Rule(scale=Mean(), decay=_DECAY, eps=Epsilon("eps"))
_ADADELTA = Rule(scale=Steps("rho"), decay=_DECAY, eps=Epsilon("eps", "inside"))


def rms_rule(group: Mapping[str, Any]) -> Rule:
    """What `RMS` does with a group."""
    return _RMS


def adadelta_rule(group: Mapping[str, Any]) -> Rule:
    """What `Adadelta` does with a group."""
    return _ADADELTA


def adagrad_rule(group: Mapping[str, Any]) -> Rule:
    """What `Adagrad` does with a group."""
    return _adagrad(group.get("like", "torch") in _INSIDE)


@cache
def _adagrad(inside: bool) -> Rule:
    eps = Epsilon("eps", "inside" if inside else "outside")
    return Rule(scale=Sum("initial_accumulator_value"), decay=_DECAY, eps=eps, factors=(InverseTime("lr_decay"),))


def rmsprop_rule(group: Mapping[str, Any]) -> Rule:
    """What `RMSprop` does with a group."""
    return _rmsprop(bool(group["momentum"] > 0), bool(group["centered"]), group.get("like", "torch"))


@cache
def _rmsprop(momentum: bool, centered: bool, like: str) -> Rule:
    direction: Direction = Gradient()
    if momentum:
        rate = "inside" if like in ("keras", "optax") else "outside"
        direction = HeavyBall(momentum="momentum", of="update", rate=rate)
    scale = Average("alpha", centered=centered, seeded=like == "tutorial")
    return Rule(direction, scale, _DECAY, Epsilon("eps", "inside" if like in _INSIDE else "outside"))
