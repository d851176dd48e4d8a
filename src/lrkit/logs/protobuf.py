"""The few fields of TensorFlow's protobuf messages that hold scalars. Knows one record, no files.

Event: 1 wall_time, 2 step, 5 summary, 7 session_log. Summary: 1 value. Value: 1 tag, 2 simple_value, 8 tensor.
TensorProto: 1 dtype, 4 tensor_content, 5 float_val, 6 double_val. SessionLog: 1 status (1 = START).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = {1: "<f4", 2: "<f8"}  # DataType: DT_FLOAT, DT_DOUBLE
_MOST_VALUES = 100_000


@dataclass(frozen=True, eq=False)
class Shape:
    """A record, and where in it stands what changes from one record to the next.

    Args:
        record: (n,) its bytes.
        fixed: (n,) which of them every record of this shape shares.
        step: Where the step's varint begins and ends; (0, 0) where it is left out, as 0 is.
        values: Tag, place and kind (NumPy's) of each scalar.
        restart: Whether a session starts here.
    """

    record: NDArray[np.uint8]
    fixed: NDArray[np.bool_]
    step: tuple[int, int]
    values: tuple[tuple[str, int, str], ...]
    restart: bool


def shape_of(record: bytes) -> Shape | None:
    """The shape of one Event, or None where the bytes are none."""
    data = np.frombuffer(record, dtype=np.uint8)
    fixed = np.ones(len(record), bool)
    step, restart = (0, 0), False
    values: list[tuple[str, int, str]] = []
    try:
        for number, wire, low, high in _fields(record, 0, len(record)):
            if number == 1 and wire == _FIXED64:
                fixed[low:high] = False
            elif number == 2 and wire == _VARINT:
                step = (low, high)
                fixed[low:high] = False
            elif number == 5 and wire == _BYTES:
                values += _values(record, low, high)
            elif number == 7 and wire == _BYTES:
                restart = any(n == 1 and w == _VARINT and record[a] == 1 for n, w, a, _ in _fields(record, low, high))
    except (ValueError, IndexError):
        return None
    if len(values) > _MOST_VALUES:
        return None
    for _, place, kind in values:
        fixed[place : place + int(kind[-1])] = False
    return Shape(data, fixed, step, tuple(values), restart)


def _values(record: bytes, low: int, high: int) -> Iterator[tuple[str, int, str]]:
    """Tag, place and kind of the scalars of a Summary."""
    for number, wire, inner_low, inner_high in _fields(record, low, high):
        if number != 1 or wire != _BYTES:
            continue
        tag, found = None, None
        for field, kind, at, end in _fields(record, inner_low, inner_high):
            if field == 1 and kind == _BYTES:
                tag = record[at:end].decode("utf-8", errors="replace")
            elif field == 2 and kind == _FIXED32:
                found = (at, "<f4")
            elif field == 8 and kind == _BYTES:
                found = _tensor(record, at, end)
        if tag and found:
            yield tag, *found


def _tensor(record: bytes, low: int, high: int) -> tuple[int, str] | None:
    """Place and kind of the one number of a TensorProto; None where it holds several, or no floats."""
    kind, found = None, None
    for number, wire, at, end in _fields(record, low, high):
        if number == 1 and wire == _VARINT:
            kind = _KINDS.get(record[at])
        elif (number in (4, 5, 6) and wire == _BYTES) or (number == 5 and wire == _FIXED32) or (number == 6 and wire == _FIXED64):
            if found is not None:
                return None
            found = (at, end)
    if kind is None or found is None or found[1] - found[0] != int(kind[-1]):
        return None
    return found[0], kind


def _fields(record: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, first and last place (exclusive) of each field's value.

    Raises:
        ValueError: If a field reaches beyond the end, or has an unknown wire type.
        IndexError: If the bytes end within one.
    """
    while at < end:
        key, at = _varint(record, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            stop = _varint(record, at)[1]
        elif wire == _BYTES:
            size, at = _varint(record, at)
            stop = at + size
        elif wire in (_FIXED64, _FIXED32):
            stop = at + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError("an unknown wire type")
        if stop > end:
            raise ValueError("a field beyond the end")
        yield number, wire, at, stop
        at = stop


def _varint(record: bytes, at: int) -> tuple[int, int]:
    """A varint's value, and the place behind it."""
    value = 0
    for place in range(10):
        byte = record[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a varint that does not end")
