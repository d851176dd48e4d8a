"""Where two schedules part, and what that makes of the whole."""

from __future__ import annotations

from dataclasses import dataclass

from lrkit.schedules.base import Schedule, grid, length_shown
from lrkit.schedules.clock import Clock
from lrkit.schedules.template import Template, read_for
from lrkit.schedules.text import as_schedule

_MOST = 1_000_000  # updates that are compared one by one; of longer runs, so many of them
_SAME = 1e-9  # relative difference below which two values are one


@dataclass(frozen=True)
class Difference:
    """How two schedules differ over a run; truthy where they do.

    Args:
        total: Updates compared.
        first: First update at which they differ by more than a billionth; None where they never do.
        largest: Largest absolute difference, and `at`, its update.
        mean: Mean value of the first and of the second: what the whole run moves in a straight valley.
        mean_square: Mean square of both: what the run's noise adds up to.
    """

    total: int
    first: int | None
    largest: float
    at: int
    mean: tuple[float, float]
    mean_square: tuple[float, float]

    def __bool__(self) -> bool:
        return self.first is not None

    def __str__(self) -> str:
        if self.first is None:
            return f"the same over {self.total} updates"
        (a, b), (aa, bb) = self.mean, self.mean_square
        ratio = [f"{y / x:.3g} times" if x else "beyond" for x, y in ((a, b), (aa, bb))]
        return (
            f"they part at step {self.first} and are furthest apart at step {self.at}, by {self.largest:.4g}\n"
            f"the second's mean is {ratio[0]} the first's ({a:.4g}, {b:.4g}), its mean square {ratio[1]}"
        )


def _parting(one: Schedule, other: Schedule, same: int, apart: int) -> int:
    """The first step at which two schedules differ, between one where they do not and one where they do."""
    while apart - same > 1:
        middle = (same + apart) // 2
        a, b = one(middle), other(middle)
        same, apart = (same, middle) if abs(a - b) > _SAME * max(abs(a), abs(b)) else (middle, apart)
    return apart


def diff(
    a: str | Schedule | Template,
    b: str | Schedule | Template,
    total: int | str | None = None,
    steps_per_epoch: int | None = None,
    tokens_per_step: float | None = None,
    samples_per_step: float | None = None,
) -> Difference:
    """Compare two schedules, step by step.

    Args:
        a: A schedule in any form.
        b: Another.
        total: Updates to compare; where None, those of the longer one. Of more than a million, so many are compared.
        steps_per_epoch: Optimizer updates of one epoch.
        tokens_per_step: Tokens of one update.
        samples_per_step: Samples of one update.

    Raises:
        InputError: If one cannot be read or resolved.

    Examples:
        >>> print(diff("warmup 10 > cosine 90", "warmup 10 > linear 90"))
        they part at step 11 and are furthest apart at step 30, by 0.1052
        the second's mean is 1 times the first's (0.51, 0.51), its mean square 0.902 times
    """
    import numpy

    clock = Clock(total, steps_per_epoch, tokens_per_step, samples_per_step)
    one, other = (read_for(as_schedule(schedule), clock) for schedule in (a, b))
    run: int = max(length_shown(one), length_shown(other)) if clock.total is None else clock.total
    steps = grid(run, _MOST)
    x, y = one(steps), other(steps)
    gap = numpy.abs(x - y)
    apart = numpy.flatnonzero(gap > _SAME * numpy.maximum(numpy.abs(x), numpy.abs(y)))
    at = int(gap.argmax())
    squares = (float((x * x).mean()), float((y * y).mean()))
    first = int(steps[apart[0]]) if len(apart) else None
    if first is not None and apart[0] > 0:
        first = _parting(one, other, int(steps[apart[0] - 1]), first)
    return Difference(run, first, float(gap[at]), int(steps[at]), (float(x.mean()), float(y.mean())), squares)
