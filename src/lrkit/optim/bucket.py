"""Bucket: the parameters of one group that stand at the same update and can be handed to a kernel together.

Its lists are kept from step to step, and made anew only when something has changed: which parameters have gradients, a layout, a
buffer's place. The state keeps torch's layout and names; ``step`` (and NAdam's ``mu_product``) of all members lie in one array,
so that counting costs one addition.
This module knows torch's state and param groups; it knows no rule's formula and no kernel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C import TensorBase

from lrkit.errors import StateError
from lrkit.optim.lists import Lists, fits, flat
from lrkit.optim.reference import Values
from lrkit.optim.rule import Rule

_COUNTED = 2**24 - 1  # beyond, a float32 no longer counts


class Cell:
    """One parameter with its state.

    Args:
        parameter: As the group has it.
        entry: Its state; what is missing is made.
        place: Where it stands in the optimizer.
        rule: What its state is for.
        group: The hyperparameters.
    """

    __slots__ = ("carry", "entry", "parameter", "place", "t", "values")

    def __init__(self, parameter: Tensor, entry: dict[str, Any], place: int, rule: Rule, group: Mapping[str, Any]) -> None:
        self.parameter, self.entry, self.place = parameter, entry, place
        begun = complete(parameter, entry, rule, group)
        self.t = int(entry["step"]) if rule.counts else int(begun)
        self.carry = float(entry[rule.direction.CARRY]) if rule.direction.CARRY else None
        self.values = Values(flat(parameter), *(flat(entry[name]) if name else None for name in rule.names))


def complete(parameter: Tensor, entry: dict[str, Any], rule: Rule, group: Mapping[str, Any]) -> bool:
    """Make what a parameter's state lacks, in torch's names, order and layout.

    Returns:
        Whether it had its buffers already.
    """
    counter = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    where = parameter.device if group.get("capturable") else "cpu"
    done = float(any(name and entry.get(name) is not None for name in rule.names))  # where nobody counted: at least one
    for name, start in ((("step", done),) if rule.counts else ()) + (
        ((rule.direction.CARRY, 1.0),) if rule.direction.CARRY else ()
    ):
        if not isinstance(entry.get(name), Tensor):  # old checkpoints of torch have plain numbers
            entry[name] = torch.tensor(float(entry.get(name, start)), dtype=counter, device=where)
    begun = True
    for name in sorted(rule.names, key=rule.scale.buffer.__ne__) if rule.form.after else rule.names:  # in torch's order
        there = entry.get(name) if name else None
        if there is not None and there.shape != parameter.shape:
            raise StateError(
                f"step(): {name} has the shape {tuple(there.shape)} in the state, and its parameter {tuple(parameter.shape)}. "
                "Load a checkpoint of this model."
            )
        if name and (there is None or there.is_sparse):
            begun = begun and there is not None
            entry[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            if there is not None:
                entry[name].add_(there)
            elif name == rule.scale.buffer and (first := rule.scale.first(group)):
                flat(entry[name]).fill_(first)
    return begun


class Bucket(Lists):
    """Cells that take the same update together.

    Args:
        cells: All at the same update, on one device, of one dtype.
        gradients: Theirs.
        rule: What they follow.
        walkable: Whether kernels may walk memory from end to end.

    Attributes:
        t: The updates done.
        addresses: Of the gradients; empty where they are looked up anew each time.
        fresh: Whether these have changed since a kernel last looked.
        runner: What executes; chosen by `backends`.
    """

    def __init__(self, cells: list[Cell], gradients: list[Tensor], rule: Rule, walkable: bool) -> None:
        p, m, v, x = ([getattr(cell.values, name) for cell in cells] for name in "pmvx")
        super().__init__(p, gradients, m, v, x, walkable)
        self.cells, self.t = cells, cells[0].t
        self.places = np.array([cell.place for cell in cells], dtype=np.uint32)
        self._earlier: Any = None
        self.fresh = True
        self.runner: Any = None
        self._rule = rule
        entries = self._entries = [cell.entry for cell in cells]
        self._counts = _shared(entries, "step", self.t) if rule.counts else None
        self._carries = _shared(entries, rule.direction.CARRY, cells[0].carry or 0.0) if rule.direction.CARRY else None
        names = [name for name in (*rule.names, "step" if rule.counts else "", rule.direction.CARRY) if name]
        self._held = [(name, [entry[name] for entry in entries]) for name in names]  # the very objects
        self._tensors = [*(cell.parameter for cell in cells), *(entry[name] for entry in entries for name in rule.names if name)]
        self._plain = all(
            type(one) in (Tensor, torch.nn.Parameter) and not one.is_complex() and one.layout == torch.strided
            for one in (*self._tensors, *gradients)
        )
        if not self._plain:
            self.g = [flat(one) for one in gradients]
        self._contiguous = walkable and all(one.is_contiguous() for one in self.p)
        # What could be the same memory in another order; buffers of one dimension are nobody's to turn.
        ordered = [one for i, one in enumerate(self._tensors) if i < len(cells) or one.dim() > 1]
        self._ordered = ordered if self._contiguous else []
        self._kept = [one.data_ptr() for one in self._tensors] if self._plain else []
        self.addresses = [one.data_ptr() for one in self.g] if self._plain else []
        self._sizes = [one.nbytes for one in self.p]

    @property
    def carry(self) -> float | None:
        """What the direction remembers besides m."""
        return None if self._carries is None else float(self._carries[0])

    def still(self, gradients: list[Tensor]) -> bool:
        """Whether everything is where it was, but for the gradients, which are taken over until `release`.

        Of gradients at the addresses of the last ones only order and size are looked at again.

        Args:
            gradients: Of the members, in order.
        """
        if not self._plain:
            return False
        try:
            addresses = list(map(_address, gradients))
        except RuntimeError:  # sparse ones have none
            return False
        if addresses != self.addresses:
            self.addresses, self.fresh = addresses, True
            alike = self._alike(gradients)
        elif self._contiguous:
            alike = all(map(_contiguous, gradients)) and list(map(_bytes, gradients)) == self._sizes
        else:
            alike = self._alike(gradients)
        self.g = gradients
        return alike and self._state_holds() and list(map(_address, self._tensors)) == self._kept

    def _state_holds(self) -> bool:
        """Whether state and layout are those that were left."""
        try:
            for name, held in self._held:
                if not all(map(is_, map(dict.__getitem__, self._entries, repeat(name)), held)):
                    return False
        except KeyError:
            return False
        return self._counts_hold() and all(map(_contiguous, self._ordered))

    def _alike(self, gradients: list[Tensor]) -> bool:
        """Whether new gradients have the layout that lets this bucket be what it is."""
        if set(map(type, gradients)) != {Tensor} or set(map(_dtype, gradients)) != {self.p[0].dtype}:
            return False
        if any(map(_negative, gradients)):
            return not self.walkable
        if self._contiguous and all(map(_contiguous, gradients)) and list(map(_bytes, gradients)) == self._sizes:
            return True
        here = self._tensors[: len(self.p)]
        return all(
            p.stride() == self.p[i].stride() and fits(self.values(i), g) is self.walkable
            for i, (p, g) in enumerate(zip(here, gradients, strict=True))
        )

    def release(self) -> None:
        """Let the gradients go, so that their memory is free as soon as their owner lets go of them."""
        self.g = []

    def _counts_hold(self) -> bool:
        if self._counts is None:
            return True
        if self.t >= _COUNTED and self._counts.dtype == np.float32:
            return False
        if self._carries is not None and not (self._carries == self._carries[0]).all():
            return False
        return bool((self._counts == self.t).all())

    def advance(self, group: Mapping[str, Any]) -> int:
        """Count the update that is to be made now, and return its number, from 1."""
        self._earlier = None if self._carries is None else self._carries.copy()
        self.t += 1
        if self._counts is not None:
            self._counts += 1
        if self._carries is not None:
            direction: Any = self._rule.direction
            self._carries *= self._carries.dtype.type(direction.momentum(self.t, group))
        return self.t

    def retreat(self) -> None:
        """Take the last count back: its update was not made."""
        self.t -= 1
        if self._counts is not None:
            self._counts -= 1
        if self._carries is not None:
            self._carries[:] = self._earlier


class Ledger:
    """The buckets of one param group."""

    def __init__(self) -> None:
        self._rule: Rule | None = None
        self._parameters: list[Tensor] = []
        self._missing: list[bool] = []
        self._buckets: list[tuple[Bucket, list[int]]] = []

    def buckets(
        self, group: Mapping[str, Any], rule: Rule, state: dict[Tensor, Any], offset: int, unchanged: bool
    ) -> list[Bucket]:
        """The buckets of what has a gradient now.

        Args:
            group: The param group.
            rule: What it follows.
            state: The optimizer's.
            offset: Where the group's first parameter stands in the optimizer.
            unchanged: Whether the state has the entries that it had after the last update.
        """
        parameters = group["params"]
        gradients = [p.grad for p in parameters]
        if not (unchanged and self._still(parameters, gradients, rule)):
            with torch.no_grad():
                live = [i for i, g in enumerate(gradients) if g is not None]
                entries = state if rule.counts or any(rule.names) else defaultdict(dict)  # torch's SGD keeps no empty ones
                cells = [Cell(parameters[i], entries[parameters[i]], offset + i, rule, group) for i in live]
                self._buckets = _sorted(cells, [gradients[i] for i in live], live, rule)
            self._rule, self._parameters, self._missing = rule, list(parameters), [g is None for g in gradients]
        return self.made()

    def made(self) -> list[Bucket]:
        """The buckets of the last update."""
        return [bucket for bucket, _ in self._buckets]

    def _still(self, parameters: list[Tensor], gradients: list[Tensor | None], rule: Rule) -> bool:
        if rule is not self._rule or len(parameters) != len(self._parameters) or not all(map(is_, parameters, self._parameters)):
            return False
        if [g is None for g in gradients] != self._missing:
            return False
        if len(self._buckets) == 1 and len(self._buckets[0][1]) == len(gradients):
            return self._buckets[0][0].still(gradients)  # type: ignore[arg-type]
        return all(bucket.still([gradients[i] for i in members]) for bucket, members in self._buckets)  # type: ignore[misc]


_address, _contiguous, _negative = TensorBase.data_ptr, TensorBase.is_contiguous, TensorBase.is_neg  # no subclass comes here
_dtype, _bytes = attrgetter("dtype"), attrgetter("nbytes")


def _sorted(cells: list[Cell], gradients: list[Any], live: list[int], rule: Rule) -> list[tuple[Bucket, list[int]]]:
    """Buckets, and which of the group's parameters are in each."""
    groups: dict[Any, list[int]] = {}
    for i, (cell, g) in enumerate(zip(cells, gradients, strict=True)):
        p = cell.values.p
        kind = (cell.t, cell.carry, p.device, p.dtype, g.layout, fits(cell.values, flat(g)))
        groups.setdefault(kind, []).append(i)
    return [
        (Bucket([cells[i] for i in members], [gradients[i] for i in members], rule, kind[-1]), [live[i] for i in members])
        for kind, members in groups.items()
    ]


def _shared(entries: Sequence[dict[str, Any]], name: str, value: float) -> np.ndarray:
    """One array for a number that all members have; each state holds its own element of it, as a 0-d tensor.

    Its type is torch's for counters, whatever a checkpoint was cast to, so that a resumed run goes on to the bit.
    """
    wide = torch.get_default_dtype() == torch.float64 or (name == "step" and value >= _COUNTED)
    array = np.full(len(entries), value, dtype=np.float64 if wide else np.float32)
    for entry, element in zip(entries, torch.from_numpy(array).unbind(), strict=True):
        entry[name] = element
    return array
