"""Backends: what executes the ten numbers on a bucket's tensors, fastest first.

    compiled    a C function made at run time, any form; needs a C compiler, CPU (see `compiled`)
    fused       torch's own fused kernels, called with folded numbers; where they can say the rule (see `fused`)
    reference   plain torch, always

Kernels walk memory from end to end, so they are given only what is dense and alike in layout; and each is probed when it is first
wanted: on small tensors it must equal the reference, and leave the memory around them alone. One that fails is not used, and a
line of the log says so.
This module knows no optimizer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lrkit.optim.compiled import ENTRIES, CannotCompile, kernel
from lrkit.optim.fused import Fused as TorchKernel
from lrkit.optim.fused import says, typical, variant
from lrkit.optim.lists import Change, Lists
from lrkit.optim.reference import Values, apply
from lrkit.optim.rule import Form, Scalars
from lrkit.optim.sparse import Sparse

BACKENDS = ("compiled", "fused", "reference")
_log = logging.getLogger("lrkit")


Runner = Callable[[Scalars, Change], bool]  # False: it cannot say these numbers


def run(bucket: Any, form: Form, scalars: Scalars, change: Change, only: str | None = None) -> None:
    """Execute one update on a bucket.

    Args:
        bucket: The tensors; its `runner` is kept for the next time.
        form: What the rule has.
        scalars: The ten numbers.
        change: What is done to the gradients first.
        only: A backend's name; None chooses.
    """
    kind = (change.bound is not None, change.keys is not None)
    if bucket.runner is None or bucket.runner[0] != kind:
        bucket.runner = (kind, choose(bucket, form, *kind, only))
    if not bucket.runner[1](scalars, change):
        Reference(bucket, form)(scalars, change)


def choose(lists: Lists, form: Form, bound: bool = False, random: bool = False, only: str | None = None) -> Runner:
    """What executes updates on these tensors.

    Args:
        lists: The tensors.
        form: What the rule has.
        bound: Whether gradients are clamped.
        random: Whether values are rounded at random.
        only: A backend's name; None: the fastest that can.
    """
    if lists.g[0].layout != torch.strided:
        return Sparse(lists, form)
    kind = (form, lists.p[0].dtype, lists.p[0].device.type)
    if lists.walkable and only in (None, "compiled") and usable("compiled", *kind, bound, random):
        return Compiled(lists, form, bound, random)
    if lists.walkable and only in (None, "fused") and not bound and not random and says(form, lists):
        return Fused(lists, form)
    if only in ("compiled", "fused"):
        _say(f"backend={only!r} cannot execute an update of {', '.join(form.names())} here; plain torch does")
    return Reference(lists, form)


_CHUNK = 2**15  # entries: what an update makes on the way stays in the cache


class Reference:
    """The specification, a tensor at a time; large ones in pieces, where memory can be walked."""

    def __init__(self, lists: Lists, form: Form) -> None:
        self._lists, self._form = lists, form

    @torch.no_grad()
    def __call__(self, s: Scalars, change: Change) -> bool:
        """Execute one update."""
        for i, g in enumerate(self._lists.g):
            values = self._lists.values(i)
            gain = change.gain if isinstance(change.gain, float) else change.gain[i]
            key = None if change.keys is None else int(change.keys[i])
            if self._lists.walkable and isinstance(gain, float) and g.numel() > _CHUNK and g.device.type == "cpu":
                whole = [one if one is None else one.as_strided((g.numel(),), (1,)) for one in (*values, g)]
                for low in range(0, g.numel(), _CHUNK):
                    *parts, part = (one if one is None else one[low : low + _CHUNK] for one in whole)
                    apply(Values(*parts), part, s, self._form, gain, change.bound, key, low)  # type: ignore[arg-type]
            else:
                apply(values, g, s, self._form, gain, change.bound, key)
        return True


class Fused:
    """torch's fused kernels, as far as the numbers can be said to them."""

    def __init__(self, lists: Lists, form: Form) -> None:
        self._kernel, self._lists, self._form = TorchKernel(lists, form), lists, form
        self._marked = marked(lists)

    def __call__(self, s: Scalars, change: Change) -> bool:
        """Execute one update, if it can be said."""
        if not isinstance(change.gain, float) or not self._kernel.can(s, change.gain):
            return False
        p = self._lists.p[0]
        if not usable("fused", self._form, p.dtype, p.device.type, False, False, variant(s)):
            return False
        with torch.no_grad():
            self._kernel(s, change.gain)
        increment_version(self._marked)  # torch's own do not say that they have written
        return True


class Compiled:
    """The C function, with its arguments prepared."""

    def __init__(self, lists: Lists, form: Form, bound: bool, random: bool) -> None:
        self._lists = lists
        self._function = kernel(form, lists.p[0].dtype, bound, random)
        n = len(lists.p)
        self._sizes = np.array([one.numel() for one in lists.p], dtype=np.int64)
        rest = [[0 if one is None else one.data_ptr() for one in some] for some in (lists.p, lists.g, lists.m, lists.v, lists.x)]
        self._where = np.array(rest, dtype=np.int64).reshape(-1)
        self._gradients = self._where[n : 2 * n]
        self._numbers, self._gains = np.zeros(10), np.ones(n)
        self._fixed = (n, self._sizes.ctypes.data, self._where.ctypes.data, self._numbers.ctypes.data)
        self._gains_at = self._gains.ctypes.data
        self._marked = marked(lists)
        self._gain = 1.0

    def __call__(self, s: Scalars, change: Change) -> bool:
        """Execute one update."""
        if self._lists.fresh:
            self._gradients[:] = self._lists.addresses or [one.data_ptr() for one in self._lists.g]
            self._lists.fresh = False
        self._numbers[:] = s
        gains, first, rows = self._gains_at, None, None
        if not isinstance(change.gain, float):
            if not all(map(_rows_whole, self._lists.p)):
                return False
            kept = _rows(self._lists.p, change.gain)
            gains, first, rows = (one.ctypes.data for one in kept)
        elif change.gain != self._gain:
            self._gains[:] = self._gain = change.gain
        keys = None if change.keys is None else change.keys.ctypes.data
        self._function(*self._fixed, gains, first, rows, change.bound or 0.0, keys, torch.get_num_threads())
        increment_version(self._marked)
        return True


def marked(lists: Lists) -> list[Tensor]:
    """Of whom autograd is told that they were written behind its back, so that it refuses to go back through what has moved.

    Of more than 128 some, evenly spread: to tell it of all takes as long as a small update.
    """
    return lists.p[:: 1 + len(lists.p) // 128]


def _rows_whole(p: Tensor) -> bool:
    """Whether each row (all entries of one index of the first dimension) lies in one piece."""
    return p.dim() < 2 or p.numel() == 0 or p.stride(0) * p.shape[0] == p.numel()


def _rows(p: list[Tensor], gains: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gains end to end, where each tensor's begin, and how many entries share one."""
    flat = [one.reshape(-1).to(torch.float64).numpy() for one in gains]
    first = np.cumsum([0, *(len(one) for one in flat)], dtype=np.int64)[:-1]
    rows = np.array([max(1, t.numel() // max(1, len(one))) for t, one in zip(p, flat, strict=True)], dtype=np.int64)
    return np.concatenate(flat), first.copy(), rows


@cache
def usable(
    name: str, form: Form, dtype: torch.dtype, device: str, bound: bool = False, random: bool = False, kind: str = ""
) -> bool:
    """Whether a backend can be had, and is right: probed once. If not, a line of the log says why.

    Args:
        name: ``"compiled"`` or ``"fused"``.
        form: What the rule has.
        dtype: What memory holds.
        device: Its type.
        bound: Whether gradients are clamped.
        random: Whether values are rounded at random.
        kind: For fused: the kind of averages.
    """
    if name == "compiled" and (device != "cpu" or dtype not in ENTRIES):
        return False
    try:
        why = _differs(name, form, dtype, device, bound, random, kind)
    except CannotCompile as error:
        _say(f"there is no compiled kernel: {error}. Torch's kernels are used, and plain torch where they do not know a rule")
        return False
    except (RuntimeError, NotImplementedError, OSError) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if why:
        _say(f"the {name} kernel is not used for {str(dtype).removeprefix('torch.')} on {device}: {why}")
    return not why


@cache
def _say(what: str) -> None:
    """Log a line, once."""
    _log.warning("lrkit.optim: %s", what)


def _differs(name: str, form: Form, dtype: torch.dtype, device: str, bound: bool, random: bool, kind: str) -> str:
    """In what a backend differs from the reference on small tensors between guards; empty where in nothing."""
    s = typical(form, kind)
    change = Change(0.5 if name == "compiled" else 1.0, 0.4 if bound else None, np.arange(7, dtype=np.uint32) if random else None)
    results = []
    for backend in (name, "reference"):
        guarded, lists = _small(form, dtype, device)
        runner: Runner = Reference(lists, form)
        if backend == "compiled":
            runner = Compiled(lists, form, bound, random)
        elif backend == "fused":
            fused = TorchKernel(lists, form)
            if not fused.can(s, 1.0):
                return "it cannot say this rule"
            fused(s, 1.0)
        if backend != "fused":
            runner(s, change)
        results.append((guarded, lists))
    (memory, mine), (_, reference) = results
    tolerance = (32 if dtype.itemsize > 2 else 4) * torch.finfo(dtype).eps
    for i in range(len(mine.p)):
        for name_, here, there in zip(Values._fields, mine.values(i), reference.values(i), strict=True):
            if here is not None and there is not None and here.numel():
                gap = (here.double() - there.double()).abs().max()
                if not gap <= tolerance * there.double().abs().max():
                    return f"{name_} is off by {float(gap):.1e} for {here.numel()} entries"
    for block, used in memory:
        if not bool((block[:_GUARD] == 7).all()) or not bool((block[_GUARD + used :] == 7).all()):
            return "it writes beyond a tensor"
    return ""


_GUARD = 64


def _small(form: Form, dtype: torch.dtype, device: str) -> tuple[list[tuple[Tensor, int]], Lists]:
    """Tensors of awkward sizes, each in the middle of a block of sevens."""
    generator = torch.Generator().manual_seed(0)
    blocks: list[tuple[Tensor, int]] = []

    def tensors(scale: float, offset: float) -> list[Tensor]:
        out = []
        for size in (1, 0, 7, 16, 17, 63, 200):
            block = torch.full((size + 2 * _GUARD,), 7.0, dtype=dtype, device=device)
            inner = block[_GUARD : _GUARD + size]
            inner.copy_(
                torch.randn(size, generator=generator) * scale if not offset else torch.rand(size, generator=generator) + offset
            )
            blocks.append((block, size))
            out.append(inner)
        return out

    p, g, m, v, x = tensors(1.0, 0.0), tensors(1.0, 0.0), tensors(0.5, 0.0), tensors(1.0, 0.5), tensors(1.0, 0.2)
    if form.centered:
        x = [one.mul_(0.1) for one in x]
    none: list[Tensor | None] = [None] * len(p)
    return blocks, Lists(
        p, g, list(m) if form.momentum else none, list(v) if form.square else none, list(x) if form.extra else none, True
    )
