"""Pictures for a terminal: a curve in Braille dots, eight to a character.

Numbers in, text out. Plain Python, so that a short command need not wait for NumPy; knows no rich, no colours.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bit of each dot, by row and column
_BLANK = 0x2800
_BARS = "▁▂▃▄▅▆▇█"


def draw(
    x: Sequence[float], y: Sequence[float], width: int = 64, height: int = 12, mark: Sequence[float] = (), log: bool = False
) -> str:
    """Draw a curve.

    Args:
        x: (n,) ascending; a few thousand are plenty.
        y: (n,) values; the non-finite ones are left out.
        width: Characters, without the labels.
        height: Lines.
        mark: x positions to mark below the axis.
        log: Draw y logarithmically where every value is positive and they are more than a factor of 20 apart.

    Returns:
        Lines joined by newlines; a sentence where no value is finite.

    Examples:
        >>> print(draw([0, 1, 2, 3], [0, 1, 2, 3], width=4, height=2))
        3 │⠀⠀⡠⠊
        0 │⡠⠊⠀⠀
          └────
           0  3
    """
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    if not points:
        return "(nothing to draw: no finite value)"
    log = log and min(b for _, b in points) > 0 and max(b for _, b in points) > 20 * min(b for _, b in points)
    points = [(a, math.log10(b)) for a, b in points] if log else points
    first, last = points[0][0], points[-1][0]
    low, high = min(b for _, b in points), max(b for _, b in points)
    lines = braille(points, width, height, (first, last), (low, high))
    top, bottom = (_label(10**v if log else v) for v in (high, low))
    margin = max(len(top), len(bottom))
    names = [top, *[""] * (height - 2), bottom]
    out = [f"{name:>{margin}} │{line}" for name, line in zip(names, lines, strict=True)]
    out.append(f"{'':>{margin}} └{'─' * width}")
    if mark:
        at = {column(position, first, last, width) for position in mark}
        out.append(f"{'':>{margin}}  {''.join('▲' if i in at else ' ' for i in range(width)).rstrip()}")
    left = _place(first)
    out.append(f"{'':>{margin}}  {left}{_place(last):>{width - len(left)}}")
    return "\n".join(out)


def braille(
    points: Sequence[tuple[float, float]],
    width: int,
    height: int,
    x: tuple[float, float],
    y: tuple[float, float],
    joined: bool = True,
) -> list[str]:
    """Lines of Braille characters, all of one width.

    Args:
        points: (x, y) each, finite; those outside are left out.
        width: Characters.
        height: Lines.
        x: First and last x of the picture.
        y: Lowest and highest y of the picture.
        joined: Whether neighbours are joined by a line.

    Returns:
        Its lines, the highest first.

    Examples:
        >>> braille([(0, 0), (1, 0)], 3, 1, (0, 1), (0, 1), joined=False)
        ['⡀⠀⢀']
    """
    across, up = (2 * width - 1) / ((x[1] - x[0]) or 1.0), (4 * height - 1) / ((y[1] - y[0]) or 1.0)
    dots = [(round((a - x[0]) * across), round((y[1] - b) * up)) for a, b in points if x[0] <= a <= x[1] and y[0] <= b <= y[1]]
    cells = [[0] * width for _ in range(height)]
    for across_at, row in _joined(dots) if joined else dots:
        cells[row // 4][across_at // 2] |= _DOTS[row % 4][across_at % 2]
    return ["".join(chr(_BLANK + cell) for cell in line) for line in cells]


def column(position: float, first: float, last: float, width: int) -> int:
    """The character, counted from 0, that shows this x in a picture from `first` to `last`."""
    return min(width - 1, max(0, int((position - first) * (2 * width - 1) / ((last - first) or 1.0) / 2)))


def spark(values: Sequence[float], low: float, high: float) -> str:
    """A character a value, from the lowest bar to the full one; a value that is not finite leaves a gap.

    Args:
        values: One a character.
        low: Value of the lowest bar.
        high: Value of a full one; where it equals `low`, every bar is full.

    Examples:
        >>> spark([0, 0.5, 1, float("nan"), 1], 0, 1)
        '▁▅█ █'
    """
    share = [(value - low) / (high - low) if high > low else 1.0 for value in values]
    return "".join(_BARS[min(7, max(0, int(one * 8)))] if math.isfinite(one) else " " for one in share)


def _joined(dots: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """The dots and those between neighbours, so that a steep curve has no gaps."""
    out = list(dots[:1])
    for (c0, r0), (c1, r1) in pairwise(dots):
        n = max(1, abs(c1 - c0), abs(r1 - r0))
        out += [(round(c0 + (c1 - c0) * k / n), round(r0 + (r1 - r0) * k / n)) for k in range(1, n + 1)]
    return out


def _label(value: float) -> str:
    return f"{value:.3g}"


def _place(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e7 else _label(value)


def bars(rows: Sequence[tuple[str, float, str]], low: float, high: float, width: int = 32) -> str:
    """A line a value: its name, a bar from `low` to `high`, the value, a note.

    Args:
        rows: (name, value, note) each; a value that is not finite gets no bar and no number.
        low: Value of an empty bar.
        high: Value of a full one.
        width: Characters of a full bar.

    Returns:
        Lines joined by newlines.

    Examples:
        >>> print(bars([("0.01", 0.5, "best"), ("0.1", 2.0, ""), ("1", float("nan"), "diverged")], 0.0, 2.0, width=4))
        0.01 █    0.5 best
         0.1 ████ 2
           1      diverged
    """
    margin = max((len(name) for name, *_ in rows), default=0)
    lines = []
    for name, value, note in rows:
        share = (value - low) / ((high - low) or 1.0) if math.isfinite(value) else 0.0
        bar = "█" * round(width * min(1.0, max(0.0, share)))
        number = f"{value:.3g} " if math.isfinite(value) else ""
        lines.append(f"{name:>{margin}} {bar:<{width}} {number}{note}".rstrip())
    return "\n".join(lines)
