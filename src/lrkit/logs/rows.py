"""Rows of a table or a line-by-line log → Run: names made canonical, values made numbers."""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from lrkit.errors import FileError
from lrkit.logs.names import canonical
from lrkit.run import Run


def number(value: object) -> float | None:
    """The value as a float, or None where it is no number; "nan" and "inf" are numbers, an empty cell is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and "_" in value:
        return None  # Python reads 1_0 as ten; nobody's log means that
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def run_of(path: str, rows: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> Run:
    """A run from rows with anybody's column names.

    Args:
        path: For the messages.
        rows: name → value, one mapping a row.
        meta: What is known besides.

    Raises:
        FileError: If there is no loss column, or the steps begin again (several runs in one file).
    """
    kept: list[dict[str, float]] = []
    cells: dict[str, str] = {}  # the first of each column that is no number
    for row in rows:
        for name, raw in row.items():
            if number(raw) is None and str(raw):
                cells.setdefault(name, str(raw)[:40])
        numbers = {name: value for name, raw in row.items() if (value := number(raw)) is not None}
        if numbers:
            kept.append(numbers)
    names = dict.fromkeys(name for row in kept for name in row)
    ours = canonical(names)
    if "loss" not in ours.values() and "loss" in canonical(cells).values():
        column = next(name for name, meaning in canonical(cells).items() if meaning == "loss")
        raise FileError(f"read({path!r}): the cells of its column {column!r} are no numbers; the first is {cells[column]!r}.")
    if "loss" not in ours.values():
        shown = ", ".join(list(names)[:12]) or "no numbers at all"
        raise FileError(
            f"read({path!r}): no loss column; it has {shown}. Rename the column of the training loss to 'loss' "
            "(also known: train_loss, train/loss, training_loss)."
        )
    out = [{ours.get(name, name): value for name, value in row.items()} for row in kept]
    if "step" not in ours.values():
        for i, row in enumerate(out):
            row["step"] = float(i)
    if not all(math.isfinite(row.get("step", math.nan)) for row in out):
        lacking = sum(not math.isfinite(row.get("step", math.nan)) for row in out)
        if lacking > len(out) // 2:
            raise FileError(f"read({path!r}): {lacking} of {len(out)} rows have no step. Give each row one, or none.")
        out = [row for row in out if math.isfinite(row.get("step", math.nan))]
    if not any("loss" in row for row in out):
        raise FileError(f"read({path!r}): no row with a loss has a step. Give each row one, or none.")
    while "loss" not in out[-1]:
        out.pop()  # a summary or an evaluation after the last update: not a loss that exploded
    if any(after["step"] < before["step"] for before, after in pairwise(out)):
        raise FileError(f"read({path!r}): its steps begin again, so it holds several runs. Split it, one run a file.")
    return Run.from_rows(out, meta)
