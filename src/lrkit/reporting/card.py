"""A Diagnosis for a terminal: header, curve, verdict, findings; and one line a run where there are many.

Every line fits the width it is given. Colours are the sixteen that a terminal has of its own, so that light and dark both read
well, and nothing is said by colour alone. Returns rich's Text; prints nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from lrkit.doctor.diagnosis import Diagnosis
from lrkit.doctor.finding import Finding
from lrkit.reporting.curve import curve, trace
from lrkit.reporting.verdict import (
    facts,
    family,
    how_sure,
    percent,
    printable,
    probabilities,
    tried,
    without_common_folder,
)

COLOURS = {"ok": "green", "too low": "cyan", "too high": "magenta", "diverged": "red"}
_QUIET = "dim"
_INDENT, _LABEL = 3, 9  # of a finding's lines, and of the words for, against, do, verify before them


def card(name: str, diagnosis: Diagnosis, width: int = 80, height: int = 24) -> list[Text]:
    """One run, to be read from above: what it is, how it went, what the doctor says.

    Args:
        name: Of the run.
        diagnosis: What to show.
        width: Characters of a line, at least 40.
        height: Lines to stay within where the words allow it: the curve takes what they leave, 4 to 9.

    Returns:
        Its lines; none is wider than `width`.
    """
    head = _header(name, facts(diagnosis.run), width)
    words = [Text(), *_verdict(diagnosis, width)]
    for number, finding in enumerate(diagnosis.findings, 1):
        words += [Text(), *_finding(number, finding, width)]
    if diagnosis.missing:
        words += _wrapped(f"not in the log: {', '.join(map(printable, diagnosis.missing))}", width, 0, _QUIET)
    first = diagnosis.findings[0] if diagnosis.findings else None
    mark = (*first.window, f"1 {first.title}", COLOURS.get(family(first), "")) if first is not None else None
    room = max(4, min(9, height - len(head) - len(words) - 3))
    return [*head, *curve(diagnosis.run, width, room, mark), *words]


def overview(cases: Sequence[tuple[str, Diagnosis]], width: int = 80) -> list[Text]:
    """A line a run: name, curve, the word for its rate, the first finding, the rate to try.

    Args:
        cases: (name, diagnosis) each.
        width: Characters of a line, at least 40.
    """
    shown = [printable(name) for name in without_common_folder([name for name, _ in cases])]
    found = [_accusation(diagnosis) for _, diagnosis in cases]
    finding, curves = (max(map(len, (*found, "first finding"))), 12) if width >= 76 else (0, 8)
    names = max(8, min(width - curves - finding - 27, max(map(cell_len, shown), default=0)))
    sizes = (names, curves, 11, *([finding] if finding else []), 8)
    header = ("run", "loss", "rate", *(["first finding"] if finding else []), "try")
    lines = [Text("  ".join(map(set_cell_size, header, sizes)).rstrip(), style=_QUIET)]
    for name, accused, (_, diagnosis) in zip(shown, found, cases, strict=True):
        word = COLOURS.get(diagnosis.rate, "")
        line = Text(set_cell_size(shorten(name, names), names) + "  ").append(trace(diagnosis.run, curves), word)
        line.append("  ").append(f"{diagnosis.rate:<11}", f"bold {word}".strip())
        line.append(f"  {set_cell_size(accused, finding)}" if finding else "")
        line.append(f"  {tried(diagnosis)}" if tried(diagnosis) else "")
        line.rstrip()
        lines.append(line)
    return lines


def _accusation(diagnosis: Diagnosis) -> str:
    first = diagnosis.findings[0] if diagnosis.findings else None
    return f"{first.title}, {percent(first.confidence)}" if first is not None and first.accuses else ""


def shorten(text: str, width: int) -> str:
    """At most so many cells: the end of a path says more than its beginning, so that is kept.

    Examples:
        >>> shorten("experiments/a/metrics.csv", 14)
        '…a/metrics.csv'
    """
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"


def _header(name: str, about: str, width: int) -> list[Text]:
    name = shorten(printable(name), width)
    if cell_len(name) + 3 + cell_len(about) <= width:
        return [Text(name, style="bold").append(f"   {about}", "not bold dim")]
    return [Text(name, style="bold"), *_wrapped(about, width, 0, _QUIET)]


def _verdict(diagnosis: Diagnosis, width: int) -> list[Text]:
    """The word; what to try, or what is well; the probabilities as bars."""
    word = diagnosis.rate
    line = Text("" if word in ("diverged", "cannot tell") else "rate ").append(word, f"bold {COLOURS.get(word, '')}".strip())
    lines = [line]
    if tried(diagnosis):
        line.append("   try ").append(tried(diagnosis), "bold")
    lines += _bars(probabilities(diagnosis), width)
    return lines + _wrapped(diagnosis.well, width, 0) if diagnosis.healthy else lines


def _bars(shares: dict[str, float], width: int) -> list[Text]:
    """A word, a bar and a number each: on one line where there is room, else one below the other."""
    pairs = [(word, percent(share), share) for word, share in shares.items()]
    words = sum(len(word) + len(number) + 5 for word, number, _ in pairs)
    if not pairs:
        return []
    if width - words < 16:
        margin, longest = max(len(word) for word, *_ in pairs), width - 24
        return [
            Text(f"{word:>{margin}} ").append(bar, COLOURS[word]).append(f" {number}" if bar else number)
            for word, number, share in pairs
            for bar in ["█" * round(share * min(24, longest))]
        ]
    line, room = Text(), min(30, width - words)
    for i, (word, number, share) in enumerate(pairs):
        bar = "█" * round(share * room)
        line.append("   " * (i > 0)).append(f"{word} ").append(bar, COLOURS[word]).append(" " * bool(bar)).append(number)
    return [line]


def _finding(number: int, finding: Finding, width: int) -> list[Text]:
    """Its title line, the sentence, and what speaks for and against it, what to do, how to see that it helped."""
    head = Text(f"{number:<{_INDENT}}", style="bold").append(finding.title, f"bold {COLOURS.get(family(finding), '')}".strip())
    sure, seen = how_sure(finding), f"steps {finding.window[0]}–{finding.window[1]}"
    head.append(f"   {sure}" if sure else "", "not bold")
    if len(head) + 3 + len(seen) <= width:
        head.append(f"   {seen}", "not bold dim")
    lines = [head, *_wrapped(finding.sentence, width, _INDENT)]
    lines += _listed("for", finding.evidence, width)
    lines += _listed("against", finding.counter, width)
    lines += _listed("do", (finding.advice,), width, "bold")
    lines += _listed("verify", (finding.verify,), width)
    return lines + _listed("settle", (finding.settles,) if finding.settles else (), width)


def _listed(word: str, sentences: Sequence[str], width: int, style: str = "") -> list[Text]:
    """A word in the margin, sentences beside it, their further lines under their first."""
    lines: list[Text] = []
    for sentence in filter(None, sentences):
        part = _wrapped(sentence, width, _INDENT + _LABEL, style)
        if not lines and part:
            part[0] = Text(" " * _INDENT).append(f"{word:<{_LABEL}}", _QUIET).append(part[0].plain.lstrip(), style)
        lines += part
    return lines


def _wrapped(sentence: str, width: int, indent: int, style: str = "") -> list[Text]:
    room = max(8, width - indent)
    return [Text(" " * indent).append(line, style) for line in textwrap.wrap(printable(sentence), room)]
