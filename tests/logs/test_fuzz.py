"""Whatever is done to the bytes of a log, reading ends soon, in Runs or in a sentence of lrkit's."""

import random
import re
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from logs.samples import MLFLOW, SAMPLES, source
from lrkit import LrkitError, Run
from lrkit.logs.sniff import runs_in
from lrkit.logs.source import Source

NAMES = [*SAMPLES, "mlflow"]
SEEDS = {name: SAMPLES[name][1] if name in SAMPLES else MLFLOW["metrics/train/loss"] for name in NAMES}
SHORT, SHARDS, TOTAL = 120, 42, 1_000_000  # mutations of a format in the tests; shards and all mutations of the long form
NUMBER = re.compile(rb"\d[\d.]*")
WILD = [b"nan", b"inf", b"1e999", b"-1", b"-inf", b"1" * 400, b"9007199254740993", b"0", b"null", b'"x"', b"1_0", b"{}", b"[]"]


def flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 4, 16))):
        data[rng.randrange(len(data))] = rng.randrange(256)


def delete(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 8, 64))]


def duplicate(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 8, 64, 512))]
    at = rng.randrange(len(data))
    data[at:at] = piece * rng.choice((1, 1, 5))


def truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def splice(rng: random.Random, data: bytearray) -> None:
    other = SEEDS[rng.choice(NAMES)]
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def rename(rng: random.Random, data: bytearray) -> None:
    """Swap a number for a wild one."""
    found = list(NUMBER.finditer(data))
    if found:
        place = rng.choice(found)
        data[place.start() : place.end()] = rng.choice(WILD)


CHANGES = (flip, flip, delete, duplicate, truncate, splice, rename, rename, rename)


def mutate(rng: random.Random, name: str) -> bytes:
    data = bytearray(SEEDS[name])
    for _ in range(rng.choice((1, 1, 2, 4))):
        if data:
            rng.choice(CHANGES)(rng, data)
    return bytes(data)


@contextmanager
def at_most(seconds: float):
    """A hang becomes a failure."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attack(name: str, seed: int, cases: int) -> None:
    rng = random.Random(f"{name} {seed}")
    for _ in range(0, cases, 1000):
        with at_most(120):
            for _ in range(min(1000, cases)):
                data = mutate(rng, name)
                try:
                    runs = runs_in(source(name, data))
                except LrkitError as error:
                    assert str(error).startswith("read(") and len(str(error)) < 1500, data
                except TimeoutError:
                    raise
                except Exception as error:
                    raise AssertionError(f"{type(error).__name__}: {error} on {data!r}") from error
                else:
                    assert runs and all(isinstance(run, Run) for run in runs), data


@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes_end_in_runs_or_a_sentence(name):
    attack(name, 0, SHORT)


HOSTILE = {
    "a wide header over short rows": b",".join(b"c%d" % i for i in range(8000)) + b",loss\n" + b"1,2\n" * 8000,
    "a name of its own in each row": b"".join(b'{"step": %d, "loss": 1, "k%d": 1}\n' % (i, i) for i in range(20_000)),
    "from lrkit": b'{"lrkit_run": 1, "meta": {}}\n' + b"".join(b'{"step": %d, "k%d": 1}\n' % (i, i) for i in range(9_999)),
    "open brackets": b"[" * 500_000,
    "nested objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "words without end": b"loss " * 100_000,
    "blanks without end": b"loss" + b" " * 500_000,
    "steps that go back and forth": b"step,loss\n" + b"1,1\n0,1\n" * 20_000,
    "records of no length": b"brain.Event:" + b"\1\0\0\0\0\0\0\0" * 50_000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_made_to_take_long_does_not(what):
    """Each would take minutes, or all memory, if anything went with the square of its size."""
    with at_most(30), pytest.raises(LrkitError):
        runs_in(Source.of(Path("log"), HOSTILE[what]))


def test_a_number_where_the_first_row_of_a_run_should_stand_is_refused():
    """Found by the million."""
    with pytest.raises(LrkitError, match="is not a line of one lrkit run"):
        runs_in(Source.of(Path("run.jsonl"), b'{"lrkit_run": 1, "meta": {}}\n95\n{"step": 1, "loss": 2}\n'))


@pytest.mark.prove
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_million_damaged_logs_end_in_runs_or_a_sentence(shard):
    """Shard by shard: two of them attack one format, so that two workers share the million."""
    attack(NAMES[shard % len(NAMES)], 1 + shard, -(-TOTAL // SHARDS))
