"""Recipes: the warm-ups and decays that people ask for by name, each one expression over the parts.

All give factors of the base rate. Durations are optimizer updates; for ``5%``, ``2ep`` and their kin use the text form.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul

import lrkit.schedules.easing as shapes
from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Between, Times
from lrkit.schedules.easing import Easing
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.points import Points
from lrkit.schedules.tails import Geometric, Hyperbolic, Rectified, Tail

_UPDATES = "a whole number of updates"


def constant(value: float = 1.0) -> Hold:
    """value(t) = value, for ever.

    Args:
        value: The factor, at least 0.

    Raises:
        InputError: If the value is negative or not finite.
    """
    return Hold(value)


def warmup(steps: int, start: float = 0.0, end: float = 1.0, easing: str | Easing = "linear") -> Segment:
    """value(t) = start + (end − start)·(t + 1)/steps: a rise that arrives at its last update.

    Args:
        steps: Optimizer updates, at least 1.
        start: Factor before update 0 (no update has it).
        end: Factor of the last update.
        easing: Its shape: ``"linear"``, ``"cosine"``, ``"exponential"`` (with `start` above 0), or any easing.

    Raises:
        InputError: If `steps` is below 1 or a factor is negative.

    Examples:
        >>> [warmup(4)(t) for t in range(4)]
        [0.25, 0.5, 0.75, 1.0]
    """
    return Segment(start, end, steps, easing, arrive=True)


def exponential_warmup(period: float) -> Schedule:
    """value(t) = 1 − exp(−(t + 1)/period), for ever: multiply it on another schedule (arXiv:1910.04209).

    Args:
        period: Time constant in updates, above 0.

    Raises:
        InputError: If `period` is not above 0.
    """
    decay = math.exp(-1.0 / real("exponential_warmup", "period", period, above=0.0))
    return Between(1.0, 0.0, Tail(Geometric(decay), start=decay))


def untuned_warmup(beta2: float = 0.999, easing: str = "linear") -> Schedule:
    """A warm-up whose period comes from Adam's β₂: 2/(1 − β₂) updates, or the time constant 1/(1 − β₂) (arXiv:1910.04209).

    Args:
        beta2: Adam's β₂, in [0, 1).
        easing: ``"linear"`` or ``"exponential"``.

    Raises:
        InputError: If β₂ is not in [0, 1), or the easing is another.
    """
    beta2 = real("untuned_warmup", "beta2", beta2, least=0.0)
    if beta2 >= 1 or easing not in ("linear", "exponential"):
        came = f"untuned_warmup(beta2={beta2:g}, easing={easing!r})"
        raise InputError(f"{came}: beta2 must be below 1, easing 'linear' or 'exponential'.")
    return warmup(max(1, round(2.0 / (1.0 - beta2)))) if easing == "linear" else exponential_warmup(1.0 / (1.0 - beta2))


def radam_warmup(beta2: float = 0.999, offset: int = 5) -> Tail:
    """RAdam's rectification as a warm-up for Adam, for ever (arXiv:1908.03265, Algorithm 2); see `Rectified`.

    Args:
        beta2: Adam's β₂, above 0.6 and below 1.
        offset: n of update 0.

    Raises:
        InputError: If the rectification does not exist there.
    """
    return Tail(Rectified(beta2, offset))


def gradual_warmup(steps: int, multiplier: float = 1.0, after: Schedule | None = None) -> Schedule:
    """value(t) = 1 + (multiplier − 1)·t/steps, then multiplier · after (arXiv:1706.02677); multiplier 1: t/steps.

    The convention of the scheduler that tutorials use: it departs, so that with multiplier 1 the first update is at 0.

    Args:
        steps: Optimizer updates of the rise.
        multiplier: Factor that it rises to, at least 1.
        after: What follows, in its own time; it stays where None.

    Raises:
        InputError: If `multiplier` is below 1.

    Examples:
        >>> [gradual_warmup(4, multiplier=2)(t) for t in range(6)]
        [1.0, 1.25, 1.5, 1.75, 2.0, 2.0]
    """
    multiplier = real("gradual_warmup", "multiplier", multiplier, least=1.0)
    rise = Segment(0.0 if multiplier == 1 else 1.0, multiplier, steps)
    return Join(rise, Hold(multiplier) if after is None else Times(Hold(multiplier), after))


def warmup_power(epochs: int, batches: int, warm: int, power: float = 0.9, from_start: bool = False) -> Schedule:
    """base·(epoch·batches + batch)/(warm·batches) during the first `warm` epochs, then base·(1 − progress)^power.

    The convention of the tutorials: t = epoch·batches + batch, and the first update is at 0.

    Args:
        epochs: Epochs of the whole run.
        batches: Optimizer updates of one epoch.
        warm: Epochs of the rise, at least 1 and below `epochs`.
        power: Power of the decay, above 0.
        from_start: What progress counts: False, the updates after the rise; True, all updates of the run, so that the rate
            drops from 1 to (1 − warm/epochs)^power after the rise.

    Raises:
        InputError: If a number is out of its range.

    Examples:
        >>> schedule = warmup_power(epochs=4, batches=10, warm=1, power=1.0)
        >>> schedule(5), schedule(10), schedule(25)
        (0.5, 1.0, 0.5)
    """
    for name, number in (("epochs", epochs), ("batches", batches), ("warm", warm)):
        whole("warmup_power", name, number, 1, what="a whole number")
    if warm >= epochs:
        raise InputError(f"warmup_power(epochs={epochs}, warm={warm}): the rise must leave epochs for the decay. Shorten it.")
    rise, total = Segment(0.0, 1.0, warm * batches), epochs * batches
    if from_start:
        return Join(rise, Part(Segment(1.0, 0.0, total, shapes.Polynomial(power)), warm * batches, total))
    return Join(rise, Segment(1.0, 0.0, total - warm * batches, shapes.Polynomial(power)))


def cosine(steps: int, start: float = 1.0, end: float = 0.0, arrive: bool = False, power: float = 1.0, k: float = 1.0) -> Segment:
    """value(t) = end + (start − end)·((1 + cos(π·(t/steps)^k))/2)^power (arXiv:1608.03983, eq. 5).

    Args:
        steps: Optimizer updates, at least 1.
        start: Factor of update 0.
        end: Factor after the last update, which then holds.
        arrive: Put `end` on the last update instead.
        power: Power of the wave, above 0.
        k: Power of time, above 0: k-decay (arXiv:2004.05909).

    Raises:
        InputError: If `steps` is below 1, a factor is negative, or a power is not above 0.

    Examples:
        >>> [round(cosine(4)(t), 4) for t in range(5)]
        [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    return Segment(start, end, steps, shapes.cosine if power == k == 1.0 else shapes.Wave(power, k), arrive)


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


def polynomial(steps: int, power: float = 0.9, start: float = 1.0, end: float = 0.0, k: float = 1.0) -> Segment:
    """value(t) = end + (start − end)·(1 − (t/steps)^k)^power.

    Args:
        steps: Optimizer updates, at least 1.
        power: Power, above 0.
        start: Factor of update 0.
        end: Factor after the last update, which then holds.
        k: Power of time, above 0: k-decay (arXiv:2004.05909).

    Raises:
        InputError: If `steps` is below 1, a factor is negative, or a power is not above 0.
    """
    return Segment(start, end, steps, shapes.Polynomial(power, k))


def tanh(steps: int, low: float = -6.0, high: float = 3.0, start: float = 1.0, end: float = 0.0) -> Segment:
    """value(t) = end + (start − end)·(1 − tanh(low·(1 − u) + high·u))/2, u = t/steps (arXiv:1806.01593).

    Args:
        steps: Optimizer updates, at least 1.
        low: Where on the tanh it begins.
        high: Where it ends, above `low`.
        start: Factor that it comes from.
        end: Factor after the last update, which then holds.

    Raises:
        InputError: If `steps` is below 1, a factor is negative, or `high` is not above `low`.
    """
    return Segment(start, end, steps, shapes.Tanh(low, high))


def rex(steps: int, start: float = 1.0, end: float = 0.0) -> Segment:
    """value(t) = end + (start − end)·(1 − u)/(1 − u/2), u = t/steps (arXiv:2107.04197).

    Args:
        steps: Optimizer updates, at least 1.
        start: Factor of update 0.
        end: Factor after the last update, which then holds.

    Raises:
        InputError: If `steps` is below 1 or a factor is negative.
    """
    return Segment(start, end, steps, shapes.Rex())


def step(every: int, gamma: float = 0.1, floor: float = 0.0) -> Tail:
    """value(t) = max(floor, gamma^⌊t/every⌋): halve, or divide by ten, every n updates.

    Args:
        every: Updates between two drops, at least 1.
        gamma: What a drop leaves, in (0, 1).
        floor: Factor that it does not fall below.

    Raises:
        InputError: If a number is out of its range.

    Examples:
        >>> halving = step(10, gamma=0.5)
        >>> halving(9), halving(10), halving(25)
        (1.0, 0.5, 0.25)
    """
    whole("step", "every", every, 1, what=_UPDATES)
    return Tail(Geometric(gamma, every, stairs=True), limit=floor or None)


def multi_step(milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """value(t) = gamma^(how many milestones are ≤ t).

    Args:
        milestones: Updates at which it drops, in order, each at least 1.
        gamma: What a drop leaves, above 0.

    Raises:
        InputError: If a milestone is below 1 or not above the one before it.

    Examples:
        >>> [round(multi_step([2, 4])(t), 6) for t in range(6)]
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    if not isinstance(milestones, Sequence):
        raise InputError(f"multi_step({milestones!r}): milestones must be a list of updates, e.g. [30, 60, 80].")
    ends = [whole("multi_step", "milestones", milestone, 1, what=_UPDATES) for milestone in milestones]
    gamma = real("multi_step", "gamma", gamma, above=0.0)
    if any(b <= a for a, b in pairwise(ends)):
        raise InputError(f"multi_step({list(milestones)}): milestones must rise. Sort them, and name each once.")
    lengths = [b - a for a, b in pairwise([0, *ends])]
    values = list(accumulate([gamma] * len(ends), mul, initial=1.0))
    return Join(*(Hold(value, steps) for value, steps in zip(values, lengths, strict=False)), Hold(values[-1]))


def exponential(gamma: float, every: float = 1.0, floor: float = 0.0, stairs: bool = False) -> Tail:
    """value(t) = max(floor, gamma^(t/every)): per step, or per epoch with `every` = updates of an epoch.

    Args:
        gamma: What is left after `every` updates, in (0, 1).
        every: Updates, above 0.
        floor: Factor that it does not fall below.
        stairs: Whether it stays level in between, as where a scheduler is stepped once an epoch.

    Raises:
        InputError: If a number is out of its range.
    """
    return Tail(Geometric(gamma, every, stairs), limit=floor or None)


def inverse_time(k: float, every: float = 1.0, stairs: bool = False) -> Tail:
    """value(t) = 1/(1 + k·t/every): fractional decay.

    Args:
        k: How much 1/value grows in `every` updates, above 0.
        every: Updates, above 0.
        stairs: Whether it stays level in between.

    Raises:
        InputError: If a number is out of its range.
    """
    return Tail(Hyperbolic(k, 1.0, every, stairs))


def time_decay(gamma: float, p: float = 0.5, every: float = 1.0) -> Tail:
    """value(t) = (1 + gamma·t/every)^−p: power time decay.

    Args:
        gamma: How fast it begins, above 0.
        p: Power, above 0.
        every: Updates, above 0.

    Raises:
        InputError: If a number is out of its range.
    """
    return Tail(Hyperbolic(gamma, p, every))


def piecewise(points: Sequence[tuple[float, float]], easing: str | Easing = "linear") -> Points:
    """Through points (step, factor), along one easing from each to the next; see `Points`.

    Args:
        points: Pairs of a step and a factor, in order.
        easing: The shape between neighbours.

    Raises:
        InputError: If the steps are not in order, or a factor is negative.
    """
    return Points(tuple(points), easing)
