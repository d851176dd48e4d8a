"""AllenNLP 2.10's schedulers by their registered names and their class names, as rates.

Of those that count batches the value at k is what the k-th ``step_batch()`` sets, which the trainer calls just before the k-th
update: update t has the value at t + 1. Of those that count epochs (cosine, inverted_triangular, torch's) it is what k calls of
``step()`` leave, in force in epoch k. A boundary belongs to the new piece; past the end the end value holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, exactly, items, overwritten, poly, share, way
from lrkit.schedules.compat.stairs import drops, geometric
from lrkit.schedules.compat.torch import ReduceLROnPlateau
from lrkit.schedules.compat.transformers import (
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
)
from lrkit.schedules.compose import Rates, Repeat, Times
from lrkit.schedules.easing import cosine as cosine_shape
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.tails import Hyperbolic, Tail

constant = get_constant_schedule
constant_with_warmup = get_constant_schedule_with_warmup
cosine_with_warmup = get_cosine_schedule_with_warmup
cosine_hard_restarts_with_warmup = get_cosine_with_hard_restarts_schedule_with_warmup
reduce_on_plateau = ReduceLROnPlateau

_MOST_CYCLES, _MOST_EPOCHS = 1000, 10_000_000
_EPOCHS, _BATCHES = "a whole number of epochs", "a whole number of batches"


def step(base_lr: float, step_size: int, gamma: float = 0.1) -> Rates:
    """value(k) = base·gamma^⌊k/step_size⌋, k epochs."""
    every = count("step", "step_size", step_size, 1, what=_EPOCHS)
    return absolute(geometric("step", "gamma", gamma, every, stairs=True), base_lr)


def multi_step(base_lr: float, milestones: Sequence[int], gamma: float = 0.1) -> Rates:
    """value(k) = base·gamma^(how many milestones are ≤ k), k epochs."""
    places = [count("multi_step", "milestones", place, what=_EPOCHS) for place in items("multi_step", "milestones", milestones)]
    return absolute(drops("multi_step", "gamma", gamma, places), base_lr)


def exponential(base_lr: float, gamma: float = 0.1) -> Rates:
    """value(k) = base·gamma^k, k epochs."""
    return absolute(geometric("exponential", "gamma", gamma), base_lr)


def cosine(base_lr: float, t_initial: int, t_mul: float = 1.0, eta_min: float = 0.0, eta_mul: float = 1.0) -> Rates:
    """value(k) = eta_min + (base·eta_mul^n − eta_min)·(1 + cos(π·c/L))/2, c epochs into cycle n of L = ⌊t_initial·t_mul^n⌋.

    For ever; where lengths are cut off to whole epochs, or peaks change above a floor, for 1,000 cycles or 10 million epochs, and
    then the last value.

    Args:
        base_lr: The optimizer's rate, above 0.
        t_initial: Epochs of the first cycle.
        t_mul: Each cycle's length over that of the one before it, above 0.
        eta_min: A rate, not a factor.
        eta_mul: Each peak over the one before it, at least 0.
    """
    base, low = real("cosine", "base_lr", base_lr, above=0.0), real("cosine", "eta_min", eta_min, least=0.0)
    mul, peak = real("cosine", "t_mul", t_mul, above=0.0), real("cosine", "eta_mul", eta_mul, least=0.0)
    end, first = low / base, count("cosine", "t_initial", t_initial, 1, what=_EPOCHS)
    if mul == int(mul) and (peak == 1 or (end == 0 and 0 < peak < 1)):
        return absolute(Repeat(Segment(1.0, end, first, cosine_shape), None, mul, peak), base)
    cycles: list[Schedule] = []
    n = total = 0
    while n < _MOST_CYCLES and total < _MOST_EPOCHS and int(first * mul**n) and peak**n < 1e30:
        cycles.append(Segment(peak**n, end, int(first * mul**n), cosine_shape))
        n, total = n + 1, total + int(first * mul**n)
    return absolute(Join(*cycles, Hold(end)), base)


def _batches(call: str, num_epochs: int, num_steps_per_epoch: int) -> int:
    """The whole run."""
    each = count(call, "num_steps_per_epoch", num_steps_per_epoch, 1, what=_BATCHES)
    return count(call, "num_epochs", num_epochs, 1, what=_EPOCHS) * each


def polynomial_decay(
    base_lr: float, num_epochs: int, num_steps_per_epoch: int, power: float = 1.0, warmup_steps: int = 0,
    end_learning_rate: float = 0.0,
) -> Rates:  # fmt: skip
    """value(k) = base·k/W for k < W, then end + (base − end)·((T − k)/(T − W))^power, T = num_epochs·num_steps_per_epoch.

    Args:
        base_lr: The optimizer's rate; where it is 0, the end is the base.
        power: At least 0.
        warmup_steps: W.
        end_learning_rate: A rate, not a factor; the warm-up begins at 0 all the same.
    """
    call = "polynomial_decay"
    warm, total = count(call, "warmup_steps", warmup_steps, what=_BATCHES), _batches(call, num_epochs, num_steps_per_epoch)
    top, end = real(call, "base_lr", base_lr, least=0.0), real(call, "end_learning_rate", end_learning_rate, least=0.0)
    base = top or end or 1.0
    top, end = top / base, end / base
    rise = way(0.0, top, warm)
    if total <= warm:
        return absolute(Part(chain(rise, Hold(end)), 0, total), base)
    if power == 0:
        return absolute(exactly(chain(rise, Hold(top, total - warm), Hold(end)), total), base)
    return absolute(chain(rise, Segment(top, end, total - warm, poly(power))), base)


def linear_with_warmup(base_lr: float, num_epochs: int, num_steps_per_epoch: int, warmup_steps: int = 100) -> Rates:
    """value(k) = base·k/W for k < W, then base·(T − k)/(T − W), T = num_epochs·num_steps_per_epoch; then 0."""
    return polynomial_decay(base_lr, num_epochs, num_steps_per_epoch, 1.0, warmup_steps, 0.0)


def noam(model_size: int, warmup_steps: int, factor: float = 1.0, base_lr: float | None = None) -> Rates:
    """value(k) = factor·model_size^−½·min(n^−½, n·W^−3/2), n = max(k, 1), W = warmup_steps; for ever. Its base is the peak.

    Args:
        model_size: Width of the model.
        warmup_steps: W, at least 1.
        factor: At least 0.
        base_lr: The optimizer's rate, which is overwritten; it has no effect.
    """
    warm = count("noam", "warmup_steps", warmup_steps, 1, what=_BATCHES)
    overwritten("noam", base_lr)
    peak = real("noam", "factor", factor, least=0.0) * (real("noam", "model_size", model_size, above=0.0) * warm) ** -0.5
    return absolute(chain(Hold(1.0 / warm, 1), way(1.0 / warm, 1.0, warm - 1), Tail(Hyperbolic(1.0, 0.5, warm))), peak)


def slanted_triangular(
    base_lr: float, num_epochs: int, num_steps_per_epoch: int, cut_frac: float = 0.1, ratio: float = 32
) -> Rates:
    """value(k) = base·(1 + s·(ratio − 1))/ratio, s = k/c for k < c = ⌊cut_frac·T⌋, then 1 − (k − c)/(T − c), T = epochs·batches.

    The rate of the last group where the fine-tuning is discriminative; gradual unfreezing, which stretches the curve by what was
    frozen, is not covered. The batches must be known: AllenNLP counts them on the way where they are not.

    Args:
        base_lr: The optimizer's rate.
        cut_frac: Share of the run that rises, in [0, 1].
        ratio: The peak over the lowest rate, at least 1.

    Raises:
        InputError: If a number is out of its range.
    """
    call = "slanted_triangular"
    total = _batches(call, num_epochs, num_steps_per_epoch)
    low, cut = 1.0 / real(call, "ratio", ratio, above=0.0), int(total * share(call, "cut_frac", cut_frac))
    return absolute(chain(way(low, 1.0, cut), way(1.0, low, total - cut)), base_lr)


def combined(
    base_lr: float, schedulers: Sequence[tuple[int, Schedule | Callable[[float], Schedule]]],
    num_steps_per_epoch: int | None = None,
) -> Rates:  # fmt: skip
    """One scheduler after the other, each for its epochs and from the rate that the one before it has left.

    As in AllenNLP, a scheduler after the first has its own first value only in passing: it goes on from its value at 1. Without
    num_steps_per_epoch all of them count epochs, with it all count batches.

    Args:
        base_lr: The optimizer's rate, above 0.
        schedulers: Pairs of epochs and a schedule made by this module, which is scaled to the rate that it finds, or a function
            of that rate that makes one: ``lambda lr: polynomial_decay(lr, …)``, which a floor in absolute values needs.
        num_steps_per_epoch: Batches of an epoch.

    Raises:
        InputError: If there is no scheduler, or one is not made by this module.
    """
    base = real("combined", "base_lr", base_lr, above=0.0)
    each = 1 if num_steps_per_epoch is None else count("combined", "num_steps_per_epoch", num_steps_per_epoch, 1, what=_BATCHES)
    if not schedulers:
        raise InputError("combined([]): there is no scheduler. Give pairs of epochs and schedules.")
    stages: list[Schedule] = []
    rate, total = base, 0
    for i, (epochs, given) in enumerate(schedulers):
        made = given(rate) if callable(given) and not isinstance(given, Schedule) else given
        if not isinstance(made, Rates) or made.origin != 0:
            raise InputError(f"combined({made}): must be made by this module. Give pairs of epochs and its schedules.")
        steps = count("combined", "epochs", epochs, 1, what=_EPOCHS) * each
        first, last = int(i > 0), steps - int(i == 0 and num_steps_per_epoch is None)
        level = rate if isinstance(given, Schedule) else made.base
        piece = made.schedule.cut(first, last + 1)
        stages.append(piece if level == base else Times(Hold(level / base), piece))
        rate, total = level * made.schedule(last), total + steps
    return absolute(exactly(Join(*stages, Hold(rate / base)), total), base)


def inverted_triangular(
    cool_down: int, warm_up: int, ratio: float = 10, base_lr: float = 0.9, quantity: str = "momentum"
) -> Rates:
    """The momentum m: m → m/ratio in cool_down epochs, and back in warm_up.

    Args:
        base_lr: The optimizer's momentum.
        ratio: The highest over the lowest, above 0.
        quantity: ``"momentum"``, which is all that it moves.

    Raises:
        InputError: If a number is out of its range.
    """
    call = "inverted_triangular"
    choice(call, "quantity", quantity, ("momentum",))
    low = 1.0 / real(call, "ratio", ratio, above=0.0)
    fall, rise = count(call, "cool_down", cool_down, what=_EPOCHS), count(call, "warm_up", warm_up, what=_EPOCHS)
    down = way(1.0, low, fall)
    if rise == 0:
        return absolute(exactly(chain(down, Hold(low, 1), Hold(1.0)), fall + 1) if fall else Hold(1.0), base_lr)
    return absolute(chain(down, Segment(low, 1.0, rise)), base_lr)


CosineWithRestarts = cosine
PolynomialDecay = polynomial_decay
LinearWithWarmup = linear_with_warmup
NoamLR = noam
SlantedTriangular = slanted_triangular
CombinedLearningRateScheduler = combined
InvertedTriangular = inverted_triangular
