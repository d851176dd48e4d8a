"""A model's layers, and the order in which its forward pass runs them.

A *piece* is a module that is taken whole; a *layer* is a piece and what joins it: norms that run after it, loose parameters.
The order is measured with a batch, or traced by torch.fx, or else assumed as defined and checked by the first real forward pass.

Knows modules. Knows no rate and no group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter as Argument
from inspect import getattr_static, signature
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import fx, nn

from lrkit.errors import InputError, StateError
from lrkit.snapshot import capture, preserved

Pieces = dict[nn.Module, str]  # module → its first name, as defined; a piece's number is its place here
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_TABLE = (nn.Embedding, nn.EmbeddingBag)
_MOST = 8


def listed(names: list[str]) -> str:
    """Names for a message: the first eight, and how many more."""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(map(repr, names[:_MOST])) + more


def bare(module: nn.Module) -> nn.Module:
    """The module inside what torch.compile, DDP, FSDP and checkpointing wrap around it."""
    while True:
        parallel = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
        names = ("module",) if parallel else _WRAPPED
        inner = next((module._modules[name] for name in names if name in module._modules), None)
        if inner is None:
            return module
        module = inner


def walk(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """A module and every one below, with their names, wrappers left out; a shared one under each of its names."""
    yield name, module
    for key, child in module._modules.items():
        if child is not None:
            yield from walk(bare(child), below(name, key))


def below(name: str, key: str) -> str:
    """The full name of what a module of this name calls `key`."""
    return f"{name}.{key}" if name else key


@dataclass
class Layer:
    """Pieces and loose parameters that share one rate."""

    name: str
    params: list[nn.Parameter]
    tables: bool  # whether it is embedding tables and nothing else

    @property
    def thin(self) -> bool:
        """Whether it is norms and biases only, which are no layer of their own."""
        return all(parameter.ndim <= 1 for parameter in self.params)


def layers_of(call: str, model: nn.Module, example: Any = None) -> dict[str, list[nn.Parameter]]:
    """The layers' names and parameters, in the order of the forward pass. A tied parameter is in the earliest.

    Args:
        call: The call that asks, for the message.
        model: The model, unwrapped.
        example: What the model is called with: a tensor, a tuple or list of arguments, or a dict of keywords. The order is
            measured with it. None: it is traced; where that fails it is assumed, and checked by the first forward pass.

    Raises:
        InputError: If the model fails on the example, or does not run a layer.
    """
    for check in [hook.check for _, m in walk(model) for hook in m._forward_pre_hooks.values() if isinstance(hook, Note)]:
        check.remove()  # of groups that these replace
    pieces, loose = _pieces(model)
    where: dict[nn.Module, int] = {}
    for number, piece in enumerate(pieces):
        for _, module in walk(piece):
            where.setdefault(module, number)
    ran = _traced(model, where) if example is None else _measured(call, model, where, example)
    held = {parameter for piece in pieces if where[piece] in ran for parameter in piece.parameters()}
    missing = [name for piece, name in pieces.items() if not held.issuperset(piece.parameters())]
    if missing and example is not None:
        raise InputError(
            f"{call}(example=…): every layer must run, and the forward pass did not run {listed(missing)}. Give an example that "
            "uses them, or the order yourself: layers=[…]."
        )
    layers, place = _joined(pieces, list(range(len(pieces))) if missing else ran)
    for parameter, first, last in loose:
        home = min((place[number] for number in range(first, last) if number in place), default=0)
        layers[home].params.append(parameter)
    if missing and len(layers) > 1:
        FirstForward(call, model, list(pieces.values()), place, where)
    return {layer.name: layer.params for layer in layers}


def _joined(pieces: Pieces, order: list[int]) -> tuple[list[Layer], dict[int, int]]:
    """The pieces in this order as layers, and piece → layer of those that own a parameter."""
    layers: list[Layer] = []
    place: dict[int, int] = {}
    named = list(pieces.items())
    owned = set[nn.Parameter]()
    for number in order:
        piece, name = named[number]
        own = [parameter for parameter in piece.parameters() if parameter not in owned]
        owned.update(own)
        if not own:
            continue  # all of it is tied to an earlier layer
        new = Layer(name, own, isinstance(piece, _TABLE))
        if layers and (new.thin or layers[-1].thin or (new.tables and layers[-1].tables)):
            last = layers[-1]
            layers[-1] = Layer(name if last.thin else last.name, last.params + own, last.tables and new.tables)
        else:
            layers.append(new)
        place[number] = len(layers) - 1
    return layers, place


# -- what a piece is --------------------------------------------------------------------------------------------------------


def _pieces(model: nn.Module) -> tuple[Pieces, list[tuple[nn.Parameter, int, int]]]:
    """The pieces, and each loose parameter with the numbers of the first piece beside or below it and of the one after."""
    pieces: Pieces = {}
    loose: list[tuple[nn.Parameter, int, int]] = []
    if _children(model) and (_holds_a_list(model) or not _is_torchs(model)):
        _open(model, "", pieces, loose)
    if not pieces:
        return {model: "all"}, []
    held = {parameter for piece in pieces for parameter in piece.parameters()}
    return pieces, list({one[0]: one for one in reversed(loose) if one[0] not in held}.values())


def _open(module: nn.Module, name: str, pieces: Pieces, loose: list[tuple[nn.Parameter, int, int]]) -> None:
    """Collect what is below a module; the parameters that it holds itself are loose."""
    first, free = len(pieces), list(module.parameters(recurse=False))
    children = _children(module)
    kinds = Counter(type(child) for _, child in children)
    stages = {type(child) for _, child in children if _is_stage(child)}
    for key, child in children:
        item = isinstance(module, nn.ModuleList | nn.Sequential) or kinds[type(child)] > 2  # three of a class are a stack too
        opened = type(child) in stages if item else _holds_a_list(child) or (len(children) == 1 and _is_wrapper(child))
        if not _runs(child) and not _children(child):
            free += child.parameters()  # a ParameterList
        elif opened or not _runs(child) or type(child) is nn.Sequential:
            _open(child, below(name, key), pieces, loose)
        else:
            pieces.setdefault(child, below(name, key))
    loose += [(parameter, first, len(pieces)) for parameter in free]


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that have parameters."""
    children = [(key, bare(child)) for key, child in module._modules.items() if child is not None]
    return [(key, child) for key, child in children if next(child.parameters(), None) is not None]


def _runs(module: nn.Module) -> bool:
    """Whether it has a forward pass: lists, dicts and plain holders have none."""
    return getattr_static(type(module), "forward", None) is not nn.Module.forward  # a scripted one has no plain attribute


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _is_wrapper(module: nn.Module) -> bool:
    return bool(_children(module)) and not _is_torchs(module)


def _holds_a_list(module: nn.Module) -> bool:
    """Whether it is, or has somewhere below, a list of modules."""
    return any(isinstance(m, nn.ModuleList | nn.Sequential) and bool(_children(m)) for _, m in walk(module))


def _is_stage(module: nn.Module) -> bool:
    """Whether it is, or directly holds, a list with two blocks of one class.

    So the stages of a ResNet or Swin are opened, and a block is not: its experts lie deeper, its sublayers differ in class, a
    convolution with its norm is no block.
    """
    for part in [module, *(child for _, child in _children(module))]:
        if isinstance(part, nn.ModuleList | nn.Sequential):
            blocks = Counter(type(child) for _, child in _children(part) if _is_block(child))
            if blocks and max(blocks.values()) > 1:
                return True
    return False


def _is_block(module: nn.Module) -> bool:
    """Whether several modules in it hold a matrix."""
    return sum(any(p.ndim > 1 for p in m.parameters(recurse=False)) for _, m in walk(module)) > 1


# -- the order --------------------------------------------------------------------------------------------------------------


def _measured(call: str, model: nn.Module, where: Mapping[nn.Module, int], example: Any) -> list[int]:
    """The pieces in the order of their first use in one forward pass, after which everything is as before."""
    _check_hooks(call, where)
    ran: dict[int, None] = {}
    args = tuple(example) if isinstance(example, tuple | list) else () if isinstance(example, Mapping) else (example,)
    kwargs = dict(example) if isinstance(example, Mapping) else {}

    def note(module: nn.Module, _args: object) -> None:
        ran.setdefault(where[module])

    restore = capture((args, kwargs))  # a ReLU in place writes into what it is given
    with preserved(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        model.eval()
        handles = [module.register_forward_pre_hook(note) for module in where]
        try:
            model(*args, **kwargs)
        except Exception as error:
            raise InputError(
                f"{call}(example=…): the example must be what the model is called with, and its forward pass failed: "
                f"{type(error).__name__}: {error}. Give a tensor, a tuple of arguments or a dict of keywords."
            ) from error
        finally:
            restore()
            for handle in handles:
                handle.remove()
    return list(ran)


def _check_hooks(call: str, where: Mapping[nn.Module, int]) -> None:
    """Refuse what cannot be observed."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in where):
        raise InputError(f"{call}: a scripted module does not show in which order it runs. Give the layers yourself: layers=[…].")


class _Tracer(fx.Tracer):
    """Notes the pieces as they are called, and does not look inside."""

    def __init__(self, where: Mapping[nn.Module, int]) -> None:
        super().__init__()
        self.where = where
        self.ran: dict[int, None] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether it is a piece, or part of one."""
        return bare(m) in self.where or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Note it."""
        if bare(m) in self.where:
            self.ran.setdefault(self.where[bare(m)])
        return super().call_module(m, forward, args, kwargs)


def _traced(model: nn.Module, where: Mapping[nn.Module, int]) -> list[int]:
    """The pieces in the order of their first use, as torch.fx sees it; none where it fails."""
    tracer = _Tracer(where)
    try:
        _, *others = signature(model.forward).parameters.values()
        usual = {other.name: other.default for other in others if other.default is not Argument.empty}
        with preserved(model), catch_warnings():
            simplefilter("ignore")
            tracer.trace(model, concrete_args=usual)
    except Exception:  # whatever a forward pass does with what is no tensor
        return []
    return list(tracer.ran)


class FirstForward:
    """Checks an assumed order in the model's first real forward pass; afterwards it is gone.

    A forward pass that torch.compile traces is checked while it is traced, once, and costs nothing when it runs.
    """

    def __init__(
        self, call: str, model: nn.Module, names: list[str], place: dict[int, int], where: Mapping[nn.Module, int]
    ) -> None:
        _check_hooks(call, where)
        torch.compiler.assume_constant_result(_note_once)  # type: ignore[no-untyped-call]
        self.call, self.names, self.place = call, names, place
        self.ran: list[int] = []
        self.done = False
        self.handles = [m.register_forward_pre_hook(Note(self, number)) for m, number in where.items() if number in place]
        self.handles.append(model.register_forward_hook(Note(self, None)))

    def note(self, piece: int | None) -> None:
        """A piece is about to run; None: the model has run.

        Raises:
            StateError: If it was assumed to run before one that has run already, or if the model ran and no piece was seen.
        """
        if piece is None:
            self.done = True
            if not self.ran:
                raise StateError(
                    f"{self.call}: the order of definition was assumed, to be checked by the first forward pass, and that called "
                    "none of the layers as a module. Build the groups anew with layers=[…]."
                )
        elif not self.done and piece not in self.ran:
            self.ran.append(piece)
            last = self.ran[-2:][0]
            self.done = len(self.ran) == len(self.place)
            if self.place[piece] < self.place[last]:
                self.done = True
                ran, assumed = ([self.names[i] for i in order] for order in (self.ran, self.place))
                raise StateError(
                    f"{self.call}: the layers do not run in the order of their definition, which was assumed: "
                    f"{self.names[piece]!r} ran after {self.names[last]!r}. They ran as {listed(ran)}; assumed was "
                    f"{listed(assumed)}. Build the groups anew with example=, a batch, or with layers=[…]."
                )

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()


class Note:
    """The hook of one piece."""

    def __init__(self, check: FirstForward, piece: int | None) -> None:
        self.check, self.piece = check, piece

    def __call__(self, *_: object) -> None:
        """Note the piece; when all is known, go. While a graph is traced hooks must stay."""
        if torch.compiler.is_compiling():
            _note_once(self)
            return
        try:
            self.check.note(self.piece)
        finally:
            if self.check.done:
                self.check.remove()


def _note_once(hook: Note) -> None:
    """What torch.compile runs while it traces, and leaves out of the graph."""
    hook.check.note(hook.piece)
