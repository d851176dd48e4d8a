"""pytorch-ignite 0.5.5's parameter schedulers (`ignite.handlers`), as rates.

A handler sets a value as an iteration starts, so the first update has the value at event 0; the state schedulers set theirs as it
ends, and begin with event 1. A boundary belongs to the new piece. Values are absolute, whatever parameter they are for
(`quantity`). Groups of several parameters are several schedules here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import lrkit.schedules.compat.torch as torch
from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import QUANTITIES, absolute, chain, choice, count, held, items
from lrkit.schedules.compat.frame import Frame, joined, scaled
from lrkit.schedules.compat.ignite_cycles import cyclical
from lrkit.schedules.compat.stairs import drops, geometric
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import cosine, linear
from lrkit.schedules.parts import Hold, Part, Segment
from lrkit.schedules.points import Custom, Points

__all__ = [
    "ConcatScheduler", "CosineAnnealingScheduler", "ExpStateScheduler", "LRScheduler", "LambdaStateScheduler",
    "LinearCyclicalScheduler", "MultiStepStateScheduler", "PiecewiseLinear", "PiecewiseLinearStateScheduler",
    "ReduceLROnPlateauScheduler", "StepStateScheduler", "create_lr_scheduler_with_warmup",
]  # fmt: skip


def LinearCyclicalScheduler(
    start_value: float, end_value: float, cycle_size: int, cycle_mult: float = 1.0, start_value_mult: float = 1.0,
    end_value_mult: float = 1.0, warmup_duration: int = 0, monotonic: bool = False, *, cycles: int | None = None,
    quantity: str = "lr",
) -> Rates:  # fmt: skip
    """end + (start − end)·|2e/cycle_size − 1|, or with `monotonic` start + (end − start)·e/cycle_size, again and again.

    Arguments as of `CosineAnnealingScheduler`; `warmup_duration` needs `monotonic`.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "LinearCyclicalScheduler"
    choice(call, "quantity", quantity, QUANTITIES)
    if warmup_duration and not monotonic:
        came = f"{call}(warmup_duration={warmup_duration}, monotonic=False)"
        raise InputError(f"{came}: a triangle is back at its start already. Say monotonic=True, or leave warmup_duration out.")
    shape = linear if monotonic else None
    return cyclical(
        call, shape, start_value, end_value, cycle_size, cycle_mult, start_value_mult, end_value_mult, warmup_duration, cycles
    )


def CosineAnnealingScheduler(
    start_value: float, end_value: float, cycle_size: int, cycle_mult: float = 1.0, start_value_mult: float = 1.0,
    end_value_mult: float = 1.0, warmup_duration: int = 0, *, cycles: int | None = None, quantity: str = "lr",
) -> Rates:  # fmt: skip
    """start + (end − start)·(1 − cos(πe/cycle_size))/2, again and again, with a line back where there is a warm-up.

    Equal cycles, those of a whole `cycle_mult`, and those whose two multipliers are one and the same go on for ever. For others,
    `cycles` says how many to plan; without it they are a function of Python, which has no text.

    Args:
        start_value: Value at the start of a cycle.
        end_value: Value that it goes to; only with a warm-up is there an update that has it.
        cycle_size: Updates of the first cycle, at least 2.
        cycle_mult: Length of a cycle, and of its warm-up, over the one before it; fractions of an update are cut off. Cycles that
            shrink end with the last of at least one update.
        start_value_mult: Start of a cycle over that of the one before it; the line back goes to the new one.
        end_value_mult: The same for the end.
        warmup_duration: Updates of the line back.
        cycles: How many; None is endless.
        quantity: ``"lr"``, ``"momentum"`` or ``"weight_decay"``: what the values are for.

    Raises:
        InputError: If an argument is out of its range.
    """
    call = "CosineAnnealingScheduler"
    choice(call, "quantity", quantity, QUANTITIES)
    return cyclical(
        call, cosine, start_value, end_value, cycle_size, cycle_mult, start_value_mult, end_value_mult, warmup_duration, cycles
    )


def _points(call: str, milestones_values: Sequence[tuple[int, float]]) -> tuple[Frame, Points]:
    """The checked points, and their frame."""
    given = [items(call, "milestones_values", pair) for pair in items(call, "milestones_values", milestones_values, least=1)]
    if any(len(pair) != 2 for pair in given):
        raise InputError(f"{call}(milestones_values={given}): must be pairs of an update and a value. Give two numbers each.")
    pairs = [(count(call, "milestones_values", place), value) for place, value in given]
    frame = Frame.over(call, [value for _, value in pairs])
    return frame, Points(tuple((place, frame.of(value)) for place, value in pairs))


def PiecewiseLinear(milestones_values: Sequence[tuple[int, float]], *, quantity: str = "lr") -> Rates:
    """Straight lines through (update, value); the first value before the first, the last from the last on.

    Args:
        milestones_values: Pairs in order; two at one update are a jump, the second owns it.
        quantity: ``"lr"``, ``"momentum"`` or ``"weight_decay"``: what the values are for.

    Raises:
        InputError: If there is no pair, or they are not in order.
    """
    choice("PiecewiseLinear", "quantity", quantity, QUANTITIES)
    frame, points = _points("PiecewiseLinear", milestones_values)
    return frame.rates(points)


def ConcatScheduler(schedulers: Sequence[Schedule], durations: Sequence[int]) -> Rates:
    """One schedule after the other, each in its own time from 0 on.

    ignite skips a duration of 0 only where none follows it, and otherwise stays for ever; here each is skipped.

    Args:
        schedulers: Schedules of this module, at least two.
        durations: Updates of all but the last.

    Raises:
        InputError: If the numbers of schedules and durations do not fit, or a duration is negative.
    """
    call = "ConcatScheduler"
    schedulers, durations = items(call, "schedulers", schedulers), items(call, "durations", durations)
    if len(schedulers) < 2 or len(schedulers) != len(durations) + 1:
        came = f"{call}({len(schedulers)} schedulers, {len(durations)} durations)"
        raise InputError(f"{came}: at least two schedulers, and a duration for each but the last. Change the lists.")
    return joined(call, list(zip(schedulers, [*(count(call, "durations", d) for d in durations), None], strict=True)))


def LRScheduler(lr_scheduler: Schedule) -> Rates:
    """A schedule of `compat.torch`, as it is: value(t) = the wrapped one's value after t calls of ``step()``.

    ignite's own wrapper reads the optimizer's rate and goes wrong with torch 2.8 and later, and with a changed rate before that.

    Raises:
        InputError: If it is no schedule of rates.
    """
    return joined("LRScheduler", [(lr_scheduler, None)])


def create_lr_scheduler_with_warmup(
    lr_scheduler: Schedule, warmup_start_value: float, warmup_duration: int, warmup_end_value: float | None = None,
    *, base_lr: float | None = None,
) -> Rates:  # fmt: skip
    """start + (end − start)·t/(duration − 1), then the schedule; where that begins with the end value, the two share an update.

    ignite compares the two bit by bit, so that a rounding there can repeat the value; here they are the same to twelve digits.

    Args:
        lr_scheduler: A schedule of this module, or of `compat.torch`.
        warmup_start_value: Value at update 0.
        warmup_duration: Updates of the rise, the one with the end value included; at least 2.
        warmup_end_value: Value that it reaches; `base_lr` where None, and the schedule's first value without that.
        base_lr: The optimizer's rate.

    Raises:
        InputError: If the rise is shorter than 2 updates, or the schedule is none of rates.
    """
    call = "create_lr_scheduler_with_warmup"
    steps = count(call, "warmup_duration", warmup_duration, least=2)
    main = LRScheduler(lr_scheduler)
    first = main(0)
    end = real(call, "warmup_end_value", next(v for v in (warmup_end_value, base_lr, first) if v is not None))
    frame = Frame.over(call, (warmup_start_value, end))
    rise = Segment(frame.of(warmup_start_value), frame.of(end), steps - 1)
    same = math.isclose(first, end, rel_tol=1e-12)
    return joined(call, [(frame.rates(chain(rise, None if same else Hold(frame.of(end), 1))), None), (main, None)])


class _Plateau:
    """torch's plateau rule behind ignite's name and its method `simulate_values`."""

    def __call__(
        self, *, metrics: Sequence[float], base_lr: float, mode: str = "min", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0, eps: float = 1e-8,
    ) -> Rates:  # fmt: skip
        """× factor after more than `patience` metrics in a row that were no better, not below `min_lr`.

        Value i is the rate after metric i. ignite drops `min_lr` unless it is given a group's index; here it counts.

        Args:
            metrics: The metrics that were seen, in order.
            base_lr: The rate before them (`init_lr`).
            mode: ``"min"`` or ``"max"``; this and the others as of `compat.torch.ReduceLROnPlateau`.
        """
        return torch.ReduceLROnPlateau(
            base_lr=base_lr, metrics=metrics, mode=mode, factor=factor, patience=patience, threshold=threshold,
            threshold_mode=threshold_mode, cooldown=cooldown, min_lr=min_lr, eps=eps,
        )  # fmt: skip

    def simulate_values(
        self, *, metrics: Sequence[float] | None = None, base_lr: float | None = None, num_events: int | None = None,
        metric_values: Sequence[float] | None = None, init_lr: float | None = None, **scheduler_kwargs: Any,
    ) -> Rates:  # fmt: skip
        """The same, under ignite's names too: `metric_values` for `metrics`, `init_lr` for `base_lr`, `num_events` their number.

        Raises:
            InputError: If the metrics or the rate are missing, or `num_events` is not the number of metrics.
        """
        seen, base = metric_values if metrics is None else metrics, init_lr if base_lr is None else base_lr
        call = "ReduceLROnPlateauScheduler.simulate_values"
        if seen is None or base is None:
            raise InputError(f"{call}: the metrics and the first rate are needed. Give metric_values and init_lr.")
        if num_events is not None and num_events != len(seen):
            raise InputError(f"{call}(num_events={num_events}): there are {len(seen)} metrics. Give one for each event.")
        return self(metrics=seen, base_lr=base, **scheduler_kwargs)


ReduceLROnPlateauScheduler = _Plateau()


def LambdaStateScheduler(lambda_obj: Callable[[float], float]) -> Rates:
    """value(t) = lambda_obj(t + 1), for ever: the state after update t. A function has no text."""
    if not callable(lambda_obj):
        raise InputError(f"LambdaStateScheduler({lambda_obj!r}): must be a function of the event, e.g. lambda e: 0.9**e.")
    return absolute(Custom(lambda t: lambda_obj(t + 1), name=getattr(lambda_obj, "__name__", "lambda_obj")), 1.0)


def PiecewiseLinearStateScheduler(milestones_values: Sequence[tuple[int, float]]) -> Rates:
    """value(t) = `PiecewiseLinear`(t + 1): the state after update t.

    Raises:
        InputError: If there is no pair, or they are not in order.
    """
    frame, points = _points("PiecewiseLinearStateScheduler", milestones_values)
    last = points.points[-1]
    return frame.rates(Hold(last[1]) if last[0] <= 1 else Part(points, 1, None))


def ExpStateScheduler(initial_value: float, gamma: float) -> Rates:
    """value(t) = initial · gamma^(t + 1), for ever: the state after update t."""
    return absolute(scaled(geometric("ExpStateScheduler", "gamma", gamma), gamma), initial_value)


def StepStateScheduler(initial_value: float, gamma: float, step_size: int) -> Rates:
    """value(t) = initial · gamma^floor((t + 1)/step_size), for ever: the state after update t."""
    size = count("StepStateScheduler", "step_size", step_size, least=1)
    factors = scaled(geometric("StepStateScheduler", "gamma", gamma, size, stairs=True), gamma)
    return absolute(chain(held(1.0, size - 1), factors), initial_value)


def MultiStepStateScheduler(initial_value: float, gamma: float, milestones: Sequence[int]) -> Rates:
    """value(t) = initial · gamma^(number of milestones ≤ t + 1), for ever: the state after update t."""
    call = "MultiStepStateScheduler"
    places = [count(call, "milestones", milestone) - 1 for milestone in items(call, "milestones", milestones)]
    return absolute(drops(call, "gamma", gamma, places), initial_value)
