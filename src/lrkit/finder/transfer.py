"""Transfer: a rate found at one batch size or horizon, carried over to another (`lrkit.finder.width` does so for widths).

Each rule holds in a region of its own, so each answer says where: `Scaled.valid`. What lies outside is refused.
Knows numbers and Suggestions. Trains nothing and changes no optimizer; imports without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lrkit.errors import InputError, StateError, real, whole
from lrkit.finder.suggestion import Suggestion

if TYPE_CHECKING:
    import torch

    from lrkit.binding.refine import Groups

    Optimizer = str | type[torch.optim.Optimizer] | torch.optim.Optimizer

PLAIN = ("sgd", "momentum", "nesterov")
ADAM = ("adam", "adamw", "amsgrad", "nadam", "radam", "rmsprop")
_FORGETTING = 0.5  # largest κ·(1 − β), which shall be ≪ 1: above, the average would be of less than two updates
_UNSURE = 3.0  # the factor by which a noise scale is taken to be uncertain
_DRIFT, _SPREAD = 0.15, 0.25  # in decades of rate per decade of length: over tasks and optimizers, 0 to 0.7 were measured
_FARTHEST = 8  # ratio of two horizons


@dataclass(frozen=True)
class Scaled:
    """A rate carried over, by which rule, and where that holds.

    Args:
        lr: The rate. From `width`: the one that the groups' factors multiply.
        factor: By what the old rate was multiplied.
        low: Lower end of the interval: the old one's, moved, and widened by what the rule leaves open.
        high: Upper end of the interval.
        rule: The formula, with its numbers.
        valid: When it holds, and what is doubtful here.
        others: Hyperparameters that go with the rate, name → value.
        groups: From `width`: param groups, which any torch optimizer takes.
    """

    lr: float
    factor: float
    low: float
    high: float
    rule: str
    valid: str
    others: Mapping[str, Any] = field(default_factory=dict)
    groups: Groups | None = field(default=None, repr=False)

    def __str__(self) -> str:
        rate = f"rate {self.lr:.3g}" + (f" (interval {self.low:.2g} – {self.high:.2g})" if self.low < self.high else "")
        others = [f"{name} {_shown(value)}" for name, value in self.others.items()]
        lines = [f"{', '.join([rate, *others])}; {self.rule}", self.valid]
        return "\n".join(lines if self.groups is None else [*lines, repr(self.groups)])


Rate = float | Suggestion | Scaled


# -- batch size -------------------------------------------------------------------------------------------------------------


def batch(
    lr: Rate,
    old: int | None,
    new: int,
    optimizer: Optimizer = "adamw",
    *,
    noise_scale: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
) -> Scaled:
    """The rate for another batch size: linear for SGD, the square root for Adam and its kin::

        κ = new/old,   or (1 + N/old) / (1 + N/new), which saturates    N = noise_scale
        SGD    η ← η·κ
        Adam   η ← η·√κ,   β ← 1 − κ·(1 − β),   ε ← ε/√κ

    The interval is what N leaves open, and for Adam an exponent from 0.5 to 1. Without N it reaches from the old rate (both
    batches far above N) to the linear rule's.

    Args:
        lr: The rate at the old batch size; or a Suggestion, whose interval moves along.
        old: Samples of a batch that it is for. None: what the Suggestion's context has as ``batch_size``.
        new: Samples of the batch that one is wanted for.
        optimizer: Its name, its class, or itself: then its betas and ε are read.
        noise_scale: N, in samples, above 0: the batch from which on a larger one hardly pays; `noise_scale` estimates it.
        betas: Adam's, each in [0, 1). None: the optimizer's, else (0.9, 0.999); a first of 0 stays 0.
        eps: ε, at least 0. None: the optimizer's, else 1e-8.

    Returns:
        The rate; for Adam and its kin with ``betas`` (for RMSprop ``alpha``) and ``eps``.

    Raises:
        InputError: If a number breaks its rule, the optimizer is none of these, or κ·(1 − β) is above 0.5.
        StateError: If the Suggestion found nothing.

    Examples:
        >>> scaled = batch(1e-3, 64, 256, "adam")
        >>> scaled.lr, scaled.low, scaled.high
        (0.002, 0.001, 0.004)
        >>> [f"{beta:g}" for beta in scaled.others["betas"]], scaled.others["eps"]
        (['0.6', '0.996'], 5e-09)

    Source: Goyal et al. 2017 (arXiv 1706.02677) §2.1; McCandlish et al. 2018 (arXiv 1812.06162) for the saturation and Adam's
    exponents; Malladi et al. 2022 (arXiv 2205.10287) for the root, whose κ is new/old: that it saturates, too, is ours. Past
    the noise scale: Li et al. 2024 (arXiv 2405.14578). Decay: Wang & Aitchison 2024 (arXiv 2405.13698).
    """
    rate, low, high = interval("batch", lr)
    old = _old("batch", lr, "batch_size", old)
    new = whole("batch", "new", new, what="a number of samples")
    kind = kind_of("batch", optimizer, (*PLAIN, *ADAM))
    n = math.inf if noise_scale is None else real("batch", "noise_scale", noise_scale, above=0.0)
    power = 1.0 if kind in PLAIN else 0.5
    kappa = _saturating(old, new, n)
    factor = kappa**power
    others = _moments(kind, optimizer, betas, eps, kappa)
    unsure = (0.0, n) if noise_scale is None else (n / _UNSURE, n * _UNSURE)
    ends = [_saturating(old, new, one) ** exponent for one in unsure for exponent in (power, 1.0)]
    ratio = f"κ = {new}/{old}" if noise_scale is None else f"κ = (1 + N/{old})/(1 + N/{new}) = {kappa:.3g}, N = {n:.3g}"
    rule = f"η·κ, {ratio}" if kind in PLAIN else f"η·√κ, β ← 1 − κ·(1 − β), ε ← ε/√κ, {ratio}"
    valid = _where(kind, noise_scale, max(old, new), new / old / factor)
    return Scaled(rate * factor, factor, low * min(ends), high * max(ends), rule, valid, others)


def _saturating(old: int, new: int, n: float) -> float:
    """(1 + N/old) / (1 + N/new), also where N is infinite or 0."""
    return new / old if math.isinf(n) else new / old * ((old + n) / (new + n))


def _moments(kind: str, optimizer: Optimizer, betas: object, eps: object, kappa: float) -> dict[str, Any]:
    """Adam's other hyperparameters at the new batch size."""
    if kind in PLAIN:
        if betas is not None or eps is not None:
            raise InputError(f"batch(optimizer={kind!r}): betas and eps are Adam's, and {kind} has none. Leave them out.")
        return {}
    key, usual = ("alpha", 0.99) if kind == "rmsprop" else ("betas", (0.9, 0.999))
    came = _read(key, betas, optimizer, usual)
    old = came if isinstance(came, tuple | list) else (came,)
    if len(old) != (1 if kind == "rmsprop" else 2):
        raise InputError(f"batch({key}={came!r:.60}): {kind} has {'one' if kind == 'rmsprop' else 'two of them'}. Give as many.")
    numbers = [real("batch", key, one, least=0.0) for one in old]
    for i, beta in enumerate(numbers):
        forgets = max(1.0, kappa) * (1.0 - beta)
        if (beta != 0.0 or i == len(numbers) - 1) and not 0.0 < forgets <= _FORGETTING * (1 + 1e-9):
            raise InputError(
                f"batch({key}={came!r:.60}): the square root holds where κ·(1 − β) is far below 1, here above 0 and at most "
                f"{_FORGETTING}, got {forgets:.3g} for β = {beta:g}. Raise β first, change the batch by less, or find anew."
            )
    made = tuple(beta and 1.0 - kappa * (1.0 - beta) for beta in numbers)
    least = real("batch", "eps", _read("eps", eps, optimizer, 1e-8), least=0.0)
    return {key: made if key == "betas" else made[0], "eps": least / math.sqrt(kappa)}


def _read(key: str, given: object, optimizer: object, usual: object) -> Any:
    """A hyperparameter: the given one, else the optimizer's, else the usual one."""
    if given is not None:
        return given
    values = [group[key] for group in getattr(optimizer, "param_groups", ())]
    if any(value != values[0] for value in values):
        raise InputError(f"batch: the optimizer's groups differ in {key}, and one answer cannot serve all. Say {key}=.")
    return values[0] if values else usual


def _where(kind: str, noise_scale: float | None, largest: int, decay: float) -> str:
    """When the rule for batch sizes holds."""
    said = "Holds for as many samples in all, thus fewer updates where batches grow; with a warm-up where the rate grows much; "
    if kind in PLAIN and noise_scale is not None:
        return said + "and as far as N is known: the interval takes a third to three times of it."
    said += "and while both batches are well below the noise scale, "
    if noise_scale is None:
        said += "which is unknown here"
    else:
        said += f"which is doubtful here: {largest} is above it" if largest > noise_scale else "as far as that is known"
    if kind in PLAIN:
        return f"{said}. Far above it the rate would stay as it is."
    said += ". Above it Adam's best rate can even fall."
    return said + (f" A weight_decay beside it: times {decay:.3g}, to act over as many samples." * (kind == "adamw"))


def noise_scale(norms: Mapping[int, float | Iterable[float]]) -> float:
    """The batch size above which noise is no longer what limits the rate, from gradients' norms at two batch sizes::

        |G|² = (B·|g_B|² − b·|g_b|²) / (B − b),    tr Σ = (|g_b|² − |g_B|²) / (1/b − 1/B),    N = tr Σ / |G|²

    Args:
        norms: Two batch sizes b and B → norms of their mean gradients, unclipped; several of each, at about the same weights,
            as each square is the mean over them.

    Returns:
        N, in samples. It grows as training goes on, so a late estimate is larger.

    Raises:
        InputError: If there are not two batch sizes, a norm is no number of at least 0, or noise outweighs what they tell.

    Examples:
        >>> round(noise_scale({10: [1.0, 1.0], 1000: 0.2}), 1)
        320.0

    Source: McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1; it is the simple noise scale, which takes the Hessian for a
    multiple of 1.
    """
    call = "noise_scale"
    if not isinstance(norms, Mapping) or len(norms) != 2:
        raise InputError(f"{call}: two batch sizes are needed, got {norms!r:.60}. Give {{32: norms, 512: norms}}.")
    means = {}
    for size, given in norms.items():
        squares = [real(call, "norm", one, least=0.0) ** 2 for one in np.ravel(np.asarray(given)).tolist()]
        if not squares:
            raise InputError(f"{call}: a batch size of {size} needs norms, and there are none. Give at least one.")
        means[whole(call, "batch size", size, what="a number of samples")] = math.fsum(squares) / len(squares)
    (b, small), (big, large) = sorted(means.items())
    signal, noise = (big * large - b * small) / (big - b), (small - large) / (1 / b - 1 / big)
    if signal <= 0 or noise <= 0:
        raise InputError(
            f"{call}: |G|² and tr Σ must be above 0, got {signal:.3g} and {noise:.3g}: too few norms for their noise. Average "
            "over more batches, or take sizes farther apart."
        )
    return noise / signal


# -- horizon ----------------------------------------------------------------------------------------------------------------


def horizon(lr: Rate, old: int | None, new: int, drift: float | None = None, *, spread: float = _SPREAD) -> Scaled:
    """The peak rate for a longer or shorter run, with its whole schedule stretched or compressed::

        η ← η·(new/old)^(−s)    s = drift

    Args:
        lr: The peak rate at the old length; or a Suggestion, whose interval moves along.
        old: Length that it is for, in updates. None: what the Suggestion's context has as ``horizon``.
        new: Length that one is wanted for, from an eighth to 8 times the old.
        drift: s, the decades by which the best rate falls when the run gets ten times as long, of your own fit. None: 0.15.
        spread: By how much s is uncertain, at least 0: the interval widens by it with every decade.

    Returns:
        The rate.

    Raises:
        InputError: If a number breaks its rule, or the lengths are more than 8 times apart.
        StateError: If the Suggestion found nothing.

    Examples:
        >>> scaled = horizon(1e-2, 1_000, 8_000)
        >>> round(scaled.lr, 5), round(scaled.low, 5), round(scaled.high, 5)
        (0.00732, 0.00435, 0.01231)

    Source: Bjorck et al. 2024 (arXiv 2409.19913) for the power law. The default s and its spread stand for what was measured on
    small tasks, 0 to 0.7.
    """
    rate, low, high = interval("horizon", lr)
    old, new = _old("horizon", lr, "horizon", old), whole("horizon", "new", new)
    s = _DRIFT if drift is None else real("horizon", "drift", drift)
    spread = real("horizon", "spread", spread, least=0.0)
    ratio = new / old
    if not 1 / _FARTHEST <= ratio <= _FARTHEST:
        raise InputError(
            f"horizon({old} → {new}): the rule reaches {_FARTHEST} times as far either way, got {ratio:.3g} times. Find a rate "
            "at a length in between, and go on from there."
        )
    factor, wide = ratio**-s, max(ratio, 1 / ratio) ** spread
    whose = "a prior, and tasks differ much: fit your own from two lengths" if drift is None else "your own"
    valid = (
        "Holds for the same batches and a schedule that is stretched as a whole, not for one that is continued; s is "
        f"{whose}. Refused beyond {_FARTHEST} times."
    )
    rule = f"η·({new}/{old})^(−s), s = {s:g} ± {spread:g}"
    return Scaled(rate * factor, factor, low * factor / wide, high * factor * wide, rule, valid)


# -- what all rules ask -----------------------------------------------------------------------------------------------------


def interval(call: str, lr: object) -> tuple[float, float, float]:
    """A rate with its interval, which of a plain number is the number alone.

    Raises:
        InputError: If it is no number above 0.
        StateError: If it is a Suggestion that found nothing.
    """
    if isinstance(lr, Suggestion) and not lr.found:
        raise StateError(f"{call}: there is no rate to carry over (status {lr.status!r}): {lr.reason}.")
    if isinstance(lr, Suggestion | Scaled):
        return lr.lr, lr.low, lr.high
    rate = real(call, "lr", lr, above=0.0)
    return rate, rate, rate


def kind_of(call: str, optimizer: object, known: tuple[str, ...]) -> str:
    """The optimizer's name in small letters; ``"adamw"`` for every one of torch's that decays apart from the gradient.

    Raises:
        InputError: If it is none of those known.
    """
    kinds = (optimizer if isinstance(optimizer, type) else type(optimizer)).__mro__
    names = [optimizer] if isinstance(optimizer, str) else [kind.__name__ for kind in kinds]
    found = next((name.lower() for name in names if name.lower() in known), None)
    if found is None:
        raise InputError(
            f"{call}(optimizer={names[0]!r:.60}): the rule is known for {', '.join(known)}, got another. Name the one that it is "
            "most like."
        )
    return "adamw" if getattr(optimizer, "defaults", {}).get("decoupled_weight_decay") else found


def _old(call: str, lr: object, key: str, given: object) -> int:
    """What the rate is for: as the user says, or as the Suggestion knows."""
    known = lr.context.get(key) if isinstance(lr, Suggestion) else None
    if given is None and known is None:
        raise InputError(f"{call}(old=None): what the rate is for must be known, and it does not say. Give old=.")
    old = whole(call, "old", known if given is None else given)
    if known is not None and old != known:
        raise InputError(f"{call}(old={old}): the Suggestion's {key} is {known}, got {old}. Leave old out: None.")
    return old


def _shown(value: object) -> str:
    return f"({', '.join(f'{one:g}' for one in value)})" if isinstance(value, tuple) else f"{value:g}"
