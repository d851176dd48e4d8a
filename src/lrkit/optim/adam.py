"""Adam and its kin: a mean of gradients over the root of a mean of squares.

Arguments, groups and state are named as in `torch.optim`, so that each takes the place of torch's class, and checkpoints go both
ways. ``foreach`` and ``fused`` are taken and ignored: what runs is chosen by what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Unpack

from torch import Tensor

from lrkit.optim.decay import Coupled, Decay, Decoupled
from lrkit.optim.direction import MovingAverage, NesterovAverage, check_word
from lrkit.optim.factor import Rectified
from lrkit.optim.optimizer import Optimizer
from lrkit.optim.preset import Options, by_form, pair
from lrkit.optim.rule import Rule
from lrkit.optim.scale import Average, Belief, Epsilon, Maximum, Scale

Betas = tuple[float, float] | tuple[Tensor, Tensor]


class Adam(Optimizer):
    """``m ← β₁·m + (1 − β₁)·g``, ``v ← β₂·v + (1 − β₂)·g²``, ``θ ← θ − η·m̂/(√v̂ + ε)``, hats: divided by ``1 − βᵗ``.

    Args:
        params: As in torch.
        lr: η.
        betas: β₁, β₂.
        eps: ε: 1e-8; like Keras 1e-7.
        weight_decay: λ.
        amsgrad: Whether σ is of the largest v so far: see `AMSGrad`.
        foreach: Ignored.
        maximize: Whether to climb.
        capturable: See `Optimizer`.
        differentiable: Refused.
        fused: Ignored.
        decoupled_weight_decay: Whether λ acts as in `AdamW`, else ``g ← g + λ·θ``.
        like: Whose form. ``"torch"``, ``"paper"``, ``"optax"``: √v̂ + ε. ``"keras"``: (√v + ε)/√(1 − β₂ᵗ). ``"tutorial"``: √(v̂
            + ε). Like optax, `amsgrad` takes the largest v̂, else the largest v.
        bias_correction: False leaves the hats off, as one of the tutorials does: the first steps are larger, by up to
            ``(1 − β₁)/√(1 − β₂)``.
        **options: See `Optimizer`.

    Source: Kingma & Ba 2014 (arXiv 1412.6980), algorithm 1.
    """

    _decay = "rate"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        like: str = "torch",
        bias_correction: bool = True,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "betas": pair("Adam", betas), "eps": by_form("Adam", like, eps, {"torch": 1e-8, "keras": 1e-7}), "amsgrad": amsgrad,
            "weight_decay": weight_decay, "decoupled_weight_decay": decoupled_weight_decay, "decay": self._decay,
            "like": like, "bias_correction": bias_correction,
            "foreach": foreach, "differentiable": differentiable, "fused": fused,
        }  # fmt: skip
        super().__init__(params, lr, rule=adam_rule, hypers=hypers, maximize=maximize, capturable=capturable, **options)


class AdamW(Adam):
    """`Adam` with decoupled weight decay: ``θ ← (1 − pull)·θ`` before each step.

    Args:
        params: As in torch.
        lr: η.
        betas: β₁, β₂.
        eps: ε.
        weight_decay: λ.
        amsgrad: See `AMSGrad`.
        maximize: Whether to climb.
        foreach: Ignored.
        capturable: See `Optimizer`.
        differentiable: Refused.
        fused: Ignored.
        decay: What the pull is. ``"rate"``: η·λ (torch). ``"schedule"``: λ·η/η₀, η₀ being the group's base rate (the paper's).
            ``"constant"``: λ.
        like: See `Adam`.
        bias_correction: See `Adam`.
        **options: See `Optimizer`.

    Source: Loshchilov & Hutter 2017 (arXiv 1711.05101), algorithm 2.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decay: str = "rate",
        like: str = "torch",
        bias_correction: bool = True,
        **options: Unpack[Options],
    ) -> None:
        check_word("AdamW", "decay", decay, ("rate", "schedule", "constant"))
        self._decay = decay
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True, like=like, bias_correction=bias_correction,
            **options,
        )  # fmt: skip


class AMSGrad(Adam):
    """`Adam` whose σ is of the largest v so far.

    As in torch the largest raw v is taken and corrected afterwards, so that σ can still fall; like optax the largest v̂, and it
    never does.

    Args:
        params: As in torch.
        lr: η.
        betas: β₁, β₂.
        eps: ε.
        weight_decay: λ.
        maximize: Whether to climb.
        capturable: See `Optimizer`.
        like: See `Adam`.
        **options: See `Optimizer`.

    Source: Reddi et al. 2018 (arXiv 1904.09237), algorithm 2.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, betas: Betas = (0.9, 0.999), eps: float | None = None,
        weight_decay: float = 0.0, *, maximize: bool = False, capturable: bool = False, like: str = "torch",
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, betas, eps, weight_decay, True, maximize=maximize, capturable=capturable, like=like, **options
        )


class NAdam(Optimizer):
    """`Adam` that looks ahead: the step follows ``μₜ₊₁·m̂ + (1 − μₜ)·ĝ``, with a μ that grows.

    Args:
        params: As in torch.
        lr: η.
        betas: β₁, β₂.
        eps: ε, outside of the root.
        weight_decay: λ.
        momentum_decay: How fast μ grows to β₁: ``μₜ = β₁·(1 − ½·0.96^(t·momentum_decay))``.
        decoupled_weight_decay: Whether λ acts as in `AdamW`.
        foreach: Ignored.
        maximize: Whether to climb.
        capturable: See `Optimizer`.
        differentiable: Refused.
        **options: See `Optimizer`.

    Source: Dozat 2016; the form is torch's.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "betas": pair("NAdam", betas), "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "foreach": foreach, "differentiable": differentiable,
        }  # fmt: skip
        super().__init__(params, lr, rule=nadam_rule, hypers=hypers, maximize=maximize, capturable=capturable, **options)


class RAdam(Optimizer):
    """`Adam` with the warm-up that follows from the variance of σ: η is multiplied by rₜ; before there is one, nothing is scaled.

    Args:
        params: As in torch.
        lr: η.
        betas: β₁, β₂.
        eps: ε, added before v's bias is corrected.
        weight_decay: λ.
        decoupled_weight_decay: Whether λ acts as in `AdamW`.
        foreach: Ignored.
        maximize: Whether to climb.
        capturable: See `Optimizer`.
        differentiable: Refused.
        **options: See `Optimizer`.

    Source: Liu et al. 2019 (arXiv 1908.03265), algorithm 2; threshold and place of ε are torch's.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "betas": pair("RAdam", betas), "eps": eps, "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "foreach": foreach, "differentiable": differentiable,
        }  # fmt: skip
        super().__init__(params, lr, rule=radam_rule, hypers=hypers, maximize=maximize, capturable=capturable, **options)


class AdaBelief(Optimizer):
    """`Adam` whose σ is of ``g − m``: long steps where the gradient is as expected, short ones where it is not.

    Args:
        params: As in torch.
        lr: η.
        betas: β₁, β₂.
        eps: ε: added to v at every update, and to its root.
        weight_decay: λ.
        decoupled_weight_decay: Whether λ acts as in `AdamW`.
        maximize: Whether to climb.
        capturable: See `Optimizer`.
        **options: See `Optimizer`.

    Source: Zhuang et al. 2020 (arXiv 2010.07468), algorithm 2.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-16,
        weight_decay: float = 0.0, decoupled_weight_decay: bool = True, *, maximize: bool = False, capturable: bool = False,
        **options: Unpack[Options],
    ) -> None:  # fmt: skip
        hypers = {
            "betas": pair("AdaBelief", betas), "eps": eps, "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, lr, rule=adabelief_rule, hypers=hypers, maximize=maximize, capturable=capturable, **options)


def _decay(decoupled: bool, by: str = "rate") -> Decay:
    return Decoupled("weight_decay", by) if decoupled else Coupled("weight_decay")


def adam_rule(group: Mapping[str, Any]) -> Rule:
    """What `Adam` and its like do with a group."""
    flags = bool(group["amsgrad"]), bool(group.get("decoupled_weight_decay")), group.get("decay", "rate")
    return _adam(*flags, group.get("like", "torch"), bool(group.get("bias_correction", True)))


@cache
def _adam(amsgrad: bool, decoupled: bool, by: str, like: str, corrected: bool) -> Rule:
    scale: Scale = Average("betas[1]", buffer="exp_avg_sq", corrected=corrected)
    if amsgrad:
        scale = Maximum("betas[1]", corrected=corrected, of="corrected" if like == "optax" else "raw")
    place = {"keras": "uncorrected", "tutorial": "inside"}.get(like, "outside")
    return Rule(MovingAverage("betas[0]", corrected=corrected), scale, _decay(decoupled, by), Epsilon("eps", place))


def nadam_rule(group: Mapping[str, Any]) -> Rule:
    """What `NAdam` does with a group."""
    return _nadam(bool(group.get("decoupled_weight_decay")))


@cache
def _nadam(decoupled: bool) -> Rule:
    scale = Average("betas[1]", buffer="exp_avg_sq", corrected=True)
    return Rule(NesterovAverage("betas[0]", decay="momentum_decay"), scale, _decay(decoupled), Epsilon("eps"))


def radam_rule(group: Mapping[str, Any]) -> Rule:
    """What `RAdam` does with a group."""
    return _radam(bool(group.get("decoupled_weight_decay")))


@cache
def _radam(decoupled: bool) -> Rule:
    scale = Average("betas[1]", buffer="exp_avg_sq", corrected=True)
    factors = (Rectified("betas[1]"),)
    return Rule(MovingAverage("betas[0]"), scale, _decay(decoupled), Epsilon("eps", "uncorrected"), factors)


def adabelief_rule(group: Mapping[str, Any]) -> Rule:
    """What `AdaBelief` does with a group."""
    return _adabelief(bool(group["decoupled_weight_decay"]))


@cache
def _adabelief(decoupled: bool) -> Rule:
    return Rule(MovingAverage("betas[0]"), Belief("betas[1]"), _decay(decoupled), Epsilon("eps"))
