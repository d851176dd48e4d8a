"""Recorder: where a watch's rows go: into memory, to the journal on disk, to sinks, many at a time.

What fails here, a full disk, a sink, must not end the training: it is left out, and said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lrkit.gauges.rows import on_host
from lrkit.gauges.view import Value
from lrkit.journal import Writer
from lrkit.run import Run

Sink = Callable[[int, dict[str, float]], object]
_FLUSH_ROWS, _FLUSH_SECONDS = 50, 5.0
_log = logging.getLogger("lrkit")


class Recorder:
    """Rows of a run that is being made.

    Args:
        path: Of its file, which appears with the first flush; None: in memory only.
        sinks: Are handed each row when it is flushed.
        meta: Of the run.

    Raises:
        FileError: If `path` holds a run already.
    """

    def __init__(self, path: str | Path | None, sinks: Sequence[Sink], meta: Mapping[str, Any]) -> None:
        self.meta = dict(meta)
        self._sinks = list(sinks)
        self._writer = Writer(path, meta) if path is not None else None  # writes nothing before the first flush
        self._buffer: list[dict[str, Value]] = []
        self._rows: dict[int, dict[str, float]] = {}
        self._flushed = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._rows or self._buffer)

    def add(self, row: dict[str, Value]) -> None:
        """A row, which may still be added to until it is flushed."""
        self._buffer.append(row)

    def amend(self, row: dict[str, Value], values: dict[str, Value]) -> None:
        """Add to the last row."""
        if not self._buffer or self._buffer[-1] is not row:  # flushed already: a second line of the same step adds to it
            self._buffer.append({"step": row["step"], **values})
        row.update(values)

    def flush_if_due(self) -> None:
        """Every so many rows, and every so many seconds."""
        if len(self._buffer) >= _FLUSH_ROWS or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> list[dict[str, float]]:
        """Copy what is on a device to the host, all at once, write it to the file and hand it to the sinks.

        Returns:
            The rows that were new.
        """
        buffer, self._buffer = self._buffer, []
        fresh = on_host(buffer)
        for row in fresh:
            self._rows.setdefault(int(row["step"]), {}).update(row)
        self._write(*(partial(Writer.append, row=row) for row in fresh), Writer.flush)
        for sink in tuple(self._sinks):
            self._hand(sink, fresh)
        self._flushed = time.monotonic()
        return fresh

    @property
    def run(self) -> Run:
        """What there is so far."""
        self.flush()
        return Run.from_rows(self._rows.values(), self.meta)

    def add_meta(self, **meta: Any) -> None:
        """Add to the run's meta what only became known later."""
        self.meta = self.meta | meta
        self._write(partial(Writer.add_meta, **meta))

    def forget(self, since: int) -> None:
        """The training went back to this step."""
        self._rows = {step: row for step, row in self._rows.items() if step < since}

    def close(self) -> None:
        """Flush, and close the file."""
        try:
            self.flush()
        finally:
            self._write(Writer.close)
            self._writer = None

    def _write(self, *calls: Callable[[Writer], object]) -> None:
        """A disk that is full must not end the training: the run goes on in memory, and the file holds what it held."""
        if self._writer is None:
            return
        try:
            for call in calls:
                call(self._writer)
        except OSError as error:
            _log.warning("watch: nothing is written to %s from now on: %s", self._writer.path, error)
            writer, self._writer = self._writer, None
            with suppress(OSError):
                writer.close()

    def _hand(self, sink: Sink, rows: list[dict[str, float]]) -> None:
        """A sink that fails is left out: it must not end the training."""
        try:
            for row in rows:
                sink(int(row["step"]), {name: value for name, value in row.items() if name != "step"})
        except Exception as error:  # whatever it is, the training goes on
            self._sinks.remove(sink)
            name = getattr(sink, "__name__", type(sink).__name__)
            _log.warning("watch: the sink %s is left out from now on: %s: %s", name, type(error).__name__, error)
