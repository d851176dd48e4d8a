"""View: what a gauge sees of a training, and how what it read becomes columns.

Knows model, optimizer, the loss to evaluate again and the batches to do it on, the layers, and whether parts of the tensors lie
in other processes. Knows no gauge and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lrkit.binding.layers import bare, walk
from lrkit.binding.processes import parallel
from lrkit.gauges.evaluation import Evaluation, Loss, NotNow, Unavailable, randomness
from lrkit.optim.lists import flat
from lrkit.snapshot import Restore

Value = float | Tensor
MOST_LAYERS = 24  # columns a quantity: of more layers, neighbours are taken together


class View:
    """What a gauge sees.

    Args:
        model: The model, wrappers taken off.
        optimizer: Its optimizer.
        loss: ``(model, batch) → loss``; None: nothing can be evaluated again.

    Attributes:
        batches: What was recorded of the coming update's batches.
        rows: How many examples each of them holds, as far as that is known; also where the batches themselves are not kept.
        said: What was recorded of the coming update.
        step: The coming update, or the one just made.
        evaluating: Whether a gauge is evaluating the loss.
        memory: What a gauge keeps from one visit to the next, by its own name.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss | None) -> None:
        self.wrapped, self.model, self.optimizer, self.loss = model, bare(model), optimizer, loss
        self.batches: list[Any] = []
        self.rows: list[int | None] = []
        self.said: dict[str, Value] = {}
        self.step = 0
        self.evaluating = False
        self.memory: dict[str, Tensor] = {}
        self._groups: tuple[list[int], list[str], dict[int, int]] = ([], [], {})

    # -- tensors ----------------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> list[Tensor]:
        """Every parameter that the optimizer may change."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    def gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """(parameters, gradients) of those that have one: this process's part, of a sparse gradient the values it holds."""
        moved = [p for p in self.parameters if p.grad is not None]
        return moved, [_dense(p.grad) for p in moved]

    @property
    def flattened(self) -> bool:
        """Whether each process holds an unnamed part of them (FSDP1)."""
        return any(getattr(p, "_fsdp_flattened", False) for p in self.parameters)

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
        names, place = self.layers(parameters)
        at = torch.tensor(place, device=sums.device)
        layers = torch.zeros((len(sums), len(names)), dtype=sums.dtype, device=sums.device).index_add_(1, at, sums)
        columns = torch.cat([layers.sum(1, keepdim=True), layers], dim=1) if len(names) > 1 else layers
        labels = [name, *(f"{name}/{layer}" for layer in names)] if len(names) > 1 else [name]
        return spread(labels, formula(*columns))

    def layers(self, parameters: Sequence[Tensor]) -> tuple[list[str], list[int]]:
        """(names, place of each parameter's layer in them); what a layer is does not depend on which parameters are asked for."""
        _, names, home = self._layers()
        places = [home[id(p)] for p in parameters]
        there = {layer: i for i, layer in enumerate(sorted(set(places)))}
        return [names[layer] for layer in there], [there[place] for place in places]

    def _layers(self) -> tuple[list[int], list[str], dict[int, int]]:
        groups = self.optimizer.param_groups
        known = [id(p) for group in groups for p in group["params"]]
        if known != self._groups[0]:
            labels = {id(p): f"{group.get('name', f'group{i}')}." for i, group in enumerate(groups) for p in group["params"]}
            named = [(f"{path}.{key}", p) for path, module in walk(self.model) for key, p in module._parameters.items()]
            labels |= {id(p): name.removeprefix(".") for name, p in reversed(named) if id(p) in labels}
            names, place = grouped([labels[one] for one in known])
            self._groups = known, names, dict(zip(known, place, strict=True))
        return self._groups

    # -- evaluating again ---------------------------------------------------------------------------------------------------

    def random(self) -> Restore:
        """Remember the random states that an evaluation may touch."""
        return randomness(self.model, self.check_evaluable())

    @contextmanager
    def evaluation(self, begin: Restore | None = None) -> Iterator[Evaluation]:
        """Inside, the loss can be evaluated; all is put back. `begin`: random states to begin with, else the present ones."""
        loss, self.evaluating = self.check_evaluable(), True
        try:
            with Evaluation(self.model, self.parameters, loss, begin) as evaluation:
                yield evaluation
        finally:
            self.evaluating = False

    def check_evaluable(self) -> Loss:
        """The loss; refused is what an evaluation would disturb, or what it needs and is not there.

        Raises:
            Unavailable: Without a loss or a batch; where shards or batch statistics are shared with other processes.
        """
        if self.loss is None:
            raise Unavailable("no loss= was given to watch")
        if self.sharded:
            raise Unavailable("the weights are sharded: all processes would have to evaluate together")
        if parallel() and any(isinstance(m, nn.SyncBatchNorm) for m in self.model.modules()):
            raise Unavailable("SyncBatchNorm needs every process to evaluate")
        if not self.batches:
            raise NotNow("no batch= was recorded")
        return self.loss


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
