"""LLM Foundry 0.22.0's scheduler, as rates: a multiplier of `base_lr`, which is 1 where it is not given.

Times and conventions are Composer's (see `compat.composer`): t counts the batches done, a boundary belongs to the new piece, and
past the end the end value holds.
"""

from __future__ import annotations

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain
from lrkit.schedules.compat.composer_time import Clock
from lrkit.schedules.compose import Between, Rates
from lrkit.schedules.parts import Hold, Segment
from lrkit.schedules.tails import Hyperbolic, Tail

__all__ = ["InverseSquareRootWithWarmupScheduler"]


def InverseSquareRootWithWarmupScheduler(
    t_warmup: str, t_scale: str, t_cooldown: str, t_max: str = "1dur", alpha_f_decay: float = 0.0, alpha_f_cooldown: float = 0.0,
    *, max_duration: str, steps_per_epoch: int | None = None, ssr: float = 1.0, base_lr: float = 1.0,
) -> Rates:  # fmt: skip
    """t/W, then a_d + (1 − a_d)/√((t − W + t_scale)/t_scale), then a line to a_c from max(t_max − t_cooldown, W) on.

    Args:
        t_warmup: W, length of the rise, which `ssr` does not scale.
        t_scale: Time scale of the decay.
        t_cooldown: Length of the line; 0 for none. It keeps its length where it is pushed back to W.
        t_max: End of the line.
        alpha_f_decay: a_d, what the decay tends to.
        alpha_f_cooldown: a_c, where the line ends, at most `alpha_f_decay`.
        max_duration: Length of the run, in the unit of the first three.

    Raises:
        InputError: If a time is out of its range or of another unit, or the line would end above the decay.
    """
    clock = Clock("InverseSquareRootWithWarmupScheduler", max_duration, steps_per_epoch, ssr)
    for name, time in (("t_warmup", t_warmup), ("t_scale", t_scale), ("t_cooldown", t_cooldown)):
        if clock.unit(name, time) != clock.unit("max_duration", max_duration):
            came = f"{clock.call}({name}={time!r}, max_duration={max_duration!r})"
            raise InputError(f"{came}: both must have the same unit. Write both in ba or both in ep.")
    low, end = real(clock.call, "alpha_f_decay", alpha_f_decay, least=0.0), real(clock.call, "alpha_f_cooldown", alpha_f_cooldown)
    if low < end:
        came = f"{clock.call}(alpha_f_decay={low:g}, alpha_f_cooldown={end:g})"
        raise InputError(f"{came}: the cool-down must not end above what the decay tends to. Lower alpha_f_cooldown.")
    warmup, scale = clock.batches("t_warmup", t_warmup, scale=False), clock.batches("t_scale", t_scale, least=1)
    cooldown = clock.batches("t_cooldown", t_cooldown)
    steps = max(clock.batches("t_max", t_max) - cooldown - warmup, 0)
    decay: Schedule = Tail(Hyperbolic(1.0, 0.5, scale), steps=steps or None)
    decay = Between(low, 1.0, decay) if low else decay
    last = decay(steps)
    line = Segment(last, end, cooldown) if cooldown else Hold(last, 1) if not steps else None
    return absolute(chain(clock.rise(t_warmup, 1.0), decay if steps else None, line), base_lr)
