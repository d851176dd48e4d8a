"""Pictures for a terminal: a curve in Braille dots, eight to a character. Text in, text out; knows no rich, no colours."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrkit.schedules.easing import number_text

Array = NDArray[np.float64]
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bit of each dot, by row and column


def draw(x: Array, y: Array, width: int = 64, height: int = 12, log_y: bool = False, mark: Sequence[float] = ()) -> str:
    """Draw a curve.

    Args:
        x: (n,) ascending.
        y: (n,) values; the non-finite ones are left out.
        width: Characters, without the labels.
        height: Lines.
        log_y: A logarithmic y axis; needs positive values.
        mark: x positions to mark below the axis.

    Returns:
        Lines joined by newlines; an empty picture where no value is finite.
    """
    keep = np.isfinite(y) & (~log_y | (y > 0))
    if not keep.any():
        return "(nothing to draw: no finite value)"
    x, y = x[keep], np.log10(y[keep]) if log_y else y[keep]
    low, high = float(y.min()), float(y.max())
    span_x, span_y = float(x[-1] - x[0]) or 1.0, (high - low) or 1.0
    columns = np.minimum((x - x[0]) / span_x * (2 * width - 1), 2 * width - 1).round().astype(int)
    rows = ((high - y) / span_y * (4 * height - 1)).round().astype(int)
    cells = np.zeros((height, width), dtype=int)
    # Between two points the line is drawn as a vertical stroke, so that a steep curve has no gaps.
    for (c0, r0), (c1, r1) in zip(zip(columns, rows, strict=True), zip(columns[1:], rows[1:], strict=True), strict=False):
        n = max(1, abs(int(c1) - int(c0)), abs(int(r1) - int(r0)))
        for k in range(n + 1):
            c, r = round(c0 + (c1 - c0) * k / n), round(r0 + (r1 - r0) * k / n)
            cells[r // 4, c // 2] |= _DOTS[r % 4][c % 2]
    if len(columns) == 1:
        cells[rows[0] // 4, columns[0] // 2] |= _DOTS[rows[0] % 4][columns[0] % 2]
    labels = [_label(10**v if log_y else v) for v in (high, low)]
    margin = max(map(len, labels))
    lines = ["".join(chr(0x2800 + cell) for cell in row) for row in cells]
    out = [f"{labels[0] if i == 0 else labels[1] if i == height - 1 else '':>{margin}} │{line}" for i, line in enumerate(lines)]
    foot = [" "] * width
    for position in mark:
        foot[min(width - 1, max(0, int((position - x[0]) / span_x * (width - 1))))] = "▲"
    first, last = _label(float(x[0])), _label(float(x[-1]))
    out.append(f"{'':>{margin}} └{'─' * width}")
    if mark:
        out.append(f"{'':>{margin}}  {''.join(foot).rstrip()}")
    out.append(f"{'':>{margin}}  {first}{last:>{width - len(first)}}")
    return "\n".join(out)


def _label(value: float) -> str:
    return number_text(float(f"{value:.3g}"))
