"""``lrkit demo``."""

from pathlib import Path
from typing import Annotated

import typer

from lrkit.errors import MissingExtra


def command(
    out: Annotated[Path, typer.Option(help="Folder for the report, the pictures and the runs.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
) -> None:
    """Find, train, watch, diagnose and show, on real data: the whole of lrkit in a minute."""
    from lrkit.cli.screen import console, progress_bar

    try:
        from lrkit.demo.program import accuracy, run_demo
    except ModuleNotFoundError as error:
        raise MissingExtra("lrkit demo", error.name or "a package", "demo") from error
    console.print("A small conv net learns handwritten digits. Which learning rate?", style="bold")
    with progress_bar("loading") as tell:
        demo = run_demo(out, seed, echo=lambda line: console.print(line, style="dim"), tell=tell)
    console.print(f"\n[bold]found[/]     {demo.suggestion}")
    console.print(f"[bold]schedule[/]  {demo.schedule}\n")
    for label, diagnosis in demo.diagnoses.items():
        rate = diagnosis.run.meta["base_lr"]
        colour = "green" if diagnosis.healthy else "yellow"
        console.print(
            f"[bold]{label.replace('-', ' '):12s}[/] rate {rate:.3g}: accuracy [bold {colour}]{accuracy(diagnosis.run):.1%}[/]"
        )
        console.print(str(diagnosis) + "\n", markup=False)
    console.print("report", style="bold", end="    ")
    console.print(f"{demo.report}   (open it in a browser; pictures beside it)", markup=False)
