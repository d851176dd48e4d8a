"""Capture the whole state of a training and put it back, bit for bit, in place.

Knows modules, optimizers, random number generators and data loaders. Knows nothing of rates. All in memory, no file; costs one
copy of weights, buffers, gradients and optimizer state.

Everything is restored *into the same objects*: parameters, state tensors and group dictionaries keep their identity, so that
whoever holds one of them (a compiled step, a scaler, an attached schedule) never notices.
"""

from __future__ import annotations

import queue
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrkit.errors import InputError

Restore = Callable[[], Any]
_PLAIN = (int, float, complex, str, bytes, bool, type(None))


def capture(value: Any, seen: dict[int, Restore] | None = None) -> Restore:
    """Remember a value; calling what comes back restores it and returns it.

    Tensors are cloned and later copied back into themselves; dicts, lists and sets are refilled in place; random number
    generators get their state back; anything else is only kept. What is met twice (tied weights) is remembered once.

    Args:
        value: What to remember.
        seen: By identity, what this capture has already met.
    """
    seen = {} if seen is None else seen
    if isinstance(value, _PLAIN):
        return lambda: value
    if id(value) not in seen:
        seen[id(value)] = lambda: value  # for what contains itself
        seen[id(value)] = _capture_new(value, seen)
    return seen[id(value)]


def _capture_new(value: Any, seen: dict[int, Restore]) -> Restore:
    if isinstance(value, Tensor):
        return _capture_tensor(value, seen)
    if isinstance(value, dict):
        entries = {key: capture(entry, seen) for key, entry in value.items()}
        return lambda: _refill(value, value.update, {key: restore() for key, restore in entries.items()})
    if isinstance(value, list):
        items = [capture(item, seen) for item in value]
        return lambda: _refill(value, value.extend, [restore() for restore in items])
    if isinstance(value, set):
        members = set(value)
        return lambda: _refill(value, value.update, members)
    if isinstance(value, deque):
        members_in_order = [capture(item, seen) for item in value]
        return lambda: _refill(value, value.extend, [restore() for restore in members_in_order])
    if isinstance(value, np.ndarray) and value.flags.writeable and not value.dtype.hasobject:
        return _then(value, partial(np.copyto, value, value.copy()))
    if isinstance(value, tuple):
        parts = [capture(item, seen) for item in value]
        return _then(value, lambda: [restore() for restore in parts])
    return _capture_generator(value)


def _refill(container: Any, fill: Callable[[Any], object], content: Any) -> Any:
    container.clear()
    fill(content)
    return container


def _capture_tensor(tensor: Tensor, seen: dict[int, Restore]) -> Restore:
    if isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer):
        raise InputError("snapshot: a lazy parameter has no values yet. Run one batch through the model first.")
    with torch.no_grad():
        copy = tensor.detach().clone()
    keeps_grad = tensor.is_leaf  # only leaves have a `.grad`; asking others warns
    grad = capture(tensor.grad, seen) if keeps_grad else None
    wants_grad = tensor.requires_grad

    def restore() -> Tensor:
        with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
            if tensor.shape != copy.shape or tensor.dtype != copy.dtype:
                tensor.data = copy.clone()
            else:
                _once(tensor).copy_(_once(copy, like=tensor))
        if grad is not None:
            if not tensor.is_leaf:
                tensor.detach_()  # a buffer that a forward pass has drawn into its graph
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.requires_grad_(wants_grad)
            tensor.grad = grad()
        return tensor

    return restore


def _once(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """The part of an expanded tensor that has memory of its own: the rest cannot be written to."""
    like = tensor if like is None else like
    if like.layout is not torch.strided or 0 not in like.stride():
        return tensor
    return tensor[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in like.stride())]


def _capture_generator(value: Any) -> Restore:
    if isinstance(value, torch.Generator):
        return _then(value, partial(value.set_state, value.get_state()))
    if isinstance(value, np.random.Generator):
        return _then(value, partial(setattr, value.bit_generator, "state", value.bit_generator.state))
    if isinstance(value, np.random.RandomState):
        return _then(value, partial(value.set_state, value.get_state()))
    if isinstance(value, random.Random):
        return _then(value, partial(value.setstate, value.getstate()))
    return lambda: value


def _then(value: Any, restore: Callable[[], object]) -> Restore:
    """Restore it, and return it."""

    def both() -> Any:
        restore()
        return value

    return both


def capture_random() -> Restore:
    """Remember the global random states of Python, NumPy, torch and, where it runs, CUDA."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return restore


def capture_module(model: nn.Module, seen: dict[int, Restore]) -> Restore:
    """Remember weights, buffers, gradients, mode flags and every plain attribute of every submodule."""
    parts = [capture(vars(module), seen) for module in model.modules()]
    return lambda: [restore() for restore in parts]


def capture_optimizer(optimizer: torch.optim.Optimizer, seen: dict[int, Restore]) -> Restore:
    """Remember state, groups, defaults and hooks; what appears later goes away again, what vanishes comes back.

    And what an optimizer of lrkit has counted of its clipping.
    """
    tally = getattr(optimizer, "tally", None)
    parts = [capture(vars(one), seen) for one in (optimizer, tally) if hasattr(one, "__dict__")]
    return lambda: [restore() for restore in parts]


_DEEP = 6  # how far into a loader's attributes generators are looked for


def capture_loader(batches: Any, seen: dict[int, Restore]) -> Restore:
    """Remember what decides a loader's next batch: its attributes, those of its samplers, data sets and transforms, and every
    random number generator among them.

    A loader with ``state_dict`` and ``load_state_dict`` is asked for its own state too. The data itself is not copied. What
    cannot be rewound, an iterator that the loader holds, is not found out.
    """
    parts: list[Restore] = []
    waiting, met = [(batches, 0)], set[int]()
    while waiting:
        part, depth = waiting.pop()
        if id(part) in met or depth > _DEEP or isinstance(part, _NO_PARTS):
            continue
        met.add(id(part))
        if isinstance(part, list | tuple):
            waiting += [(item, depth + 1) for item in part[:_FEW]]
        elif isinstance(part, _GENERATORS):
            parts.append(capture(part, seen))
        elif hasattr(part, "__dict__"):
            waiting += [(value, depth + 1) for value in vars(part).values() if not isinstance(value, _PLAIN)]
            parts.append(_capture_attributes(part, seen))
            if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
                parts.append(partial(part.load_state_dict, part.state_dict()))
    return lambda: [restore() for restore in parts]


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_NO_PARTS = (type, nn.Module, Tensor, np.ndarray, ModuleType, FunctionType, MethodType, queue.Queue)
_FEW = 64  # longer lists hold data, not parts of a loader


def _capture_attributes(part: Any, seen: dict[int, Restore]) -> Restore:
    """Attributes, index lists and containers; the data itself is kept but not copied: nobody trains it."""
    attributes = vars(part)
    kept = {name: _capture_attribute(value, seen) for name, value in attributes.items()}
    if attributes.get("_iterator") is not None:
        # Persistent workers: a new epoch would reset the iterator that its owner may be in the middle of. It comes back.
        attributes["_iterator"] = None
    return lambda: _refill(attributes, attributes.update, {name: restore() for name, restore in kept.items()})


def _capture_attribute(value: Any, seen: dict[int, Restore]) -> Restore:
    if isinstance(value, list):
        items = list(value)
        return lambda: _refill(value, value.extend, items)
    if isinstance(value, dict):
        entries = dict(value)
        return lambda: _refill(value, value.update, entries)
    if isinstance(value, np.ndarray | Tensor) and value.ndim != 1:
        return lambda: value  # data; one dimension is an order, weights or labels, which a sampler may shuffle in place
    return (lambda: value) if isinstance(value, tuple) else capture(value, seen)


@contextmanager
def preserved(
    model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None, batches: Any = None
) -> Iterator[None]:
    """Whatever happens inside, afterwards everything is as before: also after an exception or Ctrl-C.

    Restored bit for bit: weights, buffers, gradients, mode flags and plain attributes of the model; state and groups of the
    optimizer; the global random states of Python, NumPy, torch and CUDA; what decides the loader's next batch.

    Args:
        model: The model, if it is touched.
        optimizer: The optimizer, if it is touched.
        batches: The loader, if it is read.

    Raises:
        InputError: If the model has lazy parameters that hold no values yet.
    """
    seen: dict[int, Restore] = {}
    restores = [capture_random()]
    if model is not None:
        restores.append(capture_module(model, seen))
    if optimizer is not None:
        restores.append(capture_optimizer(optimizer, seen))
    if batches is not None:
        restores.append(capture_loader(batches, seen))
    try:
        yield
    finally:
        with ExitStack() as every:  # one that fails must not keep the others from their work
            for restore in reversed(restores):
                every.callback(restore)
