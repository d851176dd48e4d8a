"""The demo's program: find the rate, train with it and with two wrong ones, diagnose all three, write a report.

Every part is a public call of lrkit; what is special here is only the order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from lrkit.demo.digits import task
from lrkit.doctor.diagnosis import Diagnosis, diagnose
from lrkit.errors import FileError
from lrkit.figures.charts import curves
from lrkit.figures.style import PALETTE, new_figure, to_png
from lrkit.finder.search import find
from lrkit.finder.suggestion import Suggestion
from lrkit.journal import FILE_NAME
from lrkit.reporting.html import Item, free_for_report, report, write_whole
from lrkit.reporting.panels import compare, loss_and_rate
from lrkit.run import Run
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import resolved
from lrkit.schedules.text import parse
from lrkit.task import train

SCHEDULE = "warmup 5% > cosine"
LABELS = {"found": 1.0, "thirty-fold": 30.0, "a-hundredth": 0.01}
_PAGE, _PICTURES = "report.html", ("overview", "finder", "schedule", "runs")
BUDGET = 1.0  # of a training run: a few seconds here
GAUGED = 12  # updates between visits: two dozen a run, the same ones each time

Tell = Callable[[str, float], object]


@dataclass(frozen=True)
class Demo:
    """What the demo made: the suggestion, and label → diagnosis (which holds the run)."""

    suggestion: Suggestion
    schedule: Schedule
    diagnoses: dict[str, Diagnosis]
    report: Path


def run_demo(
    out: str | Path = "runs/demo",
    seed: int = 0,
    *,
    echo: Callable[[str], object] | None = None,
    tell: Tell = lambda _what, _share: None,
) -> Demo:
    """Find, train, watch, diagnose and show.

    Args:
        out: Folder for the report, the pictures and the three runs; an older demo's files there are replaced.
        seed: Of everything.
        echo: Called with the found rate, then with each line of the training with it: epoch, rate, loss.
        tell: Called with (what it is doing, share of the whole that is done).

    Returns:
        What was made.
    """
    folder = Path(out)
    free_for_report(folder / _PAGE)
    _check_free(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a net this small is slower on two: they wait for each other
    try:
        return _run(folder, seed, echo, tell)
    finally:
        torch.set_num_threads(threads)


def _run(folder: Path, seed: int, echo: Callable[[str], object] | None, tell: Tell) -> Demo:
    job = task()
    parts = len(LABELS) + 1
    suggestion = find(job, budget=BUDGET, seed=seed, progress=lambda done, of: tell("finding the rate", done / of / parts))
    if echo is not None:
        echo(f"found {suggestion}\ntraining with it, under {SCHEDULE}:")
    schedule = resolved(parse(SCHEDULE), job.steps)
    diagnoses: dict[str, Diagnosis] = {}
    for i, (label, times) in enumerate(LABELS.items(), 1):
        rate = suggestion.lr * times

        def progress(done: int, of: int, i: int = i, rate: float = rate) -> None:
            tell(f"training at {rate:.2g}", (i + done / of) / parts)

        (folder / label / FILE_NAME).unlink(missing_ok=True)  # an older demo's: _check_free has seen to that
        said = echo if label == "found" else None
        run = train(job, rate, schedule, seed, folder / label, every=GAUGED, echo=said, progress=progress)
        run.meta["label"] = f"{rate:.2g} ({label.replace('-', ' ')})"
        diagnoses[label] = diagnose(run)
    tell("drawing", 1.0)
    page = _show(folder, suggestion, schedule, diagnoses)
    return Demo(suggestion, schedule, diagnoses, page)


def _check_free(folder: Path) -> None:
    """Refuse a folder in which the demo would replace what is not an older demo's.

    Raises:
        FileError: If there are files of those names and no report of lrkit's beside them.
    """
    ours = [folder / f"{name}.png" for name in (*_PICTURES, *LABELS)] + [folder / label / FILE_NAME for label in LABELS]
    there = [path for path in ours if path.exists()]
    if there and not (folder / _PAGE).exists():
        raise FileError(f"demo: {str(there[0])!r} exists and is no older demo's. Choose another folder with --out.")


def accuracy(run: Run) -> float:
    """The validation accuracy at the end of a run."""
    return float(run.observed("val_accuracy")[1][-1])


def val_loss(run: Run) -> float:
    """The validation loss at the end of a run."""
    return float(run.observed("val_loss")[1][-1])


def _show(folder: Path, suggestion: Suggestion, schedule: Schedule, diagnoses: dict[str, Diagnosis]) -> Path:
    """The report and the pictures."""
    runs = [diagnosis.run for diagnosis in diagnoses.values()]
    finder = new_figure(height=3.4)
    suggestion.plot(finder.axes[0])
    shape = new_figure()
    schedule.plot(shape.axes[0], base=suggestion.lr)
    pictures = {
        "overview": _overview(suggestion, diagnoses),
        "finder": finder,
        "schedule": shape,
        "runs": compare(runs),
    }
    for label, diagnosis in diagnoses.items():
        window = diagnosis.findings[0].window if diagnosis.findings else None
        pictures[label] = loss_and_rate(diagnosis.run, window)
    for name, figure in pictures.items():
        write_whole(folder / f"{name}.png", to_png(figure))
    table = [["run", "base rate", "accuracy", "validation loss", "the doctor says"]]
    for label, diagnosis in diagnoses.items():
        base = diagnosis.run.meta["base_lr"]
        cells = (f"{base:.3g}", f"{accuracy(diagnosis.run):.1%}", f"{val_loss(diagnosis.run):.3f}", diagnosis.rate)
        table.append([label.replace("-", " "), *cells])
    sections: dict[str, Item] = {
        "Found: the rate": suggestion,
        "Shaped: the schedule": schedule,
        "Trained: three runs": runs,
    }
    for diagnosis in diagnoses.values():
        sections[f"Diagnosed: rate {diagnosis.run.meta['label']}"] = diagnosis
    return report(
        sections,
        folder / _PAGE,
        title="lrkit demo: digits",
        summary="A small conv net on 1,437 images of handwritten digits, validated on 360 others. lrkit found a rate, "
        "trained with it, with 30 times and with a hundredth of it, and diagnosed all three.",
        table=table,
    )


def _overview(suggestion: Suggestion, diagnoses: dict[str, Diagnosis]) -> Figure:
    """The picture of the README: found, trained, diagnosed."""
    figure = new_figure(width=10.4, height=3.3, columns=2)
    left, right = figure.axes
    suggestion.plot(left)
    left.set_title(f"find: rate {suggestion.lr:.2g}", loc="left")
    lines = {f"{d.run.meta['base_lr']:.2g}: {d.rate}": d.run.smooth("loss") for d in diagnoses.values()}
    colors = dict(zip(lines, PALETTE[: len(lines)], strict=True))
    curves(lines, right, ylabel="loss", log_y=True, colors=colors)
    right.set_title("train, watch, diagnose: the same net at three rates", loc="left")
    return figure
