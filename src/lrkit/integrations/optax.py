"""`to_optax`: a schedule as optax wants it, a function from the count of updates to the rate.

A schedule works in JAX's own arrays when it is asked with one, so nothing is imported here. Knows schedules only.
"""

from collections.abc import Callable
from typing import Any

from lrkit.errors import InputError, real
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template, resolved
from lrkit.schedules.text import as_schedule


def to_optax(
    schedule: str | Schedule | Template,
    base: float = 1.0,
    *,
    total: int | str | None = None,
    steps_per_epoch: int | None = None,
    tokens_per_step: float | None = None,
    samples_per_step: float | None = None,
) -> Callable[[Any], Any]:
    """The function ``count ↦ base × schedule(count)``, which can be jitted: ``optax.adamw(learning_rate=to_optax(…))``.

    Args:
        schedule: A text, a Schedule or a Template. One of absolute values keeps them.
        base: The rate that the factors multiply.
        total: As in `lrkit.attach`.
        steps_per_epoch: As in `lrkit.attach`.
        tokens_per_step: As in `lrkit.attach`.
        samples_per_step: As in `lrkit.attach`.

    Raises:
        InputError: If the schedule cannot be read or resolved, `base` is negative, or is given for absolute values.

    Examples:
        >>> rate = to_optax("warmup 5% > cosine", base=0.1, total=100)
        >>> rate(4), rate(100)
        (0.1, 0.0)
    """
    base = real("to_optax", "base", base, least=0.0)
    try:
        whole = resolved(as_schedule(schedule), total, steps_per_epoch, tokens_per_step, samples_per_step)
    except InputError as error:
        raise InputError(f"to_optax: {error}") from error
    if whole.base is not None and base != 1.0:
        raise InputError(f"to_optax(base={base}): {whole} has absolute values, so base has nothing to multiply. Leave it out.")
    return lambda count: base * whole(count)
