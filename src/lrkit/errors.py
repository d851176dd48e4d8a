"""Everything lrkit refuses, it refuses with one of these.

    LrkitError
    ├── InputError    (ValueError)    an argument breaks a rule
    ├── FileError     (ValueError)    a file is missing, foreign, or would be written over
    ├── StateError    (RuntimeError)  the right call at the wrong moment: attached twice, another schedule on resume
    └── MissingExtra  (ImportError)   an optional package is needed; the message holds the command that installs it

A message has three beats: the call, the rule and what came, what to do. This module knows no other.
"""


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
