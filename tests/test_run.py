"""A Run keeps what it was given, on disk too, and survives a torn last line."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrkit import Run
from lrkit.errors import FileError, InputError
from lrkit.run import FILE_NAME, Writer

VALUES = st.floats(allow_nan=True, allow_infinity=True)
COLUMNS = st.integers(1, 8).flatmap(
    lambda n: st.dictionaries(
        st.sampled_from(["loss", "lr", "val_loss", "lr/head"]), st.lists(VALUES, min_size=n, max_size=n), min_size=1
    )
)


def small() -> Run:
    return Run({"step": [0, 1, 2, 5], "loss": [2.0, 1.5, math.nan, 1.0], "lr": [0.1] * 4}, {"optimizer": "SGD"})


class TestColumns:
    def test_are_arrays_that_cannot_be_changed(self):
        run = small()
        with pytest.raises(ValueError, match="read-only"):
            run["loss"][0] = 1.0

    def test_do_not_alias_what_was_passed(self):
        losses = np.array([1.0, 2.0])
        run = Run({"loss": losses})
        losses[0] = 9.0
        assert run["loss"][0] == 1.0

    def test_step_is_counted_from_zero_where_it_is_missing(self):
        assert Run({"loss": [3.0, 2.0]}).step.tolist() == [0, 1]

    def test_an_unknown_one_is_refused_with_the_known_ones(self):
        with pytest.raises(KeyError, match="it has step, loss, lr"):
            small()["accuracy"]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"loss": [1.0], "lr": [0.1, 0.2]}, "Run: all columns must have the same length"),
            ({"loss": ["a"]}, "Run: column 'loss' must hold real numbers"),
            ({"loss": [[1.0]]}, "Run: column 'loss' must have one dimension"),
            ({"step": [1, 0], "loss": [1.0, 2.0]}, "Run: `step` must be finite and ascend"),
            ({"step": [0, math.nan], "loss": [1.0, 2.0]}, "Run: `step` must be finite and ascend"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, columns, message):
        with pytest.raises(InputError, match=message):
            Run(columns)

    def test_slice_takes_steps_not_rows(self):
        assert small().slice(2, 6).step.tolist() == [2, 5]
        assert len(small().slice(stop=2)) == 2

    def test_smooth_is_a_centred_median_that_shrugs_off_a_spike(self):
        losses = np.linspace(2, 1, 101)
        losses[50] = 100.0
        steps, smooth = Run({"loss": losses}).smooth("loss", 5)
        assert len(steps) == 101 and smooth.max() < 2.1
        assert smooth[50] == pytest.approx(1.5, abs=0.02), "no lag"


class TestOnDisk:
    @given(columns=COLUMNS)
    def test_what_is_saved_comes_back(self, columns, tmp_path_factory):
        run = Run(columns, {"seed": 1})
        path = run.save(tmp_path_factory.mktemp("run") / "run.jsonl")
        again = Run.load(path)
        assert again.meta == run.meta and len(again) == len(run)
        for name in run.columns:
            assert np.array_equal(again[name] if name in again else np.full(len(run), np.nan), run[name], equal_nan=True)

    def test_every_line_is_strict_json(self, tmp_path):
        path = Run({"loss": [math.nan, math.inf, -math.inf, 1.0]}).save(tmp_path / "a.jsonl")
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))

    def test_a_file_torn_at_any_byte_loses_at_most_its_last_row(self, tmp_path):
        """As a kill in the middle of a write leaves it."""
        path = small().save(tmp_path / "whole.jsonl")
        content = path.read_bytes()
        first = content.index(b"\n") + 1
        torn = tmp_path / "torn.jsonl"
        for end in range(first, len(content) + 1):
            torn.write_bytes(content[:end])
            whole_rows = content[:end].count(b"\n") - 1
            assert len(Run.load(torn)) >= whole_rows

    def test_a_line_torn_in_the_middle_of_the_file_is_not_passed_over(self, tmp_path):
        path = small().save(tmp_path / "a.jsonl")
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], lines[1][:5], *lines[2:]]))
        with pytest.raises(FileError, match="line 2 is not a line of one lrkit run"):
            Run.load(path)

    def test_a_run_is_never_written_over(self, tmp_path):
        small().save(tmp_path / "first")
        before = (tmp_path / "first" / FILE_NAME).read_bytes()
        with pytest.raises(FileError, match="exists: a run is never written over"):
            small().save(tmp_path / "first")
        assert (tmp_path / "first" / FILE_NAME).read_bytes() == before

    def test_a_second_row_of_a_step_adds_to_the_first(self, tmp_path):
        with Writer(tmp_path / "run.jsonl") as writer:
            writer.append({"step": 0, "loss": 2.0})
            writer.append({"step": 0, "val_loss": 3.0})
            writer.add_meta(stopped="by hand")
        run = Run.load(tmp_path / "run.jsonl")
        assert len(run) == 1 and run["val_loss"][0] == 3.0 and run.meta["stopped"] == "by hand"

    def test_what_was_flushed_survives_a_kill(self, tmp_path):
        """kill -9 in the middle of writing: every flushed row is read back."""
        code = (
            "import sys, time\nfrom lrkit.journal import Writer\n"
            f"w = Writer({str(tmp_path / 'run.jsonl')!r})\n"
            "for i in range(10**9):\n"
            "    w.append({'step': i, 'loss': 1.0 / (1 + i)})\n"
            "    if i == 100: w.flush(); print('flushed', flush=True)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
        run = Run.load(tmp_path / "run.jsonl")
        assert len(run) >= 101
        assert run["loss"][100] == pytest.approx(1 / 101)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileError, match="cannot be read: No such file"):
            Run.load(tmp_path / "nothing.jsonl")


class TestPlot:
    def test_draws_the_loss_and_names_the_axes(self):
        ax = small().plot()
        assert ax.get_xlabel() == "step" and ax.get_ylabel() == "loss"

    def test_a_column_without_a_finite_value_is_refused(self):
        with pytest.raises(InputError, match="no finite value in it"):
            Run({"loss": [math.nan]}).plot()

    def test_a_notebook_shows_it(self):
        assert small()._repr_html_().startswith("<svg")


class TestHardCases:
    @pytest.mark.parametrize("name", ["meta", "lrkit_run", 3, None])
    def test_names_that_a_file_could_not_keep_are_refused(self, name):
        with pytest.raises(InputError, match="cannot be a column's name"):
            Run({name: [1.0]})

    def test_columns_without_a_value_and_empty_runs_come_back(self, tmp_path):
        for i, run in enumerate((Run({"loss": [1.0], "lr": [math.nan]}), Run({"step": [], "loss": []}))):
            assert Run.load(run.save(tmp_path / f"{i}.jsonl")) == run

    def test_two_rows_of_one_step_are_not_merged_silently(self, tmp_path):
        with pytest.raises(InputError, match="two rows have the same step"):
            Run({"step": [0, 0], "loss": [1, 2]}).save(tmp_path / "a.jsonl")
        assert not list(tmp_path.iterdir())

    def test_two_runs_in_one_file_are_refused(self, tmp_path):
        text = small().save(tmp_path / "a.jsonl").read_text()
        with pytest.raises(FileError, match="line 6 is not a line of one lrkit run"):
            Run.from_text(text + text)

    @pytest.mark.parametrize("value", [np.int64(3), np.float32(0.5), math.nan, (1, 2), {"a": [np.float64(1.0)]}])
    def test_meta_takes_what_people_have(self, tmp_path, value):
        assert "x" in Run.load(Run({"loss": [1.0]}, {"x": value}).save(tmp_path / "a.jsonl")).meta

    def test_meta_that_is_no_json_is_refused_before_a_file_is_made(self, tmp_path):
        with pytest.raises(InputError, match="the meta cannot be written as JSON"):
            Run({"loss": [1.0]}, {"x": object()}).save(tmp_path / "a.jsonl")
        assert not list(tmp_path.iterdir())

    def test_lists_of_tensors_are_numbers(self):
        torch = pytest.importorskip("torch")
        assert Run({"loss": [torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)]})["loss"].tolist() == [1, 2]

    @pytest.mark.parametrize("columns", [[1, 2], None, "x", {"loss": [1j]}, {"loss": [10**400]}, {"step": [1e300], "loss": [1]}])
    def test_what_is_no_run_is_refused(self, columns):
        with pytest.raises(InputError, match="Run"):
            Run(columns)

    @pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000, '{"step": 1, "loss": ' + "1" * 400 + "}"])
    def test_hostile_lines_are_refused(self, line):
        with pytest.raises(FileError, match="line 2"):
            Run.from_text('{"lrkit_run": 1, "meta": {}}\n' + line + "\n")

    def test_a_users_own_key_of_the_meta_is_kept(self, tmp_path):
        run = Run({"loss": [1.0], "lr": [math.nan]}, {"columns": 12})
        assert Run.load(run.save(tmp_path / "a.jsonl")) == run

    def test_concat_joins_a_resumed_run(self):
        first, second = Run({"step": [0, 1, 2], "loss": [3, 2, 9]}), Run({"step": [2, 3], "loss": [1.5, 1]})
        assert first.concat(second)["loss"].tolist() == [3, 2, 1.5, 1]

    def test_a_writer_that_wrote_nothing_leaves_nothing(self, tmp_path):
        Writer(tmp_path / "a" / "b").close()
        assert not list(tmp_path.iterdir())
