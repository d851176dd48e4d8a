"""View: what a gauge sees of a training, and how what it read becomes columns.

Knows model, optimizer, the loss to evaluate again and the batches to do it on, the layers, and whether parts of the tensors lie
in other processes. Knows no gauge and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lrkit.binding.layers import bare
from lrkit.binding.processes import parallel
from lrkit.optim.lists import flat
from lrkit.snapshot import capture_random

Value = float | Tensor
Loss = Callable[[Any, Any], Tensor]
MOST_LAYERS = 24  # columns a quantity: of more layers, neighbours are taken together


class Unavailable(Exception):
    """A gauge cannot be read in this training; the text says why."""


class View:
    """What a gauge sees.

    Args:
        model: The model, wrappers taken off.
        optimizer: Its optimizer.
        loss: ``(model, batch) → loss``; None: nothing can be evaluated again.

    Attributes:
        batches: What was recorded of the coming update's batches.
        said: What was recorded of the coming update.
        step: The coming update, or the one just made.
        memory: What a gauge keeps from one visit to the next, by its own name.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss | None) -> None:
        self.wrapped, self.model, self.optimizer, self.loss = model, bare(model), optimizer, loss
        self.batches: list[Any] = []
        self.said: dict[str, Value] = {}
        self.step = 0
        self.memory: dict[str, Tensor] = {}
        self._groups: tuple[list[int], list[str], Tensor] = ([], [], torch.zeros(0))

    # -- tensors ----------------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> list[Tensor]:
        """Every parameter that the optimizer may change."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    @property
    def moved(self) -> list[Tensor]:
        """Those of them that have a gradient."""
        return [p for p in self.parameters if p.grad is not None]

    def gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """(parameters, gradients) of those that have one: this process's part, of a sparse gradient the values it holds."""
        moved = self.moved
        return moved, [_dense(p.grad) for p in moved]

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the parameters (FSDP2, DTensors)."""
        return any(_placed(p) is not None for p in self.parameters)

    def summed(self, parameters: Sequence[Tensor], sums: Tensor) -> Tensor:
        """(…, n) sums over this process's part of each parameter, made those of the whole: one reduction a mesh."""
        places: dict[tuple[Any, Any], list[int]] = {}
        for i, p in enumerate(parameters):
            if (placed := _placed(p)) is not None:
                places.setdefault(placed, []).append(i)
        for (mesh, placements), which in places.items():
            part = sums[..., which]
            for i, placement in enumerate(placements):
                if not placement.is_replicate():
                    torch.distributed.all_reduce(part, group=mesh.get_group(i))
            sums[..., which] = part
        return sums

    # -- layers -----------------------------------------------------------------------------------------------------------

    def named(self, name: str, parameters: Sequence[Tensor], sums: Tensor, formula: Callable[..., Tensor]) -> dict[str, Value]:
        """``name`` and, where there are several layers, ``name/<layer>``.

        Args:
            name: The column.
            parameters: n of them.
            sums: (k, n) k sums over each parameter.
            formula: Of the k sums over a layer, or over all: the quantity.
        """
        if not parameters:
            return {}
        names, place = self._layers(parameters)
        place = place.to(sums.device)
        layers = torch.zeros((len(sums), len(names)), dtype=sums.dtype, device=sums.device).index_add_(1, place, sums)
        columns = torch.cat([layers.sum(1, keepdim=True), layers], dim=1) if len(names) > 1 else layers
        labels = [name, *(f"{name}/{layer}" for layer in names)] if len(names) > 1 else [name]
        return spread(labels, formula(*columns))

    def layers(self, parameters: Sequence[Tensor]) -> tuple[list[str], list[int]]:
        """(names, place of each parameter's layer in them)."""
        names, place = self._layers(parameters)
        return names, place.tolist()

    def _layers(self, parameters: Sequence[Tensor]) -> tuple[list[str], Tensor]:
        known = [id(p) for p in parameters]
        if known != self._groups[0]:
            names = {id(p): name for name, p in self.model.named_parameters()}
            labels = [names.get(id(p), f"group{self._group(p)}") for p in parameters]
            layers, place = grouped(labels)
            self._groups = known, layers, torch.tensor(place)
        return self._groups[1], self._groups[2]

    def _group(self, parameter: Tensor) -> int:
        groups = self.optimizer.param_groups
        return next(i for i, group in enumerate(groups) if any(p is parameter for p in group["params"]))

    # -- evaluating again ---------------------------------------------------------------------------------------------------

    @contextmanager
    def evaluation(self) -> Iterator[Callable[[Any], Tensor]]:
        """Inside, a function gives a batch's loss, by the same random numbers each time; all is put back."""
        if self.loss is None:
            raise Unavailable("no loss= was given to watch")
        loss, restore = self.loss, capture_random()
        buffers = [b for b in self.model.buffers() if not getattr(b, "is_inference", bool)()]
        before = [b.detach().clone() for b in buffers]

        def again(batch: Any) -> Tensor:
            restore()
            value = loss(self.model, batch)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise Unavailable("loss(model, batch) does not return a tensor of one number")
            return value.reshape(())

        try:
            with torch.enable_grad():
                yield again
        finally:
            restore()
            with torch.no_grad():
                for buffer, old in zip(buffers, before, strict=True):
                    buffer.copy_(old)

    def check_evaluable(self) -> None:
        """Refuse what an evaluation would disturb, or what it needs and is not there.

        Raises:
            Unavailable: Without a loss or a batch; where shards or batch statistics are shared with other processes.
        """
        if self.loss is None:
            raise Unavailable("no loss= was given to watch")
        if not self.batches:
            raise Unavailable("no batch= was recorded")
        if self.sharded:
            raise Unavailable("the weights are sharded: all processes would have to evaluate together")
        if parallel() and any(isinstance(m, nn.SyncBatchNorm) for m in self.model.modules()):
            raise Unavailable("SyncBatchNorm needs every process to evaluate")


def spread(labels: Sequence[str], values: Tensor) -> dict[str, Value]:
    """(n,) values under n names: numbers where nothing has to be waited for, else tensors that stay on their device."""
    return dict(zip(labels, values.tolist() if values.device.type == "cpu" else values.unbind(), strict=True))


def grouped(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Layers of named parameters: the longest prefixes of which there are at most MOST_LAYERS, and each parameter's place.

    Examples:
        >>> grouped(["body.0.weight", "body.0.bias", "body.1.weight", "head.weight"])
        (['body.0', 'body.1', 'head'], [0, 0, 1, 2])
    """
    paths = [name.split(".")[:-1] for name in names]
    prefixes = [path[:1] for path in paths]
    for depth in range(2, max(map(len, paths), default=0) + 1):
        deeper = [path[:depth] for path in paths]
        if len({tuple(one) for one in deeper}) > MOST_LAYERS:
            break
        prefixes = deeper
    labels = [".".join(one) or "self" for one in prefixes]
    layers = list(dict.fromkeys(labels))
    each = -(-len(layers) // MOST_LAYERS)
    runs = [layers[i : i + each] for i in range(0, len(layers), each)] if each else []
    place = {layer: i for i, run in enumerate(runs) for layer in run}
    return [run[0] if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs], [place[label] for label in labels]


def halves(batch: Any) -> tuple[Any, Any, int, int] | None:
    """(first half, second half, rows of each) of a batch: its tensors, in tuples, lists and dicts, cut along dimension 0.

    None where they do not share a length, or it is below 2.
    """
    lengths = set(_lengths(batch))
    if len(lengths) != 1 or (rows := lengths.pop()) < 2:
        return None
    cut = rows // 2
    return _cut(batch, slice(0, cut)), _cut(batch, slice(cut, None)), cut, rows - cut


def rows_of(batch: Any) -> int | None:
    """How many examples a batch holds: the length that its tensors share; None where they share none."""
    lengths = set(_lengths(batch))
    return lengths.pop() if len(lengths) == 1 else None


def _lengths(batch: Any) -> Iterator[int]:
    if isinstance(batch, Tensor):
        yield len(batch) if batch.ndim else 0
    elif isinstance(batch, dict) or hasattr(batch, "items"):
        for _, one in batch.items():
            yield from _lengths(one)
    elif isinstance(batch, tuple | list):
        for one in batch:
            yield from _lengths(one)


def _cut(batch: Any, rows: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[rows]
    if isinstance(batch, dict):
        return {name: _cut(one, rows) for name, one in batch.items()}
    if hasattr(batch, "items"):
        return type(batch)({name: _cut(one, rows) for name, one in batch.items()})
    if isinstance(batch, tuple | list):
        parts: Iterable[Any] = [_cut(one, rows) for one in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _placed(parameter: Any) -> tuple[Any, Any] | None:
    """(mesh, placements) of a DTensor of which each process holds a part."""
    placements = getattr(parameter, "placements", None)
    if placements is None or all(one.is_replicate() for one in placements):
        return None
    return parameter.device_mesh, placements


def _dense(grad: Any) -> Tensor:
    """What is here of a gradient, as the optimizer's kernels see it; of a sparse one the values."""
    return grad.coalesce().values() if grad.is_sparse else flat(grad)


def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What is here of each tensor, as reals; the same memory."""
    return [flat(one) for one in tensors]
