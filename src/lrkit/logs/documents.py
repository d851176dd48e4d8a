"""A JSON document that is one log: columns as lists, or rows as objects. DeepOBS and transformers have readers of their own."""

import json
import re
from typing import Any

from lrkit.errors import FileError
from lrkit.logs.deepobs import deepobs_table
from lrkit.logs.names import canonical, told_apart
from lrkit.logs.source import Source
from lrkit.logs.table import Builder, Column, Table, number, numbers

_STEPS = ("steps", "step", "global_step")


def document(source: Source) -> Any:
    """A file as JSON, or None where it is none."""
    if source.head[:1] not in ("{", "["):
        return None
    try:
        return json.loads(source.text)
    except (ValueError, RecursionError):
        return None


def json_document(source: Source) -> list[Table] | None:
    """One JSON object of lists, such as Keras' history, or a list of objects, one a row."""
    data = document(source)
    if data is None:
        _refuse_torn(source)
        return None
    if isinstance(data, dict):
        return tables_in(data) or next((found for value in data.values() if (found := _inside(value))), None)
    return _rows(data)


def tables_in(entry: dict[str, Any]) -> list[Table] | None:
    """The run that one JSON object of lists holds, or None where it holds none."""
    found = deepobs_table(entry)
    if found is not None:
        return [found]
    lists = {name: column for name, value in entry.items() if (column := numbers(value)) is not None}
    losses = [name for name, ours in canonical(lists).items() if ours == "loss"]
    if not losses:
        return None
    length = len(lists[losses[0]])
    kept = {"step" if name in _STEPS else name: Column(column) for name, column in lists.items() if len(column) == length}
    rate = number(entry.get("lr", entry.get("learning_rate")))
    told = {name: value for name, value in entry.items() if isinstance(value, str | int | float | bool) and name not in kept}
    return [Table(kept, length, told | {"format": "json"} | ({} if rate is None else {"lr": rate}))]


def _inside(value: object) -> list[Table] | None:
    return tables_in(value) if isinstance(value, dict) else _rows(value)


def _rows(data: object) -> list[Table] | None:
    """A list of objects, one a row."""
    if not isinstance(data, list) or not data or not all(isinstance(row, dict) for row in data):
        return None
    builder = Builder()
    builder.objects(map(told_apart, data))
    table = builder.table(format="json")
    return [table] if "loss" in canonical(table.columns).values() else None


def _refuse_torn(source: Source) -> None:
    """Refuse a document that was cut short, which no line-by-line reader should take for a log."""
    head, line_end, _ = source.head.partition("\n")
    if not re.match(r"\{\s*(\"|$)", head) or not line_end:
        return
    try:
        json.loads(head)
    except RecursionError:
        return
    except ValueError as error:
        if head.strip() == "{" or head.rstrip().endswith(("[", "{", ",")):
            raise FileError(
                f"{source.where}: it begins as one JSON document and is damaged or cut short. Copy it again."
            ) from error
