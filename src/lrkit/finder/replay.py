"""The same batches for every run: kept in memory while they are few, else read from the start again.

Knows loaders; knows no model. Reading goes on with random numbers of its own, so that no run sees what another drew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from lrkit.errors import InputError
from lrkit.snapshot import Restore, capture_loader, capture_random
from lrkit.task import seed_everything

_KEPT = 1 << 29  # bytes of batches that are kept


class Replay:
    """An endless stream of a loader's batches, epoch after epoch, the same from the start for each iteration.

    Args:
        batches: A loader that can be iterated again.
        seed: Of the order that it draws.
        limit: Bytes of batches to keep; where they do not suffice the loader is read from the start again.
    """

    def __init__(self, batches: Iterable[Any], seed: int, limit: int = _KEPT) -> None:
        if isinstance(batches, Iterator):
            raise InputError("batches: an iterator can be read only once. Pass what makes it: a list, a DataLoader.")
        if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
            raise InputError(f"batches: must be what can be iterated, got {type(batches).__name__}. Pass a list, a DataLoader.")
        self._batches, self._seed, self._limit = batches, seed, limit
        self._kept: list[Any] = []
        self._bytes = 0
        self.rows: int | None = None  # of the first batch
        self._source: Iterator[Any] | None = None  # goes on where the kept ones end
        self._rewind: Restore | None = None  # to where the loader is when it is first read

    def __iter__(self) -> Iterator[Any]:
        at = 0
        source = None if self._bytes <= self._limit else self._read()
        while True:
            if source is not None:
                yield next(source)
                continue
            if at == len(self._kept):
                self._keep_one()
            if self._bytes > self._limit:  # too many to keep: read again, past what this iteration has seen
                source = self._read()
                for _ in range(at):
                    next(source)
                continue
            yield _own(self._kept[at])
            at += 1

    def forget(self) -> None:
        """Let go of what is kept."""
        self._kept, self._bytes, self._source, self._rewind = [], 0, None, None

    def _keep_one(self) -> None:
        if self._source is None:
            self._source = self._read()
        batch = next(self._source)
        self._kept.append(batch)
        self._bytes += _size(batch)
        if self._bytes > self._limit:
            self._kept, self._source = [], None

    def _read(self) -> Iterator[Any]:
        """The loader's batches from its first epoch on, endlessly."""
        outside = capture_random()
        try:
            self._rewind = capture_loader(self._batches, {}) if self._rewind is None else self._rewind
            self._rewind()
            seed_everything(self._seed)
            own = capture_random()
        finally:
            outside()
        while True:
            source, empty = None, True
            while True:
                own, (source, batch) = _apart(own, self._batches, source)
                if batch is _OVER:
                    break
                empty = False
                self.rows = _rows(batch) if self.rows is None else self.rows
                yield batch
            if empty:
                raise InputError("batches: it yielded nothing, so there is nothing to train on. Is the data set empty?")


_OVER = object()


def _apart(own: Restore, batches: Iterable[Any], source: Iterator[Any] | None) -> tuple[Restore, tuple[Iterator[Any], Any]]:
    """The next batch, drawn with a stream of random numbers of its own; and that stream's state afterwards."""
    outside = capture_random()
    try:
        own()
        source = iter(batches) if source is None else source
        batch = next(source, _OVER)
        return capture_random(), (source, batch)
    finally:
        outside()


def _own(batch: Any) -> Any:
    """A container of its own for each run, since a loss may take things out of it; its tensors are shared."""
    return type(batch)(batch) if type(batch) in (dict, list) else batch


def _size(batch: Any, deep: int = 3) -> int:
    """Bytes of the arrays in a batch, as deep as batches usually hold them."""
    if isinstance(batch, Tensor | np.ndarray):
        return int(batch.nbytes)
    if isinstance(batch, dict):
        parts = list(batch.values())
    else:
        parts = list(batch) if isinstance(batch, list | tuple) else list(getattr(batch, "__dict__", {}).values())
    return sum(_size(part, deep - 1) for part in parts if not isinstance(part, ModuleType | type)) if deep else 0


def _rows(batch: Any) -> int | None:
    """The length of a batch's first tensor: what people call the batch size."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return next((rows for rows in map(_rows, parts) if rows is not None), None)
