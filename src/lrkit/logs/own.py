"""lrkit's own runs, which come back as they were saved."""

import json

import numpy as np

from lrkit.journal import VERSION
from lrkit.logs.grid import blocks, grid_of_lines, separators
from lrkit.logs.source import Source
from lrkit.run import Run


def lrkit_run(source: Source) -> list[Run] | None:
    """A run that lrkit wrote (`run.Writer`)."""
    if not source.head.startswith('{"lrkit_run"'):
        return None
    return [_regular(source.text) or Run.from_text(source.text, source.where)]


def _regular(text: str) -> Run | None:
    """A run whose rows all have the same names and ascend, without a dict a row; None where it is not so simple."""
    header, _, body = text.partition("\n")
    first = separators(body[: body.find("\n") + 1])
    try:
        told = json.loads(header)
    except (ValueError, RecursionError):
        return None
    if first is None or told.get("lrkit_run") != VERSION or "step" not in first[0] or not body.endswith("\n"):
        return None
    meta, columns = told.get("meta"), told.get("columns", [])
    if not isinstance(meta, dict) or not isinstance(columns, list):
        return None
    parts = []
    for block in blocks(body):
        numbers = grid_of_lines(block, first[1])
        if numbers is None:
            return None
        parts.append(numbers)
    rows = np.concatenate(parts)
    step = rows[:, first[0].index("step")]
    if not np.isfinite(step).all() or (np.diff(step) <= 0).any():
        return None  # Run.from_text joins the rows of a step, and refuses what is no step
    found = dict(zip(first[0], rows.T, strict=True))
    names = dict.fromkeys([*map(str, columns), *first[0]])
    return Run({name: found.get(name, np.full(len(rows), np.nan)) for name in names}, meta)
