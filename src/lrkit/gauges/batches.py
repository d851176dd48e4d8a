"""Batches: how long they are, cut in halves, and copied. Tensors, in tuples, lists and dicts, share their dimension 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Halves(NamedTuple):
    """A batch in two.

    Args:
        first: Its first half.
        second: The rest.
        rows: Examples in both.
    """

    first: Any
    second: Any
    rows: int


def halves(batch: Any) -> Halves | None:
    """A batch's tensors cut along dimension 0; None where they do not share a length, it is below 2, or there is more in it.

    Examples:
        >>> halves((torch.arange(4), {"y": torch.arange(4)}))
        Halves(first=(tensor([0, 1]), {'y': tensor([0, 1])}), second=(tensor([2, 3]), {'y': tensor([2, 3])}), rows=4)
    """
    rows = rows_of(batch)
    if rows is None or rows < 2:
        return None
    try:
        return Halves(_each(batch, lambda one: one[: rows // 2]), _each(batch, lambda one: one[rows // 2 :]), rows)
    except Exception:  # a container that cannot be made of its parts
        return None


def rows_of(batch: Any) -> int | None:
    """How many examples a batch holds: the length that its tensors share; None where they share none, or there is more in it."""
    lengths = set(_lengths(batch))
    return (lengths.pop() or None) if len(lengths) == 1 else None


def copied(batch: Any) -> Any:
    """A batch whose tensors may be written to."""
    try:
        return _each(batch, lambda one: one.detach().clone().requires_grad_(one.requires_grad))
    except Exception:  # a container that cannot be made of its parts
        return batch


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """The tensors in it."""
    if isinstance(batch, Tensor):
        yield batch
    elif _is_mapping(batch):
        for _, one in batch.items():
            yield from tensors_of(one)
    elif isinstance(batch, tuple | list):
        for one in batch:
            yield from tensors_of(one)


def _lengths(batch: Any) -> Iterator[int]:
    """Of tensors; 0 stands for what has none, or hides one: texts, arrays, a list of numbers."""
    if isinstance(batch, Tensor):
        yield len(batch) if batch.ndim and batch.layout == torch.strided else 0
    elif _is_mapping(batch):
        for _, one in batch.items():
            yield from _lengths(one)
    elif isinstance(batch, tuple | list):
        if batch and all(isinstance(one, int | float) for one in batch):
            yield 0
        for one in batch:
            yield from _lengths(one)
    elif batch is not None and not isinstance(batch, int | float):
        yield 0


def _each(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same batch, with a function of each tensor."""
    if isinstance(batch, Tensor):
        return function(batch)
    if _is_mapping(batch):
        parts = {name: _each(one, function) for name, one in batch.items()}
        return parts if isinstance(batch, dict) else type(batch)(parts)
    if isinstance(batch, tuple | list):
        some: Iterable[Any] = [_each(one, function) for one in batch]
        return type(batch)(*some) if hasattr(batch, "_fields") else type(batch)(some)
    return batch


def _is_mapping(batch: Any) -> bool:
    return isinstance(batch, dict) or (hasattr(batch, "items") and hasattr(batch, "keys"))
