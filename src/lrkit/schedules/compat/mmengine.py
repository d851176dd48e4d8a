"""mmengine 0.10.7's parameter schedulers (`mmengine.optim.scheduler`), as rates.

They act from `begin` up to `end`: before it the base holds, after it the value of the last update in between. The value at t is
that after the constructor and t calls of ``step()``; LinearLR, ConstantLR and PolyLR arrive, at `end` − 1. ``…Momentum`` and
``…ParamScheduler`` are the same, for another base. All times are in one unit: of what comes out, if not updates, take `Each`.
"""

from __future__ import annotations

from collections.abc import Sequence

import lrkit.schedules.compat.torch as torch
from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import QUANTITIES, chain, choice, count, items, poly, share
from lrkit.schedules.compat.frame import scaled
from lrkit.schedules.compat.mmengine_chain import INF, Stage, chained, interval, stage
from lrkit.schedules.compat.stairs import drops, geometric
from lrkit.schedules.compose import Rates, Repeat
from lrkit.schedules.easing import cosine
from lrkit.schedules.parts import Hold, Join, Segment

__all__ = [
    "ConstantLR", "ConstantMomentum", "ConstantParamScheduler", "CosineAnnealingLR", "CosineAnnealingMomentum",
    "CosineAnnealingParamScheduler", "CosineRestartLR", "CosineRestartMomentum", "CosineRestartParamScheduler", "ExponentialLR",
    "ExponentialMomentum", "ExponentialParamScheduler", "LinearLR", "LinearMomentum", "LinearParamScheduler", "MultiStepLR",
    "MultiStepMomentum", "MultiStepParamScheduler", "OneCycleLR", "OneCycleParamScheduler", "PolyLR", "PolyMomentum",
    "PolyParamScheduler", "ReduceOnPlateauLR", "ReduceOnPlateauMomentum", "ReduceOnPlateauParamScheduler", "StepLR",
    "StepMomentum", "StepParamScheduler", "param_schedulers",
]  # fmt: skip


def StepLR(base_lr: float, step_size: int, gamma: float = 0.1, begin: int = 0, end: int = INF, *, quantity: str = "lr") -> Rates:
    """value(t) = base · gamma^floor((t − begin)/step_size) from `begin` up to `end`.

    Args:
        base_lr: The optimizer's rate; of the others its momentum, or whatever `quantity` says.
        step_size: Updates between two drops.
        gamma: Factor of a drop, at least 0.
        begin: First update at which it acts.
        end: Update after the last; 10^9 is for ever.
        quantity: ``"lr"``, ``"momentum"`` or ``"weight_decay"``: what the values are for.

    Raises:
        InputError: If an argument is out of its range.
    """
    begin, end = interval("StepLR", begin, end)
    shape = geometric("StepLR", "gamma", gamma, count("StepLR", "step_size", step_size, 1), stairs=True)
    return stage("StepLR", base_lr, Stage(shape, begin, end), quantity)


def MultiStepLR(
    base_lr: float, milestones: Sequence[int], gamma: float = 0.1, begin: int = 0, end: int = INF, *, quantity: str = "lr"
) -> Rates:
    """value(t) = base · gamma^(number of milestones ≤ t − begin), from `begin` up to `end`; one at 0 counts at once."""
    begin, end = interval("MultiStepLR", begin, end)
    places = [count("MultiStepLR", "milestones", place) for place in items("MultiStepLR", "milestones", milestones)]
    shape = drops("MultiStepLR", "gamma", gamma, places)
    return stage("MultiStepLR", base_lr, Stage(shape, begin, end), quantity)


def ConstantLR(base_lr: float, factor: float = 1.0 / 3, begin: int = 0, end: int = INF, *, quantity: str = "lr") -> Rates:
    """value(t) = factor · base from `begin` on, and the base again from update `end` − 1 on.

    With a factor of 0 the library cannot come back; here it does.
    """
    begin, end = interval("ConstantLR", begin, end)
    factor = share("ConstantLR", "factor", factor, "the base")
    rest = end - begin - 1
    shape: Schedule = Hold(factor) if end == INF or not rest else Join(Hold(factor, rest), Hold(1.0, 1))
    return stage("ConstantLR", base_lr, Stage(shape, begin, end), quantity)


def LinearLR(
    base_lr: float, start_factor: float = 1.0 / 3, end_factor: float = 1.0, begin: int = 0, end: int = INF, *,
    quantity: str = "lr",
) -> Rates:  # fmt: skip
    """value(t) = base · (start + (end − start)·s/N), s = t − begin, N = end − begin − 1: the last update has `end_factor`.

    With a start factor of 0 the library divides by zero; here it rises from 0.
    """
    begin, end = interval("LinearLR", begin, end)
    first = share("LinearLR", "start_factor", start_factor, "the base")
    last = share("LinearLR", "end_factor", end_factor, "the base")
    n = end - begin - 1
    shape = chain(Segment(first, last, n), Hold(last, 1)) if n else Hold(first, 1)
    return stage("LinearLR", base_lr, Stage(shape, begin, end), quantity)


def ExponentialLR(base_lr: float, gamma: float, begin: int = 0, end: int = INF, *, quantity: str = "lr") -> Rates:
    """value(t) = base · gamma^(t − begin), from `begin` up to `end`."""
    begin, end = interval("ExponentialLR", begin, end)
    return stage("ExponentialLR", base_lr, Stage(geometric("ExponentialLR", "gamma", gamma), begin, end), quantity)


def PolyLR(
    base_lr: float, eta_min: float = 0.0, power: float = 1.0, begin: int = 0, end: int = INF, *, quantity: str = "lr"
) -> Rates:
    """value(t) = eta_min + (base − eta_min)·(1 − s/N)^power, s = t − begin, N = end − begin − 1: `eta_min` at the last."""
    begin, end = interval("PolyLR", begin, end)
    floor = real("PolyLR", "eta_min", eta_min, least=0.0) / real("PolyLR", "base_lr", base_lr, above=0.0)
    n = end - begin - 1
    shape = chain(Segment(1.0, 0.0, n, poly(power)), Hold(0.0, 1)) if n else Hold(1.0, 1)
    return stage("PolyLR", base_lr, Stage(shape, begin, end, floor), quantity)


def _floor(call: str, base_lr: float, eta_min: float | None, eta_min_ratio: float | None, needed: bool = False) -> float:
    """The lower end as a factor of the base, from the one of the two that is given."""
    base = real(call, "base_lr", base_lr, above=0.0)
    both = eta_min is not None and eta_min_ratio is not None
    if both or (needed and eta_min is None and eta_min_ratio is None):
        came = f"{call}(eta_min={eta_min}, eta_min_ratio={eta_min_ratio})"
        raise InputError(f"{came}: the lower end is either a value or a share of the base. Give one of the two.")
    if eta_min_ratio is not None:
        return real(call, "eta_min_ratio", eta_min_ratio, least=0.0)
    return real(call, "eta_min", eta_min or 0.0, least=0.0) / base


def CosineAnnealingLR(
    base_lr: float, T_max: int | None = None, eta_min: float | None = None, begin: int = 0, end: int = INF,
    eta_min_ratio: float | None = None, *, quantity: str = "lr",
) -> Rates:  # fmt: skip
    """value(t) = eta_min + (base − eta_min)·(1 + cos(πs/T_max))/2, s = t − begin.

    Args:
        T_max: Updates from the base to `eta_min`; end − begin where None. Up to an `end` past it the rate climbs again, as in the
            library; without an end it holds.
        eta_min: Lowest value; 0 where neither it nor `eta_min_ratio` is given.
        eta_min_ratio: The same as a share of the base.

    Raises:
        InputError: If an argument is out of its range, or both lower ends are given.
    """
    begin, end = interval("CosineAnnealingLR", begin, end)
    floor = _floor("CosineAnnealingLR", base_lr, eta_min, eta_min_ratio)
    steps = count("CosineAnnealingLR", "T_max", T_max, 1) if T_max else end - begin
    shape: Schedule = Segment(1.0, 0.0, steps, cosine)
    if steps < end - begin and end < INF:
        shape = Repeat(Join(shape, Segment(0.0, 1.0, steps, cosine)))
    return stage("CosineAnnealingLR", base_lr, Stage(shape, begin, end, floor), quantity)


def CosineRestartLR(
    base_lr: float, periods: Sequence[int], restart_weights: Sequence[float] = (1.0,), eta_min: float | None = None,
    eta_min_ratio: float | None = None, begin: int = 0, end: int = INF, *, quantity: str = "lr",
) -> Rates:  # fmt: skip
    """In period i: eta_min + (base·weight_i − eta_min)·(1 + cos(πk/period_i))/2; after the last one its last value holds.

    Args:
        periods: Updates of each period.
        restart_weights: Peak of each, as a factor of the base.
        eta_min: Lowest value; either it or `eta_min_ratio`.
        eta_min_ratio: The same as a share of the base.

    Raises:
        InputError: If the lists differ in length, an argument is out of its range, or not exactly one lower end is given.
    """
    call = "CosineRestartLR"
    begin, end = interval(call, begin, end)
    floor = _floor(call, base_lr, eta_min, eta_min_ratio, needed=True)
    periods, restart_weights = items(call, "periods", periods, least=1), items(call, "restart_weights", restart_weights)
    if len(periods) != len(restart_weights):
        came = f"{call}({len(periods)} periods, {len(restart_weights)} restart_weights)"
        raise InputError(f"{came}: each period has a weight. Give as many of the one as of the other.")
    weights = [real(call, "restart_weights", weight, least=0.0) for weight in restart_weights]
    shape = Join(*(Segment(w, floor, count(call, "periods", n, 1), cosine) for n, w in zip(periods, weights, strict=True)))
    length = min(sum(periods), end - begin)
    return stage(call, base_lr, Stage(shape, begin, begin + length, own=True), quantity)


def OneCycleLR(
    eta_max: float = 0.0, total_steps: int | None = None, pct_start: float = 0.3, anneal_strategy: str = "cos",
    div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False, begin: int = 0, end: int = INF,
    *, base_lr: float | None = None,
) -> Rates:  # fmt: skip
    """torch's OneCycleLR from `begin` up to `end`, for the rate alone (see `compat.torch.OneCycleLR`).

    Args:
        eta_max: Peak, above 0.
        total_steps: Length of the cycle; end − begin where None.
        base_lr: The optimizer's rate, which holds before `begin`; needed where that is above 0.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "OneCycleLR"
    begin, end = interval(call, begin, end)
    if begin and base_lr is None:
        raise InputError(f"{call}(begin={begin}): the rate before begin is not known. Give base_lr.")
    total = end - begin if total_steps is None else count(call, "total_steps", total_steps, 1)
    peak = real(call, "eta_max", eta_max, above=0.0)
    cycle = torch.OneCycleLR(
        max_lr=peak, total_steps=total, pct_start=pct_start, anneal_strategy=anneal_strategy, div_factor=div_factor,
        final_div_factor=final_div_factor, three_phase=three_phase,
    )  # fmt: skip
    base = peak if base_lr is None else real(call, "base_lr", base_lr, above=0.0)
    shape = scaled(cycle.schedule, peak / base)
    return stage(call, base, Stage(shape, begin, min(end, begin + total), own=True), "lr")


def ReduceOnPlateauLR(
    base_lr: float, metrics: Sequence[float], rule: str = "less", factor: float = 0.1, patience: int = 10,
    threshold: float = 1e-4, threshold_rule: str = "rel", cooldown: int = 0, min_value: float = 0.0, eps: float = 1e-8,
    *, quantity: str = "lr",
) -> Rates:  # fmt: skip
    """× factor after more than `patience` metrics in a row that were no better, not below `min_value`.

    Value i is the rate after metric i. A metric beyond 10^9, which the library takes for no better than none, is taken as it is.

    Args:
        metrics: The metrics that were seen, in order, from `begin` on.
        rule: ``"less"`` or ``"greater"`` is better.
        factor: What a drop leaves, below 1.
        threshold: What counts as better: that share of the best, or that difference.
        threshold_rule: ``"rel"`` or ``"abs"``.
        cooldown: Metrics after a drop that are not counted.
        eps: A smaller drop is left out.
    """
    call = "ReduceOnPlateauLR"
    choice(call, "quantity", quantity, QUANTITIES)
    low = choice(call, "rule", rule, ("less", "greater")) == "less"
    return torch.ReduceLROnPlateau(
        base_lr=base_lr, metrics=metrics, mode="min" if low else "max", factor=factor, patience=patience, threshold=threshold,
        threshold_mode=threshold_rule, cooldown=cooldown, min_lr=min_value, eps=eps,
    )  # fmt: skip


def param_schedulers(schedulers: Sequence[Schedule], *, base_lr: float) -> Rates:
    """A config's ``param_scheduler = [...]``: every scheduler acts at every update, on the value that the one before it left.

    Args:
        schedulers: Schedules of this module, in the order of the list.
        base_lr: The optimizer's rate.

    Raises:
        InputError: If there is none, or one was not made by this module.
    """
    schedulers = items("param_schedulers", "schedulers", schedulers, least=1)
    return chained("param_schedulers", schedulers, real("param_schedulers", "base_lr", base_lr, above=0.0))


StepParamScheduler = StepMomentum = StepLR
MultiStepParamScheduler = MultiStepMomentum = MultiStepLR
ConstantParamScheduler = ConstantMomentum = ConstantLR
LinearParamScheduler = LinearMomentum = LinearLR
ExponentialParamScheduler = ExponentialMomentum = ExponentialLR
PolyParamScheduler = PolyMomentum = PolyLR
CosineAnnealingParamScheduler = CosineAnnealingMomentum = CosineAnnealingLR
CosineRestartParamScheduler = CosineRestartMomentum = CosineRestartLR
ReduceOnPlateauParamScheduler = ReduceOnPlateauMomentum = ReduceOnPlateauLR
OneCycleParamScheduler = OneCycleLR
