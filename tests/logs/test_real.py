"""Logs of other people, as their loops wrote them. Excerpts lie in tests/data/logs; the whole ones are read where they are."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from lrkit import diagnose, read_all

HERE = Path(__file__).parents[1] / "data" / "logs"
WHOLE = Path(os.environ.get("LRKIT_LOGS", Path(__file__).parents[3] / "shared" / "logs"))

# file: runs · rows of the first · first and last loss of it · columns it must have · meta it must have
EXCERPTS = {
    "Efaythegreat__char-rnn.pytorch__1.csv": (4, 49, 4.603248291015625, 2.30357421875, {"lr"}, {"lr": 0.005}),
    "EvergreenTree__di-f-fu-sion__1.csv": (
        2, 49, 0.18484549224376678, 0.045644864439964294, set(), {"run": "oxford_flowers102-colu-conv2d"}),
    "KellerJordan__modded-nanogpt__1.log": (1, 49, 10.965596, 7.027252, {"val_loss"}, {"format": "text"}),
    "KellerJordan__modded-nanogpt__3.txt": (1, 48, 22.6248, 6.3966, {"val_loss"}, {"steps": 20344}),
    "LusterSourav__adaption-autoscientist-challenge-50000-prize-pool-bisenx__2.json": (
        1, 22, 2.2232, 1.3998, {"lr", "grad_norm", "epoch", "val_loss"}, {"steps": 22, "epochs": 1}),
    "Macro1027__Simple-Pendulum-PINN__1.csv": (
        1, 42, 134.74288940429688, 27.744369506835938, {"epoch", "train_loss_epoch"}, {"format": "csv"}),
    "druidowm__nanoGPT__2.log": (1, 39, 4.4512, 2.4455, {"val_loss"}, {"format": "text"}),
    "fsschneider__DeepOBS_Baselines__17.json": (
        1, 700, 369.72540283203125, np.nan, {"lr", "val_loss"},
        {"optimizer": "GradientDescentOptimizer", "problem": "quadratic_deep"}),
    "mlcommons__submissions_algorithms__12.csv": (1, 49, 6.907756, 4.976015, {"grad_norm", "val_loss"}, {"format": "csv"}),
    "mlcommons__submissions_algorithms__6.csv": (1, 74, 0.7602557, np.inf, {"grad_norm", "lr", "val_loss"}, {"format": "csv"}),
    "netra-ai-lab__Netra-NMT__1.jsonl": (1, 50, 7.10175, 6.32091, {"lr"}, {"format": "jsonl"}),
}  # fmt: skip


@pytest.mark.parametrize("file", EXCERPTS)
def test_an_excerpt_is_read_as_its_author_meant_it(file):
    count, rows, first, last, columns, meta = EXCERPTS[file]
    runs = read_all(HERE / file)
    loss = runs[0].observed("loss")[1]
    assert len(runs) == count and len(runs[0]) == rows
    assert loss[0] == first
    assert np.array_equal(runs[0]["loss"][-1:], [last], equal_nan=True)
    assert columns <= set(runs[0].columns) and meta.items() <= runs[0].meta.items()
    assert runs[0].meta["source"] == file


def test_every_whole_log_is_read_and_can_be_diagnosed():
    """Those that lie here where the folder of all is not there."""
    files = sorted(p for p in (WHOLE / "real").glob("*") if p.name != "index.json") or sorted((HERE / "whole").glob("*.gz"))
    assert len(files) >= 18
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for file in files:
            for run in read_all(file):
                assert np.isfinite(run["loss"]).sum() > 10, file
                assert diagnose(run).rate


@pytest.mark.parametrize(("file", "count", "column"), [("deepobs_sweeps", 675, "lr"), ("algoperf_runs", 745, "grad_norm")])
def test_a_file_of_many_whole_runs_gives_one_a_line(file, count, column):
    path = WHOLE / f"{file}.jsonl.gz"
    runs = read_all(path) if path.exists() else read_all(HERE / "fsschneider__DeepOBS_Baselines__17.json")
    assert len(runs) == (count if path.exists() else 1)
    assert sum(column in run for run in runs) >= (0.8 * count if path.exists() else column == "lr")
