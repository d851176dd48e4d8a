"""lm-engine (open-lm-engine), lm_engine/optimization at af6919045222.

Update 0 has rate 0 where there is a warm-up, update W the peak; phases are W, then constant, then a decay to its end value,
which holds past the end. The result ends with the run or with the decay, whichever is later.

In all: base_lr is the optimizer's rate, the highest. num_warmup_steps is W (0 for none), num_constant_steps the updates at the
peak, num_decay_steps those of the decay (None: to the end of the run), num_training_steps those of the run, lr_decay_factor f,
the factor at the end of the decay; u is the progress of the decay. InputError is raised where a number is out of its range.
"""

from __future__ import annotations

import math

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, count, held, way
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import Easing, Relax, cosine, linear
from lrkit.schedules.parts import Hold, Segment
from lrkit.schedules.tails import Hyperbolic, Tail


def ConstantScheduler(
    base_lr: float, num_warmup_steps: int, num_constant_steps: int, num_decay_steps: int | None, num_training_steps: int,
    lr_decay_factor: float,
) -> Rates:  # fmt: skip
    """base_lr·t/W, then base_lr.

    Args:
        num_decay_steps: Must be 0.
        num_constant_steps: Not read, as is lr_decay_factor.
    """
    del num_constant_steps, lr_decay_factor
    call = "ConstantScheduler"
    if num_decay_steps != 0:
        raise InputError(f"{call}(num_decay_steps={num_decay_steps}): there is no decay. Give 0, or take LinearScheduler.")
    warmup, run = count(call, "num_warmup_steps", num_warmup_steps), count(call, "num_training_steps", num_training_steps, 1)
    return absolute(chain(way(0.0, 1.0, warmup), held(1.0, run - warmup)), base_lr)


def LinearScheduler(
    base_lr: float, num_warmup_steps: int, num_constant_steps: int, num_decay_steps: int | None, num_training_steps: int,
    lr_decay_factor: float,
) -> Rates:  # fmt: skip
    """base_lr·t/W, then base_lr, then base_lr·(1 + (f − 1)·u)."""
    phases = (num_warmup_steps, num_constant_steps, num_decay_steps, num_training_steps)
    return absolute(_phases("LinearScheduler", phases, lr_decay_factor, linear), base_lr)


def CosineScheduler(
    base_lr: float, num_warmup_steps: int, num_constant_steps: int, num_decay_steps: int | None, num_training_steps: int,
    lr_decay_factor: float,
) -> Rates:  # fmt: skip
    """base_lr·t/W, then base_lr, then base_lr·(f + (1 − f)·(1 + cos πu)/2)."""
    phases = (num_warmup_steps, num_constant_steps, num_decay_steps, num_training_steps)
    return absolute(_phases("CosineScheduler", phases, lr_decay_factor, cosine), base_lr)


def ExponentialScheduler(
    base_lr: float, num_warmup_steps: int, num_constant_steps: int, num_decay_steps: int | None, num_training_steps: int,
    lr_decay_factor: float,
) -> Rates:  # fmt: skip
    """base_lr·t/W, then base_lr, then base_lr·(f + (1 − f)·(e^−u − e^−1)/(1 − e^−1)).

    The library goes on along the curve after the decay, below f and down to a negative rate; here f holds.
    """
    phases = (num_warmup_steps, num_constant_steps, num_decay_steps, num_training_steps)
    return absolute(_phases("ExponentialScheduler", phases, lr_decay_factor, Relax(math.exp(-1.0))), base_lr)


def PowerScheduler(
    base_lr: float, num_warmup_steps: int, num_constant_steps: int, num_decay_steps: int | None, num_training_steps: int,
    lr_decay_factor: float, a: float, b: float, c: float,
) -> Rates:  # fmt: skip
    """min(base_lr, a·(c·t)^b) after a rise along a line from 0 to its value at W, for ever (arXiv:2408.13359).

    Without a warm-up the library divides by zero at update 0; here it has base_lr.

    Args:
        base_lr: The optimizer's rate, which the power law never exceeds.
        num_constant_steps: Must be 0.
        num_decay_steps: Not read, for the law has no end; nor are num_training_steps and lr_decay_factor.
        a: Factor of the power law, above 0.
        b: Its power, below 0.
        c: What an update counts, above 0: its tokens or samples.

    Raises:
        InputError: If num_constant_steps is not 0, or a number is out of its range.
    """
    del num_decay_steps, num_training_steps, lr_decay_factor
    call = "PowerScheduler"
    if num_constant_steps != 0:
        raise InputError(f"{call}(num_constant_steps={num_constant_steps}): a power law has no plateau. Give 0.")
    warmup, peak = count(call, "num_warmup_steps", num_warmup_steps), real(call, "base_lr", base_lr, above=0.0)
    level, each = math.log(real(call, "a", a, above=0.0) / peak), math.log(real(call, "c", c, above=0.0))
    power = -real(call, "b", b)
    if power <= 0:
        raise InputError(f"{call}(b={b:g}): the law must fall, so b must be below 0. The paper has -0.51.")
    crossing = level / power - each  # logarithm of the time at which the law falls below the peak
    if crossing > 34.0:  # 6e14 updates
        return absolute(chain(way(0.0, 1.0, warmup), Hold(1.0)), peak)
    start = max(warmup, 1, math.ceil(math.exp(crossing)))
    law = Tail(Hyperbolic(1.0, power, every=start), start=min(1.0, math.exp(level - power * (each + math.log(start)))))
    rise = way(0.0, law.start if start == warmup else 1.0, warmup)
    return absolute(chain(rise, held(1.0, start - warmup), law), peak)


def _phases(call: str, phases: tuple[int, int, int | None, int], end: float, easing: Easing) -> Schedule:
    """Rise, 1, and an easing to `end`; where no update is left for it, a step after the last update at 1."""
    warmup, constant = count(call, "num_warmup_steps", phases[0]), count(call, "num_constant_steps", phases[1])
    run, before = count(call, "num_training_steps", phases[3], 1), warmup + constant
    steps = run - before if phases[2] is None else count(call, "num_decay_steps", phases[2])
    fall = Segment(1.0, end, steps, easing) if steps > 0 else chain(Hold(1.0, 1), Hold(end, 1))
    rest = held(end, run - before - (fall.steps or 0))
    return chain(way(0.0, 1.0, warmup), held(1.0, constant), fall, rest)
