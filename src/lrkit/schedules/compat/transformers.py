"""transformers 5.23's schedules (`transformers.optimization`), as rates.

All are LambdaLRs: the value at t is in force for update t, so that the first update of a warm-up has rate 0, and t = W the peak,
unless said otherwise. A boundary belongs to the new piece. Past the end the value at T holds, where the cosines climb again.

W = num_warmup_steps, T = num_training_steps, p = (t − W)/(T − W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, exactly, held, poly, way
from lrkit.schedules.compat.torch import ReduceLROnPlateau
from lrkit.schedules.compat.transformers_greedy import GreedyLR, get_greedy_schedule
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import Polynomial, Power, cosine, linear
from lrkit.schedules.parts import Hold, Part, Segment
from lrkit.schedules.points import Points
from lrkit.schedules.tails import Hyperbolic, Tail

__all__ = [
    "GreedyLR", "get_constant_schedule", "get_constant_schedule_with_warmup", "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup", "get_cosine_with_min_lr_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate", "get_greedy_schedule", "get_inverse_sqrt_schedule",
    "get_linear_schedule_with_warmup", "get_polynomial_decay_schedule_with_warmup", "get_reduce_on_plateau_schedule",
    "get_scheduler", "get_wsd_schedule",
]  # fmt: skip


def _rise(call: str, warmup: int) -> Segment | None:
    """t/W."""
    return way(0.0, 1.0, count(call, "num_warmup_steps", warmup))


def _left(call: str, warmup: int, total: int) -> int:
    """T − W, at most 0 where the warm-up fills the run."""
    return count(call, "num_training_steps", total, 1) - count(call, "num_warmup_steps", warmup)


def _filled(rise: Schedule | None, after: Schedule, total: int) -> Schedule:
    """A run that is all warm-up: it ends on the way where the warm-up is longer, and else at the first value after it."""
    return Part(chain(rise, after), 0, total)


def _half_waves(steps: int, waves: float, end: float) -> Schedule:
    """end + (1 − end)·(1 + cos(π·waves·t/steps))/2, cut off at `steps`."""
    if waves == 1:
        return Segment(1.0, end, steps, cosine)
    if waves == 0:
        return Hold(1.0, steps)
    points: list[tuple[float, float]] = [(0.0, 1.0)]
    while points[-1][0] < steps:
        points.append((len(points) * steps / waves, end if len(points) % 2 else 1.0))
    return exactly(Points(tuple(points), cosine), steps)


def _half_count(call: str, num_cycles: float) -> float:
    """How many half waves; a cosine is the same for a negative number."""
    return abs(2.0 * real(call, "num_cycles", num_cycles))


def get_constant_schedule(base_lr: float) -> Rates:
    """value(t) = base, for ever."""
    return absolute(Hold(1.0), base_lr)


def get_constant_schedule_with_warmup(base_lr: float, num_warmup_steps: int) -> Rates:
    """value(t) = base·min(1, t/W), for ever."""
    return absolute(chain(_rise("get_constant_schedule_with_warmup", num_warmup_steps), Hold(1.0)), base_lr)


def get_linear_schedule_with_warmup(base_lr: float, num_warmup_steps: int, num_training_steps: int) -> Rates:
    """value(t) = base·t/W, then base·(1 − p); then 0."""
    call = "get_linear_schedule_with_warmup"
    rise, left = _rise(call, num_warmup_steps), _left(call, num_warmup_steps, num_training_steps)
    if left < 1:
        return absolute(_filled(rise, Hold(0.0), num_training_steps), base_lr)
    return absolute(chain(rise, Segment(1.0, 0.0, left)), base_lr)


def get_cosine_schedule_with_warmup(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> Rates:
    """value(t) = base·t/W, then base·(1 + cos(2π·num_cycles·p))/2; then the value at T.

    Args:
        base_lr: The optimizer's rate.
        num_cycles: Whole waves; a half is one fall.
    """
    call = "get_cosine_schedule_with_warmup"
    return _cosine(call, base_lr, num_warmup_steps, num_training_steps, num_cycles, 0.0)


def _cosine(call: str, base_lr: float, warmup: int, total: int, num_cycles: float, end: float) -> Rates:
    rise, left = _rise(call, warmup), _left(call, warmup, total)
    fall = _half_waves(max(1, left), _half_count(call, num_cycles), end)
    return absolute(chain(rise, fall) if left >= 1 else _filled(rise, fall, total), base_lr)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 1
) -> Rates:
    """value(t) = base·t/W, then base·(1 + cos(π·(num_cycles·p mod 1)))/2; 0 from T on.

    Where rounding makes the library miss a restart by one update, this one does not.

    Args:
        base_lr: The optimizer's rate.
        num_cycles: Falls, at least 0; a fraction cuts the last one off.

    Raises:
        InputError: If `num_cycles` is negative.
    """
    call = "get_cosine_with_hard_restarts_schedule_with_warmup"
    rise, left = _rise(call, num_warmup_steps), _left(call, num_warmup_steps, num_training_steps)
    falling = real(call, "num_cycles", num_cycles, least=0.0)
    if left < 1:
        return absolute(_filled(rise, Hold(0.0), num_training_steps), base_lr)
    if falling in (0, 1):
        falls: Schedule = Segment(1.0, 0.0, left, cosine) if falling else Hold(1.0, left)
    else:
        points: list[tuple[float, float]] = []
        while not points or points[-1][0] < left:
            k = len(points) // 2
            points += [(k * left / falling, 1.0), ((k + 1) * left / falling, 0.0)]
        falls = exactly(Points(tuple(points), cosine), left)
    if falling == int(falling) and falling:
        return absolute(chain(rise, falls), base_lr)
    return absolute(exactly(chain(rise, falls, Hold(0.0)), num_training_steps), base_lr)


def get_polynomial_decay_schedule_with_warmup(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, lr_end: float = 1e-7, power: float = 1.0
) -> Rates:
    """value(t) = base·t/W, then lr_end + (base − lr_end)·(1 − p)^power; then lr_end.

    Args:
        base_lr: The optimizer's rate, above `lr_end`.
        lr_end: A rate, not a factor.
        power: At least 0.

    Raises:
        InputError: If `base_lr` is not above `lr_end`.
    """
    call = "get_polynomial_decay_schedule_with_warmup"
    rise, left = _rise(call, num_warmup_steps), _left(call, num_warmup_steps, num_training_steps)
    end = real(call, "lr_end", lr_end, least=0.0) / real(call, "base_lr", base_lr, above=0.0)
    if end >= 1:
        raise InputError(f"{call}(base_lr={base_lr:g}, lr_end={lr_end:g}): lr_end must be below base_lr. It is a rate.")
    if left < 1:
        return absolute(_filled(rise, Hold(end), num_training_steps), base_lr)
    if power == 0:
        return absolute(exactly(chain(rise, Hold(1.0, left), Hold(end)), num_training_steps), base_lr)
    return absolute(chain(rise, Segment(1.0, end, left, poly(power))), base_lr)


def get_inverse_sqrt_schedule(base_lr: float, num_warmup_steps: int, timescale: int | None = None) -> Rates:
    """value(t) = base·t/W, then base/√(1 + (t − W)/timescale), for ever.

    Args:
        base_lr: The optimizer's rate.
        timescale: Above 0; W where None, and 10,000 where that is 0.
    """
    call = "get_inverse_sqrt_schedule"
    rise = _rise(call, num_warmup_steps)
    every = (num_warmup_steps or 10_000) if timescale is None else real(call, "timescale", timescale, above=0.0)
    return absolute(chain(rise, Tail(Hyperbolic(1.0, 0.5, every))), base_lr)


def _floor(call: str, base_lr: float, min_lr: float | None, min_lr_rate: float | None) -> float:
    """The floor as a factor: exactly one of the two is given."""
    if (min_lr is None) == (min_lr_rate is None):
        raise InputError(f"{call}(min_lr={min_lr}, min_lr_rate={min_lr_rate}): it is a rate or a factor. Give one of them.")
    if min_lr is None:
        return real(call, "min_lr_rate", min_lr_rate, least=0.0)
    return real(call, "min_lr", min_lr, least=0.0) / real(call, "base_lr", base_lr, above=0.0)


def get_cosine_with_min_lr_schedule_with_warmup(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Rates:  # fmt: skip
    """value(t) = base·t/W, then base·(m + (1 − m)·(1 + cos(2π·num_cycles·p))/2), m = min_lr_rate; then the value at T.

    Args:
        base_lr: The optimizer's rate.
        num_cycles: Whole waves; a half is one fall.
        min_lr: The floor as a rate, or
        min_lr_rate: as a factor of the base. The warm-up begins at 0 all the same.

    Raises:
        InputError: If there is no floor, or two.
    """
    call = "get_cosine_with_min_lr_schedule_with_warmup"
    floor = _floor(call, base_lr, min_lr, min_lr_rate)
    return _cosine(call, base_lr, num_warmup_steps, num_training_steps, num_cycles, floor)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, min_lr: float | None = None,
    min_lr_rate: float | None = None, warmup_lr_rate: float | None = None,
) -> Rates:  # fmt: skip
    """value(t) = base·(t + 1)/W, then base·(m + (1 − m)·(1 + cos(2π·num_cycles·q))/2), q = (t − W + 1)/(T − W), m = min_lr_rate.

    The last update of the warm-up has the peak, the last of the run the floor.

    Args:
        base_lr: The optimizer's rate.
        num_cycles: Whole waves; a half is one fall.
        min_lr: The floor as a rate, or
        min_lr_rate: as a factor of the base.
        warmup_lr_rate: Factor of the first update; 1/W where None.

    Raises:
        InputError: If there is no floor, or two.
    """
    call = "get_cosine_with_min_lr_schedule_with_warmup_lr_rate"
    floor, left = _floor(call, base_lr, min_lr, min_lr_rate), _left(call, num_warmup_steps, num_training_steps)
    rise: Schedule | None = None
    if num_warmup_steps and warmup_lr_rate is None:
        rise = Segment(0.0, 1.0, num_warmup_steps, arrive=True)
    elif num_warmup_steps:
        first = real(call, "warmup_lr_rate", warmup_lr_rate, least=0.0)
        rise = chain(Hold(first, 1), way(first, 1.0, num_warmup_steps - 1, arrive=True))
    steps, waves = max(1, left), _half_count(call, num_cycles)
    if waves == 1:
        fall: Schedule = Segment(1.0, floor, steps, cosine, arrive=True)
    else:
        fall = Part(_half_waves(steps, waves, floor), 1, steps + 1)
    return absolute(chain(rise, fall) if left >= 1 else _filled(rise, fall, num_training_steps), base_lr)


def get_wsd_schedule(
    base_lr: float, num_warmup_steps: int, num_decay_steps: int, num_training_steps: int | None = None,
    num_stable_steps: int | None = None, warmup_type: str = "linear", decay_type: str = "cosine", min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Rates:  # fmt: skip
    """From base·m to base in W updates, base for S updates, back to base·m in D; m = min_lr_ratio, S = T − W − D where not given.

    Args:
        base_lr: The optimizer's rate.
        num_decay_steps: D. Where W + D is above T, the fall has begun before the warm-up is over.
        num_stable_steps: S; it overrides `num_training_steps`.
        warmup_type: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``: 1 − √(1 − u).
        decay_type: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``: 1 − √u.
        num_cycles: Whole waves of the cosine; a half is one fall.

    Raises:
        InputError: If a type is another, or there is no length.
    """
    call = "get_wsd_schedule"
    kinds = ("linear", "cosine", "1-sqrt")
    warm, decay = choice(call, "warmup_type", warmup_type, kinds), choice(call, "decay_type", decay_type, kinds)
    rise_steps = count(call, "num_warmup_steps", num_warmup_steps)
    fall_steps = count(call, "num_decay_steps", num_decay_steps)
    floor = real(call, "min_lr_ratio", min_lr_ratio, least=0.0)
    if num_stable_steps is not None:
        stable = count(call, "num_stable_steps", num_stable_steps)
    elif num_training_steps is None:
        raise InputError(f"{call}(num_training_steps=None): the run needs a length. Give num_training_steps or num_stable_steps.")
    else:
        stable = count(call, "num_training_steps", num_training_steps, 1) - rise_steps - fall_steps
    easings = {"linear": linear, "cosine": cosine, "1-sqrt": Polynomial(0.5)}
    rise = way(floor, 1.0, rise_steps, easings[warm])
    fall: Schedule | None = None
    if fall_steps and stable + fall_steps > 0:
        if decay == "cosine":
            fall = _half_waves(fall_steps, _half_count(call, num_cycles), floor)
        else:
            fall = Segment(1.0, floor, fall_steps, linear if decay == "linear" else Power(0.5))
        fall = fall.cut(-stable, fall_steps) if stable < 0 else fall
    total = rise_steps + stable + fall_steps
    curve = [rise, held(1.0, stable), fall]
    if fall is not None and fall.end_value == floor:
        return absolute(chain(*curve), base_lr)
    ended = chain(*curve, Hold(floor))
    return absolute(exactly(ended, total) if total else ended, base_lr)


def get_reduce_on_plateau_schedule(base_lr: float, *, metrics: Sequence[float], **kwargs: Any) -> Rates:
    """value(i) = the rate after metric i, by torch's ReduceLROnPlateau, whose arguments it takes."""
    return ReduceLROnPlateau(base_lr, metrics=metrics, **kwargs)


_BY_NAME = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "cosine_with_restarts": get_cosine_with_hard_restarts_schedule_with_warmup,
    "polynomial": get_polynomial_decay_schedule_with_warmup,
    "constant": get_constant_schedule,
    "constant_with_warmup": get_constant_schedule_with_warmup,
    "inverse_sqrt": get_inverse_sqrt_schedule,
    "reduce_lr_on_plateau": get_reduce_on_plateau_schedule,
    "cosine_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup,
    "cosine_warmup_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    "warmup_stable_decay": get_wsd_schedule,
    "greedy": get_greedy_schedule,
}


def get_scheduler(
    name: str, base_lr: float, num_warmup_steps: int | None = None, num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None, *, metrics: Sequence[float] | None = None,
) -> Rates:  # fmt: skip
    """The schedule of that `lr_scheduler_type`, for the warm-up and the length of the run.

    Args:
        name: ``"linear"``, ``"cosine"``, ``"warmup_stable_decay"``, …
        base_lr: The optimizer's rate.
        scheduler_specific_kwargs: Further arguments of that schedule.
        metrics: What was seen, for ``"reduce_lr_on_plateau"`` and ``"greedy"``.

    Raises:
        InputError: If there is none of that name, or it needs a number that was not given.
    """
    call = "get_scheduler"
    make: Any = _BY_NAME[choice(call, "name", name, tuple(_BY_NAME))]
    given = dict(scheduler_specific_kwargs or {})
    if name == "constant":
        return get_constant_schedule(base_lr)
    if name in ("reduce_lr_on_plateau", "greedy"):
        if metrics is None:
            raise InputError(f"{call}({name!r}): it goes by what was seen. Give metrics=[…].")
        given["metrics"] = metrics
    elif num_warmup_steps is None:
        raise InputError(f"{call}({name!r}): it needs num_warmup_steps. Give 0 for none.")
    else:
        given["num_warmup_steps"] = num_warmup_steps
    if name not in ("reduce_lr_on_plateau", "greedy", "constant_with_warmup", "inverse_sqrt"):
        if num_training_steps is None and name != "warmup_stable_decay":
            raise InputError(f"{call}({name!r}): it needs num_training_steps. Give the updates of the whole run.")
        given["num_training_steps"] = num_training_steps
    made: Rates = make(base_lr, **given)
    return made
