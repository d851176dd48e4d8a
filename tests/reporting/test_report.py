"""A report is one file that needs nothing else, shows every kind of value, and never destroys another file."""

import re

import numpy as np
import pytest

from lrkit import Run, diagnose, parse, report
from lrkit.errors import FileError, InputError
from lrkit.finder.suggestion import Fit, Suggestion, Trial
from lrkit.reporting.html import write_whole
from lrkit.reporting.terminal import draw

T = np.arange(100)
RUN = Run({"step": T, "loss": 0.1 + 2 * np.exp(-T / 20), "lr": np.full(100, 0.1)}, {"label": "<b>first</b>"})
SLOW = Run({"step": T, "loss": 2 - 0.01 * T, "lr": np.full(100, 1e-5)})
FOUND = Suggestion(
    0.01, 10.0, 0.005, 0.02, "ok", 0.9, 400, 3.0, 0.02, 0.08,
    (Trial(0.003, 10, 1.0), Trial(0.01, 10, 0.5), Trial(0.03, 10, float("nan"))), Fit(10, (0.003, 0.03), (1.0, 2.0)), 2.0,
    {"schedule": "cosine 400", "horizon": 400},
)  # fmt: skip


def test_shows_every_kind_in_one_file_without_a_network(tmp_path):
    items = {
        "rate": FOUND,
        "shape": parse("warmup 5 > cosine 95"),
        "all": [RUN, SLOW],
        "run": RUN,
        "ill": diagnose(SLOW),
    }
    page = report(items, tmp_path / "new" / "report.html", title="a <title>", table=[["a", "b"], ["1", "<2>"]]).read_text()
    assert page.count("<svg") == 5 and page.count("<section") == 5
    assert "rate 0.01" in page and "warmup 5 &gt; cosine 95" in page and "healthy" in page and "too low" in page
    assert "a &lt;title&gt;" in page and "&lt;2&gt;" in page and "<b>first</b>" not in page
    outside = [link for link in re.findall(r'(?:src|href)="([^"]+)"', page) if not link.startswith("#")]
    assert not outside and "@import" not in page and "<script" not in page
    assert "prefers-color-scheme:dark" in page and "viewport" in page


@pytest.mark.parametrize("subject", [RUN, FOUND, parse("cosine 10"), diagnose(SLOW), [RUN]])
def test_takes_each_alone(subject, tmp_path):
    assert "<svg" in report(subject, tmp_path / "report.html").read_text()


def test_a_run_without_any_finite_loss_or_rate_can_be_shown(tmp_path):
    assert "diverged" in report(Run({"loss": [float("nan")] * 50}), tmp_path / "report.html").read_text()


def test_an_older_report_is_replaced_and_another_file_is_not(tmp_path):
    report(RUN, tmp_path / "report.html", title="old")
    assert "old" not in report(RUN, tmp_path / "report.html", title="new").read_text()
    (tmp_path / "thesis.html").write_text("years of work")
    with pytest.raises(FileError, match="there is another file, which is no report of lrkit's"):
        report(RUN, tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "years of work"
    with pytest.raises(FileError, match=r"this is a folder. Name a file in it"):
        report(RUN, tmp_path)


def test_nothing_half_written_is_left_where_writing_fails(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        write_whole(tmp_path / "file" / "report.html", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("subject", [{}, 5, [], {"a": 5}, {"a": [5]}])
def test_what_cannot_be_shown_is_refused(subject, tmp_path):
    with pytest.raises(InputError, match="report"):
        report(subject, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


class TestTerminal:
    def test_a_curve_has_its_numbers_at_its_corners(self):
        lines = draw(list(range(101)), [t * t for t in range(101)], width=20, height=5).splitlines()
        assert lines[0].startswith("1e+04 │") and lines[4].startswith("    0 │") and lines[-1].split() == ["0", "100"]
        assert len({len(line) for line in lines[:5]}) == 1

    def test_marks_stand_below_their_steps(self):
        assert draw([0, 1, 2], [0, 1, 0], width=11, height=2, mark=[1]).splitlines()[3].index("▲") == 3 + 5

    @pytest.mark.parametrize(("x", "y"), [([], []), ([0.0], [float("nan")])])
    def test_nothing_to_draw_is_said(self, x, y):
        assert "no finite value" in draw(x, y)

    def test_one_point_and_a_flat_line_are_drawn(self):
        assert draw([3], [1.0], width=4, height=2) and draw([0, 1], [1.0, 1.0], width=4, height=2)
