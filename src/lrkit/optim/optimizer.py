"""Optimizer: a direction, a scale and a decay, as a `torch.optim.Optimizer`.

    θ ← θ − (η/σ)·m

The parts reduce to ten numbers at each update (see `rule`), which a backend executes on all parameters that stand at the same
update (see `bucket`, `backends`). State and groups are laid out and named as torch's, so that checkpoints go both ways.
This module knows torch's protocol; a rate's schedule comes from outside, by `lrkit.attach`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lrkit.clip import Clip, Tally
from lrkit.errors import InputError, whole
from lrkit.optim.backends import BACKENDS, run
from lrkit.optim.bucket import Bucket, Ledger
from lrkit.optim.captured import check_captured, step_on_device
from lrkit.optim.checks import check_entry, check_finite, check_group, check_keys
from lrkit.optim.decay import Coupled, Decay, Decoupled
from lrkit.optim.direction import Direction, Gradient
from lrkit.optim.factor import Factor, Given
from lrkit.optim.hooked import hooked
from lrkit.optim.lists import Change
from lrkit.optim.noise import keys
from lrkit.optim.part import Part
from lrkit.optim.rule import Rule
from lrkit.optim.scale import Epsilon, Scale, Unit
from lrkit.optim.sparse import check_sparse

Choose = Callable[[Mapping[str, Any]], Rule]


class Optimizer(torch.optim.Optimizer):
    """An optimizer of your own parts.

    Args:
        params: Parameters, named parameters, or param groups.
        lr: η: at least 0; a number, or a tensor of one.
        direction: What the step follows: see `lrkit.optim.direction`.
        scale: σ, what it is divided by: see `lrkit.optim.scale`.
        decay: How weights decay: see `lrkit.optim.decay`; None: not.
        eps: ε outside of the root, or `Epsilon` with another place.
        factor: What η is multiplied by: functions of the update's number, counted from 1, or parts of `lrkit.optim.factor`.
        clip: What limits the gradients: ``lrkit.clip.norm(1.0)``; folded into the update, gradients are not written.
        maximize: Whether to climb.
        capturable: Whether steps can be captured in a graph of the device: every number stays on it, as in torch.
        stochastic_rounding: Whether bfloat16 values are rounded up or down at random when they are written back, so that updates
            too small to be seen arrive on average. Reproducible, also after a resume.
        seed: Of the random rounding.
        backend: ``"compiled"``, ``"fused"``, ``"reference"``; None: the fastest that can.
        rule: Instead of parts: what chooses them for each group, a function group ↦ Rule.
        hypers: Further hyperparameters of every group, for `rule`.

    Raises:
        InputError: If a number is outside of its range, or two parts contradict each other.

    Examples:
        >>> import torch
        >>> from lrkit.optim import Optimizer, direction, scale
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = Optimizer([weight], lr=0.1, direction=direction.HeavyBall(0.9), scale=scale.Mean())
        >>> weight.grad = torch.tensor([4.0, 0.01])
        >>> optimizer.step()
        >>> [round(value, 3) for value in weight.tolist()]
        [0.9, -1.1]
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        *,
        direction: Direction | None = None,
        scale: Scale | None = None,
        decay: Decay | None = None,
        eps: float | Epsilon = 1e-8,
        factor: Factor | Callable[[int], float] | Sequence[Factor | Callable[[int], float]] = (),
        clip: Clip | None = None,
        maximize: bool = False,
        capturable: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
        backend: str | None = None,
        rule: Choose | None = None,
        hypers: Mapping[str, Any] | None = None,
    ) -> None:
        self.clip, self.tally = _checked_clip(clip)
        if backend is not None and backend not in BACKENDS:
            raise InputError(f"Optimizer(backend={backend!r}): must be one of {', '.join(BACKENDS)}, or None to choose.")
        self.backend = backend
        self.seed = whole("Optimizer", "seed", seed, least=0) if stochastic_rounding else None
        numbers = dict(hypers or {})
        if rule is None:
            made, own = _put_together(direction, scale, decay, eps, factor)
            rule, numbers = partial(_always, made), own | numbers
        self.choose: Choose = rule
        self._ledgers: list[Ledger] = []
        self._entries: list[Any] = []  # of the state, after the last update
        defaults = {"lr": lr, **numbers, "maximize": maximize, "capturable": capturable}
        super().__init__(params, defaults)

    found_inf: Tensor  # there only while, or after, an update is skipped

    # -- torch's protocol -----------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in torch; its numbers are checked, and a key that is nearly one of ours is refused.

        Raises:
            InputError: If a number is outside of its range, or a key is misspelt.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(type(self).__name__, group, self.defaults)
            rule = self.choose(group)
            check_keys(type(self).__name__, rule, group)
            if group["capturable"]:
                check_captured(self.clip is not None, self.seed is not None)
        except BaseException:
            self.param_groups.pop()
            raise
        _remember_base(group, rule)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: torch's, and what this optimizer was made of."""
        own = {key: getattr(self, key) for key in ("clip", "tally", "backend", "seed", "choose")}
        return super().__getstate__() | own

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, also that of torch's class of the same name; what its groups lack is as by default."""
        super().__setstate__(state)
        self._ledgers, self._entries = [], []
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
            _remember_base(group, self.choose(group))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint, also one of torch's class of the same name.

        Torch casts all state but ``step`` to the parameter's type; what is counted in float32 stays so here.

        Raises:
            StateError: If it is of another rule, or of another model.
        """
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= set(state_dict):
            raise InputError(f"load_state_dict({str(state_dict)[:40]}): no optimizer's state. Pass what state_dict() returned.")
        pairs = list(zip(self.param_groups, state_dict["param_groups"], strict=False))
        for own, saved in pairs:
            rule = self.choose({**self.defaults, **saved})
            for place, p in zip(saved["params"], own["params"], strict=False):
                check_entry(type(self).__name__, rule, state_dict["state"].get(place, {}), p)
        super().load_state_dict(state_dict)
        for place, p in [both for own, saved in pairs for both in zip(saved["params"], own["params"], strict=False)]:
            there = state_dict["state"].get(place, {}).get("mu_product")
            if isinstance(there, Tensor) and p.dtype.itemsize < 4:
                self.state[p]["mu_product"] = there.detach().clone()

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Args:
            closure: Computes the loss, and the gradients.

        Returns:
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.clip is None or self.tally is None:
            self._update(1.0, None)
        else:
            self._clipped(self.clip, self.tally)
        return loss

    def _clipped(self, clip: Clip, tally: Tally) -> None:
        """One update with clipped gradients; none where one is not finite."""
        if vars(self).get("found_inf") is _SKIPPED:
            del self.found_inf
        live = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        verdict = clip.judge(live, [p.grad for p in live])
        tally.note(verdict)
        if not verdict.finite:
            self.found_inf = _SKIPPED  # who counts updates is told, as by a GradScaler, that there was none
            return
        if isinstance(verdict.gains, float):
            self._update(verdict.gains, verdict.bound)
        else:
            self._update({id(p): gain for p, gain in zip(live, verdict.gains, strict=True)}, verdict.bound)

    def _update(self, gains: float | dict[int, Tensor], bound: float | None) -> None:
        """One update, with each gradient multiplied and clamped."""
        while len(self._ledgers) < len(self.param_groups):
            self._ledgers.append(Ledger())
        offset, state = 0, self.state
        waiting: list[tuple[dict[str, Any], Rule, Bucket | None]] = []
        unchanged = len(state) == len(self._entries) and all(map(is_, state.values(), self._entries))
        try:
            for group, ledger in zip(self.param_groups, self._ledgers, strict=False):
                rule = self.choose(group) if self.seed is None else _counting(self.choose(group))
                if group["capturable"]:
                    check_captured(self.clip is not None, self.seed is not None)
                    waiting.append((group, rule, None))
                else:
                    buckets = ledger.buckets(group, rule, state, offset, unchanged)
                    waiting += [(group, rule, bucket) for bucket in buckets]
                    for bucket in buckets:
                        if bucket.g[0].layout != torch.strided:
                            check_sparse(bucket.g[0], rule.scalars(bucket.t + 1, group), rule.form, self.seed is not None)
                offset += len(group["params"])
            if not unchanged:
                self._entries = list(state.values())
            for group, rule, one in waiting:  # nothing has been changed so far
                if one is None:
                    step_on_device(group, rule, state)
                else:
                    self._execute(group, rule, one, gains, bound)
        finally:
            for *_, one in waiting:
                if one is not None:
                    one.release()

    def _execute(
        self, group: dict[str, Any], rule: Rule, bucket: Bucket, gains: float | dict[int, Tensor], bound: float | None
    ) -> None:
        """One update of a bucket; what fails is not counted."""
        t = bucket.advance(group)
        try:
            scalars = rule.scalars(t, group, bucket.carry)
            check_finite(type(self).__name__, t, scalars)
            change = Change(*self._gain(bucket, gains, bound, group["maximize"]), self._keys(bucket, t))
            run(bucket, rule.form, scalars, change, self.backend)
        except BaseException:
            bucket.retreat()
            raise

    def _gain(
        self, bucket: Bucket, gains: float | dict[int, Tensor], bound: float | None, maximize: bool
    ) -> tuple[float | list[Tensor], float | None]:
        """What a bucket's gradients are multiplied by and clamped to."""
        sign = -1.0 if maximize else 1.0
        if not isinstance(gains, float):
            return [gains[id(cell.parameter)] * sign for cell in bucket.cells], bound
        if bound is not None and bucket.cells[0].parameter.is_complex():  # clamped in absolute value: g are pairs of reals
            return [(bound / g.norm(dim=-1, keepdim=True)).clamp(max=1.0) * sign for g in bucket.g], None
        return sign * gains, bound

    def _keys(self, bucket: Bucket, t: int) -> Any:
        if self.seed is None or bucket.p[0].dtype != torch.bfloat16:
            return None
        return keys(self.seed, t, bucket.places)

    # -- what people read -----------------------------------------------------------------------------------------------

    def scalars(self, t: int, group: int = 0) -> Any:
        """The ten numbers of update t, counted from 1, with a group's present hyperparameters."""
        there = self.param_groups[group]
        return self.choose(there).scalars(t, there)

    def __repr__(self) -> str:
        """The parts, the formula, and what each group has."""
        if not self.param_groups:
            return f"{type(self).__name__}(no groups)"
        first = self.param_groups[0]
        lines = [f"{type(self).__name__}(lr = {float(first['lr']):g})"]
        lines += [f"    {line}" for line in self.choose(first).formula(first)]
        if first["maximize"]:
            lines.append("    upwards: g is −∇f")
        runs = {type(bucket.runner[1]).__name__.lower() for one in self._ledgers for bucket in one.made() if bucket.runner}
        if runs:
            lines.append(f"    executed by: {', '.join(sorted(runs))}")
        if self.clip is not None:
            lines.append(f"    clipped: {self.tally}")
        for i, group in enumerate(self.param_groups):
            count = sum(0 if is_lazy(p) else p.numel() for p in group["params"])
            name = group.get("name", i)
            lines.append(f"    group {name}: {len(group['params'])} tensors, {count:,} values, lr = {float(group['lr']):g}")
        return "\n".join(lines)


_SKIPPED = torch.ones(())


def _remember_base(group: dict[str, Any], rule: Rule) -> None:
    """Keep the rate that a decay by schedule compares with, where nothing else remembers it."""
    if isinstance(rule.decay, Decoupled) and rule.decay.by == "schedule":
        group.setdefault("base_lr", float(group["lr"]))


@cache
def _counting(rule: Rule) -> Rule:
    """The rule, with its updates counted in the state: random rounding has to know which one it is, also after a resume."""
    return replace(rule, counts=True)


def _always(rule: Rule, group: Mapping[str, Any]) -> Rule:
    return rule


def _checked_clip(clip: Clip | None) -> tuple[Clip | None, Tally | None]:
    if clip is not None and not isinstance(clip, Clip):
        raise InputError(f"Optimizer(clip={clip!r}): must be a clip, e.g. lrkit.clip.norm(1.0).")
    return clip, None if clip is None else Tally(clip)


def _put_together(
    direction: Direction | None, scale: Scale | None, decay: Decay | None, eps: float | Epsilon, factor: Any
) -> tuple[Rule, dict[str, float]]:
    """Parts as a rule that reads its numbers from param groups; and those numbers."""
    listed = list(factor) if isinstance(factor, list | tuple) else [factor]
    for one in listed:
        if isinstance(one, type) or (not isinstance(one, Factor) and not callable(one)):
            hint = f" Did you mean {one.__name__}()?" if isinstance(one, type) else ""
            raise InputError(f"Optimizer(factor={one!r}): must be a function of the update's number, counted from 1.{hint}")
    factors = [one if isinstance(one, Factor) else Given(one) for one in listed]
    numbers: dict[str, float] = {}

    def placed(part: Any, kind: type[Part], name: str) -> Any:
        if not isinstance(part, kind):
            hint = f" Did you mean {part.__name__}()?" if isinstance(part, type) else ""
            raise InputError(f"Optimizer({name}={part!r}): must be a part of lrkit.optim.{name}.{hint}")
        part, own = part.placed()
        for key, value in own.items():
            if numbers.setdefault(key, value) != value:
                raise InputError(
                    f"Optimizer({name}=…): two parts want another {key}, {numbers[key]:g} and {value:g}. Give both the same."
                )
        return part

    rule = Rule(
        placed(Gradient() if direction is None else direction, Direction, "direction"),
        placed(Unit() if scale is None else scale, Scale, "scale"),
        placed(Coupled() if decay is None else decay, Decay, "decay"),
        placed(eps if isinstance(eps, Epsilon) else Epsilon(eps), Epsilon, "scale"),
        tuple(placed(one, Factor, "factor") for one in factors),
    )
    return rule, numbers
