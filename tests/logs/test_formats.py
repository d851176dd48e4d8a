"""Each format is read as what it is: the loss, the rate, the steps, and what the file tells."""

import gzip
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from logs.samples import LOSS, LR, MLFLOW, SAMPLES, VERSION, N, event, events, record, simple, source, tensor
from lrkit import read, read_all
from lrkit.errors import FileError
from lrkit.logs.sniff import READERS, runs_in
from lrkit.logs.source import Source

ONE = [name for name in SAMPLES if name not in ("wandb", "long", "sweep", "runs")]


def of(text: str | bytes, name: str = "log.csv"):
    runs = runs_in(Source.of(Path(name), text if isinstance(text, bytes) else text.encode()))
    assert len(runs) == 1
    return runs[0]


@pytest.mark.parametrize("name", [*ONE, "mlflow"])
def test_every_format_gives_the_same_loss(name):
    (run,) = runs_in(source(name))
    want = [value + 1.0 for value in LOSS] if name == "ultralytics" else LOSS
    steps, loss = run.observed("loss")
    assert loss == pytest.approx(want, rel=1e-6)
    assert steps.tolist() == [10 * t if name == "huggingface" else t for t in range(N)]
    if "lr" in run:
        assert run.observed("lr")[1] == pytest.approx([LR] * len(run.observed("lr")[1]))


@pytest.mark.parametrize(
    ("name", "meta"),
    [
        ("lrkit", {"optimizer": "Adam"}),
        ("huggingface", {"format": "huggingface", "steps": 400, "lr": LR}),
        ("lightning", {"format": "csv", "optimizer": "Adam", "lr": LR}),
        ("ultralytics", {"format": "ultralytics", "lr": LR}),
        ("deepobs", {"format": "deepobs", "optimizer": "MomentumOptimizer", "problem": "mnist_mlp", "lr": LR, "batch_size": 128,
                     "steps": N}),
        ("columns", {"format": "json", "optimizer": "SGD"}),
        ("modded", {"format": "text", "steps": 100}),
        ("megatron", {"format": "text", "steps": 100, "lr": LR}),
        ("mlflow", {"format": "mlflow", "optimizer": "Adam", "run": "bold-fish", "params": {"optimizer": "Adam"}, "lr": 0.001}),
    ],
)  # fmt: skip
def test_the_meta_holds_what_the_file_tells(name, meta):
    assert runs_in(source(name))[0].meta == meta


@pytest.mark.parametrize(
    "name", ["lrkit", "huggingface", "lightning", "keras", "ultralytics", "jsonl", "deepobs", "columns", "nanogpt", "short"]
)
def test_the_validation_loss_is_found(name):
    data = {"lightning": b"epoch,lr-Adam,step,train_loss_step,val_loss\n0,,0,2.0,\n0,,0,,1.5\n0,,1,1.9,\n"}.get(name)
    assert "val_loss" in runs_in(source(name, data))[0]


class TestSeveralRuns:
    def test_of_a_wandb_chart_are_told_apart_by_their_columns(self):
        first, second = runs_in(source("wandb"))
        assert first["loss"].tolist() == LOSS and set(second["loss"]) == {2.0}
        assert (first.meta["run"], second.meta["run"]) == ("a b", "c")
        assert first.columns == ("step", "loss")

    def test_of_a_long_table_are_told_apart_by_their_rows(self):
        first, second = runs_in(source("long"))
        assert first["loss"].tolist() == LOSS and set(second["loss"]) == {2.0}
        assert (first.meta["run"], second.meta["run"]) == ("a", "b")

    def test_of_a_sweep_know_their_rate_from_the_columns_name(self):
        runs = runs_in(source("sweep"))
        assert [run.meta["lr"] for run in runs] == [0.005, 0.01]
        assert runs[0]["loss"].tolist() == LOSS and set(runs[1]["lr"]) == {0.01}

    def test_one_a_line(self):
        thinned, listed = runs_in(source("runs"))
        assert thinned.step.tolist() == [0, 1, 2, 3, 50, 150, 250, 350]
        assert thinned["loss"].tolist() == LOSS[:8] and set(thinned["lr"]) == {0.1}
        assert (thinned.meta["optimizer"], thinned.meta["label"], thinned.meta["steps"]) == ("Adam", "good", 400)
        assert listed["loss"].tolist() == [2.0, 1.0]

    def test_appended_by_keras_are_told_apart_by_their_epochs(self):
        runs = runs_in(Source.of(Path("a.csv"), b"epoch,loss\n0,3\n1,2\n2,1\n0,6\n1,5\n"))
        assert [(run.step.tolist(), run["loss"].tolist()) for run in runs] == [([0, 1, 2], [3, 2, 1]), ([0, 1], [6, 5])]

    def test_begin_where_the_step_goes_back(self):
        runs = runs_in(Source.of(Path("a.csv"), b"step,loss,val_loss\n0,3,\n1,2,\n1,,9\n0,,8\n0,6,\n1,5,\n"))
        assert [(run.step.tolist(), run["loss"].tolist()) for run in runs] == [([0, 1], [3, 2]), ([0, 1], [6, 5])]
        assert np.array_equal(runs[0]["val_loss"], [math.nan, 9], equal_nan=True)
        assert np.array_equal(runs[1]["val_loss"], [8, math.nan], equal_nan=True)

    def test_do_not_begin_where_only_the_step_within_an_epoch_does(self):
        run = of(
            "".join(f"Epoch: [{e}][ {i}/40]\tTime 0.2 (0.3)\tLoss {9 - e}.5e+00 (7.0)\n" for e in (0, 1) for i in (0, 10, 20))
        )
        assert run.step.tolist() == [0, 10, 20, 30, 40, 50]
        assert run["loss"].tolist() == [9.5] * 3 + [8.5] * 3 and run["epoch"].tolist() == [0.0] * 3 + [1.0] * 3

    def test_are_not_seen_in_evaluations_that_are_written_late(self):
        run = of("step,loss,val_loss\n0,3,\n10,2,\n5,,9\n20,1,\n")
        assert run.step.tolist() == [0, 5, 10, 20]


class TestRows:
    def test_of_one_step_become_one(self):
        run = of("global_step,loss,train/loss,validation/loss\n0,3,,\n1,,2.9,2.8\n1,2,,\n")
        assert run.step.tolist() == [0, 1] and run["loss"].tolist() == [3, 2] and run["val_loss"][1] == 2.8

    def test_that_log_a_step_twice_are_averaged(self):
        assert of("step,loss\n0,3\n1,2\n1,1\n2,nan\n2,1\n")["loss"].tolist()[:2] == [3, 1.5]

    def test_after_the_last_loss_are_no_explosion(self):
        assert len(of('{"step": 0, "loss": 2}\n{"step": 1, "loss": 1}\n{"step": 2, "train_time": 12.5}\n')) == 2

    def test_with_a_loss_that_is_nan_are_kept(self):
        run = of('{"step": 0, "loss": 2}\n{"step": 1, "loss": NaN}\n{"step": 2, "loss": "nan"}\n')
        assert len(run) == 3 and np.isnan(run["loss"][1:]).all()

    def test_whose_nan_transformers_masked_are_unmasked(self):
        history = [{"step": t, "loss": 2.0, "grad_norm": 1.0} for t in range(3)]
        history += [{"step": 3, "loss": 0.0, "grad_norm": math.nan}, {"step": 4, "loss": 0.0, "grad_norm": 0.5}]
        run = of(json.dumps({"log_history": history}), "trainer_state.json")
        assert np.array_equal(run["loss"], [2, 2, 2, math.nan, 0], equal_nan=True)

    def test_without_a_step_are_passed_over(self):
        assert of("step,loss\n0,3\n,9\n1,2\n").step.tolist() == [0, 1]

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
    def test_about_held_out_data_have_no_training_loss(self, kind):
        rows = [{"mode": mode, "step": t, "loss": loss} for t, mode, loss in ((0, "train", 3), (0, "val", 4), (1, "train", 2))]
        lines = "\n".join(map(json.dumps, rows))
        run = of({"csv": "step,phase,loss\n0,train,3\n0,val,4\n1,train,2\n", "jsonl": lines, "json": json.dumps(rows)}[kind])
        assert run["loss"].tolist() == [3, 2] and run.observed("val_loss")[1].tolist() == [4]


def test_the_log_calls_of_wandb_are_no_steps_where_updates_are_known():
    assert of("_step,train/global_step,loss\n0,10,2\n1,20,1\n").step.tolist() == [10, 20]


def test_a_table_of_wandbs_runs_is_no_log():
    with pytest.raises(FileError, match="table of runs"):
        of('"Name","State","Runtime","loss"\n"a","finished","9","1"\n"b","finished","9","2"\n')


def test_a_history_of_keras_may_lie_one_level_down():
    assert of(json.dumps({"history": {"loss": [3, 2, 1]}, "params": {"epochs": 3}}), "h.json")["loss"].tolist() == [3, 2, 1]


class TestTensorBoard:
    def test_the_two_folders_of_keras_are_one_run(self, tmp_path):
        for name, loss in (("train", 1.0), ("validation", 2.0)):
            (tmp_path / name).mkdir()
            data = VERSION + b"".join(event(t, tensor("epoch_loss", loss)) for t in range(5))
            (tmp_path / name / "events.out.tfevents.1.h.v2").write_bytes(data)
        run = read(tmp_path)
        assert set(run["loss"]) == {1.0} and set(run["val_loss"]) == {2.0} and run.step.tolist() == list(range(5))

    @pytest.mark.parametrize("kind", ["content", "double_content", "float", "float_alone", "double"])
    def test_tensors_hold_scalars_too(self, kind):
        run = of(VERSION + b"".join(event(t, tensor("loss", t / 2, kind)) for t in range(300)), "e")
        assert run["loss"].tolist() == [t / 2 for t in range(300)] and run.step.tolist() == list(range(300))

    def test_a_tensor_of_several_numbers_is_no_scalar(self):
        with pytest.raises(FileError, match="holds no scalar"):
            of(VERSION + event(0, tensor("loss", 1, "two")), "e")

    @pytest.mark.parametrize("cut", [1, 20, 45, 100])
    def test_a_torn_tail_is_dropped(self, cut):
        run = of(events()[:-cut], "e")
        assert run["loss"].tolist() == pytest.approx(LOSS)

    def test_a_length_beyond_the_file_allocates_nothing(self):
        assert len(of(events() + (1 << 60).to_bytes(8, "little") + b"\0" * 40, "e")) == N

    def test_large_steps_and_many_tags_at_once(self):
        steps = [0, 1, 127, 128, 16383, 16384, 2**31, 2**40]
        data = VERSION + b"".join(event(s, simple("loss", 1.5), simple("grad_norm", float(i))) for i, s in enumerate(steps))
        run = of(data, "e")
        assert run.step.tolist() == steps and run["grad_norm"].tolist() == list(range(8))

    def test_a_signalling_nan_is_a_nan(self):
        value = event(1, simple("loss", 1.0)).replace(struct.pack("<f", 1.0), b"\x01\x00\x80\x7f")
        run = of(VERSION + event(0, simple("loss", 2.0)) + value, "e")
        assert np.array_equal(run["loss"], [2, math.nan], equal_nan=True)

    def test_every_record_of_its_own_shape_is_read_too(self):
        """Tags of one length, more than shapes are worth comparing, and a picture among them."""
        data = b"".join(event(t, simple(f"x{t:03}", t), simple("loss", t)) + event(t, simple("a" * 5000, 1)) for t in range(60))
        run = of(VERSION + data, "e")
        assert run["loss"].tolist() == list(range(60)) and all(run[f"x{t:03}"][t] == t for t in range(60))

    def test_files_of_a_folder_are_joined_in_the_order_of_their_time(self, tmp_path):
        for time, low in ((1700000009, 0), (17000000100, 5)):
            data = VERSION + b"".join(event(t, simple("loss", float(t))) for t in range(low, low + 5))
            (tmp_path / f"events.out.tfevents.{time}.host").write_bytes(data)
        assert read(tmp_path)["loss"].tolist() == list(range(10))

    def test_a_session_that_starts_again_takes_back_what_came_later(self):
        restart = record(b"\x09" + b"\0" * 8 + b"\x10\x03" + b"\x3a\x02\x08\x01")
        data = [event(t, simple("loss", float(t))) for t in range(6)]
        again = [event(t, simple("loss", 10.0 + t)) for t in range(3, 5)]
        assert of(b"".join([VERSION, *data, restart, *again]), "e")["loss"].tolist() == [0, 1, 2, 13, 14]

    def test_a_real_file_of_torch_gives_what_tensorboard_reads(self):
        folder = Path(__file__).parents[1] / "data" / "logs" / "tensorboard"
        want = json.loads((folder / "expected.json").read_text())
        run = read(folder)
        for name, values in want.items():
            assert run.observed(name)[1].tolist() == values


class TestUltralytics:
    def test_the_rate_is_not_that_of_the_biases(self):
        run = of("epoch, train/box_loss, x/lr0, x/lr1, x/lr2\n0,3,0.1,0.001,0.001\n1,2,0.05,0.005,0.005\n2,1,0.01,0.01,0.01\n")
        assert run["lr"].tolist() == [0.001, 0.005, 0.01] and run["lr/pg0"][0] == 0.1 and "lr/pg2" in run


class TestText:
    @pytest.mark.parametrize(
        "line",
        [
            "2024-01-01 12:00:00,123 INFO step={t} loss={loss} lr=1e-4",
            "Epoch [1/10], Step [{t}/600], Loss: {loss}",
            "| step {t} | loss {loss} | lr 1e-4",
            "[step {t}] train_loss: {loss}",
            "{{'step': {t}, 'loss': '{loss}', 'note': 'x'}}",
            "iter: {t}; Training Loss = {loss}",
        ],
    )
    def test_lines_that_people_print(self, line):
        run = of("hello, world\n" + "".join(line.format(t=3 * t, loss=LOSS[t]) + "\nnoise 3\n" for t in range(5)), "out.txt")
        assert run.step.tolist() == [0, 3, 6, 9, 12] and run["loss"].tolist() == LOSS[:5]

    def test_code_before_the_numbers_is_no_log(self):
        code = "loss = 0.0\nfor step in range(100):\n    lr = 0.1\n    step_avg: float = 3.0\n"
        assert of(code + "step:1/9 train_loss:2.5\nstep:2/9 train_loss:nan\n", "a.txt").step.tolist() == [1, 2]

    def test_the_losses_of_test_lines_are_held_out(self):
        lines = [f"Epoch: [{e}][ {i}/40]\tLoss {9 - e}.5" for e in (0, 1) for i in (0, 20)]
        run = of("\n".join([*lines[:2], "Test: [ 0/9]\tLoss 7.0 (7.0)", *lines[2:], "Test: [ 0/9]\tLoss 6.0 (6.0)"]), "a.txt")
        assert run.step.tolist() == [0, 20, 40, 60] and run["loss"].tolist() == [9.5, 9.5, 8.5, 8.5]
        assert run.observed("val_loss")[1].tolist() == [7, 6] and "steps" not in run.meta

    def test_bars_below_a_heading_that_names_the_epoch_are_counted_on(self):
        run = of("".join(f"Epoch {e}/9\n100/100 [====] - 1s 9ms/step - loss: {3 - e / 9}\n" for e in (1, 2, 3)), "a.log")
        assert run.step.tolist() == [100, 200, 300] and run["epoch"].tolist() == [1, 2, 3]

    @pytest.mark.parametrize(
        "line",
        [
            "{t} | loss {loss} | lr 1e-4 | 12.3ms",
            "{t} train {loss}",
            "steps: {t} loss: {loss} iter time (s): 0.1",
            "| train | epoch 001 | update 0.1 | loss {loss} | num_updates {t} | lr 1e-4",
            "Iter(train) [ {t}/90]  lr: 1e-4  loss: {loss:.3f}",
        ],
    )
    def test_the_step_is_found_where_each_tool_prints_it(self, line):
        run = of("".join(line.format(t=3 * t, loss=LOSS[t]) + "\n" for t in range(5)), "out.txt")
        assert run.step.tolist() == [0, 3, 6, 9, 12] and run["loss"].tolist() == LOSS[:5]

    def test_the_epoch_of_openmmlab_is_found(self):
        rows = [f"Epoch(train)  [{e}][{i}/40]  lr: 1e-4  loss: 2.{e}" for e in (1, 2) for i in (20, 40)]
        assert of("\n".join(rows), "a.log").step.tolist() == [20, 40, 60, 80]

    def test_nan_and_inf_are_numbers(self):
        run = of("step 0 loss nan\nstep 1 loss inf\nstep 2 loss 1.5\n", "a.txt")
        assert np.array_equal(run["loss"], [math.nan, math.inf, 1.5], equal_nan=True)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_may_be_packed_and_torn(name):
    whole = runs_in(source(name))
    packed = gzip.compress(SAMPLES[name][1])
    assert runs_in(source(name, packed)) == whole
    try:
        assert runs_in(source(name, packed[:-12]))
    except FileError as error:
        assert "read(" in str(error)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_read_from_a_disk(name, tmp_path):
    file, data = SAMPLES[name]
    (tmp_path / file).write_bytes(data)
    runs = read_all(tmp_path / file)
    assert [{"source": file} | run.meta if "format" in run.meta else run.meta for run in runs_in(source(name))] == [
        r.meta for r in runs
    ]


def test_a_reader_is_listed_for_each_format():
    assert len({reader.__name__ for reader in READERS}) == len(READERS) == 8


def test_mlflow_is_read_from_its_folder(tmp_path):
    for place, data in MLFLOW.items():
        (tmp_path / "0" / "a" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "0" / "a" / place).write_bytes(data)
    assert read(tmp_path)["loss"].tolist() == LOSS and read(tmp_path).meta["source"] == "0/a"
