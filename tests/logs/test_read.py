"""`read` takes what people have, and refuses in a sentence what is no log."""

import gzip
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest

from lrkit import Run, read, read_all
from lrkit.errors import FileError, InputError
from lrkit.logs.names import canonical
from lrkit.logs.sniff import READERS, runs_in
from lrkit.logs.source import Source

RUN = Run({"step": [0, 10, 20], "loss": [2.0, 1.0, 0.5], "lr": [0.1, 0.1, 0.05]})


def write(tmp_path, text: str, name: str = "log.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


class TestReads:
    def test_a_run_of_lrkit_from_its_folder_or_file(self, tmp_path):
        RUN.save(tmp_path / "first")
        assert read(tmp_path / "first") == RUN == read(tmp_path / "first" / "run.jsonl")

    @pytest.mark.parametrize(
        "text",
        [
            "step,loss,lr\n0,2.0,0.1\n10,1.0,0.1\n20,0.5,0.05\n",
            "\ufeffglobal_step;train/loss;learning_rate\r\n0;2.0;0.1\r\n10;1.0;0.1\r\n20;0.5;0.05\r\n",
            "Iteration\tTraining Loss\tlr\n0\t2.0\t0.1\n10\t1.0\t0.1\n20\t0.5\t0.05",
            '{"step": 0, "loss": 2, "lr": 0.1}\n{"step": 10, "loss": 1, "lr": 0.1}\n{"step": 20, "loss": 0.5, "lr": 0.05}\n{"st',
        ],
        ids=["csv", "semicolons and a BOM", "tabs", "jsonl, torn"],
    )
    def test_tables_and_lines_under_anybodys_names(self, tmp_path, text):
        run = read(write(tmp_path, text))
        assert {name: run[name].tolist() for name in ("step", "loss", "lr")} == {
            n: RUN[n].tolist() for n in ("step", "loss", "lr")
        }

    def test_sparse_rows_and_words_become_gaps(self, tmp_path):
        run = read(write(tmp_path, "step,loss,val_loss,note\n0,2.0,,start\n1,,1.5,\n2,nan,,\n"))
        assert np.array_equal(run["loss"], [2.0, math.nan, math.nan], equal_nan=True)
        assert np.array_equal(run["val_loss"], [math.nan, 1.5, math.nan], equal_nan=True)
        assert "note" not in run

    def test_rows_without_steps_are_counted(self, tmp_path):
        assert read(write(tmp_path, "epoch,loss\n0,2\n1,1\n")).step.tolist() == [0, 1]


class TestRefuses:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the file is empty"),
            ("step,accuracy\n0,0.5\n", "no loss column; it has step, accuracy. Rename"),
            ("step,loss\na,b\n", "the cells of its column 'loss' are no numbers; the first is 'b'"),
            ('{"step": 0, "accuracy": 1}\n', "no loss column; it has step, accuracy"),
            ("step,loss\n0,2\n1,1\n0,2\n", r"it holds 2 runs, or one whose steps begin again 1 times. List them: lrkit.read_all"),
            (
                "Epoch 1: 100%|####\n",
                "no reader knows this file; tried lrkit_run, tensorboard, mlflow, huggingface, json_document, jsonl, delimited, "
                "text. Its first line is 'Epoch 1",
            ),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "it is a Git LFS pointer, .* git lfs pull"),
            ("step,loss\n", "it has a header and no rows"),
            (
                '{\n  "log_history": [\n    {\n      "loss": 2.0,\n      "loss": 1.0,\n',
                "it begins as one JSON document and is damaged",
            ),
            (
                '{"log_history": [{"eval_loss": 1.0, "step": 3}, {"step": 3, "train_runtime": 1.0, "train_loss": 2.0}]}',
                "no loss column; it has eval_loss, step",
            ),
            ("step,loss\n" + ",1\n" * 9 + "0,1\n", "9 of 10 rows have no step"),
            ("step,loss\n" + "1,1\n0,1\n" * 1100, "its steps go back 1100 times, so they are no steps"),
            ("[1, 2]\n", "no reader knows this file"),
        ],
    )
    def test_what_is_no_log(self, tmp_path, text, message):
        with pytest.raises(FileError, match=message):
            read(write(tmp_path, text))

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(FileError, match=r"cannot be read: No such file or directory. Check the path"):
            read(tmp_path / "nothing.csv")
        with pytest.raises(FileError, match=r"there is no log in this folder; looked for run.jsonl, trainer_state.json"):
            read(tmp_path)

    def test_a_pipe_that_nobody_writes_to(self, tmp_path):
        os.mkfifo(tmp_path / "a.csv")
        with pytest.raises(FileError, match="no file but a pipe"):
            read(tmp_path / "a.csv")

    def test_binary_files(self, tmp_path):
        (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 20)
        with pytest.raises(FileError, match="read"):
            read(tmp_path / "a.bin")


def test_names_are_matched_by_meaning_and_the_first_wins():
    assert canonical(["train_loss", "loss", "Learning Rate"]) == {"loss": "loss", "Learning Rate": "lr"}


def test_every_reader_hands_on_what_is_not_its_own(tmp_path):
    path = write(tmp_path, "nothing that anybody writes")
    source = Source.of(path, path.read_bytes())
    assert [reader(source) for reader in READERS] == [None] * len(READERS)


@pytest.mark.parametrize(
    "text",
    ["step,loss\r1,2\r2,1\r", '{"loss": 1}\n{"step": 0, "acc": 1}\n{"step": 1, "acc": 1}\n', "a" * 140_000 + ",b\n1,2\n"],
    ids=["old Mac's lines", "no step beside a loss", "a huge header"],
)
def test_odd_files_are_read_or_refused_in_a_sentence(tmp_path, text):
    try:
        assert len(read(write(tmp_path, text, "odd"))) == 2
    except FileError as error:
        assert "read(" in str(error)


def test_a_console_log_is_not_taken_for_a_table(tmp_path):
    run = read(write(tmp_path, "Overriding config with a.py, and b.py:\niter 0: loss 3.2\niter 1: loss 3.1\n", "out.log"))
    assert run.meta["format"] == "text" and run["loss"].tolist() == [3.2, 3.1]


class TestColumns:
    LOG = "it,train/ce,loss,lr\n0,2.0,9,0.1\n5,1.0,9,0.1\n"

    def test_that_the_caller_names_go_before_what_is_recognised(self, tmp_path):
        run = read(write(tmp_path, self.LOG), columns={"loss": "train/ce", "step": "it"})
        assert run["loss"].tolist() == [2, 1] and run.step.tolist() == [0, 5]
        assert run.columns == ("step", "loss", "other/loss", "lr")

    def test_that_are_not_there_are_named_with_those_that_are(self, tmp_path):
        with pytest.raises(FileError, match="there is no column 'ce' for 'loss'; it has it, train/ce, loss, lr"):
            read(write(tmp_path, self.LOG), columns={"loss": "ce"})

    def test_of_a_run_of_lrkits_are_renamed(self, tmp_path):
        RUN.save(tmp_path / "first")
        run = read(tmp_path / "first", columns={"loss": "lr"})
        assert run.columns == ("step", "loss") and run["loss"].tolist() == RUN["lr"].tolist()
        with pytest.raises(FileError, match="there is no column 'ce'; it has step, loss, lr"):
            read(tmp_path / "first", columns={"loss": "ce"})

    @pytest.mark.parametrize("columns", [3, ["loss"], {"loss": 3}])
    def test_are_a_mapping_of_names(self, columns, tmp_path):
        with pytest.raises(InputError, match="it maps our names to the log's"):
            read(write(tmp_path, self.LOG), columns=columns)


class TestFolders:
    def test_all_logs_below_are_listed_in_order(self, tmp_path):
        RUN.save(tmp_path / "b")
        (tmp_path / "a" / "c").mkdir(parents=True)
        write(tmp_path / "a" / "c", "step,loss\n0,1\n1,2\n", "metrics.csv")
        write(tmp_path / "a", "epoch,loss\n0,1\n1,2\n0,5\n1,4\n", "results.csv")
        runs = read_all(tmp_path)
        assert [run.meta.get("source") for run in runs] == ["a/results.csv", "a/results.csv", "a/c/metrics.csv", None]
        assert runs[3] == RUN
        with pytest.raises(FileError, match="it holds 4 runs"):
            read(tmp_path)

    def test_of_checkpoints_the_last_tells_it_all(self, tmp_path):
        for step in (2, 10):
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir()
            history = [{"step": t, "loss": 2.0} for t in range(step)]
            write(folder, json.dumps({"log_history": history}), "trainer_state.json")
        assert len(read(tmp_path)) == 10


def test_a_packed_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr("lrkit.logs.source.LARGEST_FILE", 1000)
    with pytest.raises(FileError, match="it unpacks to more than"):
        Source.of(Path("a.csv.gz"), gzip.compress(b"0" * 100_000))


def test_rows_of_too_many_names_are_refused(monkeypatch):
    monkeypatch.setattr("lrkit.logs.runs.MOST_CELLS", 100)
    lines = "".join(json.dumps({"step": t, "loss": 1, f"x{t}": 1}) + "\n" for t in range(20))
    with pytest.raises(FileError, match="22 columns over 20 rows are too many"):
        runs_in(Source.of(Path("a.jsonl"), lines.encode()))


def test_a_table_read_quickly_is_the_table_read_cell_by_cell(monkeypatch, tmp_path):
    """Numbers, gaps, infinities: the fast way and the slow one agree bit for bit."""
    rng = random.Random(0)
    cells = ["", "nan", "inf", "-inf", "1e999", "0.1", "-3e-5", "123456789.123456789"]
    body = "".join(f"{t},{rng.choice(cells)},{rng.choice(cells)},{rng.random()}\n" for t in range(400)) + "400,,,\n"
    path = write(tmp_path, "step,a,loss,b\n0,1,1,1\n" + body)
    fast = read(path)
    monkeypatch.setattr("lrkit.logs.delimited.grid", lambda *_: None)
    assert read(path) == fast and len(fast) > 300


def test_json_lines_read_quickly_are_those_read_one_by_one(monkeypatch):
    lines = [{"step": t, "loss": [1.5, math.nan, math.inf, 1e-300][t % 4], "lr": 0.1} for t in range(50)]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (fast,) = runs_in(Source.of(Path("a.jsonl"), data))
    monkeypatch.setattr("lrkit.logs.jsonl.grid_of_lines", lambda *_: None)
    assert runs_in(Source.of(Path("a.jsonl"), data)) == [fast]
