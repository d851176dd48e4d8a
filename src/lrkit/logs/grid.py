"""Blocks of text that are nothing but numbers between delimiters → arrays, without a Python object a number.

What is irregular (a gap, a word, a quote) is not its business: the answer is then None, and the caller goes row by row.
"""

import json
import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from lrkit.logs.table import Array

_FIELD = re.compile(r'("([^"\\]{1,100})"\s?:\s?)(-?[0-9][0-9.eE+-]*|-?Infinity|NaN|"nan")')
_MARKS = "".join(map(chr, (*range(1, 9), *range(14, 32))))  # what no text holds: one for each place between two numbers
_POWER = _MARKS[0]
_BLANKS = (b" ", b"\t", b"\v", b"\f", b"\r")
_BLANK = re.compile(rb"(?:^|,)\s+(?:,|$)")  # a field of blanks, which NumPy reads as -1
GAP = -9e307  # stands for an empty cell: no log holds it, and it is short to read
_BLOCK = 1 << 20  # characters: what is objects, or text twice, at the same time


def blocks(text: str) -> Iterator[str]:
    """The text in pieces of whole lines, each with its line end."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _BLOCK)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def grid(text: str, delimiters: str) -> Array | None:
    """A block of lines as (n, k) numbers, or None if any line is no row of k numbers.

    Args:
        text: Whole lines.
        delimiters: The k − 1 characters between the numbers of a row, in order.
    """
    pattern = np.frombuffer((delimiters + "\n").encode(), dtype=np.uint8)
    try:
        raw = text.encode("ascii") + (b"" if text.endswith("\n") else b"\n")
    except UnicodeEncodeError:
        return None
    marks = np.zeros(256, bool)
    marks[pattern] = True
    data = np.frombuffer(raw, dtype=np.uint8)
    found = data[marks[data]]
    width = len(pattern)
    if len(found) % width or not (found.reshape(-1, width) == pattern).all():
        return None
    flat = raw[:-1].translate(bytes.maketrans(pattern.tobytes(), b"," * width))
    if any(blank in flat for blank in _BLANKS) and _BLANK.search(flat):
        return None
    try:
        with warnings.catch_warnings():  # NumPy before 2.3 warns where it now raises
            warnings.simplefilter("error")
            numbers = np.fromstring(flat, dtype=np.float64, sep=",")
    except (ValueError, DeprecationWarning):
        return None
    return numbers.reshape(-1, width) if len(numbers) == len(found) else None


def filled(block: str, delimiter: str) -> str:
    """A block of lines with `GAP` in its empty cells."""
    gap, twice = repr(GAP), delimiter * 2
    for _ in range(2):  # of three delimiters in a row the first pass takes the first two
        block = block.replace(twice, f"{delimiter}{gap}{delimiter}")
    lines = block.replace(f"{delimiter}\n", f"{delimiter}{gap}\n").replace(f"\n{delimiter}", f"\n{gap}{delimiter}")
    return gap + lines if lines.startswith(delimiter) else lines


def separators(line: str) -> tuple[list[str], list[str]] | None:
    """The names of a line that is a flat JSON object of numbers, and the text before, between and after its numbers.

    Examples:
        >>> separators('{"step": 1, "loss": 2.5}')
        (['step', 'loss'], ['{"step": ', ', "loss": ', '}'])
    """
    parts = _FIELD.split(line.strip())
    names, between = parts[2::4], [f"{before}{key}" for before, key in zip(parts[0::4], parts[1::4], strict=False)]
    whole = [*between, parts[-1]]
    try:
        known = json.loads(line)
    except (ValueError, RecursionError):
        return None
    regular = all(text.lstrip("{, ").startswith('"') for text in between) and parts[-1].strip() == "}"
    return (
        (names, whole) if isinstance(known, dict) and list(known) == names and regular and 0 < len(names) <= len(_MARKS) else None
    )


def grid_of_lines(block: str, between: Sequence[str]) -> Array | None:
    """A block of lines as (n, k) numbers, or None if any line differs from the others in more than its numbers.

    Args:
        block: Whole lines, each with its line end.
        between: The text before, between and after the numbers of each line (`separators`).
    """
    marks = dict(zip(dict.fromkeys(between[1:-1]), _MARKS[1:], strict=False))
    if "" in marks or not marks.keys() >= set(between[1:-1]) or any(mark in block for mark in (_POWER, *marks.values())):
        return None
    block = f"\n{block}".replace(f"{between[-1]}\n", "\n").replace(f"\n{between[0]}", "\n").removeprefix("\n")
    block = block.replace("e-", _POWER) if "-" in marks else block  # the minus of a date is not that of 1e-3
    for text in sorted(marks, key=len, reverse=True):  # a short one may lie within a longer one
        block = block.replace(text, marks[text])
    block = block.replace(_POWER, "e-") if "-" in marks else block
    block = block.replace('"nan"', "nan") if '"' in block else block
    return grid(block, "".join(marks[text] for text in between[1:-1]))
