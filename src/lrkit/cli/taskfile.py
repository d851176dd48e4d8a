"""Load ``def task() -> lrkit.Task`` from a FILE.py, and say in one sentence what is wrong with it."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lrkit.errors import FileError, LrkitError, MissingExtra, reason

if TYPE_CHECKING:
    from lrkit.task import Task


_HOUSE = Path(__file__).resolve().parents[1]


def load_task(path: str) -> Task:
    """The task that a file defines.

    Raises:
        FileError: If the file is missing, raises, or does not define ``def task() -> lrkit.Task``.
    """
    file = Path(path)
    try:
        there = file.is_file()
    except (OSError, ValueError) as error:
        raise FileError(f"{path!r} cannot be read: {reason(error)}. Check the path.") from error
    if not there:
        raise FileError(f"{path!r} is not a file. Name a Python file that defines `def task() -> lrkit.Task`.")
    spec = importlib.util.spec_from_file_location(f"lrkit_task_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise FileError(f"{path!r} is not a Python file. Name one that ends in .py and defines `def task() -> lrkit.Task`.")
    try:
        from lrkit.task import Task
    except ModuleNotFoundError as error:
        raise MissingExtra("this command", "torch", "torch") from error
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.parent.resolve()))
    with user_code(path):
        spec.loader.exec_module(module)
        factory = getattr(module, "task", None)
        if isinstance(factory, Task):
            raise FileError(f"{path!r}: `task` is a Task, not a function. Write `def task() -> lrkit.Task: return …`.")
        if not callable(factory):
            raise FileError(f"{path!r} defines no `task`. Add `def task() -> lrkit.Task: …` (see examples/tabular.py).")
        task = factory()
    if not isinstance(task, Task):
        raise FileError(f"{path!r}: task() must return an lrkit.Task, got {type(task).__name__}.")
    return task


@contextmanager
def user_code(path: str) -> Iterator[None]:
    """Inside, an exception of the user's own code becomes a sentence that names its line.

    Raises:
        FileError: In place of any exception that is not lrkit's.
    """
    try:
        yield
    except (LrkitError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise FileError(f"{path} called sys.exit. Guard such code with `if __name__ == '__main__':`.") from error
    except BaseException as error:
        name = str(Path(path).resolve())
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() == Path(name)]
        if not frames and _HOUSE in Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve().parents:
            raise  # ours, not the user's
        line = frames[-1].lineno if frames else getattr(error, "lineno", None)
        where = f"{path}:{line}" if line else path
        raise FileError(
            f"{where} raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}. "
            "Mend it there (LRKIT_TRACEBACK=1 shows the whole traceback)."
        ) from error
