"""Suggestion: what the finder answers. Plain data; imports without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lrkit.errors import InputError, StateError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Status = Literal["ok", "flat", "edge", "noisy", "budget", "diverged"]

WORDS: dict[str, str] = {
    "ok": "short runs of the real schedule agree on a best rate, with worse ones on both sides",
    "flat": "the loss is the same at every rate that was tried, so none is better",
    "edge": "the longest runs were still best at the last rate tried; the optimum may be beyond",
    "noisy": "nothing was learnt at any rate beyond chance",
    "budget": "the search ended before longer runs could decide, so this is a guess; a larger budget decides",
    "diverged": "the loss, or its validation, is not finite at any rate: look at the data and the loss, not at the rate",
}


@dataclass(frozen=True)
class Trial:
    """One short run of the compressed schedule.

    Args:
        lr: Peak rate of the first group.
        steps: Its length in updates.
        loss: What it is judged by: the validation loss after it, else its mean training loss at the end; NaN if it diverged.
    """

    lr: float
    steps: int
    loss: float


@dataclass(frozen=True)
class Fit:
    """The loss of runs of one length at each rate, in the basin that explains best all that was seen.

    Args:
        steps: Length of the runs in updates.
        lr: Rates.
        loss: The loss at each.
    """

    steps: int
    lr: tuple[float, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class Suggestion:
    """What the finder answers: a rate, how sure, and what it cost.

    Args:
        lr: The rate for the first group; the untouched one where nothing was found.
        factor: `lr` divided by the first group's base rate: what every group's base is to be multiplied with.
        low: Lower end of the interval in which the best rate of a dense sweep lies with a probability of about 80 %.
        high: Its upper end.
        status: How far to trust it; `reason` says it in words.
        cost: What the search cost, in training runs; each forward of `validate` counts a third of an update.
        steps: Updates that the search made.
        seconds: How long it took.
        base_lr: Lower rate for a cyclical schedule: a quarter of `max_lr`.
        max_lr: Upper rate for a cyclical schedule: where the loss of short runs turns upwards.
        trials: The short runs, in the order in which they were made.
        fit: What the losses of the longest of them are expected to be; None where nothing was found.
        untrained: The loss before any update, on the same scale.
        context: What the answer depends on: schedule, horizon, batch size, processes, optimizer, clipping, base rates, seed.
    """

    lr: float
    factor: float
    low: float
    high: float
    status: Status
    cost: float
    steps: int
    seconds: float
    base_lr: float
    max_lr: float
    trials: tuple[Trial, ...] = field(repr=False)
    fit: Fit | None = field(repr=False)
    untrained: float = field(repr=False)
    context: dict[str, Any] = field(repr=False)

    @property
    def found(self) -> bool:
        """Whether `lr` is an answer, not the rate that was there before."""
        return self.fit is not None

    @property
    def reason(self) -> str:
        """The status in words."""
        if self.status == "budget" and not self.found:
            return "the budget is too small to say anything"
        return WORDS[self.status]

    def apply(self, optimizer: Any, *, anyway: bool = False) -> None:
        """Give the optimizer the rate: the first group gets `lr`, the others keep their ratio to it; applying twice is once.

        Where a schedule is attached, its base is changed and the position stays.

        Args:
            optimizer: The one that was searched for, or one like it.
            anyway: Apply even where the rate was found for something else.

        Raises:
            StateError: If nothing was found: the status says why. If the optimizer is of another class, or its rate is driven by
                another schedule, than the rate was found for.
        """
        from lrkit.binding.driver import driver_of
        from lrkit.binding.rates import rates_of
        from lrkit.binding.record import BASE
        from lrkit.binding.slots import slot, unshare

        if not hasattr(optimizer, "param_groups"):
            raise InputError(
                f"Suggestion.apply({type(optimizer).__name__}): needs the optimizer. E.g. suggestion.apply(optimizer)."
            )
        if not self.found:
            raise StateError(f"Suggestion.apply: there is no rate to apply (status {self.status!r}): {self.reason}.")
        driver = driver_of(optimizer)
        driven = driver is not None and "lr" in driver.plan.courses
        own = driver.plan.schedule_of("lr", optimizer.param_groups[0]) if driver is not None and driven else None
        for what, now in (("optimizer", type(optimizer).__name__), ("schedule", None if own is None else str(own))):
            if now is not None and now != self.context.get(what, now) and not anyway:
                raise StateError(
                    f"Suggestion.apply: the rate was found for the {what} {self.context[what]!r}, and here it is {now!r}, for "
                    "which another rate is best. Search again, or say apply(optimizer, anyway=True)."
                )
        unshare(optimizer, "lr")
        bases = rates_of(optimizer)
        targets = [self.lr * base / bases[0] for base in bases]
        for group, target in zip(optimizer.param_groups, targets, strict=True):
            if not driven or BASE + "lr" not in group:
                slot("lr").put(group, target)
        if driver is not None and driven:
            driver.rebase({"lr": targets})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the evidence over the rate: the bracket, the short runs, the fit, the interval and the choice."""
        import numpy as np

        from lrkit.figures.charts import evidence

        rungs = []
        for horizon in sorted({trial.steps for trial in self.trials}):
            points = sorted((trial.lr, trial.loss) for trial in self.trials if trial.steps == horizon)
            rungs.append((horizon, np.array([lr for lr, _ in points]), np.array([loss for _, loss in points])))
        fit = None if self.fit is None else (self.fit.steps, np.array(self.fit.lr), np.array(self.fit.loss))
        return evidence(
            rungs,
            ax,
            fit=fit,
            chosen=self.lr if self.found else None,
            interval=(self.low, self.high) if self.found else None,
            untrained=self.untrained,
            title=f"{self.status}: {self.cost:.2g} training runs",
        )

    def _repr_html_(self) -> str:
        from lrkit.figures.style import figure_of, to_svg

        return to_svg(figure_of(self.plot()), str(self)) if self.trials else str(self)

    def __str__(self) -> str:
        cost = f"{self.cost:.2f} training runs ({self.steps} updates, {self.seconds:.1f} s)"
        if not self.found:
            return f"no rate found ({self.status}): {self.reason}; the rate stays {self.lr:.3g}; cost {cost}"
        return f"rate {self.lr:.3g} (interval {self.low:.2g} – {self.high:.2g}); {self.status}: {self.reason}; cost {cost}"
