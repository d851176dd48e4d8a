"""Journal: a run on disk, one append-only file of JSON lines, which survives a kill up to the last flush.

A first line with the meta, then a line a row. Values that are not finite are written as the strings "nan", "inf" and "-inf", so
that every line is strict JSON; a name that a row lacks is left out. A torn last line, which a killed process leaves, is dropped
when the file is read. Knows columns and files; knows no Run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from lrkit.columns import Column, dense, gathered, joined
from lrkit.errors import LARGEST, FileError, InputError, nearest_folder, reason

Row = dict[str, float]
FILE_NAME = "run.jsonl"
VERSION = 1  # of the file's format
_CHUNK = 20_000
_MOST_NAMES = 2_000  # columns: a watched run has some two hundred
_encode = json.JSONEncoder(allow_nan=False).encode


def read_journal(text: str, call: str) -> tuple[dict[str, Column], dict[str, Any]]:
    """(columns, meta) of the text of a file that a Writer wrote.

    Args:
        text: The file's.
        call: For the messages.

    Raises:
        FileError: If it is not the text of one run of lrkit's.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise FileError(f"{call}: the file is empty. Was the run ever started?")
    if (found := _ascending(lines)) is not None:
        return found
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
    joint = gathered(list(rows.values()), columns or ("step",))
    if len(joint) > _MOST_NAMES:
        raise FileError(f"{call}: its rows have {len(joint)} different names. Log fewer columns.")
    return joint, meta


def _went_back(meta: Mapping[str, Any]) -> float:
    """The step to which a controller took the run back, by this line of meta; infinity where by none."""
    events = meta.get("events")
    return float(events[-1].get("back_to", math.inf)) if events else math.inf


def _ascending(lines: list[str]) -> tuple[dict[str, Column], dict[str, Any]] | None:
    """Columns and meta of a file whose steps only ascend, chunk by chunk; None where a line needs a closer look."""
    meta, names, parts, last = dict[str, Any](), dict[str, None](), list[tuple[int, dict[str, Column]]](), -math.inf
    try:
        for start in range(0, len(lines), _CHUNK):
            entries = json.loads(f"[{','.join(lines[start : start + _CHUNK])}]")
            told = [entry for entry in entries if "meta" in entry]
            rows = [entry for entry in entries if "meta" not in entry]
            heads = [i for i, entry in enumerate(entries) if "lrkit_run" in entry]
            if heads != [0] * (start == 0) or len(entries) != len(lines[start : start + _CHUNK]):
                return None
            for entry in told:
                if entry.get("lrkit_run", VERSION) != VERSION or _went_back(entry["meta"]) < math.inf:
                    return None
                meta.update(entry["meta"])
                names |= dict.fromkeys(map(str, entry.get("columns", ())))
            if not rows:
                continue
            columns = gathered(rows)
            steps = dense(columns["step"])
            if not (steps > [last, *steps[:-1]]).all():
                return None
            names |= dict.fromkeys(columns)
            if len(names) > _MOST_NAMES:
                return None
            last = steps[-1]
            parts.append((len(rows), columns))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None  # torn or damaged: line by line it is known where
    if not np.isfinite(last) or last > LARGEST:
        return None
    return joined(parts, names), meta


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
