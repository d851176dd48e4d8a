"""The specification: what one update does, on one tensor, in plain torch. Every backend is tested equal to it, and it runs
where no other can: any device, dtype, layout, complex and sharded tensors.

16-bit values are taken to float32, and rounded once when they are written back; on request at random (see `noise`).
This module knows the ten numbers; it knows no optimizer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lrkit.optim.noise import rounded
from lrkit.optim.part import Number
from lrkit.optim.rule import Form, Scalars

Maybe = Tensor | None


class Values(NamedTuple):
    """A parameter and its buffers; None where the form has none."""

    p: Tensor
    m: Maybe = None
    v: Maybe = None
    x: Maybe = None


def update(old: Values, g: Tensor, s: Scalars, form: Form) -> Values:
    """One update, out of place.

    Args:
        old: The parameter and its buffers.
        g: The gradient, of the parameter's shape.
        s: The ten numbers.
        form: What the rule has.
    """
    p, m, v, x = old
    if isinstance(s.wd, Tensor) or s.wd != 0:  # 0·θ is not 0 where θ is not finite
        g = g + s.wd * p
    if form.sign:
        return _signed(old, g, s)
    if m is not None and not form.after:
        m = s.bm * m + s.am * g
    if v is not None:
        v = s.bv * v + s.av * (g - m if form.belief and m is not None else g) ** 2 + (s.e if form.belief else 0.0)
    x, sigma = _scaled(v, x, g, s, form)
    if form.delta:
        g = (x + s.e) ** 0.5 / sigma * g
        x = s.bv * x + s.av * g**2
    elif form.after:
        g = g / sigma
        m, sigma = s.bm * m + s.am * g, 1.0
    step = s.cg * g if m is None else s.cm * m + s.cg * g if form.gradient else s.cm * m
    return Values(s.rho * p - (step if form.delta else step / sigma), m, v, x)


def _scaled(v: Maybe, x: Maybe, g: Tensor, s: Scalars, form: Form) -> tuple[Maybe, Tensor | float]:
    """The third buffer, and σ."""
    if v is None:
        return x, 1.0
    if form.centered and x is not None:
        x = s.bv * x + s.av * g
    elif form.maximum and x is not None:
        x = torch.maximum(x, s.d * v if form.maximum == 2 else v)
    return x, sigma(v, x, s, form)


def sigma(v: Tensor, x: Maybe, s: Scalars, form: Form) -> Tensor:
    """σ, from the buffers as they stand; of Adadelta's only the gradients' part."""
    if form.centered and x is not None:
        v = (v - x**2).clamp(min=0.0)  # rounding must not make a variance negative
    elif form.maximum and x is not None:
        v = x
    if form.maximum != 2:
        v = _times(s.d, v)
    root: Tensor = (v + s.e) ** 0.5 if form.inside else v**0.5 + s.e
    return root


def _times(d: Number, v: Tensor) -> Tensor:
    """d·v, and 0 where d is 0: 0·v is not where v is not finite."""
    if isinstance(d, Tensor):
        return torch.where(d == 0, 0.0, d * v)
    return v * d if d else torch.zeros_like(v)


def _signed(old: Values, g: Tensor, s: Scalars) -> Values:
    step = (s.cm + s.cg) * torch.sign(s.cg * g if old.m is None else s.cm * old.m + s.cg * g)
    return Values(s.rho * old.p - step, None if old.m is None else s.bm * old.m + s.am * g)


def apply(
    now: Values,
    g: Tensor,
    s: Scalars,
    form: Form,
    gain: float | Tensor = 1.0,
    bound: float | None = None,
    key: int | None = None,
    first: int = 0,
) -> None:
    """One update, in place; the gradient is not written.

    Args:
        now: The parameter and its buffers, real.
        g: The gradient, real.
        s: The ten numbers.
        form: What the rule has.
        gain: What the gradient is multiplied by: a number, or one a row.
        bound: What its entries are clamped to, if to anything.
        key: Of the random rounding; None rounds to the nearest.
        first: Where these entries begin in their tensor, for the rounding.
    """
    wide = torch.promote_types(now.p.dtype, torch.float32)
    old = Values(*(one if one is None else one.to(wide) for one in now))  # type: ignore[arg-type]
    g = g.to(wide) * (gain if isinstance(gain, float) else gain.to(wide))
    new = update(old, g if bound is None else g.clamp(-bound, bound), s, form)
    for i, (here, value) in enumerate(zip(now, new, strict=True)):
        if here is not None and value is not None:
            at_random = key is not None and here.dtype == torch.bfloat16
            here.copy_(rounded(value, key or 0, i, first) if at_random else value)


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of reals, the same memory."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
