"""The verbs that need no torch: schedule, doctor, report. One sentence for bad input, exit code 2, nothing written over."""

import subprocess
import sys

import numpy as np
import pytest

from lrkit import Run


def lrkit(*arguments: str, cwd=None) -> subprocess.CompletedProcess[str]:
    """The command line as a person runs it."""
    command = [sys.executable, "-W", "error", "-m", "lrkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One sentence on stderr, exit code 2, no traceback."""
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr + result.stdout
    assert all(word in result.stderr for word in words), result.stderr
    assert len(result.stderr) < 700


def healthy(tmp_path) -> Run:
    t = np.arange(100)
    run = Run({"step": t, "loss": 0.1 + 2 * np.exp(-t / 20), "lr": np.full(100, 0.1)})
    run.save(tmp_path / "good")
    return run


class TestSchedule:
    def test_is_drawn_with_its_stages(self):
        result = lrkit("schedule", "warmup 5% > cosine to 0.1", "--total", "2000")
        assert result.returncode == 0 and result.stderr == ""
        assert "over 2000 updates: warmup 100 > cosine 1900 to 0.1" in result.stdout
        assert "└───" in result.stdout and "0.01 → 1   warmup 100" in result.stdout

    def test_without_a_total_an_example_is_drawn_and_called_one(self):
        assert "over 1000 updates (an example: say --total)" in lrkit("schedule", "warmup 5% > cosine").stdout

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["cosine 0"], ["a duration must be at least 1 step"]),
            (["cosin 10"], ["did you mean 'cosine'"]),
            ([""], ["got nothing"]),
            (["warmup 2ep > cosine"], ["Pass steps_per_epoch"]),
            (["warmup 5% > cosine", "--total", "0"], ["total must be a whole number of updates"]),
            (["cosine 10", "--out", "x"], ["--out goes with --export"]),
            (["base 0.1 (cosine 10)", "--lr", "0.1"], ["its values are absolute already"]),
            (["cosine 1e12", "--export", "csv"], ["rows are more than"]),
            (["warmup 1e6tok > cosine"], ["Pass tokens_per_step"]),
        ],
    )
    def test_bad_text_is_refused(self, arguments, words):
        refused(lrkit("schedule", *arguments), *words)

    def test_mistakes_are_named_under_the_curve(self):
        found = lrkit("schedule", "linear 500 from 0 to 1 > cosine 9500").stdout
        assert "! step 0: update 0 has rate 0" in found and "[zero_first_update]" in found
        assert "!" not in lrkit("schedule", "warmup 500 > cosine 9500").stdout

    def test_another_schedule_is_laid_beside_it(self):
        found = lrkit("schedule", "warmup 10 > cosine 990", "--diff", "warmup 10 > linear 990").stdout
        assert "they part at step 11" in found and "mean square" in found

    def test_rates_and_single_steps_are_shown(self):
        found = lrkit("schedule", "warmup 500 > cosine 9500", "--lr", "3e-4", "--at", "9000", "--at", "100").stdout
        assert "3e-07" not in found and "at step    9000    8.12" in found and "at step     100    6.06e-05" in found

    def test_every_unit_is_told_by_an_option(self):
        arguments = ["--steps-per-epoch", "4", "--tokens-per-step", "10", "--samples-per-step", "2", "--total", "10ep"]
        found = lrkit("schedule", "warmup 50tok > hold 10samples > cosine", *arguments).stdout
        assert "over 40 updates: warmup 5 > hold 5 > cosine 30" in found

    @pytest.mark.parametrize("form", ["torch", "json", "csv", "code"])
    def test_every_export_gives_the_schedule_back(self, form, tmp_path):
        import csv
        import io

        import lrkit as package

        text = "warmup 3 > cosine 5 to 0.1"
        schedule = package.parse(text)
        done = lrkit("schedule", text, "--export", form, "--out", str(tmp_path / "out"))
        assert done.returncode == 0 and "wrote" in done.stdout
        written = (tmp_path / "out").read_text()
        assert written == lrkit("schedule", text, "--export", form).stdout
        refused(lrkit("schedule", text, "--export", form, "--out", str(tmp_path / "out")), "cannot be written")
        if form == "json":
            assert package.from_json(written) == schedule
        elif form == "csv":
            assert [float(row["factor"]) for row in csv.DictReader(io.StringIO(written))] == [schedule(t) for t in range(8)]
        else:
            assert f"lrkit.parse({text!r})" in written and ("LambdaLR" in written) == (form == "torch")


class TestDoctor:
    def test_healthy_is_exit_code_0(self, tmp_path):
        healthy(tmp_path)
        result = lrkit("doctor", str(tmp_path / "good"))
        assert result.returncode == 0 and "healthy" in result.stdout

    def test_a_finding_is_exit_code_1(self, tmp_path):
        (tmp_path / "slow.csv").write_text("step,loss,lr\n" + "".join(f"{t},{2.3 - 0.004 * t},1e-5\n" for t in range(200)))
        healthy(tmp_path)
        result = lrkit("doctor", str(tmp_path / "good"), str(tmp_path / "slow.csv"))
        assert result.returncode == 1
        assert "too low" in result.stdout and "change the rate from 1e-05 to" in result.stdout

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("nothing.csv", None, ["cannot be read: No such file"]),
            ("log.csv", "step,accuracy\n0,1\n", ["no loss column; it has step, accuracy", "Rename"]),
            ("log.csv", "", ["the file is empty"]),
            ("log.txt", "hello\nworld\n", ["no reader knows this file"]),
        ],
    )
    def test_what_is_no_log_is_refused(self, tmp_path, name, content, words):
        if content is not None:
            (tmp_path / name).write_text(content)
        refused(lrkit("doctor", str(tmp_path / name)), *words)


class TestReport:
    def test_lies_beside_the_run(self, tmp_path):
        healthy(tmp_path)
        assert lrkit("report", str(tmp_path / "good")).returncode == 0
        assert "<svg" in (tmp_path / "good" / "report.html").read_text()

    def test_does_not_overwrite_the_run_itself(self, tmp_path):
        run = healthy(tmp_path)
        refused(
            lrkit("report", str(tmp_path / "good"), "--out", str(tmp_path / "good" / "run.jsonl")),
            "Choose another name",
        )
        assert Run.load(tmp_path / "good") == run


def test_help_lists_every_verb():
    text = lrkit("--help").stdout
    assert all(verb in text for verb in ("demo", "find", "train", "doctor", "schedule", "report"))


@pytest.mark.parametrize("arguments", [["nonsense"], ["doctor"], ["schedule", "cosine 10", "--total", "x"]])
def test_a_wrong_call_is_exit_code_2(arguments):
    result = lrkit(*arguments)
    assert result.returncode == 2 and "Traceback" not in result.stderr


class TestHardCases:
    @pytest.mark.parametrize("line", ["[" * 100_000, '{"loss": ' + "1" * 400 + "}", '{"loss": 1e308}\n' * 50])
    def test_hostile_lines(self, tmp_path, line):
        (tmp_path / "log.jsonl").write_text('{"step": 0, "loss": 1.0}\n' + line + "\n")
        for verb in ("doctor", "report"):
            result = lrkit(verb, str(tmp_path / "log.jsonl"))
            assert result.returncode in (0, 2) and "Traceback" not in result.stderr and "bug in lrkit" not in result.stderr, (
                result
            )

    def test_names_that_no_system_takes(self):
        refused(lrkit("doctor", "x" * 300), "cannot be read")
        refused(lrkit("report", "x" * 300), "cannot be read")

    def test_two_logs_in_one_folder_have_two_reports(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / f"{name}.csv").write_text("step,loss\n" + "".join(f"{t},{2 - t / 100}\n" for t in range(50)))
            assert lrkit("report", str(tmp_path / f"{name}.csv")).returncode == 0
        assert {p.name for p in tmp_path.glob("*.html")} == {"a.report.html", "b.report.html"}

    def test_a_length_that_no_run_has(self):
        refused(lrkit("schedule", "warmup 5% > cosine", "--total", "1" + "0" * 400), "must be a whole number of updates")

    def test_epochs_need_no_total_where_they_are_all(self):
        assert (
            "over 20 updates: warmup 8 > cosine 12"
            in lrkit("schedule", "warmup 2ep > cosine 3ep", "--steps-per-epoch", "4").stdout
        )

    def test_a_terminal_without_braille_shows_question_marks(self):
        command = [sys.executable, "-m", "lrkit", "schedule", "cosine 10"]
        result = subprocess.run(command, capture_output=True, text=True, env={"PYTHONIOENCODING": "ascii"}, timeout=60)
        assert result.returncode == 0 and "?" in result.stdout
