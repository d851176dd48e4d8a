"""torch 2.13's CyclicLR and OneCycleLR, of the rate and of the momentum; conventions as in `compat.torch`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import chain, choice, count, overwritten, share, way
from lrkit.schedules.compat.stairs import geometric
from lrkit.schedules.compose import Rates, Repeat, Times
from lrkit.schedules.easing import Easing, cosine, linear
from lrkit.schedules.parts import Part, Segment
from lrkit.schedules.points import Custom, Points

_SHAPES: dict[str, Easing] = {"cos": cosine, "linear": linear}


def anneal(call: str, strategy: str) -> Easing:
    """The easing of torch's ``"cos"`` or ``"linear"``.

    Raises:
        InputError: If it is neither.
    """
    return _SHAPES[choice(call, "anneal_strategy", strategy, tuple(_SHAPES))]


def _wave(up: float, down: float, scale: float) -> Repeat:
    """0 → 1 in `up`, → 0 in `down`, again and again, each `scale` times as high; the lengths may be fractions."""
    if up == int(up) and down == int(down):
        return Repeat(chain(Segment(0.0, 1.0, int(up)), way(1.0, 0.0, int(down))), scale=scale)
    period = Fraction(up + down).limit_denominator(1000)
    if abs(float(period) - (up + down)) > 1e-12 * (up + down):
        came = f"CyclicLR(step_size_up={up:g}, step_size_down={down:g})"
        raise InputError(f"{came}: a cycle must be a whole number of updates, or a plain fraction of one. Round the sizes.")
    points: list[tuple[float, float]] = []
    for k in range(period.denominator):  # so many cycles take a whole number of updates
        begin, end = float(k * period), float((k + 1) * period)
        points += [(begin, 0.0), (min(begin + up, end) if down else end, scale**k)]
    return Repeat(Points((*points, (float(period.numerator), 0.0))), scale=scale**period.denominator)


def _scale(
    size: float, mode: str, gamma: float, scale_fn: Callable[[float], float] | None, scale_mode: str
) -> tuple[float, Schedule | None]:
    """What a cycle leaves of the height of the one before it, and what is multiplied with that."""
    if scale_fn is None:
        choice("CyclicLR", "mode", mode, ("triangular", "triangular2", "exp_range"))
        decay = geometric("CyclicLR", "gamma", gamma, stairs=True) if mode == "exp_range" and gamma != 1 else None
        return 0.5 if mode == "triangular2" else 1.0, decay
    if choice("CyclicLR", "scale_mode", scale_mode, ("cycle", "iterations")) == "iterations":
        return 1.0, Custom(scale_fn)
    if not callable(scale_fn):
        raise InputError(f"CyclicLR(scale_fn={scale_fn!r}): must be a function of the cycle. Leave it out to go by mode.")
    per_cycle = scale_fn
    name = getattr(scale_fn, "__name__", "scale_fn")
    return 1.0, Custom(lambda t: per_cycle(math.floor(1 + t / size)), name=f"{name} of the cycle")


def CyclicLR(
    base_lr: float, max_lr: float, step_size_up: float = 2000, step_size_down: float | None = None, mode: str = "triangular",
    gamma: float = 1.0, scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle", cycle_momentum: bool = True,
    base_momentum: float = 0.8, max_momentum: float = 0.9, quantity: str = "lr",
) -> Rates:  # fmt: skip
    """value(t) = base + (max − base)·h(t)·F, h = 0 → 1 → 0 in each cycle; momentum = max − (max − base)·h(t)·F.

    F = 1, ½^(cycle − 1), or gamma^t.

    Args:
        base_lr: Lowest rate; the optimizer's own is overwritten.
        step_size_up: Updates of the rise, above 0; fractions count.
        step_size_down: Updates of the fall; as many where None, and 0 for a saw.
        mode: ``"triangular"``, ``"triangular2"`` or ``"exp_range"``: which F.
        scale_fn: F itself, as a function of the cycle from 1, or of the update.
        scale_mode: ``"cycle"`` or ``"iterations"``: what scale_fn counts.
        quantity: ``"lr"`` or ``"momentum"``; the momentum's base is where it is lowest, as is the rate's where it is highest.

    Raises:
        InputError: If an argument is out of its range, or the momentum is asked for and does not cycle.
    """
    up = real("CyclicLR", "step_size_up", step_size_up, above=0.0)
    down = up if step_size_down is None else real("CyclicLR", "step_size_down", step_size_down, least=0.0)
    scale, factor = _scale(up + down, mode, gamma, scale_fn, scale_mode)
    wave = _wave(up, down, scale)
    shape = wave if factor is None else Times(wave, factor)
    if _is_momentum("CyclicLR", quantity, cycle_momentum):
        return Rates(shape, base_momentum, max_momentum)
    return Rates(shape, max_lr, base_lr)


def _is_momentum(call: str, quantity: str, cycle_momentum: bool) -> bool:
    momentum = choice(call, "quantity", quantity, ("lr", "momentum")) == "momentum"
    if momentum and not cycle_momentum:
        raise InputError(f"{call}(cycle_momentum=False): the momentum stays as it is. Ask for quantity='lr'.")
    return momentum


def _one_cycle(ends: Sequence[float], values: Sequence[float], total: int, shape: Easing) -> Schedule:
    """From value to value, with phases that end at `ends`, fractions of an update included; the last at total − 1."""
    points = [(0.0, values[0]), *zip(ends, values[1:], strict=True)]
    while len(points) > 2 and points[1][0] < 0:  # over before update 0
        points.pop(0)
    while len(points) > 2 and points[-2][0] >= total - 1:  # never begun
        points.pop()
    before = max(0, math.ceil(-points[0][0]))
    curve = Points(tuple((place + before, value) for place, value in points), shape)
    return Part(curve, before, before + total)


def OneCycleLR(
    max_lr: float, total_steps: int | None = None, epochs: int | None = None, steps_per_epoch: int | None = None,
    pct_start: float = 0.3, anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float = 0.85,
    max_momentum: float = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
    quantity: str = "lr", base_lr: float | None = None,
) -> Rates:  # fmt: skip
    """max/div → max at pct_start·T − 1 → max/(div·final) at T − 1; in three phases, back to max/div at 2·pct_start·T − 2 first.

    The momentum goes the other way between its two limits. Phases end between two updates where the numbers say so. Where the
    first one ends at update 0, where torch divides by zero, the run starts at the peak.

    Args:
        max_lr: Peak.
        total_steps: T; or `epochs` · `steps_per_epoch`.
        pct_start: Share of the run that rises, in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        quantity: ``"lr"`` or ``"momentum"``.
        base_lr: The optimizer's rate, which torch overwrites; it has no effect.

    Raises:
        InputError: If an argument is out of its range, or there is no length.
    """
    call = "OneCycleLR"
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        raise InputError(f"{call}(total_steps=None): the run needs a length. Give total_steps, or epochs and steps_per_epoch.")
    total = count(call, "total_steps", total_steps, 1) if total_steps is not None else 0
    if total_steps is None:
        total = whole(call, "epochs", epochs) * whole(call, "steps_per_epoch", steps_per_epoch)
    overwritten(call, base_lr)
    rise = share(call, "pct_start", pct_start) * total - 1
    ends = [rise, 2 * pct_start * total - 2, total - 1] if three_phase else [rise, total - 1]
    if _is_momentum(call, quantity, cycle_momentum):
        top = real(call, "max_momentum", max_momentum, above=0.0)
        low, base = real(call, "base_momentum", base_momentum, least=0.0) / top, top
        values = [1.0, low, 1.0, 1.0] if three_phase else [1.0, low, 1.0]
    else:
        start = 1.0 / real(call, "div_factor", div_factor, above=0.0)
        end, base = start / real(call, "final_div_factor", final_div_factor, above=0.0), real(call, "max_lr", max_lr)
        values = [start, 1.0, start, end] if three_phase else [start, 1.0, end]
    return Rates(_one_cycle(ends, values, total, anneal(call, anneal_strategy)), base)
