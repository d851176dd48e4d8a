"""Composer (mosaicml 0.32.1)'s schedulers, as rates: multipliers of `base_lr`, which is 1 where it is not given.

t counts the batches done, so the first update has the value at 0; a boundary belongs to the new piece, a warm-up departs from 0.
Times are texts, ``"30ba"``, ``"5ep"`` or ``"0.9dur"``; `ssr`, the scale schedule ratio, scales them and `max_duration` first.
Fractions of a batch are cut off. Past the end the end value holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, held, items, poly
from lrkit.schedules.compat.composer_time import Clock
from lrkit.schedules.compat.stairs import drops, geometric
from lrkit.schedules.compose import Rates, Repeat
from lrkit.schedules.easing import Easing, cosine, linear
from lrkit.schedules.parts import Hold, Segment

__all__ = [
    "ConstantScheduler", "ConstantWithWarmupScheduler", "CosineAnnealingScheduler", "CosineAnnealingWarmRestartsScheduler",
    "CosineAnnealingWithWarmupScheduler", "ExponentialScheduler", "LinearScheduler", "LinearWithWarmupScheduler",
    "MultiStepScheduler", "MultiStepWithWarmupScheduler", "PolynomialScheduler", "PolynomialWithWarmupScheduler", "StepScheduler",
]  # fmt: skip


def StepScheduler(
    step_size: str, gamma: float = 0.1, *, max_duration: str, steps_per_epoch: int | None = None, ssr: float = 1.0,
    base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = base_lr · gamma^floor(t/step_size), for ever."""
    clock = Clock("StepScheduler", max_duration, steps_per_epoch, ssr)
    every = clock.batches("step_size", step_size, least=1)
    return absolute(geometric(clock.call, "gamma", gamma, every, stairs=True), base_lr)


def _stairs(clock: Clock, milestones: Sequence[str], gamma: float) -> Schedule:
    """gamma^#{milestones ≤ t}."""
    places = [clock.batches("milestones", milestone) for milestone in items(clock.call, "milestones", milestones)]
    return drops(clock.call, "gamma", gamma, places)


def MultiStepScheduler(
    milestones: Sequence[str], gamma: float = 0.1, *, max_duration: str, steps_per_epoch: int | None = None, ssr: float = 1.0,
    base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = base_lr · gamma^(number of milestones ≤ t), for ever; the milestones may be of several units."""
    return absolute(_stairs(Clock("MultiStepScheduler", max_duration, steps_per_epoch, ssr), milestones, gamma), base_lr)


def ConstantScheduler(
    alpha: float = 1.0, t_max: str = "1dur", *, max_duration: str, steps_per_epoch: int | None = None, ssr: float = 1.0,
    base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = base_lr · alpha up to t_max, then base_lr; a t_max at or past the end of the run stays at alpha there."""
    clock = Clock("ConstantScheduler", max_duration, steps_per_epoch, ssr)
    steps = clock.batches("t_max", t_max)
    low = held(real(clock.call, "alpha", alpha, least=0.0), steps)
    return absolute(chain(low, Hold(1.0) if steps < clock.total else None), base_lr)


def LinearScheduler(
    alpha_i: float = 1.0, alpha_f: float = 0.0, t_max: str = "1dur", *, max_duration: str, steps_per_epoch: int | None = None,
    ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = base_lr · (alpha_i + (alpha_f − alpha_i)·min(1, t/t_max))."""
    clock = Clock("LinearScheduler", max_duration, steps_per_epoch, ssr)
    return absolute(Segment(alpha_i, alpha_f, clock.batches("t_max", t_max, least=1)), base_lr)


def ExponentialScheduler(
    gamma: float, decay_period: str = "1ep", *, max_duration: str, steps_per_epoch: int | None = None, ssr: float = 1.0,
    base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = base_lr · gamma^(t/decay_period), for ever."""
    clock = Clock("ExponentialScheduler", max_duration, steps_per_epoch, ssr)
    every = clock.batches("decay_period", decay_period, least=1)
    return absolute(geometric(clock.call, "gamma", gamma, every), base_lr)


def CosineAnnealingScheduler(
    t_max: str = "1dur", alpha_f: float = 0.0, *, max_duration: str, steps_per_epoch: int | None = None, ssr: float = 1.0,
    base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = base_lr · (alpha_f + (1 − alpha_f)·(1 + cos πu)/2), u = min(1, t/t_max)."""
    clock = Clock("CosineAnnealingScheduler", max_duration, steps_per_epoch, ssr)
    return absolute(Segment(1.0, alpha_f, clock.batches("t_max", t_max, least=1), cosine), base_lr)


def CosineAnnealingWarmRestartsScheduler(
    t_0: str, t_mult: float = 1.0, alpha_f: float = 0.0, *, max_duration: str, steps_per_epoch: int | None = None,
    ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """base_lr · (alpha_f + (1 − alpha_f)·(1 + cos πu)/2) in cycles, the next int(t_mult · length) long.

    Where t_mult is no whole number, the cycles that the run reaches are planned, and the last one's end holds.

    Args:
        t_0: Length of the first cycle.
        t_mult: Length of a cycle over the one before it, above 0.
        alpha_f: Where each cycle ends.

    Raises:
        InputError: If an argument is out of its range, or the cycles shrink to nothing before the run ends.
    """
    clock = Clock("CosineAnnealingWarmRestartsScheduler", max_duration, steps_per_epoch, ssr)
    length, mult = clock.batches("t_0", t_0, least=1), real(clock.call, "t_mult", t_mult, above=0.0)
    if mult == int(mult):
        return absolute(Repeat(Segment(1.0, alpha_f, length, cosine), stretch=mult), base_lr)
    cycles: list[Schedule] = []
    done = 0
    while done < clock.total or mult < 1:
        following = int(mult * length)
        cycles.append(Segment(1.0, alpha_f, length, cosine))
        done += length
        if following == length:  # it has stopped growing
            cycles[-1] = Repeat(Segment(1.0, alpha_f, length, cosine))
            break
        if following == 0:
            break
        length = following
    if done < clock.total and cycles[-1].steps is not None:
        came = f"{clock.call}(t_0={t_0!r}, t_mult={mult:g})"
        raise InputError(f"{came}: the cycles shrink to nothing after {done} of {clock.total} updates. Raise t_mult or t_0.")
    return absolute(chain(*cycles), base_lr)


def PolynomialScheduler(
    power: float, t_max: str = "1dur", alpha_f: float = 0.0, *, max_duration: str, steps_per_epoch: int | None = None,
    ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """value(t) = base_lr · (alpha_f + (1 − alpha_f)·(1 − min(1, t/t_max))^power)."""
    clock = Clock("PolynomialScheduler", max_duration, steps_per_epoch, ssr)
    return absolute(Segment(1.0, alpha_f, clock.batches("t_max", t_max, least=1), poly(power)), base_lr)


def MultiStepWithWarmupScheduler(
    t_warmup: str, milestones: Sequence[str], gamma: float = 0.1, scale_warmup: bool = False, *, max_duration: str,
    steps_per_epoch: int | None = None, ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """base_lr · t/t_warmup, then base_lr · gamma^(number of milestones ≤ t), for ever; milestones count from t = 0.

    `scale_warmup`: see `LinearWithWarmupScheduler`.
    """
    clock = Clock("MultiStepWithWarmupScheduler", max_duration, steps_per_epoch, ssr)
    warmup = clock.batches("t_warmup", t_warmup, scale=False)
    stairs = _stairs(clock, milestones, gamma)
    return absolute(chain(clock.rise(t_warmup, 1.0, scale_warmup), stairs.cut(warmup, None) if warmup else stairs), base_lr)


def _warmed(clock: Clock, t_warmup: str, t_max: str, ends: tuple[float, float], easing: Easing, scale_warmup: bool) -> Schedule:
    """A rise to the first end, then the way to the second until t_max; no way where t_max is not past the rise."""
    rest = clock.end(t_max) - clock.batches("t_warmup", t_warmup, scale=False)
    fall = Segment(*ends, rest, easing) if rest > 0 and ends[0] != ends[1] else Hold(ends[0], max(rest, 1))
    return chain(clock.rise(t_warmup, ends[0], scale_warmup), fall)


def ConstantWithWarmupScheduler(
    t_warmup: str, alpha: float = 1.0, t_max: str = "1dur", scale_warmup: bool = False, *, max_duration: str,
    steps_per_epoch: int | None = None, ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """base_lr · alpha · min(1, t/t_warmup). `t_max` is no shorter than the run; `scale_warmup`: `LinearWithWarmupScheduler`."""
    clock = Clock("ConstantWithWarmupScheduler", max_duration, steps_per_epoch, ssr)
    alpha = real(clock.call, "alpha", alpha, least=0.0)
    return absolute(_warmed(clock, t_warmup, t_max, (alpha, alpha), linear, scale_warmup), base_lr)


def LinearWithWarmupScheduler(
    t_warmup: str, alpha_i: float = 1.0, alpha_f: float = 0.0, t_max: str = "1dur", scale_warmup: bool = False, *,
    max_duration: str, steps_per_epoch: int | None = None, ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """base_lr·alpha_i·t/t_warmup, then base_lr·(alpha_i + (alpha_f − alpha_i)·u), u = min(1, (t − t_warmup)/(t_max − t_warmup)).

    Args:
        t_warmup: Length of the rise, which `ssr` does not scale.
        alpha_i: Peak.
        alpha_f: Where it ends.
        t_max: End of the fall, the rise included; no shorter than the run.
        scale_warmup: Whether `ssr` scales the slope of the rise. The fall begins at t_warmup all the same, as in Composer: below
            an ssr of 1 the peak is held until then, above it the rise jumps to the peak.

    Raises:
        InputError: If a time is out of its range.
    """
    clock = Clock("LinearWithWarmupScheduler", max_duration, steps_per_epoch, ssr)
    ends = real(clock.call, "alpha_i", alpha_i, least=0.0), real(clock.call, "alpha_f", alpha_f, least=0.0)
    return absolute(_warmed(clock, t_warmup, t_max, ends, linear, scale_warmup), base_lr)


def CosineAnnealingWithWarmupScheduler(
    t_warmup: str, t_max: str = "1dur", alpha_f: float = 0.0, scale_warmup: bool = False, *, max_duration: str,
    steps_per_epoch: int | None = None, ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """base_lr · t/t_warmup, then base_lr · (alpha_f + (1 − alpha_f)·(1 + cos πu)/2); u as in `LinearWithWarmupScheduler`."""
    clock = Clock("CosineAnnealingWithWarmupScheduler", max_duration, steps_per_epoch, ssr)
    end = real(clock.call, "alpha_f", alpha_f, least=0.0)
    return absolute(_warmed(clock, t_warmup, t_max, (1.0, end), cosine, scale_warmup), base_lr)


def PolynomialWithWarmupScheduler(
    t_warmup: str, power: float = 2.0, t_max: str = "1dur", alpha_f: float = 0.0, scale_warmup: bool = False, *,
    max_duration: str, steps_per_epoch: int | None = None, ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """base_lr · t/t_warmup, then base_lr · (alpha_f + (1 − alpha_f)·(1 − u)^power); u as in `LinearWithWarmupScheduler`."""
    clock = Clock("PolynomialWithWarmupScheduler", max_duration, steps_per_epoch, ssr)
    end = real(clock.call, "alpha_f", alpha_f, least=0.0)
    return absolute(_warmed(clock, t_warmup, t_max, (1.0, end), poly(power), scale_warmup), base_lr)
