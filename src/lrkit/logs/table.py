"""Table: what a reader hands on. Named columns of numbers, which may have gaps, and what the file tells besides.

Knows values, no meanings. Columns are gathered chunk by chunk, so that a million rows are never a million dicts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
CHUNK = 20_000  # rows that are objects at the same time
_DEPTH = 4  # of nested objects: {"train": {"loss": 1}} is train/loss


@dataclass(frozen=True, eq=False)
class Column:
    """Numbers of one name.

    Args:
        values: (k,) numbers; a NaN among them was logged.
        rows: (k,) the row of each, ascending; None: one for every row.
    """

    values: Array
    rows: Rows | None = None

    def places(self) -> Rows:
        """(k,) the row of each value."""
        return np.arange(len(self.values)) if self.rows is None else self.rows


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one log, in the order of its lines.

    Args:
        columns: Their name → numbers.
        length: The number of rows.
        meta: What the file tells besides.
        words: The first cell that is no number, of each column that has one.
    """

    columns: dict[str, Column]
    length: int
    meta: dict[str, Any] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def told(self, **meta: Any) -> "Table":
        """The same with more meta; what is None is left out, what is known already stays."""
        return Table(self.columns, self.length, {k: v for k, v in meta.items() if v is not None} | self.meta, self.words)


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


def numbers(value: object) -> Array | None:
    """A list as an array, or None where it is no list of numbers; None among them becomes NaN."""
    if not isinstance(value, list) or not value:
        return None
    out = [math.nan if one is None else number(one) for one in value]
    return None if any(one is None for one in out) else np.array(out, dtype=np.float64)


class Builder:
    """Gathers columns, chunk by chunk."""

    def __init__(self) -> None:
        self.length = 0
        self.words: dict[str, str] = {}
        self._parts: dict[str, list[tuple[int, Array, Rows | None]]] = {}

    def block(self, names: Sequence[str], block: Array, gap: float | None = None) -> None:
        """Add rows of numbers.

        Args:
            names: (k,) of the columns.
            block: (n, k) numbers.
            gap: The number that stands for none.
        """
        for name, column in zip(names, block.T, strict=True):
            there = column != gap if gap is not None else None
            if there is None or there.all():
                self._add(name, column.copy(), None)
            else:
                self._add(name, column[there], np.flatnonzero(there))
        self.length += len(block)

    def cells(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add rows of text cells; a short row lacks its last ones, and cells beyond the names are passed over."""
        width = len(names)
        if 4 * sum(map(len, rows)) < len(rows) * width:  # mostly gaps: what is not there should cost nothing
            self.objects(dict(zip(names, row, strict=False)) for row in rows)
            return
        if any(len(row) != width for row in rows):
            rows = [[*row[:width], *[""] * (width - len(row))] for row in rows]
        for name, column in zip(names, zip(*rows, strict=True), strict=False):
            self._column(name, column, None)
        self.length += len(rows)

    def objects(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Add rows that are mappings; what a row lacks becomes a gap."""
        source = iter(rows)
        while chunk := list(islice(source, CHUNK)):
            keys = chunk[0].keys()
            if all(row.keys() == keys for row in chunk):
                for name in keys:
                    self._column(name, [row[name] for row in chunk], None)
            else:
                found: dict[str, tuple[list[object], list[int]]] = {}
                for i, row in enumerate(chunk):
                    for name, value in row.items():
                        values, places = found.setdefault(name, ([], []))
                        values.append(value)
                        places.append(i)
                for name, (values, places) in found.items():
                    self._column(name, values, places)
            self.length += len(chunk)

    def table(self, **meta: Any) -> Table:
        """All that was added."""
        columns: dict[str, Column] = {}
        for name, parts in self._parts.items():
            values = np.concatenate([part[1] for part in parts])
            if len(values) == self.length and all(part[2] is None for part in parts):
                columns[name] = Column(values)
            else:
                rows = [start + (np.arange(len(part)) if own is None else own) for start, part, own in parts]
                columns[name] = Column(values, np.concatenate(rows))
        return Table(columns, self.length, {name: value for name, value in meta.items() if value is not None}, self.words)

    def _add(self, name: str, values: Array, rows: Rows | None) -> None:
        if len(values):
            self._parts.setdefault(name, []).append((self.length, values, rows))

    def _column(self, name: str, values: Sequence[object], places: list[int] | None, depth: int = 0) -> None:
        """One column of a chunk; `places` are the rows of its values, None where every row has one."""
        kinds = set(map(type, values))
        try:
            if kinds <= {int, float} or (kinds == {str} and not any("_" in str(value) for value in values)):
                ours = None if places is None else np.array(places, dtype=np.int64)
                self._add(name, np.array(list(map(float, values)), dtype=np.float64), ours)  # type: ignore[arg-type]
                return
        except (ValueError, OverflowError):
            pass  # some are no numbers: one by one
        if dict in kinds and depth < _DEPTH:
            self._nested(name, values, places, depth)
        kept, rows = [], []
        for i, value in enumerate(values):
            if (one := number(value)) is not None:
                kept.append(one)
                rows.append(i if places is None else places[i])
            elif isinstance(value, str) and value.strip():
                self.words.setdefault(name, value.strip()[:40])
        self._add(name, np.array(kept, dtype=np.float64), np.array(rows, dtype=np.int64))

    def _nested(self, name: str, values: Sequence[object], places: list[int] | None, depth: int) -> None:
        found: dict[str, tuple[list[object], list[int]]] = {}
        for i, value in enumerate(values):
            if isinstance(value, dict):
                for inner, one in value.items():
                    inside, rows = found.setdefault(f"{name}/{inner}", ([], []))
                    inside.append(one)
                    rows.append(i if places is None else places[i])
        for full, (inside, rows) in found.items():
            self._column(full, inside, rows, depth + 1)


def of_columns(columns: Mapping[str, Array], **meta: Any) -> Table:
    """A table from whole columns of one length."""
    length = len(next(iter(columns.values())))
    known = {name: value for name, value in meta.items() if value is not None}
    return Table({name: Column(column) for name, column in columns.items()}, length, known)
