"""What the verbs share on the screen: one console, one progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

console = Console(highlight=False, soft_wrap=True)
notes = Console(stderr=True, highlight=False, soft_wrap=True)


class Tell(Protocol):
    """Called with what is being done and the share of the whole that is done."""

    def __call__(self, what: str, share: float) -> None: ...


@contextmanager
def progress_bar(first: str) -> Iterator[Tell]:
    """A bar on stderr, so that output can be piped; lines printed meanwhile stand above it."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True) as bar:
        line = bar.add_task(first, total=1.0)

        def tell(what: str, share: float) -> None:
            bar.update(line, description=what, completed=min(1.0, share))

        yield tell
