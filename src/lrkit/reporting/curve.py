"""A Run's loss and rate for a terminal: raw values as loose dots, the smoothed loss as a line, a stretch marked below it.

Knows Runs and rich's Text; the dots are `terminal`'s.
"""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from lrkit.figures.charts import positive_spread, thin
from lrkit.reporting.terminal import braille, column, spark
from lrkit.run import Run

Array = NDArray[np.float64]
Mark = tuple[int, int, str, str]  # first and last step, what to call the stretch, its colour
_EMPTY = "⠀"
_QUIET = "dim"
_FAR = 1e290  # beyond, differences overflow


def curve(run: Run, width: int, height: int, mark: Mark | None = None) -> list[Text]:
    """The loss, the marked stretch under it, the rate, the steps.

    Args:
        run: Needs `loss`; `lr` is drawn where it is there.
        width: Characters of a line, the labels included.
        height: Lines of the curve itself.
        mark: The stretch to mark, by colour and by a bracket.
    """
    raw, smooth = run.observed("loss"), run.smooth("loss")
    if not len(raw[1]):
        return [Text("(no finite loss to draw)", style=_QUIET)]
    log = positive_spread(smooth[1])
    low, high = _limits(raw[1], smooth[1], log)
    first, last = float(run["step"][0]), float(run["step"][-1])
    rate = run.observed("lr") if "lr" in run else (np.empty(0), np.empty(0))
    peak = f"lr {rate[1].max():.2g}" if len(rate[1]) else ""
    names = [f"{high:.3g}", *[""] * (height - 2), f"{low:.3g}"]
    names[1] = "log loss" if log else "loss"
    margin = max(map(len, (*names, peak)))
    room = width - margin - 1
    scale = math.log10 if log else float
    y = (scale(low), scale(high))
    few = [thin(*pair, 8 * room) for pair in (raw, smooth)]
    loose, strong = (
        [(float(a), scale(min(max(b, low), high))) for a, b in zip(*pair, strict=True) if b > 0 or not log] for pair in few
    )
    dots = braille(loose, room, height, (first, last), y, joined=False)
    lines = _coloured(dots, braille(strong, room, height, (first, last), y), _lost(run, room, (first, last)), (first, last), mark)
    out = [Text().append(f"{name:>{margin}} ", _QUIET).append_text(line) for name, line in zip(names, lines, strict=True)]
    if mark is not None:
        out.append(Text(" " * (margin + 1)).append(_bracket(mark, first, last, room), f"bold {mark[3]}".strip()))
    if peak:
        out.append(Text(f"{peak:>{margin}} {_rate(*rate, first, last, room)}", style=_QUIET))
    out.append(Text(f"{'step':>{margin}} {_ends(f'{first:.0f}', f'{last:.0f}', room)}", style=_QUIET))
    for line in out:
        line.rstrip()
    return out


def _rate(steps: Array, rate: Array, first: float, last: float, width: int) -> str:
    """From zero up, so that a warm-up and a decay have their shapes; a constant is said, which is quieter than a full bar."""
    if np.ptp(rate) <= 1e-6 * rate.max():
        return "constant"
    return spark(list(_by_column(steps, rate, first, last, width)), 0.0, float(rate.max()))


def trace(run: Run, width: int) -> str:
    """The loss in one line of bars; where it is lost, crosses."""
    steps, loss = run.observed("loss")
    if not len(loss):
        return " " * width
    first, last = float(run["step"][0]), float(run["step"][-1])
    means = _by_column(steps, np.clip(loss, -_FAR, _FAR), first, last, width)
    means = np.log10(means) if positive_spread(means) else means
    bars = spark(list(means), float(np.nanmin(means)), float(np.nanmax(means)))
    lost = _lost(run, width, (first, last))
    return "".join("×" if i in lost else bar for i, bar in enumerate(bars))


def _limits(raw: Array, smooth: Array, log: bool) -> tuple[float, float]:
    """Lowest and highest loss of the picture: all of the line, and all but the wildest of the dots, which lie on the edge."""
    low, high = np.quantile(np.clip(raw[raw > 0] if log else raw, -_FAR, _FAR), (0.02, 0.98))
    return max(-_FAR, float(min(low, smooth.min()))), min(_FAR, float(max(high, smooth.max())))


def _coloured(loose: list[str], strong: list[str], lost: set[int], x: tuple[float, float], mark: Mark | None) -> list[Text]:
    """The line over the dots, in its colour where it is marked; crosses on top where the loss is lost."""
    width = len(loose[0])
    since, until = (column(step, *x, width) for step in mark[:2]) if mark is not None else (width, width)
    style = f"bold {mark[3]}".strip() if mark is not None else ""
    out = []
    for number, (dots, line) in enumerate(zip(loose, strong, strict=True)):
        cells = []
        for i, (dot, dash) in enumerate(zip(dots, line, strict=True)):
            if number == 0 and i in lost:
                cells.append(("×", "red"))
            elif dash != _EMPTY:
                cells.append((dash, style if since <= i <= until else ""))
            else:
                cells.append((" " if dot == _EMPTY else dot, _QUIET))
        pieces = ((look, "".join(letter for letter, _ in same)) for look, same in groupby(cells, key=lambda cell: cell[1]))
        out.append(Text.assemble(*((letters, look) for look, letters in pieces)))
    return out


def _lost(run: Run, width: int, x: tuple[float, float]) -> set[int]:
    """Characters in which the loss is infinite, or not a number to the end of the run."""
    step, loss = run["step"], run["loss"]
    gone = np.isinf(loss)
    finite = np.flatnonzero(np.isfinite(loss))
    if len(loss) - finite[-1] > 3:  # fewer may be rows of a validation
        gone[finite[-1] + 1 :] = True
    return {column(float(one), *x, width) for one in np.unique(step[gone])}


def _by_column(steps: Array, values: Array, first: float, last: float, width: int) -> Array:
    """(width,) the mean of the values in each character; where none falls into it, the one before."""
    index = np.clip(((steps - first) * width / ((last - first) or 1.0)).astype(int), 0, width - 1)
    count = np.bincount(index, minlength=width)
    mean = np.bincount(index, weights=values, minlength=width) / np.maximum(count, 1)
    filled = np.maximum.accumulate(np.where(count > 0, np.arange(width), -1))
    out: Array = np.where(filled >= 0, mean[np.maximum(filled, 0)], np.nan)
    return out


def _bracket(mark: Mark, first: float, last: float, width: int) -> str:
    """``└── name ──┘`` below the stretch; where it is too short for its name, that stands beside it."""
    a, b = (column(step, first, last, width) for step in mark[:2])
    name, size = mark[2], b - a + 1
    if size >= len(name) + 6:
        return " " * a + f"└{f' {name} ':─^{size - 2}}┘"
    line = "▲" if size < 2 else f"└{'─' * (size - 2)}┘"
    if b + 2 + len(name) < width:
        return f"{' ' * a}{line} {name}"
    return f"{name:>{a - 1}} {line}" if a > len(name) else " " * a + line


def _ends(left: str, right: str, width: int) -> str:
    return f"{left}{right:>{width - len(left)}}" if len(left) + len(right) < width else left
