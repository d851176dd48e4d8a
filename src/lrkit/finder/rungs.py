"""The search itself: two rungs of short runs on an open bench, and what they say.

Knows the bench and the basin; what the answer depends on, and whose it is, it leaves to `find`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrkit.binding.processes import agreed
from lrkit.finder.basin import Belief, Seen, believe
from lrkit.finder.bench import Bench, Judged
from lrkit.finder.suggestion import Fit, Status, Trial

_FIRST_MOVE = 0.25  # the share of the weights' norm that a first update at a good rate moves, to within a decade
_SWALLOWED = 1e-4  # share of the weights' norm that an update must move to be seen
_NOTCH = 20  # rates a decade that are tried and answered: 12 % apart, finer than any search can tell
_WIDE, _NARROW = 0.75, 0.5  # decades between the rates of the first and of the second rung
_SHORT, _SHORTEST = 20, 8  # a run of the first rung: this part of the budget, and mostly at least so many updates
_BRACKET = 0.45  # share of the budget that the first rung may take
_LONG = 3  # runs of the second rung that what is left has to do for
_LONGER = 1.2  # times: what a second rung must at least be longer
_NEAR = 0.12  # decades: what was tried nearer than this need not be tried again
_MEMBERS = 9  # runs of a rung at most
# Standard errors by which a run must be better than chance: where the loss itself scatters, and where it does not.
_SURE, _LIKELY = 4.0, 3.0
_SAME = 1e-3  # of the range of all losses: what the same computation may differ by on some devices
_SHARE = 0.8  # of the interval
_UNSEEN = 0.12  # decades on both sides: calibrated on the tuning tasks of benchmarks/regret; a sweep's best scatters in itself


@dataclass(frozen=True)
class Answer:
    """What the search says: rate, interval, status, where the short runs turn, and the fitted curve."""

    lr: float
    low: float
    high: float
    status: Status
    turn: float
    fit: Fit | None = None


class Search:
    """One search on an open bench: a bracket of tiny runs, a rung of longer ones, the choice.

    Args:
        bench: Open.
        longest: Updates of a run at most.

    Attributes:
        trials: The runs so far.
        untrained: Loss before any update, on the scale by which runs are judged.
        validated: Whether runs are judged by validation.
    """

    def __init__(self, bench: Bench, longest: int) -> None:
        self.bench, self.longest = bench, longest
        self.trials: list[Trial] = []
        self.untrained = math.nan
        self.validated = bench.validate is not None
        self._one_validation = 0.0
        self._jitter = 0.0  # by how much validations of the same weights scatter
        self._guess = 0.0  # log10
        self._along = False  # whether updates follow the gradient
        self._curves: dict[Trial, tuple[float, ...]] = {}
        self._believed: tuple[int, Belief] | None = None  # after how many trials, and what

    def go(self) -> Answer:
        """The whole search."""
        bench = self.bench
        shortest = min(_SHORTEST, self.longest)
        if bench.limit < 3 * shortest + 1:
            return self.nothing("budget")
        if self.validated:
            self._look()
        moved = self._moved_at_rate_one()
        if not math.isfinite(moved) or (self.validated and not math.isfinite(self.untrained)):
            return self.nothing("diverged")
        if moved == 0:
            return self.nothing("flat")
        self._guess = math.log10(_FIRST_MOVE / moved)
        short = int(max(shortest, min(bench.left / _SHORT, self.longest / 8)))
        kept = (1 - _BRACKET) * bench.left  # for the second rung, where it comes to one
        kept = kept if kept / _LONG > _LONGER * short else 0.0
        self._rung(short, self._guess - _WIDE / 2, _WIDE, kept)
        if unknown := self._unknown(short):
            return self.nothing(unknown)
        rate = self._belief().rate
        long = int(min(bench.left / _LONG - self._one_validation, self.longest))
        if long < _LONGER * short:
            return self._choose(short, "budget") if self._better_than_chance() else self.nothing("noisy")
        self._rung(long, rate, _NARROW, 0.0)
        if not any(math.isfinite(trial.loss) for trial in self._of(long)):
            return self.nothing("diverged")
        rate = self._belief().rate
        if self._affords(long, 0.0) and all(abs(math.log10(trial.lr) - rate) > _NEAR for trial in self._of(long)):
            self._try(rate, long)
        return self._choose(long, None) if self._better_than_chance() else self.nothing("noisy")

    def so_far(self) -> Answer:
        """What can be said where the budget ended early."""
        finished = [trial for trial in self.trials if math.isfinite(trial.loss)]
        if not finished or self._unknown(finished[0].steps) or not self._better_than_chance():
            return self.nothing("budget")
        return self._choose(max(trial.steps for trial in finished), "budget")

    def nothing(self, status: Status) -> Answer:
        """No rate found: the untouched one."""
        base = self.bench.bases[0]
        return Answer(base, base, base, status, base)

    def _look(self) -> None:
        """The untrained validation loss, what one validation costs and how much it scatters.

        Where validations are so dear that they would eat the budget, runs are judged by their training loss.
        """
        bench = self.bench
        self.untrained = bench.validation_loss()
        self._one_validation = bench.spent
        if 20 * self._one_validation > bench.limit:
            self.validated, self.untrained = False, math.nan
            self._one_validation = 0.0
            return
        looks = [self.untrained, bench.validation_loss()]
        if looks[0] != looks[1]:
            looks += [bench.validation_loss() for _ in range(4)]
            self.untrained, self._jitter = float(np.mean(looks)), float(np.std(looks, ddof=1))

    def _moved_at_rate_one(self) -> float:
        """‖Δθ‖/‖θ‖ of one update at rate 1: what a rate means to this net. NaN where loss or gradient is not finite."""
        params = [p for group in self.bench.optimizer.param_groups for p in group["params"] if p.requires_grad]
        start = [p.detach().clone() for p in params]
        for rate in (1.0, 1e6, 1e12):  # a higher one where the weights' rounding would swallow the update
            loss, share = self._moved(rate, params, start)
            if not math.isfinite(loss) or share > _SWALLOWED:
                break
        return share / rate if math.isfinite(loss) else math.nan

    def _moved(self, rate: float, params: list[Tensor], start: list[Tensor]) -> tuple[float, float]:
        """(loss before one update at this rate, ‖Δθ‖/‖θ‖ of it)."""
        loss = next(iter(self.bench.run(lambda _: rate, 1)))
        with torch.no_grad():
            steps = [s - p for p, s in zip(params, start, strict=True)]
            moved, size = agreed([_square(steps), _square(start)])
            self._along = agreed([_along(steps, [p.grad for p in params])])[0] == 1.0
        return loss, math.sqrt(moved) / max(math.sqrt(size), _usual_norm(start))

    def _rung(self, steps: int, first: float, spacing: float, kept: float) -> None:
        """Runs of one length: a few around the first rate, then on where the best is the last, while the budget lasts.

        Where the budget is large the first three are made at once, if that is faster; where it is small, two are made one after
        the other, and what they say chooses the third. How fast they are does not change which are made.
        """
        places = [first - spacing, first, first + spacing] if self.bench.may_try_together(3) else [first, first + spacing]
        together = len(places) == 3 and self._affords(3 * steps, kept + 2 * self._one_validation)
        if not (together and self._try_together(places, steps)):
            for x in places:
                if self._affords(steps, kept):
                    self._try(x, steps)
        while self._affords(steps, kept) and len(rung := self._of(steps)) < _MEMBERS:
            best = min(rung, key=lambda trial: (_worst_last(trial.loss), trial.lr))
            low, high = min(trial.lr for trial in rung), max(trial.lr for trial in rung)
            if best.lr == low or not best.loss < self.untrained:
                self._try(math.log10(low) - spacing, steps)
            elif best.lr == high:
                self._try(math.log10(high) + spacing, steps)
            else:
                return

    def _affords(self, steps: int, kept: float) -> bool:
        """Whether a run of this length leaves as much of the budget as is to be kept."""
        return self.bench.left >= steps + self._one_validation + kept

    def _try(self, x: float, steps: int) -> None:
        lr = notched(x)
        self._note(lr, steps, self.bench.judge(lr, steps, self._hopeless, self.validated))

    def _try_together(self, places: list[float], steps: int) -> bool:
        """Whether the runs could be made side by side, and were."""
        rates = [notched(x) for x in places]
        judged = self.bench.judge_together(rates, steps, self.validated)
        for lr, one in zip(rates, judged or (), strict=False):
            self._note(lr, steps, one)
        return judged is not None

    def _note(self, lr: float, steps: int, judged: Judged) -> None:
        trial = Trial(lr, steps, judged.loss)
        self._curves[trial] = judged.losses
        self.trials.append(trial)
        if not self.validated:
            # At the lowest rate so far the loss has changed least.
            slowest = self._curves[min(self.trials, key=lambda trial: trial.lr)]
            self.untrained = float(np.mean(slowest[:3]))

    def _of(self, steps: int) -> list[Trial]:
        return [trial for trial in self.trials if trial.steps == steps]

    @property
    def _hopeless(self) -> float:
        """A training loss that no run has come back from: ten times the largest drop so far above where they all began."""
        if not self._curves:
            return math.inf
        began = next(iter(self._curves.values()))[0]
        lowest = min(min(filter(math.isfinite, losses), default=math.inf) for losses in self._curves.values())
        return began + 10 * (began - lowest) if lowest < began else math.inf

    def _unknown(self, steps: int) -> Status | None:
        """Why the runs of the first rung tell nothing, if so."""
        rung = self._of(steps)
        if not rung:
            return "budget"
        finite = [trial for trial in rung if math.isfinite(trial.loss)]
        if not finite:
            return "diverged"
        if len(rung) > 1 and (len({trial.loss for trial in rung}) == 1 or len({self._curves[trial] for trial in rung}) == 1):
            return "flat"
        lowest = min(trial.loss for trial in finite)
        return None if self.untrained - lowest > _SURE * self._jitter else "noisy"

    def _better_than_chance(self) -> bool:
        """Whether the training losses say that something was learnt, beyond their scatter.

        Either the best run of some length is better than the slowest of that length, batch by batch; or it ends lower than it
        began. All runs begin alike, so where their first losses differ, the loss draws numbers of its own, and more is asked for;
        where they do not, and a validation that does not scatter ranks the runs, there is no chance in it.
        """
        firsts = [curve[0] for curve in self._curves.values()]
        seen = [loss for curve in self._curves.values() for loss in curve if math.isfinite(loss)]
        repeats = max(firsts) - min(firsts) <= _SAME * (max(seen) - min(seen))
        if repeats and self.validated and self._jitter == 0.0:
            return True
        sure = _LIKELY if repeats else _SURE
        for steps in {trial.steps for trial in self.trials}:
            rung = [trial for trial in self._of(steps) if math.isfinite(trial.loss)]
            if not rung:
                continue
            best, slowest = min(rung, key=lambda t: t.loss), min(rung, key=lambda t: t.lr)
            own, quarter = np.array(self._curves[best]), max(math.ceil(steps / 4), min(5, steps // 2))
            gain = (np.array(self._curves[slowest]) - own)[steps // 2 :]
            if _standard_errors(gain) > sure or _standard_errors(own[:quarter], own[-quarter:]) > sure:
                return True
        return False

    def _belief(self) -> Belief:
        if self._believed is not None and self._believed[0] == len(self.trials):
            return self._believed[1]  # nothing was seen since
        horizon = self.bench.steps
        seen = [Seen(math.log10(t.lr), math.log10(horizon / t.steps), t.loss) for t in self.trials]
        belief = believe(seen, self.untrained, self._guess, self._along)
        self._believed = len(self.trials), belief
        return belief

    def _choose(self, steps: int, status: Status | None) -> Answer:
        """The rate of the least expected loss, what it is known to within, and whether worse ones lie on both sides."""
        belief = self._belief()
        low, high = belief.interval(_SHARE)
        rung = sorted(self._of(steps), key=lambda trial: trial.lr)
        best = min(rung, key=lambda trial: _worst_last(trial.loss))
        inside = rung[0].lr < best.lr < rung[-1].lr
        shorter = math.log10(self.bench.steps / steps)
        x = np.linspace(math.log10(rung[0].lr) - 1, math.log10(rung[-1].lr) + 1, 81)
        fit = Fit(steps, tuple((10**x).tolist()), tuple(belief.loss(x, shorter).tolist()))
        lr = notched(belief.rate)
        lost = [t.lr for t in self.trials if t.lr > lr and not t.loss < self.untrained]  # no rate for a longer run either
        high = min([high, *(math.log10(rate) for rate in lost)])
        return Answer(
            lr, min(lr, 10 ** (low - _UNSEEN)), max(lr, 10 ** (high + _UNSEEN)), status or ("ok" if inside else "edge"),
            notched(belief.turn(shorter)), fit,
        )  # fmt: skip


def notched(x: float) -> float:
    """10^x on a scale of 20 rates a decade (ISO 3's R20, to three digits), so that answers do not hang on the last bits."""
    return float(f"{10 ** (round(x * _NOTCH) / _NOTCH):.3g}")


def _standard_errors(high: NDArray[np.float64], low: NDArray[np.float64] | None = None) -> float:
    """By how many standard errors the mean of `high` is above that of `low`, or above 0."""
    parts = [high] if low is None else [high, low]
    error = math.sqrt(sum(float(np.var(part, ddof=1)) / len(part) for part in parts)) if len(high) > 1 else math.inf
    difference = float(np.mean(high)) - (0.0 if low is None else float(np.mean(low)))
    return difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0


def _worst_last(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def _square(tensors: list[Tensor]) -> float:
    return sum(_number(t.abs().double().square().sum()) for t in tensors)


def _number(total: Tensor) -> float:
    """A sum as a number, of a sharded tensor too."""
    return float(total.full_tensor() if hasattr(total, "full_tensor") else total)


def _along(steps: list[Tensor], grads: list[Tensor | None]) -> float:
    """1 where a first update is a multiple of the gradient, clipped or not, to a thousandth; else 0, also where it is unknown."""
    pairs = [(s, g) for s, g in zip(steps, grads, strict=True) if g is not None and g.layout is torch.strided]
    dot = sum(_number((s.conj() * g).sum().real) for s, g in pairs)
    size = math.sqrt(_square([s for s, _ in pairs]) * _square([g for _, g in pairs]))
    return float(dot > 0.999 * size > 0)


def _usual_norm(tensors: list[Tensor]) -> float:
    """A tenth of the norm that the usual initialisation, 1/√fan-in, gives weights of these shapes: for nets that start at 0."""
    units = sum(t.shape[0] for t in tensors if t.ndim > 1 and t.numel()) or sum(1 for t in tensors if t.numel())
    return 0.1 * math.sqrt(units) or 1e-12
