"""``lrkit report RUN``."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of lrkit (folder or file), a JSONL or CSV log.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; without it report.html beside the run.")] = None,
) -> None:
    """Write one self-contained HTML file: loss, rate and findings."""
    from lrkit.cli.screen import console
    from lrkit.journal import FILE_NAME
    from lrkit.logs.sniff import read
    from lrkit.reporting.html import report

    loaded = read(run)
    place = Path(run)
    ours = place.is_dir() or place.name == FILE_NAME
    beside = (place if place.is_dir() else place.parent) / "report.html" if ours else place.with_suffix(".report.html")
    console.print(f"report {report(loaded, out or beside, title=f'lrkit: {place.name}')}", markup=False)
