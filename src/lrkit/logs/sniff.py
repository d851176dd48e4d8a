"""`read`, `read_all`: any training log → Runs. Each reader is tried in turn; where none knows the file, all are named."""

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from lrkit.errors import FileError, InputError
from lrkit.logs.delimited import delimited
from lrkit.logs.documents import json_document
from lrkit.logs.huggingface import huggingface
from lrkit.logs.jsonl import jsonl
from lrkit.logs.mlflow import mlflow
from lrkit.logs.own import lrkit_run
from lrkit.logs.runs import runs_of
from lrkit.logs.source import Source, sources
from lrkit.logs.table import Table
from lrkit.logs.tensorboard import tensorboard
from lrkit.logs.text import text
from lrkit.run import Run

Reader = Callable[[Source], list[Table] | list[Run] | None]

# One reader a format: what it finds in a source, or None where the source is another's. The particular come before the general.
READERS: tuple[Reader, ...] = (lrkit_run, tensorboard, mlflow, huggingface, json_document, jsonl, delimited, text)


def read(path: str | Path, columns: Mapping[str, str] | None = None) -> Run:
    """Read the one run of a training log.

    Args:
        path: A file, packed by gzip or not, or a folder that holds one log: lrkit's run.jsonl, TensorBoard's events,
            trainer_state.json of transformers, CSV (Lightning, Keras, Ultralytics, AlgoPerf, W&B), JSON, JSON lines,
            MLflow, printed text.
        columns: Ours → theirs, over what is recognised, e.g. ``{"loss": "train/ce", "step": "it"}``.

    Returns:
        The run, its columns under lrkit's names where their meaning is known, under their own where not. `meta` has the file's
        name as ``source``, the ``format``, and what the file tells: ``optimizer``, ``lr`` if it is constant, ``steps`` planned,
        the ``run``'s name.

    Raises:
        FileError: If there is no run in it or several (`read_all` lists them), or no reader knows it.
        InputError: If `columns` is no mapping of names to names.

    Examples:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
        >>> _ = path.write_text("iter,train/loss\\n0,2.3\\n10,1.9\\n")
        >>> read(path)
        Run(2 rows, steps 0–10; step, loss)
    """
    runs = _all(path, columns, "read")
    if len(runs) > 1:
        raise FileError(
            f"read({str(path)!r}): it holds {len(runs)} runs, or one whose steps begin again {len(runs) - 1} times. "
            "List them: lrkit.read_all(path)."
        )
    return runs[0]


def read_all(path: str | Path, columns: Mapping[str, str] | None = None) -> list[Run]:
    """Read every run of a training log, or of all the logs in a folder.

    Args:
        path: As for `read`; of a folder also what lies in the folders in it.
        columns: As for `read`.

    Returns:
        The runs, in the order of the files' names, and within a file of their first lines; at least one.

    Raises:
        FileError: If there is none, or a log of them cannot be read.
        InputError: If `columns` is no mapping of names to names.
    """
    return _all(path, columns, "read_all")


@np.errstate(all="ignore")  # logs hold infinities, their differences, and signalling NaNs
def runs_in(source: Source, columns: Mapping[str, str] | None = None) -> list[Run]:
    """The runs of one source: what `read_all` does with each, without touching a disk.

    Raises:
        FileError: If there is none.
    """
    for reader in READERS:
        found = reader(source)
        if found is None:
            continue
        runs, refusal = [], None
        for one in found:
            try:
                runs += [_renamed(source, one, columns)] if isinstance(one, Run) else runs_of(source.where, one, columns or {})
            except FileError as error:
                refusal = refusal or error  # a table without a loss beside others that have one
        if refusal is not None and not runs:
            raise refusal
        if runs:
            return runs
    return _refused(source)


def _all(path: str | Path, columns: Mapping[str, str] | None, call: str) -> list[Run]:
    where = Path(path)
    if columns is not None and not (
        isinstance(columns, Mapping) and all(isinstance(name, str) for pair in columns.items() for name in pair)
    ):
        raise InputError(
            f"{call}(columns=...): it maps our names to the log's, e.g. {{'loss': 'train/ce'}}, got {columns!r:.60}."
        )
    runs: list[Run] = []
    for source in sources(where, call):
        for run in runs_in(source, columns):
            if "format" in run.meta:
                inside = source.path.relative_to(where).as_posix() if source.path != where else where.name
                run.meta = {"source": inside} | run.meta
            runs.append(run)
    return runs


def _renamed(source: Source, run: Run, columns: Mapping[str, str] | None) -> Run:
    """A run of lrkit's own, as it was saved but for what the caller renames."""
    if not columns:
        return run
    missing = [theirs for theirs in columns.values() if theirs not in run]
    if missing:
        raise FileError(f"{source.where}: there is no column {missing[0]!r}; it has {', '.join(run.columns)}. Name one of these.")
    ours = {theirs: name for name, theirs in columns.items()}
    return Run({ours.get(name, name): run[name] for name in run if name in ours or name not in columns}, run.meta)


def _refused(source: Source) -> list[Run]:
    names = ", ".join(reader.__name__ for reader in READERS)
    first = next(islice((line.strip()[:60] for line in source.text[:4096].split("\n") if line.strip()), 1), "")
    seen = f"Its first line is {first!r}" if first else "It is binary"
    raise FileError(
        f"{source.where}: no reader knows this file; tried {names}. {seen}. Write it as CSV with a header, e.g. step,loss,lr."
    )
