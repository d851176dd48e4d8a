"""Evaluating the loss again, in the middle of a training, so that afterwards all is as before, to the bit.

Put back are the trained weights and their gradients, buffers, plain attributes and modes of the modules, and random states:
the global ones, and generators that a module or the loss holds. Knows a model and a loss; knows no gauge.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from inspect import getclosurevars
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrkit.gauges.batches import copied, tensors_of
from lrkit.snapshot import Restore, capture, capture_random

Loss = Callable[[Any, Any], Tensor]
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class Unavailable(Exception):
    """A gauge cannot be read in this training; the text says why."""


class NotNow(Unavailable):
    """It cannot be read at this update; at a later one it may."""


class Evaluation:
    """A context in which a batch's loss can be evaluated.

    Args:
        model: The model, wrappers taken off.
        parameters: Those that are trained.
        loss: ``(model, batch) → loss``.
        begin: Random states to begin with; None: the present ones.

    Attributes:
        held: The weights, as they are afterwards again.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[Tensor], loss: Loss, begin: Restore | None = None) -> None:
        self._model, self._parameters, self._loss = model, parameters, loss
        self._random = randomness(model, loss)
        self._begin = self._random if begin is None else begin
        self.held = [p.detach().clone() for p in parameters]
        self._grads = [p.grad for p in parameters]
        own = [vars(m) for m in model.modules()]
        self._attributes = [
            (now, dict(now)) for now in own + [now["_buffers"] for now in own if isinstance(now["_buffers"], dict)]
        ]
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_inference()]
        self._mode = torch.is_grad_enabled()

    def __enter__(self) -> Evaluation:
        try:
            for p in self._parameters:
                p.grad = None  # a loss that calls backward writes into another
            torch.set_grad_enabled(True)
        except BaseException:  # Ctrl-C
            self.__exit__()
            raise
        return self

    def __call__(self, batch: Any, first: bool = False) -> Tensor:
        """The loss of a batch.

        Args:
            batch: It is copied: a loss may write into what it is given.
            first: Whether to begin anew, with the same random numbers and buffers as always; else it goes on.

        Raises:
            Unavailable: If that is not a tensor of one number, or the loss changes the batch or the weights.
        """
        if first:
            self._begin()
            self._put_back_buffers()
        batch, versions = copied(batch), [p._version for p in self._parameters]
        torch.clear_autocast_cache()  # of weights that have moved since
        value = self._loss(self._model, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise Unavailable("loss(model, batch) does not return a tensor of one number")
        if any(tensor._version for tensor in tensors_of(batch)):
            raise Unavailable("loss(model, batch) changes its batch")
        if [p._version for p in self._parameters] != versions:
            raise Unavailable("loss(model, batch) changes the weights")
        if any(p.grad is not None for p in self._parameters):
            raise Unavailable("loss(model, batch) calls backward")
        return value.reshape(())

    def __exit__(self, *exception: object) -> None:
        torch.clear_autocast_cache()
        torch.set_grad_enabled(self._mode)
        with torch.no_grad():
            for p, old, grad in zip(self._parameters, self.held, self._grads, strict=True):
                p.copy_(old)
                p.grad = grad
        for now, before in self._attributes:
            for name in now.keys() - before.keys():
                del now[name]
            now.update(before)
        self._put_back_buffers()
        self._random()

    def _put_back_buffers(self) -> None:
        with torch.no_grad():
            for buffer, old in self._buffers:
                if not buffer.is_leaf:
                    buffer.detach_()  # a forward pass has drawn it into its graph
                buffer.copy_(old)


def randomness(model: nn.Module, loss: Loss) -> Restore:
    """Remember all random states that an evaluation may touch."""
    parts = [capture_random(), *(capture(one) for one in _generators(model, loss))]
    return lambda: [restore() for restore in parts]


def _generators(model: nn.Module, loss: Loss) -> Iterator[Any]:
    """What modules and the loss hold of random number generators, at first glance."""
    holders = [vars(m) for m in model.modules()]
    try:
        seen = getclosurevars(loss)
        holders += [dict(seen.nonlocals), dict(seen.globals)]
    except (TypeError, ValueError):
        pass  # no plain function
    held_by = getattr(loss, "__self__", loss)
    if hasattr(held_by, "__dict__"):
        holders.append(vars(held_by))
    for holder in holders:
        yield from (one for one in list(holder.values()) if isinstance(one, _GENERATORS))
