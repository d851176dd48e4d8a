"""Printed lines that differ in nothing but their numbers → arrays, without a match of a pattern a line.

Most of what a training loop prints has one form. It is taken from one line; that others share it is checked, number by number and
word by word, by `grid_of_lines`. Knows no meanings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise

import numpy as np
from numpy.typing import NDArray

from lrkit.logs.grid import grid_of_lines
from lrkit.logs.table import Array

_DIGITS = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_NUMBER = r"[-+]?[\d.]++(?:e[-+]?\d++)?"  # possessive, so that a line is gone over once
_MOST = 1e15  # a total beyond is none
_FEW = 50  # lines in a row, on the mean: fewer are not worth an array of their own


@dataclass(frozen=True)
class Form:
    """What alike lines have in common.

    Args:
        between: (k + 1,) the text before, between and after the numbers.
        columns: Name → which of the k numbers; of a name that comes twice the first.
        total: Which of them is the number of steps planned, or None.
    """

    between: tuple[str, ...]
    columns: dict[str, int]
    total: int | None

    def at_a_glance(self, lines: Sequence[str]) -> NDArray[np.bool_]:
        """(n,) which lines may be of this form: they begin so, or hold its longest text."""
        begin, key = self.between[0], max(self.between, key=len)
        return np.array([line.startswith(begin) for line in lines] if begin else [key in line for line in lines], bool)

    def closely(self, lines: Sequence[str]) -> NDArray[np.bool_]:
        """(n,) which lines are of this form, but for rare looks of a number."""
        texts = re.compile(_NUMBER.join(map(re.escape, self.between)), re.IGNORECASE)
        return np.array([texts.fullmatch(line) is not None for line in lines], bool)

    def numbers(self, block: str) -> Array | None:
        """(n, k) the numbers of lines of this form, or None if one is of another."""
        found = grid_of_lines(block, self.between)
        if found is None or self.total is None:
            return found
        totals = found[:, self.total]
        return found if (totals == np.floor(totals)).all() and (np.abs(totals) < _MOST).all() else None


def form_of(line: str, pairs: Sequence[re.Match[str]], named: Callable[[str], str]) -> Form:
    """The form of a line.

    Args:
        line: The line.
        pairs: What was found in it, each with a name, a number, and perhaps a total.
        named: What to call a name.
    """
    kept = [(match.start(1), match.end(1)) for match in pairs]
    spans = {match.span(2): named(match[1]) for match in pairs} | {match.span(3): "" for match in pairs if match[3] is not None}
    taken = [*kept, *spans]
    for match in _DIGITS.finditer(line):  # a time, a date: numbers too, without a name; digits of a name are none
        if all(match.end() <= start or match.start() >= end for start, end in taken):
            spans[match.span()] = ""
    places = sorted(spans)
    columns: dict[str, int] = {}
    for i, place in enumerate(places):
        if spans[place]:
            columns.setdefault(spans[place], i)
    totals = [places.index(match.span(3)) for match in pairs if match[3] is not None and named(match[1]) == "step"]
    cuts = [0, *(edge for place in places for edge in place), len(line)]
    return Form(tuple(line[a:b] for a, b in zip(cuts[::2], cuts[1::2], strict=True)), columns, totals[-1] if totals else None)


def pieces(lines: list[str], form: Form) -> Iterator[list[str] | Array]:
    """The lines in order: those of the form as (n, k) numbers, the others as they are; all as they are where few are alike."""
    for look in (form.at_a_glance, form.closely):
        alike = look(lines)
        bounds = [0, *(np.flatnonzero(np.diff(alike)) + 1).tolist(), len(lines)]
        many = 2 * alike.sum() > _FEW * len(bounds)
        numbers = form.numbers("\n".join(compress(lines, alike)) + "\n") if many else None
        if numbers is not None:
            break
    else:
        yield lines
        return
    for low, high in pairwise(bounds):
        if alike[low]:
            yield numbers[: high - low]
            numbers = numbers[high - low :]
        else:
            yield lines[low:high]
