"""The part of a page that is about a Diagnosis: verdict, a figure and a card for each finding; and the list of all of them.

Knows HTML; where the page's colours come from is `html`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from lrkit.doctor.diagnosis import Diagnosis
from lrkit.doctor.finding import Finding
from lrkit.figures.style import to_svg
from lrkit.reporting.panels import gauges, loss_and_rate
from lrkit.reporting.verdict import facts, family, how_sure, percent, probabilities, tried
from lrkit.run import Run

_CLASSES = {"ok": "good", "too low": "low", "too high": "high", "diverged": "lost"}

CSS_SECTION = """
.low{--c:var(--low)}.good{--c:var(--good)}.high{--c:var(--bad)}.lost{--c:var(--lost)}
.verdict{display:flex;flex-wrap:wrap;align-items:baseline;gap:.1rem 1.6rem;margin:.2rem 0 .9rem}
.verdict .big{color:var(--c,var(--quiet));margin:0}.verdict .big b{color:var(--ink);font-size:1rem}
.odds{margin:-.5rem 0 1rem;max-width:36rem}
.bar{display:flex;gap:2px;height:.55rem;margin:0 0 .25rem;border-radius:3px;overflow:hidden}
.bar i{background:var(--c);min-width:2px}
.key{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;font-size:.85rem;color:var(--quiet)}
.key span::before{content:"";display:inline-block;width:.65em;height:.65em;border-radius:2px;background:var(--c);
margin-right:.4em}
.key .most{color:var(--ink);font-weight:600}
.card.low,.card.high,.card.lost{border-color:var(--c)}
.card dl.case{grid-template-columns:4.2rem 1fr;gap:.35rem .6rem;margin:.5rem 0 0}.card .do{font-weight:600}
.card h3 small{font-weight:400;color:var(--quiet);margin-left:.5em}
.sure{display:block;height:4px;border-radius:2px;background:var(--grid);margin:.1rem 0 .5rem}
.sure i{display:block;height:100%;border-radius:2px;background:var(--c,var(--quiet))}
section>.row+.row{margin-top:1.2rem}td a{color:inherit}td.w,td.n{white-space:nowrap}
td.w{color:var(--c,var(--quiet));font-weight:600}td a{overflow-wrap:anywhere}
@media(max-width:34rem){.more{display:none}}
"""


def row(figure: str, text: str) -> str:
    """A figure, and what there is to say of it beside it, or below where the page is narrow."""
    return f'<div class="row"><figure>{figure}</figure><div>{text}</div></div>'


def diagnosis_section(heading: str, diagnosis: Diagnosis) -> str:
    """The inside of a section.

    Args:
        heading: Of the section, for those who hear the figures.
        diagnosis: What to show.
    """
    rows = [
        row(_figure(heading, diagnosis.run, number, finding), _card(number, finding) + (_rest(diagnosis) if number == 1 else ""))
        for number, finding in enumerate(diagnosis.findings, 1)
    ]
    if not rows:
        well = f'<div class="card good"><h3>healthy</h3><p>{escape(diagnosis.well)}.</p></div>' if diagnosis.healthy else ""
        rows = [row(_figure(heading, diagnosis.run), well + _rest(diagnosis))]
    read = gauges(diagnosis.run)
    if read is not None:
        rows.append(f"<figure>{to_svg(read, f'{heading}: what the gauges have read')}</figure>")
    return _verdict(diagnosis) + "".join(rows)


def contents(diagnoses: Mapping[str, Diagnosis], headings: Sequence[str]) -> str:
    """A table of the diagnoses of a page that has several, each with a link to its section; else nothing.

    Args:
        diagnoses: Heading → diagnosis.
        headings: Of all sections, in their order: the n-th has the id ``s<n>``.
    """
    if len(diagnoses) < 2:
        return ""
    lines = []
    for heading, diagnosis in diagnoses.items():
        first = diagnosis.findings[0] if diagnosis.findings else None
        found = f"{first.title}, {how_sure(first)}" if first is not None and first.accuses else ""
        advised = tried(diagnosis)
        lines.append(
            f'<tr><td><a href="#s{headings.index(heading)}">{escape(heading)}</a></td>'
            f'<td class="w {_CLASSES.get(diagnosis.rate, "")}">{escape(diagnosis.rate)}</td>'
            f'<td class="n">{advised}</td><td class="more">{_whole(found)}</td></tr>'
        )
    head = '<tr><th>run</th><th>rate</th><th class="n">try</th><th class="more">first finding</th></tr>'
    return f'<div class="scroll"><table>{head}{"".join(lines)}</table></div>'


def _whole(text: str) -> str:
    """A number and its sign stay on one line."""
    return escape(text).replace(" %", "&nbsp;%")


def _figure(heading: str, run: Run, number: int = 0, finding: Finding | None = None) -> str:
    if finding is None:
        return to_svg(loss_and_rate(run), f"{heading}: loss and rate over the steps")
    figure = loss_and_rate(run, finding.window, f"{number} {finding.title}")
    return to_svg(figure, f"{heading}: loss and rate over the steps, {finding.title} in steps {_span(finding)}")


def _verdict(diagnosis: Diagnosis) -> str:
    """The word, what to try, the probabilities as one bar, and what the log is."""
    word = diagnosis.rate
    said = word if word in ("diverged", "cannot tell") else f"rate {word}"
    rate = f" <b>try {tried(diagnosis)}</b>" if tried(diagnosis) else ""
    shares = probabilities(diagnosis)
    most = max(shares, key=lambda one: shares[one], default="")
    parts = "".join(f'<i class="{_CLASSES[one]}" style="flex-grow:{share:.3f}"></i>' for one, share in shares.items())
    key = "".join(
        f'<span class="{_CLASSES[one]}{" most" if one == most else ""}">{one} {_whole(percent(share))}</span>'
        for one, share in shares.items()
    )
    bar = f'<div class="bar" aria-hidden="true">{parts}</div><div class="key">{key}</div>'
    odds = f'<div class="odds">{bar}</div>' if shares else ""
    return (
        f'<div class="verdict"><p class="big {_CLASSES.get(word, "")}">{escape(said)}{rate}</p>'
        f'<p class="quiet">{escape(facts(diagnosis.run))}</p></div>{odds}'
    )


def _card(number: int, finding: Finding) -> str:
    kind = _CLASSES.get(family(finding), "")
    sure = how_sure(finding)
    bar = f'<span class="sure"><i style="width:{finding.confidence:.0%}"></i></span>' if sure else ""
    lines = [*(("for", one) for one in finding.evidence), *(("against", one) for one in finding.counter)]
    said = "".join(
        f"<dt>{'' if i and lines[i - 1][0] == word else word}</dt><dd>{escape(one)}</dd>" for i, (word, one) in enumerate(lines)
    )
    said += f'<dt>do</dt><dd class="do">{escape(finding.advice)}</dd><dt>verify</dt><dd>{escape(finding.verify)}</dd>'
    said += f"<dt>settle</dt><dd>{escape(finding.settles)}</dd>" if finding.settles else ""
    return (
        f'<div class="card {kind}"><span class="tag">{_whole(sure)}</span>'
        f"<h3>{number}&ensp;{escape(finding.title)}<small>steps {_span(finding)}</small></h3>{bar}"
        f'<p>{escape(finding.sentence)}</p><dl class="case">{said}</dl></div>'
    )


def _span(finding: Finding) -> str:
    return f"{finding.window[0]}–{finding.window[1]}"


def _rest(diagnosis: Diagnosis) -> str:
    """What the log lacks, and what controllers did, as a watch remembers it."""
    lacks = f'<p class="quiet">Not in the log: {escape(", ".join(diagnosis.missing))}.</p>' if diagnosis.missing else ""
    events = [
        one for one in diagnosis.run.meta.get("events", ()) if isinstance(one, Mapping) and {"step", "by", "what"} <= one.keys()
    ]
    lines = "".join(
        f"<li>step {escape(str(one['step']))}, {escape(str(one['by']))}: {escape(str(one['what']))}"
        f"{' (undone)' if one.get('undone') else ''}</li>"
        for one in events
    )
    return lacks + (f'<div class="card"><h3>events</h3><ul>{lines}</ul></div>' if events else "")
