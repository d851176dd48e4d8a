"""Recipes that go up and down: warm restarts and cyclical rates."""

from collections.abc import Sequence

from lrkit.errors import InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Between, Rates, Repeat, Times
from lrkit.schedules.easing import Easing
from lrkit.schedules.parts import Join, Segment
from lrkit.schedules.tails import Geometric, Tail

_MODES = ("triangular", "triangular2", "exp_range")


def warm_restarts(
    steps: int | Sequence[int],
    times: int | None = None,
    peak_decay: float = 1.0,
    growth: float = 1.0,
    end: float = 0.0,
    easing: str | Easing = "cosine",
) -> Schedule:
    """Fall, go back up, fall again (SGDR, arXiv:1608.03983): equal, growing or given periods, with decaying peaks.

    Args:
        steps: Updates of the first period, or of every period as a list.
        times: How many periods; None goes on for ever.
        peak_decay: Each peak over the one before it, in (0, 1], e.g. 0.8.
        growth: Each period's length over that of the one before it, at least 1.
        end: Factor to which each period falls; a peak does not fall below it.
        easing: Shape of the fall.

    Raises:
        InputError: If a number is out of its range, or both a list and `times` or `growth` are given.

    Examples:
        >>> str(warm_restarts(2_000, times=5, peak_decay=0.8))
        'repeat 5 (cosine 2000) scale 0.8'
        >>> str(warm_restarts([10, 20], end=0.1))
        'cosine 10 to 0.1 > cosine 20 from 1 to 0.1'
    """
    peak_decay = real("warm_restarts", "peak_decay", peak_decay, above=0.0)
    growth = real("warm_restarts", "growth", growth, least=1.0)
    if peak_decay > 1:
        raise InputError(f"warm_restarts(peak_decay={peak_decay:g}): peaks must not grow. Take a number in (0, 1].")
    if not isinstance(steps, Sequence) and (end == 0 or peak_decay == 1):
        return Repeat(Segment(1.0, end, steps, easing), times, growth, peak_decay)
    if not isinstance(steps, Sequence):
        if times is None:
            came = f"warm_restarts(peak_decay={peak_decay:g}, end={end:g})"
            raise InputError(f"{came}: peaks that decay to a floor above 0 need a number of periods. Say times=…")
        times = whole("warm_restarts", "times", times, 1)
        periods = [round(steps * growth**k) for k in range(times)]
    elif times is not None or growth != 1:
        raise InputError("warm_restarts(steps=[…]): a list says every period, so times and growth have no place. Drop them.")
    else:
        periods = list(steps)
    peaks = [max(end, peak_decay**k) for k in range(len(periods))]
    return Join(*(Segment(peak, end, n, easing) for peak, n in zip(peaks, periods, strict=True)))


def _lowest(call: str, low: float) -> float:
    """The lowest factor of a cyclical rate, whose highest is 1."""
    low = real(call, "low", low, least=0.0)
    if low >= 1:
        raise InputError(f"{call}(low={low:g}): low must be below 1, the highest factor. A third or a quarter is usual.")
    return low


def _zigzag(half_cycle: int, scale: float = 1.0) -> Repeat:
    """0 → 1 → 0, again and again."""
    return Repeat(Join(Segment(0.0, 1.0, half_cycle), Segment(1.0, 0.0, half_cycle)), scale=scale)


def _cyclical(half_cycle: int, mode: str, gamma: float) -> Schedule:
    """The scale of a cyclical rate between its two limits, in [0, 1]."""
    if mode not in _MODES:
        raise InputError(f"from_range(mode={mode!r}): there is none of that name. There are {', '.join(_MODES)}.")
    if mode == "triangular":
        return _zigzag(half_cycle)
    return _zigzag(half_cycle, 0.5) if mode == "triangular2" else Times(_zigzag(half_cycle), Tail(Geometric(gamma)))


def triangular(half_cycle: int, low: float = 0.25) -> Between:
    """value(t) = low + (1 − low)·max(0, 1 − |t/half_cycle − 2·cycle + 1|): a cyclical rate (arXiv:1506.01186).

    Args:
        half_cycle: Updates from the lowest to the highest; 2 to 10 epochs.
        low: Lowest factor: a third or a quarter of the highest, which is 1.

    Raises:
        InputError: If a number is out of its range.

    Examples:
        >>> wave = triangular(10)
        >>> wave(0), wave(10), wave(15), wave(20)
        (0.25, 1.0, 0.625, 0.25)
    """
    return Between(_lowest("triangular", low), 1.0, _cyclical(half_cycle, "triangular", 1.0))


def triangular2(half_cycle: int, low: float = 0.25) -> Between:
    """`triangular`, where each cycle rises half as far as the one before it (arXiv:1506.01186).

    Args:
        half_cycle: Updates from the lowest to the highest; 2 to 10 epochs.
        low: Lowest factor; the first cycle's highest is 1.

    Raises:
        InputError: If a number is out of its range.
    """
    return Between(_lowest("triangular2", low), 1.0, _cyclical(half_cycle, "triangular2", 1.0))


def exp_range(half_cycle: int, gamma: float = 0.99994, low: float = 0.25) -> Between:
    """`triangular`, whose swing shrinks by `gamma` every update (arXiv:1506.01186).

    Args:
        half_cycle: Updates from the lowest to the highest; 2 to 10 epochs.
        gamma: What an update leaves of the swing, in (0, 1).
        low: Lowest factor.

    Raises:
        InputError: If a number is out of its range.
    """
    return Between(_lowest("exp_range", low), 1.0, _cyclical(half_cycle, "exp_range", gamma))


def from_range(low: float, high: float, half_cycle: int, mode: str = "triangular", gamma: float = 0.99994) -> Rates:
    """A cyclical rate between two absolute rates, such as a range test gives.

    Args:
        low: Lowest rate, at least 0: a third or a quarter of `high`.
        high: Highest rate, where the test's metric turned.
        half_cycle: Updates from the lowest to the highest; 2 to 10 epochs.
        mode: ``"triangular"``, ``"triangular2"`` or ``"exp_range"``.
        gamma: What an update leaves of the swing in ``"exp_range"``.

    Raises:
        InputError: If `low` is not below `high`, or another number is out of its range.

    Examples:
        >>> wave = from_range(0.001, 0.1, half_cycle=10)
        >>> wave(0), wave(10), wave.base
        (0.001, 0.1, 0.1)
    """
    low, high = real("from_range", "low", low, least=0.0), real("from_range", "high", high, above=0.0)
    if low >= high:
        raise InputError(f"from_range(low={low:g}, high={high:g}): low must be below high. A third or a quarter of it is usual.")
    return Rates(_cyclical(half_cycle, mode, gamma), base=high, origin=low)
