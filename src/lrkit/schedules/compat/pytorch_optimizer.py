"""pytorch_optimizer 4.1.0 (kozistr).

Update t has the value that the library's formula gives for t. Its classes set a first rate of their own in the constructor, and
some of them count that as a step; what is in force there before the first `step()` is not reproduced. The classes with max_lr
write over the optimizer's rate, so they take no `base_lr`.
"""

from __future__ import annotations

import math

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, exactly, held, way
from lrkit.schedules.compose import Rates, Repeat
from lrkit.schedules.easing import Easing, Polynomial, Power, Rex, cosine, linear
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.plans import chebyshev_order
from lrkit.schedules.points import Points

_MOST_CYCLES = 200  # that are written out, where they differ by more than one factor
_COOLDOWNS: dict[str, Easing] = {"1-sqrt": Power(0.5), "cosine": cosine, "1-square": Power(2.0), "linear": linear}


def LinearScheduler(t_max: int, max_lr: float, min_lr: float = 0.0, init_lr: float = 0.0, warmup_steps: int = 0) -> Rates:
    """init_lr + (max_lr − init_lr)·t/W, then max_lr + (min_lr − max_lr)·(t − W)/(t_max − W).

    Args:
        t_max: Updates of the run, the warm-up included.
        max_lr: Highest rate, above 0.
        min_lr: Rate at t_max.
        init_lr: Rate of update 0 where there is a warm-up.
        warmup_steps: W; 0 for none.
    """
    return _warmed("LinearScheduler", (t_max, warmup_steps), (max_lr, min_lr, init_lr), linear)


def CosineScheduler(t_max: int, max_lr: float, min_lr: float = 0.0, init_lr: float = 0.0, warmup_steps: int = 0) -> Rates:
    """init_lr + (max_lr − init_lr)·t/W, then min_lr + (max_lr − min_lr)·(1 + cos(π·(t − W)/(t_max − W)))/2.

    The arguments are those of `LinearScheduler`.
    """
    return _warmed("CosineScheduler", (t_max, warmup_steps), (max_lr, min_lr, init_lr), cosine)


def PolyScheduler(
    poly_order: float = 0.5, *, t_max: int, max_lr: float, min_lr: float = 0.0, init_lr: float = 0.0, warmup_steps: int = 0
) -> Rates:
    """init_lr + (max_lr − init_lr)·t/W, then min_lr + (max_lr − min_lr)·(1 − (t − W)/(t_max − W))^poly_order.

    Not the library's values: its "decay" min_lr + (max_lr − min_lr)·(t − W)^poly_order climbs above max_lr, without a limit.

    Args:
        poly_order: Power, above 0; the other arguments are those of `LinearScheduler`.
    """
    return _warmed("PolyScheduler", (t_max, warmup_steps), (max_lr, min_lr, init_lr), Polynomial(poly_order))


def _warmed(call: str, lengths: tuple[int, int], rates: tuple[float, float, float], easing: Easing) -> Rates:
    """A line up, an easing down."""
    total, warm = count(call, "t_max", lengths[0], 1), count(call, "warmup_steps", lengths[1])
    high = real(call, "max_lr", rates[0], above=0.0)
    low, start = (real(call, name, rate, least=0.0) / high for name, rate in zip(("min_lr", "init_lr"), rates[1:], strict=True))
    rise = way(start, 1.0, warm)
    if rise and warm >= total:
        return absolute(exactly(rise, total), high)
    return absolute(chain(rise, Segment(1.0, low, total - warm, easing)), high)


def REXScheduler(total_steps: int, max_lr: float = 1.0, min_lr: float = 0.0) -> Rates:
    """min_lr + (max_lr − min_lr)·(1 − p)/(1 − p/2), p = t/total_steps (arXiv:2107.04197).

    The library consumes t = 0 in its constructor and leaves the rate at min_lr there; here update 0 has max_lr.

    Args:
        total_steps: Updates of the run.
        max_lr: Rate of update 0, above 0.
        min_lr: Rate at total_steps.
    """
    high = real("REXScheduler", "max_lr", max_lr, above=0.0)
    return absolute(Segment(1.0, real("REXScheduler", "min_lr", min_lr) / high, total_steps, Rex()), high)


def CosineAnnealingWarmupRestarts(
    first_cycle_steps: int, cycle_mult: float = 1.0, max_lr: float = 1e-4, min_lr: float = 1e-6, warmup_steps: int = 0,
    gamma: float = 0.9,
) -> Rates:  # fmt: skip
    """In cycle k, from min_lr to max_lr·gamma^k along a line of W updates, then down to min_lr along half a cosine.

    The peak stays at min_lr once it has come down to it; the library's goes on falling, so that its cycles turn upside down.
    Cycles that differ by more than one factor are written out, 200 at most; then the last value holds.

    Args:
        first_cycle_steps: Updates of the first cycle, its warm-up included.
        cycle_mult: Length of what follows the warm-up over that of the cycle before, rounded down each time.
        max_lr: Highest rate of the first cycle, above 0.
        min_lr: Lowest rate.
        warmup_steps: W, below first_cycle_steps; every cycle has as many.
        gamma: Peak over that of the cycle before, above 0.

    Raises:
        InputError: If a number is out of its range.
    """
    call = "CosineAnnealingWarmupRestarts"
    n, warm = count(call, "first_cycle_steps", first_cycle_steps, 1), count(call, "warmup_steps", warmup_steps)
    mult, gamma = real(call, "cycle_mult", cycle_mult, above=0.0), real(call, "gamma", gamma, above=0.0)
    high = real(call, "max_lr", max_lr, above=0.0)
    low = real(call, "min_lr", min_lr, least=0.0) / high
    if warm >= n:
        raise InputError(f"{call}(first_cycle_steps={n}, warmup_steps={warm}): the warm-up must be shorter. Lower warmup_steps.")
    even = mult == 1 or (mult == int(mult) and warm == 0)
    if even and gamma <= 1 and (gamma == 1 or low == 0):
        return absolute(Repeat(_cycle(n, warm, low, 1.0), stretch=mult, scale=gamma), high)
    stages: list[Schedule] = []
    for k in range(_MOST_CYCLES):
        peak = gamma**k
        if peak <= low or n > 2**50 or peak > 1e9:
            break
        stages.append(_cycle(n, warm, low, peak))
        n = max(1, int((n - warm) * mult)) + warm
    return absolute(chain(*stages, None if stages else Hold(low)), high)


def _cycle(n: int, warm: int, low: float, peak: float) -> Schedule:
    return chain(way(low, peak, warm), Segment(peak, low, n - warm, cosine))


def get_wsd_schedule(
    base_lr: float, num_warmup_steps: int, num_stable_steps: int, num_decay_steps: int, min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5, cooldown_type: str = "1-sqrt",
) -> Rates:  # fmt: skip
    """base_lr·t/W, then base_lr, then base_lr·(m + (1 − m)·cooldown(u)), then base_lr·m.

    The library forgets m in all cool-downs but the cosine, so that it falls to 0 and jumps up to m; here all of them end at m.

    Args:
        base_lr: The optimizer's rate, the highest.
        num_warmup_steps: W; 0 for none.
        num_stable_steps: Updates at the peak.
        num_decay_steps: Updates of the cool-down.
        min_lr_ratio: m, the factor past the cool-down.
        num_cycles: Waves of the cosine: a half goes down once.
        cooldown_type: ``"1-sqrt"``, ``"cosine"``, ``"1-square"`` or ``"linear"``.

    Raises:
        InputError: If a number is out of its range, or the type is another.
    """
    call = "get_wsd_schedule"
    names = ("num_warmup_steps", "num_stable_steps", "num_decay_steps")
    lengths = (num_warmup_steps, num_stable_steps, num_decay_steps)
    warm, stable, decay = (count(call, name, n) for name, n in zip(names, lengths, strict=True))
    low, waves = real(call, "min_lr_ratio", min_lr_ratio, least=0.0), abs(real(call, "num_cycles", num_cycles))
    kind = choice(call, "cooldown_type", cooldown_type, tuple(_COOLDOWNS))
    fall: Schedule | None = way(1.0, low, decay, _COOLDOWNS[kind])
    if kind == "cosine" and fall and waves != 0.5:
        fall = _waves(low, decay, waves)
    stages = (way(0.0, 1.0, warm), held(1.0, stable), fall)
    if fall and fall.end_value == low:
        return absolute(chain(*stages), base_lr)
    total = warm + stable + decay
    return absolute(exactly(chain(*stages, Hold(low, 1)), total) if total else Hold(low), base_lr)


def _waves(low: float, steps: int, waves: float) -> Schedule:
    """low + (1 − low)·(1 + cos(2π·waves·t/steps))/2."""
    if waves == 0:
        return Hold(1.0, steps)
    half = steps / (2.0 * waves)
    points = [(i * half, low if i % 2 else 1.0) for i in range(math.ceil(2.0 * waves) + 1)]
    return Part(Points(tuple(points), cosine), 0, steps)


def get_chebyshev_schedule(base_lr: float, num_epochs: int, is_warmup: bool = False) -> Rates:
    """base_lr·s(clip(t − 2, 0, P − 1)), s the Chebyshev steps in fractal order (arXiv:2103.01338).

    P is the lowest power of two that is not below num_epochs. As in the library, the first step is made three times.

    Args:
        base_lr: The optimizer's rate; the highest step is 1/0.05 times as high, nearly.
        num_epochs: Steps, at least 1.
        is_warmup: True gives base_lr for ever.
    """
    n = whole("get_chebyshev_schedule", "num_epochs", num_epochs)
    if is_warmup:
        return absolute(Hold(1.0), base_lr)
    steps = get_chebyshev_perm_steps(2 ** (n - 1).bit_length() if n > 1 else 1)
    return absolute(Join(Hold(steps[0], 2), *(Hold(step, 1) for step in steps)), base_lr)


def get_chebyshev_steps(num_epochs: int, small_m: float = 0.05, big_m: float = 1.0) -> list[float]:
    """1/((M + m)/2 − (M − m)/2·cos((k + ½)π/n)), k = 0 … n − 1: the steps in their own order.

    Args:
        num_epochs: n.
        small_m: m, the smallest curvature.
        big_m: M, the largest.
    """
    n = whole("get_chebyshev_steps", "num_epochs", num_epochs)
    mid, swing = (big_m + small_m) / 2.0, (big_m - small_m) / 2.0
    return [1.0 / (mid - swing * math.cos((k + 0.5) * math.pi / n)) for k in range(n)]


def get_chebyshev_permutation(num_epochs: int) -> list[int]:
    """0 … P − 1 in fractal order, P the lowest power of two that is not below num_epochs."""
    n = whole("get_chebyshev_permutation", "num_epochs", num_epochs, least=-1)
    return chebyshev_order(2 ** (n - 1).bit_length() if n > 1 else 1)


def get_chebyshev_perm_steps(num_epochs: int) -> list[float]:
    """The steps in fractal order, by the permutation for num_epochs − 2: of 2 epochs, only the first."""
    steps = get_chebyshev_steps(num_epochs)
    return [steps[i] for i in get_chebyshev_permutation(num_epochs - 2) if i < num_epochs]


def ProportionScheduler(
    lr_scheduler: Rates, max_lr: float, min_lr: float = 0.0, max_value: float = 2.0, min_value: float = 2.0
) -> Rates:
    """min_value + (max_value − min_value)·(lr(t) − min_lr)/(max_lr − min_lr): SAM's ρ in proportion to the rate.

    Args:
        lr_scheduler: The rate, as one of this package's schedules.
        max_lr: Rate at which the value is max_value; where it is not above min_lr, the value is max_value throughout.
        min_lr: Rate at which it is min_value.
        max_value: Value at max_lr.
        min_value: Value at min_lr.

    Raises:
        InputError: If lr_scheduler is no schedule of absolute values.
    """
    call = "ProportionScheduler"
    if not isinstance(lr_scheduler, Rates):
        raise InputError(
            f"{call}(lr_scheduler={lr_scheduler!r}): must be a schedule of absolute values, e.g. CosineScheduler(…)."
        )
    low, span = real(call, "min_lr", min_lr), real(call, "max_lr", max_lr) - min_lr
    bottom, rise = real(call, "min_value", min_value), real(call, "max_value", max_value) - min_value
    if span <= 0:
        return Rates(Hold(1.0, lr_scheduler.steps), max_value)
    ends = (bottom + rise * (rate - low) / span for rate in (lr_scheduler.base, lr_scheduler.origin))
    return Rates(lr_scheduler.schedule, *ends)
