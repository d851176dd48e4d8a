"""Everything lrkit refuses, it refuses with one of these.

    LrkitError
    ├── InputError    (ValueError)    an argument breaks a rule
    ├── FileError     (ValueError)    a file is missing, foreign, or would be written over
    ├── StateError    (RuntimeError)  the right call at the wrong moment: attached twice, another schedule on resume
    └── MissingExtra  (ImportError)   an optional package is needed; the message holds the command that installs it

A message has three beats: the call, the rule and what came, what to do. `whole` and `real` check the numbers that users pass,
`nearest_folder` the places that they want written.
This module knows no other.
"""

import math
import tempfile
from numbers import Integral
from pathlib import Path


class LrkitError(Exception):
    """The base of every error that lrkit raises on purpose."""


class InputError(LrkitError, ValueError):
    """An argument breaks a rule."""


class FileError(LrkitError, ValueError):
    """A file is missing, is not what it should be, or would be written over."""


class StateError(LrkitError, RuntimeError):
    """The call is right, but not now."""


class MissingExtra(LrkitError, ImportError):
    """An optional package is needed and not installed.

    Args:
        who: The call that needs it, e.g. ``"lrkit.attach"``.
        package: The package's import name, e.g. ``"torch"``.
        extra: The extra of lrkit that installs it.
    """

    def __init__(self, who: str, package: str, extra: str) -> None:
        super().__init__(f"{who} needs {package}, which is not installed. Install it: pip install 'lrkit[{extra}]'")
        self.package, self.extra = package, extra


def whole(call: str, name: str, value: object, least: int = 1, what: str = "a whole number") -> int:
    """The value as an int: NumPy's integers are taken, bools and floats are not.

    Args:
        call: The call that asks, for the message.
        name: The argument's name.
        value: What came.
        least: The smallest that is allowed.
        what: What it counts, for the message.

    Raises:
        InputError: If it is no whole number, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= LARGEST:
        raise InputError(f"{call}({name}={_shown(value)}): {name} must be {what}, at least {least}, got {_shown(value)}.")
    return int(value)


def real(call: str, name: str, value: object, least: float | None = None, above: float | None = None) -> float:
    """The value as a float: any real number is taken, also NumPy's and a tensor of one; NaN, infinity and bools are not.

    Args:
        call: The call that asks, for the message.
        name: The argument's name.
        value: What came.
        least: The smallest that is allowed.
        above: What it must be above.

    Raises:
        InputError: If it is no finite number, or out of its range.
    """
    rule = "" if least is None else f" of at least {least:g}"
    rule = rule if above is None else f" above {above:g}"
    number = math.nan
    if not isinstance(value, str | bytes | bool) and hasattr(value, "__float__"):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            number = math.nan  # a tensor of several numbers, an integer beyond all floats
    low = least is not None and number < least
    if not math.isfinite(number) or low or (above is not None and number <= above):
        raise InputError(f"{call}({name}={_shown(value)}): {name} must be a finite number{rule}, got {_shown(value)}.")
    return number


def reason(error: Exception) -> str:
    """Why the operating system refused, in its words."""
    return getattr(error, "strerror", None) or str(error)


def nearest_folder(path: Path) -> Path:
    """The folder that exists already, in or below which a file could be made; tried, without leaving anything behind.

    Raises:
        OSError: If no file could be made there.
    """
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(0, f"{str(folder)!r} is not a folder")
    with tempfile.TemporaryFile(dir=folder):
        return folder


LARGEST = 2**53  # beyond, a float cannot tell one step from the next


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
