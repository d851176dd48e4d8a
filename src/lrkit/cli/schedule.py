"""``lrkit schedule "TEXT"``."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lrkit.schedules.base import Schedule
    from lrkit.schedules.template import Template

_EXAMPLE = 1000  # updates over which a template is drawn where nobody says how many


class Form(StrEnum):
    """What a schedule can be written as."""

    torch = "torch"
    json = "json"
    csv = "csv"
    code = "code"


def command(
    text: Annotated[str, typer.Argument(metavar='"TEXT"', help='E.g. "warmup 5% > cosine to 0.1".')],
    total: Annotated[int | None, typer.Option(help="Updates of the whole run, which % refers to.")] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(help="Updates of an epoch, which ep refers to.")] = None,
    tokens_per_step: Annotated[float | None, typer.Option(help="Tokens of an update, which tok refers to.")] = None,
    samples_per_step: Annotated[float | None, typer.Option(help="Samples of an update, which samples refers to.")] = None,
    diff: Annotated[str | None, typer.Option(metavar='"TEXT"', help="Another schedule: say where the two part.")] = None,
    export: Annotated[Form | None, typer.Option(help="Write it in another form instead of drawing it.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for --export; the terminal where not given.")] = None,
) -> None:
    """Read a schedule, draw it, print its values at the places that matter, and name what is probably a mistake."""
    from lrkit.cli.screen import console
    from lrkit.schedules.compare import diff as compare
    from lrkit.schedules.linter import lint
    from lrkit.schedules.template import Template
    from lrkit.schedules.text import parse

    clock = {"steps_per_epoch": steps_per_epoch, "tokens_per_step": tokens_per_step, "samples_per_step": samples_per_step}
    parsed = parse(text)
    other = None if diff is None else parse(diff)
    needs = {need for one in (parsed, other) if isinstance(one, Template) for need in one.needs}
    shown = _EXAMPLE if total is None and needs == {"total"} and export is None else total
    schedule = _resolved(parsed, shown, clock)
    if export is not None:
        _export(schedule, export, out, total)
        return
    console.print(str(parsed), style="bold", markup=False)
    if schedule is not parsed:
        assumed = " (an example: say --total)" if shown != total else ""
        console.print(f"over {shown or schedule.steps} updates{assumed}: {schedule}", markup=False)
    _show(schedule)
    for remark in lint(schedule, shown, steps_per_epoch):
        console.print(f"  ! {remark}", markup=False)
    if other is not None:
        second = _resolved(other, shown, clock)
        console.print(f"\nbeside {second}:\n{compare(schedule, second, shown)}", markup=False)


def _resolved(parsed: "Schedule | Template", total: int | None, clock: dict[str, int | float | None]) -> "Schedule":
    from lrkit.schedules.template import resolved

    return resolved(parsed, total, **clock)  # type: ignore[arg-type]


def _show(schedule: "Schedule") -> None:
    """The curve, and a line a stage."""
    from lrkit.cli.screen import console
    from lrkit.reporting.terminal import draw
    from lrkit.schedules.base import length_shown

    stages: tuple[Schedule, ...] = getattr(schedule, "stages", (schedule,))
    length = length_shown(schedule)
    steps = range(0, length, max(1, length // 2000))
    console.print(draw(steps, [schedule(step) for step in steps]), markup=False)
    start = 0
    for stage in stages:
        last = start + (stage.steps or length - start) - 1
        console.print(f"  steps {start:>7}–{last:<7}  {schedule(start):.4g} → {schedule(last):.4g}   {stage}", markup=False)
        start = last + 1
    console.print(f"  after that         {schedule(length):.4g}", markup=False)


def _export(schedule: "Schedule", form: Form, out: Path | None, total: int | None) -> None:
    """Write a schedule in another form, all of it or nothing."""
    from lrkit.cli.screen import console
    from lrkit.errors import FileError, reason
    from lrkit.schedules.base import length_shown

    if form is Form.json:
        text = schedule.to_json()
    elif form is Form.csv:
        rows = (f"{step},{schedule(step)!r}" for step in range(total or length_shown(schedule)))
        text = "\n".join(["step,lr" if schedule.base is not None else "step,factor", *rows])
    elif form is Form.code:
        text = f"import lrkit\n\nschedule = lrkit.parse({str(schedule)!r})"
    else:
        base = "" if schedule.base is None else "  # absolute rates: give the optimizer lr=1"
        text = (
            f"import lrkit\nimport torch\n\nschedule = lrkit.parse({str(schedule)!r})\n"
            f"scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule){base}"
        )
    if out is None:
        typer.echo(text)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise FileError(f"schedule --out {out}: cannot be written: {reason(error)}. Choose another file.") from None
    console.print(f"wrote {out}", markup=False)
