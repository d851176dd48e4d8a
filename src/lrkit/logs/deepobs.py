"""DeepOBS: one JSON object a run, with the loss of every minibatch, or of every epoch; also its sweeps, thinned out."""

from typing import Any

import numpy as np

from lrkit.logs.table import Array, Table, number, numbers, of_columns


def deepobs_table(entry: dict[str, Any]) -> Table | None:
    """The run of one JSON object, or None where it is not DeepOBS'.

    With `first200` and `block_mean` the steps are those of the first 200 losses, then the middles of the blocks that follow them.
    """
    each = numbers(entry.get("minibatch_train_losses"))
    epochs, held_out = numbers(entry.get("train_losses")), numbers(entry.get("test_losses"))
    if entry.get("first200") is not None:
        columns: dict[str, Array] | None = _thinned(entry)
    elif each is not None:
        columns = {"step": np.arange(len(each), dtype=np.float64) * _interval(entry), "loss": each}
    elif epochs is not None:
        columns = {"epoch": np.arange(len(epochs), dtype=np.float64), "loss": epochs}
        if held_out is not None and len(held_out) == len(epochs):
            columns["val_loss"] = held_out
    else:
        return None
    if columns is None:
        return None
    if each is not None and held_out is not None and "val_loss" not in columns:
        columns["val_loss"] = _at_epochs(held_out, len(each))
    rate = number(entry.get("learning_rate", entry.get("lr")))
    if rate is not None and entry.get("lr_sched_epochs"):
        rate = None  # it did not stay so, and the file does not hold the steps of an epoch
    problem = entry.get("testproblem", entry.get("problem"))
    told = {name: _word(entry.get(name)) for name in ("optimizer", "label", "seed", "batch_size")}
    steps = number(entry.get("n_steps"))
    steps = len(each) * _interval(entry) if each is not None else steps
    return of_columns(columns, format="deepobs", lr=rate, problem=_word(problem), steps=_whole(steps), **told)


def _thinned(entry: dict[str, Any]) -> dict[str, Array] | None:
    first, means = numbers(entry["first200"]), numbers(entry.get("block_mean"))
    if first is None:
        return None
    steps = np.arange(len(first), dtype=np.float64)
    total = number(entry.get("n_steps"))
    if means is None or total is None or not len(first) < total < 1e15:
        return {"step": steps, "loss": first}
    bounds = np.linspace(0, total, len(means) + 1)
    middles = np.floor((bounds[:-1] + bounds[1:]) / 2)
    later = middles >= len(first)
    return {"step": np.concatenate([steps, middles[later]]), "loss": np.concatenate([first, means[later]])}


def _interval(entry: dict[str, Any]) -> int:
    """Steps between two logged minibatches."""
    every = entry.get("train_log_interval")
    return every if isinstance(every, int) and not isinstance(every, bool) and 0 < every < 1 << 31 else 1


def _at_epochs(values: Array, rows: int) -> Array:
    """(rows,) one value an epoch, at the row where the epoch begins; the one after the last epoch at the last row."""
    out = np.full(rows, np.nan)
    places = np.minimum(np.round(np.linspace(0, rows, len(values))).astype(np.int64), rows - 1)
    out[places] = values
    return out


def _word(value: object) -> object:
    return value if isinstance(value, str | int | float) else None


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and 0 < value < 1e15 else None
