"""Tables → Runs: names made canonical, masked NaNs unmasked, the rows of one step joined, several runs told apart.

The one place where that happens, whatever the format. Knows no format.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrkit.errors import LARGEST, FileError
from lrkit.logs.names import optimizer_in, renamed
from lrkit.logs.table import Array, Column, Rows, Table
from lrkit.run import Run

MOST_CELLS = 50_000_000  # 400 MB of numbers
MOST_RUNS = 1000  # steps that go back more often are no steps

Mask = NDArray[np.bool_]


def runs_of(call: str, table: Table, wanted: Mapping[str, str]) -> list[Run]:
    """The runs that a table holds, in its order.

    Rows without a step are passed over, and so are rows with nothing but a step. Where the step goes back a new run begins,
    unless the epoch went on: then the step counts within an epoch, and is counted on. Rows of one step become one, the mean of
    what they have. What comes after a run's last loss (a summary, an evaluation) is no loss that exploded, and is left out.

    Args:
        call: For the messages.
        table: What a reader found.
        wanted: Ours → theirs, over what is recognised.

    Raises:
        FileError: If there is no loss column, or its rows have no steps.
    """
    columns = _columns(call, table, wanted)
    step, epoch = _dense(columns.get("step"), table.length), _dense(columns.get("epoch"), table.length)
    _check_steps(call, columns, step)
    loss_rows = np.sort(columns["loss"].places())
    part, step = _parts(call, loss_rows, step, epoch, "step" in columns)
    used = np.zeros(table.length, bool)
    for name, column in columns.items():
        if name not in ("step", "epoch"):
            used[column.places()] = True
    used &= np.isfinite(step)
    order = np.flatnonzero(used)
    if (np.diff(step[order]) < 0).any():
        order = order[np.lexsort((step[order], part[order]))]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(step[order]) != 0) | (np.diff(part[order]) != 0)
    place = np.full(table.length, -1)
    place[order] = np.cumsum(fresh) - 1
    first = order[fresh]
    if len(first) * len(columns) > MOST_CELLS:
        raise FileError(f"{call}: {len(columns)} columns over {len(first)} rows are too many. Log fewer columns, or split it.")
    joined = {name: _joined(column, place, len(first)) for name, column in columns.items() if name != "step"}
    seen = np.zeros(len(first), bool)
    seen[place[loss_rows][place[loss_rows] >= 0]] = True
    _unmask(joined, columns.get("grad_norm"), place)
    bounds = np.flatnonzero(np.diff(part[first])) + 1
    return [
        _run({"step": step[first][rows]} | {name: values[rows] for name, values in joined.items()}, seen[rows], table)
        for rows in map(slice, [0, *bounds.tolist()], [*bounds.tolist(), len(first)])
    ]


def _columns(call: str, table: Table, wanted: Mapping[str, str]) -> dict[str, Column]:
    """The columns under our names; what has no value at all is left out."""
    ours = renamed(call, [*table.columns, *(name for name in table.words if name not in table.columns)], wanted)
    columns = {ours[name]: column for name, column in table.columns.items() if len(column.values)}
    theirs = {our: name for name, our in ours.items()}
    if "loss" in columns:
        return columns
    if theirs.get("loss") in table.words:
        raise FileError(
            f"{call}: the cells of its column {theirs['loss']!r} are no numbers; the first is {table.words[theirs['loss']]!r}."
        )
    if "loss" in theirs:
        raise FileError(f"{call}: its column {theirs['loss']!r} has no value yet. Was the run ever started?")
    shown = ", ".join(list(table.columns)[:12]) or "no numbers at all"
    raise FileError(
        f"{call}: no loss column; it has {shown}. Rename the column of the training loss to 'loss' "
        "(also known: train_loss, train/loss, training_loss), or name it: columns={'loss': ...}."
    )


def _dense(column: Column | None, length: int) -> Array:
    """(length,) the values, NaN where there is none."""
    out = np.full(length, np.nan)
    if column is not None:
        out[column.places()] = column.values
    return out


def _check_steps(call: str, columns: Mapping[str, Column], step: Array) -> None:
    """Make what is no step NaN; refuse a log most of whose losses have none."""
    if "step" not in columns:
        step[:] = np.arange(len(step))
    step[~(np.abs(step) <= LARGEST)] = np.nan
    bare = ~np.isfinite(step[columns["loss"].places()])
    if bare.all():
        raise FileError(f"{call}: no row with a loss has a step. Give each row one, or none.")
    if 2 * bare.sum() > len(bare):
        raise FileError(f"{call}: {int(bare.sum())} of {len(bare)} rows have no step. Give each row one, or none.")


def _parts(call: str, loss_rows: Rows, step: Array, epoch: Array, counted: bool) -> tuple[Rows, Array]:
    """(n,) the run of each row, and (n,) its step, counted on where it began again with an epoch.

    Only rows with a loss tell: evaluations may be written late.
    """
    clock = step if counted else epoch
    told = loss_rows[np.isfinite(clock[loss_rows])]
    back = np.flatnonzero(np.diff(clock[told]) < 0)
    if not len(back):
        return np.zeros(len(step), dtype=np.int64), step
    known = np.flatnonzero(np.isfinite(clock))
    falls = known[1:][np.diff(clock[known]) < 0]  # rows below the one before: one of them is where the new run begins
    cuts = falls[np.searchsorted(falls, told[back], side="right")]
    strides = np.diff(clock[told])
    stride = float(np.median(strides[strides > 0])) if (strides > 0).any() else 1.0
    starts, out = np.zeros(len(step), dtype=np.int64), step.copy()
    goes_on = counted & (epoch[told[back]] < epoch[told[back + 1]])  # a NaN on either side is no epoch that went on
    starts[cuts[~goes_on]] = 1
    if starts.sum() > MOST_RUNS:
        raise FileError(f"{call}: its steps go back {int(starts.sum())} times, so they are no steps. Name another column.")
    if goes_on.any():
        gains = np.zeros(len(step))
        np.add.at(gains, cuts[goes_on], step[told[back[goes_on]]] + stride - step[told[back[goes_on] + 1]])
        total = np.cumsum(gains)
        out = step + total - _at_start(total, starts)
        out[~(np.abs(out) <= LARGEST)] = np.nan
    part = np.cumsum(starts)
    if not counted:
        out = step - _at_start(step, starts)
    return part, out


def _at_start(values: Array, starts: Rows) -> Array:
    """(n,) of each row, the value at the first row of its run."""
    begins = np.maximum.accumulate(np.where(starts > 0, np.arange(len(starts)), 0))
    return np.where(np.cumsum(starts) > 0, values[begins], 0.0)


def _joined(column: Column, place: Rows, length: int) -> Array:
    """(length,) the mean of a column's values at each place, NaN where there is none."""
    target = place[column.places()]
    keep = target >= 0
    target, values = target[keep], column.values[keep]
    out = np.full(length, np.nan)
    out[target] = values
    several = np.bincount(target, minlength=length) > 1
    if several.any():
        counts = np.bincount(target, minlength=length)
        sums = np.bincount(target, weights=values, minlength=length)
        out[several] = sums[several] / counts[several]
    return out


def _unmask(joined: dict[str, Array], norm: Column | None, place: Rows) -> None:
    """A loss of exactly 0 beside a gradient norm logged as NaN was NaN: transformers filters it (`logging_nan_inf_filter`)."""
    if norm is not None:
        wild = place[norm.places()[~np.isfinite(norm.values)]]
        wild = wild[wild >= 0]
        joined["loss"][wild[joined["loss"][wild] == 0]] = np.nan


def _run(columns: dict[str, Array], seen: Mask, table: Table) -> Run:
    """One run, up to its last loss; a rate that the file tells becomes a column, one that stays the same is told."""
    last = int(np.flatnonzero(seen)[-1]) + 1
    kept = {name: values[:last] for name, values in columns.items()}
    kept = {name: values for name, values in kept.items() if name in ("step", "loss") or not np.isnan(values).all()}
    meta: dict[str, Any] = {"optimizer": optimizer} if (optimizer := optimizer_in(table.columns)) else {}
    meta |= table.meta
    rate = meta.get("lr")
    if "lr" not in kept and isinstance(rate, int | float):
        kept["lr"] = np.full(last, float(rate))
    elif "lr" in kept:
        rates = kept["lr"][np.isfinite(kept["lr"])]
        if len(rates) and (rates == rates[0]).all():
            meta["lr"] = float(rates[0])
    return Run(kept, meta)
