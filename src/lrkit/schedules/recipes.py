"""Recipes: the schedules people ask for by name, each one expression over Segment, Hold and Join."""

import lrkit.schedules.easing as shapes
from lrkit.errors import InputError
from lrkit.schedules.base import Hold, Join, Schedule, Segment
from lrkit.schedules.easing import Easing


def warmup(steps: int, start: float = 0.0, end: float = 1.0) -> Segment:
    """value(t) = start + (end − start)·(t + 1)/steps: a straight rise that arrives at its last update.

    Args:
        steps: Optimizer updates, at least 1.
        start: Factor before update 0 (no update has it).
        end: Factor of the last update.

    Raises:
        InputError: If `steps` is below 1 or a factor is negative.

    Examples:
        >>> [warmup(4)(t) for t in range(4)]
        [0.25, 0.5, 0.75, 1.0]
    """
    return Segment(start, end, steps, shapes.linear, arrive=True)


def cosine(steps: int, start: float = 1.0, end: float = 0.0, arrive: bool = False) -> Segment:
    """value(t) = end + (start − end)·(1 + cos(π·t/steps))/2 (arXiv:1608.03983, eq. 5).

    Args:
        steps: Optimizer updates, at least 1.
        start: Factor of update 0.
        end: Factor after the last update, which then holds.
        arrive: Put `end` on the last update instead.

    Raises:
        InputError: If `steps` is below 1 or a factor is negative.

    Examples:
        >>> [round(cosine(4)(t), 4) for t in range(5)]
        [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    return Segment(start, end, steps, shapes.cosine, arrive)


def linear(steps: int, start: float = 1.0, end: float = 0.0, arrive: bool = False) -> Segment:
    """value(t) = start + (end − start)·t/steps.

    Args:
        steps: Optimizer updates, at least 1.
        start: Factor of update 0.
        end: Factor after the last update, which then holds.
        arrive: Put `end` on the last update instead.

    Raises:
        InputError: If `steps` is below 1 or a factor is negative.

    Examples:
        >>> [linear(4)(t) for t in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return Segment(start, end, steps, shapes.linear, arrive)


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
    if total - warmup - decay < 1 or warmup < 0:
        came = f"wsd({total}, warmup={warmup}, decay={decay})"
        raise InputError(f"{came}: warmup and decay must leave at least one update to hold. Shorten them.")
    rise = (Segment(0.0, 1.0, warmup, shapes.linear, arrive=True),) if warmup else ()
    return Join(*rise, Hold(1.0, total - warmup - decay), Segment(1.0, end, decay, shapes.easing(easing)))
