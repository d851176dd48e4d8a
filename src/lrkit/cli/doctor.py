"""``lrkit doctor PATH…``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lrkit.cli.cases import Case

_FEW = 6  # runs whose details are all shown; of more, a table and the gravest
_GRAVEST = 3


def command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help='Logs, folders of logs, "quoted/**/globs".')],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, an object a run, and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with a section a run.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="E.g. loss=train/ce; may be given again.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help=f"Details of every run, also of more than {_FEW}.")] = False,
) -> None:
    """Read training logs and say what is wrong with the rate.

    Exit code 0: healthy or cannot tell; 1: a finding that is likely or certain; 2: something could not be read.
    """
    from lrkit.cli.cases import columns_of, examine
    from lrkit.cli.screen import notes
    from lrkit.errors import LrkitError

    try:
        if html is not None:
            from lrkit.reporting.html import free_for_report

            free_for_report(html)  # before anything is read
        cases, refused = examine(paths, columns_of(column or []))
        for reason in refused:
            notes.print(f"lrkit doctor: {reason}", markup=False)
        if as_json:
            sys.stdout.write(json.dumps([case.as_dict() for case in cases], indent=2, allow_nan=False) + "\n")
        else:
            _show(cases, every)
        if html is not None and cases:
            written = _page(cases, html)
            notes.print(f"page {written}", markup=False)
    except LrkitError as error:
        notes.print(f"lrkit doctor: {error}", markup=False)
        raise typer.Exit(2) from error
    code = 2 if refused else int(any(case.diagnosis.serious for case in cases))
    if code:
        raise typer.Exit(code)


def _show(cases: "list[Case]", every: bool) -> None:
    """Every run in full; or, of many, a line each and the gravest in full."""
    from rich.text import Text

    from lrkit.cli.screen import console
    from lrkit.reporting.card import card, overview
    from lrkit.reporting.verdict import gravity

    width = min(120, max(40, console.width))
    height = min(30, max(24, console.height - 2)) if console.is_terminal else 24
    shown = cases
    if len(cases) > _FEW:
        for line in [*overview([(case.name, case.diagnosis) for case in cases], width), Text()]:
            console.print(line)
        if not every:
            grave = [case for case in cases if gravity(case.diagnosis)[1]]
            shown = sorted(grave, key=lambda case: gravity(case.diagnosis), reverse=True)[:_GRAVEST]
    for case in shown:
        for line in [*card(case.name, case.diagnosis, width, height), Text()]:
            console.print(line)
    if len(shown) < len(cases):
        console.print(f"{len(shown)} of {len(cases)} runs in full; --all shows all.", style="dim", markup=False)


def _page(cases: "list[Case]", file: Path) -> Path:
    from lrkit.reporting.html import Item, report
    from lrkit.reporting.verdict import without_common_folder

    sections: dict[str, Item] = {}
    names = [case.name for case in cases]
    for name, case in zip(names if len(names) == 1 else without_common_folder(names), cases, strict=True):
        heading, number = name, 2
        while heading in sections:
            heading, number = f"{name} ({number})", number + 1
        sections[heading] = case.diagnosis
    return report(sections, file, title="lrkit doctor" if len(cases) == 1 else f"lrkit doctor: {len(cases)} runs")
