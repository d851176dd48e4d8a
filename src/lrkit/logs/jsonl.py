"""One JSON object a line: a row, as most training loops write, or a whole run."""

import json
from collections.abc import Iterator
from itertools import islice

from lrkit.logs.documents import tables_in
from lrkit.logs.grid import blocks, grid_of_lines, separators
from lrkit.logs.names import SPLITS, told_apart
from lrkit.logs.source import Source
from lrkit.logs.table import Builder, Table


def jsonl(source: Source) -> list[Table] | None:
    """JSON lines: an object a row, or one with lists in it a run; a torn last line is dropped."""
    text = source.text
    if source.head[:1] != "{":
        return None
    first = next((line for line in islice(_lines(text), 1)), "")
    try:
        whole = _is_run(json.loads(first))
    except (ValueError, RecursionError):
        return None
    if whole:
        return _whole_runs(text)
    builder, known = Builder(), separators(first)
    for block, last in _with_last(blocks(text)):
        if known is not None and block.endswith("\n") and (numbers := grid_of_lines(block, known[1])) is not None:
            builder.block(known[0], numbers)
            continue
        rows = _rows(block, last and not text.endswith("\n"))
        if rows is None:
            return None
        builder.objects(rows)
    return [builder.table(format="jsonl")]


def _is_run(entry: object) -> bool:
    return isinstance(entry, dict) and bool(tables_in(entry))


def _whole_runs(text: str) -> list[Table] | None:
    tables: list[Table] = []
    for line in _lines(text):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            if tables:
                continue  # a damaged line is one run less
            return None
        if isinstance(entry, dict):
            tables += tables_in(entry) or []
    return tables


def _lines(text: str) -> Iterator[str]:
    return (line for block in blocks(text) for line in block.split("\n") if line.strip())


def _with_last(items: Iterator[str]) -> Iterator[tuple[str, bool]]:
    held = next(items, None)
    for item in items:
        assert held is not None, "the first came"
        yield held, False
        held = item
    if held is not None:
        yield held, True


def _rows(block: str, torn: bool) -> list[dict[str, object]] | None:
    """The objects of a block of lines, or None where a line is none; `torn` says that the last may be cut short."""
    lines = [line for line in block.split("\n") if line.strip()]
    try:
        rows = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        if not torn or len(lines) < 2:
            return None
        return _rows("\n".join(lines[:-1]), False)
    if len(rows) != len(lines) or not all(isinstance(row, dict) for row in rows):
        return None
    return list(map(told_apart, rows)) if any(f'"{name}"' in block for name in SPLITS) else rows
