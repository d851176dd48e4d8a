"""The readers: a file's text → Run, or None where the file is another's. `sniff.READERS` lists them."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrkit.errors import FileError
from lrkit.logs.names import canonical
from lrkit.logs.rows import number, run_of
from lrkit.run import Run

Reader = Callable[[Path, str], Run | None]


def lrkit_run(path: Path, text: str) -> Run | None:
    """A run that lrkit wrote (`run.Writer`)."""
    return Run.from_text(text, f"read({str(path)!r})") if text.lstrip()[:40].startswith('{"lrkit_run"') else None


def jsonl(path: Path, text: str) -> Run | None:
    """One JSON object a line, as most training loops write; a torn last line is dropped."""
    lines = [line for line in text.split("\n") if line.strip()]
    rows: list[dict[str, Any]] = []
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if i == len(lines) - 1 and rows:
                break
            return None
        if not isinstance(row, dict):
            return None
        rows.append(row)
    return run_of(str(path), rows, {"source": path.name, "format": "jsonl"}) if rows else None


def table(path: Path, text: str) -> Run | None:
    """A table with a header line: comma, semicolon or tab between the cells (Lightning, Keras, Ultralytics, AlgoPerf …)."""
    header = text.lstrip("\ufeff \n").replace("\r", "\n").partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    if header.count(delimiter) < 1 or header.lstrip().startswith(("{", "[")):
        return None
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    except csv.Error:
        return None
    if any(number(name) is not None for name in names):
        return None
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FileError(f"read({str(path)!r}): two columns are named {twice!r}. Rename one of them.")
    lines = text.lstrip("\ufeff \n").replace("\r\n", "\n").replace("\r", "\n")
    body = csv.DictReader(io.StringIO(lines), fieldnames=names, delimiter=delimiter)
    try:
        next(body)
        rows = [{name: cell.strip() for name, cell in row.items() if isinstance(cell, str)} for row in body]
    except csv.Error:
        return None  # quotes or cells that no table has
    if "loss" not in canonical(names).values() and not any(number(cell) is not None for row in rows for cell in row.values()):
        return None  # prose with a comma in it
    return run_of(str(path), rows, {"source": path.name, "format": "csv"})
