"""The long forms of the parser's proof: a fuzzer that looks at coverage, and texts mutated blindly."""

import contextlib
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lrkit.errors import LrkitError
from lrkit.schedules import parse
from lrkit.schedules.lexer import Tokens
from lrkit.schedules.reader import OPTIONS, WORDS


@pytest.mark.prove
def test_a_million_fuzzed_texts_meet_nothing_but_lrkits_own_error(tmp_path):
    """Atheris leads its inputs into every branch; an error of another kind, or a text that does not print back, ends it."""
    pytest.importorskip("atheris")
    command = [sys.executable, str(Path(__file__).with_name("fuzz_text.py")), str(tmp_path)]
    flags = ["-atheris_runs=1000000", "-max_len=120", "-seed=1", "-timeout=20", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 1000000" in done.stderr


@pytest.mark.prove
def test_the_parser_survives_mutated_texts():
    """300,000 texts made of its own words and of noise: a schedule that prints back, a template, or its own error."""
    rng = random.Random(0)
    pieces = [
        *WORDS, *OPTIONS, ">", "*", "5", "5%", "2ep", "1e9tok", "1e3", "0", "-1", "(", ")", "[:5]", "[2:", "]", "0:0.1", "10:1",
        "(cosine 5)", "(2)", "(linear 10)", "(k=2)", "é", "1e400", ".", " ",
    ]  # fmt: skip
    read = 0
    for _ in range(300_000):
        text = " ".join(rng.choice(pieces) for _ in range(rng.randint(1, 12)))
        if rng.random() < 0.3:
            i = rng.randrange(len(text))
            text = text[:i] + chr(rng.randrange(32, 0x3000)) + text[i + 1 :]
        try:
            schedule = parse(text)
        except LrkitError:
            continue
        read += 1
        assert parse(str(schedule)) == schedule
    assert read > 1000


def steps_taken(text: str, monkeypatch) -> int:
    """How often the parser looks at a token of a text: its work, whatever the machine."""
    looks = 0
    peek = Tokens.peek

    def counting(self, *args, **kwargs):
        nonlocal looks
        looks += 1
        return peek(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Tokens, "peek", counting)
        with contextlib.suppress(LrkitError):
            parse(text)
    return looks


@pytest.mark.parametrize(
    "piece", ["warmup 5 > cosine 5 > ", "(cosine 5) * ", "repeat 2 (hold 5) > ", "points 0:1 " + "1:1 " * 9, "(", "cosin "]
)
def test_reading_takes_time_in_proportion_to_the_text(piece, monkeypatch):
    once, twice = (steps_taken(piece * n + "cosine 5", monkeypatch) for n in (2000, 4000))
    assert twice <= 2.1 * once + 50


def test_nested_brackets_are_no_way_to_exhaust_it():
    for text in ("(" * 100_000, "repeat 2 (" * 39 + "hold 1" + ")" * 39, "repeat 2 (hold 1 > " * 39 + "hold 1" + ")" * 39):
        try:
            parse(text)
        except LrkitError as error:
            assert "deep" in str(error) or "large" in str(error) or "at least 1" in str(error)
