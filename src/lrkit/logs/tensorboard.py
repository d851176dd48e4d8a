"""TensorBoard event files: length-prefixed records, each a protobuf `Event`, all points of all scalars.

Format: tensorflow/core/lib/io/record_writer.h (uint64 length, its CRC, the bytes, their CRC) and event.proto, summary.proto,
tensor.proto. Checksums are not looked at; a torn tail is dropped. A writer repeats itself: most records of one length differ in
time, step and value only. So a record is parsed once, and those that agree in every other byte are read from arrays.
"""

import struct
from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lrkit.errors import FileError
from lrkit.logs.protobuf import Shape, shape_of
from lrkit.logs.source import EVENTS, HELD_OUT, Source
from lrkit.logs.table import Array, Column, Rows, Table

_VERSION = b"brain.Event:"
_SLICE = 1 << 24  # bytes of records that are looked at at the same time
_LONG = 4096  # bytes: longer records are pictures and the like
_FEW = 4  # records that share a shape: fewer are not worth the comparison
_MISSES = 16  # shapes that few records share, before a slice is read record by record

Bytes = NDArray[np.uint8]


@dataclass
class _Points:
    """What was found: the step of every record, and of each tag (`prefix` before its name) the records and values."""

    steps: list[Rows] = field(default_factory=list)
    tags: dict[str, list[tuple[Rows, Array]]] = field(default_factory=dict)
    restarts: list[tuple[int, int]] = field(default_factory=list)
    length: int = 0
    prefix: str = ""


def tensorboard(source: Source) -> list[Table] | None:
    """A TensorBoard event file, or the folder of one run; several files are joined in the order of their time."""
    files = [one for one in source.members or (source,) if _is_events(one)]
    if not files:
        return None
    points = _Points()
    for one in files:
        points.prefix = "val_" if source.members and one.path.parent == source.path / HELD_OUT else ""
        _read(one.data, points)
    if not points.tags:
        raise FileError(f"{source.where}: the event file holds no scalar. Was anything logged?")
    steps = np.concatenate(points.steps).astype(np.float64)
    columns = {"step": Column(steps)}
    alive = _alive(steps, points.restarts)
    for tag, parts in points.tags.items():
        rows, values = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order].astype(np.int64), values[order]
        columns[tag if tag != "step" else "step "] = Column(values[alive[rows]], rows[alive[rows]])
    return [Table(columns, len(steps), {"format": "tensorboard"})]


def _is_events(source: Source) -> bool:
    return _VERSION in source.data[:64] or source.path.name.startswith(EVENTS)


def _alive(steps: Array, restarts: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """(n,) whether a record still holds: a session that starts at a step takes back what was logged from there on."""
    alive = np.ones(len(steps), bool)
    for record, step in sorted(restarts)[:1000]:
        alive[:record] &= steps[:record] < step
    return alive


def _read(data: bytes, points: _Points) -> None:
    starts, lengths = _records(data)
    steps = np.zeros(len(starts), dtype=np.int64)
    buffer = np.frombuffer(data, dtype=np.uint8)
    for length in np.unique(lengths).tolist():
        same = np.flatnonzero(lengths == length)
        size = max(1, _SLICE // length)
        for at in range(0, len(same), size):
            _slice(data, buffer, starts, same[at : at + size], length, steps, points)
    points.steps.append(steps)
    points.length += len(starts)


def _records(data: bytes) -> tuple[Rows, Rows]:
    """Where each whole record begins, and how long it is."""
    unpack, at, end = struct.Struct("<Q").unpack_from, 0, len(data) - 16
    starts, lengths = array("q"), array("q")  # a list of a million ints is five times as large
    while at <= end:
        (length,) = unpack(data, at)
        if not 0 < length <= end - at:
            break  # torn, or damaged: where the next would begin is not known
        starts.append(at + 12)
        lengths.append(length)
        at += length + 16
    return np.array(starts), np.array(lengths)


def _slice(data: bytes, buffer: Bytes, starts: Rows, records: Rows, length: int, steps: Rows, points: _Points) -> None:
    """Records of one length: those of one shape together."""
    misses = 0 if length <= _LONG else _MISSES
    while len(records):
        first = int(records[0])
        shape = shape_of(data[starts[first] : starts[first] + length])
        alike = records[:1]
        if shape is not None and shape.values and misses < _MISSES and len(records) > _FEW:
            rows = np.lib.stride_tricks.sliding_window_view(buffer, length)[starts[records]]
            same = _alike(rows, shape)
            misses += int(same.sum()) < _FEW
            alike, rows, records = records[same], rows[same], records[~same]
        else:
            rows, records = buffer[starts[first] : starts[first] + length][None], records[1:]
        if shape is not None:
            _take(shape, alike, rows, steps, points)


def _alike(rows: Bytes, shape: Shape) -> NDArray[np.bool_]:
    """(n,) which records have this shape: the same bytes but for time, step and values, and a step as long."""
    same: NDArray[np.bool_] = ((rows == shape.record) | ~shape.fixed).all(axis=1)
    low, high = shape.step
    if high > low:
        going_on = rows[:, low:high] >= 128
        same &= going_on[:, :-1].all(axis=1) & ~going_on[:, -1]
    same[0] = True
    return same


def _take(shape: Shape, records: Rows, rows: Bytes, steps: Rows, points: _Points) -> None:
    low, high = shape.step
    step = np.zeros(len(rows), dtype=np.uint64)
    for place, column in enumerate(range(low, high)):
        step |= (rows[:, column].astype(np.uint64) & np.uint64(127)) << np.uint64(7 * place)
    steps[records] = step.astype(np.int64)
    for tag, place, kind in shape.values:
        width = 4 if kind == "<f4" else 8
        values = np.ascontiguousarray(rows[:, place : place + width]).view(kind)[:, 0].astype(np.float64)
        points.tags.setdefault(points.prefix + tag, []).append((records + points.length, values))
    if shape.restart and not points.prefix:
        points.restarts += [(points.length + int(record), int(steps[record])) for record in records]
