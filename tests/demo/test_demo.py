"""The demo keeps its promise: a good rate, three diagnoses that are right, a report and its pictures, twice the same."""

from pathlib import Path

import numpy as np
import pytest

from lrkit import Run
from lrkit.demo.program import accuracy, run_demo
from lrkit.errors import FileError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    lines, shares = [], []
    return (
        run_demo(folder, seed=0, echo=lines.append, tell=lambda what, share: shares.append(share)),
        folder,
        lines,
        shares,
    )


def test_finds_trains_and_diagnoses(made):
    demo, _, lines, shares = made
    assert demo.suggestion.status in ("ok", "edge") and demo.suggestion.cost <= 1.05
    assert [d.rate for d in demo.diagnoses.values()] == ["ok", "too high", "too low"]
    found, high, low = (accuracy(d.run) for d in demo.diagnoses.values())
    assert found > 0.97 and found > low and found > high
    assert len(lines) == 16 and lines[0].startswith("found rate") and shares == sorted(shares) and shares[-1] == 1.0


def test_writes_a_report_and_pictures_and_the_runs(made):
    demo, folder, *_ = made
    page = demo.report.read_text()
    assert page.count("<svg") == 9 and f"rate {demo.suggestion.lr:.3g}" in page
    assert {p.stem for p in folder.glob("*.png")} == {"overview", "finder", "schedule", "runs", *demo.diagnoses}
    for label, diagnosis in demo.diagnoses.items():
        assert Run.load(folder / label)["loss"].tolist() == pytest.approx(diagnosis.run["loss"].tolist(), nan_ok=True)


def test_is_the_same_a_second_time_and_replaces_only_its_own(made):
    demo, folder, *_ = made
    (folder / "notes.txt").write_text("mine")
    again = run_demo(folder, seed=0)
    assert again.suggestion.lr == demo.suggestion.lr
    for label, first in demo.diagnoses.items():
        second = again.diagnoses[label]
        assert first.run.columns == second.run.columns and str(first) == str(second)
        assert all(np.array_equal(first.run[name], second.run[name], equal_nan=True) for name in first.run)
    assert (folder / "notes.txt").read_text() == "mine"


def test_does_not_begin_where_its_report_could_not_be_written(tmp_path: Path):
    (tmp_path / "report.html").write_text("another file")
    with pytest.raises(FileError, match="no report of lrkit's"):
        run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_does_not_replace_runs_or_pictures_that_are_not_an_older_demos(tmp_path: Path):
    Run({"loss": [1.0]}).save(tmp_path / "found")
    with pytest.raises(FileError, match="is no older demo's"):
        run_demo(tmp_path)
    assert len(Run.load(tmp_path / "found")) == 1


def test_a_place_that_is_no_folder_is_refused_at_once(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match="cannot be written"):
        run_demo(tmp_path / "file")
