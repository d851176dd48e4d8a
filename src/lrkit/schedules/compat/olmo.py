"""OLMo-core 3.0.0 (`olmo_core.optim.scheduler`), as rates.

Step t has get_lr(base_lr, t, t_max_of_run). OLMo's trainer counts its updates from 1, so the first one has the value at 1, the
last one that at t_max_of_run: ``schedule[1:]`` is what it does. Past the end the value there holds; the library's turns negative.
Without t_max_of_run a constructor gives a member for `SequentialScheduler`, which has no values until it is placed in a run.

In all: base_lr is the highest rate, above 0. t_max_of_run is the length of the run in updates; t_max, where there is one, is T,
that of the run where None. W is `warmup` in updates (0 for none; `warmup_steps` is its older name), or `warmup_fraction` of T;
D is `decay` in updates, with decay_fraction=None, or `decay_fraction` of the run. warmup_min_lr is the rate at t = 0,
decay_min_lr that at the end of a decay; both lie below the rate at the other end. alpha_f is the factor at T, and past it.
InputError is raised where W or D is given twice or not at all, or a number is out of its range.
"""

from __future__ import annotations

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, held
from lrkit.schedules.compat.olmo_composed import WSDS, ComposableScheduler, SequentialScheduler
from lrkit.schedules.compat.olmo_run import Length, Unplaced, decay_of, placed, rise_of, run_of, until, updates_of
from lrkit.schedules.compose import Between, Rates
from lrkit.schedules.easing import Easing, cosine, exponential, linear
from lrkit.schedules.parts import Hold, Part, Segment
from lrkit.schedules.tails import Hyperbolic, Tail

__all__ = [
    "WSD", "WSDS", "ComposableScheduler", "ConstantScheduler", "ConstantWithWarmup", "CosWithWarmup",
    "CosWithWarmupAndLinearDecay", "ExponentialScheduler", "HalfCosWithWarmup", "InvSqrtWithWarmup", "LinearWithWarmup",
    "PowerLR", "SequentialScheduler", "Unplaced",
]  # fmt: skip


@placed
def ConstantScheduler(base_lr: float, *, t_max_of_run: int | None = None) -> Rates:
    """base_lr."""
    return absolute(Hold(1.0, run_of("ConstantScheduler", t_max_of_run)), base_lr)


@placed
def ConstantWithWarmup(
    base_lr: float, *, warmup: int | None = None, warmup_steps: int | None = None, warmup_fraction: float | None = None,
    warmup_min_lr: float = 0.0, t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """warmup_min_lr + (base_lr − warmup_min_lr)·t/W, then base_lr."""
    call, run = "ConstantWithWarmup", run_of("ConstantWithWarmup", t_max_of_run)
    warm = updates_of(call, "warmup", (warmup, warmup_steps, warmup_fraction), run)
    return absolute(until(chain(rise_of(call, warm, warmup_min_lr, base_lr), Hold(1.0, 1)), run), base_lr)


@placed
def WSD(
    base_lr: float, *, warmup: int | None = None, warmup_steps: int | None = None, warmup_fraction: float | None = None,
    decay: int | None = None, decay_steps: int | None = None, decay_fraction: float | None = 0.1, warmup_min_lr: float = 0.0,
    decay_min_lr: float = 0.0, t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """A line up in W updates, base_lr, and in the last D updates decay_min_lr + (base_lr − decay_min_lr)·(T − t)/D.

    A decay that is planned to begin during the warm-up waits for its end. With D = 0 the library divides by zero at T; here
    base_lr holds.
    """
    call, run = "WSD", run_of("WSD", t_max_of_run)
    warm = updates_of(call, "warmup", (warmup, warmup_steps, warmup_fraction), run)
    fall = updates_of(call, "decay", (decay, decay_steps, decay_fraction), run)
    rise, stable = rise_of(call, warm, warmup_min_lr, base_lr), run - fall - warm
    line = decay_of(call, 1.0, decay_min_lr, base_lr, fall)
    if warm >= run:
        return absolute(until(chain(rise, Hold(1.0, 1)), run), base_lr)
    if line and stable < 0:  # the warm-up owns its end
        line = Part(line, 1 - stable, fall) if warm + 1 < run else Hold(line.end_value, 1)
        return absolute(until(chain(rise, Hold(1.0, 1), line), run), base_lr)
    return absolute(chain(rise, held(1.0, stable), line), base_lr)


@placed
def PowerLR(
    base_lr: float, *, b: float = -0.51, warmup: int | None = None, warmup_steps: int | None = None,
    warmup_fraction: float | None = None, warmup_min_lr: float = 0.0, decay: int | None = None, decay_steps: int | None = None,
    decay_fraction: float | None = 0.1, decay_min_lr: float = 0.0, t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """A line up in W updates, base_lr·(t/W)^b, and a line to decay_min_lr in the last D updates.

    Where the decay would begin during the warm-up, the library jumps above base_lr; here that is refused. With D = 0 it divides
    by zero at T; here the power law goes on to T.

    Args:
        b: Power, below 0.
        decay_min_lr: Rate at T, below where the decay starts.

    Raises:
        InputError: If W or D is not given once, they do not fit into the run, or a number is out of its range.
    """
    call, run = "PowerLR", run_of("PowerLR", t_max_of_run)
    warm = updates_of(call, "warmup", (warmup, warmup_steps, warmup_fraction), run)
    fall = updates_of(call, "decay", (decay, decay_steps, decay_fraction), run)
    if real(call, "b", b) >= 0:
        raise InputError(f"{call}(b={b:g}): the law must fall, so b must be below 0. The paper has -0.51.")
    steps = run - fall - warm
    if warm < 1 or steps < 0:
        came = f"{call}(warmup={warm}, decay={fall}, t_max_of_run={run})"
        raise InputError(f"{came}: the warm-up needs an update, and must end before the decay. Change one of them.")
    law = Tail(Hyperbolic(1.0, -b, every=warm), steps=steps) if steps else None
    line = decay_of(call, law.end_value if law else 1.0, decay_min_lr, base_lr, fall)
    return absolute(chain(rise_of(call, warm, warmup_min_lr, base_lr), law, line), base_lr)


@placed
def LinearWithWarmup(
    base_lr: float, *, alpha_f: float = 0.1, t_max: int | None = None, warmup: int | None = None, warmup_steps: int | None = None,
    warmup_fraction: float | None = None, warmup_min_lr: float = 0.0, t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """A line up in W updates, then base_lr·(1 − (1 − alpha_f)·(t − W)/(T − W))."""
    call, given = "LinearWithWarmup", (warmup, warmup_steps, warmup_fraction)
    return absolute(_fall(call, linear, base_lr, (alpha_f, warmup_min_lr), (t_max, t_max_of_run), given), base_lr)


@placed
def InvSqrtWithWarmup(
    base_lr: float, *, alpha_f: float = 0.1, warmup: int | None = None, warmup_steps: int | None = None,
    warmup_fraction: float | None = None, warmup_min_lr: float = 0.0, t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """A line up in W updates, then base_lr·(alpha_f + (1 − alpha_f)·√(W/t)).

    With W = 0 that is base_lr·alpha_f throughout, and the library divides by zero at t = 0.

    Args:
        alpha_f: Factor that it tends to, in [0, 1].
    """
    call, run = "InvSqrtWithWarmup", run_of("InvSqrtWithWarmup", t_max_of_run)
    warm = updates_of(call, "warmup", (warmup, warmup_steps, warmup_fraction), run)
    if warm < 1:  # the warm-up is the time scale of the decay, too
        return absolute(Hold(alpha_f, run), base_lr)
    tail = Between(alpha_f, 1.0, Tail(Hyperbolic(1.0, 0.5, every=warm), steps=max(1, run - warm)))
    return absolute(until(chain(rise_of(call, warm, warmup_min_lr, base_lr), tail), run), base_lr)


@placed
def CosWithWarmup(
    base_lr: float, *, warmup: int | None = None, warmup_steps: int | None = None, warmup_fraction: float | None = None,
    alpha_f: float = 0.1, t_max: int | None = None, warmup_min_lr: float = 0.0, t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """A line up in W updates, then base_lr·(alpha_f + (1 − alpha_f)·(1 + cos(π·(t − W)/(T − W)))/2)."""
    call, given = "CosWithWarmup", (warmup, warmup_steps, warmup_fraction)
    return absolute(_fall(call, cosine, base_lr, (alpha_f, warmup_min_lr), (t_max, t_max_of_run), given), base_lr)


@placed
def HalfCosWithWarmup(
    base_lr: float, *, warmup: int | None = None, warmup_steps: int | None = None, warmup_fraction: float | None = None,
    alpha_f: float = 0.1, t_max: int | None = None, warmup_min_lr: float = 0.0, t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """The second half of a cosine alone: a line up to base_lr·(1 + alpha_f)/2 in W updates, then down to base_lr·alpha_f.

    Args:
        base_lr: The highest rate of the whole cosine, above 0.
    """
    call, given = "HalfCosWithWarmup", (warmup, warmup_steps, warmup_fraction)
    return absolute(_fall(call, None, base_lr, (alpha_f, warmup_min_lr), (t_max, t_max_of_run), given), base_lr)


@placed
def CosWithWarmupAndLinearDecay(
    base_lr: float, *, warmup: int | None = None, warmup_steps: int | None = None, warmup_fraction: float | None = None,
    alpha_f: float = 0.1, t_max: int | None = None, warmup_min_lr: float = 0.0, decay: int | None = None,
    decay_steps: int | None = None, decay_fraction: float | None = 0.1, decay_min_lr: float = 0.0,
    t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """`CosWithWarmup`, cut short by a line to decay_min_lr in the last D updates of the run.

    With D = 0 the library divides by zero at the end of the run; here it is the cosine alone.
    """
    call, given = "CosWithWarmupAndLinearDecay", (warmup, warmup_steps, warmup_fraction)
    wave = _fall(call, cosine, base_lr, (alpha_f, warmup_min_lr), (t_max, t_max_of_run), given)
    run = run_of(call, t_max_of_run)
    fall = updates_of(call, "decay", (decay, decay_steps, decay_fraction), run)
    if fall > run:
        raise InputError(f"{call}(decay={fall}, t_max_of_run={run}): the decay is longer than the run. Shorten it.")
    line = decay_of(call, wave(run - fall), decay_min_lr, base_lr, fall)
    return absolute(chain(until(wave, run - fall) if fall < run else None, line), base_lr)


@placed
def ExponentialScheduler(base_lr: float, *, lr_min: float = 1e-9, t_max_of_run: int | None = None) -> Rates:
    """lr_min·(base_lr/lr_min)^(t/T): a rate that grows, for finding one.

    Args:
        base_lr: Rate at T, above 0.
        lr_min: Rate at t = 0, above 0.
        t_max_of_run: T, updates of the run.
    """
    call = "ExponentialScheduler"
    low = real(call, "lr_min", lr_min, above=0.0) / real(call, "base_lr", base_lr, above=0.0)
    return absolute(Segment(low, 1.0, run_of(call, t_max_of_run), exponential), base_lr)


def _fall(
    call: str, easing: Easing | None, base: float, levels: tuple[float, float], ends: tuple[int | None, int | None],
    given: Length,
) -> Schedule:  # fmt: skip
    """A rise and a fall to the factor alpha_f, as long as the run; easing None is the second half of a cosine."""
    alpha = real(call, "alpha_f", levels[0], least=0.0)
    run = run_of(call, ends[1])
    total = run if ends[0] is None else run_of(call, ends[0])
    warm = updates_of(call, "warmup", given, total)
    peak = 1.0 if easing else alpha + (1.0 - alpha) / 2.0
    rise, steps = rise_of(call, warm, levels[1], base, peak), total - warm
    if steps < 1:  # alpha_f comes where the warm-up ends
        return until(chain(rise, Hold(alpha, 1)), run)
    fall = Segment(1.0, alpha, steps, easing) if easing else Part(Segment(1.0, alpha, 2 * steps, cosine), steps, 2 * steps)
    return until(chain(rise, fall), run)
