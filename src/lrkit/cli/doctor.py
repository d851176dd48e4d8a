"""``lrkit doctor PATH…``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Runs of lrkit (folder or file), JSONL or CSV logs.")],
) -> None:
    """Read training logs and say what is wrong. Exit code 0: healthy or cannot tell; 1: a finding; 2: unusable."""
    from lrkit.cli.screen import console, notes
    from lrkit.errors import LrkitError

    codes = [0]
    for path in (one for given in paths for one in _runs_in(given)):
        try:
            codes.append(_show(path, console))
        except LrkitError as error:
            notes.print(f"lrkit: {error}", markup=False)
            codes.append(2)
    if max(codes):
        raise typer.Exit(max(codes))


def _runs_in(path: str) -> list[str]:
    """The path; or, of a folder that holds runs in folders of their own, those."""
    from lrkit.run import FILE_NAME

    folder = Path(path)
    try:
        if not folder.is_dir() or (folder / FILE_NAME).exists():
            return [path]
        return [str(run.parent) for run in sorted(folder.glob(f"*/{FILE_NAME}"))] or [path]
    except OSError:
        return [path]  # reading it will say why


def _show(path: str, console: "Console") -> int:
    """Print one log's curve and diagnosis; returns its exit code."""
    from lrkit.doctor.diagnosis import diagnose
    from lrkit.logs.sniff import read
    from lrkit.reporting.terminal import draw

    diagnosis = diagnose(read(path))
    console.print(f"{path}   loss, smoothed", style="bold", markup=False)
    steps, loss = diagnosis.run.smooth("loss")
    marks = [float(step) for step in diagnosis.findings[0].window] if diagnosis.findings else []
    stride = max(1, len(steps) // 2000)
    console.print(draw(list(steps[::stride]), list(loss[::stride]), mark=marks, log=True), markup=False)
    console.print(f"{diagnosis}\n", markup=False)
    return int(diagnosis.rate not in ("ok", "cannot tell"))
