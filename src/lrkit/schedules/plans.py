"""Recipes for whole runs: warmup–stable–decay, inverse square root and power schedules, one cycle, Chebyshev steps."""

import math
from collections.abc import Sequence

import lrkit.schedules.easing as shapes
from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Each
from lrkit.schedules.easing import Easing
from lrkit.schedules.parts import Hold, Join, Segment
from lrkit.schedules.tails import Hyperbolic, Tail

_UPDATES = "a whole number of updates"


def _rise(warmup: int) -> tuple[Segment, ...]:
    return (Segment(0.0, 1.0, warmup, shapes.linear, arrive=True),) if warmup else ()


def wsd(total: int, warmup: int, decay: int, easing: str | Easing = "1-sqrt", end: float = 0.0) -> Schedule:
    """Warmup–stable–decay: rise, hold at 1, fall (MiniCPM, arXiv:2404.06395; the 1-sqrt fall: arXiv:2405.18392).

    Args:
        total: Optimizer updates in all.
        warmup: Updates of the rise; 0 for none.
        decay: Updates of the fall, at least 1.
        easing: Shape of the fall: ``"1-sqrt"``, ``"linear"``, ``"cosine"``, ``"1-square"``, ``"exponential"`` (with `end`
            above 0), or any easing.
        end: Factor after the last update.

    Raises:
        InputError: If the rise and the fall leave no update to hold.

    Examples:
        >>> str(wsd(10_000, warmup=500, decay=2_000))
        'warmup 500 > hold 7500 > 1-sqrt 2000'
    """
    warmup, decay = whole("wsd", "warmup", warmup, 0, what=_UPDATES), whole("wsd", "decay", decay, 1, what=_UPDATES)
    if whole("wsd", "total", total, 1, what=_UPDATES) - warmup - decay < 1:
        came = f"wsd({total}, warmup={warmup}, decay={decay})"
        raise InputError(f"{came}: warmup and decay must leave at least one update to hold. Shorten them.")
    return Join(*_rise(warmup), Hold(1.0, total - warmup - decay), Segment(1.0, end, decay, easing))


def wsd_s(periods: Sequence[int], warmup: int, decay: int, easing: str | Easing = "linear", end: float = 0.0) -> Schedule:
    """Warmup–stable–decay, simplified: several decays in one run, each followed by the full rate (arXiv:2410.05192).

    Args:
        periods: Updates of each period, its decay included; the first includes the rise.
        warmup: Updates of the rise; 0 for none.
        decay: Updates of each fall, at least 1.
        easing: Shape of the falls.
        end: Factor after each fall.

    Raises:
        InputError: If a period leaves no update to hold.

    Examples:
        >>> str(wsd_s([100, 50], warmup=10, decay=20))
        'warmup 10 > hold 70 > linear 20 > hold 30 at 1 > linear 20'
    """
    warmup, decay = whole("wsd_s", "warmup", warmup, 0, what=_UPDATES), whole("wsd_s", "decay", decay, 1, what=_UPDATES)
    if not isinstance(periods, Sequence) or not periods:
        raise InputError(f"wsd_s(periods={periods!r}): periods must be a list of updates, at least one.")
    rises = [warmup, *[0] * (len(periods) - 1)]
    for steps, rise in zip(periods, rises, strict=True):
        if whole("wsd_s", "periods", steps, 1, what=_UPDATES) - rise - decay < 1:
            came = f"wsd_s(periods={list(periods)}, warmup={warmup}, decay={decay})"
            raise InputError(f"{came}: a period of {steps} leaves no update to hold. Shorten the rise or the decay.")
    fall = Segment(1.0, end, decay, easing)
    plateaus = [Join(Hold(1.0, steps - rise - decay), fall) for steps, rise in zip(periods, rises, strict=True)]
    return Join(*_rise(warmup), *plateaus)


def inverse_sqrt(warmup: int, total: int | None = None, cooldown: int = 0, end: float = 0.0) -> Schedule:
    """Rise, then √(warmup/t) (arXiv:1706.03762, §5.3), for ever or until a linear cool-down that ends at `total`.

    Args:
        warmup: Updates of the rise, at least 1; also the time scale of the decay.
        total: Optimizer updates in all; None has no end.
        cooldown: Updates of the fall at the end; 0 for none.
        end: Factor after the cool-down.

    Raises:
        InputError: If a number is out of its range, or the rise and the cool-down do not fit.

    Examples:
        >>> inverse_sqrt(100)(100), inverse_sqrt(100)(400)
        (1.0, 0.5)
    """
    warmup = whole("inverse_sqrt", "warmup", warmup, 1, what=_UPDATES)
    cooldown = whole("inverse_sqrt", "cooldown", cooldown, 0, what=_UPDATES)
    return _decaying("inverse_sqrt", warmup, Hyperbolic(1.0, 0.5, every=warmup), total, cooldown, end)


def power_scheduler(warmup: int, b: float = 0.51, total: int | None = None, decay: int = 0, end: float = 0.0) -> Schedule:
    """Rise, then (t/warmup)^−b, then a linear fall: the power scheduler (arXiv:2408.13359), at its own peak.

    Args:
        warmup: Updates of the rise, at least 1.
        b: Power, above 0; the paper has 0.51.
        total: Optimizer updates in all; None has no end.
        decay: Updates of the fall at the end; 0 for none.
        end: Factor after the fall.

    Raises:
        InputError: If a number is out of its range, or the rise and the fall do not fit.
    """
    warmup = whole("power_scheduler", "warmup", warmup, 1, what=_UPDATES)
    decay = whole("power_scheduler", "decay", decay, 0, what=_UPDATES)
    return _decaying("power_scheduler", warmup, Hyperbolic(1.0, b, every=warmup), total, decay, end)


def _decaying(call: str, warmup: int, law: Hyperbolic, total: int | None, fall: int, end: float) -> Schedule:
    """A rise, a tail, and a linear fall where there is an end."""
    if total is None and fall:
        raise InputError(f"{call}(warmup={warmup}): a fall at the end needs an end. Say total=…")
    if total is None:
        return Join(*_rise(warmup), Tail(law))
    steps = whole(call, "total", total, 1, what=_UPDATES) - warmup - fall
    if steps < 1:
        raise InputError(f"{call}(warmup={warmup}, total={total}): rise and fall leave no update between them. Shorten them.")
    tail = Tail(law, steps=steps)
    return Join(*_rise(warmup), tail, *([Segment(tail.end_value, end, fall)] if fall else []))


def one_cycle(total: int, rise: float = 0.3, start: float = 0.04, end: float = 4e-6, easing: str | Easing = "cosine") -> Schedule:
    """Rise from `start` to the peak, then fall far below it (super-convergence, arXiv:1708.07120).

    In lrkit's convention: the rise arrives, the fall departs. `compat.torch.OneCycleLR` has torch's own numbers.

    Args:
        total: Optimizer updates in all, at least 2.
        rise: Share of the run that rises, in (0, 1).
        start: Factor before update 0; torch's ``1 / div_factor``.
        end: Factor after the last update; torch's ``1 / (div_factor · final_div_factor)``.
        easing: Shape of both: ``"cosine"`` or ``"linear"``, or any easing.

    Raises:
        InputError: If a number is out of its range.

    Examples:
        >>> str(one_cycle(1000))
        'warmup(cosine) 300 from 0.04 > cosine 700 to 4e-06'
    """
    up, down = _halves("one_cycle", total, rise)
    return Join(Segment(start, 1.0, up, easing, arrive=True), Segment(1.0, end, down, easing))


def one_cycle_momentum(total: int, rise: float = 0.3, low: float = 0.85 / 0.95, easing: str | Easing = "cosine") -> Schedule:
    """The momentum of one cycle: down while the rate rises, and up again.

    A factor of the highest: give the optimizer the highest momentum, e.g. 0.95, and attach this to ``momentum``.

    Args:
        total: Optimizer updates in all, at least 2.
        rise: Share of the run in which the rate rises, in (0, 1).
        low: Lowest momentum over the highest.
        easing: Shape of both.

    Raises:
        InputError: If a number is out of its range.
    """
    down, up = _halves("one_cycle_momentum", total, rise)
    return Join(Segment(1.0, low, down, easing, arrive=True), Segment(low, 1.0, up, easing))


def _halves(call: str, total: int, rise: float) -> tuple[int, int]:
    total, rise = whole(call, "total", total, 2, what=_UPDATES), real(call, "rise", rise, above=0.0)
    if rise >= 1:
        raise InputError(f"{call}(rise={rise:g}): rise is a share of the run, below 1. For 30 per cent say 0.3.")
    up = min(total - 1, max(1, round(rise * total)))
    return up, total - up


def chebyshev_order(n: int) -> list[int]:
    """0 … n−1 in the fractal order in which Chebyshev steps stay stable (arXiv:2103.01338, §3).

    Args:
        n: How many, a power of two.

    Raises:
        InputError: If it is no power of two.

    Examples:
        >>> chebyshev_order(8)
        [0, 7, 3, 4, 1, 6, 2, 5]
    """
    n = whole("chebyshev_order", "n", n, 1)
    if n & (n - 1):
        raise InputError(f"chebyshev_order({n}): the fractal order exists for powers of two. Take {2 ** (n.bit_length())}.")
    order = [0]
    while len(order) < n:
        order = [i for one in order for i in (one, 2 * len(order) - 1 - one)]
    return order


def chebyshev(steps: int, low: float = 0.05, every: int = 1) -> Schedule:
    """The steps that solve a quadratic in `steps` updates, in fractal order (arXiv:2103.01338).

    value(i) = low / ((1 + low)/2 − (1 − low)/2 · cos((2·order(i) + 1)·π / (2·steps)))

    Args:
        steps: How many, a power of two; then the last holds.
        low: Smallest curvature over the largest, in (0, 1): the spread of the steps.
        every: Updates for which each is held: 1, or those of an epoch.

    Raises:
        InputError: If a number is out of its range.
    """
    order, low = chebyshev_order(steps), real("chebyshev", "low", low, above=0.0)
    if low >= 1:
        raise InputError(f"chebyshev(low={low:g}): low must be below 1. It is the smallest curvature over the largest.")
    mid, swing = (1 + low) / 2, (1 - low) / 2
    values = [low / (mid - swing * math.cos((2 * i + 1) * math.pi / (2 * steps))) for i in order]
    held = Join(*(Hold(value, 1) for value in values))
    return held if every == 1 else Each(held, every)
