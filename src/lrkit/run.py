"""Run: what happened, as columns over `step`. The hub of the house: everything observed is a Run.

Knows arrays and files. Knows nothing of torch, schedules or illnesses.

On disk a run is one append-only JSONL file: a first line with the meta, then a line a row. Values that are not finite are
written as the strings "nan", "inf" and "-inf", so that every line is strict JSON; a name that a row lacks is left out.
A torn last line, which a killed process leaves, is dropped when the file is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrkit.errors import LARGEST, FileError, InputError, nearest_folder, reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
Row = dict[str, float]
FILE_NAME = "run.jsonl"
_RESERVED = ("meta", "lrkit_run")
VERSION = 1  # of the file's format
MOST_CELLS = 50_000_000  # 400 MB of numbers
_CHUNK = 20_000
_encode = json.JSONEncoder(allow_nan=False).encode


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

    def __init__(self, columns: Mapping[str, ArrayLike], meta: Mapping[str, Any] | None = None) -> None:
        if not isinstance(columns, Mapping) or not isinstance(meta, Mapping | None):
            raise InputError("Run(columns, meta): both must be mappings, e.g. Run({'step': steps, 'loss': losses}).")
        self._columns: dict[str, Array] = {}
        for name, values in columns.items():
            if not isinstance(name, str) or name in _RESERVED:
                raise InputError(f"Run: {name!r} cannot be a column's name. Choose another.")
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
        step = self._columns.pop("step", np.arange(rows, dtype=np.float64))
        if not np.isfinite(step).all() or (np.diff(step) < 0).any() or (np.abs(step) > LARGEST).any():
            raise InputError("Run: `step` must be finite and ascend. A log whose steps begin again holds several runs.")
        self._columns = {"step": step, **self._columns}
        for column in self._columns.values():
            column.flags.writeable = False
        self.meta: dict[str, Any] = dict(meta or {})

    @property
    def step(self) -> NDArray[np.int64]:
        """(n,) the step of each row: optimizer updates, counted from 0."""
        return self._columns["step"].astype(np.int64)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names, `step` first."""
        return tuple(self._columns)

    def __getitem__(self, name: str) -> Array:
        if not isinstance(name, str):
            raise InputError(f"run[{name!r}]: columns are asked for by name, e.g. run['loss']; run.slice(0, 10) takes steps.")
        if name not in self._columns:
            raise KeyError(f"{name!r} is not a column of this run; it has {', '.join(self._columns)}")
        return self._columns[name]

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
        return Run({name: column[keep] for name, column in self._columns.items()}, self.meta)

    def concat(self, later: Run) -> Run:
        """This run up to where `later` begins, then `later`: a training that was resumed, in one piece, with the later meta."""
        before = self.slice(stop=int(later["step"][0])) if len(later) else self
        return Run.from_rows([*before.rows(), *later.rows()], self.meta | later.meta)

    def observed(self, name: str) -> tuple[Array, Array]:
        """(steps, values) of the rows where this column is finite."""
        keep = np.isfinite(self[name])
        return self["step"][keep], self[name][keep]

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

    def rows(self) -> Iterator[Row]:
        """One dict a row; what a row lacks is left out, except a NaN loss, which is an observation."""
        for i in range(len(self)):
            row = {name: float(column[i]) for name, column in self._columns.items()}
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
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            raise FileError(f"{call}: the file is empty. Was the run ever started?")
        if (found := _ascending(lines)) is not None:
            return cls(*found)
        meta: dict[str, Any] = {}
        rows: dict[float, Row] = {}
        columns: list[str] = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict) or ("lrkit_run" in entry) != (number == 1):
                    raise ValueError("not a line of one lrkit run")
                if entry.get("lrkit_run", VERSION) != VERSION:
                    raise FileError(f"{call}: written by a newer lrkit (format {entry['lrkit_run']}). Upgrade lrkit to read it.")
                if isinstance(entry.get("meta"), dict):
                    meta.update(entry["meta"])
                    rows = {step: row for step, row in rows.items() if step < _went_back(entry["meta"])}
                    columns += [str(name) for name in entry.get("columns", ())]
                else:
                    row = {name: float(value) for name, value in entry.items()}
                    rows.setdefault(row["step"], {}).update(row)
            except FileError:
                raise
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
                if number == len(lines) > 1 and not text.endswith("\n"):
                    break  # torn by a kill: the rows before it are whole
                raise FileError(f"{call}: line {number} is not a line of one lrkit run. Remove it if it is damaged.") from error
        if len(rows) * len({name for row in rows.values() for name in row}) > MOST_CELLS:
            raise FileError(f"{call}: its rows have too many different names for {len(rows)} rows. Log fewer columns.")
        try:
            return cls.from_rows(rows.values(), meta, columns)
        except InputError as error:
            raise FileError(f"{call}: {error}") from error

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, float]], meta: Mapping[str, Any] | None = None, columns: Iterable[str] = ("step",)
    ) -> Run:
        """A run from one mapping a row; what a row lacks becomes NaN. `columns` are there in any case."""
        rows = list(rows)
        names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
        return cls({name: [row.get(name, math.nan) for row in rows] for name in names}, meta)

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


def _went_back(meta: Mapping[str, Any]) -> float:
    """The step to which a controller took the run back, by this line of meta; infinity where by none."""
    events = meta.get("events")
    return float(events[-1].get("back_to", math.inf)) if events else math.inf


def _ascending(lines: list[str]) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """Columns and meta of a file whose steps only ascend, chunk by chunk; None where a line needs a closer look."""
    meta, names, parts, last = dict[str, Any](), dict[str, None](), list[tuple[int, dict[str, Array]]](), -math.inf
    try:
        for start in range(0, len(lines), _CHUNK):
            entries = json.loads(f"[{','.join(lines[start : start + _CHUNK])}]")
            told = [entry for entry in entries if "meta" in entry]
            rows = [entry for entry in entries if "meta" not in entry]
            own = dict.fromkeys(name for row in rows for name in row)
            heads = [i for i, entry in enumerate(entries) if "lrkit_run" in entry]
            if heads != [0] * (start == 0) or len(entries) != len(lines[start : start + _CHUNK]) or len(own) > 1000:
                return None
            for entry in told:
                if entry.get("lrkit_run", VERSION) != VERSION or _went_back(entry["meta"]) < math.inf:
                    return None
                meta.update(entry["meta"])
                names |= dict.fromkeys(map(str, entry.get("columns", ())))
            columns = {name: np.array([float(row.get(name, math.nan)) for row in rows]) for name in own}
            if rows and not (columns["step"] > [last, *columns["step"][:-1]]).all():
                return None
            names |= own
            if rows:
                last = columns["step"][-1]
                parts.append((len(rows), columns))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None  # torn or damaged: line by line it is known where
    if not np.isfinite(last) or last > LARGEST:
        return None
    return {name: np.concatenate([part.get(name, np.full(n, np.nan)) for n, part in parts]) for name in names}, meta


def _plain(values: Any) -> Any:
    """Tensors, alone or in a list, as what NumPy takes; complex numbers are refused, not cut."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if np.iscomplexobj(values):
        raise TypeError("they are complex")
    return values


class Writer:
    """Appends rows to a run's JSONL file; what was flushed survives a ``kill -9`` of the process.

    The file appears with its first row, so that a run that never began leaves nothing behind.

    Args:
        path: A new folder, or a new file whose name ends in ``.jsonl``.
        meta: What holds for the whole run: plain JSON values, and NumPy's numbers.
        columns: Names that are there even if no row has a value for them.

    Raises:
        FileError: If the file exists already (nothing is written over), or the place cannot hold one.
        InputError: If `meta` cannot be written as JSON.
    """

    def __init__(self, path: str | Path, meta: Mapping[str, Any] | None = None, columns: Iterable[str] = ("step",)) -> None:
        self.path = Path(path) if Path(path).suffix == ".jsonl" else Path(path) / FILE_NAME
        self._header = _json({"lrkit_run": VERSION, "columns": list(columns), "meta": dict(meta or {})})
        self._file: IO[str] | None = None
        try:
            taken = self.path.exists()
            nearest_folder(self.path)
        except (OSError, ValueError) as error:
            raise FileError(f"{str(self.path)!r} cannot be written: {reason(error)}. Choose another place.") from error
        if taken:
            raise FileError(f"{str(self.path)!r} exists: a run is never written over. Choose another name, or move it.")

    def start(self) -> IO[str]:
        """Make the file, with its meta, where it is not there yet; the first row does so by itself.

        Raises:
            FileError: If the file exists by now, or cannot be made.
        """
        if self._file is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("x", encoding="utf-8")
            except OSError as error:
                raise FileError(f"{str(self.path)!r} cannot be written: {reason(error)}. Choose another place.") from error
            self._file.write(self._header)
        return self._file

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; a second one of the same step adds to the first."""
        try:
            line = _encode(row) + "\n"  # nearly all rows are finite Python numbers
        except (TypeError, ValueError):
            line = _json({name: value if math.isfinite(value) else str(value) for name, value in row.items()})
        self.start().write(line)

    def add_meta(self, **meta: Any) -> None:
        """Add what only became known later."""
        line = _json({"meta": meta})
        self.start().write(line)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Flush and close; nothing can be appended afterwards."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _json(entry: Mapping[str, Any]) -> str:
    """One strict line of JSON; NumPy's numbers as Python's, what is not finite as a string."""
    try:
        return json.dumps(_clean(entry), allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"Run: the meta cannot be written as JSON: {error}. Use plain numbers, texts, lists, dicts.") from error


def _clean(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _clean(one) for name, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list | tuple) else value
