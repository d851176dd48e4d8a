"""Blocks read as arrays say what their rows say one by one, also where they are damaged."""

import random

import pytest

from logs.samples import SAMPLES, source
from logs.test_fuzz import mutate
from lrkit.errors import LrkitError
from lrkit.logs import delimited, jsonl, own
from lrkit.logs.sniff import runs_in

TABLES = [name for name, (file, _) in SAMPLES.items() if file.endswith((".csv", ".tsv", ".jsonl"))]


def both(monkeypatch, name, data):
    """What is read with arrays, and without."""
    out = []
    for alone in (False, True):
        with monkeypatch.context() as patch:
            if alone:
                patch.setattr(delimited, "grid", lambda *_: None)
                patch.setattr(jsonl, "grid_of_lines", lambda *_: None)
                patch.setattr(own, "grid_of_lines", lambda *_: None)
            try:
                out.append([(run, run.meta) for run in runs_in(source(name, data))])
            except LrkitError as error:
                out.append(str(error))
    return out


@pytest.mark.parametrize("name", TABLES)
def test_damaged_tables_are_read_alike_both_ways(name, monkeypatch):
    rng = random.Random(name)
    for _ in range(60):
        data = mutate(rng, name)
        with_arrays, without = both(monkeypatch, name, data)
        assert with_arrays == without, data


@pytest.mark.parametrize(
    "text",
    ["step,loss\n0,1.0\n1, \n2,0.5\n", "step,loss\n0,1.0\n1,\t\n2,0.5\n", "step\tloss\tlr\n0\t1.0\t1\n1\t \t1\n2\t0.5\t1\n"],
)
def test_a_cell_of_blanks_is_a_gap(text):
    """NumPy reads it as -1."""
    (run,) = runs_in(source("keras", text.encode()))
    assert run.observed("loss")[1].tolist() == [1.0, 0.5]
