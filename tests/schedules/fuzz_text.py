"""Atheris on the parser: ``python fuzz_text.py -atheris_runs=1000000``. Anything but lrkit's own error ends it with a trace."""

import sys

import atheris

with atheris.instrument_imports(include=["lrkit"]):
    from lrkit.errors import LrkitError
    from lrkit.schedules.base import Schedule
    from lrkit.schedules.reader import OPTIONS, WORDS
    from lrkit.schedules.text import parse

# A byte below this stands for a whole word or number, so that the fuzzer gets past the lexer.
PIECES = (
    *WORDS,
    *OPTIONS,
    *[">", "(", ")", "[", "]", ":", "*", "%", "ep", "tok", "samples", ",", "=", "-", "5", "0.1", "1e9", "2", "0"],
)


def one(data: bytes) -> None:
    """A text of pieces and of raw characters: a schedule that prints back, a template, or lrkit's own error."""
    text = "".join(f" {PIECES[byte]} " if byte < len(PIECES) else chr(byte) for byte in data)
    for tried in (text, data.decode("utf-8", "replace")):
        try:
            schedule = parse(tried)
        except LrkitError:
            continue
        assert parse(str(schedule)) == schedule, tried
        if isinstance(schedule, Schedule):
            low, high = schedule.bounds
            assert schedule.base is not None or 0 <= low <= schedule(3) <= high, tried


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
