"""`report`: one HTML file that opens from disk without a network: text, and figures as SVG that follow light and dark.

Knows what the values of the house say of themselves. Computes nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from lrkit.doctor.diagnosis import Diagnosis, diagnose
from lrkit.errors import FileError, InputError, nearest_folder, reason
from lrkit.figures.style import CSS_DARK, CSS_LIGHT, figure_of, new_figure, to_svg
from lrkit.finder.suggestion import Suggestion
from lrkit.reporting.panels import compare
from lrkit.reporting.sections import CSS_SECTION, contents, diagnosis_section, row
from lrkit.reporting.verdict import printable
from lrkit.run import Run
from lrkit.schedules.base import Schedule

Item = Run | Suggestion | Diagnosis | Schedule | Sequence[Run]

_CSS = """
:root{color-scheme:light dark;%s--soft:#f6f8fa;--quiet:#57606a;--good:#1a7f37;--low:#0072b2;--bad:#b35900;--lost:#cf222e}
@media(prefers-color-scheme:dark){:root{%s--soft:#161b22;--quiet:#9198a1;--good:#3fb950;--low:#58a6ff;--bad:#ff9d5c;--lost:#ff7b72}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1.5rem 1rem 3rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:.2rem 0 .4rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--grid);
padding-bottom:.25rem}h3{font-size:1rem;margin:0 0 .3rem}h1,h2{overflow-wrap:anywhere}p{margin:.3rem 0}.quiet{color:var(--quiet)}
section>.row{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:1.2rem;align-items:start}
figure{margin:0}section>figure{max-width:54rem}
figure svg{width:100%%;height:auto;display:block}svg text{font-family:system-ui,sans-serif}
.card{background:var(--soft);border-left:4px solid var(--quiet);border-radius:4px;padding:.7rem .9rem;margin:0 0 .8rem;
overflow-wrap:anywhere}
.card.good{border-color:var(--good)}.card.bad{border-color:var(--bad)}.card ul{margin:.3rem 0;padding-left:1.1rem}
.big{font-size:1.5rem;font-weight:600}.tag{font-size:.8rem;color:var(--quiet);float:right;margin-left:.6rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:.6rem 0}td,th{text-align:left;padding:.25rem .9rem .25rem 0;
border-bottom:1px solid var(--grid)}td.n,th.n{text-align:right}code{font-family:ui-monospace,monospace;font-size:.9em}
dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem .8rem;margin:.4rem 0}dt{color:var(--quiet)}dd{margin:0}
%s@media(max-width:46rem){section>.row{grid-template-columns:minmax(0,1fr)}}
""" % (CSS_LIGHT, CSS_DARK, CSS_SECTION)  # noqa: UP031  (braces are CSS's own)


_MARK = '<meta name="generator" content="lrkit">'


def report(
    subject: Item | Mapping[str, Item],
    path: str | Path,
    *,
    title: str = "lrkit report",
    summary: str = "",
    table: Sequence[Sequence[str]] = (),
) -> Path:
    """Write one self-contained HTML file.

    Args:
        subject: A Run (which is diagnosed), Suggestion, Diagnosis, Schedule or list of Runs to compare; or a mapping from
            headings to them.
        path: The file. An older report there is replaced as a whole, or not at all.
        title: Heading of the page.
        summary: A paragraph under it.
        table: Rows of cells under that, the first one the header.

    Returns:
        The path.

    Raises:
        InputError: If there is nothing to show, or an item is of another type.
        FileError: If the file cannot be written.
    """
    items = subject if isinstance(subject, Mapping) and not isinstance(subject, Run) else {_heading(subject): subject}
    if not items:
        raise InputError("report(subject): there is nothing to show. Pass a Run, Suggestion, Diagnosis or Schedule.")
    items = {printable(heading): diagnose(item) if isinstance(item, Run) else item for heading, item in items.items()}
    body = "".join(
        f'<section id="s{number}"><h2>{escape(heading)}</h2>{_section(heading, item)}</section>'
        for number, (heading, item) in enumerate(items.items())
    )
    # A page that brings a table of its own needs no second one of the same runs.
    listed = (
        "" if table else contents({heading: item for heading, item in items.items() if isinstance(item, Diagnosis)}, list(items))
    )
    lead = f"<p>{escape(summary)}</p>" if summary else ""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'{_MARK}<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_CSS}</style></head>'
        f"<body><h1>{escape(title)}</h1>{lead}{_table(table)}{listed}{body}</body></html>\n"
    )
    return write_whole(free_for_report(path), page.encode(errors="replace"))


def free_for_report(place: str | Path) -> Path:
    """The path, if nothing is lost by writing there: an older report may be replaced, another file may not.

    Raises:
        FileError: If another file, or a folder, is there.
    """
    path = Path(place)
    try:
        folder, there = path.is_dir(), path.exists()
        ours = there and path.is_file() and _is_report(path)
        nearest_folder(path)
    except (OSError, ValueError) as error:
        raise FileError(f"report(…, {str(path)!r}) cannot be written: {reason(error)}. Choose another place.") from error
    if folder:
        raise FileError(f"report(…, {str(path)!r}): this is a folder. Name a file in it, e.g. {str(path / 'report.html')!r}.")
    if there and not ours:
        raise FileError(f"report(…, {str(path)!r}): there is another file, which is no report of lrkit's. Choose another name.")
    return path


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return _MARK.encode() in file.read(1000)


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write a file so that it is there as a whole or not at all.

    Raises:
        FileError: If it cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).chmod(0o644)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise FileError(f"{str(path)!r} cannot be written: {reason(error)}. Choose another place.") from error
    return target


def _heading(item: object) -> str:
    names = {Run: "Run", Suggestion: "The rate", Diagnosis: "Diagnosis", Schedule: "Schedule"}
    return next((name for kind, name in names.items() if isinstance(item, kind)), "Runs")


def _section(heading: str, item: Item) -> str:
    if isinstance(item, Suggestion):
        return _suggestion(item)
    if isinstance(item, Schedule):
        return _schedule(item)
    if isinstance(item, Diagnosis):
        return diagnosis_section(heading, item)
    if isinstance(item, list | tuple) and item and all(isinstance(run, Run) for run in item):
        return f"<figure>{to_svg(compare(item), f'{heading}: loss and rate')}</figure>"
    kinds = "a Run, Suggestion, Diagnosis, Schedule (resolve a Template first) or a list of Runs; name several in a mapping"
    raise InputError(f"report: cannot show {_kind(item)}; it must be {kinds}.")


def _kind(item: object) -> str:
    inside = ", ".join(sorted({type(one).__name__ for one in item})) if isinstance(item, list | tuple) else ""
    return f"a {type(item).__name__} of {inside or 'nothing'}" if isinstance(item, list | tuple) else f"a {type(item).__name__}"


def _suggestion(suggestion: Suggestion) -> str:
    kind = "good" if suggestion.status == "ok" else "bad"
    interval = f"{suggestion.low:.2g} – {suggestion.high:.2g}" if suggestion.found else "none"
    facts = {
        "interval": interval,
        "status": f"{suggestion.status}: {suggestion.reason}",
        "cost": f"{suggestion.cost:.2f} training runs ({suggestion.steps} updates)",
        "for": f"{suggestion.context.get('schedule', '')}, {suggestion.context.get('horizon', '')} updates",
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    head = f"rate {suggestion.lr:.3g}" if suggestion.found else f"no rate found; it stays {suggestion.lr:.3g}"
    figure = new_figure(height=3.4)
    suggestion.plot(figure.axes[0])
    return row(
        to_svg(figure, str(suggestion)),
        f'<div class="card {kind}"><p class="big">{escape(head)}</p><dl>{rows}</dl></div>',
    )


def _schedule(schedule: Schedule) -> str:
    length = "no end" if schedule.steps is None else f"{schedule.steps} updates"
    text = f'<div class="card"><p><code>{escape(str(schedule))}</code></p><p class="quiet">{length}</p></div>'
    return row(to_svg(figure_of(schedule.plot()), str(schedule)), text)


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head, *body = rows
    cells = "".join(f"<th{_numeric(i)}>{escape(cell)}</th>" for i, cell in enumerate(head))
    lines = "".join("<tr>" + "".join(f"<td{_numeric(i)}>{escape(c)}</td>" for i, c in enumerate(row)) + "</tr>" for row in body)
    return f'<div class="scroll"><table><tr>{cells}</tr>{lines}</table></div>'


def _numeric(column: int) -> str:
    return ' class="n"' if column else ""
