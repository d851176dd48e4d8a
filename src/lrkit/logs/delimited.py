"""Tables with a header line: comma, semicolon or tab between the cells. Layouts that need more than names are listed here.

Lightning's metrics.csv, Keras' CSVLogger and AlgoPerf's measurements.csv need nothing but names.
"""

import csv
import io
from collections.abc import Callable

from lrkit.errors import FileError
from lrkit.logs.grid import GAP, blocks, filled, grid
from lrkit.logs.layouts import KEYS, LABELS, labelled, rates, ultralytics, wandb
from lrkit.logs.names import SPLITS, canonical, plain
from lrkit.logs.source import Source
from lrkit.logs.table import Builder, Table, number

# Each takes a table and hands on the tables in it, or None where the layout is another.
LAYOUTS: tuple[Callable[[Table], list[Table] | None], ...] = (ultralytics, wandb, rates)
_LOOKED_AT = 20  # lines that tell a table without a loss from prose


def delimited(source: Source) -> list[Table] | None:
    """CSV: a header of names, then a line of cells a row; an empty cell is a gap."""
    text = source.text.lstrip("\ufeff\n ")
    header, _, body = text.partition("\n")
    header = header.removeprefix("# ")
    delimiter = max(",;\t", key=header.count)
    if header.count(delimiter) < 1 or header.lstrip().startswith(("{", "[")):
        return None
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
        if any(number(name) is not None for name in names):
            return None
        if "loss" not in canonical(names).values() and not _is_table(body, len(names), delimiter):
            return None  # prose with a comma in it
        table, labels = _gathered(source, names, body, delimiter)
    except csv.Error:
        return None  # quotes or cells that no table has
    if not table.length:
        raise FileError(f"{source.where}: it has a header and no rows. Was the run ever started?")
    return [one for part in labelled(table, labels) for one in _laid_out(part)]


def _gathered(source: Source, names: list[str], body: str, delimiter: str) -> tuple[Table, dict[str, list[str]]]:
    """The numbers, and the words of the columns that tell runs or metrics apart."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FileError(f"{source.where}: two columns are named {twice!r}. Rename one of them.")
    if {"name", "state", "runtime"} <= {plain(name) for name in names} and "step" not in canonical(names).values():
        raise FileError(
            f"{source.where}: it is W&B's table of runs, one a row, and holds no log. Export a chart or a run's history."
        )
    builder = Builder()
    labels = {name: list[str]() for name in names if plain(name) in (*LABELS, *KEYS, *SPLITS)}
    places = [(names.index(name), cells) for name, cells in labels.items()]
    for block in blocks(body):
        numbers = grid(filled(block, delimiter), delimiter * (len(names) - 1)) if not labels else None
        if numbers is not None:
            builder.block(names, numbers, GAP)
            continue
        rows = [row for row in csv.reader(io.StringIO(block), delimiter=delimiter) if row]
        builder.cells(names, rows)
        for place, cells in places:
            cells.extend(row[place].strip() if place < len(row) else "" for row in rows)
    return builder.table(format="csv"), labels


def _is_table(body: str, width: int, delimiter: str) -> bool:
    """Whether the lines below a header without a loss are rows: of its width, most with a number."""
    lines = [line for line in body[: 1 << 16].split("\n")[:_LOOKED_AT] if line.strip()]
    rows = list(csv.reader(lines, delimiter=delimiter))
    even = [row for row in rows if len(row) == width and any(number(cell) is not None for cell in row)]
    return 2 * len(even) > len(rows)


def _laid_out(table: Table) -> list[Table]:
    for layout in LAYOUTS:
        if (found := layout(table)) is not None:
            return found
    return [table]
