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
    from lrkit.logs.sniff import read
    from lrkit.reporting.html import report

    loaded = read(run)
    beside = Path(run) if Path(run).is_dir() else Path(run).parent
    console.print(f"report {report(loaded, out or beside / 'report.html', title=f'lrkit: {Path(run).name}')}")
