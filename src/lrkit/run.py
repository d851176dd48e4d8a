"""Run: what happened, as columns over `step`. The hub of the house: everything observed is a Run.

Knows columns and its journal on disk. Knows nothing of torch, schedules or illnesses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrkit.columns import Column, Sparse, dense, gathered
from lrkit.errors import LARGEST, FileError, InputError, reason
from lrkit.journal import FILE_NAME, Writer, read_journal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
_RESERVED = ("meta", "lrkit_run")


class Run(Mapping[str, Array]):
    """Columns over `step`, one row an optimizer update, plus `meta`.

    Usual columns are ``loss, lr, val_loss, epoch, grad_norm, update_ratio`` and ``lr/<group>``; a value that a row lacks is
    NaN. ``run["loss"]`` is an array, ``run.step`` the steps, ``len(run)`` the number of rows.

    Args:
        columns: name → (n,) numbers. Without ``step`` the rows are numbered from 0.
        meta: What holds for the whole run (optimizer, schedule, seed …); plain JSON values.

    Raises:
        InputError: If the columns differ in length, are not numbers, or `step` does not ascend.

    Examples:
        >>> run = Run({"loss": [2.3, 1.9, 1.7], "lr": [0.1, 0.1, 0.05]}, meta={"optimizer": "Adam"})
        >>> run["loss"], len(run), run.meta["optimizer"]
        (array([2.3, 1.9, 1.7]), 3, 'Adam')
    """

    def __init__(self, columns: Mapping[str, ArrayLike | Sparse], meta: Mapping[str, Any] | None = None) -> None:
        if not isinstance(columns, Mapping) or not isinstance(meta, Mapping | None):
            raise InputError("Run(columns, meta): both must be mappings, e.g. Run({'step': steps, 'loss': losses}).")
        self._columns: dict[str, Column] = {}
        for name, values in columns.items():
            if not isinstance(name, str) or name in _RESERVED:
                raise InputError(f"Run: {name!r} cannot be a column's name. Choose another.")
            if isinstance(values, Sparse):
                self._columns[name] = values
                continue
            try:
                column = np.array([_plain(v) for v in values] if isinstance(values, list) else _plain(values), dtype=np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"Run: column {name!r} must hold real numbers: {error}. Leave it out.") from error
            if column.ndim != 1:
                raise InputError(f"Run: column {name!r} must have one dimension, got shape {column.shape}. Flatten it.")
            self._columns[name] = column
        lengths = {name: len(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"Run: all columns must have the same length, got {lengths}. Fill gaps with NaN.")
        rows = next(iter(lengths.values()), 0)
        step = dense(self._columns.pop("step", np.arange(rows, dtype=np.float64)))
        if not np.isfinite(step).all() or (np.diff(step) < 0).any() or (np.abs(step) > LARGEST).any():
            raise InputError("Run: `step` must be finite and ascend. A log whose steps begin again holds several runs.")
        self._columns = {"step": step, **self._columns}
        for held in self._columns.values():
            if not isinstance(held, Sparse):
                held.flags.writeable = False
        self.meta: dict[str, Any] = dict(meta or {})

    @property
    def step(self) -> NDArray[np.int64]:
        """(n,) the step of each row: optimizer updates, counted from 0."""
        return self["step"].astype(np.int64)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names, `step` first."""
        return tuple(self._columns)

    def __getitem__(self, name: str) -> Array:
        if not isinstance(name, str):
            raise InputError(f"run[{name!r}]: columns are asked for by name, e.g. run['loss']; run.slice(0, 10) takes steps.")
        if name not in self._columns:
            raise KeyError(f"{name!r} is not a column of this run; it has {', '.join(self._columns)}")
        return dense(self._columns[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns["step"])

    def __bool__(self) -> bool:
        return len(self) > 0

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Run):
            return NotImplemented
        same = self.columns == other.columns and self.meta == other.meta
        return same and all(np.array_equal(self[c], other[c], equal_nan=True) for c in self.columns)

    __hash__ = None  # type: ignore[assignment]  # it is a container, and compares by value

    def __repr__(self) -> str:
        span = f"steps {self.step[0]}–{self.step[-1]}" if len(self) else "empty"
        return f"Run({len(self)} rows, {span}; {', '.join(self.columns)})"

    def slice(self, start: int | None = None, stop: int | None = None) -> Run:
        """The rows with ``start ≤ step < stop``; None leaves a side open."""
        low = -math.inf if start is None else start
        high = math.inf if stop is None else stop
        keep = (self["step"] >= low) & (self["step"] < high)
        kept = {name: c.kept(keep) if isinstance(c, Sparse) else c[keep] for name, c in self._columns.items()}
        return Run(kept, self.meta)

    def concat(self, later: Run) -> Run:
        """This run up to where `later` begins, then `later`: a training that was resumed, in one piece, with the later meta."""
        before = self.slice(stop=int(later["step"][0])) if len(later) else self
        return Run.from_rows([*before.rows(), *later.rows()], self.meta | later.meta)

    def observed(self, name: str) -> tuple[Array, Array]:
        """(steps, values) of the rows where this column is finite."""
        column = self._columns[name] if name in self._columns else self[name]
        if isinstance(column, Sparse):
            keep = np.isfinite(column.values)
            return self["step"][column.at[keep]], column.values[keep]
        keep = np.isfinite(column)
        return self["step"][keep], column[keep]

    def smooth(self, name: str, window: int | None = None) -> tuple[Array, Array]:
        """(steps, values) of a column after a centred running median, which has no lag and shrugs off spikes.

        Args:
            name: The column; only its finite values count.
            window: Rows the median reaches over, made odd; None takes a fortieth of the rows, at least 3.
        """
        steps, values = self.observed(name)
        half = max(1, (window if window is not None else len(values) // 40) // 2)
        if len(values) < 3:
            return steps, values
        padded = np.pad(values, half, mode="reflect" if len(values) > half else "edge")
        return steps, np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)

    def rows(self) -> Iterator[dict[str, float]]:
        """One dict a row; what a row lacks is left out, except a NaN loss, which is an observation."""
        usual = {name: column for name, column in self._columns.items() if not isinstance(column, Sparse)}
        rare: dict[int, dict[str, float]] = {}
        for name, column in self._columns.items():
            if isinstance(column, Sparse):
                for i, value in zip(column.at.tolist(), column.values.tolist(), strict=True):
                    rare.setdefault(i, {})[name] = value
        for i in range(len(self)):
            row = {name: float(column[i]) for name, column in usual.items()} | rare.get(i, {})
            yield {name: value for name, value in row.items() if value == value or name == "loss"}

    def save(self, path: str | Path) -> Path:
        """Write the run to a new JSONL file (or ``run.jsonl`` in a new folder).

        Raises:
            FileError: If the file exists.
        """
        if (np.diff(self["step"]) == 0).any():
            raise InputError("Run.save: two rows have the same step, which a file cannot keep apart. Renumber them.")
        with Writer(path, self.meta, self.columns) as writer:
            writer.start()
            for row in self.rows():
                writer.append(row)
        return writer.path

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Read a run back, from its JSONL file or the folder that holds it. A torn last line is dropped.

        Raises:
            FileError: If there is no such file, or it is not a run of lrkit's.
        """
        file = Path(path)
        file = file / FILE_NAME if file.is_dir() else file
        try:
            text = file.read_text(encoding="utf-8-sig", errors="replace")
        except (OSError, ValueError) as error:
            raise FileError(f"Run.load({str(path)!r}): cannot be read: {reason(error)}. Check the path.") from error
        return cls.from_text(text, f"Run.load({str(path)!r})")

    @classmethod
    def from_text(cls, text: str, call: str = "Run.from_text") -> Run:
        """The run that a JSONL file's text holds.

        Args:
            text: What a Writer wrote.
            call: For the messages.

        Raises:
            FileError: If it is not the text of one run of lrkit's.
        """
        try:
            return cls(*read_journal(text, call))
        except InputError as error:
            raise FileError(f"{call}: {error}") from error

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, float]], meta: Mapping[str, Any] | None = None, columns: Iterable[str] = ("step",)
    ) -> Run:
        """A run from one mapping a row; what a row lacks becomes NaN. `columns` are there in any case."""
        rows = list(rows)
        try:
            return cls(gathered(rows, columns), meta)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"Run: a row must hold real numbers: {error}. Leave out what is none.") from error

    def plot(self, ax: Axes | None = None, name: str = "loss") -> Axes:
        """Draw one column over the steps, raw and smoothed; `val_loss` beside `loss`.

        Raises:
            InputError: If the run has no finite value in that column.
        """
        from lrkit.figures.charts import curves

        if name not in self or not np.isfinite(self[name]).any():
            raise InputError(f"Run.plot(name={name!r}): no finite value in it. Columns: {', '.join(self.columns)}.")
        lines = {"raw": self.observed(name), name: self.smooth(name)}
        if name == "loss" and "val_loss" in self and np.isfinite(self["val_loss"]).any():
            lines["val_loss"] = self.observed("val_loss")
        return curves(lines, ax, ylabel=name, faint=("raw",))

    def _repr_html_(self) -> str:
        from lrkit.figures.style import figure_of, to_svg

        shown = "loss" in self and bool(np.isfinite(self["loss"]).any())
        return to_svg(figure_of(self.plot()), repr(self)) if shown else escape(repr(self))


def _plain(values: Any) -> Any:
    """Tensors, alone or in a list, as what NumPy takes; complex numbers are refused, not cut."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if np.iscomplexobj(values):
        raise TypeError("they are complex")
    return values
