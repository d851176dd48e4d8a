"""The long form of the parser's proof."""

import random

import pytest

from lrkit.errors import LrkitError
from lrkit.schedules import parse
from lrkit.schedules.text import _WORDS


@pytest.mark.prove
def test_the_parser_survives_mutated_texts():
    """300,000 texts made of its own words and of noise: a schedule that prints back, a template, or its own error."""
    rng = random.Random(0)
    pieces = [*_WORDS, ">", "from", "to", "at", "arrive", "5", "5%", "2ep", "1e3", "0", "-1", "(", ")", "é", "1e400", ".", " "]
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
