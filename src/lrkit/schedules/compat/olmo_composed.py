"""OLMo-core 3.0.0's composed schedulers: stages, members of other schedulers, periods; conventions as in `compat.olmo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, exactly, held, items
from lrkit.schedules.compat.olmo_run import Unplaced, below, placed, rise_of, run_of, until, updates_of
from lrkit.schedules.compose import Rates, Times
from lrkit.schedules.easing import Easing, cosine, linear
from lrkit.schedules.parts import Hold, Part, Segment

_SHAPES: dict[str, Easing] = {"linear": linear, "cosine": cosine}
_STAGE = ("duration", "shape", "start_lr", "start_lr_fraction", "end_lr", "end_lr_fraction")
_OVERRIDE = ("start", "duration", "shape", "end_lr", "end_lr_fraction")


@placed
def ComposableScheduler(
    base_lr: float, *, stages: Sequence[Mapping[str, Any]], override_decay: Mapping[str, Any] | None = None,
    t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """start + (end − start)·shape(t/duration), stage after stage; then the last end, unless an override leaves them before.

    Args:
        base_lr: What the fractions are of, above 0.
        stages: ComposableSchedulerStages as mappings: duration, shape (``"linear"``, which is meant where it is missing, or
            ``"cosine"``), start_lr or start_lr_fraction (the end of the stage before where missing; base_lr at first), and
            end_lr or end_lr_fraction.
        override_decay: An OverrideDecay as a mapping: start (an update), duration, shape, and end_lr or end_lr_fraction.
        t_max_of_run: Updates of the run. The library does not read it here: the stages have their own lengths.

    Raises:
        InputError: If there is no stage, or one has too few, too many or unknown entries.
    """
    call, base = "ComposableScheduler", real("ComposableScheduler", "base_lr", base_lr, above=0.0)
    del t_max_of_run
    if not stages:
        raise InputError(f"{call}(stages=[]): there must be at least one stage. Give a duration and an end_lr.")
    segments, level = [], 1.0
    for stage in items(call, "stages", stages, least=1):
        if not isinstance(stage, Mapping):
            raise InputError(f"{call}(stages=[{stage!r}]): a stage must be a mapping with duration and an end. Give one.")
        start = _level(call, "start", stage, _STAGE, base, level)
        level = _level(call, "end", stage, _STAGE, base, None)
        segments.append(_segment(call, stage, start, level))
    return absolute(_overridden(call, chain(*segments), override_decay, base), base)


def _level(call: str, name: str, given: Mapping[str, Any], known: Sequence[str], base: float, default: float | None) -> float:
    """The start or end of a stage as a factor."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"{call}: a stage has no {unknown[0]!r}. It has {', '.join(known)}.")
    rate, fraction = given.get(f"{name}_lr"), given.get(f"{name}_lr_fraction")
    if (rate is not None and fraction is not None) or (rate is None and fraction is None and default is None):
        raise InputError(f"{call}({dict(given)}): exactly one of {name}_lr and {name}_lr_fraction must be given. Change that.")
    if rate is not None:
        return real(call, f"{name}_lr", rate, least=0.0) / base
    return real(call, f"{name}_lr_fraction", fraction, least=0.0) if fraction is not None else float(default or 0.0)


def _segment(call: str, given: Mapping[str, Any], start: float, end: float) -> Segment:
    shape = choice(call, "shape", given.get("shape", "linear"), tuple(_SHAPES))
    return Segment(start, end, count(call, "duration", given.get("duration"), 1), _SHAPES[shape])


def _overridden(call: str, main: Schedule, override: Mapping[str, Any] | None, base: float) -> Schedule:
    """The schedule up to the override's start, and its decay from there."""
    if override is None:
        return main
    if not isinstance(override, Mapping):
        raise InputError(f"{call}(override_decay={override!r}): it must be a mapping with start, duration and an end. Give one.")
    start = count(call, "start", override.get("start"))
    end = _level(call, "end", override, _OVERRIDE, base, None)
    return chain(until(main, start) if start else None, _segment(call, override, main(start), end))


@placed
def SequentialScheduler(
    base_lr: float, *, schedulers: Sequence[Schedule], schedulers_max: Sequence[int] | None = None,
    schedulers_max_steps: Sequence[int] | None = None, override_decay: Mapping[str, Any] | None = None,
    t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """Each scheduler for its number of updates, in its own time, from the rate at which the one before it ended.

    A boundary belongs to the old one: the new one begins with its value at 1.

    Args:
        base_lr: The first one's highest rate, above 0. Where one ends at rate 0, no other can follow.
        schedulers: Schedulers of this module, made without t_max_of_run; their own base_lr is not read.
        schedulers_max: Updates of each but the last, which goes on to the end of the run; one for the last is not read.
        schedulers_max_steps: Its older name.
        override_decay: An OverrideDecay as a mapping, as for `ComposableScheduler`; it leaves the sequence at its start.
        t_max_of_run: Updates of the run.

    Raises:
        InputError: If there are too few or too many numbers, or a member is placed in a run already.
    """
    call, run = "SequentialScheduler", run_of("SequentialScheduler", t_max_of_run)
    given = schedulers_max_steps or () if schedulers_max is None else schedulers_max
    lengths, schedulers = items(call, "schedulers_max", given), items(call, "schedulers", schedulers, least=1)
    if not schedulers or len(lengths) not in (len(schedulers) - 1, len(schedulers)):
        came = f"{call}(schedulers_max={lengths})"
        raise InputError(f"{came}: there must be one for each scheduler but the last, and a scheduler. Change that.")
    base, rest, pieces = real(call, "base_lr", base_lr, above=0.0), run, list[Schedule]()
    for i, member in enumerate(schedulers):
        if not isinstance(member, Unplaced):
            raise InputError(f"{call}: {member} must be a scheduler of this module that has no run. Leave out its t_max_of_run.")
        steps = rest if i == len(schedulers) - 1 else min(rest, count(call, "schedulers_max", lengths[i], 1))
        last = steps == rest
        if base == 0:
            raise InputError(
                f"{call}: the scheduler before {member.name} ends at rate 0, from where none goes on. Give it a floor."
            )
        piece = member.place(base, steps)
        pieces.append(_cut(piece.schedule, min(i, 1), steps if last else steps + 1, base / base_lr))
        if last:
            break
        base, rest = piece(steps), rest - steps
    return absolute(until(_overridden(call, chain(*pieces), override_decay, base_lr), run), base_lr)


def _cut(schedule: Schedule, first: int, stop: int, level: float) -> Schedule:
    """`level` times the updates `first` up to `stop`; of none, the value at `stop`."""
    if stop <= first:
        return Hold(level * schedule(stop), 1)
    whole_piece = until(schedule, stop)
    inside = Part(whole_piece, first, stop) if first else whole_piece
    return inside if level == 1.0 else Times(Hold(level, stop - first), inside)


@placed
def WSDS(
    base_lr: float, *, period_lengths: Sequence[int], period_lr_multipliers: Sequence[float] | None = None,
    warmup: int | None = None, warmup_fraction: float | None = None, decay: int | None = None,
    decay_fraction: float | None = None, warmup_min_lr: float = 0.0, decay_min_lr: float = 0.0, t_max_of_run: int | None = None,
) -> Rates:  # fmt: skip
    """In each period the peak base_lr·multiplier, and a line to decay_min_lr in its last D updates; before the first, a warm-up.

    A boundary belongs to the old period: its end has decay_min_lr, the update after it the new peak. With D = 0 the library
    divides by zero there; here the old peak holds.

    Args:
        base_lr: The highest rate where the multipliers are 1, above 0.
        period_lengths: Updates of each period; the first includes the warm-up.
        period_lr_multipliers: Factors of the peaks, above 0; all 1 where None.
        warmup: W in updates; 0 for none.
        warmup_fraction: W as a share of the first period, in [0, 1]; instead of warmup.
        decay: D in updates.
        decay_fraction: D as a share of each period, in [0, 1]; instead of decay.
        warmup_min_lr: Rate at t = 0, below the first peak.
        decay_min_lr: Rate at the end of each period, below the peaks.
        t_max_of_run: Updates of the run. The library does not read it here: the periods have their own lengths.

    Raises:
        InputError: If W or D is not given once or does not fit, or a number is out of its range.
    """
    call, base = "WSDS", real("WSDS", "base_lr", base_lr, above=0.0)
    del t_max_of_run
    lengths = [count(call, "period_lengths", n, 1) for n in items(call, "period_lengths", period_lengths, least=1)]
    given = [1.0] * len(lengths) if period_lr_multipliers is None else period_lr_multipliers
    peaks = items(call, "period_lr_multipliers", given)
    if not lengths or len(peaks) != len(lengths) or any(not real(call, "period_lr_multipliers", p) > 0 for p in peaks):
        came = f"{call}(period_lengths={lengths}, period_lr_multipliers={peaks})"
        raise InputError(f"{came}: there must be a period, and a multiplier above 0 for each. Change that.")
    warm = updates_of(call, "warmup", (warmup, None, warmup_fraction), lengths[0])
    stages: list[Schedule | None] = [rise_of(call, warm, warmup_min_lr, base, peaks[0])]
    for i, (length, peak) in enumerate(zip(lengths, peaks, strict=True)):
        fall = updates_of(call, "decay", (decay, None, decay_fraction), length)
        stable = length - fall - (0 if i else warm)
        if stable < 0:
            came = f"{call}(period_lengths={lengths}, warmup={warm}, decay={fall})"
            raise InputError(f"{came}: the warm-up and the decay do not fit into period {i}. Shorten them.")
        low = below(call, "decay_min_lr", decay_min_lr, base, peak)
        stages += _period(peak, low, stable, fall, min(i, 1), i == len(lengths) - 1)
    return absolute(exactly(chain(*stages), sum(lengths)), base)


def _period(peak: float, low: float, stable: int, fall: int, first: int, last: bool) -> list[Schedule | None]:
    """A period from its update `first` to its end, which belongs to it."""
    if not fall:
        return [held(peak, stable - first + (not last)), Hold(low, 1) if last else None]
    line: Schedule = Segment(peak, low, fall)
    if stable < first:
        line = Part(line, 1, fall) if fall > 1 else Hold(low, 1)
        end = None if last or fall == 1 else Hold(low, 1)
        return [line, end]
    return [held(peak, stable - first), line, None if last else Hold(low, 1)]
