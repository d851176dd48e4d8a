"""Columns: a number a row, or, where most rows lack one, only those that are there. Knows nothing but arrays.

A watched run has a hundred columns that are read now and then: held densely, a million rows of it would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_DENSE = 0.25  # share of the rows: with more values, a plain array is as small


@dataclass(frozen=True, eq=False)
class Sparse:
    """A column of which most rows are NaN.

    Args:
        at: (k,) rows that have a value, ascending.
        values: (k,) their values.
        length: Rows in all.
    """

    at: NDArray[np.intp]
    values: Array
    length: int

    def __len__(self) -> int:
        return self.length

    def dense(self) -> Array:
        """(n,) with NaN in the rows that have none."""
        out = np.full(self.length, np.nan)
        out[self.at] = self.values
        out.flags.writeable = False
        return out

    def kept(self, keep: NDArray[np.bool_]) -> Sparse:
        """Of the rows that are kept."""
        inside = keep[self.at]
        return Sparse((np.cumsum(keep) - 1)[self.at[inside]], self.values[inside], int(keep.sum()))


Column = Array | Sparse


def dense(column: Column) -> Array:
    """The column as an array."""
    return column.dense() if isinstance(column, Sparse) else column


def column_of(at: NDArray[np.intp], values: Array, length: int) -> Column:
    """The smaller of both forms."""
    found = Sparse(at, values, length)
    return found if len(values) < _DENSE * length else found.dense()


def gathered(rows: Sequence[Mapping[str, float]], names: Iterable[str] = ()) -> dict[str, Column]:
    """name ↦ column, of one mapping a row; the names given come first, the others as they appear.

    Raises:
        TypeError, ValueError: If a value is no number.
    """
    found = dict.fromkeys(chain(names, chain.from_iterable(rows)))
    usual = set(rows[0]) & set(rows[len(rows) // 2]) & set(rows[-1]) if rows else set[str]()
    rare: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in found if name not in usual}
    for i, row in enumerate(rows) if rare else ():
        for name in row.keys() - usual:
            rare[name][0].append(i)
            rare[name][1].append(float(row[name]))
    out: dict[str, Column] = {}
    for name in found:
        if name in usual:
            out[name] = np.array([float(row.get(name, np.nan)) for row in rows])
        else:
            at, values = rare[name]
            out[name] = column_of(np.array(at, dtype=np.intp), np.array(values, dtype=np.float64), len(rows))
    return out


def joined(parts: Sequence[tuple[int, Mapping[str, Column]]], names: Iterable[str]) -> dict[str, Column]:
    """Columns one below the other, of (rows, columns) each; where a part lacks one, its rows do."""
    length = sum(rows for rows, _ in parts)
    out: dict[str, Column] = {}
    for name in names:
        have = [(rows, part.get(name)) for rows, part in parts]
        if all(isinstance(column, np.ndarray) for _, column in have):
            out[name] = np.concatenate([dense(column) for _, column in have if column is not None]) if have else np.empty(0)
            continue
        at, values, before = list[NDArray[np.intp]](), list[Array](), 0
        for rows, column in have:
            if isinstance(column, Sparse):
                at.append(column.at + before)
                values.append(column.values)
            elif column is not None:
                at.append(np.arange(before, before + rows))
                values.append(column)
            before += rows
        whole = (np.concatenate(at), np.concatenate(values)) if at else (np.empty(0, dtype=np.intp), np.empty(0))
        out[name] = column_of(*whole, length)
    return out
