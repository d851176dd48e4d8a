"""``lrkit doctor PATH…``."""

from typing import Annotated

import typer


def command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Runs of lrkit (folder or file), JSONL or CSV logs.")],
) -> None:
    """Read training logs and say what is wrong. Exit code 0: healthy or cannot tell; 1: a finding; 2: unusable."""
    from lrkit.cli.screen import console
    from lrkit.doctor.diagnosis import diagnose
    from lrkit.logs.sniff import read
    from lrkit.reporting.terminal import draw

    diagnoses = [(path, diagnose(read(path))) for path in paths]
    for path, diagnosis in diagnoses:
        console.print(path, style="bold", markup=False)
        steps, loss = diagnosis.run.smooth("loss")
        marks = [float(step) for step in diagnosis.findings[0].window] if diagnosis.findings else []
        stride = max(1, len(steps) // 2000)
        console.print(draw(list(steps[::stride]), list(loss[::stride]), mark=marks), markup=False)
        console.print(f"{diagnosis}\n", markup=False)
    if any(diagnosis.rate not in ("ok", "cannot tell") for _, diagnosis in diagnoses):
        raise typer.Exit(1)
