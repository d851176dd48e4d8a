"""``lrkit train FILE.py``."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[str, typer.Argument(metavar="FILE.py", help="Defines `def task() -> lrkit.Task`.")],
    lr: Annotated[float | None, typer.Option(help="Base rate; without it the task's own.")] = None,
    schedule: Annotated[str, typer.Option(help="What drives the rate.")] = "warmup 5% > cosine",
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the run, e.g. runs/first.")] = None,
) -> None:
    """Train a task, watched, and say what the doctor thinks of it."""
    from lrkit.cli.screen import console, progress_bar
    from lrkit.cli.taskfile import load_task, user_code

    task = load_task(file)
    from lrkit.doctor.diagnosis import diagnose
    from lrkit.task import train

    with progress_bar("training") as tell, user_code(file):
        run = train(task, lr, schedule, seed, out, echo=console.print, progress=lambda done, of: tell("training", done / of))
    console.print(f"\n{diagnose(run)}", markup=False)
    if out is not None:
        console.print(f"run {out}   (lrkit report {out} draws it)", markup=False)
