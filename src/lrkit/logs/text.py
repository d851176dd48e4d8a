"""What training loops print: a line a step, with a name before each number. nanoGPT, Megatron, tqdm, printed dicts.

A pattern must stay linear in the length of a line: repeats of single characters are possessive, and it begins at the start of
a word. No group repeats possessively: Python 3.11.2 errs there.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from lrkit.logs.alike import Form, form_of, pieces
from lrkit.logs.grid import blocks
from lrkit.logs.names import meaning, told_apart
from lrkit.logs.source import Source
from lrkit.logs.table import Array, Builder, Table, number

_NUMBER = r"[-+]?(?:\d[\d.]*+(?:e[-+]?\d++)?|\.\d++(?:e[-+]?\d++)?|nan\b|inf(?:inity)?\b)"
_WORD = r"(?!nan\b|inf(?:inity)?\b)[a-z_][\w./-]*+"
# A name of up to three words; what may stand between; the number; /total.
_PAIR = re.compile(
    rf"""(?<![\w./-])({_WORD}(?:\x20{_WORD}){{0,2}})(?:\(train\))?['"\]]?\s*+[:=]?\s*+(?:tensor\()?[\[('"]?\s*+({_NUMBER})(?:\s*+/\s*+(\d++))?""",
    re.IGNORECASE,
)
_BAR = re.compile(r"(?<![\d.])(\d{1,15})\s?/\s?(\d{1,15})\s?[\[\]]")  # tqdm's 45/100 [00:10<…, and [ 10/5005]
_FIRST = re.compile(r"\s*+(\d{1,15})\s*+\|")  # llama2.c's `10 | loss 2.3`
_SHORT = re.compile(r"(\d{1,15}) (train|val) (\d{1,9}\.\d{1,15})")  # build-nanogpt's `10 train 2.3`
_HEADING = re.compile(r"\W*+Epoch\W*+(\d{1,9})(?:\s*+/\s*+\d++)?\W*+", re.IGNORECASE)
_SET = r"(?:test|val|valid|validation|eval|evaluation)\s?[\[\]:|]"
_HELD, _AFTER_BAR = re.compile(r"\W*+" + _SET, re.IGNORECASE), re.compile(r"\|\s?" + _SET, re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*+[A-Za-z]")
_PREFIXES = ("info", "debug", "warning", "at")
_BRIEF = 80  # characters of a line that may be a heading
_LOOKED_AT = 50  # lines among which a form is looked for
_FEWEST = 2  # lines with a loss that make a log


@dataclass
class _Log:
    """What the lines so far have told.

    Args:
        totals: How often each number of steps was named as the whole.
        epoch: That of the last line that names an epoch and nothing else, as Keras prints above its bars.
        bar: The (epoch, count) of the last bar below such a line.
        base: Steps of the epochs before, where the bars begin again with each.
        place: The step, and the epoch, of the last row.
    """

    totals: dict[int, int] = field(default_factory=dict)
    epoch: int | None = None
    bar: tuple[int, int] | None = None
    base: int = 0
    place: dict[str, float] = field(default_factory=dict)


def text(source: Source) -> list[Table] | None:
    """Printed lines: `iter 10: loss 2.3`, `step:10/500 train_loss:2.3`, `{'loss': 2.3, 'epoch': 0.1}` …

    Lines that name a step and a measure count. Where no line does, those that name a loss do, and are numbered.
    """
    if not source.text:
        return None
    stepped, loose, log = Builder(), Builder(), _Log()
    counts = [0, 0]
    for block in blocks(source.text):
        lines = block.split("\n")
        form = _form(lines)
        for piece in pieces(lines, form) if form is not None else (lines,):
            if isinstance(piece, np.ndarray):
                assert form is not None, "only a form makes numbers of lines"
                counts[0] += len(piece)
                stepped.block(list(form.columns), _even(piece, form, log))
                continue
            rows = list(_rows(piece, log))
            with_step, bare = [row for row in rows if "step" in row], [row for row in rows if "step" not in row]
            counts[0] += sum(_has_loss(row) for row in with_step)
            counts[1] += sum(_has_loss(row) for row in bare)
            stepped.objects(with_step)
            loose.objects(row for row in bare if _has_loss(row))
    if counts[0] >= _FEWEST:
        total = max(log.totals, key=lambda one: log.totals[one]) if log.totals else None
        return [stepped.table(format="text", steps=total)]
    return [loose.table(format="text")] if counts[1] >= _FEWEST else None


def _has_loss(row: dict[str, float]) -> bool:
    return any(meaning(name) == "loss" for name in row)


def _form(lines: Sequence[str]) -> Form | None:
    """The form of a line that names a step and a loss, and needs nothing of the lines before it; None where there is none."""
    for line in lines[len(lines) // 2 :][:_LOOKED_AT]:
        row, _, _ = _pairs(line)
        if (
            "step" in row
            and _has_loss(row)
            and "\x1b" not in line
            and not _is_held_out(line)
            and "num_updates" not in line.lower()
        ):
            return form_of(line, list(_PAIR.finditer(line)), _named)
    return None


def _even(numbers: Array, form: Form, log: _Log) -> Array:
    """The named ones of the numbers of alike lines, which tell the log what their lines would."""
    if form.total is not None and "epoch" not in form.columns:
        for total, times in zip(*np.unique(numbers[:, form.total], return_counts=True), strict=True):
            _count(log.totals, f"{total:.0f}", int(times))
    named = numbers[:, list(form.columns.values())]
    log.place = {name: float(one) for name, one in zip(form.columns, named[-1], strict=True) if name in ("step", "epoch")}
    return named


def _rows(lines: Sequence[str], log: _Log) -> Iterator[dict[str, float]]:
    """The lines that hold a measure, as rows."""
    for line in lines:
        if "\x1b" in line:
            line = _COLOUR.sub("", line)
        if len(line) < _BRIEF and (heading := _HEADING.fullmatch(line)) is not None:
            log.epoch = int(heading[1])
            continue
        if len(line) < _BRIEF and (short := _SHORT.fullmatch(line)) is not None:
            yield {"step": float(short[1]), "loss" if short[2] == "train" else "val_loss": float(short[3])}
            continue
        row, known, total = _pairs(line)
        if not known:
            continue
        held = _is_held_out(line)
        if held:
            row = told_apart({**row, "mode": "val"})
            del row["mode"]
            row = log.place | row
        elif "step" not in row:
            _place(line, row, log)
        elif total and "epoch" not in row:
            _count(log.totals, total)
        if "step" in row and not held:
            log.place = {name: row[name] for name in ("step", "epoch") if name in row}
        yield row


def _is_held_out(line: str) -> bool:
    """Whether a line is about held-out data: `Test: [0/50] Loss 2.3`, `| valid | loss 2.3`, and no training named before."""
    mark = _HELD.match(line) or (_AFTER_BAR.search(line) if "|" in line else None)
    return mark is not None and "train" not in line[: mark.start()].lower()


def _pairs(line: str) -> tuple[dict[str, float], bool, str]:
    """The numbers of a line by their names, whether one is a measure, and the number of steps planned, or ""."""
    row: dict[str, float] = {}
    known, total = False, ""
    for name, digits, whole in _PAIR.findall(line):
        value = number(digits)
        if value is None:
            continue
        ours = _meaning(name)
        known = known or ours in ("loss", "val_loss", "lr", "grad_norm")
        if ours == "step" and name.lower().endswith("num_updates"):
            row["step"] = value  # fairseq's own count, beside the share of an epoch that it calls update
        row.setdefault(_named(name), value)
        total = whole if ours == "step" and whole else total
    return row, known, total


def _place(line: str, row: dict[str, float], log: _Log) -> None:
    """The step of a line that names none: that of its bar, or the number it begins with."""
    bar = _BAR.search(line)
    if bar is None:
        if first := _FIRST.match(line):
            row["step"] = float(first[1])
        return
    row["step"] = float(bar[1])
    if "epoch" in row:
        return
    if log.epoch is None:
        _count(log.totals, bar[2])
        return
    if log.bar is not None and log.epoch != log.bar[0] and int(bar[1]) <= log.bar[1]:
        log.base = log.base + int(bar[2]) if log.epoch > log.bar[0] else 0
    log.bar = log.epoch, int(bar[1])
    row["step"] += log.base
    row["epoch"] = float(log.epoch)


def _count(totals: dict[int, int], digits: str, times: int = 1) -> None:
    if len(digits) <= 15 and (int(digits) in totals or len(totals) < 1000):
        totals[int(digits)] = totals.get(int(digits), 0) + times


def _named(name: str) -> str:
    """What a row calls a printed name."""
    ours = _meaning(name)
    return ours if ours in ("step", "epoch") else name


@lru_cache(maxsize=4096)
def _meaning(name: str) -> str | None:
    """What a printed name means: `s` is modded-nanogpt's step, `steps` DeepSpeed's; a logger's level may stand before it."""
    first, _, rest = name.partition(" ")
    if name.lower() in ("s", "steps"):
        return "step"
    if rest and first.lower() in _PREFIXES:
        return meaning(rest)
    return meaning(name)
