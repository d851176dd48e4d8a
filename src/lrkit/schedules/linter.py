"""Reading a schedule before the training: the classic mistakes, each in a sentence. Knows no optimizer and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lrkit.schedules.base import Schedule, grid, length_shown
from lrkit.schedules.clock import Clock
from lrkit.schedules.compose import Between, Each, Rates, Repeat, Times
from lrkit.schedules.easing import number_text
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.template import Template, read_for
from lrkit.schedules.text import as_schedule

_MOST = 100_000  # updates that are looked at one by one; of longer runs, so many of them
_FEW = 200  # a plan this short may have been meant in epochs


@dataclass(frozen=True)
class Remark:
    """One thing worth a look: its code, a sentence that says what and what to do, and the first update concerned."""

    code: str
    message: str
    step: int

    def __str__(self) -> str:
        return f"step {self.step}: {self.message} [{self.code}]"


@dataclass(frozen=True)
class _Plan:
    """What the rules look at."""

    schedule: Schedule  # of factors, without a base
    given: Schedule
    total: int  # updates of the run; the schedule's own where nobody says
    told: bool  # whether somebody said
    per_epoch: int | None
    steps: Any  # (n,) updates looked at, ascending
    values: Any  # (n,) their factors


class Remarks(tuple[Remark, ...]):
    """What `lint` has to say; prints one remark a line."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing to remark"


def lint(
    schedule: str | Schedule | Template,
    total: int | str | None = None,
    steps_per_epoch: int | None = None,
    tokens_per_step: float | None = None,
    samples_per_step: float | None = None,
) -> Remarks:
    """Name what is probably a mistake in a schedule.

    Args:
        schedule: A schedule in any form; a template needs what `resolve` needs.
        total: Optimizer updates of the run; the schedule's own where None.
        steps_per_epoch: Optimizer updates of an epoch, also for the rules that count epochs.
        tokens_per_step: Tokens of one update.
        samples_per_step: Samples of one update.

    Returns:
        Remarks, in the order of their steps; none where all is well. Of a run above 100,000 updates so many are looked at.

    Raises:
        InputError: If the schedule cannot be read or resolved.

    Examples:
        >>> [remark.code for remark in lint("linear 500 from 0 to 1 > cosine 9500")]
        ['zero_first_update']
    """
    clock = Clock(total, steps_per_epoch, tokens_per_step, samples_per_step)
    given = read_for(as_schedule(schedule), clock)
    factors = given.schedule if isinstance(given, Rates) and given.origin == 0 else given
    run = length_shown(given) if clock.total is None else clock.total
    steps = grid(run, _MOST)
    plan = _Plan(factors, given, run, total is not None, clock.steps_per_epoch, steps, factors(steps))
    remarks = {remark for rule in _RULES for remark in rule(plan)}
    return Remarks(sorted(remarks, key=lambda remark: (remark.step, remark.code)))


def _zeros(plan: _Plan) -> Iterator[Remark]:
    if plan.values[0] == 0:
        text = "update 0 has rate 0 and changes nothing. Let the rise arrive ('warmup'), or start it above 0 ('from 0.01')."
        yield Remark("zero_first_update", text, 0)
    planned = plan.total if plan.schedule.steps is None else min(plan.total, plan.schedule.steps)
    later = plan.steps[(plan.values == 0) & (plan.steps > 0) & (plan.steps < planned)]
    if len(later) and not any(_vanishes(plan)):
        yield Remark("zero_update", "the rate is 0 inside the planned run. Give the stage a floor above 0.", int(later[0]))


def _ends(plan: _Plan) -> Iterator[Remark]:
    steps, top = plan.schedule.steps, float(plan.values.max())
    if steps is None:
        return
    last, end = plan.schedule(min(steps, plan.total) - 1), plan.schedule.end_value
    if plan.total < steps:
        text = f"the schedule plans {steps} updates, the run has {plan.total}: it ends at {last:.3g}, not at {end:.3g}."
        yield Remark("longer_than_run", f"{text} Resolve it with total={plan.total}.", plan.total)
    elif plan.total > steps + max(1, plan.total // 100):
        rest = "nothing is learnt" if end == 0 else f"the rate stays at {end:.3g}"
        text = f"the schedule is over, and for the other {plan.total - steps} updates {rest}. Resolve it with total={plan.total}."
        yield Remark("ends_early", text, steps)
    if plan.total >= steps and last - end > 0.05 * (top - end) > 0:
        advice = "Say 'arrive', or plan longer." if end > 0 else "Plan longer, or fall faster."
        text = f"the last update still has {last:.3g}: the floor {end:.3g} comes only after it. {advice}"
        yield Remark("floor_never_reached", text, steps - 1)


def _epochs(plan: _Plan) -> Iterator[Remark]:
    steps = plan.schedule.steps
    if steps is None or isinstance(plan.schedule, Hold):
        return
    short = plan.told and plan.total >= 10 * steps and steps <= 10 * _FEW
    exact = plan.told and plan.per_epoch is not None and 0.8 <= steps * plan.per_epoch / plan.total <= 1.25 and plan.per_epoch > 1
    alone = not plan.told and steps <= _FEW
    if short or exact or alone:
        of = f" of the run's {plan.total}" if plan.told else ""
        text = f"the schedule plans only {steps} updates{of}. If these are epochs, say so: '{steps}ep'."
        yield Remark("epochs_as_steps", text, steps)


def _vanishes(plan: _Plan) -> Iterator[Remark]:
    top, early = float(plan.values.max()), plan.steps < plan.total / 2
    gone = plan.steps[early & (plan.values < 1e-6 * top) & (plan.steps > plan.steps[plan.values.argmax()])]
    if plan.schedule.steps is None and len(gone) and plan.values[early][-1] < 1e-6 * top:
        text = "after that the rate is below a millionth of its highest. If its periods are epochs, say so: 'every 1ep'."
        yield Remark("epochs_as_steps", text, int(gone[0]))


def _falls(plan: _Plan) -> Iterator[Remark]:
    top, last = int(plan.values.argmax()), _stages(plan.schedule)[-1]
    if plan.schedule.steps is None and not plan.told and not isinstance(last, Hold):
        return  # how long it will run, nobody said
    if top < len(plan.values) - 1 and plan.values[top] > 0 and plan.values[top:].min() >= 0.99 * plan.values[top]:
        text = "the rate never falls. A decay at the end nearly always lowers the loss: 'hold 80% > 1-sqrt 20%'."
        yield Remark("never_falls", text, int(plan.steps[top]))


def _rises(stage: Schedule) -> bool:
    return isinstance(stage, Segment) and stage.end > stage.start


def _warmup(plan: _Plan) -> Iterator[Remark]:
    rise, done = 0, True
    for stage in _stages(plan.schedule):
        done = done and _rises(stage)
        rise += (stage.steps or 0) * done
    if rise and rise >= plan.total:
        text = f"the warm-up takes {rise} updates, the run has {plan.total}: the run ends inside it. Shorten it."
        yield Remark("warmup_longer_than_run", text, 0)
    elif rise and rise > plan.total / 2:
        text = f"the warm-up takes {rise} of {plan.total} updates, more than half the run. A few per cent are usual."
        yield Remark("warmup_long", text, 0)


def _stages(schedule: Schedule) -> tuple[Schedule, ...]:
    return schedule.stages if isinstance(schedule, Join) else (schedule,)


def _jumps(plan: _Plan) -> Iterator[Remark]:
    at, top = 0, float(plan.values.max())
    for left, right in pairwise(_stages(plan.schedule)):
        at += left.steps or 0
        before, after = left.end_value, right.start_value
        restart = after > before and isinstance(left, Segment | Part) and not _rises(left) and after >= 0.5 * top
        stairs = isinstance(right, Hold) and after < before
        if abs(after - before) > 0.05 * top and not restart and not stairs and at < plan.total:
            text = f"the rate jumps from {before:.3g} to {after:.3g}. Let the stages meet: leave out 'from', or 'to'."
            yield Remark("jump", text, at)


def _restarts(schedule: Schedule, start: int, total: int) -> Iterator[tuple[int, int]]:
    """The steps at which a schedule goes back up at once, and how long what follows is: those before `total`, and one after."""
    if isinstance(schedule, Repeat) and schedule.cycle.start_value > 1.05 * schedule.cycle.end_value:
        at, width = start + (schedule.cycle.steps or 1), float(schedule.cycle.steps or 1)
        for _ in range(min((schedule.times or total + 2) - 1, 100_000)):
            width *= schedule.stretch
            if at >= total and schedule.times is None:
                return  # without an end there is always a next one
            yield int(at), int(width)
            if at >= total:
                return
            at += int(width)
    elif isinstance(schedule, Times):
        for factor in schedule.factors:
            yield from _restarts(factor, start, total)
    elif isinstance(schedule, Join):
        for left, right in pairwise((Hold(0.0, 1), *schedule.stages)):
            if isinstance(left, Segment) and not _rises(left) and right.start_value > 1.05 * left.end_value:
                yield start, right.steps or 1
            yield from _restarts(right, start, total)
            start += right.steps or 0


def _late_restarts(plan: _Plan) -> Iterator[Remark]:
    if plan.schedule.steps is None and not plan.told:
        return
    for at, length in _restarts(plan.schedule, 0, plan.total):
        if at >= plan.total:
            text = f"the restart at step {at} lies after the end of the run at {plan.total}. Fit the periods to the run."
            yield Remark("restart_after_end", text, at)
            return
        if plan.total - at < length / 2:
            text = f"a restart has only {plan.total - at} of its {length} updates: the run ends at a high rate. Fit the periods."
            yield Remark("restart_near_end", text, at)


def _limits(plan: _Plan) -> Iterator[Remark]:
    rates, high = plan.given(plan.steps), float(plan.values.max())
    if rates.min() < 0:
        text = f"the rate falls to {rates.min():.3g}: a negative rate climbs the loss. Raise its end."
        yield Remark("negative", text, int(plan.steps[(rates < 0).argmax()]))
    if high > 1 + 1e-9 and plan.given.base is None:
        text = f"the factor rises to {high:.3g}, above the base rate. Set the optimizer's rate to the highest you want."
        yield Remark("above_base", text, int(plan.steps[plan.values.argmax()]))


def _half_cycles(plan: _Plan) -> Iterator[Remark]:
    inner = plan.schedule
    while isinstance(inner, Between | Rates | Times | Each):
        inner = inner.shape if isinstance(inner, Between) else inner.factors[0] if isinstance(inner, Times) else inner.schedule
    if plan.per_epoch and isinstance(inner, Repeat) and _rises(_stages(inner.cycle)[0]):
        epochs = (_stages(inner.cycle)[0].steps or 0) / plan.per_epoch
        if not 2 <= epochs <= 10:
            text = f"a half-cycle of {number_text(round(epochs, 2))} epochs; 2 to 10 are usual (arXiv:1506.01186)."
            yield Remark("half_cycle", text, 0)


_RULES: tuple[Callable[[_Plan], Iterator[Remark]], ...] = (
    _zeros, _ends, _epochs, _vanishes, _falls, _warmup, _jumps, _late_restarts, _limits, _half_cycles,
)  # fmt: skip
