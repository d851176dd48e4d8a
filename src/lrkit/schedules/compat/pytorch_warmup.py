"""pytorch_warmup 0.2.0: factors that dampen another schedule, by which `lr_scheduler.step()` is wrapped.

They arrive: update t has the factor for t + 1. They have no end of their own; the schedule that they dampen gives them one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule, check_schedule
from lrkit.schedules.compat.common import absolute, count, exactly
from lrkit.schedules.compose import Between, Rates, Times
from lrkit.schedules.easing import Floats
from lrkit.schedules.parts import Hold, Join, Segment
from lrkit.schedules.tails import Geometric, Rectified, Tail

_ADAM = (0.9, 0.999)


def LinearWarmup(base_lr: float, warmup_period: int, base_schedule: Schedule | None = None) -> Rates:
    """base(t)·min(1, (t + 1)/P).

    Args:
        base_lr: The optimizer's rate.
        warmup_period: P, at least 1.
        base_schedule: What is dampened: factors of base_lr, or another library's schedule from this package, whose values are
            taken as they are; None is base_lr for ever.
    """
    steps = count("LinearWarmup", "warmup_period", warmup_period, 1)
    return _dampened(base_lr, Join(Segment(0.0, 1.0, steps, arrive=True), Hold(1.0)), base_schedule)


def ExponentialWarmup(base_lr: float, warmup_period: int, base_schedule: Schedule | None = None) -> Rates:
    """base(t)·(1 − exp(−(t + 1)/P)).

    Args:
        base_lr: The optimizer's rate.
        warmup_period: P, at least 1.
        base_schedule: What is dampened, as for `LinearWarmup`.
    """
    decay = math.exp(-1.0 / count("ExponentialWarmup", "warmup_period", warmup_period, 1))
    return _dampened(base_lr, Between(1.0, 0.0, Tail(Geometric(decay), start=decay)), base_schedule)


def UntunedLinearWarmup(base_lr: float, betas: Sequence[float] = _ADAM, base_schedule: Schedule | None = None) -> Rates:
    """base(t)·min(1, (t + 1)/P), P = int(2/(1 − β₂)) in floating point: 199 where β₂ is 0.99 (arXiv:1910.04209).

    Args:
        base_lr: The optimizer's rate.
        betas: Adam's β₁ and β₂, which the library takes from the optimizer.
        base_schedule: What is dampened, as for `LinearWarmup`.

    Raises:
        InputError: If β₂ is not in [0, 1).
    """
    return LinearWarmup(base_lr, _untuned("UntunedLinearWarmup", 2.0, betas), base_schedule)


def UntunedExponentialWarmup(base_lr: float, betas: Sequence[float] = _ADAM, base_schedule: Schedule | None = None) -> Rates:
    """base(t)·(1 − exp(−(t + 1)/P)), P = int(1/(1 − β₂)) in floating point: 99 where β₂ is 0.99 (arXiv:1910.04209).

    The arguments are those of `UntunedLinearWarmup`.
    """
    return ExponentialWarmup(base_lr, _untuned("UntunedExponentialWarmup", 1.0, betas), base_schedule)


def _untuned(call: str, times: float, betas: Sequence[float]) -> int:
    """The period that Adam's β₂ asks for, in floating point as there."""
    return int(times / (1.0 - _beta2(call, betas)))


def RAdamWarmup(
    base_lr: float, betas: Sequence[float] = _ADAM, base_schedule: Schedule | None = None, offset: int | None = None
) -> Rates:
    """base(t)·√((ρ−4)(ρ−2)ρ∞ / ((ρ∞−4)(ρ∞−2)ρ)), ρ = ρ(t + offset) (arXiv:1908.03265, eq. 5).

    Args:
        base_lr: The optimizer's rate.
        betas: Adam's β₁ and β₂, which the library takes from the optimizer; β₂ above 0.6.
        base_schedule: What is dampened, as for `LinearWarmup`.
        offset: Where ρ begins; None takes the first n with ρ(n) > 4, as the library does.

    Raises:
        InputError: If β₂ is not in (0.6, 1), or ρ is not above 4 at the offset.
    """
    beta2 = _beta2("RAdamWarmup", betas)
    if beta2 <= 0.6:
        raise InputError(f"RAdamWarmup(betas={tuple(betas)}): beta2 must be above 0.6. Below, RAdam never rectifies.")
    return _dampened(base_lr, Tail(Rectified(beta2, _first(beta2) if offset is None else offset)), base_schedule)


def _first(beta2: float) -> int:
    """The first n with ρ(n) > 4."""
    n, top = 1, 2.0 / (1.0 - beta2) - 1.0
    while top - 2.0 * n * Floats.power(beta2, n) / (1.0 - Floats.power(beta2, n)) <= 4.0:
        n += 1
    return n


def _beta2(call: str, betas: Sequence[float]) -> float:
    """Adam's β₂."""
    if isinstance(betas, str) or not isinstance(betas, Sequence) or len(betas) != 2:
        raise InputError(f"{call}(betas={betas!r}): betas must be Adam's two, e.g. (0.9, 0.999).")
    beta2 = real(call, "betas", betas[1], least=0.0)
    if beta2 >= 1:
        raise InputError(f"{call}(betas={tuple(betas)}): beta2 must be below 1. Adam's own is 0.999.")
    return beta2


def _dampened(base_lr: float, warmup: Schedule, schedule: Schedule | None) -> Rates:
    """The schedule times the warm-up, as long as the schedule."""
    if schedule is None:
        return absolute(warmup, base_lr)
    if not isinstance(schedule, Rates):
        factors = check_schedule("pytorch_warmup", schedule)
    elif schedule.origin == 0 and schedule.base > 0:
        factors, base_lr = schedule.schedule, schedule.base
    else:
        raise InputError(f"pytorch_warmup(base_schedule={schedule}): it must go from 0 up. Give its factors instead.")
    product = Times(factors, warmup)
    return absolute(product if factors.steps is None else exactly(product, factors.steps), base_lr)
