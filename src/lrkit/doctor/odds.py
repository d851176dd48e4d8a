"""Odds: how probable it is that a run's rate was too low, right or too high, and which rate to use instead.

Two multinomial regressions on the `shape` of the curve, frozen in ``odds.json``: one knows nothing but the curve, the other also
how far the rate lies from what its optimizer usually wants over so many steps. Of a run that was watched, the `readings` of its
gauges move the odds of each. They were fitted on labelled sweeps by
``benchmarks/doctor/fit.py --write`` and judged on problems that were left out (``benchmarks/doctor/table.py``).

    P(word) = softmax(w · (x − mean) / scale + b)
    P(word | gauges) = softmax(log P(word) + v · (r − mean) / scale + c), a missing reading rᵢ at its mean
    log10(best rate / rate) = log10(usual rate / rate), or a · (x − mean) / scale + c where the rate is unknown
    log10(usual rate) = u(family) − s · log10(steps) − r · log10|start|

The last term is for SGD alone, whose rate depends on the loss's scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrkit.doctor.curve import Curve
from lrkit.doctor.readings import readings_of
from lrkit.doctor.shape import shape_of

Array = NDArray[np.float64]
WORDS = ("too low", "ok", "too high")
MISSED = 0.005  # share of diverged runs that the rule does not see, on labelled sweeps
_WRONG_WAY = 1.5  # errors: who is told the opposite of what is right loses a run more
_REACH = 0.84  # of the decades up to the best rate; so chosen that nine of ten who take the advice gain
_FAR = 2.0  # decades from the usual rate
_LEAST = 1e-6  # probability: gauges may overrule what was nearly sure
_FARTHEST = 4.0  # standard deviations: beyond, nothing was seen when the weights were fitted


@dataclass(frozen=True)
class Model:
    """One regression.

    Args:
        mean: (k,) of the numbers it was fitted on.
        scale: (k,) their standard deviations.
        weights: (k + 1, 3) of the words; the last row is the intercept.
    """

    mean: Array
    scale: Array
    weights: Array

    def standard(self, x: Array) -> Array:
        """(n, k + 1) the numbers as the weights take them, of (n, k)."""
        z = np.clip((x - self.mean) / self.scale, -_FARTHEST, _FARTHEST)
        return np.hstack([z, np.ones((len(z), 1))])

    def probabilities(self, x: Array) -> Array:
        """(n, 3) of the words, of (n, k) numbers."""
        score = self.standard(x) @ self.weights
        odds = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Move:
    """How the readings of gauges move a model's odds.

    Args:
        mean: (k,) of the readings it was fitted on.
        scale: (k,) their standard deviations.
        weights: (k + 1, 3) of the words; the last row is the intercept.
    """

    mean: Array
    scale: Array
    weights: Array

    def standard(self, readings: Array) -> Array:
        """(n, k + 1) the readings as the weights take them, of (n, k); one that is missing moves nothing."""
        z = np.nan_to_num(np.clip((readings - self.mean) / self.scale, -_FARTHEST, _FARTHEST))
        return np.hstack([z, np.ones((len(z), 1))])

    def moved(self, chances: Array, readings: Array) -> Array:
        """(n, 3) the words' probabilities, of (n, 3) without the gauges and (n, k) readings; rows without any stay."""
        score = np.log(np.maximum(chances, _LEAST)) + self.standard(readings) @ self.weights
        odds = np.exp(score - score.max(axis=1, keepdims=True))
        seen = np.isfinite(readings).any(axis=1, keepdims=True)
        return np.asarray(np.where(seen, odds / odds.sum(axis=1, keepdims=True), chances))


@dataclass(frozen=True)
class Odds:
    """What the regressions say of a run.

    Args:
        probabilities: {word: probability} of too low, ok and too high.
        alone: The same without the usual rate: by the curve alone, and its gauges.
        decades: log10 of the factor from the run's rate to the best one, estimated.
        usual: The rate that the run's optimizer usually wants; None where the rate or the optimizer is unknown.
        gauged: Whether gauges had their say.
    """

    probabilities: dict[str, float]
    alone: dict[str, float]
    decades: float
    usual: float | None
    gauged: bool = False

    @property
    def word(self) -> str:
        """The one that is expected to be least wrong: a word in the wrong direction counts `_WRONG_WAY` errors."""
        low, ok, high = (self.probabilities[word] for word in WORDS)
        wrong = (ok + _WRONG_WAY * high, low + high, ok + _WRONG_WAY * low)
        return WORDS[wrong.index(min(wrong))]

    @property
    def factor(self) -> float:
        """What the advice multiplies the rate with: 1 where it is ok, else at least 2 or 1/3, at most 10,000 times.

        Upwards it goes a part of the way: a step too far costs a run, one too short a part of its speed.
        """
        if self.word == "ok":
            return 1.0
        if self.word == "too low":
            return float(10 ** min(4.0, max(math.log10(2), _REACH * self.decades)))
        return float(10 ** max(-4.0, min(math.log10(1 / 3), self.decades)))


def family(optimizer: object, momentum: object = None) -> str | None:
    """The kind of optimizer, as far as the size of its usual rates goes: sgd, momentum, rmsprop, adam; None where unknown.

    Examples:
        >>> family("torch.optim.AdamW"), family("SGD"), family("SGD", 0.9), family("shampoo")
        ('adam', 'sgd', 'momentum', None)
    """
    name = str(optimizer or "").lower()
    if any(word in name for word in ("adam", "lamb", "adan")):
        return "adam"
    if "rmsprop" in name:
        return "rmsprop"
    plain = "sgd" in name or "gradientdescent" in name.replace("_", "").replace(" ", "")
    heavy = isinstance(momentum, int | float) and momentum > 0
    if "momentum" in name or "nesterov" in name or (plain and heavy):
        return "momentum"
    return "sgd" if plain else None


def odds_of(curve: Curve, book: Book | None = None) -> Odds:
    """Weigh a run's curve, and its rate where that and the optimizer are known.

    Args:
        curve: At least 30 finite losses.
        book: What was fitted; None takes the package's own.
    """
    book = book or _book()
    kind = family(curve.run.meta.get("optimizer"), curve.run.meta.get("momentum"))
    x = shape_of(curve)
    readings = readings_of(curve)[None]
    chances = alone = book.gauged_blind.moved(book.blind.probabilities(x[None]), readings)[0]
    if kind is None or curve.peak is None:
        usual = None
        decades = float((book.blind.standard(x[None]) @ book.advice)[0])
    else:
        usual = 10 ** book.usual.log10(kind, *horizon_of(curve))
        decades = float(np.log10(usual / curve.peak))
        chances = book.gauged.moved(book.known.probabilities(np.append(x, off_usual(decades))[None]), readings)[0]
    by_word, by_curve = (dict(zip(WORDS, p.tolist(), strict=True)) for p in (chances, alone))
    return Odds(by_word, by_curve, decades, usual, bool(np.isfinite(readings).any()))


def off_usual(decades: float) -> float:
    """How far the rate lies above the usual one, as the regression takes it: what is far off may be another kind of net."""
    return float(np.clip(-decades, -_FAR, _FAR))


def surely(odds: Odds, word: str, chance: float) -> Odds:
    """The odds after a rule has seen what the regressions do not: this word at least so probable, the others in proportion."""
    if odds.probabilities[word] >= chance:
        return odds
    rest = sum(odds.probabilities.values()) - odds.probabilities[word]
    scaled = {name: p * (1 - chance) / rest for name, p in odds.probabilities.items()}
    return replace(odds, probabilities={**scaled, word: chance})


@dataclass(frozen=True)
class Usual:
    """The rate that an optimizer usually wants: a centre a family, less for longer runs and, for SGD, for greater losses."""

    centres: Mapping[str, float]
    steps: float
    start: float

    def log10(self, kind: str, steps: float, start: float) -> float:
        """log10 of it, of log10 of the steps and log10 of |the first loss|."""
        return self.centres[kind] - self.steps * steps - self.start * start * (kind in ("sgd", "momentum"))


def horizon_of(curve: Curve) -> tuple[float, float]:
    """(log10 of the steps seen, log10 of |the first loss|)."""
    return float(np.log10(max(1, curve.last - curve.first))), float(np.log10(max(abs(curve.start), 1e-12)))


@dataclass(frozen=True)
class Book:
    """What was fitted: the two models, how gauges move each, and the rate that an optimizer usually wants."""

    blind: Model
    known: Model
    advice: Array  # (k + 1,) where the rate is unknown
    usual: Usual
    gauged: Move  # the known one
    gauged_blind: Move


def book_from(spec: Mapping[str, Any]) -> Book:
    """A Book from the JSON values of ``odds.json``."""
    blind, known = (Model(**{name: np.array(values) for name, values in spec[key].items()}) for key in ("blind", "known"))
    moves = (Move(**{name: np.array(values) for name, values in spec[key].items()}) for key in ("gauged", "gauged_blind"))
    return Book(blind, known, np.array(spec["advice"]), Usual(**spec["usual"]), *moves)


@cache
def _book() -> Book:
    return book_from(json.loads(Path(__file__).with_name("odds.json").read_text()))
