"""`read` takes what people have, and refuses in a sentence what is no log."""

import math

import numpy as np
import pytest

from lrkit import Run, read
from lrkit.errors import FileError
from lrkit.logs.names import canonical
from lrkit.logs.sniff import READERS

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
            ("step,loss\n0,2\n1,1\n0,2\n", "its steps begin again"),
            (
                "Epoch 1: 100%|####\n",
                "no reader knows this file; tried lrkit_run, jsonl, table. Its first line is 'Epoch 1",
            ),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "no reader knows this file"),
            ("[1, 2]\n", "no reader knows this file"),
        ],
    )
    def test_what_is_no_log(self, tmp_path, text, message):
        with pytest.raises(FileError, match=message):
            read(write(tmp_path, text))

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(FileError, match=r"cannot be read: No such file or directory. Check the path"):
            read(tmp_path / "nothing.csv")
        with pytest.raises(FileError, match=r"there is no run.jsonl in this folder"):
            read(tmp_path)

    def test_binary_files(self, tmp_path):
        (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 20)
        with pytest.raises(FileError, match="read"):
            read(tmp_path / "a.bin")


def test_names_are_matched_by_meaning_and_the_first_wins():
    assert canonical(["train_loss", "loss", "Learning Rate"]) == {"loss": "loss", "Learning Rate": "lr"}


def test_every_reader_hands_on_what_is_not_its_own(tmp_path):
    path = write(tmp_path, "nothing that anybody writes")
    assert [reader(path, path.read_text()) for reader in READERS] == [None] * len(READERS)


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
    with pytest.raises(FileError, match="no reader knows this file"):
        read(write(tmp_path, "Overriding config with a.py, and b.py:\niter 0: loss 3.2\niter 1: loss 3.1\n", "out.log"))
