"""nanochat, scripts/base_train.py at 00255c194d47: the rate's multiplier, Muon's momentum and its weight decay.

The warm-up arrives, what falls departs: its end value would come at update num_iterations, which is never made. It holds past
the end.
"""

from __future__ import annotations

from lrkit.errors import real
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.common import absolute, chain, choice, count, exactly, held, way
from lrkit.schedules.compose import Rates
from lrkit.schedules.easing import cosine
from lrkit.schedules.parts import Part, Segment


def get_lr_multiplier(
    base_lr: float = 1.0, *, num_iterations: int, warmup_steps: int = 40, warmdown_ratio: float = 0.65,
    final_lr_frac: float = 0.05,
) -> Rates:  # fmt: skip
    """base_lr·(t + 1)/W, then base_lr, then linear to final_lr_frac·base_lr over the last round(ratio·N) updates.

    Args:
        base_lr: The highest rate; without it, the multiplier.
        num_iterations: N, updates of the run.
        warmup_steps: W; 0 for none. It wins over the warm-down.
        warmdown_ratio: Share of the run that falls.
        final_lr_frac: Factor past the last update.

    Raises:
        InputError: If a number is out of its range.
    """
    call = "get_lr_multiplier"
    warmup = count(call, "warmup_steps", warmup_steps)
    rise = way(0.0, 1.0, warmup, arrive=True)
    return absolute(_run(call, rise, warmup, num_iterations, warmdown_ratio, final_lr_frac), base_lr)


def get_muon_momentum(
    num_iterations: int, warmdown_ratio: float = 0.65, warmup: int = 400, start: float = 0.85, top: float = 0.97,
    end: float = 0.9, quantity: str = "momentum",
) -> Rates:  # fmt: skip
    """start + (top − start)·t/warmup, then top, then linear to `end` over the last round(ratio·N) updates.

    Args:
        num_iterations: N, updates of the run.
        warmdown_ratio: Share of the run in which it falls.
        warmup: Updates of the rise; this number and the next three are fixed in nanochat.
        start: Momentum of update 0.
        top: Highest momentum.
        end: Momentum past the last update.
        quantity: ``"momentum"``: there is no other.

    Raises:
        InputError: If a number is out of its range.
    """
    call = "get_muon_momentum"
    choice(call, "quantity", quantity, ("momentum",))
    high, warmup = real(call, "top", top, above=0.0), count(call, "warmup", warmup)
    first, last = (real(call, name, value) / high for name, value in (("start", start), ("end", end)))
    return absolute(_run(call, way(first, 1.0, warmup), warmup, num_iterations, warmdown_ratio, last), high)


def get_weight_decay(
    num_iterations: int, weight_decay: float, base_lr: float | None = None, quantity: str = "weight_decay"
) -> Rates:
    """weight_decay·(1 + cos(π·t/N))/2.

    Args:
        num_iterations: N, updates of the run.
        weight_decay: Weight decay of update 0, as nanochat has scaled it.
        base_lr: Not read.
        quantity: ``"weight_decay"``: there is no other.

    Raises:
        InputError: If the quantity is another.
    """
    del base_lr
    choice("get_weight_decay", "quantity", quantity, ("weight_decay",))
    return absolute(Segment(1.0, 0.0, num_iterations, cosine), weight_decay)


def _run(call: str, rise: Segment | None, warmup: int, steps: int, ratio: float, end: float) -> Schedule:
    """The rise, 1, and a line to `end`, of which the rise covers what is before its own end."""
    n = count(call, "num_iterations", steps, 1)
    fall = round(real(call, "warmdown_ratio", ratio, least=0.0) * n)
    if warmup >= n and rise:
        return exactly(rise, n)
    stable, line = n - fall - warmup, way(1.0, end, fall)
    if line and stable < 0:
        return chain(rise, Part(line, -stable, fall))
    return chain(rise, held(1.0, stable), line)
