"""`effective_lr`: η/σ, the rate at which each entry of each parameter really moves; and which entries do not move at all.

Read from the optimizer's state, of lrkit's optimizers and of torch's: nothing is recorded for it, and nothing is copied but what
is asked for. Knows rules and torch's classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrkit.errors import InputError, real
from lrkit.optim.adam import adam_rule, nadam_rule, radam_rule
from lrkit.optim.adaptive import adadelta_rule, adagrad_rule, rmsprop_rule
from lrkit.optim.lists import flat
from lrkit.optim.momentum import sgd_rule
from lrkit.optim.optimizer import Choose, Optimizer
from lrkit.optim.part import Number
from lrkit.optim.reference import Values, sigma
from lrkit.optim.rule import Rule, Scalars

_MIRRORED: dict[type, Choose] = {
    torch.optim.SGD: sgd_rule, torch.optim.RMSprop: rmsprop_rule, torch.optim.Adagrad: adagrad_rule,
    torch.optim.Adadelta: adadelta_rule, torch.optim.AdamW: adam_rule, torch.optim.Adam: adam_rule,
    torch.optim.NAdam: nadam_rule, torch.optim.RAdam: radam_rule,
}  # fmt: skip
Entries = int | Tensor  # every k-th, or these
_SAMPLE = 2**20  # entries: of a larger parameter every k-th is looked at


class Place(NamedTuple):
    """One parameter of an optimizer."""

    name: str
    group: Mapping[str, Any]
    entry: Mapping[str, Any]


class Moments(NamedTuple):
    """What one parameter's last update was scaled with: m̂ = cm·m and v̂ = d·v, in flat reals, this process's part.

    Args:
        parameter: Whose.
        m: The mean of its gradients, where the direction is that alone; else None.
        v: The mean of their squares; None where the rule has none.
        cm: What m is multiplied by, without η.
        d: What v is multiplied by.
        eps: ε, as it is added to √v̂.
    """

    parameter: Tensor
    m: Tensor | None
    v: Tensor | None
    cm: Number
    d: Number
    eps: Number


class EffectiveRates(Mapping[Tensor, Tensor]):
    """parameter ↦ η/σ, of the parameter's shape; computed when it is asked for. NaN where there is no σ before the first update.

    Made by `effective_lr`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, choose: Choose) -> None:
        self._optimizer, self._choose = optimizer, choose
        self._rounds_at_random = isinstance(optimizer, Optimizer) and optimizer.seed is not None

    def _places(self) -> Iterator[tuple[Tensor, Place]]:
        named = [group.get("name") for group in self._optimizer.param_groups]
        for i, group in enumerate(self._optimizer.param_groups):
            own = named[i] if named[i] and named.count(named[i]) == 1 else i
            names = group.get("param_names") or [f"{own}.{k}" for k in range(len(group["params"]))]
            for name, p in zip(names, group["params"], strict=True):
                yield p, Place(name, group, self._optimizer.state.get(p, {}))

    def __iter__(self) -> Iterator[Tensor]:
        """The parameters, in the optimizer's order."""
        return (p for p, _ in self._places())

    def __len__(self) -> int:
        """How many parameters there are."""
        return sum(len(group["params"]) for group in self._optimizer.param_groups)

    def __contains__(self, parameter: object) -> bool:
        """Whether the optimizer has this parameter."""
        return any(p is parameter for p in self)

    def __getitem__(self, parameter: Tensor) -> Tensor:
        """η/σ of one parameter.

        Raises:
            KeyError: If the optimizer does not have it.
        """
        for p, place in self._places():
            if p is parameter:
                rate = self._rate(p, place, 1)
                if p.is_complex() and rate.dim():
                    return torch.view_as_complex(rate)
                return rate.expand((p.to_local() if hasattr(p, "to_local") else p).shape)
        raise KeyError("effective_lr(…)[parameter]: the optimizer does not have this parameter.")

    def moments(self) -> Iterator[Moments]:
        """What the parameters that have been updated were scaled with; nothing is copied and no device is waited for."""
        scalars: dict[tuple[int, int], tuple[Rule, Scalars]] = {}  # many parameters share their hyperparameters and their count
        for p, place in self._places():
            if not place.entry:
                continue
            t = place.entry.get("step", 2)
            t = t if isinstance(t, Tensor) and t.device.type != "cpu" else int(t)
            key = (id(place.group), t if isinstance(t, int) else id(t))
            if key not in scalars:
                rule = self._choose(place.group)
                scalars[key] = rule, rule.scalars(t, place.group, _carry(rule, place))
            rule, s = scalars[key]
            m, v, _ = (place.entry.get(name) if name else None for name in rule.names)
            eta = rule.rate(t, place.group)
            alone = rule.form.square and not (rule.form.after or rule.form.delta or (rule.form.gradient and s.cg))
            eps = s.e**0.5 if rule.form.inside else s.e
            m = flat(m) if alone and m is not None and (isinstance(eta, Tensor) or eta) else None
            yield Moments(p, m, None if v is None else flat(v), None if m is None else s.cm / eta, s.d, eps)

    def rates(self, entries: Mapping[Tensor, Tensor] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(parameter, η/σ) of each that has been updated; one number comes where all entries have the same rate.

        Args:
            entries: parameter ↦ which entries of its flat part; None: all, in the parameter's shape.
        """
        for p, place in self._places():
            if place.entry or not self._choose(place.group).form.square:
                yield p, self._rate(p, place, 1 if entries is None else entries[p])

    @torch.no_grad()
    def _rate(self, p: Tensor, place: Place, every: Entries) -> Tensor:
        """η/σ, of some entries; of one number where all entries have the same."""
        rule, t = self._rule(place)
        rate = torch.as_tensor(rule.rate(max(t, 1), place.group), dtype=torch.float64)
        if not rule.form.square:
            return rate.to(_wide(flat(p)))
        values = _values(p, place, rule, every)
        if t == 0 or values.v is None:
            return torch.full((), math.nan)
        s = rule.scalars(t, place.group, _carry(rule, place))
        if rule.form.delta and values.x is not None:
            rate = rate.to(values.v.device) * (_before(values, _gradient(p, every), s) + s.e) ** 0.5
        return rate.to(values.v.device) / sigma(values.v, values.x, s, rule.form)

    def _rule(self, place: Place) -> tuple[Rule, int]:
        rule = self._choose(place.group)
        if not rule.counts:
            return rule, 2
        return rule, int(place.entry.get("step", 0))

    def quantiles(self, q: Sequence[float] | float = (0.05, 0.25, 0.5, 0.75, 0.95)) -> dict[str, tuple[float, ...]]:
        """Quantiles of η/σ, one row a parameter; of one with more than a million entries every k-th is looked at.

        Args:
            q: Which, each from 0 to 1.

        Returns:
            name ↦ as many rates as `q` has. The name is that of `named_parameters`, where the optimizer was given it; else group
            and place: ``"0.3"``.

        Raises:
            InputError: If one is not from 0 to 1.
        """
        q = q if isinstance(q, Sequence) else (q,)
        at = torch.tensor([real("quantiles", "q", one, least=0.0) for one in q])
        if bool((at > 1).any()):
            raise InputError(f"quantiles(q={tuple(q)}): each must be from 0 to 1.")
        rows = {}
        for p, place in self._places():
            rate = self._rate(p, place, _every(p)).float().cpu().reshape(-1)
            rows[place.name] = tuple(torch.quantile(rate, at).tolist()) if rate.numel() else tuple(math.nan for _ in q)
        return rows

    @torch.no_grad()
    def unmoved(self) -> dict[str, float]:
        """Which parameters do not move though they should: the share of entries whose update rounds to zero.

        In bfloat16 a weight has eight bits: an update below 1/512 of it is lost. `stochastic_rounding=True` cures that. Entries
        without an update are not counted, and parameters of which neither m nor a gradient tells the update are left out.

        Returns:
            name ↦ share, from 0 to 1, for the parameters that have any.
        """
        shares = {}
        for p, place in self._places():
            rule, t = self._rule(place)
            every = _every(p)
            if self._rounds_at_random and p.dtype == torch.bfloat16:
                continue
            values, g = _values(p, place, rule, every), _gradient(p, every)
            if t == 0 or values.p.numel() == 0 or (values.m is None and g is None) or (rule.form.square and values.v is None):
                continue
            moved = _step(rule, t, place, values, g)
            still = ((values.p - moved).to(p.dtype if not p.is_complex() else values.p.dtype) == values.p) & (moved != 0)
            wanted = int((moved != 0).sum())
            if wanted and (share := float(still.sum()) / wanted) > 0:
                shares[place.name] = share
        return shares

    def __repr__(self) -> str:
        """A table: quartiles a parameter, and what does not move."""
        unmoved = self.unmoved()
        lines = [f"{'η/σ':<32}{'5 %':>11}{'median':>11}{'95 %':>11}"]
        for name, row in self.quantiles((0.05, 0.5, 0.95)).items():
            note = f"   {unmoved[name]:.0%} of its entries do not move" if name in unmoved else ""
            lines.append(f"{name:<32}" + "".join(f"{one:>11.3g}" for one in row) + note)
        return "\n".join(lines)


def effective_lr(optimizer: torch.optim.Optimizer) -> EffectiveRates:
    """The rate at which each entry really moves: η/σ, in ``θ ← θ − (η/σ)·m``.

    η is the rate at hand with the rule's own factors (RAdam's rₜ); σ is that of the last update, with its correction and ε; m is
    the direction, with its correction. For rules without a scale it is η.

    Args:
        optimizer: One of lrkit's, or torch's SGD, RMSprop, Adagrad, Adadelta, Adam, AdamW, NAdam, RAdam, or a subclass.

    Returns:
        parameter ↦ η/σ; `.quantiles()` a layer, `.unmoved()`; it reads the state when it is asked, not now.

    Raises:
        InputError: If the optimizer's update has no such form.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = torch.optim.Adagrad([weight], lr=0.1)
        >>> weight.grad = torch.tensor([10.0, 0.01])
        >>> optimizer.step()
        >>> [round(rate, 4) for rate in effective_lr(optimizer)[weight].tolist()]
        [0.01, 10.0]
    """
    if isinstance(optimizer, Optimizer):
        return EffectiveRates(optimizer, optimizer.choose)
    for kind, choose in _MIRRORED.items():
        if isinstance(optimizer, kind):
            return EffectiveRates(optimizer, choose)
    inner = " Pass its .optimizer." if isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer) else ""
    known = ", ".join(kind.__name__ for kind in _MIRRORED)
    raise InputError(
        f"effective_lr({type(optimizer).__name__}): its update has no η/σ that is known here; known are {known}.{inner}"
    )


def _every(p: Tensor) -> int:
    return max(1, -(-p.numel() // _SAMPLE))


def _sample(tensor: Tensor, every: Entries) -> Tensor:
    if isinstance(every, Tensor):
        return tensor.reshape(-1)[every]
    return tensor if every == 1 else tensor.reshape(-1)[::every] if tensor.is_contiguous() else tensor.flatten()[::every]


def _gradient(p: Tensor, every: Entries) -> Tensor | None:
    return None if p.grad is None or p.grad.layout != torch.strided else _sample(flat(p.grad), every).to(_wide(flat(p)))


def _before(values: Values, g: Tensor | None, s: Scalars) -> Tensor:
    """Adadelta's mean of squared steps as the last update found it; without that update's gradient: as the next one finds it."""
    x, v = values.x, values.v
    if x is None or v is None:
        raise AssertionError("Adadelta has both")
    if g is None:
        return x
    ratio = g**2 / (v + s.e)  # x = bv·before + av·(before + e)·ratio
    before: Tensor = (x - s.av * s.e * ratio) / (s.bv + s.av * ratio)
    return before


def _values(p: Tensor, place: Place, rule: Rule, every: Entries) -> Values:
    """A parameter and its buffers, as wide reals; of every k-th entry."""
    buffers = [place.entry.get(name) if name else None for name in rule.names]
    return Values(*(None if one is None else _sample(flat(one), every).to(_wide(flat(one))) for one in (p, *buffers)))  # type: ignore[arg-type]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _carry(rule: Rule, place: Place) -> float | None:
    name = rule.direction.CARRY
    return float(place.entry[name]) if name else None


def _step(rule: Rule, t: int, place: Place, values: Values, g: Tensor | None) -> Tensor:
    """What is taken off the parameter at the present rate, decay included."""
    s, form = rule.scalars(t, place.group, _carry(rule, place)), rule.form
    gradient = torch.zeros_like(values.p) if g is None else -g if place.group["maximize"] else g
    if form.sign:
        moved = (s.cm + s.cg) * torch.sign(s.cg * gradient if values.m is None else s.cm * values.m + s.cg * gradient)
    else:
        moved = s.cg * gradient if values.m is None else s.cm * values.m + s.cg * gradient
        if values.v is not None and not (form.after and values.m is not None):
            moved = moved / sigma(values.v, values.x, s, form)
            if form.delta and values.x is not None:
                moved = moved * (values.x + s.e) ** 0.5
    whole: Tensor = moved + (1.0 - s.rho) * values.p
    return whole
