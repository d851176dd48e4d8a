"""Columns that most rows lack are held by their values alone, and nobody notices."""

import math

import numpy as np
import pytest

from lrkit import Run
from lrkit.columns import Sparse, column_of, dense, gathered, joined
from lrkit.journal import read_journal

ROWS = [{"step": float(i), "loss": i / 2, **({"edge": i / 7} if i % 10 == 3 else {})} for i in range(100)]


def naive(name: str) -> list[float]:
    return [row.get(name, math.nan) for row in ROWS]


def test_gathered_columns_equal_their_naive_twins():
    found = gathered(ROWS, ["loss", "absent"])
    assert list(found) == ["loss", "absent", "step", "edge"]
    assert isinstance(found["edge"], Sparse) and not isinstance(found["loss"], Sparse)
    for name, column in found.items():
        assert np.array_equal(dense(column), naive(name), equal_nan=True)


def test_a_name_that_only_the_middle_has_is_dense_where_it_is_often_there():
    rows = [{"step": i, **({"x": 1.0} if 0 < i < 9 else {})} for i in range(10)]
    assert np.array_equal(dense(gathered(rows)["x"]), [row.get("x", math.nan) for row in rows], equal_nan=True)
    assert not isinstance(gathered(rows)["x"], Sparse)


@pytest.mark.parametrize("cut", [0, 1, 37, 99, 100])
def test_parts_one_below_the_other_are_the_whole(cut):
    parts = [(len(part), gathered(part)) for part in (ROWS[:cut], ROWS[cut:]) if part]
    for name, column in joined(parts, ["step", "loss", "edge"]).items():
        assert np.array_equal(dense(column), naive(name), equal_nan=True)


def test_the_smaller_form_is_chosen():
    at = np.arange(24)
    assert isinstance(column_of(at, at / 1.0, 100), Sparse) and not isinstance(column_of(at, at / 1.0, 96), Sparse)


class TestInARun:
    RUN = Run.from_rows(ROWS)

    def test_it_is_the_run_of_dense_columns(self):
        plain = Run({name: naive(name) for name in ("step", "loss", "edge")})
        assert (plain == self.RUN) is True
        assert list(self.RUN.rows()) == list(plain.rows())
        assert self.RUN.slice(13, 64) == plain.slice(13, 64)
        assert [column.tolist() for column in self.RUN.observed("edge")] == [column.tolist() for column in plain.observed("edge")]
        assert self.RUN.concat(plain.slice(50)) == plain

    def test_its_arrays_cannot_be_written(self):
        with pytest.raises(ValueError, match="read-only"):
            self.RUN["edge"][0] = 1.0

    def test_it_comes_back_from_disk(self, tmp_path):
        self.RUN.save(tmp_path / "run")
        assert Run.load(tmp_path / "run") == self.RUN

    def test_a_million_cells_that_are_not_there_cost_nothing(self):
        rows = [{"step": float(i), f"c{i % 500}": 1.0} for i in range(5_000)]
        run = Run.from_rows(rows)
        assert len(run.columns) == 501
        assert sum(len(c.values) for c in run._columns.values() if isinstance(c, Sparse)) == 5_000

    def test_lines_in_disorder_are_read_alike(self):
        head = '{"lrkit_run": 1, "columns": ["step"], "meta": {}}\n'
        lines = ['{"step": 0, "loss": 1}\n', '{"step": 1, "loss": 2}\n', '{"step": 0, "edge": 0.5}\n']
        columns, _ = read_journal(head + "".join(lines), "test")
        assert dense(columns["edge"]).tolist()[0] == 0.5 and dense(columns["loss"]).tolist() == [1.0, 2.0]
