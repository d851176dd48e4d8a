"""A live torch scheduler, read into a Schedule. Looks at its class's name and attributes; imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import lrkit.schedules.compat.torch as theirs
import lrkit.schedules.compat.transformers as transformers
from lrkit.errors import InputError
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Each, Rates

_PLAIN = {
    "StepLR": ("step_size", "gamma"),
    "ExponentialLR": ("gamma",),
    "ConstantLR": ("factor", "total_iters"),
    "LinearLR": ("start_factor", "end_factor", "total_iters"),
    "PolynomialLR": ("total_iters", "power"),
    "CosineAnnealingLR": ("T_max", "eta_min"),
    "CosineAnnealingWarmRestarts": ("T_0", "T_mult", "eta_min"),
}  # schedulers whose arguments are kept under their own names


def from_torch(scheduler: Any, group: int = 0, quantity: str = "lr", every: int = 1) -> Schedule:
    """Read a torch scheduler into a pure Schedule of absolute values, from its step 0 on.

    Also those of transformers, which are LambdaLR inside, and a wrapper such as accelerate's that holds one as ``.scheduler``.
    A LambdaLR of your own becomes a `custom` schedule, which has no text.

    Args:
        scheduler: A live scheduler; it is only looked at.
        group: Index of the param group whose values are wanted.
        quantity: ``"lr"``, or ``"momentum"`` of those that drive it too.
        every: Optimizer updates for each of the scheduler's steps: those of an epoch, where it is stepped once an epoch.

    Raises:
        InputError: If it is none that can be read, or there is no such group.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> str(from_torch(torch.optim.lr_scheduler.StepLR(optimizer, 30)))
        'base 0.1 (decay 0.1 every 30 stairs)'
    """
    if every != 1:
        inner = from_torch(scheduler, group, quantity)
        held = Each(inner.schedule if isinstance(inner, Rates) else inner, every)
        return Rates(held, inner.base, inner.origin) if isinstance(inner, Rates) else held
    while not hasattr(scheduler, "base_lrs") and hasattr(scheduler, "scheduler"):
        scheduler = scheduler.scheduler
    name = next((kind.__name__ for kind in type(scheduler).__mro__ if kind.__name__ in _READERS or kind.__name__ in _PLAIN), None)
    if name is None:
        known = ", ".join((*_PLAIN, *_READERS))
        raise InputError(f"from_torch({type(scheduler).__name__}): this is none that can be read. These can: {known}.")
    bases = _bases(scheduler)
    if isinstance(group, bool) or not isinstance(group, int) or not 0 <= group < len(bases):
        raise InputError(f"from_torch(group={group!r}): the optimizer has {len(bases)} groups. Count from 0.")
    if quantity not in ("lr", "momentum") or (quantity == "momentum" and name not in ("OneCycleLR", "CyclicLR")):
        raise InputError(f"from_torch(quantity={quantity!r}): {name} drives lr. OneCycleLR and CyclicLR drive 'momentum' too.")
    if name in _PLAIN:
        given = {argument: getattr(scheduler, argument) for argument in _PLAIN[name]}
        made: Schedule = getattr(theirs, name)(base_lr=bases[group], **given)
        return made
    return _READERS[name](scheduler, group, bases[group], quantity)


def _bases(scheduler: Any) -> list[float]:
    """Each group's base rate; a chain has its schedulers'."""
    inner = getattr(scheduler, "_schedulers", None)
    bases = scheduler.base_lrs if hasattr(scheduler, "base_lrs") else _bases(inner[0]) if inner else []
    return [float(base) for base in bases]


def _lambda(scheduler: Any, group: int, base: float, _quantity: str) -> Schedule:
    fn = scheduler.lr_lambdas[group]
    return _transformers(fn, base) or theirs.LambdaLR(base_lr=base, lr_lambda=fn)


def _transformers(fn: Any, base: float) -> Schedule | None:
    """The constructor behind a partial of transformers' own functions, if it gives the same numbers."""
    name = getattr(getattr(fn, "func", None), "__name__", "")
    given = dict(getattr(fn, "keywords", None) or {})
    floor = given.get("min_lr_rate") or 0.0
    names = [name.removeprefix("_").removesuffix("_lr_lambda").replace("_scheduler_lambda", "_schedule")]
    if floor:
        names += ["get_cosine_with_min_lr_schedule_with_warmup", "get_cosine_with_min_lr_schedule_with_warmup_lr_rate"]
    for candidate in names:
        make = getattr(transformers, candidate, None)
        if make is None:
            continue
        takes = inspect.signature(make).parameters
        if "lr_end" in given and "lr_init" in given:
            given = {**given, "lr_end": given["lr_end"] * base / given["lr_init"]}
        try:
            made: Schedule = make(
                base_lr=base, **{key: value for key, value in given.items() if key in takes and value is not None}
            )
        except (InputError, TypeError):
            continue
        last = made.steps or 1000
        if all(abs(made(t) - base * fn(t)) <= 1e-9 * base for t in {0, 1, last // 3, last // 2, last - 1}):
            return made
    return None


def _one_cycle(scheduler: Any, group: int, base: float, quantity: str) -> Schedule:
    held, phases = scheduler.optimizer.param_groups[group], scheduler._schedule_phases
    momentum = {name: held[name] for name in ("base_momentum", "max_momentum") if name in held}
    if quantity == "momentum" and not momentum:
        raise InputError("from_torch(quantity='momentum'): this OneCycleLR does not drive momentum.")
    return theirs.OneCycleLR(
        base_lr=base,
        max_lr=held["max_lr"],
        total_steps=scheduler.total_steps,
        pct_start=(phases[0]["end_step"] + 1) / scheduler.total_steps,
        anneal_strategy="linear" if "linear" in str(getattr(scheduler, "_anneal_func_type", "cos")) else "cos",
        div_factor=held["max_lr"] / held["initial_lr"],
        final_div_factor=held["initial_lr"] / held["min_lr"],
        three_phase=len(phases) == 3,
        quantity=quantity,
        **momentum,
    )


def _cyclic(scheduler: Any, group: int, base: float, quantity: str) -> Schedule:
    up = scheduler.total_size * scheduler.step_ratio
    given: dict[str, Any] = {"base_lr": base, "max_lr": float(scheduler.max_lrs[group]), "mode": scheduler.mode}
    if getattr(scheduler, "cycle_momentum", False):
        given |= {"base_momentum": scheduler.base_momentums[group], "max_momentum": scheduler.max_momentums[group]}
    elif quantity == "momentum":
        raise InputError("from_torch(quantity='momentum'): this CyclicLR does not drive momentum.")
    if scheduler._scale_fn_custom is not None:
        given |= {"scale_fn": scheduler._scale_fn_custom, "scale_mode": scheduler.scale_mode}
    given |= {"step_size_up": _near(up), "step_size_down": _near(scheduler.total_size - up)}
    return theirs.CyclicLR(**given, gamma=scheduler.gamma, quantity=quantity)


def _near(size: float) -> float:
    """A size that came out of a quotient, whole where it was."""
    return round(size) if abs(size - round(size)) < 1e-6 else size


def _multi_step(scheduler: Any, _group: int, base: float, _quantity: str) -> Schedule:
    milestones = sorted(scheduler.milestones.elements())
    return theirs.MultiStepLR(base_lr=base, milestones=milestones, gamma=scheduler.gamma)


def _sequential(scheduler: Any, group: int, base: float, _quantity: str) -> Schedule:
    inner = [from_torch(one, group) for one in scheduler._schedulers]
    return theirs.SequentialLR(base_lr=base, schedulers=inner, milestones=list(scheduler._milestones))


def _chained(scheduler: Any, group: int, base: float, _quantity: str) -> Schedule:
    return theirs.ChainedScheduler([from_torch(one, group) for one in scheduler._schedulers], base_lr=base)


def _multiplicative(scheduler: Any, group: int, base: float, _quantity: str) -> Schedule:
    return theirs.MultiplicativeLR(base_lr=base, lr_lambda=scheduler.lr_lambdas[group])


_READERS: dict[str, Callable[[Any, int, float, str], Schedule]] = {
    "LambdaLR": _lambda,
    "MultiplicativeLR": _multiplicative,
    "MultiStepLR": _multi_step,
    "OneCycleLR": _one_cycle,
    "CyclicLR": _cyclic,
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
}
