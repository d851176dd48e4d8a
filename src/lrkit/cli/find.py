"""``lrkit find FILE.py``."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[str, typer.Argument(metavar="FILE.py", help="Defines `def task() -> lrkit.Task`.")],
    budget: Annotated[float, typer.Option(help="What the search may cost, in training runs.")] = 0.25,
    schedule: Annotated[str, typer.Option(help="The schedule of the real run.")] = "warmup 5% > cosine",
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write a report there, e.g. find.html.")] = None,
) -> None:
    """Find the learning rate of a task."""
    from lrkit.cli.screen import console, progress_bar
    from lrkit.cli.taskfile import load_task, user_code

    task = load_task(file)
    from lrkit.finder.search import find
    from lrkit.reporting.html import free_for_report, report

    if out is not None:
        free_for_report(out)  # before the search, not after it

    with progress_bar("finding the rate") as tell, user_code(file):
        suggestion = find(
            task,
            budget=budget,
            schedule=schedule,
            seed=seed,
            progress=lambda done, of: tell("finding the rate", done / of),
        )
    if suggestion.status == "diverged":
        sys.stderr.write(f"lrkit: find({file}): {suggestion.reason}. The rate stays {suggestion.lr:.3g}.\n")
        raise typer.Exit(2)
    console.print(str(suggestion))
    for trial in sorted(suggestion.trials, key=lambda trial: (trial.steps, trial.lr)):
        loss = f"{trial.loss:.4g}" if trial.loss == trial.loss else "diverged"
        console.print(f"  {trial.steps:5d} updates at {trial.lr:8.3g}: loss {loss}")
    if out is not None:
        console.print(f"report {report(suggestion, out)}", markup=False)
    if not suggestion.found:
        raise typer.Exit(1)
