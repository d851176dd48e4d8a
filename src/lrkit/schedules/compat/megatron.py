"""Megatron-LM: megatron-core 0.16.1 (`megatron.core.optimizer_param_scheduler`).

Update 0 is at num_steps 0, so that a warm-up departs from init_lr. Megatron counts what the caller passes to `step`, samples as
a rule; here the counts are updates. Both ends belong to the phase before them: the value at lr_decay_steps is the last of the
decay, and past it min_lr holds.
"""

from __future__ import annotations

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, exactly, held, way
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import Easing, Power, Relax, cosine, linear
from lrkit.schedules.parts import Hold, Part, Segment
from lrkit.schedules.tails import Hyperbolic, Tail

_CALL = "OptimizerParamScheduler"
_DECAYS = ("constant", "linear", "cosine", "inverse-square-root", "WSD")
_WSD_DECAYS: dict[str, Easing] = {"linear": linear, "cosine": cosine, "exponential": Relax(0.5), "minus_sqrt": Power(0.5)}
_INCREASES: dict[str, Easing | None] = {"constant": None, "linear": linear, "cosine": cosine}


def OptimizerParamScheduler(
    init_lr: float, max_lr: float, min_lr: float, lr_warmup_steps: int, lr_decay_steps: int, lr_decay_style: str,
    start_wd: float = 0.0, end_wd: float = 0.0, wd_incr_steps: int = 0, wd_incr_style: str = "constant",
    wsd_decay_steps: int | None = None, lr_wsd_decay_style: str | None = None, *, base_lr: float | None = None,
    quantity: str = "lr",
) -> Rates:  # fmt: skip
    """init_lr + (max_lr − init_lr)·t/W up to t = W, then min_lr + (max_lr − min_lr)·decay((t − W)/(D − W)).

    The weight decay goes from start_wd to end_wd in wd_incr_steps, from update 0. The inverse square root is
    max(min_lr, max_lr·√(W/t)), with W at least 1. A WSD decay that is planned to begin during the warm-up waits for its end.

    Args:
        init_lr: Rate of update 0, at most max_lr.
        max_lr: Highest rate.
        min_lr: Lowest rate, which holds past the end; the style ``"constant"`` never has it.
        lr_warmup_steps: W, below D; 0 for none.
        lr_decay_steps: D, the warm-up included.
        lr_decay_style: ``"constant"``, ``"linear"``, ``"cosine"``, ``"inverse-square-root"`` or ``"WSD"``.
        start_wd: Weight decay of update 0, at most end_wd.
        end_wd: Weight decay from wd_incr_steps on.
        wd_incr_steps: Updates in which the weight decay rises.
        wd_incr_style: ``"constant"``, ``"linear"`` or ``"cosine"``.
        wsd_decay_steps: Updates of the decay at the end of ``"WSD"``.
        lr_wsd_decay_style: ``"linear"``, ``"cosine"``, ``"exponential"`` or ``"minus_sqrt"``.
        base_lr: Not read, for Megatron writes over the optimizer's rate.
        quantity: ``"lr"`` or ``"weight_decay"``.

    Raises:
        InputError: If the rates or the phases are not in order, or a style is another.
    """
    del base_lr
    if choice(_CALL, "quantity", quantity, ("lr", "weight_decay")) == "weight_decay":
        return _weight_decay(start_wd, end_wd, wd_incr_steps, wd_incr_style)
    w, d = count(_CALL, "lr_warmup_steps", lr_warmup_steps), count(_CALL, "lr_decay_steps", lr_decay_steps, 1)
    if w >= d:
        came = f"{_CALL}(lr_warmup_steps={w}, lr_decay_steps={d})"
        raise InputError(f"{came}: the decay counts the warm-up's updates too. Make lr_decay_steps the larger one.")
    high = real(_CALL, "max_lr", max_lr, least=0.0)
    if not (0 <= real(_CALL, "min_lr", min_lr) <= high and 0 <= real(_CALL, "init_lr", init_lr) <= high):
        came = f"{_CALL}(init_lr={init_lr}, max_lr={max_lr}, min_lr={min_lr})"
        raise InputError(f"{came}: init_lr and min_lr must lie between 0 and max_lr. Exchange them.")
    low, rise = (min_lr / high, way(init_lr / high, 1.0, w)) if high else (0.0, None)
    if high == 0:
        return absolute(Hold(0.0, d), 0.0)
    style = choice(_CALL, "lr_decay_style", lr_decay_style, _DECAYS)
    if style == "WSD":
        return absolute(_wsd(rise, low, w, d, wsd_decay_steps, lr_wsd_decay_style), high)
    if style == "inverse-square-root":
        from_1 = max(w, 1)  # without a warm-up, updates 0 and 1 are both at max_lr
        tail = Tail(Hyperbolic(1.0, 0.5, every=from_1), limit=low or None, steps=d + 1 - from_1)
        return absolute(exactly(chain(rise or Hold(1.0, 1), tail, Hold(low, 1)), d + 1), high)
    fall = Hold(1.0, d - w) if style == "constant" else Segment(1.0, low, d - w, cosine if style == "cosine" else linear)
    return absolute(chain(rise, fall), high)


def _wsd(rise: Segment | None, low: float, w: int, d: int, steps: int | None, style: str | None) -> Schedule:
    """Rise, hold, and a fall that ends at d."""
    steps = count(_CALL, "wsd_decay_steps", steps)
    easing = _WSD_DECAYS[choice(_CALL, "lr_wsd_decay_style", style, tuple(_WSD_DECAYS))]
    start = d - steps
    if not steps:  # update d is the last at max_lr
        return exactly(chain(rise, Hold(1.0, d + 1 - w), Hold(low, 1)), d + 1)
    fall = Segment(1.0, low, steps, easing)
    if start >= w:
        return chain(rise, held(1.0, start - w), fall)
    first = w + 1 if w else 0  # the warm-up owns update w
    rest = Part(fall, first - start, steps) if first < d else Hold(low, 1)
    return chain(rise, Hold(1.0, 1) if w else None, rest)


def _weight_decay(start_wd: float, end_wd: float, steps: int, style: str) -> Rates:
    """start_wd + (end_wd − start_wd)·rise(t / steps)."""
    start, end = real(_CALL, "start_wd", start_wd, least=0.0), real(_CALL, "end_wd", end_wd, least=0.0)
    steps, easing = count(_CALL, "wd_incr_steps", steps), _INCREASES[choice(_CALL, "wd_incr_style", style, tuple(_INCREASES))]
    if start > end or (easing is None and start != end):
        came = f"{_CALL}(start_wd={start:g}, end_wd={end:g}, wd_incr_style={style!r})"
        raise InputError(f"{came}: the weight decay may only rise, and a constant one not even that. Change one of them.")
    if easing is None or not steps or start == end:
        return absolute(Hold(1.0, steps or None), end)
    return absolute(Segment(start / end, 1.0, steps, easing), end)
