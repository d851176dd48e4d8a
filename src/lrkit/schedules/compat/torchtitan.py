"""torchtitan 0.3.0 (`torchtitan.components.optimizer.lr_scheduler`).

A warm-up arrives: update W − 1 is at the peak. The decay ends one update after the run, so that no update has its end value;
that value holds past the end.
"""

from __future__ import annotations

from lrkit.errors import real
from lrkit.schedules.compat.common import absolute, chain, choice, count, held, way
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import Easing, Power, cosine, linear

_CALL = "LRSchedulersContainer.Config.build"
_DECAYS: dict[str, Easing] = {"linear": linear, "sqrt": Power(0.5), "cosine": cosine}


def build_lr_schedulers(
    base_lr: float, warmup_steps: int = 200, total_steps: int | None = None, decay_ratio: float | None = None,
    decay_type: str = "linear", min_lr_factor: float = 0.0, *, training_steps: int | None = None,
) -> Rates:  # fmt: skip
    """base_lr·(t + 1)/W, then base_lr, then base_lr·(m + (1 − m)·decay((t − T + D)/D)) for the last D updates.

    Args:
        base_lr: The optimizer's rate, the highest.
        warmup_steps: W, cut to T.
        total_steps: T; training_steps where None.
        decay_ratio: Share of T that decays, rounded to updates and cut to T − W; None decays all that is left by the warm-up.
        decay_type: ``"linear"``, ``"sqrt"`` (1 − √u) or ``"cosine"``.
        min_lr_factor: m, the factor past the last update.
        training_steps: Updates of the run; needed where total_steps is None.

    Raises:
        InputError: If a number is out of its range, or the decay type is another.
    """
    name, length = ("training_steps", training_steps) if total_steps is None else ("total_steps", total_steps)
    total = count(_CALL, name, length, 1)
    rise = min(int(real(_CALL, "warmup_steps", warmup_steps, least=0.0)), total)
    fall = total - rise
    if decay_ratio is not None:
        fall = min(fall, round(total * real(_CALL, "decay_ratio", decay_ratio, least=0.0)))
    easing, stable = _DECAYS[choice(_CALL, "decay_type", decay_type, tuple(_DECAYS))], total - rise - fall
    stages = chain(
        way(0.0, 1.0, rise, arrive=True),
        held(1.0, stable),
        way(1.0, min_lr_factor, fall, easing),
    )
    return absolute(stages, base_lr)


class LRSchedulersContainer:
    """The library's class, for its name alone."""

    class Config:
        """The library's configuration, for its name alone."""

        build = staticmethod(build_lr_schedulers)
