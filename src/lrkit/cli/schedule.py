"""``lrkit schedule "TEXT"``."""

from typing import Annotated

import typer

_EXAMPLE = 1000  # updates over which a template is drawn where nobody says how many


def command(
    text: Annotated[str, typer.Argument(metavar='"TEXT"', help='E.g. "warmup 5% > cosine to 0.1".')],
    total: Annotated[int | None, typer.Option(help="Updates of the whole run, which % refers to.")] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(help="Updates of an epoch, which ep refers to.")] = None,
) -> None:
    """Read a schedule, draw it, and print its values at the places that matter."""
    from lrkit.cli.screen import console
    from lrkit.reporting.terminal import draw
    from lrkit.schedules.base import Join, Schedule
    from lrkit.schedules.template import Template
    from lrkit.schedules.text import parse

    parsed = parse(text)
    console.print(str(parsed), style="bold", markup=False)
    if isinstance(parsed, Template):
        needs_total = any(stage.duration is None or stage.duration.unit == "%" for stage in parsed.stages if not stage.endless)
        shown = _EXAMPLE if total is None and needs_total and steps_per_epoch is None else total
        parsed = parsed.resolve(shown, steps_per_epoch)
        assumed = " (an example: say --total)" if shown != total else ""
        shown = shown or parsed.steps
        console.print(f"over {shown} updates{assumed}: {parsed}", markup=False)
    stages: tuple[Schedule, ...] = parsed.stages if isinstance(parsed, Join) else (parsed,)
    length = parsed.steps or sum(stage.steps or 1000 for stage in stages)
    steps = range(0, length, max(1, length // 2000))
    console.print(draw(steps, [parsed(step) for step in steps]), markup=False)
    start = 0
    for stage in stages:
        last = start + (stage.steps or length - start) - 1
        console.print(f"  steps {start:>7}–{last:<7}  {parsed(start):.4g} → {parsed(last):.4g}   {stage}", markup=False)
        start = last + 1
    console.print(f"  after that         {parsed(length):.4g}", markup=False)
