"""``lrkit find FILE.py``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lrkit.finder.suggestion import Suggestion


def command(
    file: Annotated[str, typer.Argument(metavar="FILE.py", help="Defines `def task() -> lrkit.Task`.")],
    budget: Annotated[float, typer.Option(help="What the search may cost, in training runs.")] = 0.25,
    max_steps: Annotated[int | None, typer.Option(help="Longest short run, in updates.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Of the real run.", show_default="the attached one, else warmup 5% > cosine")
    ] = None,
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
            max_steps=max_steps,
            schedule=schedule,
            seed=seed,
            progress=lambda done, of: tell(f"{of - done:.0f} updates left", done / of),
        )
    if suggestion.status == "diverged":
        sys.stderr.write(f"lrkit: find({file}): {suggestion.reason}. The rate stays {suggestion.lr:.3g}.\n")
        raise typer.Exit(2)
    console.print(str(suggestion))
    if suggestion.trials:
        console.print(_seen(suggestion), markup=False)
    if out is not None:
        console.print(f"report {report(suggestion, out)}", markup=False)
    if not suggestion.found:
        raise typer.Exit(1)


def _seen(suggestion: "Suggestion") -> str:
    """The runs, rung by rung: a bar from the best loss to the untrained one; what lies in the interval; the choice."""
    import math

    from lrkit.reporting.terminal import bars

    finite = [trial.loss for trial in suggestion.trials if math.isfinite(trial.loss)]
    lowest, highest = min(finite, default=0.0), max([*finite, suggestion.untrained], default=1.0)
    lines = []
    for steps in sorted({trial.steps for trial in suggestion.trials}):
        rows = [
            (f"{trial.lr:.3g}", trial.loss, "diverged" if math.isnan(trial.loss) else _place(suggestion, trial.lr))
            for trial in sorted(suggestion.trials, key=lambda trial: trial.lr)
            if trial.steps == steps
        ]
        lines += [f"after {steps} updates at a peak rate of", bars(rows, lowest, highest)]
    return "\n".join(lines)


def _place(suggestion: "Suggestion", lr: float) -> str:
    if not suggestion.found or not suggestion.low <= lr <= suggestion.high:
        return ""
    return "chosen" if lr == suggestion.lr else "in the interval"
