"""`probe`: from the present state of a training, does a lower or a higher rate help?

Every rate trains from the same state, on the same batches with the same random numbers, and is then cooled down: a lower rate
gains at once, because less noise is left, and a higher one loses at once, whichever gets further; the cool-down takes most of
that difference away. All of it is done on several stretches of batches, so that the luck of one decides nothing.

Knows no schedule's shape: every rate is held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lrkit.binding.driver import driver_of
from lrkit.binding.slots import slot
from lrkit.errors import InputError, real, whole
from lrkit.finder.bench import Bench
from lrkit.finder.signals import signals_held
from lrkit.schedules.parts import Hold
from lrkit.snapshot import preserved
from lrkit.task import Loss, Step, Validate, check_loss_function, seed_everything

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Advice = Literal["keep", "lower", "raise", "cannot tell"]
Array = NDArray[np.float64]

_RUNS = 5  # of every rate, odd so that the median is one of them; see Arm for what their agreement is worth
_COOLED = 0.2  # of a run's updates: the cool-down
_TRIVIAL = 0.05  # of what the present rate changes: a smaller difference is none


@dataclass(frozen=True)
class Arm:
    """What one rate came to, over all runs.

    The lowest and the highest of n paired differences enclose the median with a probability of 1 − 2^(1−n), whatever their
    distribution (n = 5: 94 %).

    Args:
        factor: Of the present rate.
        loss: Median of the loss after the cool-down; infinite where most runs diverged.
        difference: Median of (loss − the present rate's loss in the same run); below 0 is better.
        low: Lowest of these differences.
        high: Highest of them.
        at_once: Median of these differences just before the cool-down, in the training loss; much of it is noise.
        diverged: Whether the loss was not finite in one of the runs.
        curve: The training loss minus that of the present rate, by update: median of the runs, NaN where one has diverged.
    """

    factor: float
    loss: float
    difference: float
    low: float
    high: float
    at_once: float
    diverged: bool
    curve: tuple[float, ...] = field(repr=False)

    def __str__(self) -> str:
        if self.diverged:
            return f"{self.factor:g} × diverges"
        if not math.isfinite(self.difference):
            return f"{self.factor:g} × ends at {self.loss:.3g}"  # the present rate diverges
        return f"{self.factor:g} × ends {self.difference:+.2g} ({self.low:+.2g} to {self.high:+.2g}), at once {self.at_once:+.2g}"


@dataclass(frozen=True)
class Probe:
    """Whether a lower or a higher rate helps now.

    Args:
        advice: ``keep``, ``lower``, ``raise`` or ``cannot tell``.
        factor: What the rates are to be multiplied with; 1 unless the advice is to lower or to raise.
        lr: The first group's rate under this advice.
        arms: What each rate came to, by ascending factor; the present rate is among them, with factor 1.
        steps: Updates of a run, cool-down included.
        cost: What it took, in updates; each forward of a validation counts a third of one.
    """

    advice: Advice
    factor: float
    lr: float
    arms: tuple[Arm, ...]
    steps: int
    cost: float

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how far each rate's training loss is from the present rate's, over the updates; the cool-down is shaded."""
        from lrkit.figures.charts import curves, window

        updates = np.arange(self.steps, dtype=float)
        lines = {f"{arm.factor:g} ×": (updates, np.array(arm.curve)) for arm in self.arms}
        ax = curves(lines, ax, xlabel="update", ylabel="loss − loss at the present rate", log_y=False)
        window(ax, self.steps - _cool_down(self.steps), self.steps, "cool-down")
        return ax

    def __str__(self) -> str:
        seen = "; ".join(str(arm) for arm in self.arms if arm.factor != 1 or arm.diverged)
        length = f"{_RUNS} runs of {self.steps} updates"
        if all(arm.diverged for arm in self.arms):
            return "cannot tell: the loss is not finite at any of these rates; look at the data and the loss first"
        if self.advice == "cannot tell":
            return f"cannot tell: {length} show no clear difference ({seen})"
        if self.advice == "keep":
            tempts = any(arm.factor < 1 and arm.at_once < 0 for arm in self.arms)
            also = "; what a lower rate gains at once, a later decay gains too" if tempts else ""
            return f"keep the rate at {self.lr:.3g}: {seen}, in {length}{also}"
        return f"{self.advice} the rate to {self.lr:.3g}: {seen}, in {length}"


def probe(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Iterable[Any],
    factor: float | Sequence[float] = (0.1, 3.0),
    steps: int = 100,
    *,
    step: Step | None = None,
    validate: Validate | None = None,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Probe:
    """Try a training's present rate against lower and higher ones, from its present state, which is left as it was.

    The rate of update t:  f · η · min(1, (steps − t) / cool),  cool = steps / 5.    f: a factor, or 1    η: the present rate

    η is what the next update would use: with a schedule attached, its value there, held from then on. Every rate makes 5 runs,
    each on other batches, and is judged after each on batches that follow, or by `validate`. A change is advised only where
    all 5 runs agree on it, by more than a twentieth of what the present rate itself changes the loss by: that the loss ends
    lower; or, of a lower rate, that it is lower before the cool-down and no higher after it.

    Args:
        model: The model, in the state in question.
        optimizer: Its optimizer, in that state; all groups are multiplied alike.
        loss: ``(model, batch) → Tensor`` of one number; where there is no `validate`, also asked in eval mode without gradients.
        batches: A loader that can be iterated again (a list, a DataLoader).
        factor: Of the present rate, above 0 and not 1; one, or several.
        steps: Updates of a run, at least 10. The shorter, the more it favours a low rate, whose gain comes first.
        step: ``(model, batch, optimizer) → loss`` in place of forward, backward and update (clipping, AMP, accumulation).
        validate: ``(model) → float`` judges the rates.
        seed: Of the probe.
        progress: Called with (updates done, updates in all).

    Returns:
        A Probe: the advice, and what every rate came to.

    Raises:
        InputError: If an argument breaks its rule, the first group's present rate is 0, or there are no batches.

    Source: the cool-down, arXiv:2410.05192 (what a held rate has gained shows only when it decays).
    """
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        came = f"{type(model).__name__}, {type(optimizer).__name__}"
        raise InputError(f"probe({came}, …): needs a torch module and its optimizer, in this order.")
    check_loss_function("probe", loss)
    if isinstance(batches, Iterator) or not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        came = type(batches).__name__
        raise InputError(f"probe(batches={came}): needs what can be iterated again and again. Pass a list, or a DataLoader.")
    factors = _checked_factors(factor)
    steps, seed = whole("probe", "steps", steps, least=10), whole("probe", "seed", seed, least=0)
    rates = _present_rates(optimizer)
    runs: list[_Run] = []
    with signals_held() as signals, preserved(batches=batches), signals.unwinding(), closing(_endless(batches)) as stream:
        seed_everything(seed)
        for i in range(_RUNS):
            trained = list(islice(stream, steps))
            judge = _mean_loss(loss, list(islice(stream, _cool_down(steps)))) if validate is None else validate
            bench = Bench(model, optimizer, loss, trained, Hold(), steps, step, judge, seed + i, math.inf)
            bench.bases = rates
            with bench.open():
                runs.append(_run(bench, factors, i, progress))
    return _answer(factors, runs, rates[0])


def _checked_factors(factor: object) -> list[float]:
    """The factors, ascending, with 1 among them."""
    given = list(factor) if isinstance(factor, list | tuple) else [factor]
    factors = [real("probe", "factor", one, above=0.0) for one in given]
    if not factors or 1.0 in factors or len(set(factors)) < len(factors):
        raise InputError(f"probe(factor={factor}): needs different factors other than 1, which is tried anyway. E.g. (0.1, 3).")
    return sorted([1.0, *factors])


def _present_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each group's rate in the next update, whoever drives it."""
    driver = driver_of(optimizer)
    driven: list[dict[str, float]] = [{} for _ in optimizer.param_groups] if driver is None else driver.values()
    rates = [
        values["lr"] if "lr" in values else slot("lr").number(group, "probe", i)
        for i, (values, group) in enumerate(zip(driven, optimizer.param_groups, strict=True))
    ]
    if rates[0] == 0:
        raise InputError("probe: the first group's rate is 0 now, and a multiple of it too. Probe where it is above 0.")
    return rates


def _cool_down(steps: int) -> int:
    """Updates of the cool-down; and batches that judge, where there is no `validate`."""
    return math.ceil(_COOLED * steps)


def _endless(batches: Iterable[Any]) -> Generator[Any, None, None]:
    """Batches, epoch after epoch."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise InputError("probe: the batches yielded nothing, so there is nothing to train on. Is the data set empty?")


def _mean_loss(loss: Loss, batches: list[Any]) -> Validate:
    """A validation: the mean loss of these batches."""

    def mean(model: Any) -> float:
        losses = [loss(model, batch) for batch in batches]
        if not all(isinstance(one, Tensor) and one.numel() == 1 for one in losses):
            raise InputError("loss(model, batch): must return a tensor of one number. Take its mean.")
        return sum(map(float, losses)) / len(losses)

    return mean


@dataclass(frozen=True)
class _Run:
    """All rates on one stretch of batches: what was there before, and for each rate the training losses and the end.

    Args:
        start: What the judge says of the present state.
        ends: By rate, what it says after the cool-down; infinite where the loss was not finite.
        losses: By rate and update, the training loss; NaN after one that is not finite.
        cost: In updates.
    """

    start: float
    ends: list[float]
    losses: list[list[float]]
    cost: float


def _run(bench: Bench, factors: list[float], i: int, progress: Callable[[int, int], object] | None) -> _Run:
    """Train with every rate on an open bench: run `i` of all."""
    steps, start = bench.steps, _judged(bench)
    ends, losses = [], []
    for j, factor in enumerate(factors):
        losses.append([math.nan] * steps)
        with closing(bench.run(_held(factor * bench.bases[0], steps), steps)) as run:
            for t, loss in enumerate(run):
                losses[j][t] = loss
                if progress is not None:
                    progress((i * len(factors) + j) * steps + t + 1, _RUNS * len(factors) * steps)
                if not math.isfinite(loss):
                    break
        ends.append(_judged(bench) if math.isfinite(loss) else math.inf)
    return _Run(start, ends, losses, bench.spent)


def _held(lr: float, steps: int) -> Callable[[int], float]:
    """A rate that is held and then cooled down: the decay departs, and no update has rate 0."""
    return lambda t: lr * min(1.0, (steps - t) / _cool_down(steps))


def _judged(bench: Bench) -> float:
    """What the judge says of the model now, with the same random numbers every time; infinite where it is not finite."""
    seed_everything(0)
    value = bench.validation_loss()
    return value if math.isfinite(value) else math.inf


def _answer(factors: list[float], runs: list[_Run], lr: float) -> Probe:
    """Pair every rate with the present one, run by run, and see whether all runs agree."""
    ends, losses = np.array([run.ends for run in runs]), np.array([run.losses for run in runs])  # (runs, rates), (…, steps)
    one = factors.index(1.0)
    with np.errstate(invalid="ignore"):  # ∞ − ∞: where both diverged, nothing can be said
        paired, along = ends - ends[:, [one]], losses - losses[:, [one]]
    arms = tuple(_arm(f, ends[:, j], paired[:, j], along[:, j]) for j, f in enumerate(factors))
    changed = float(np.median([abs(run.start - run.ends[one]) for run in runs]))
    advice, best = _advice(arms, _TRIVIAL * changed if math.isfinite(changed) else 0.0)
    return Probe(advice, best, lr * best, arms, losses.shape[2], sum(run.cost for run in runs))


def _arm(factor: float, ends: Array, paired: Array, along: Array) -> Arm:
    """What one rate came to.

    Args:
        factor: Of the present rate.
        ends: (runs,) what the judge said.
        paired: (runs,) the same, minus that of the present rate.
        along: (runs, steps) the training loss, minus that of the present rate.
    """
    steps, cool = along.shape[1], _cool_down(along.shape[1])
    return Arm(
        factor, float(np.median(ends)), float(np.median(paired)), float(paired.min()), float(paired.max()),
        float(np.median(along[:, steps - 2 * cool : steps - cool].mean(axis=1))), bool(np.isinf(ends).any()),
        tuple(np.median(along, axis=0).tolist()),
    )  # fmt: skip


def _advice(arms: tuple[Arm, ...], trivial: float) -> tuple[Advice, float]:
    """The advice and its factor; a difference up to `trivial` is none."""
    others = [arm for arm in arms if arm.factor != 1]
    if any(arm.diverged for arm in arms if arm.factor == 1):
        better = [arm for arm in others if arm.factor < 1 and not arm.diverged]
    else:
        better = [arm for arm in others if _helps(arm, trivial)]
    if better:
        best = min(better, key=lambda arm: arm.loss).factor
        return "lower" if best < 1 else "raise", best
    # The present rate is kept where no other can gain more than a trifle. NaN, and a loss that nothing changes, say nothing.
    return "keep" if all(arm.low > -trivial for arm in others) else "cannot tell", 1.0


def _helps(arm: Arm, trivial: float) -> bool:
    """Whether all runs end better; or, at a lower rate, none ends worse and the gain is there at once: nothing is lost by it."""
    if arm.factor < 1 and arm.high < trivial and arm.at_once < -trivial:
        return True
    return arm.high < 0 and arm.difference < -trivial
