"""Groups, and the one operation on them, `refine`: every group is split by a label, and each part takes options.

A parameter is known by its identity, its names and the modules that hold it; so what one builder made another one can split, and
messages name parameters. Knows no model's inner order, no optimizer and no schedule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lrkit.binding.layers import bare, below, listed, walk
from lrkit.errors import InputError, StateError, real

Options = Mapping[str, Any]
ALL, NO_DECAY = "all", "no_decay"
_OURS = ("params", "name", "param_names")
_NORM = re.compile(r"Norm(\dd)?$|(Layer|RMS|Batch|Group|Instance)Norm(?!Linear|MLP)")


@dataclass(frozen=True)
class Known:
    """A parameter's names, the first first, and the modules that hold it."""

    names: tuple[str, ...]
    holders: tuple[nn.Module, ...]

    @property
    def decays(self) -> bool:
        """Whether it is neither a bias nor a norm's."""
        last = self.names[0].rpartition(".")[2]
        bias = last == "bias" or last.startswith("bias_") or last.endswith("_bias")
        kinds = (kind.__name__ for holder in self.holders for kind in type(holder).__mro__)
        return not bias and not any(_NORM.search(kind) for kind in kinds)


class Groups(list[dict[str, Any]]):
    """Param groups, made by the builders of this module; prints as a table.

    Each is a dict with ``params``, ``name`` and options, which any torch optimizer takes. An optimizer makes these dicts its own:
    build the groups anew for a second one.

    Attributes:
        known: Each parameter → its names and the modules that hold it.
        models: The models that the groups were made from.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], known: Mapping[nn.Parameter, Known], models: Sequence[nn.Module]
    ) -> None:
        super().__init__(groups)
        self.known, self.models = dict(known), list(models)
        names, params = [group["name"] for group in self], [parameter for group in self for parameter in group["params"]]
        same = [name for name, times in Counter(names).items() if times > 1]
        if same:
            raise InputError(f"groups: each needs its own name, and two would be {listed(same)}. Name one of them otherwise.")
        twice = [self.known[parameter].names[0] for parameter, times in Counter(params).items() if times > 1]
        if twice:
            raise InputError(f"groups: each parameter belongs in one, and {listed(twice)} would be in two. Leave one out.")

    @property
    def names(self) -> dict[str, list[str]]:
        """Each group's name → the names of its parameters."""
        return {group["name"]: [self.known[parameter].names[0] for parameter in group["params"]] for group in self}

    def __add__(self, other: object) -> Groups:  # type: ignore[override]
        """The groups of two models, for one optimizer.

        Raises:
            InputError: If a parameter or a group's name would be there twice.
        """
        if not isinstance(other, Groups):
            raise InputError(f"groups + {type(other).__name__}: only groups can be added to groups. Build them from a model.")
        models = [*self.models, *(model for model in other.models if all(model is not mine for mine in self.models))]
        return Groups([*self, *other], self.known | other.known, models)

    __iadd__ = __add__

    def __repr__(self) -> str:
        keys = list(dict.fromkeys(key for group in self for key, value in group.items() if _is_number(key, value)))
        rows = [["name", *keys, "tensors", "parameters"]]
        for group in self:
            sizes = [parameter.numel() for parameter in group["params"]]
            values = [f"{float(group[key]):g}" if _is_number(key, group.get(key)) else "" for key in keys]
            rows.append([group["name"], *values, str(len(sizes)), f"{sum(sizes):,}"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])) for row in rows)
        return "\n".join("  ".join(line) for line in lines)


Model = nn.Module | Groups


def refine(
    model: Model,
    label: Callable[[str, nn.Parameter], str | None],
    options: Callable[[str | None, Options], Options],
    *,
    order: Sequence[str] = (),
    outer: bool = False,
) -> Groups:
    """Split every group by a label; each part takes options over those of its group. What every builder here is made of.

    Args:
        model: A model, or groups.
        label: A parameter's name, and it → its label; None: it stays under its group's name.
        options: A label and the group before → what the part's options become; the others stay.
        order: Labels in the order in which their parts shall stand; the others follow as they come. What has none stands first.
        outer: Whether the label stands before the group's name in the new one, as that of a wider part does.

    Returns:
        The groups; parameters in the order of the model.

    Raises:
        InputError: If the model has no parameters, a label is no text, or two groups would share a name.

    Examples:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> rates = {"matrix": {"lr": 0.02}, "vector": {"lr": 0.001}}
        >>> refine(net, lambda name, p: "matrix" if p.ndim > 1 else "vector", lambda label, group: rates[label])
        name       lr  tensors  parameters
        matrix   0.02        2           8
        vector  0.001        2           3
    """
    groups = groups_of("refine", model)
    if not callable(label) or not callable(options):
        raise InputError(
            "refine(model, label, options): label and options must be functions. Write label=lambda name, parameter: …."
        )
    rank: dict[str | None, int] = {None: -1} | {name: i for i, name in enumerate(order)}
    made = []
    for group in groups:
        parts: dict[str | None, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            part = label(groups.known[parameter].names[0], parameter)
            if not (part is None or (isinstance(part, str) and part)):
                raise InputError(f"refine: a label must be a text or None, got {part!r:.60}. It becomes the group's name.")
            parts.setdefault(part, []).append(parameter)
        for part in sorted(parts, key=lambda one: rank.get(one, len(rank))):
            name = group["name"] if part is None else _joined(group["name"], part, outer, len(parts) == 1)
            taken = options_of("refine", part, options(part, group))
            made.append({"params": parts[part], "name": name, **_options_in(group), **taken})
    return Groups(made, groups.known, groups.models)


def groups_of(call: str, model: object) -> Groups:
    """A model's parameters as one group, ``all``; groups as they are.

    Raises:
        InputError: If it is neither, or has no parameters, or some that have no shape yet.
        StateError: If schedules drive the groups already.
    """
    if isinstance(model, Groups):
        stray = [i for i, group in enumerate(model) if not _is_whole(group, model.known)]
        if stray or not model:
            what = f"number {stray[0]} does not" if stray else "there are none"
            raise InputError(
                f"{call}(groups): groups have a name and a list of parameters of the models they were made from; {what}. Build "
                "them anew."
            )
        if any(key.startswith("lrkit_") for group in model for key in group):
            raise StateError(
                f"{call}(groups): schedules drive these groups already, so their rates are in motion. Build them anew."
            )
        return model
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise InputError(f"{call}: a model is needed, or the groups that a builder made, got {what}. Pass the model.")
    inner = bare(model)
    names: dict[nn.Parameter, list[str]] = {}
    holders: dict[nn.Parameter, list[nn.Module]] = {}
    for name, module in walk(inner):
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            names.setdefault(parameter, []).append(below(name, key))
            holders.setdefault(parameter, []).append(module)
    if not names:
        raise InputError(f"{call}({type(inner).__name__}): the model has no parameters, so there is nothing to group.")
    lazy = [name for parameter, (name, *_) in names.items() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise InputError(f"{call}: {listed(lazy)} have no shape yet, and the groups depend on it. Run one batch first.")
    known = {parameter: Known(tuple(names[parameter]), tuple(holders[parameter])) for parameter in names}
    return Groups([{"params": list(names), "name": ALL}], known, [inner])


def options_of(call: str, who: object, options: object) -> dict[str, Any]:
    """Options as a dict; a number alone is a rate.

    Raises:
        InputError: If they are neither, hold a key of torch's own, or a rate or decay that is no number of at least 0.
    """
    taken = dict(options) if isinstance(options, Mapping) else {"lr": options}
    for key, value in taken.items():
        if not isinstance(key, str) or key in _OURS:
            raise InputError(
                f"{call}: an option of {who!r} is called {key!r}, and that is not one to set. Say lr=, weight_decay=, …."
            )
        if key in ("lr", "weight_decay"):
            taken[key] = rate_of(call, f"{key} of {who!r}", value)
    return taken


def rate_of(call: str, name: str, value: Any) -> Any:
    """A number of at least 0, as a float; a tensor of one stays a tensor."""
    number = real(call, name, value, least=0.0)
    return value if isinstance(value, Tensor) else number


def _is_whole(group: object, known: Mapping[nn.Parameter, Known]) -> bool:
    """Whether it is still a group as it was made."""
    if not isinstance(group, dict) or not isinstance(group.get("name"), str) or not isinstance(group.get("params"), list):
        return False
    return all(isinstance(parameter, nn.Parameter) and parameter in known for parameter in group["params"])


def _joined(name: str, label: str, outer: bool, whole: bool) -> str:
    """A part's name. ``all`` says nothing and goes, ``no_decay`` stays last, and a whole group is not named twice."""
    core = name.removesuffix(f"/{NO_DECAY}")
    mark = name[len(core) :]
    if label == NO_DECAY:
        return f"{core}/{NO_DECAY}"
    if core == ALL or (core == label and whole):
        return label + mark
    return (f"{label}/{core}" if outer else f"{core}/{label}") + mark


def _options_in(group: Options) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in _OURS}


def _is_number(key: str, value: object) -> bool:
    """Whether it is an option to show: a number, or a tensor of one."""
    if key in _OURS or key.startswith("lrkit_"):
        return False
    return (isinstance(value, Real) and not isinstance(value, bool)) or (isinstance(value, Tensor) and value.numel() == 1)
