"""Tables whose columns are runs, groups or parts of a loss: Table → Tables with one loss each. Knows no files."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from lrkit.logs.names import HELD_OUT, SPLITS, canonical, meaning, plain, rate_in
from lrkit.logs.table import Array, Column, Rows, Table

LABELS = ("run", "run_name", "run_id", "name", "trial", "experiment")  # columns of words that tell runs apart
KEYS = ("metric", "tag", "key", "variable")  # columns of words that tell metrics apart
_MOST = 1000  # different words: more are no names
_WANDB = re.compile(r"(.+) - ([^ ].*?)(__MIN|__MAX)?")


def ultralytics(table: Table) -> list[Table] | None:
    """YOLO's results.csv: the loss is the sum of train/*_loss, and the rates are one a group.

    The group of the biases warms up from 0.1 downwards in some versions and is not the same group in all; the rate of the run is
    that of the first group that starts lowest.
    """
    parts = [name for name in table.columns if re.fullmatch(r"train/\w+_loss", name)]
    if not parts or "loss" in canonical(table.columns).values() or "epoch" not in canonical(table.columns).values():
        return None
    columns = dict(table.columns)
    columns["loss"] = _sum([table.columns[name] for name in parts])
    held = [name for name in table.columns if re.fullmatch(r"val/\w+_loss", name)]
    if held and "val_loss" not in canonical(columns).values():
        columns["val_loss"] = _sum([table.columns[name] for name in held])
    groups = {name: match[1] for name in columns if (match := re.fullmatch(r"(?:x/lr|lr/pg)(\d+)", name))}
    if groups and "lr" not in columns:
        main = min(groups, key=lambda name: (float(columns[name].values[0]), int(groups[name])))
        columns = {"lr" if name == main else f"lr/pg{groups[name]}" if name in groups else name: c for name, c in columns.items()}
    return [Table(columns, table.length, table.meta | {"format": "ultralytics"}, table.words)]


def _sum(columns: Sequence[Column]) -> Column:
    """The sum over the rows that have them all."""
    rows = columns[0].places()
    for column in columns[1:]:
        rows = np.intersect1d(rows, column.places())
    values: Array = sum((c.values[np.searchsorted(c.places(), rows)] for c in columns), np.zeros(len(rows)))
    return Column(values, rows)


def wandb(table: Table) -> list[Table] | None:
    """A chart of W&B: `<run> - <metric>`, with `__MIN` and `__MAX` of what it thinned out, one group of columns a run."""
    runs: dict[str, dict[str, Column]] = {}
    shared: dict[str, Column] = {}
    for name, column in table.columns.items():
        match = _WANDB.fullmatch(name)
        if match is None:
            shared[name] = column
        elif match[3] is None and meaning(match[2]) != "step":
            runs.setdefault(match[1], {})[match[2]] = column
    if not runs:
        return None
    meta = table.meta | {"format": "wandb"}
    step = {name: column for name, column in shared.items() if plain(name) != "relative_time_process"}
    return [Table(step | own, table.length, meta | {"run": run}, table.words) for run, own in runs.items()]


def rates(table: Table) -> list[Table] | None:
    """A sweep side by side: `learning_rate_0.005,learning_rate_0.01`, the cells are losses."""
    found = {name: rate for name in table.columns if (rate := rate_in(name)) is not None}
    if not found or "loss" in canonical(name for name in table.columns if name not in found).values():
        return None
    shared = {name: column for name, column in table.columns.items() if name not in found}
    return [
        Table(shared | {"loss": table.columns[name]}, table.length, table.meta | {"format": "sweep", "lr": rate, "run": name})
        for name, rate in found.items()
    ]


def labelled(table: Table, words: Mapping[str, Sequence[str]]) -> list[Table]:
    """A long table → one a run, with a column a metric.

    Args:
        table: The numbers.
        words: The cells of the columns that may tell runs (`LABELS`), metrics (`KEYS`), or held-out data (`SPLITS`) apart.
    """
    keys = next((cells for name, cells in words.items() if plain(name) in KEYS), None)
    value = next((name for name in table.columns if plain(name) == "value"), None)
    if keys is not None and value is not None and 0 < len(set(keys)) <= _MOST:
        table = _pivoted(table, value, keys)
    for name, cells in words.items():
        if plain(name) in SPLITS and name not in table.columns:
            table = _held_out(table, cells)
    for name, cells in words.items():
        kinds = list(dict.fromkeys(cells))
        if plain(name) in LABELS and name not in table.columns and len(kinds) <= _MOST and len(kinds) < len(cells):
            return [_rows_of(table, rows).told(run=kind) for kind, rows in _rows_by(cells).items() if kind]
    return [table]


def _pivoted(table: Table, value: str, keys: Sequence[str]) -> Table:
    """A value's column taken apart by the metric of its row."""
    columns = {name: column for name, column in table.columns.items() if name != value}
    cells, where = table.columns[value], np.full(table.length, -1)
    where[cells.places()] = np.arange(len(cells.values))
    for key, rows in _rows_by(keys).items():
        mine = where[rows]
        if key and (mine >= 0).any():
            columns[key] = Column(cells.values[mine[mine >= 0]], rows[mine >= 0])
    return Table(columns, table.length, table.meta, {})


def _held_out(table: Table, cells: Sequence[str]) -> Table:
    """The losses of the rows about held-out data, taken out of the loss's column as `val_loss`."""
    ours = canonical(table.columns)
    loss = next((name for name, one in ours.items() if one == "loss"), None)
    held = np.array([plain(cell) in HELD_OUT for cell in cells], bool)
    if loss is None or "val_loss" in ours.values() or held.all() or not held.any():
        return table
    rows, values = table.columns[loss].places(), table.columns[loss].values
    parts = {name: Column(values[keep], rows[keep]) for name, keep in ((loss, ~held[rows]), ("val_loss", held[rows]))}
    return Table(table.columns | parts, table.length, table.meta, table.words)


def _rows_by(words: Sequence[str]) -> dict[str, Rows]:
    """The rows of each word, in the order of their first."""
    number: dict[str, int] = {}
    kinds = np.array([number.setdefault(word, len(number)) for word in words])
    order = np.argsort(kinds, kind="stable")
    bounds = np.cumsum(np.bincount(kinds))[:-1]
    return dict(zip(number, np.split(order, bounds), strict=True))


def _rows_of(table: Table, rows: Rows) -> Table:
    """Some rows of a table, closed up."""
    new = np.full(table.length, -1)
    new[rows] = np.arange(len(rows))
    columns = {}
    for name, column in table.columns.items():
        place = new[column.places()]
        if (place >= 0).any():
            columns[name] = Column(column.values[place >= 0], place[place >= 0])
    return Table(columns, len(rows), table.meta, table.words)
