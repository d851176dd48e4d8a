"""Rule: a direction, a scale, a decay, put together and reduced to ten numbers an update.

    g ← g + wd·p
    m ← bm·m + am·g
    v ← bv·v + av·g²
    p ← rho·p − (cm·m + cg·g) / (√(d·v) + e)

Every rule of the family is these four lines; only the numbers differ (`Scalars`), and, for the siblings, a few flags that are
fixed for a run (`Form`). Whatever executes the lines (see `backends`) knows nothing else, so that parts compose at no cost.
This module knows parts and param groups; it touches no tensor of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from lrkit.errors import InputError
from lrkit.optim.decay import Decay
from lrkit.optim.direction import Direction, Gradient, HeavyBall, Sign
from lrkit.optim.factor import Factor
from lrkit.optim.part import Number, number, where
from lrkit.optim.scale import Average, Belief, Epsilon, Maximum, Scale, Steps, Unit


class Scalars(NamedTuple):
    """The ten numbers of one update; see the module for what each multiplies."""

    wd: Number
    bm: Number
    am: Number
    bv: Number
    av: Number
    rho: Number
    cm: Number
    cg: Number
    d: Number
    e: Number


class Form(NamedTuple):
    """What of a rule does not change from update to update: which buffers there are, and in which order they are used."""

    momentum: bool = False  # there is m
    gradient: bool = True  # cg can be other than 0
    after: bool = False  # m is of g/σ
    sign: bool = False  # the step is the sign of the direction; m is mixed afterwards
    square: bool = False  # there is v
    inside: bool = False  # ε inside the root
    belief: bool = False  # v is of g − m, and ε is stored
    centered: bool = False  # x: the mean of g
    maximum: int = 0  # x: 1 the largest v, 2 the largest d·v
    delta: bool = False  # x: the mean of the squared steps

    def names(self) -> list[str]:
        """The flags that are set."""
        return [name for name, value in self._asdict().items() if value]

    @property
    def extra(self) -> bool:
        """Whether there is a third buffer, x."""
        return self.centered or self.maximum > 0 or self.delta


@dataclass(frozen=True)
class Rule:
    """Parts, put together: what an optimizer does with one param group.

    Args:
        direction: What the step follows.
        scale: What it is divided by.
        decay: How weights decay.
        eps: ε, and its place.
        factors: What the rate is multiplied by.
        counts: Whether the state holds the number of updates, as ``step``.

    Raises:
        InputError: If two parts contradict each other.
    """

    direction: Direction = Gradient()
    scale: Scale = Unit()
    decay: Decay = Decay()
    eps: Epsilon = Epsilon()
    factors: tuple[Factor, ...] = ()
    counts: bool = True

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        scaled = not isinstance(self.scale, Unit)
        after = isinstance(self.direction, HeavyBall) and self.direction.of == "update"
        if isinstance(self.direction, Sign) and scaled:
            raise InputError(
                f"Optimizer(direction=Sign, scale={type(self.scale).__name__}): a sign has no size to be scaled. Drop one."
            )
        if isinstance(self.scale, Belief) and (not self.direction.buffer or after):
            raise InputError(
                "Optimizer(scale=Belief): it is the deviation from a mean of gradients. Give direction=MovingAverage()."
            )
        if isinstance(self.scale, Average) and self.scale.centered and isinstance(self.scale, Maximum | Belief):
            raise InputError(
                f"Optimizer(scale={type(self.scale).__name__}): it cannot be centered, too. Use Average(centered=True)."
            )
        if isinstance(self.scale, Steps) and self.direction.buffer:
            raise InputError("Optimizer(scale=Steps): Adadelta's scale takes the gradient itself. Leave direction out.")
        if after and not scaled:
            raise InputError("Optimizer(direction=HeavyBall(of='update')): there is no scale. Give one, or of='gradient'.")

    @cached_property
    def form(self) -> Form:
        """What does not change from update to update."""
        scale, direction = self.scale, self.direction
        return Form(
            momentum=bool(direction.buffer),
            gradient=direction.mixes_gradient,
            after=isinstance(direction, HeavyBall) and direction.of == "update",
            sign=isinstance(direction, Sign),
            square=not isinstance(scale, Unit),
            inside=self.eps.place == "inside" or isinstance(scale, Steps),
            belief=isinstance(scale, Belief),
            centered=isinstance(scale, Average) and scale.centered,
            maximum={"raw": 1, "corrected": 2}[scale.of] if isinstance(scale, Maximum) else 0,
            delta=isinstance(scale, Steps),
        )

    @cached_property
    def names(self) -> tuple[str, str, str]:
        """The names in the state of m, v and x; empty where there is none."""
        form, scale = self.form, self.scale
        extra = ""
        if isinstance(scale, Maximum):
            extra = scale.largest
        elif isinstance(scale, Steps):
            extra = scale.steps
        elif isinstance(scale, Average) and form.centered:
            extra = scale.mean
        return self.direction.buffer, scale.buffer, extra

    def rate(self, t: Number, group: Mapping[str, Any]) -> Number:
        """η with its factors, at update t."""
        rate = number(group, "lr")
        for factor in self.factors:
            rate = rate * factor.at(t, group)
        return rate

    def scalars(self, t: Number, group: Mapping[str, Any], carry: Number | None = None) -> Scalars:
        """The ten numbers of update t.

        Args:
            t: The update, counted from 1; a tensor on a device gives tensors.
            group: The hyperparameters.
            carry: What the direction remembers besides m; None: what it would be, had the hyperparameters always been these.

        Raises:
            InputError: If t is a number below 1.
        """
        if not isinstance(t, Tensor) and t < 1:
            raise InputError(f"scalars({t}): updates are counted from 1, got {t}.")
        rate = self.rate(t, group)
        bm, am, cm, cg = self.direction.mix(t, group, carry)
        bv, av, d = self.scale.weigh(t, group)
        e = self.eps.at(group, d)
        wd, rho = self.decay.pull(group, number(group, "lr"))
        if isinstance(self.direction, HeavyBall) and self.direction.rate == "inside":
            am, cg, rate = rate * am, rate * cg, 1.0
        for factor in self.factors:
            use = factor.scaled(t, group)
            if use is not True:
                d, e = where(use, d, 0.0), where(use, e, 1.0)
        return Scalars(wd, bm, am, bv, av, rho, rate * cm, rate * cg, d, e)

    def formula(self, group: Mapping[str, Any]) -> list[str]:
        """The rule in symbols, a line a part."""
        step, memory = self.direction.formula(group)
        square, recursion = self.scale.formula(group)
        weight, decay = self.decay.formula(group)
        factors = [factor.formula(group) for factor in self.factors]
        rate = "·".join(["η", *(one for one in factors if one)])
        sigma = self.eps.formula(square) if square else ""
        inside = isinstance(self.direction, HeavyBall) and self.direction.rate == "inside"
        if self.form.delta:
            line = f"θ ← {weight} − {rate}·√(u + ε)/√(v + ε)·g"
        elif self.form.after:
            line = f"θ ← {weight} − {'' if inside else rate + '·'}{step},   σ = {sigma}"
        else:
            line = f"θ ← {weight} − {rate}·{step}" + (f" / {sigma}" if sigma else "")
        eps = (
            f"ε = {float(number(group, self.eps.value)):g}, {self.eps.place}"
            if square and isinstance(self.eps.value, str)
            else ""
        )
        return [line, *(one for one in (memory, recursion, decay, eps) if one)]
