"""The JSON form of a schedule: ``{"lrkit_schedule": 1, "kind": "Segment", "start": 1.0, …}``, and back.

Each part is an object of its kind's own fields. Reading builds only the kinds listed here, by their checked constructors.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lrkit.errors import InputError
from lrkit.schedules.base import Schedule
from lrkit.schedules.compose import Between, Each, Rates, Repeat, Times
from lrkit.schedules.easing import SHAPES
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.points import Custom, Points
from lrkit.schedules.tails import Geometric, Hyperbolic, Rectified, Tail
from lrkit.schedules.template import Template
from lrkit.schedules.text import parse

VERSION = 1
_SCHEDULES = (Segment, Hold, Join, Part, Repeat, Each, Times, Between, Rates, Tail, Points)
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (*_SCHEDULES, Geometric, Hyperbolic, Rectified, *SHAPES.values())}
_LISTS = {"Join": "stages", "Times": "factors"}  # kinds whose parts are given one by one


def to_json(schedule: Schedule | Template) -> str:
    """A schedule's JSON form.

    Raises:
        InputError: If a part is the user's own function or easing.
    """
    body = {"kind": "Template", "text": str(schedule)} if isinstance(schedule, Template) else _plain(schedule)
    return json.dumps({"lrkit_schedule": VERSION, **body}, allow_nan=False)


def _plain(value: Any) -> Any:
    """A part as objects, lists and numbers."""
    if isinstance(value, Custom):
        raise InputError(f"to_json: {value} is a function, which JSON cannot hold. Build it in Python again.")
    name = type(value).__name__
    if _KINDS.get(name) is type(value):
        return {"kind": name, **{f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.init}}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, int | float | str):
        return value
    raise InputError(f"to_json: {value!r} is not one of lrkit's own parts, so nobody could read it back.")


def from_json(text: str | Mapping[str, Any]) -> Schedule | Template:
    """Read a schedule's JSON form.

    Args:
        text: What `to_json` gave, or that as `json.loads` read it: a part of a config.

    Raises:
        InputError: If it is no such text, of a later version, or describes a schedule that makes no sense.

    Examples:
        >>> from lrkit.schedules import cosine
        >>> from_json(cosine(10).to_json()) == cosine(10)
        True
    """
    if isinstance(text, Mapping):
        try:
            text = json.dumps(dict(text))
        except (TypeError, ValueError, RecursionError):
            raise InputError("from_json: the mapping holds what JSON cannot. It must be what to_json gave.") from None
    if not isinstance(text, str | bytes):
        raise InputError(f"from_json({text!r}): must be the text that to_json gave.")
    try:
        found = json.loads(text, parse_constant=_refuse)
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"from_json({text[:40]!r}): this is no JSON. It must be the text that to_json gave.") from None
    version = found.pop("lrkit_schedule", None) if isinstance(found, dict) else None
    if version != VERSION or isinstance(version, bool):
        raise InputError(f"from_json: its version is {version!r}, this lrkit reads {VERSION}. It must be the text of to_json.")
    try:
        if found.get("kind") == "Template":
            return parse(str(found.get("text")))
        built = _built(found)
    except RecursionError:
        raise InputError("from_json: its parts are nested too deep.") from None
    if not isinstance(built, Schedule):
        kinds = ", ".join(kind.__name__ for kind in _SCHEDULES)
        raise InputError(f"from_json: {found.get('kind')!r} alone is no schedule. There are {kinds}.")
    return built


def _refuse(constant: str) -> float:
    raise InputError(f"from_json: {constant} is no value of a schedule.")


def _built(value: Any) -> Any:
    """A part from objects, lists and numbers."""
    if isinstance(value, list):
        return tuple(_built(one) for one in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError("from_json: a number is too large.")
    if not isinstance(value, dict):
        return value
    kind = _KINDS.get(str(value.get("kind")))
    if kind is None:
        raise InputError(f"from_json: there is no kind {value.get('kind')!r}. There are {', '.join(_KINDS)}.")
    given = {name: _built(one) for name, one in value.items() if name != "kind"}
    known = [f.name for f in fields(kind) if f.init]
    if set(given) - set(known):
        raise InputError(f"from_json: {kind.__name__} has no {sorted(set(given) - set(known))[0]!r}. It has {', '.join(known)}.")
    try:
        if kind.__name__ in _LISTS:
            return kind(*given[_LISTS[kind.__name__]])
        return kind(**given)
    except (KeyError, TypeError, OverflowError):
        raise InputError(f"from_json: {kind.__name__} needs {', '.join(known)} of the right kind, got {given}.") from None
