"""DeepSpeed 0.19.8's schedulers (`deepspeed.runtime.lr_schedules`), as rates.

The value at t is the scheduler's for batch t, the first being 0. DeepSpeed itself runs the Warmup… classes one update late, with
the lowest rate once more before it; here they are in time. Past the end the end value holds.
"""

from __future__ import annotations

import math

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain, choice, count, overwritten, way
from lrkit.schedules.compat.frame import Frame, scaled
from lrkit.schedules.compat.stairs import staircase
from lrkit.schedules.compose import Each, Rates
from lrkit.schedules.easing import cosine
from lrkit.schedules.parts import Hold, Segment
from lrkit.schedules.points import Points
from lrkit.schedules.tails import Hyperbolic, Tail

__all__ = ["LRRangeTest", "OneCycle", "WarmupCosineLR", "WarmupDecayLR", "WarmupLR"]

_INTERVALS = 1000  # of a range test that is given no length


def _rise(call: str, low: float, high: float, warmup_num_steps: int, warmup_type: str) -> tuple[int, Schedule]:
    """W = max(2, steps), and W updates from one factor to the other: along log(t + 1)/log W, or t/W."""
    steps = max(2, count(call, "warmup_num_steps", warmup_num_steps, 1))
    if choice(call, "warmup_type", warmup_type, ("log", "linear")) == "linear":
        return steps, Segment(low, high, steps)
    shares = [math.log(t + 1) / math.log(steps) for t in range(steps)]
    points = Points(tuple((t, (1.0 - share) * low + share * high) for t, share in enumerate(shares)))
    return steps, chain(points, Hold(high, 1))


def WarmupLR(
    warmup_min_lr: float = 0.0, warmup_max_lr: float | None = None, warmup_num_steps: int = 1000, warmup_type: str = "log",
    *, base_lr: float | None = None,
) -> Rates:  # fmt: skip
    """value(t) = min + (max − min)·g, g = log(t + 1)/log W or t/W up to W = max(2, warmup_num_steps), then 1.

    Args:
        warmup_min_lr: Rate at update 0.
        warmup_max_lr: Rate from W on (`"log"`: from W − 1); `base_lr` where None.
        warmup_num_steps: Updates of the rise, at least 1.
        warmup_type: ``"log"`` or ``"linear"``.
        base_lr: The optimizer's rate.

    Raises:
        InputError: If an argument is out of its range, or there is no rate to rise to.
    """
    top = base_lr if warmup_max_lr is None else warmup_max_lr
    if top is None:
        raise InputError("WarmupLR(warmup_max_lr=None): the rate to rise to is not known. Give warmup_max_lr or base_lr.")
    frame = Frame.over("WarmupLR", (warmup_min_lr, top))
    return frame.rates(_rise("WarmupLR", frame.of(warmup_min_lr), frame.of(top), warmup_num_steps, warmup_type)[1])


def WarmupDecayLR(
    total_num_steps: int, warmup_min_lr: float = 0.0, warmup_max_lr: float = 0.001, warmup_num_steps: int = 1000,
    warmup_type: str = "log", *, base_lr: float | None = None,
) -> Rates:  # fmt: skip
    """`WarmupLR`, then min + (max − min)·max(0, (T − t)/(T − W)): back to the lowest rate.

    Args:
        total_num_steps: T, updates of the run. Where it is not above W, the rise is cut off there, and nothing falls.
        warmup_min_lr: Rate at update 0, and at the end.
        warmup_max_lr: Rate at update W.
        warmup_num_steps: Updates of the rise, at least 1; W is at least 2.
        warmup_type: ``"log"`` or ``"linear"``.
        base_lr: The optimizer's rate, which is overwritten; it has no effect.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "WarmupDecayLR"
    overwritten(call, base_lr)
    total = count(call, "total_num_steps", total_num_steps, least=1)
    frame = Frame.over(call, (warmup_min_lr, warmup_max_lr))
    low, high = frame.of(warmup_min_lr), frame.of(warmup_max_lr)
    steps, rise = _rise(call, low, high, warmup_num_steps, warmup_type)
    return frame.rates(chain(rise, Segment(high, low, total - steps)) if total > steps else rise.cut(0, total))


def WarmupCosineLR(
    base_lr: float, total_num_steps: int, warmup_min_ratio: float = 0.0, warmup_num_steps: int = 1000,
    cos_min_ratio: float = 1e-4, warmup_type: str = "log",
) -> Rates:  # fmt: skip
    """base·(r + (1 − r)·g) up to W, then base·(c + (1 − c)·(1 + cos πu)/2), u = min(1, (t − W + 1)/(T − W)).

    g and W are those of `WarmupLR`.

    Args:
        total_num_steps: T, updates of the run. Where it is not above W, the rise is cut off there.
        warmup_min_ratio: r, the first factor.
        warmup_num_steps: Updates of the rise, at least 1; W is at least 2.
        cos_min_ratio: c, the last factor, at update T − 1.
        warmup_type: ``"log"`` or ``"linear"``.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "WarmupCosineLR"
    total = count(call, "total_num_steps", total_num_steps, least=1)
    low, end = real(call, "warmup_min_ratio", warmup_min_ratio, least=0.0), real(call, "cos_min_ratio", cos_min_ratio, least=0.0)
    steps, rise = _rise(call, low, 1.0, warmup_num_steps, warmup_type)
    fall = way(1.0, end, total - steps, cosine, arrive=True)
    return Rates(chain(rise, fall) if fall else rise.cut(0, total), real(call, "base_lr", base_lr))


def LRRangeTest(
    lr_range_test_min_lr: float = 1e-3, lr_range_test_step_size: int = 2000, lr_range_test_step_rate: float = 1.0,
    lr_range_test_staircase: bool = False, *, base_lr: float | None = None, steps: int | None = None,
) -> Rates:  # fmt: skip
    """value(t) = min·(1 + rate·t/size), t/size rounded down on stairs.

    Args:
        lr_range_test_min_lr: Rate at update 0.
        lr_range_test_step_size: Updates of an interval.
        lr_range_test_step_rate: What an interval adds, in lowest rates, at least 0.
        lr_range_test_staircase: Whether it stays level in between.
        base_lr: The optimizer's rate, which is overwritten; it has no effect.
        steps: Optimizer updates of the test, after which the rate holds; 1,000 intervals where None.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "LRRangeTest"
    overwritten(call, base_lr)
    low = real(call, "lr_range_test_min_lr", lr_range_test_min_lr)
    size = count(call, "lr_range_test_step_size", lr_range_test_step_size, 1)
    rate = real(call, "lr_range_test_step_rate", lr_range_test_step_rate, least=0.0)
    total = _INTERVALS * size if steps is None else count(call, "steps", steps, least=1)
    if not lr_range_test_staircase:
        return Rates(Segment(1.0, 1.0 + rate * (total / size), total), low)
    intervals = -(-total // size)
    stairs = Each(Segment(1.0, 1.0 + rate * intervals, intervals), size)
    return Rates(stairs if stairs.steps == total else stairs.cut(0, total), low)


def OneCycle(
    cycle_min_lr: float, cycle_max_lr: float, decay_lr_rate: float = 0.0, cycle_first_step_size: int = 2000,
    cycle_second_step_size: int | None = None, cycle_first_stair_count: int = 0, cycle_second_stair_count: int | None = None,
    decay_step_size: int = 0, cycle_momentum: bool = True, cycle_min_mom: float = 0.8, cycle_max_mom: float = 0.9,
    decay_mom_rate: float = 0.0, *, quantity: str = "lr", base_lr: float | None = None,
) -> Rates:  # fmt: skip
    """min → max → min in straight lines or on stairs, then min/(1 + decay_lr_rate·k), k = (t − end of the cycle)/decay_step_size.

    The momentum goes the other way, max → min → max, then max·(1 + decay_mom_rate·k), here not beyond 1; its first value is the
    highest, where DeepSpeed's constructor writes the lowest for one update.

    Args:
        cycle_min_lr: Lowest rate.
        cycle_max_lr: Peak.
        decay_lr_rate: How much 1/rate grows every `decay_step_size` updates after the cycle; 0 holds.
        cycle_first_step_size: Updates of the rise.
        cycle_second_step_size: Updates of the fall; as many as of the rise where None; with 0 it drops.
        cycle_first_stair_count: Stairs of the rise; 0 is a straight line.
        cycle_second_stair_count: Stairs of the fall; as many as of the rise where None.
        decay_step_size: Unit of both decays; with 0 there is none.
        quantity: ``"lr"`` or ``"momentum"``.
        base_lr: The optimizer's rate, which is overwritten; it has no effect.

    Raises:
        InputError: If an argument is out of its range, or the momentum of a cycle without one is asked for.
    """
    call = "OneCycle"
    overwritten(call, base_lr)
    first, second = count(call, "cycle_first_step_size", cycle_first_step_size, 1), cycle_second_step_size
    second = first if second is None else count(call, "cycle_second_step_size", second)
    up = count(call, "cycle_first_stair_count", cycle_first_stair_count)
    down = up if cycle_second_stair_count is None else count(call, "cycle_second_stair_count", cycle_second_stair_count)
    every = real(call, "decay_step_size", decay_step_size, least=0.0)
    momentum = choice(call, "quantity", quantity, ("lr", "momentum")) == "momentum"
    if momentum and not cycle_momentum:
        raise InputError(f"{call}(quantity='momentum'): cycle_momentum is False, so there is none. Say cycle_momentum=True.")
    ends = (cycle_max_mom, cycle_min_mom) if momentum else (cycle_min_lr, cycle_max_lr)
    frame = Frame.over(call, ends)
    low, high = frame.of(ends[0]), frame.of(ends[1])
    cycle = chain(_half(low, high, first, up, rising=True), _half(high, low, second, down, rising=False) if second else None)
    rate = real(call, "decay", decay_mom_rate if momentum else decay_lr_rate, least=0.0)
    return frame.rates(chain(cycle, _decay(ends[0], low, rate, every, momentum)))


def _half(start: float, end: float, steps: int, stairs: int, rising: bool) -> Schedule:
    """One half of the cycle; on stairs, its lower end has a whole stair and its upper end one update."""
    if stairs == 0:
        return Segment(start, end, steps)
    levels = [(1.0 - k / stairs) * start + k / stairs * end for k in range(stairs + 1)]
    if rising:
        places = [-(-k * steps // stairs) for k in range(1, stairs + 1)]
        return staircase(places, levels, steps)
    places = [k * steps // stairs + 1 for k in range(stairs)]
    return staircase(places, levels, steps)


def _decay(value: float, factor: float, rate: float, every: float, momentum: bool) -> Schedule:
    """What follows the cycle, from its last value on."""
    if rate == 0 or every == 0 or factor == 0:
        return Hold(factor)
    if not momentum:
        return scaled(Tail(Hyperbolic(rate, 1.0, every)), factor)
    beyond = (1.0 / value - 1.0) / rate * every
    return Points(((0, factor), (beyond, factor / value))) if beyond > 0 else Hold(factor)
