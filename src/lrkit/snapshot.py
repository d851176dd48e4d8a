"""Capture the whole state of a training and put it back, bit for bit, in place.

Knows modules, optimizers, random number generators, data loaders, and what functions hold. Knows nothing of rates. All in memory,
no file; costs one copy of weights, buffers, gradients and optimizer state.

Everything is restored *into the same objects*: parameters, state tensors and group dictionaries keep their identity, so that
whoever holds one of them (a compiled step, a scaler, an attached schedule) never notices.
"""

from __future__ import annotations

import dis
import queue
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

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
    """Remember weights, buffers, gradients, mode flags and every plain attribute of every submodule.

    Of DDP's wrapper the mode only: its attributes say how far its reducer is, which cannot be put back.
    """
    parts: list[Restore] = []
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            parts.append(partial(setattr, module, "training", module.training))
        elif id(vars(module)) not in seen:
            parts.append(capture(vars(module), seen))
    return lambda: [restore() for restore in parts]


def capture_optimizer(optimizer: torch.optim.Optimizer, seen: dict[int, Restore]) -> Restore:
    """Remember state, groups, defaults and hooks; what appears later goes away again, what vanishes comes back.

    And what an optimizer of lrkit has counted of its clipping, and the optimizer inside of one that wraps it (SAM, Lookahead).
    """
    tally = getattr(optimizer, "tally", None)
    parts, waiting = [], [optimizer, tally]
    for one in waiting:
        if hasattr(one, "__dict__") and id(vars(one)) not in seen:
            parts.append(capture(vars(one), seen))
            waiting += [inner for inner in vars(one).values() if isinstance(inner, torch.optim.Optimizer)]
    return lambda: [restore() for restore in parts]


_DEEP = 6  # how far into attributes generators, and what else holds state, are looked for


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
            attributes = _capture_attributes(part, seen)
            parts += [_capture_own(part, seen), attributes] if _has_state(part) else [attributes]
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


def _has_state(part: Any) -> bool:
    """Whether it says of itself that it has a state; its class is asked, for some instances answer to any name."""
    return hasattr(type(part), "state_dict") and hasattr(type(part), "load_state_dict")


def _capture_own(part: Any, seen: dict[int, Restore]) -> Restore:
    """The state that an object says it has; it may hand out its own containers, and go on writing in them."""
    try:
        state = capture(part.state_dict(), seen)
    except AttributeError:  # accelerate's loaders have the method, and a state only where the loader inside has one
        return lambda: None
    return lambda: part.load_state_dict(state())


def capture_functions(
    functions: Iterable[Any], seen: dict[int, Restore], besides: Any = None, weights: Iterable[Tensor] = ()
) -> Restore:
    """Remember what functions keep from one call to the next: their variables, and what holds state within their reach.

    Their *variables*, which are bound again to what they were bound to, are those that they assign, nonlocal or global, and the
    attributes of the object whose method they are. What *holds state* is put back in place: modules, optimizers, generators,
    loaders, whatever has ``state_dict`` and ``load_state_dict`` (scalers, averages of weights, schedulers), tensors of one number
    or with a weight's shape; it is reached by variables, arguments, attributes, lists and dicts. What is in lists and dicts of
    their own, and other tensors, stay: logs and data.

    Args:
        functions: What is called; None is passed over.
        seen: By identity, what this capture has already met.
        besides: What is left alone, since it is captured for itself: the loader.
        weights: Of the model.
    """
    given = [layer for function in functions for layer in _layers(function)]
    parts = [_capture_variables(layer) for layer in given]
    waiting, met, shapes = deque((layer, 0) for layer in given), {id(besides)}, {weight.shape for weight in weights}
    while waiting:
        part, depth = waiting.popleft()
        if id(part) in met or isinstance(part, _STATELESS):
            continue
        met.add(id(part))
        if isinstance(part, nn.Module):
            parts.append(capture_module(part, seen))
        elif isinstance(part, torch.optim.Optimizer):
            parts.append(capture_optimizer(part, seen))
        elif isinstance(part, DataLoader):
            parts.append(capture_loader(part, seen))
        elif isinstance(part, _GENERATORS) or (isinstance(part, Tensor) and (part.numel() == 1 or part.shape in shapes)):
            parts.append(capture(part, seen))
        elif not isinstance(part, Tensor):
            if _has_state(part) and hasattr(part, "__dict__"):
                # The attributes last: a scaler that is loaded takes its present scale for its first one.
                parts += [_capture_own(part, seen), capture(vars(part), seen)]
            waiting += [(inner, depth + 1) for inner in _within(part) if depth < _DEEP]
    return lambda: [restore() for restore in parts]


_STATELESS = (int, float, complex, str, bytes, type(None), type, ModuleType, np.ndarray, queue.Queue)
_CAPTURED = (nn.Module, torch.optim.Optimizer, DataLoader, type, *_GENERATORS)  # otherwise than by what their attributes are


def _layers(function: Any) -> Iterator[Any]:
    """A function, and what it is made of: the object whose method it is, what partials and decorators wrap."""
    while function is not None:
        yield function
        if isinstance(function, partial):
            function = function.func
        elif isinstance(function, MethodType):
            yield function.__self__
            function = function.__func__
        elif isinstance(function, FunctionType):
            function = vars(function).get("__wrapped__")
        else:
            call = type(function).__call__ if callable(function) else None
            function = call if isinstance(call, FunctionType) else None


def _capture_variables(layer: Any) -> Restore:
    parts: list[Restore] = []
    if isinstance(layer, FunctionType):
        assigned = _assigned(layer.__code__)
        parts += [partial(setattr, cell, "cell_contents", value) for name, cell, value in _cells(layer) if name in assigned]
        scope = layer.__globals__
        parts.append(partial(scope.update, {name: scope[name] for name in assigned if name in scope}))
    if hasattr(layer, "__dict__") and not isinstance(layer, _CAPTURED):
        attributes = vars(layer)
        parts.append(partial(_refill, attributes, attributes.update, dict(attributes)))
    return lambda: [restore() for restore in parts]


def _assigned(code: CodeType) -> set[str]:
    """The names that a function, or one that is defined in it, declares nonlocal or global and assigns."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname in ("STORE_DEREF", "STORE_GLOBAL")}
    return own.union(*(_assigned(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _named(code: CodeType) -> set[str]:
    """The names that a function, or one that is defined in it, may look up."""
    return set(code.co_names).union(*(_named(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _cells(function: FunctionType) -> list[tuple[str, CellType, Any]]:
    """(name, cell, value) of each variable of a closure that has a value."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [(name, cell, cell.cell_contents) for name, cell in cells if cell != CellType()]  # equal where nothing is in it


def _within(part: Any) -> list[Any]:
    """What leads on from an object, a function or a container."""
    if isinstance(part, partial):
        return [part.func, part.args, part.keywords]
    if isinstance(part, MethodType):
        return [part.__self__, part.__func__]
    if isinstance(part, FunctionType):
        scope = part.__globals__
        values = [value for *_, value in _cells(part)]
        values += [scope[name] for name in _named(part.__code__) if name in scope]
        return [*values, part.__defaults__, part.__kwdefaults__, *vars(part).values()]
    if isinstance(part, list) and part and isinstance(part[0], _PLAIN):
        return []  # numbers
    if isinstance(part, list | tuple | set | deque | dict):
        return list(islice(part.values() if isinstance(part, dict) else part, _MANY))
    return list(vars(part).values()) if hasattr(part, "__dict__") else []


_MANY = 4096  # a longer container holds data


@contextmanager
def preserved(
    model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None, batches: Any = None, *functions: Any
) -> Iterator[None]:
    """Whatever happens inside, afterwards everything is as before: also after an exception or Ctrl-C.

    Restored bit for bit: weights, buffers, gradients, mode flags and plain attributes of the model; state and groups of the
    optimizer; the global random states of Python, NumPy, torch and CUDA; what decides the loader's next batch; what functions
    keep (see `capture_functions`); whether torch records gradients.

    Args:
        model: The model, if it is touched.
        optimizer: The optimizer, if it is touched.
        batches: The loader, if it is read.
        *functions: What else is called inside: the loss, a step, a validation; None is passed over.

    Raises:
        InputError: If the model has lazy parameters that hold no values yet.
    """
    seen: dict[int, Restore] = {}
    weights = [] if model is None else [*model.parameters(), *model.buffers()]
    # What interrupts the end of a no_grad leaves it switched off.
    restores: list[Restore] = [capture_random(), partial(torch.set_grad_enabled, torch.is_grad_enabled())]
    try:
        if model is not None:
            restores.append(capture_module(model, seen))
        if optimizer is not None:
            restores.append(capture_optimizer(optimizer, seen))
        restores.append(capture_functions(functions, seen, batches, weights))
        if batches is not None:
            restores.append(capture_loader(batches, seen))
        yield
    finally:
        with ExitStack() as every:  # one that fails must not keep the others from their work
            for restore in reversed(restores):
                every.callback(restore)
