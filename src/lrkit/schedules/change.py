"""Changing a schedule in mid-run: a piece of it, another tail, another horizon. What was before stays the same to the bit.

It does so by construction: the past is asked of the same objects, at the same steps, in the same way.
"""

from __future__ import annotations

import operator
from typing import Any

from lrkit.errors import InputError, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.clock import Clock
from lrkit.schedules.compose import Rates, Times
from lrkit.schedules.easing import number_text
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.template import Template
from lrkit.schedules.text import template_of

_UPDATES = "a whole number of updates"
_Units = tuple[int | None, float | None, float | None]  # updates of an epoch, tokens and samples of an update


def part_of(schedule: Schedule, part: slice) -> Schedule:
    """`schedule[a:b]`.

    Raises:
        InputError: If it is not a slice with 0 ≤ a < b.
    """
    if not isinstance(part, slice) or part.step is not None:
        raise InputError(f"schedule[{part!r}]: take a piece, schedule[a:b]; for one value call it, schedule(a).")
    try:
        start = 0 if part.start is None else operator.index(part.start)
        stop = schedule.steps if part.stop is None else operator.index(part.stop)
    except TypeError:
        raise InputError(f"schedule[{part.start!r}:{part.stop!r}]: steps must be whole numbers.") from None
    if start < 0 or (stop is not None and stop <= start):
        raise InputError(f"schedule[{start}:{stop}]: a piece has at least one step. Choose 0 ≤ a < b.")
    return schedule if start == 0 and stop == schedule.steps else schedule.cut(start, stop)


def branch(schedule: Schedule, step: int, tail: str | Schedule | Template, units: _Units) -> Schedule:
    """`schedule.branch(step, tail)`; see there."""
    step = whole("branch", "step", step, 1, what=_UPDATES)
    factors = schedule.schedule if isinstance(schedule, Rates) else schedule
    level = factors(step)
    built = _built(template_of(tail) if isinstance(tail, str) else tail, schedule, step, level, units)
    built = _without_base(schedule, built)
    if not isinstance(tail, Schedule) and abs(built.start_value - level) > 1e-12 * max(level, built.start_value):
        came = f"comes from {number_text(built.start_value)}, the schedule is at {number_text(level)}: the rate would jump"
        raise InputError(f"branch: the tail {str(tail)!r} {came}. Leave out what sets its start.")
    joined = Join(part_of(factors, slice(0, step)), _from_level(built, level))
    return Rates(joined, schedule.base, schedule.origin) if isinstance(schedule, Rates) else joined


def _built(tail: Any, schedule: Schedule, step: int, level: float, units: _Units) -> Schedule:
    """The tail as a schedule: a template starts at the level, and may take what is left of the run."""
    if isinstance(tail, Schedule):
        return tail
    if not isinstance(tail, Template):
        raise InputError(f"branch(tail={tail!r}): must be a text or a Schedule, e.g. 'linear 1000'.")
    total = schedule.steps if "total" in tail.needs else None
    if total is not None and total <= step:
        raise InputError(
            f"branch(step={step}): nothing is left of the schedule's {total} updates. Give {str(tail)!r} a duration."
        )
    return tail.build(Clock(total, *units), level, done=step)


def _without_base(schedule: Schedule, tail: Schedule) -> Schedule:
    """A tail of absolute values, in the factors of the schedule that it continues."""
    if not isinstance(tail, Rates):
        return tail
    if not isinstance(schedule, Rates):
        raise InputError(f"branch: the tail {str(tail)!r} is absolute, the schedule gives factors. Leave out its base.")
    if tail.origin != schedule.origin or schedule.base == 0:
        raise InputError("branch: the two schedules' absolute values have different origins. Give the tail as a text.")
    return tail.schedule if tail.base == schedule.base else Times(Hold(tail.base / schedule.base), tail.schedule)


def _from_level(tail: Schedule, level: float) -> Schedule:
    """The tail, scaled so that it comes from `level`."""
    start = tail.start_value
    if abs(start - level) <= 1e-12 * max(start, level):
        return tail
    if start <= 0:
        raise InputError(
            f"branch: the tail {str(tail)!r} comes from 0, the schedule is at {number_text(level)}: the rate would jump. Give a "
            "text, which starts where the schedule is; for a jump on purpose say Join(schedule[:step], tail)."
        )
    factor = level / start
    if isinstance(tail, Segment) and factor > 0:
        return Segment(level, tail.end * factor, tail.steps, tail.easing, tail.arrive)
    return Times(Hold(factor), tail)


def extend(schedule: Schedule, step: int, total: int) -> Schedule:
    """`schedule.extend(step, total)`; see there."""
    step, total = whole("extend", "step", step, 1, what=_UPDATES), whole("extend", "total", total, 1, what=_UPDATES)
    if isinstance(schedule, Rates):
        return Rates(extend(schedule.schedule, step, total), schedule.base, schedule.origin)
    if schedule.steps is None:
        raise InputError(f"extend(step={step}, total={total}): {schedule} has no end that could be moved. Use branch.")
    if step >= schedule.steps:
        came = f"extend(step={step}, total={total})"
        raise InputError(f"{came}: the schedule was over at step {schedule.steps}, its last value holds. Use branch.")
    if total <= step:
        raise InputError(f"extend(step={step}, total={total}): {step} updates are done, so total must be above that.")
    if total == schedule.steps:
        return schedule
    rest = part_of(schedule, slice(step, None))
    return Join(part_of(schedule, slice(0, step)), _resized(rest, total - step))


def _resized(rest: Schedule, steps: int) -> Schedule:
    """The rest of a schedule in another number of steps: what holds gives way, else everything but warm-ups does."""
    stages = list(rest.stages) if isinstance(rest, Join) else [rest]
    lengths = [stage.steps or 0 for stage in stages]
    change = steps - sum(lengths)
    holds = [i for i, stage in enumerate(stages) if isinstance(stage, Hold) and stage.value_held > 0]
    longest = max(holds, key=lambda i: lengths[i], default=None)
    if longest is not None and lengths[longest] + change >= 1:
        stages[longest] = Hold(stages[longest].end_value, lengths[longest] + change)
        return Join(*stages)
    moved = [i for i, stage in enumerate(stages) if not _rises(stage)]
    room = steps - sum(n for i, n in enumerate(lengths) if i not in moved)
    if not moved or room < len(moved):
        return _stretched(rest, steps)  # nothing but a warm-up, or no room beside it
    old, done, given = sum(lengths[i] for i in moved), 0, 0
    for n, i in enumerate(moved):
        done += lengths[i]
        share = max(1, min(round(done * room / old) - given, room - given - (len(moved) - 1 - n)))
        given += share
        stages[i] = _stretched(stages[i], share)
    return Join(*stages)


def _rises(stage: Schedule) -> bool:
    return isinstance(stage, Segment) and stage.arrive and stage.end > stage.start


def _stretched(stage: Schedule, steps: int) -> Schedule:
    """The same values in another number of steps."""
    if isinstance(stage, Hold):
        return Hold(stage.value_held, steps)
    if isinstance(stage, Segment) and not stage.arrive:
        return Segment(stage.start, stage.end, steps, stage.easing)
    if isinstance(stage, Part):
        return Part(stage.whole, stage.start, stage.stop, steps)
    return Part(stage, 0, stage.steps, steps)
