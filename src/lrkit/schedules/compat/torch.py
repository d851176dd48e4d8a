"""torch 2.13's `optim.lr_scheduler` and `optim.swa_utils`, as rates.

The value at t is what the optimizer has after the constructor and t calls of ``step()``: the first update has the value at 0. A
boundary belongs to the new piece. Past the end the last value holds, where torch's cosine climbs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, count, held, items, poly, share
from lrkit.schedules.compat.frame import Frame, joined
from lrkit.schedules.compat.plateau import metrics_of, plateau, replay
from lrkit.schedules.compat.stairs import drops, geometric
from lrkit.schedules.compat.torch_cycles import CyclicLR, OneCycleLR, anneal
from lrkit.schedules.compose import Rates, Repeat, Times
from lrkit.schedules.easing import Cosine, cosine
from lrkit.schedules.parts import Hold, Join, Segment
from lrkit.schedules.points import Custom
from lrkit.schedules.tails import Tail

__all__ = [
    "SWALR", "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR",
    "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "SequentialLR",
    "StepLR",
]  # fmt: skip

_MOST_PRODUCTS = 10_000_000  # a product is asked for update by update


def LambdaLR(base_lr: float, lr_lambda: Callable[[float], float]) -> Rates:
    """value(t) = base·lr_lambda(t), for ever.

    Args:
        base_lr: The optimizer's rate.
        lr_lambda: Function of the update, at least 0. It has no text and no JSON form.
    """
    return absolute(Custom(lr_lambda), base_lr)


@dataclass(frozen=True)
class _Products:
    """t ↦ fn(1)·fn(2)·…·fn(t), each asked once."""

    fn: Callable[[int], float]
    _known: list[float] = field(default_factory=lambda: [1.0], repr=False, compare=False)

    def __call__(self, t: float) -> float:
        if t > _MOST_PRODUCTS:
            raise InputError(f"MultiplicativeLR: update {t:g} is a product of as many calls. Ask up to {_MOST_PRODUCTS}.")
        while len(self._known) <= t:
            self._known.append(self._known[-1] * self.fn(len(self._known)))
        return self._known[int(t)]


def MultiplicativeLR(base_lr: float, lr_lambda: Callable[[int], float]) -> Rates:
    """value(t) = base·lr_lambda(1)·lr_lambda(2)·…·lr_lambda(t), for ever.

    Args:
        base_lr: The optimizer's rate.
        lr_lambda: Function of the update from 1, at least 0. It has no text and no JSON form.

    Raises:
        InputError: If `lr_lambda` cannot be called.
    """
    if not callable(lr_lambda):
        raise InputError(f"MultiplicativeLR(lr_lambda={lr_lambda!r}): must be a function of the update, e.g. lambda t: 0.95.")
    return absolute(Custom(_Products(lr_lambda), name=getattr(lr_lambda, "__name__", None)), base_lr)


def StepLR(base_lr: float, step_size: int, gamma: float = 0.1) -> Rates:
    """value(t) = base·gamma^⌊t/step_size⌋.

    Raises:
        InputError: If `step_size` is below 1, or `gamma` negative.
    """
    return absolute(geometric("StepLR", "gamma", gamma, count("StepLR", "step_size", step_size, 1), stairs=True), base_lr)


def MultiStepLR(base_lr: float, milestones: Sequence[int], gamma: float = 0.1) -> Rates:
    """value(t) = base·gamma^(how many milestones are ≤ t).

    Args:
        base_lr: The optimizer's rate.
        milestones: In any order; one that is named twice counts twice.

    Raises:
        InputError: If a milestone is no whole number of at least 0, or `gamma` is negative.
    """
    places = [count("MultiStepLR", "milestones", place) for place in items("MultiStepLR", "milestones", milestones)]
    return absolute(drops("MultiStepLR", "gamma", gamma, places), base_lr)


def ConstantLR(base_lr: float, factor: float = 1.0 / 3, total_iters: int = 5) -> Rates:
    """value(t) = base·factor while t < total_iters, then base. With 0 it is base, where torch stays at base·factor for ever.

    Args:
        base_lr: The optimizer's rate.
        factor: In [0, 1]; 0 as well, where torch divides by it in the end.

    Raises:
        InputError: If `factor` is not in [0, 1].
    """
    steps, low = count("ConstantLR", "total_iters", total_iters), share("ConstantLR", "factor", factor, "the base rate")
    return absolute(chain(held(low, steps), Hold(1.0)), base_lr)


def LinearLR(base_lr: float, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5) -> Rates:
    """value(t) = base·(start + (end − start)·min(t, n)/n), n = total_iters. With n = 0 it is base·end, in torch base·start.

    Args:
        base_lr: The optimizer's rate.
        start_factor: In (0, 1].
        end_factor: In [0, 1].

    Raises:
        InputError: If a factor is out of its range.
    """
    real("LinearLR", "start_factor", start_factor, above=0.0)
    start = share("LinearLR", "start_factor", start_factor, "the base rate")
    end = share("LinearLR", "end_factor", end_factor, "the base rate")
    steps = count("LinearLR", "total_iters", total_iters)
    return absolute(Segment(start, end, steps) if steps else Hold(end), base_lr)


def ExponentialLR(base_lr: float, gamma: float) -> Rates:
    """value(t) = base·gamma^t.

    Raises:
        InputError: If `gamma` is negative.
    """
    return absolute(geometric("ExponentialLR", "gamma", gamma), base_lr)


def PolynomialLR(base_lr: float, total_iters: int = 5, power: float = 1.0) -> Rates:
    """value(t) = base·(1 − min(t, n)/n)^power, n = total_iters. With n = 0 or power 0 it is base, as in torch."""
    steps = count("PolynomialLR", "total_iters", total_iters)
    return absolute(Segment(1.0, 0.0, steps, poly(power)) if steps and power != 0 else Hold(1.0), base_lr)


def CosineAnnealingLR(base_lr: float, T_max: int, eta_min: float = 0.0) -> Rates:
    """value(t) = eta_min + (base − eta_min)·(1 + cos(π·t/T_max))/2; then eta_min holds, where torch climbs again.

    Args:
        base_lr: The optimizer's rate.
        T_max: Updates of the fall.
        eta_min: A rate, not a factor.
    """
    frame = Frame.over("CosineAnnealingLR", (base_lr, eta_min), base_lr)
    return frame.rates(Segment(frame.of(base_lr), frame.of(eta_min), T_max, cosine))


def CosineAnnealingWarmRestarts(base_lr: float, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> Rates:
    """value(t) = eta_min + (base − eta_min)·(1 + cos(π·c/T_i))/2, c updates into the cycle of T_i = T_0·T_mult^i; for ever.

    Args:
        base_lr: The optimizer's rate.
        T_0: Updates of the first cycle.
        T_mult: Each cycle's length over that of the one before it.
        eta_min: A rate, not a factor.

    Raises:
        InputError: If `T_0` or `T_mult` is no whole number of at least 1.
    """
    call = "CosineAnnealingWarmRestarts"
    frame = Frame.over(call, (base_lr, eta_min), base_lr)
    cycle = Segment(frame.of(base_lr), frame.of(eta_min), count(call, "T_0", T_0, 1), cosine)
    return frame.rates(Repeat(cycle, stretch=whole(call, "T_mult", T_mult)))


def SWALR(base_lr: float, swa_lr: float, anneal_epochs: int = 10, anneal_strategy: str = "cos") -> Rates:
    """value(t) = swa·a + base·(1 − a), a = min(t, n)/n or (1 − cos(π·min(t, n)/n))/2, n = anneal_epochs.

    Args:
        base_lr: The optimizer's rate.
        swa_lr: The rate that it goes to, up or down, and holds.
        anneal_epochs: n; 0 is there at once.
        anneal_strategy: ``"cos"`` or ``"linear"``.

    Raises:
        InputError: If an argument is out of its range.
    """
    shape, steps = anneal("SWALR", anneal_strategy), count("SWALR", "anneal_epochs", anneal_epochs)
    frame = Frame.over("SWALR", (base_lr, swa_lr), base_lr)
    end = frame.of(swa_lr)
    return frame.rates(Segment(frame.of(base_lr), end, steps, shape) if steps else Hold(end))


def ReduceLROnPlateau(
    base_lr: float, mode: str = "min", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
    threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0, eps: float = 1e-8, *, metrics: Sequence[float],
) -> Rates:  # fmt: skip
    """value(i) = the rate after metric i: × factor, not below min_lr, after more than `patience` that were no better.

    Args:
        base_lr: The optimizer's rate.
        metrics: What was seen, one for each step; the rates are their replay.

    Raises:
        InputError: If there is no metric, or an argument is out of its range.
    """
    call = "ReduceLROnPlateau"
    seen, low = metrics_of(call, metrics), real(call, "min_lr", min_lr, least=0.0)
    rates = plateau(call, base_lr, seen, mode, factor, patience, threshold, threshold_mode, cooldown, low, eps)
    return absolute(replay(rates, base_lr), base_lr)


def SequentialLR(base_lr: float, schedulers: Sequence[Schedule], milestones: Sequence[int]) -> Rates:
    """value(t) = schedulers[k](t − milestones[k − 1]), k = how many milestones are ≤ t.

    Also where they are SequentialLRs or ChainedSchedulers themselves, which torch takes one update too far, or refuses.

    Args:
        base_lr: The optimizer's rate, above 0; the same for all of them.
        schedulers: Schedules made by this module.
        milestones: One fewer, in order.

    Raises:
        InputError: If the numbers do not fit, or one is not made by this module.
    """
    call = "SequentialLR"
    base = real(call, "base_lr", base_lr, above=0.0)
    places = [count(call, "milestones", place) for place in items(call, "milestones", milestones)]
    schedulers = items(call, "schedulers", schedulers, least=1)
    if len(places) != len(schedulers) - 1 or places != sorted(places):
        came = f"{call}({len(schedulers)} schedulers, milestones={places})"
        raise InputError(f"{came}: milestones must be in order, one fewer than schedulers. Say where each of the others begins.")
    lengths = [*(b - a for a, b in zip([0, *places[:-1]], places, strict=False)), None]
    return joined(call, list(zip(schedulers, lengths, strict=True)), base)


def ChainedScheduler(schedulers: Sequence[Schedule], base_lr: float) -> Rates:
    """value(t) = base·the product of the schedulers' factors.

    Every scheduler multiplies the rate that it finds. Those that set it instead (LambdaLR, warm restarts, CyclicLR, OneCycleLR,
    SequentialLR, a cosine with eta_min above 0) undo what the others did, and are refused.

    Args:
        schedulers: Schedules made by this module.
        base_lr: The optimizer's rate, above 0; the same for all of them.

    Raises:
        InputError: If there is none, one is not made by this module with that `base_lr`, or one sets the rate.
    """
    base = real("ChainedScheduler", "base_lr", base_lr, above=0.0)
    if not schedulers:
        raise InputError("ChainedScheduler([]): there is nothing to multiply. Give at least one scheduler.")
    factors: list[Schedule] = []
    for schedule in schedulers:
        if not isinstance(schedule, Rates) or schedule.base != base:
            raise InputError(f"ChainedScheduler({schedule}): must be made by this module. Give all of them base_lr={base:g}.")
        if len(schedulers) > 1 and (schedule.origin != 0 or not _multiplies(schedule.schedule)):
            raise InputError(f"ChainedScheduler({schedule}): it sets the rate and undoes what the others did. Take SequentialLR.")
        if len(schedulers) == 1:
            return schedule
        factors.append(schedule.schedule)
    return absolute(Times(*factors), base)


def _multiplies(factors: Schedule) -> bool:
    """Whether torch's scheduler multiplies the rate that it finds, as far as the curve tells."""
    if isinstance(factors, Segment):
        return not isinstance(factors.easing, Cosine) or factors.end == 0
    if isinstance(factors, Times):
        return all(_multiplies(factor) for factor in factors.factors)
    if isinstance(factors, Join):
        return all(isinstance(stage, Hold) for stage in factors.stages)
    return isinstance(factors, Tail | Hold) or (isinstance(factors, Custom) and isinstance(factors.fn, _Products))
