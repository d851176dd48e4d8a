"""SGD and its kin, and Lion: optimizers without a scale, every entry at the same rate.

Arguments, groups and state are named as in `torch.optim`, so that each takes the place of torch's class, and checkpoints go both
ways. ``foreach`` and ``fused`` are taken and ignored: what runs is chosen by what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Unpack

from torch import Tensor

from lrkit.optim.decay import Coupled, Decoupled
from lrkit.optim.direction import Direction, Gradient, HeavyBall, Sign
from lrkit.optim.direction import Nesterov as LookAhead
from lrkit.optim.optimizer import Optimizer
from lrkit.optim.preset import Options, pair
from lrkit.optim.rule import Rule


class SGD(Optimizer):
    """Stochastic gradient descent, ``θ ← θ − η·g``; with momentum ``m ← μ·m + (1 − dampening)·g``, ``θ ← θ − η·m``.

    The first m is g. With ``nesterov=True`` the step is ``η·(g + μ·m)``.

    Args:
        params: As in torch.
        lr: η.
        momentum: μ.
        dampening: How much of a new gradient is left out.
        weight_decay: λ of ``g ← g + λ·θ``.
        nesterov: Whether the step looks ahead.
        maximize: Whether to climb.
        foreach: Ignored.
        differentiable: Refused.
        fused: Ignored.
        **options: `clip`, `backend`, `stochastic_rounding`, `seed`: see `Optimizer`.

    Raises:
        InputError: If a number is out of range.

    Source: Robbins & Monro 1951; Polyak 1964; Sutskever et al. 2013; the forms are torch's.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "foreach": foreach, "differentiable": differentiable, "fused": fused,
        }  # fmt: skip
        super().__init__(params, lr, rule=sgd_rule, hypers=hypers, maximize=maximize, **options)


class Momentum(SGD):
    """`SGD` with a heavy ball: ``m ← μ·m + g``, ``θ ← θ − η·m``.

    Args:
        params: As in torch.
        lr: η.
        momentum: μ.
        weight_decay: λ of ``g ← g + λ·θ``.
        maximize: Whether to climb.
        **options: See `Optimizer`.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0, *,
        maximize: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, lr, momentum, 0.0, weight_decay, maximize=maximize, **options)


class Nesterov(SGD):
    """`SGD` with a momentum that looks ahead: ``m ← μ·m + g``, ``θ ← θ − η·(g + μ·m)``.

    Args:
        params: As in torch.
        lr: η.
        momentum: μ, above 0.
        weight_decay: λ of ``g ← g + λ·θ``.
        maximize: Whether to climb.
        **options: See `Optimizer`.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0, *,
        maximize: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        super().__init__(params, lr, momentum, 0.0, weight_decay, True, maximize=maximize, **options)


class Lion(Optimizer):
    """``θ ← (1 − η·λ)·θ − η·sign(β₁·m + (1 − β₁)·g)``, then ``m ← β₂·m + (1 − β₂)·g``: every entry moves by η.

    Args:
        params: As in torch.
        lr: η; a third to a tenth of AdamW's.
        betas: β₁, β₂.
        weight_decay: λ, decoupled; three to ten times AdamW's.
        maximize: Whether to climb.
        **options: See `Optimizer`.

    Source: Chen et al. 2023 (arXiv 2302.06675), algorithm 2.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, *,
        maximize: bool = False, capturable: bool = False, **options: Unpack[Options],
    ) -> None:  # fmt: skip
        hypers = {"betas": pair("Lion", betas), "weight_decay": weight_decay}
        super().__init__(params, lr, rule=lion_rule, hypers=hypers, maximize=maximize, capturable=capturable, **options)


def sgd_rule(group: Mapping[str, Any]) -> Rule:
    """What `SGD` does with a group."""
    return _sgd(bool(group["momentum"] != 0), bool(group["nesterov"]))


@cache
def _sgd(momentum: bool, nesterov: bool) -> Rule:
    direction: Direction = Gradient()
    if momentum:
        direction = (LookAhead if nesterov else HeavyBall)(momentum="momentum", dampening="dampening")
    return Rule(direction, decay=Coupled("weight_decay"), counts=False)


def lion_rule(group: Mapping[str, Any]) -> Rule:
    """What `Lion` does with a group."""
    return _LION


_LION = Rule(Sign(beta="betas[0]", memory="betas[1]"), decay=Decoupled("weight_decay"))
