"""`lrkit doctor`: exit codes, JSON, the page, globs and folders, and a broken file among good ones."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import lrkit.cli.cases as cases
from lrkit import Run
from lrkit.cli import app, screen
from reporting.stubs import HIGH, MAYBE, TWO, UNCLEAR, WELL

T = np.arange(200)
GOOD = Run({"step": T, "loss": 0.1 + 2 * np.exp(-T / 40), "lr": np.full(200, 0.1)})
LOST = Run({"step": T, "loss": np.where(T < 100, 2.0, np.nan), "lr": np.full(200, 10.0)})


def doctor(*arguments):
    """In this process: what is printed, what is complained, the exit code."""
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Two runs, and a file that is none; in a folder to stand in, before a terminal 80 wide."""
    monkeypatch.setattr(screen.console, "width", 80)
    monkeypatch.chdir(tmp_path)
    GOOD.save(tmp_path / "runs" / "good")
    LOST.save(tmp_path / "runs" / "lost")
    (tmp_path / "broken.csv").write_text("step,accuracy\n0,1\n")
    return tmp_path


class TestExitCode:
    def test_healthy_is_0(self, logs):
        assert doctor(logs / "runs" / "good").exit_code == 0

    def test_diverged_is_1(self, logs):
        assert doctor(logs / "runs" / "lost").exit_code == 1

    @pytest.mark.parametrize(("said", "code"), [(WELL, 0), (UNCLEAR, 0), (MAYBE, 0), (HIGH, 1), (TWO, 1)])
    def test_a_finding_counts_where_it_is_at_least_likely(self, logs, monkeypatch, said, code):
        monkeypatch.setattr(cases, "diagnose", lambda run: said)
        assert doctor(logs / "runs" / "good").exit_code == code

    def test_a_file_that_cannot_be_used_is_2_also_beside_a_finding(self, logs):
        found = doctor(logs / "broken.csv", logs / "runs" / "lost")
        assert found.exit_code == 2 and "diverged" in found.stdout
        assert found.stderr.startswith("lrkit doctor: ") and found.stderr.count("\n") == 1
        assert "no loss column" in found.stderr and "Traceback" not in found.output

    def test_a_run_that_cannot_be_diagnosed_is_named(self, logs):
        Run({"loss": [1.0, 2.0]}, {"kind": "range_test"}).save(logs / "ramp")
        found = doctor(logs / "ramp", logs / "runs" / "good")
        assert found.exit_code == 2 and "range test" in found.stderr and "ramp" in found.stderr and "rate ok" in found.stdout


class TestPaths:
    def test_a_folder_stands_for_the_runs_in_it(self, logs):
        found = json.loads(doctor(logs / "runs", "--json").stdout)
        assert [one["rate"] for one in found] == ["ok", "diverged"]
        assert [one["source"].split("/")[-1] for one in found] == ["good", "lost"]

    @pytest.mark.parametrize("pattern", ["runs/*", "runs/**", "**/run.jsonl", "runs/[gl]*"])
    def test_a_quoted_glob_is_expanded_each_run_once(self, logs, pattern):
        assert len(json.loads(doctor(logs / pattern, "--json").stdout)) == 2

    def test_a_glob_without_a_match_is_refused_and_the_rest_is_read(self, logs):
        found = doctor(logs / "*.log", logs / "runs" / "good")
        assert found.exit_code == 2 and "no file matches" in found.stderr and "rate ok" in found.stdout

    def test_an_empty_path_does_not_stand_for_this_folder(self, logs):
        found = doctor("")
        assert found.exit_code == 2 and found.stderr == "lrkit doctor: a path is empty. Is a variable of the shell not set?\n"

    def test_a_file_whose_name_looks_like_a_glob_is_itself(self, logs):
        (logs / "a[1].csv").write_text("step,loss\n" + "".join(f"{t},{2 * 0.98**t}\n" for t in range(200)))
        assert len(json.loads(doctor(logs / "a[1].csv", "--json").stdout)) == 1

    def test_a_broken_file_in_a_folder_is_named_and_the_others_are_read(self, logs):
        (logs / "runs" / "empty").mkdir()
        (logs / "runs" / "empty" / "run.jsonl").write_text("")
        found = doctor(logs / "runs", "--json")
        assert len(json.loads(found.stdout)) == 2
        assert found.exit_code == 2 and "the file is empty" in found.stderr and found.stderr.count("\n") == 1

    def test_a_folder_of_logs_of_any_name_is_read(self, logs):
        (logs / "sweep").mkdir()
        for rate in ("0.1", "0.2"):
            (logs / "sweep" / f"{rate}.csv").write_text("step,loss\n" + "".join(f"{t},{2 * 0.98**t}\n" for t in range(200)))
        (logs / "sweep" / "config.json").write_text('{"depth": 3}')
        found = doctor(logs / "sweep", "--json")
        assert [one["source"][-7:] for one in json.loads(found.stdout)] == ["0.1.csv", "0.2.csv"]
        assert found.exit_code < 2 and found.stderr == ""

    @pytest.mark.parametrize("pair", ["x", "=x", "loss=", "loss"])
    def test_a_column_is_ours_and_theirs(self, logs, pair):
        found = doctor(logs / "runs", "--column", pair)
        assert found.exit_code == 2
        assert found.stderr == f"lrkit doctor: --column wants ours=theirs, got {pair!r}. E.g. --column loss=train/ce.\n"

    def test_the_columns_reach_the_reader(self, logs, monkeypatch):
        asked = {}
        monkeypatch.setattr(cases, "runs_in", lambda source, columns: asked.update(columns) or [GOOD])
        assert doctor(logs / "broken.csv", "--column", "loss=train/ce", "--column", "lr=a=b").exit_code == 0
        assert asked == {"loss": "train/ce", "lr": "a=b"}
        assert "twice" in doctor("x", "--column", "loss=a", "--column", "loss=b").stderr


class TestJson:
    def test_it_is_strict_and_alone_on_stdout(self, logs):
        def refuse(name):
            raise AssertionError(f"{name} is not JSON")

        found = doctor(logs / "runs" / "lost", logs / "broken.csv", "--json", "--html", logs / "page.html")
        (one,) = json.loads(found.stdout, parse_constant=refuse)
        assert set(one) >= {"source", "run", "rate", "probabilities", "advised_lr", "healthy", "findings", "missing"}
        assert one["source"] == str(logs / "runs" / "lost") and one["findings"][0]["code"] == "diverged"
        assert found.exit_code == 2 and (logs / "page.html").exists()

    def test_nothing_usable_is_an_empty_array(self, logs):
        assert json.loads(doctor(logs / "broken.csv", "--json").stdout) == []


class TestScreen:
    @pytest.mark.parametrize("width", [40, 80, 120])
    @pytest.mark.parametrize("number", [1, 3, 9])
    def test_no_line_is_longer_than_the_width(self, logs, monkeypatch, width, number):
        said = iter([HIGH, TWO, WELL] * 3)
        monkeypatch.setattr(cases, "diagnose", lambda run: next(said))
        for i in range(number):
            GOOD.save(logs / "many" / f"a rather long name of a run {i}")
        monkeypatch.setattr(screen.console, "width", width)
        found = doctor("many")
        assert max(map(len, found.stdout.splitlines())) <= width

    def test_many_runs_are_a_table_with_the_gravest_in_full(self, logs, monkeypatch):
        said = iter([WELL, HIGH, MAYBE, TWO, WELL, WELL, WELL, WELL])
        monkeypatch.setattr(cases, "diagnose", lambda run: next(said))
        for i in range(8):
            GOOD.save(logs / "many" / f"run-{i}")
        found = doctor("many").stdout
        assert found.splitlines()[0].split()[:3] == ["run", "loss", "rate"]
        assert "3 of 8 runs in full; --all shows all." in found
        assert found.index("many/run-3   ") < found.index("many/run-1   ") < found.index("many/run-2   ")
        assert "many/run-0   " not in found

    def test_all_shows_every_one(self, logs):
        for i in range(8):
            GOOD.save(logs / "many" / f"run-{i}")
        found = doctor("many", "--all").stdout
        assert all(f"many/run-{i}   " in found for i in range(8)) and "in full" not in found

    def test_many_healthy_runs_are_a_table_alone(self, logs):
        for i in range(8):
            GOOD.save(logs / "many" / f"run-{i}")
        found = doctor(logs / "many")
        assert len(found.stdout.strip().splitlines()) == 11 and found.exit_code == 0

    def test_piped_it_has_no_colour_and_no_traceback(self, logs):
        command = [sys.executable, "-W", "error", "-m", "lrkit", "doctor", str(logs / "runs"), str(logs / "broken.csv")]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert found.returncode == 2 and "\x1b" not in found.stdout + found.stderr and "Traceback" not in found.stderr
        assert max(map(len, found.stdout.splitlines())) <= 80

    @pytest.mark.parametrize(("asked", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_colour_can_be_refused(self, logs, asked, coloured):
        command = [sys.executable, "-m", "lrkit", "doctor", str(logs / "runs")]
        world = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"FORCE_COLOR": "1", "TERM": "xterm"}
        found = subprocess.run(command, capture_output=True, text=True, timeout=120, env=world | asked)
        assert bool(re.search(r"\x1b\[[0-9;]*3[1-7]m", found.stdout)) == coloured

    def test_it_works_where_torch_cannot_be_imported(self, logs):
        code = (
            "import sys\n"
            "class Wall:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError('no torch here', name='torch')\n"
            "sys.meta_path.insert(0, Wall())\n"
            f"sys.argv = ['lrkit', 'doctor', {str(logs / 'runs')!r}, '--html', {str(logs / 'page.html')!r}]\n"
            "from lrkit.cli import main; main()\n"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert found.returncode == 1 and "diverged" in found.stdout, found.stderr
        assert (logs / "page.html").exists()


class TestPage:
    def test_a_section_a_run_in_one_file_that_needs_no_other(self, logs):
        found = doctor(logs / "runs", "--html", logs / "new" / "page.html")
        page = (logs / "new" / "page.html").read_text()
        assert found.exit_code == 1 and page.count("<section") == 2 and "lrkit doctor: 2 runs" in page
        outside = [link for link in re.findall(r'(?:src|href)="([^"]+)"', page) if not link.startswith("#")]
        assert not outside and "@import" not in page and "<script" not in page

    def test_two_runs_of_one_name_have_a_section_each(self, logs, monkeypatch):
        monkeypatch.setattr(cases, "runs_in", lambda source, columns: [GOOD, GOOD])
        doctor(logs / "broken.csv", "--html", logs / "page.html")
        assert (logs / "page.html").read_text().count("<section") == 2

    def test_another_file_is_not_written_over_and_nothing_is_read(self, logs):
        (logs / "thesis.html").write_text("years of work")
        found = doctor(logs / "runs", "--html", logs / "thesis.html")
        assert found.exit_code == 2 and "Choose another name" in found.stderr and found.stdout == ""
        assert (logs / "thesis.html").read_text() == "years of work"

    def test_an_older_page_is_replaced(self, logs):
        for _ in range(2):
            assert doctor(logs / "runs" / "good", "--html", logs / "page.html").exit_code == 0
