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
    try:
        return float(value)
    except ValueError:
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
    for row in rows:
        numbers = {name: value for name, raw in row.items() if (value := number(raw)) is not None}
        if numbers:
            kept.append(numbers)
    names = dict.fromkeys(name for row in kept for name in row)
    ours = canonical(names)
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
    out = [row for row in out if math.isfinite(row.get("step", math.nan))]
    if any(after["step"] < before["step"] for before, after in pairwise(out)):
        raise FileError(f"read({path!r}): its steps begin again, so it holds several runs. Split it, one run a file.")
    return Run.from_rows(out, meta)
