"""Gradient clipping as a value: `norm`, `value` and `adaptive` say how far a gradient may go.

A clip *judges* and writes nothing: lrkit's own optimizers take it as ``clip=``, into any other `on` puts hooks, which scale
``p.grad`` in place. Knows gradients, DTensors and torch's optimizers; knows no rate and no schedule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from lrkit.errors import InputError, StateError, real
from lrkit.tally import Tally as Tally
from lrkit.tally import Verdict as Verdict
from lrkit.tally import remember

_SMALL = 1e-12  # a size below it may have lost entries: in float32 their squares are 0


class _Part(NamedTuple):
    entries: Tensor  # what is here of a gradient
    place: tuple[Any, Any] | None  # of a sharded DTensor: its mesh and its placements
    rows: Tensor | None  # of a sparse one: which rows these are


@dataclass(frozen=True, repr=False)
class Clip(ABC):
    """How far a gradient may go: sizes up to `limit`, above 0, are left alone. A number out of its range is an InputError."""

    limit: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", real(f"clip.{type(self).__name__.lower()}", "limit", self.limit, above=0.0))

    def judge(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Verdict:
        """What is to become of these gradients; nothing is written, and the host waits for the device once.

        Args:
            parameters: Those that have a gradient.
            gradients: Theirs, in the same order: any dtype, device and shape, sparse ones and DTensors too.

        Raises:
            InputError: If there is not one gradient a parameter, or one is neither dense nor sparse COO.
            StateError: If only parts are here, of which this clip cannot tell the whole.
        """
        if len(parameters) != len(gradients):
            raise InputError(f"{self!r}.judge: got {len(gradients)} gradients for {len(parameters)} parameters. Give one each.")
        if dist.is_available() and dist.is_initialized() and any(getattr(p, "_fsdp_flattened", False) for p in parameters):
            raise StateError(f"{self!r}: FSDP1 shows only parts of gradients. Use fully_shard, or the model's clip_grad_norm_.")
        with torch.no_grad():
            parts = [_part(gradient) for gradient in gradients]
            size, gains = self._measured(parameters, parts, 1.0) if parts else (0.0, 1.0)
            if not _SMALL < size < math.inf:  # squares leave float32 earlier than what is squared
                size = peak = float(_total(parts, math.inf))
                if 0.0 < peak < math.inf:
                    size, gains = self._measured(parameters, [p._replace(entries=_double(p.entries) / peak) for p in parts], peak)
        if self.limit < size < math.inf:
            return Verdict(True, gains, self.limit if isinstance(self, Value) else None, size, True)
        return Verdict(math.isfinite(size), 1.0, None, size, False)

    @abstractmethod
    def _measured(self, weights: Sequence[Tensor], parts: Sequence[_Part], unit: float) -> tuple[float, float | list[Tensor]]:
        """The size, and the gains that bring it down to the limit; the entries are given in multiples of `unit`."""

    def __repr__(self) -> str:
        rest = [f", {f.name}={getattr(self, f.name)!r}" for f in fields(self)[1:] if getattr(self, f.name) != f.default]
        return f"clip.{type(self).__name__.lower()}({self.limit!r}{''.join(rest)})".replace("=inf", "=math.inf")


@dataclass(frozen=True, repr=False)
class Norm(Clip):
    """All gradients of the optimizer, seen as one vector, to at most this length.

        g ← g · limit / ‖g‖        where ‖g‖ = (Σ|g|^type)^(1/type) > limit

    exactly; torch's clip_grad_norm_ divides by ‖g‖ + 1e-6. Half precision is summed in float32; what overflows there is summed
    in float64 relative to the largest entry, so that the norm of finite gradients is finite.

    Args:
        limit: The largest norm that is left alone, above 0.
        type: Of the norm, at least 1; ``math.inf``: the largest entry.

    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.
    """

    type: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type != math.inf:
            object.__setattr__(self, "type", real("clip.norm", "type", self.type, least=1.0))

    def _measured(self, _weights: Sequence[Tensor], parts: Sequence[_Part], unit: float) -> tuple[float, float | list[Tensor]]:
        size = unit * float(_total(parts, self.type))
        return size, self.limit / size if size else 1.0


@dataclass(frozen=True, repr=False)
class Value(Clip):
    """Every entry of every gradient to within ±limit: g ← clamp(g, −limit, limit), a complex one in its absolute value."""

    def _measured(self, _weights: Sequence[Tensor], parts: Sequence[_Part], unit: float) -> tuple[float, float | list[Tensor]]:
        return unit * float(_total(parts, math.inf)), 1.0


@dataclass(frozen=True, repr=False)
class Adaptive(Clip):
    """Each unit's gradient to at most `limit` times its weight's norm (adaptive gradient clipping, AGC).

        gᵢ ← gᵢ · limit · max(‖wᵢ‖, eps) / ‖gᵢ‖        where ‖gᵢ‖ / max(‖wᵢ‖, eps) > limit

    A unit i is a row: all entries of one index of dimension 0, an output of a linear or convolutional layer; a tensor of one
    dimension or none is one unit. The paper leaves the last layer out: give it an optimizer of its own.

    Args:
        limit: λ, the largest ratio that is left alone, above 0.
        eps: ε, the least norm that a weight is taken to have, above 0: weights that are still zero may move.

    Source: Brock et al. 2021, arXiv:2102.06171, eq. 3.
    """

    limit: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eps", real("clip.adaptive", "eps", self.eps, above=0.0))

    def _measured(self, weights: Sequence[Tensor], parts: Sequence[_Part], unit: float) -> tuple[float, float | list[Tensor]]:
        tops, bottoms, places = [], [], [place for _, place, _ in parts]
        for weight, (entries, place, rows) in zip(weights, parts, strict=True):
            if place and entries.ndim > 1 and any(getattr(one, "dim", 0) for one in place[1]):
                raise StateError(f"{self!r}: a gradient is sharded {place[1]}, which cuts its rows. Shard dimension 0.")
            top = _units(entries)
            tops.append(top if rows is None else top.new_zeros(len(weight), *top.shape[1:]).index_copy_(0, rows, top))
            bottoms.append(_units(_local(weight) if unit == 1.0 else _double(_local(weight))))
        for place in dict.fromkeys(place for place, top in zip(places, tops, strict=True) if place and not top.ndim):
            which = [i for i, one in enumerate(places) if one == place and not tops[i].ndim]  # a shard cuts a vector, one unit
            whole = _reduced(torch.stack([norms[i] for norms in (tops, bottoms) for i in which]), place, 2.0)
            for k, i in enumerate(which):
                tops[i], bottoms[i] = whole[k], whole[k + len(which)]
        torch._foreach_mul_(tops, unit)
        ratios = torch._foreach_div(tops, torch._foreach_clamp_min(bottoms, self.eps))
        size = float(_total([part._replace(entries=ratio) for part, ratio in zip(parts, ratios, strict=True)], math.inf))
        gains = torch._foreach_clamp_max(torch._foreach_reciprocal(torch._foreach_div(ratios, self.limit)), 1.0)
        return size, [g.to(torch.promote_types(w.dtype, torch.float32).to_real()) for g, w in zip(gains, weights, strict=True)]


def _local(tensor: Any) -> Any:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _part(gradient: Any) -> _Part:
    """What is here of a gradient: of a sparse one its values, of a DTensor its shard."""
    here, place = _local(gradient), None
    if hasattr(gradient, "placements") and not all(one.is_replicate() for one in gradient.placements):
        place = gradient.device_mesh, gradient.placements
        if any(one.is_partial() for one in gradient.placements):
            raise StateError(f"clip: a gradient is not yet summed over the processes, {place[1]}. Redistribute it first.")
    if here.is_sparse:
        here = here.coalesce()
        if here.sparse_dim() == 1:
            return _Part(here.values(), place, here.indices()[0] if here.ndim > 1 else None)
        here = here.to_dense()
    if here.layout is not torch.strided:
        raise InputError(f"clip: a gradient has the layout {here.layout}; dense and sparse COO are known. Make it dense.")
    return _Part(here, place, None)


def _double(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "mps" else tensor.to(torch.promote_types(tensor.dtype, torch.float64))


def _norm(tensors: Sequence[Tensor], p: float) -> Tensor:
    """(Σ|x|^p)^(1/p) over all entries, a 0-d tensor on the first's device."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    norms = [torch.zeros((), device=tensors[0].device if tensors else None)]
    for (device, dtype), some in alike.items():
        if p == math.inf and device.type == "cpu" and not dtype.is_complex:  # there the norm is ten times slower
            found = [end for one in some for end in torch.aminmax(one)]
        else:
            found = list(torch._foreach_norm(some, p, dtype=torch.promote_types(dtype, torch.float32)))
        norms += [one.to(norms[0].device) for one in found]
    return torch.linalg.vector_norm(torch.stack(norms), p)  # type: ignore[no-any-return]


def _units(tensor: Tensor) -> Tensor:
    """The 2-norm of each row, (rows, 1, 1, …); of a vector or a single number the whole one's, ()."""
    over, wide = tuple(range(1, tensor.ndim)) or None, torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, 2.0, over, keepdim=over is not None, dtype=wide)  # type: ignore[no-any-return]


def _total(parts: Sequence[_Part], p: float) -> Tensor:
    """The norm over all entries of all parts, also of what lies in other processes."""
    by_place: dict[tuple[Any, Any] | None, list[Tensor]] = {}
    for entries, place, _ in parts:
        by_place.setdefault(place, []).append(entries)
    return _norm([_reduced(_norm(some, p), place, p) for place, some in by_place.items()], p)


def _reduced(norms: Tensor, place: tuple[Any, Any] | None, p: float) -> Tensor:
    """Norms of parts, made those of the whole."""
    for i, placement in enumerate(place[1] if place else ()):
        if place and not placement.is_replicate():
            if p == math.inf:  # a maximum over processes may pass over a NaN
                norms = norms.nan_to_num(nan=math.inf, posinf=math.inf)
                dist.all_reduce(norms, dist.ReduceOp.MAX, group=place[0].get_group(i))
            else:
                norms = norms.double() ** p
                dist.all_reduce(norms, group=place[0].get_group(i))
                norms = norms ** (1.0 / p)
    return norms


def _write(parameters: Sequence[Tensor], verdict: Verdict) -> None:
    """Do to the gradients of these parameters what was judged, in place."""
    held = [_local(parameter.grad) for parameter in parameters]
    for one in held if verdict.bound is not None else ():
        if one.is_sparse:  # only the sum of what is there in parts can be clamped
            one.copy_(one.coalesce())
    entries = [one._values() if one.is_sparse else one for one in held]
    if isinstance(verdict.gains, list):
        for whole, one, gain in zip(held, entries, verdict.gains, strict=True):
            rows = whole._indices()[0] if whole.is_sparse and gain.ndim else None
            one.mul_(gain if rows is None else gain.flatten()[rows].view(-1, *[1] * (one.ndim - 1)))
    elif verdict.bound is None:
        torch._foreach_mul_(entries, verdict.gains)
    for one in entries if verdict.bound is not None else ():
        bound = min(verdict.bound or 0.0, torch.finfo(one.dtype).max)
        if one.is_complex():
            one.mul_((bound / one.abs()).clamp_(max=1.0))
        else:
            one.clamp_(-bound, bound)


def _with_gradient(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def apply(optimizer: Optimizer, rule: Clip, tally: Tally | None = None) -> Verdict:
    """Clip the gradients once, in place; where one is not finite, nothing is written.

    Args:
        optimizer: Whose gradients.
        rule: How far they may go.
        tally: Where it is counted, if anywhere.

    Returns:
        What was judged. Where it is not `finite`, skip the update.
    """
    scale = getattr(optimizer, "grad_scale", None)
    factor = float(scale) if isinstance(scale, Tensor) else 1.0  # a GradScaler leaves it to fused optimizers to unscale
    parameters = _with_gradient(optimizer)
    scaled = replace(rule, limit=rule.limit * factor).judge(parameters, [p.grad for p in parameters if p.grad is not None])
    if scaled.engaged:
        with torch.no_grad():
            _write(parameters, scaled)
    verdict = scaled._replace(size=scaled.size / factor, bound=None if scaled.bound is None else rule.limit)
    if tally is not None:
        remember(optimizer, tally)
        tally.note(verdict)
    return verdict


class Clipping:
    """A clip at work on one optimizer, by hooks; made by `on`. What it has done so far is in its `tally`."""

    def __init__(self, optimizer: Optimizer, rule: Clip) -> None:
        self.rule, self.tally, self._optimizer = rule, Tally(rule), optimizer
        remember(optimizer, self.tally)
        self._judged: Verdict | None = None  # and the step is still to come
        self._dropped: list[tuple[Tensor, Tensor | None]] = []  # what has no gradient in this step, and the gradient
        self._skipped = torch.ones(())
        before, after = (torch.compiler.disable(hook) for hook in (self._before, self._after))  # type: ignore[no-untyped-call]
        self._handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
        # The first of all: those that follow, attach's and watch's, find the gradients back and the update skipped.
        optimizer._optimizer_step_post_hooks.move_to_end(self._handles[1].id, last=False)  # type: ignore[attr-defined]

    def remove(self) -> None:
        """Clip no more."""
        remember(self._optimizer, None)
        for handle in self._handles:
            handle.remove()
        self._unmark()

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._unmark()
        if any(one is not None for one in (*args[1:], *kwargs.values())):
            raise StateError(
                f"{type(optimizer).__name__}.step(closure): clip.on clips before the step, and a closure makes the gradients in "
                "it. In Lightning use lrkit.integrations.lightning.Clip, elsewhere clip.apply in the closure, after backward."
            )
        found = getattr(optimizer, "found_inf", None)
        parameters = _with_gradient(optimizer)
        if not parameters or (isinstance(found, Tensor) and bool(found)):
            return  # nothing to clip, or a GradScaler skips this update itself
        verdict, before = apply(optimizer, self.rule), self._judged
        if before is None or not before.engaged or verdict.engaged:  # a step() that calls its parent's comes here twice
            self._judged = verdict
        self._dropped = [] if verdict.finite else [(parameter, parameter.grad) for parameter in parameters]
        for parameter, _ in self._dropped:
            parameter.grad = None

    def _after(self, optimizer: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        if self._judged is not None:
            self.tally.note(self._judged)
            if not self._judged.finite:
                optimizer.found_inf = self._skipped  # read by attach and watch
        for parameter, gradient in self._dropped:
            parameter.grad = gradient
        self._judged, self._dropped = None, []

    def _unmark(self) -> None:
        """Forget that the last update was skipped: unless fused, torch's optimizers refuse to step while they find it."""
        if getattr(self._optimizer, "found_inf", None) is self._skipped:
            del self._optimizer.found_inf  # type: ignore[attr-defined]


def on(optimizer: Optimizer, rule: Clip) -> Clipping:
    """Clip before every update of a foreign optimizer. One of lrkit's takes ``clip=`` instead.

    Args:
        optimizer: Any torch optimizer that takes its own steps.
        rule: How far its gradients may go.

    Raises:
        InputError: If it is no such optimizer, or clips itself, or `rule` is no clip.
        StateError: If it is clipped already. At a step: if that is given a closure.
    """
    call = f"clip.on({type(optimizer).__name__}, {rule!r:.60})"
    if not isinstance(rule, Clip):
        raise InputError(f"{call}: the second must be a clip. Pass clip.norm(1.0), for example.")
    if not isinstance(optimizer, Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise InputError(f"{call}: the first must be a torch optimizer that takes its own steps. Pass the one inside.")
    if hasattr(optimizer, "clip"):
        raise InputError(f"{call}: it clips itself, without writing to gradients. Pass clip={rule!r} when it is made.")
    if any(getattr(hook, "__qualname__", "") == "Clipping._before" for hook in optimizer._optimizer_step_pre_hooks.values()):
        raise StateError(f"{call}: it is clipped already. Call .remove() of what clip.on returned before.")
    return Clipping(optimizer, rule)


norm, value, adaptive = Norm, Value, Adaptive
