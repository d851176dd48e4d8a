"""Fused: torch's own fused kernels, called with the ten numbers folded into their arguments.

They know Adam, AdamW, SGD and Adagrad only; but told that a billion steps are done, so that their own corrections are 1, and
given other rates and betas at every step, ``_fused_adam_`` also says RAdam, RMSprop, the mean of all squares, and NAdam (whose m
is put right afterwards). What it cannot say, `Fused.can` refuses, and the reference does it.
This module knows torch's kernels and the ten numbers; it knows no optimizer.
"""

from __future__ import annotations

from math import isclose
from typing import Any

import torch
from torch import Tensor

from lrkit.optim.lists import Lists
from lrkit.optim.rule import Form, Scalars

_DONE = 1e9  # steps: 1 − β**1e9 is 1


def says(form: Form, lists: Lists) -> bool:
    """Whether torch has kernels that could say rules of this form, on this device, for this dtype."""
    p = lists.p[0]
    if (
        p.device.type not in ("cpu", "cuda")
        or form.after
        or form.sign
        or form.inside
        or form.belief
        or form.centered
        or form.delta
    ):
        return False
    if form.maximum == 2 or not p.dtype.is_floating_point:
        return False
    # On the CPU, fused SGD leaves out whole blocks of 16-bit entries (pytorch/pytorch#191763).
    return form.square or p.dtype in (torch.float32, torch.float64)


def variant(s: Scalars) -> str:
    """Adagrad's sum, averages, and averages with decoupled decay have kernels of their own."""
    if s.bv == s.av == 1.0:
        return "sum"
    return "average" if s.rho == 1.0 else "decayed"


def typical(form: Form, kind: str) -> Scalars:
    """Numbers for a probe, of a form and a variant."""
    cg = 0.01 if form.gradient else 0.0
    if not form.square:
        return Scalars(0.01, 0.9, 1.0, 0.0, 0.0, 1.0, 0.009 if form.gradient else 0.01, cg, 1.0, 0.0)
    if kind == "sum":
        return Scalars(0.01, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, cg, 1.0, 1e-3)
    return Scalars(0.0, 0.9, 0.1, 0.99, 0.01, 0.999 if kind == "decayed" else 1.0, 0.02, cg, 1.5, 1e-3)


class Fused:
    """One bucket's tensors, as torch's kernels want them.

    Args:
        lists: The tensors.
        form: What the rule has.
    """

    def __init__(self, lists: Lists, form: Form) -> None:
        self._lists, self._form = lists, form
        self._steps = [torch.full((), _DONE, device=lists.p[0].device)] * len(lists.p)
        self._scratch: list[Tensor] = []

    def can(self, s: Scalars, gain: float) -> bool:
        """Whether these numbers can be said to torch's kernels."""
        form = self._form
        if abs(gain) != 1.0 or s.cm + s.cg == 0:
            return False
        if not form.square:
            if s.rho != 1.0 or (form.momentum and s.bm == 0 and s.am != 1.0):  # at first, its m is g
                return False
            if not (form.momentum and form.gradient):
                return True
            return s.cm != 0 and (s.bm == 0 or isclose(s.cm, s.cg * s.bm, rel_tol=1e-12))
        if s.d == 0 or (form.momentum and not isclose(s.am, 1.0 - s.bm, abs_tol=1e-12)):
            return False
        if variant(s) == "sum":
            return not form.momentum and not form.maximum and s.rho == 1.0 and s.d == 1.0
        mixed = form.momentum and form.gradient  # what is put right afterwards is rounded twice
        if mixed and (self._lists.p[0].dtype.itemsize < 4 or s.wd != 0 or s.bm == 0 or form.maximum):
            return False
        if max(s.bv, s.bm if form.momentum else 0.0) > 1.0 - 1e-7:
            return False  # so close to 1 that a billion steps do not make its correction 1
        return isclose(s.av, 1.0 - s.bv, abs_tol=1e-12) and (s.wd == 0 or s.rho == 1.0)

    def __call__(self, s: Scalars, gain: float) -> None:
        """Execute one update that can be said."""
        if not self._form.square:
            self._sgd(s, gain < 0)
        elif variant(s) == "sum":
            lists: Any = self._lists
            torch._fused_adagrad_(
                lists.p, lists.g, lists.v, self._steps, lr=s.cg, lr_decay=0.0, weight_decay=s.wd, eps=s.e, maximize=gain < 0
            )
        else:
            self._adam(s, gain < 0)

    def _sgd(self, s: Scalars, maximize: bool) -> None:
        lists: Any = self._lists
        ball, ahead = self._form.momentum, self._form.momentum and self._form.gradient
        momentum = (s.cm / s.cg if ahead else s.bm or 0.5) if ball else 0.0  # at first, m is g whatever is said here
        torch._fused_sgd_(
            lists.p, lists.g, lists.m if ball else [],
            weight_decay=s.wd, momentum=momentum, dampening=1.0 - s.am if ball else 0.0, nesterov=ahead,
            lr=s.cg if self._form.gradient else s.cm, maximize=maximize, is_first_step=ball and s.bm == 0,
        )  # fmt: skip

    def _adam(self, s: Scalars, maximize: bool) -> None:
        lists: Any = self._lists
        form, m = self._form, lists.m
        if not form.momentum:
            self._scratch = self._scratch or [torch.zeros_like(p) for p in lists.p]
            beta, rate, m = 0.0, s.cg, self._scratch
        elif form.gradient:  # cm·m + cg·g is itself an average: of the old m and g, with other weights
            old, new = s.cm * s.bm, s.cm * s.am + s.cg
            beta, rate = old / (old + new), old + new
        else:
            beta, rate = s.bm, s.cm
        rate, eps = rate / s.d**0.5, s.e / s.d**0.5
        decoupled = s.rho != 1.0
        (torch._fused_adamw_ if decoupled else torch._fused_adam_)(
            lists.p, lists.g, m, lists.v, lists.x if form.maximum else [], self._steps, lr=rate, beta1=beta, beta2=s.bv,
            weight_decay=(1.0 - s.rho) / rate if decoupled else s.wd, eps=eps, amsgrad=form.maximum > 0, maximize=maximize,
        )  # fmt: skip
        if form.momentum and form.gradient:  # from the average that was made, back to the one that is remembered
            torch._foreach_mul_(m, s.bm / beta)
            share = s.am - s.bm * (1.0 - beta) / beta
            torch._foreach_add_(m, lists.g, alpha=-share if maximize else share)
