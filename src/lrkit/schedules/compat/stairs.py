"""Powers of one ratio, and stairs from value to value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lrkit.errors import real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain
from lrkit.schedules.parts import Hold
from lrkit.schedules.tails import Geometric, Tail

_CEILING = 1e300  # of what grows for ever: before it becomes infinite


def geometric(
    call: str, name: str, ratio: float, every: float = 1.0, stairs: bool = False, floor: float | None = None
) -> Schedule:
    """ratio^(t/every), or ratio^⌊t/every⌋, for ever; also for the ratios 0 and 1. `floor` is where it stops, if it falls.

    Args:
        call: The constructor, for messages.
        name: The ratio's name there.
        ratio: At least 0.
        every: Updates between two powers, above 0.
        stairs: Whether the power is rounded down.
        floor: Limit of what falls, or of what grows.

    Raises:
        InputError: If the ratio is negative, or `every` not above 0.
    """
    ratio, every = real(call, name, ratio, least=0.0), real(call, "every", every, above=0.0)
    if ratio == 1.0:
        return Hold(1.0)
    if ratio == 0.0:
        return chain(Hold(1.0, math.ceil(every) if stairs else 1), Hold(floor or 0.0))
    return Tail(Geometric(ratio, every, stairs), limit=_CEILING if ratio > 1 and floor is None else floor)


def staircase(places: Sequence[int], values: Sequence[float], steps: int | None = None) -> Schedule:
    """values[k] from places[k − 1] on (the first from 0), up to `steps`; a place that comes twice belongs to its last value.

    Args:
        places: One fewer than values, in order.
        values: Factors.
        steps: Updates in all; None has no end.
    """
    starts = [0, *(max(0, place) for place in places)]
    ends: list[int | None] = [*starts[1:], steps]
    out: list[Hold] = []
    for value, start, end in zip(values, starts, ends, strict=True):
        start, end = (start, end) if steps is None else (min(start, steps), min(steps if end is None else end, steps))
        if end is not None and end <= start:
            continue
        length = None if end is None else end - start
        if out and out[-1].value_held == value and out[-1].steps is not None:
            length = None if length is None else length + out[-1].steps
            out.pop()
        out.append(Hold(value, length))
    return chain(*out)


def drops(call: str, name: str, ratio: float, places: Iterable[int]) -> Schedule:
    """ratio^(how many places are ≤ t), for ever; the places in any order, one that is named twice counts twice.

    Args:
        call: The constructor, for messages.
        name: The ratio's name there.
        ratio: At least 0.
        places: Whole updates.

    Raises:
        InputError: If the ratio is negative.
    """
    ratio, places = real(call, name, ratio, least=0.0), sorted(places)
    return staircase(places, [ratio**k for k in range(len(places) + 1)])
