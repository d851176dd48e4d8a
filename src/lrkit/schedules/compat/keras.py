"""Keras 3.15's schedules (`keras.optimizers.schedules`) and the callbacks that set a rate, as rates.

The value at t is the schedule's at step t, the optimizer's count before the update: the first update has the value at 0. Of the
schedules `base` is the initial rate, or the target of the warm-up. Past the end the end value holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrkit.errors import InputError, real
from lrkit.schedules.compat.common import absolute, chain, choice, count, items, poly, way
from lrkit.schedules.compat.frame import Frame
from lrkit.schedules.compat.plateau import better, left_by, metrics_of, replay, worst
from lrkit.schedules.compat.stairs import geometric
from lrkit.schedules.compat.stairs import staircase as stairs
from lrkit.schedules.compose import Between, Each, Rates, Repeat, Times
from lrkit.schedules.easing import cosine
from lrkit.schedules.parts import Hold, Join, Segment
from lrkit.schedules.points import Custom
from lrkit.schedules.tails import Hyperbolic, Tail

_MOST_EPOCHS = 1_000_000  # a recursion is asked epoch by epoch


def ExponentialDecay(initial_learning_rate: float, decay_steps: float, decay_rate: float, staircase: bool = False) -> Rates:
    """value(t) = initial·decay_rate^(t/decay_steps), for ever; on a staircase, of ⌊t/decay_steps⌋."""
    return absolute(geometric("ExponentialDecay", "decay_rate", decay_rate, decay_steps, staircase), initial_learning_rate)


def PiecewiseConstantDecay(boundaries: Sequence[float], values: Sequence[float]) -> Rates:
    """value(t) = values[how many boundaries are < t]: at a boundary, still the value before it.

    Args:
        boundaries: In order; fractions are cut off.
        values: Rates, one more.

    Raises:
        InputError: If the numbers do not fit, or the boundaries are not in order.
    """
    call = "PiecewiseConstantDecay"
    places = [int(real(call, "boundaries", boundary)) for boundary in items(call, "boundaries", boundaries)]
    rates = [real(call, "values", value) for value in items(call, "values", values, least=1)]
    if len(places) != len(rates) - 1 or places != sorted(places):
        came = f"{call}({len(rates)} values, boundaries={places})"
        raise InputError(f"{came}: boundaries must be in order, one fewer than values. Say where each of the others begins.")
    frame = Frame.over(call, rates, rates[0])
    return frame.rates(stairs([place + 1 for place in places], [frame.of(rate) for rate in rates]))


def PolynomialDecay(
    initial_learning_rate: float, decay_steps: int, end_learning_rate: float = 1e-4, power: float = 1.0, cycle: bool = False
) -> Rates:
    """value(t) = end + (initial − end)·(1 − min(t, D)/D)^power; in cycles, D is the next multiple of decay_steps, for ever.

    Args:
        initial_learning_rate: The first rate; in cycles, the end is not below 0 and the first is above it.
        decay_steps: D.
        power: Above 0.
    """
    call = "PolynomialDecay"
    frame, steps = Frame.over(call, (initial_learning_rate, end_learning_rate), initial_learning_rate), decay_steps
    start, end, steps = frame.of(initial_learning_rate), frame.of(end_learning_rate), count(call, "decay_steps", steps, 1)
    if not cycle:
        return frame.rates(Segment(start, end, steps, poly(power)))
    # In cycle j the curve is (1 − t/(j·D))^p = j^−p·(1 − c/D)^p, c updates into it; an update at a boundary ends the old one.
    falls = Repeat(Segment(1.0, 0.0, steps, poly(power), arrive=True))
    shape = Join(Hold(1.0, 1), Times(falls, Each(Tail(Hyperbolic(1.0, power)), steps)))
    return frame.rates(shape if (start, end) == (1.0, 0.0) else Between(end, start, shape))


def InverseTimeDecay(initial_learning_rate: float, decay_steps: float, decay_rate: float, staircase: bool = False) -> Rates:
    """value(t) = initial/(1 + decay_rate·t/decay_steps), for ever; on a staircase, of ⌊t/decay_steps⌋.

    Raises:
        InputError: If `decay_rate` is negative.
    """
    if real("InverseTimeDecay", "decay_rate", decay_rate, least=0.0) == 0:
        return absolute(Hold(1.0), initial_learning_rate)
    return absolute(Tail(Hyperbolic(decay_rate, 1.0, decay_steps, staircase)), initial_learning_rate)


def CosineDecay(
    initial_learning_rate: float, decay_steps: int, alpha: float = 0.0, warmup_target: float | None = None, warmup_steps: int = 0
) -> Rates:
    """value(t) = initial + (target − initial)·t/W, then target·(alpha + (1 − alpha)·(1 + cos(π·(t − W)/decay_steps))/2).

    Args:
        initial_learning_rate: The first rate; without a target, the peak.
        decay_steps: Updates of the fall, without the warm-up.
        alpha: Floor as a factor of the peak.
        warmup_target: Peak, above 0; where None there is no warm-up, whatever warmup_steps is.
        warmup_steps: W.
    """
    fall = Segment(1.0, real("CosineDecay", "alpha", alpha, least=0.0), decay_steps, cosine)
    if warmup_target is None:
        return absolute(fall, initial_learning_rate)
    peak = real("CosineDecay", "warmup_target", warmup_target, above=0.0)
    warm = count("CosineDecay", "warmup_steps", warmup_steps)
    first = real("CosineDecay", "initial_learning_rate", initial_learning_rate, least=0.0) / peak
    return absolute(chain(way(first, 1.0, warm), fall), peak)


def CosineDecayRestarts(
    initial_learning_rate: float, first_decay_steps: int, t_mul: float = 2.0, m_mul: float = 1.0, alpha: float = 0.0
) -> Rates:
    """value(t) = initial·(alpha + (1 − alpha)·m_mul^i·(1 + cos(π·u))/2), u the progress in cycle i; for ever.

    Where rounding makes Keras miss a restart by one update, this one does not.

    Args:
        initial_learning_rate: The first peak.
        first_decay_steps: Updates of the first cycle.
        t_mul: Each cycle's length over that of the one before it, at least 1.
        m_mul: Each cycle's height over that of the one before it, at most 1.
        alpha: Floor as a factor of the first peak.
    """
    floor = real("CosineDecayRestarts", "alpha", alpha, least=0.0)
    if m_mul == 1 or floor == 0:
        return absolute(Repeat(Segment(1.0, floor, first_decay_steps, cosine), None, t_mul, m_mul), initial_learning_rate)
    falls = Repeat(Segment(1.0, 0.0, first_decay_steps, cosine), None, t_mul, m_mul)
    return absolute(Between(floor, 1.0, falls), initial_learning_rate)


@dataclass(frozen=True)
class _Epochs:
    """Epoch ↦ factor, by a function of the epoch and the rate before it, each asked once and in order."""

    fn: Callable[..., Any]
    base: float
    _known: list[float] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, t: float) -> float:
        if t > _MOST_EPOCHS:
            raise InputError(f"LearningRateScheduler: epoch {t:g} takes as many calls. Ask up to {_MOST_EPOCHS}.")
        while len(self._known) <= t:
            epoch, rate = len(self._known), self._known[-1] if self._known else self.base
            try:
                self._known.append(float(self.fn(epoch, rate)))
            except TypeError:  # it takes the epoch alone
                self._known.append(float(self.fn(epoch)))
        return self._known[int(t)] / self.base


def LearningRateScheduler(schedule: Callable[..., Any], base_lr: float = 1.0) -> Rates:
    """value(epoch) = schedule(epoch, the rate of the epoch before), or schedule(epoch); for ever. It counts epochs.

    Args:
        schedule: Function of the epoch and the rate before it. It has no text and no JSON form.
        base_lr: The optimizer's rate, above 0, which epoch 0 finds.

    Raises:
        InputError: If `schedule` cannot be called.
    """
    if not callable(schedule):
        raise InputError(
            f"LearningRateScheduler({schedule!r}): must be a function of the epoch, e.g. lambda epoch, lr: lr * 0.9."
        )
    base = real("LearningRateScheduler", "base_lr", base_lr, above=0.0)
    return absolute(Custom(_Epochs(schedule, base), name=getattr(schedule, "__name__", None)), base)


def ReduceLROnPlateau(
    base_lr: float, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10, mode: str = "auto",
    min_delta: float = 1e-4, cooldown: int = 0, min_lr: float = 0.0, *, metrics: Sequence[float],
) -> Rates:  # fmt: skip
    """value(i) = the rate after metric i: × factor, not below min_lr, at the `patience`-th in a row that was no better.

    Args:
        base_lr: The optimizer's rate.
        monitor: What is watched: from the name, ``"auto"`` knows that a loss falls.
        mode: ``"min"``, ``"max"`` or ``"auto"``.
        min_delta: By how much a metric has to be better, absolute.
        metrics: What was seen, one an epoch; the rates are their replay.

    Raises:
        InputError: If there is no metric, or an argument is out of its range.
    """
    call = "ReduceLROnPlateau"
    if choice(call, "mode", mode, ("min", "max", "auto")) == "auto":
        if monitor.removeprefix("val_") != "loss":
            raise InputError(f"{call}(monitor={monitor!r}): its direction is unknown without the model. Say mode='min' or 'max'.")
        mode = "min"
    factor, low = left_by(call, factor), real(call, "min_lr", min_lr, least=0.0)
    patience, cooldown = count(call, "patience", patience), count(call, "cooldown", cooldown)
    is_better = better(call, mode, abs(real(call, "min_delta", min_delta)), "abs")
    rate, best, wait, cooling, rates = real(call, "base_lr", base_lr), worst(mode), 0, 0, []
    for i, metric in enumerate(metrics_of(call, metrics)):
        if cooling > 0:
            cooling, wait = cooling - 1, 0
        if i == 0 or is_better(metric, best):
            best, wait = metric, 0
        elif cooling == 0:
            wait += 1
            if wait >= patience and rate > low:
                rate, cooling, wait = max(rate * factor, low), cooldown, 0
        rates.append(rate)
    return absolute(replay(rates, base_lr), base_lr)
