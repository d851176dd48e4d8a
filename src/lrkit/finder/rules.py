"""What other libraries read off a range test: their rules, restated.

Pure functions of a Run of raw losses (`loss` before each update, `lr` in force for it), without torch. A restated rule smooths,
stops, trims and rounds as its library does, and keeps the defects, which its docstring names: it is there to be measured
against. `RULES` lists them, each with the ramp that its library runs. Knows no net and no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrkit.errors import InputError
from lrkit.run import Array, Run

Floats = NDArray[np.float32]
_quiet = np.errstate(all="ignore")  # a loss that is not finite is none of the libraries' concern


class NoAnswer(InputError):
    """The curve says nothing to this rule: where its library fails, returns None, or ours would have to guess."""


def _columns(call: str, run: Run) -> tuple[Array, Array]:
    """(rates, raw losses) of a ramp."""
    if not isinstance(run, Run) or "lr" not in run or "loss" not in run:
        raise InputError(f"{call}(run): needs a Run with loss and lr. lrkit.range_test makes one.")
    if not (np.isfinite(run["lr"]) & (run["lr"] > 0)).all():
        raise InputError(f"{call}(run): every row needs a rate above 0. Leave out the rows that have none.")
    return run["lr"], run["loss"]


def _enough(call: str, points: Sized, least: int) -> None:
    if len(points) < least:
        raise NoAnswer(f"{call}(run): needs {least} points after trimming, got {len(points)}. The library fails here too.")


def _up_to(recorded: Array | Floats, factor: float, first: int) -> Array | Floats:
    """Up to the first that is above `factor` times the lowest so far; `first` is 1 where that one is not yet looked at.

    A comparison with NaN is false, so NaN stops none of the libraries.
    """
    lowest = np.fmin.accumulate(recorded)
    beyond = np.flatnonzero(recorded[first:] > factor * lowest[: len(recorded) - first])
    return recorded[: beyond[0] + first + 1] if len(beyond) else recorded


# fastai 2.8: fastai/callback/schedule.py, fastai/learner.py


@_quiet
def fastai_record(losses: Array) -> Floats:
    """What fastai records: an average with β = 0.98, divided by 1 − β^t, in float32; it ends above 4 times its lowest.

    The average lags: at the 60th update it is 24 updates old on average, two decades of this ramp.
    """
    mean, recorded, share = np.float32(0), [], float(np.float32(1) - np.float32(0.98))
    for t, loss in enumerate(losses.astype(np.float32), 1):
        mean = np.float32(float(mean) - float(mean - loss) * share)  # rounded once, as torch.lerp does it
        recorded.append(mean / np.float32(1 - 0.98**t))
    return np.asarray(_up_to(np.array(recorded, dtype=np.float32), 4.0, first=0), dtype=np.float32)


def _fastai_points(call: str, run: Run, steps: int, least: int) -> tuple[Array, Floats]:
    """What fastai's rules see: without the first tenth of the ramp, the last five updates, and all from the first NaN."""
    rates, losses = _columns(call, run)
    recorded = fastai_record(losses)
    seen = recorded[steps // 10 : -5]
    seen = seen[: int(np.argmax(np.isnan(seen)))] if np.isnan(seen).any() else seen
    _enough(call, seen, least)
    return rates[steps // 10 :][: len(seen)], seen


def _valley(losses: Array | Floats) -> int:
    """The index of fastai's valley: half the longest falling subsequence, counted back from its end.

    The subsequence has gaps, but is counted back as if it had none. Where it starts at the first point, a short one can lead to
    −1, the last point.
    """
    longest = np.ones(len(losses), dtype=int)  # falling subsequence that ends here
    end = start = 0
    for i in range(1, len(losses)):
        longest[i] += np.max(longest[:i][losses[i] < losses[:i]], initial=0)
        if longest[end] < longest[i]:
            end, start = i, i - int(longest[i])
    section = (end - start) / 3
    return start + int(section) + int(section / 2)


def valley(run: Run, steps: int = 100) -> float:
    """fastai's default: half the falling steps before the lowest point. It therefore depends on where the ramp begins.

    Args:
        run: A ramp.
        steps: Updates that the ramp was to have; a tenth of them is left out at its begin.

    Raises:
        NoAnswer: If nothing is left after trimming.
    """
    rates, losses = _fastai_points("valley", run, steps, 1)
    return float(rates[_valley(losses)])


@_quiet
def slide(run: Run, steps: int = 100) -> float:
    """fastai's interval slide: from the end, the first 15 updates apart whose slopes differ by no more than 0.005.

    The threshold is absolute: ten times the loss is another answer.

    Args:
        run: A ramp.
        steps: Updates that the ramp was to have; a tenth of them is left out at its begin.

    Raises:
        NoAnswer: If fewer than 16 points are left after trimming.
    """
    rates, losses = _fastai_points("slide", run, steps, 16)
    slope = np.gradient(losses)
    right, left = -1, -16
    answer = rates[left]
    while left >= -len(losses) and abs(slope[right] - slope[left]) > 0.005:
        answer = rates[left]
        right, left = right - 1, left - 1
    return float(answer)


def minimum(run: Run, steps: int = 100) -> float:
    """fastai's minimum: a tenth of the rate where its loss is lowest.

    Args:
        run: A ramp.
        steps: Updates that the ramp was to have; a tenth of them is left out at its begin.

    Raises:
        NoAnswer: If nothing is left after trimming.
    """
    rates, losses = _fastai_points("minimum", run, steps, 1)
    return float(rates[np.argmin(losses)]) / 10


@_quiet
def steep(run: Run, steps: int = 100) -> float:
    """fastai's steepest: where the loss falls most to the next update, over the logarithm of the rate.

    Args:
        run: A ramp.
        steps: Updates that the ramp was to have; a tenth of them is left out at its begin.

    Raises:
        NoAnswer: If fewer than two points are left after trimming.
    """
    rates, losses = _fastai_points("steep", run, steps, 2)
    return float(rates[np.argmin(np.diff(losses) / np.diff(np.log(rates.astype(np.float32))))])


# pytorch-ignite 0.5 (ignite/handlers/lr_finder.py) and torch-lr-finder 0.2 (torch_lr_finder/lr_finder.py)


def anchored_record(losses: Array) -> Array:
    """What ignite and torch-lr-finder record: s_t = 0.05·L_t + 0.95·s_(t−1) from s_0 = L_0; it ends above 5 times its lowest.

    Nothing corrects for the first loss, that of one batch: its weight is a half after 13 updates.
    """
    recorded: list[float] = []
    for loss in losses.tolist():
        recorded.append(0.05 * loss + (1 - 0.05) * recorded[-1] if recorded else loss)
    return np.asarray(_up_to(np.array(recorded), 5.0, first=0), dtype=np.float64)


@_quiet
def ignite(run: Run) -> float:
    """ignite's suggestion: the steepest point before the lowest one, by central differences.

    Two defects are kept: a NaN counts as the lowest and the steepest, and the rate that is reported is that of the next update.

    Raises:
        NoAnswer: If the lowest point is one of the first two.
    """
    rates, losses = _columns("ignite", run)
    recorded = anchored_record(losses).astype(np.float32)
    falling = recorded[: np.argmin(recorded) + 1] if len(recorded) else recorded
    _enough("ignite", falling, 3)
    steepest = int(np.argmin(np.float32(0.5) * (falling[2:] - falling[:-2]))) + 1
    return float(rates[steepest + 1])


@_quiet
def torch_lr_finder(run: Run) -> float:
    """torch-lr-finder's suggestion: the steepest point between the first ten and the last five, by central differences.

    A defect is kept: where a NaN was recorded, the steepest is next to it.

    Raises:
        NoAnswer: If fewer than two points are left after trimming.
    """
    rates, losses = _columns("torch_lr_finder", run)
    seen = anchored_record(losses)[10:-5]
    _enough("torch_lr_finder", seen, 2)
    return float(rates[10:][np.argmin(np.gradient(seen))])


# Lightning 2.6 and 2.5.2: lightning/pytorch/tuner/lr_finder.py


def lightning_record(losses: Array) -> Array:
    """What Lightning records: an average with β = 0.98, divided by 1 − β^(t+1), t from 1; it ends above 4 times its lowest.

    A defect is kept: the power is one too high, so a constant loss of 1 is recorded as 0.505, 0.673, 0.758, … and seems to rise,
    and the ramp ends at about twice the first loss.
    """
    mean, recorded = 0.0, []
    for t, loss in enumerate(losses.tolist(), 1):
        mean = 0.98 * mean + (1 - 0.98) * loss
        recorded.append(mean / (1 - 0.98 ** (t + 1)))
    return np.asarray(_up_to(np.array(recorded), 4.0, first=1), dtype=np.float64)


@_quiet
def lightning(run: Run) -> float:
    """Lightning's suggestion since 2.5.3: the steepest point between the first ten and the last, over the rate itself.

    A defect is kept: over a rate on a linear scale every wiggle at a tiny rate is steep, so the answer is near the ramp's begin.

    Raises:
        NoAnswer: If fewer than two finite points are left after trimming; Lightning returns None.
    """
    rates, losses = _columns("lightning", run)
    seen = lightning_record(losses)[10:-1].astype(np.float32)
    finite = np.flatnonzero(np.isfinite(seen))
    _enough("lightning", finite, 2)
    slope = np.gradient(seen[finite], rates[10:][finite].astype(np.float32))
    return float(rates[10:][finite[np.argmin(slope)]])


@_quiet
def lightning_before_2_5_3(run: Run) -> float:
    """Lightning's suggestion up to 2.5.2: the steepest point between the first ten and the last, over the updates.

    A defect is kept: a loss that is not finite moves the answer by one update.

    Raises:
        NoAnswer: If fewer than two finite points are left after trimming; Lightning returns None.
    """
    rates, losses = _columns("lightning_before_2_5_3", run)
    seen = lightning_record(losses)[10:-1].astype(np.float32)
    seen = seen[np.isfinite(seen)]
    _enough("lightning_before_2_5_3", seen, 2)
    return float(rates[10:][np.argmin(np.gradient(seen))])


# ktrain 0.41: ktrain/lroptimize/lrfinder.py


def ktrain_record(losses: Array) -> Array:
    """What ktrain records: an average with β = 0.98, divided by 1 − β^t; it ends above 4 times its lowest.

    Newer versions of Keras hand it the mean of the epoch so far instead of a batch's loss; that is not restated.
    """
    mean, recorded = 0.0, []
    for t, loss in enumerate(losses.tolist(), 1):
        mean = 0.98 * mean + (1 - 0.98) * loss
        recorded.append(mean / (1 - 0.98**t))
    return np.asarray(_up_to(np.array(recorded), 4.0, first=1), dtype=np.float64)


def ktrain_valley(run: Run) -> float:
    """ktrain's first suggestion: fastai's valley, of the whole curve.

    Raises:
        NoAnswer: If the run is empty.
    """
    rates, losses = _columns("ktrain_valley", run)
    _enough("ktrain_valley", losses, 1)
    return float(rates[_valley(ktrain_record(losses))])


@_quiet
def ktrain_steep(run: Run) -> float:
    """ktrain's second suggestion: the steepest point between the first 32 and the lowest.

    Two defects are kept: the index is counted from the 32nd point and taken from the first, so the rate is 32 updates too low;
    and a NaN counts as the lowest.

    Raises:
        NoAnswer: If fewer than two points are left after trimming; ktrain returns None.
    """
    rates, losses = _columns("ktrain_steep", run)
    _enough("ktrain_steep", losses, 1)
    recorded = ktrain_record(losses)
    seen = recorded[32 : np.argmin(recorded)]
    _enough("ktrain_steep", seen, 2)
    return float(rates[np.argmin(np.gradient(seen))])


def ktrain_minimum(run: Run) -> float:
    """ktrain's third suggestion: a tenth of the rate where its loss is lowest; a NaN counts as the lowest, a kept defect.

    Raises:
        NoAnswer: If the run is empty.
    """
    rates, losses = _columns("ktrain_minimum", run)
    _enough("ktrain_minimum", losses, 1)
    return float(rates[np.argmin(ktrain_record(losses))]) / 10


@dataclass(frozen=True)
class Ramp:
    """The ramp that a library runs: lr_t = start · (end/start)^place(t).

    Args:
        start: The rate at place 0.
        end: The rate at place 1.
        steps: Updates.
        place: (t, steps) → place of update t.
        stop: The factor over its lowest recorded loss at which it ends.
        record: Raw losses → what the library records of them, up to where it ends: as long as the updates it makes.
    """

    start: float
    end: float
    steps: int
    place: Callable[[int, int], float]
    stop: float
    record: Callable[[Array], Array | Floats]

    @property
    def rates(self) -> list[float]:
        """The rate of each update."""
        ratio = self.end / self.start
        return [self.start * ratio ** self.place(t, self.steps) for t in range(self.steps)]


@dataclass(frozen=True)
class Rule:
    """A library's rule, and the ramp it is read off.

    Args:
        name: The library and, where it has several, the rule.
        ramp: What the library runs; one object for all rules that share it.
        choose: Run of that ramp → rate; raises NoAnswer where the library has none.
    """

    name: str
    ramp: Ramp
    choose: Callable[[Run], float]


_FASTAI = Ramp(1e-7, 10.0, 100, lambda t, steps: t / steps, 4.0, fastai_record)
# ignite and torch-lr-finder begin at the optimizer's rate, so the start is ours, as is ignite's length, which the user says; it
# makes one update more than it is told, and the first two at one rate.
_IGNITE = Ramp(1e-7, 10.0, 101, lambda t, steps: max(1, t) / (steps - 1), 5.0, anchored_record)
_TORCH_LR_FINDER = Ramp(1e-7, 10.0, 100, lambda t, steps: t / (steps - 1), 5.0, anchored_record)
_LIGHTNING = Ramp(1e-8, 1.0, 100, lambda t, steps: (t + 1) / steps if t else 0.0, 4.0, lightning_record)
_KTRAIN = Ramp(1e-7, 1e-7 * 1.01**1851, 1852, lambda t, steps: t / (steps - 1), 4.0, ktrain_record)  # by 1 % an update, up to 10

RULES = (
    Rule("fastai valley", _FASTAI, valley),
    Rule("fastai slide", _FASTAI, slide),
    Rule("fastai minimum", _FASTAI, minimum),
    Rule("fastai steep", _FASTAI, steep),
    Rule("ignite", _IGNITE, ignite),
    Rule("torch-lr-finder", _TORCH_LR_FINDER, torch_lr_finder),
    Rule("Lightning", _LIGHTNING, lightning),
    Rule("Lightning before 2.5.3", _LIGHTNING, lightning_before_2_5_3),
    Rule("ktrain valley", _KTRAIN, ktrain_valley),
    Rule("ktrain steep", _KTRAIN, ktrain_steep),
    Rule("ktrain minimum", _KTRAIN, ktrain_minimum),
)
