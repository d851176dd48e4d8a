"""The basin: how the loss after a short run depends on its rate and its length, and what the runs seen so far say of it.

Knows numbers only: log-rates, lengths, losses. Knows neither nets nor optimizers, and imports without torch.

A run is judged by r, the share of the attainable drop that it still misses: 1 untrained, 0 as good as can be. With x the
log10 of the rate and d = log10(updates of the real run / updates of this run),

    r(x, d) = u + (1 − u)·v
    u = (1 − b)·σ(p·q) + b·σ(p₂·(q − δ)),   q = x − m − a·d      not yet learnt: what counts is rate × length, so a short
                                                                 run needs a higher rate; a share b is learnt δ decades later
    v = σ(−s·(x − m − w − k·d))                                  blown up: an edge w decades higher, which hardly moves
    σ(z) = 1 / (1 + 10^z)

and the loss is that of the untrained net minus (1 − r) times the attainable drop, the tenth number.

Nobody knows the ten numbers of a task in advance. So many basins are drawn from what short trainings usually look like, always
the same ones, and each is weighed by how well it explains the runs seen so far (importance sampling). The rate that is chosen
has the least *expected* miss at d = 0, over all that are still plausible: the two sides of a basin differ, and so the choice
keeps away from the edge by as much as is uncertain. A run that diverged says r = 1, wherever its loss may have been. Nothing is
drawn anew, so what is believed moves smoothly with what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_K, DROP = 8, 9  # columns: the edge's shift, and log10 of the attainable drop over the largest seen
_SHIFT, _SHIFT_SPREAD = 1.2, 0.12  # a: by how much a run ten times as short wants its left side higher
# k: where updates follow the gradient, long runs blow up earlier; where each entry is scaled, the first updates are the wildest.
_EDGE_ALONG, _EDGE_SCALED, _EDGE_SPREAD = 0.35, -0.1, 0.22
_WIDTH_SHAPE, _WIDTH_SCALE = 4.0, 0.55  # w is gamma distributed
_DROP_MOST, _DROP_POWER = 1.0, 3.0  # mostly what was seen is nearly all there is; after tiny runs there may be much more
_FLOOR, _WOBBLE, _TAIL = 0.012, 0.10, 4.0  # spread of r about the curve: at its ends, halfway; degrees of freedom
_DRAWN, _PART = 300_000, 20_000  # basins that are drawn, and weighed at a time
_FIRST, _SHARE = 3, 8  # the longest runs alone decide which eighth of the basins is weighed by all runs
_PARENTS, _GENERATIONS = 200, 20  # of the fit that is drawn
_KEPT, _EFFECTIVE = 4_000, 40.0  # basins of the likeliest that are kept; how many of them must count at least
_GRID = np.arange(-5.0, 5.0, 0.05)


@dataclass(frozen=True)
class Seen:
    """A run: log10 of its rate, its `shorter` = log10(real length / its length) and its loss, NaN where it diverged."""

    x: float
    shorter: float
    loss: float


def missing(basins: Array, x: Array, shorter: Array | float) -> Array:
    """r of each basin at each place.

    Args:
        basins: The ten numbers of each, (n, 10).
        x: log10 of the rate, relative to the guess that the basins are relative to, (m,).
        shorter: log10 of how many times as short the run is, (m,) or one number.

    Returns:
        (n, m), in (0, 1).
    """
    m, p, b, delta, p2, a, w, s, k = (basins[:, i : i + 1] for i in range(DROP))
    q = x[None] - m - a * shorter
    unlearnt = (1 - b) * _falling(p * q) + b * _falling(p2 * (q - delta))
    blown = _falling(-s * (x[None] - m - w - k * shorter))
    return np.asarray(unlearnt + (1 - unlearnt) * blown)


@dataclass(frozen=True)
class Belief:
    """What is known after some runs.

    Args:
        guess: log10 of the rate that the basins' places are relative to.
        untrained: Loss before any update.
        scale: The largest drop seen.
        basins: The likeliest ones, (n, 10).
        weight: How likely each is, (n,), 1 in sum.
        fitted: The one that fits best, moved until it does, (10,): for a picture.
    """

    guess: float
    untrained: float
    scale: float
    basins: Array
    weight: Array
    fitted: Array

    @property
    def rate(self) -> float:
        """log10 of the rate with the least expected miss after the real run."""
        return self.turn(0.0)

    def turn(self, shorter: float) -> float:
        """log10 of the rate with the least expected miss after a run of this length: where its loss turns upwards."""
        return self.guess + float(_GRID[(self.weight @ missing(self.basins, _GRID, shorter)).argmin()])

    def interval(self, share: float) -> tuple[float, float]:
        """The log10 rates between which the best one lies with this probability."""
        best = _GRID[missing(self.basins, _GRID, 0.0).argmin(axis=1)]
        order = best.argsort(kind="stable")
        below = self.weight[order].cumsum()
        low, high = (best[order][min(int(below.searchsorted(q)), len(best) - 1)] for q in ((1 - share) / 2, (1 + share) / 2))
        return self.guess + float(low), self.guess + float(high)

    def loss(self, x: Array, shorter: float) -> Array:
        """The loss at these log10 rates after runs of one length, (m,), in the basin that fits the runs best."""
        drop = self.scale * 10 ** self.fitted[DROP]
        return np.asarray(self.untrained - drop * (1 - missing(self.fitted[None], x - self.guess, shorter)[0]))


def believe(runs: Sequence[Seen], untrained: float, guess: float, along: bool) -> Belief:
    """What the runs say, given what trainings usually look like. The same runs always give the same belief.

    Args:
        runs: At least one of them with a finite loss.
        untrained: Loss before any update.
        guess: log10 of a rate in the right region, to within about two decades.
        along: Whether the optimizer follows the gradient (SGD), else it scales its entries (Adam).
    """
    x, shorter = np.array([run.x for run in runs]) - guess, np.array([run.shorter for run in runs])
    loss = np.array([run.loss for run in runs])
    scale = max(untrained - float(np.nanmin(loss)), 1e-9 * abs(untrained), 1e-30)
    gained = (untrained - np.where(np.isfinite(loss), np.minimum(loss, untrained), untrained)) / scale
    longest = np.argsort(shorter, kind="stable")[:_FIRST]
    basins, likelihood = [], []
    for part in np.split(_usual(_DRAWN), _DRAWN // _PART):
        part[:, _K] += _EDGE_ALONG if along else _EDGE_SCALED
        likely = np.argpartition(-_explained(part, x[longest], shorter[longest], gained[longest]), _PART // _SHARE)
        basins.append(part[likely[: _PART // _SHARE]])
        likelihood.append(_explained(basins[-1], x, shorter, gained))
    drawn, value = np.concatenate(basins), np.concatenate(likelihood)
    kept = np.argsort(-value, kind="stable")[:_KEPT]
    fitted = _fit(drawn[kept[:_PARENTS]], x, shorter, gained)
    return Belief(guess, untrained, scale, drawn[kept], _weights(value[kept]), fitted)


def _fit(parents: Array, x: Array, shorter: Array, gained: Array) -> Array:
    """Of some basins, and of their children that differ from them less and less, the one with the least squares, (10,).

    Of two that fit alike the one that promises less beyond what was seen.
    """

    def misfit(family: Array) -> Array:
        off = 1 - gained / 10 ** family[:, DROP : DROP + 1] - missing(family, x, shorter)
        return np.asarray((off**2).sum(axis=1) + 0.1 * family[:, DROP] ** 2)

    random = np.random.default_rng(1)
    low, high, spread = parents.min(axis=0), parents.max(axis=0), parents.std(axis=0)
    for i in range(_GENERATIONS):
        children = np.repeat(parents, 10, axis=0)
        children += 0.8**i * spread * random.standard_normal(children.shape) * (random.random(children.shape) < 0.5)
        family = np.concatenate([parents, children.clip(low - spread, high + spread)])
        family[:, DROP] = family[:, DROP].clip(min=0.0)
        parents = family[np.argsort(misfit(family), kind="stable")[: len(parents)]]
    return np.asarray(parents[0])


def _weights(likelihood: Array) -> Array:
    """What each of the likeliest counts: its likelihood, tempered until the answer does not hang on a few of them."""
    for power in 0.95 ** np.arange(100):
        weight = np.exp(power * (likelihood - likelihood.max()))
        weight /= weight.sum()
        if 1 / float((weight**2).sum()) >= _EFFECTIVE:
            break
    return np.asarray(weight)


def _explained(basins: Array, x: Array, shorter: Array, gained: Array) -> Array:
    """Log-likelihood of what the runs gained, under each basin, (n,)."""
    expected = missing(basins, x, shorter)
    spread = _FLOOR + _WOBBLE * np.sqrt(np.clip(expected * (1 - expected), 0.0, None))
    off = (1 - gained / 10 ** basins[:, DROP : DROP + 1] - expected) / spread
    return np.asarray((-(_TAIL + 1) / 2 * np.log1p(off**2 / _TAIL) - np.log(spread)).sum(axis=1))


def _falling(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(np.clip(math.log(10) * z, -70, 70))))  # a power of 10 takes three times as long


def _usual(n: int) -> Array:
    """Basins as small trainings have them: the prior, (n, 10); k without its mean."""
    random = np.random.default_rng(0)
    basins = np.empty((n, 10), order="F")
    basins[:, 0] = random.uniform(-3.0, 2.0, n)  # m
    basins[:, 1] = 10 ** random.uniform(0.1, 0.6, n)  # p
    basins[:, 2] = 0.8 * random.beta(1, 3, n)  # b
    basins[:, 3] = random.uniform(0.2, 1.6, n)  # δ
    basins[:, 4] = 10 ** random.uniform(-0.05, 0.4, n)  # p₂
    basins[:, 5] = random.normal(_SHIFT, _SHIFT_SPREAD, n)  # a
    basins[:, 6] = 0.3 + random.gamma(_WIDTH_SHAPE, _WIDTH_SCALE, n)  # w
    basins[:, 7] = 10 ** random.uniform(0.35, 1.0, n)  # s
    basins[:, _K] = random.normal(0.0, _EDGE_SPREAD, n)  # k
    basins[:, DROP] = _DROP_MOST * random.uniform(0.0, 1.0, n) ** _DROP_POWER
    return basins
