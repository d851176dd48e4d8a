"""``lrkit schedule "TEXT"``."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lrkit.schedules.base import Schedule

_ROWS = 10_000_000  # of a table
_EXAMPLE = 1000  # updates over which a template is drawn where nobody says how many


class Form(StrEnum):
    """What a schedule can be written as."""

    torch = "torch"
    json = "json"
    csv = "csv"
    code = "code"


def command(
    text: Annotated[str, typer.Argument(metavar='"TEXT"', help='E.g. "warmup 5% > cosine to 0.1".')],
    total: Annotated[str | None, typer.Option(help="The whole run, which % refers to: updates, or e.g. 90ep.")] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(help="Updates of an epoch, which ep refers to.")] = None,
    tokens_per_step: Annotated[float | None, typer.Option(help="Tokens of an update, which tok refers to.")] = None,
    samples_per_step: Annotated[float | None, typer.Option(help="Samples of an update, which samples refers to.")] = None,
    lr: Annotated[float | None, typer.Option(help="The base rate: show rates instead of factors.")] = None,
    at: Annotated[list[int] | None, typer.Option(help="Also print the value at this step; may be given again.")] = None,
    diff: Annotated[str | None, typer.Option(metavar='"TEXT"', help="Another schedule: say where the two part.")] = None,
    export: Annotated[Form | None, typer.Option(help="Write it in another form instead of drawing it.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for --export; the terminal where not given.")] = None,
) -> None:
    """Read a schedule, draw it, print its values at the places that matter, and name what is probably a mistake."""
    from lrkit.cli.screen import console
    from lrkit.errors import InputError
    from lrkit.schedules.clock import Clock
    from lrkit.schedules.compare import diff as compare
    from lrkit.schedules.linter import lint
    from lrkit.schedules.template import Template, read_for
    from lrkit.schedules.text import parse

    if (export is None and out is not None) or (export is not None and (diff is not None or at)):
        raise InputError("schedule: --out goes with --export, and --diff and --at do not. Leave one of them out.")
    parsed = parse(text)
    other = None if diff is None else parse(diff)
    given = None if total is None else int(total) if total.isdecimal() else total
    needs = {need for one in (parsed, other) if isinstance(one, Template) for need in one.needs}
    example = given is None and needs == {"total"} and export is None
    clock = Clock(_EXAMPLE if example else given, steps_per_epoch, tokens_per_step, samples_per_step)
    schedule = read_for(parsed, clock)
    if export is not None:
        _export(schedule, export, out, clock.total, lr)
        return
    console.print(str(parsed), style="bold", markup=False)
    if schedule is not parsed:
        assumed = " (an example: say --total)" if example else ""
        console.print(f"over {clock.total or schedule.steps} updates{assumed}: {schedule}", markup=False)
    _show(schedule, lr, at or [])
    for remark in lint(schedule, clock.total, steps_per_epoch):
        console.print(f"  ! {remark}", markup=False)
    if other is not None:
        second = read_for(other, clock)
        console.print(f"\nbeside {second}:\n{compare(schedule, second, clock.total)}", markup=False)


def _scale(schedule: "Schedule", lr: float | None) -> float:
    """What the values are multiplied with to be shown: the base rate, where they are factors and it was given."""
    from lrkit.errors import InputError, real

    if lr is not None and schedule.base is not None:
        raise InputError("schedule --lr: its values are absolute already. Leave --lr out.")
    return 1.0 if lr is None else real("schedule", "lr", lr, above=0.0)


def _show(schedule: "Schedule", lr: float | None, at: list[int]) -> None:
    """The curve, a line a stage, and the values that were asked for."""
    from lrkit.cli.screen import console
    from lrkit.reporting.terminal import draw
    from lrkit.schedules.base import length_shown

    stages: tuple[Schedule, ...] = getattr(schedule, "stages", (schedule,))
    length, scale = length_shown(schedule), _scale(schedule, lr)
    steps = range(0, length, max(1, length // 2000))
    console.print(draw(steps, [schedule(step) * scale for step in steps]), markup=False)
    start = 0
    for stage in stages:
        last = start + (stage.steps or length - start) - 1
        ends = f"{schedule(start) * scale:.4g} → {schedule(last) * scale:.4g}"
        console.print(f"  steps {start:>7}–{last:<7}  {ends}   {stage}", markup=False)
        start = last + 1
    console.print(f"  after that         {schedule(length) * scale:.4g}", markup=False)
    for step in at:
        console.print(f"  at step {step:>7}    {schedule(step) * scale:.6g}", markup=False)


def _export(schedule: "Schedule", form: Form, out: Path | None, total: int | None, lr: float | None) -> None:
    """Write a schedule in another form, all of it or nothing."""
    from lrkit.cli.screen import console
    from lrkit.errors import FileError, InputError, reason
    from lrkit.schedules.base import length_shown

    if form is Form.json:
        text = schedule.to_json()
    elif form is Form.csv:
        scale, length = _scale(schedule, lr), total or length_shown(schedule)
        if length > _ROWS:
            raise InputError(f"schedule --export csv: {length} rows are more than {_ROWS}. Say a shorter --total.")
        rows = (f"{step},{schedule(step) * scale!r}" for step in range(length))
        text = "\n".join(["step,factor" if schedule.base is None and lr is None else "step,lr", *rows])
    elif form is Form.code:
        text = f"import lrkit\n\nschedule = lrkit.parse({str(schedule)!r})"
    else:
        base = "" if schedule.base is None else "  # its values are absolute: give the optimizer lr=1"
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
