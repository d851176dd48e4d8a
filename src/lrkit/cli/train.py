"""``lrkit train FILE.py``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lrkit.cli.screen import Tell
    from lrkit.doctor.diagnosis import Diagnosis
    from lrkit.task import Task


def command(
    file: Annotated[str, typer.Argument(metavar="FILE.py", help="Defines `def task() -> lrkit.Task`.")],
    lr: Annotated[float | None, typer.Option(help="Base rate; without it the task's own.")] = None,
    schedule: Annotated[str, typer.Option(help="What drives the rate.")] = "warmup 5% > cosine",
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the run, e.g. runs/first.")] = None,
    budget: Annotated[float, typer.Option(help="Share of the time that gauges may take.")] = 0.02,
    probe: Annotated[
        bool, typer.Option("--probe", help="Where the doctor is in doubt, train up to there again and probe.")
    ] = False,
) -> None:
    """Train a task, watched, and say what the doctor thinks of it."""
    from lrkit.cli.screen import console, progress_bar
    from lrkit.cli.taskfile import load_task, user_code

    task = load_task(file)
    from lrkit.doctor.diagnosis import diagnose
    from lrkit.task import train

    with progress_bar("training") as tell, user_code(file):
        progress = partial(_told, tell, "training")
        run = train(task, lr, schedule, seed, out, budget=budget, echo=console.print, progress=progress)
    found = diagnose(run)
    console.print(f"\n{found}", markup=False)
    if probe:
        console.print(f"\n{_settled(task, file, found, lr, schedule, seed)}", markup=False)
    if out is not None:
        console.print(f"run {out}   (lrkit report {out} draws it)", markup=False)


def _settled(task: "Task", file: str, found: "Diagnosis", lr: float | None, schedule: str, seed: int) -> str:
    """What a probe says where the doctor is in doubt."""
    from lrkit.cli.screen import progress_bar
    from lrkit.cli.taskfile import user_code
    from lrkit.finder.settle import settle

    if found.probe is None:
        return "probe: nothing is left in doubt that a probe would settle"
    with progress_bar("probing") as tell, user_code(file):
        answer = settle(task, found.probe, lr, schedule, seed, progress=partial(_told, tell, "probing"))
    return f"probe at step {found.probe}: {answer}"


def _told(tell: "Tell", what: str, done: int, of: int) -> None:
    tell(what, done / of)
