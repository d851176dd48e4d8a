"""Param-group builders: each takes a model, or the groups that another one made, and answers with groups for any optimizer.

Every parameter is in exactly one group. All builders are one operation, `refine`: every group is split by a label, and each part
takes options. Names tell the way: ``head`` split by `no_decay` is ``head`` and ``head/no_decay``, and ``attach(lr={"head": …})``
drives both.

Knows modules and their parameters. Knows no optimizer and no schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from typing import Any, overload

from torch import nn

from lrkit.binding.layers import bare, layers_of, listed, walk
from lrkit.binding.refine import NO_DECAY, Groups, Model, Options, groups_of, options_of, rate_of, refine
from lrkit.errors import InputError, StateError, real

__all__ = ["Groups", "by_pattern", "head_and_backbone", "layerwise", "modalities", "no_decay", "refine"]

Names = str | tuple[str, ...]
Rule = Callable[[Model], Groups]
Towers = Mapping[Any, float | Options]  # keys are Names; a Mapping of them would refuse a dict of strings


def by_pattern(model: Model, patterns: Towers, rest: float | Options | None = None) -> Groups:
    """Groups by the names of parameters. Over groups it overrides: the pattern's options replace theirs.

    Args:
        model: A model, or groups.
        patterns: Pattern → options, or a rate alone. A pattern is a glob such as ``"encoder.*"``; a module's name stands for
            all below it; a tuple of patterns is one group. Options are any keys of a param group; `lr` at least 0.
        rest: Options of all others. None: there are none; over groups, those whose group has a rate keep it.

    Returns:
        A group for each pattern, named after it, and ``rest``.

    Raises:
        InputError: If a parameter matches two patterns, or none and `rest` is not given; if a pattern matches nothing; if the
            names of a tied parameter fall into different groups.

    Examples:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> by_pattern(net, {"0": {"lr": 1e-4, "weight_decay": 0.1}}, rest=1e-3)
        name      lr  weight_decay  tensors  parameters
        0     0.0001           0.1        2           8
        rest   0.001                      2           3
    """
    return _by_name("by_pattern", model, patterns, rest)


def head_and_backbone(
    model: Model,
    *,
    head: str | nn.Module | Sequence[str | nn.Module],
    lr: float,
    backbone_lr: float,
) -> Groups:
    """Two groups, ``head`` and ``backbone``, each with its rate: fine-tuning's usual pair.

    Args:
        model: A model, or groups, whose rates are replaced.
        head: The head: a submodule's name, the submodule itself, or a list of them.
        lr: The head's rate, at least 0.
        backbone_lr: The rate of everything else, at least 0.

    Returns:
        The groups.

    Raises:
        InputError: If there is no such submodule, it is everything, or a tied parameter is in both.

    Examples:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> head_and_backbone(net, head=net[1], lr=1e-3, backbone_lr=1e-5)
        name         lr  tensors  parameters
        backbone  1e-05        2           8
        head      0.001        2           3
    """
    call = "head_and_backbone"
    groups = groups_of(call, model)
    parts = [head] if isinstance(head, str | nn.Module) else head
    if not isinstance(parts, Sequence) or not parts or not all(isinstance(part, str | nn.Module) for part in parts):
        raise InputError(f"{call}(head={head!r}): head must be a submodule, its name, or a list of them. Name one.")
    names = tuple(name for part in parts for name in _names_of(call, groups, part))
    rates = {"lr": lr, "backbone_lr": backbone_lr}
    slow, fast = ({"lr": real(call, key, rates[key], least=0.0)} for key in ("backbone_lr", "lr"))
    made = _by_name(call, groups, {names: fast}, slow, {None: "backbone", names: "head"}, outer=True)
    if all(group["name"].partition("/")[0] == "head" for group in made):
        raise InputError(f"{call}(head={listed(list(names))}): the backbone needs parameters, and the head holds all. Name less.")
    return made


@overload
def modalities(model: Model, towers: Towers, rest: float | Options | None = None) -> Groups: ...
@overload
def modalities(model: Towers, *, rest: float | Options | None = None) -> Rule: ...
def modalities(
    model: Model | Towers,
    towers: Towers | None = None,
    rest: float | Options | None = None,
) -> Groups | Rule:
    """A group and a rate for each tower of a model of several modalities.

    Args:
        model: A model, or groups, whose rates are replaced. Left out: a rule comes back, to be called on a model or on groups.
        towers: A submodule's name → its rate or options; a tuple of names is one tower.
        rest: Options of what is outside all towers. None: nothing may be; over groups, what has a rate keeps it.

    Returns:
        The groups, named after the towers, and ``rest``; or the rule.

    Raises:
        InputError: If a tower does not exist, a parameter is outside all or in two, or a tied one is in two.

    Examples:
        >>> net = nn.ModuleDict({"vision": nn.Linear(3, 2), "text": nn.Linear(4, 2)})
        >>> rule = modalities({"vision": 1e-2, "text": 1e-3})
        >>> rule(net)
        name       lr  tensors  parameters
        vision   0.01        2           8
        text    0.001        2          10
    """
    if towers is None and isinstance(model, Mapping):
        _read("modalities", model, rest)
        return partial(modalities, towers=model, rest=rest)
    if isinstance(model, Mapping) or towers is None:
        raise InputError(
            "modalities: a model and its towers are needed, or the towers alone. Say modalities(model, {'text': 1e-3})."
        )
    return _by_name("modalities", model, towers, rest, outer=True)


def layerwise(
    model: Model,
    lr: float | None = None,
    decay: float | None = None,
    *,
    layers: Sequence[Names] | None = None,
    example: Any = None,
) -> Groups:
    """A group for each layer, whose rate falls with the distance from the output::

        lr of layer k = lr · decay ** (n − 1 − k)        k = 0 … n − 1 in the order of the forward pass

    Items of a ModuleList or Sequential are a layer each, and so is any other module beside them. A norm belongs to the layer
    that runs before it; tables that run one after another are one layer; a parameter that the model holds itself belongs to the
    first layer. What is used twice counts at its first use; so parallel branches follow one another as they first run.

    The order is measured with `example`. Without it, it is traced by torch.fx; where that fails, it is that of definition, and
    the model's first forward pass raises a StateError if it contradicts. Measuring and tracing hold a copy of the weights for
    their time; giving `layers` costs nothing.

    Args:
        model: A model, or groups, whose own rates are multiplied.
        lr: The last layer's rate, at least 0; for groups, that of those that have none.
        decay: The factor from one layer to the one before it, in (0, 1]. It must be given.
        layers: The layers themselves, the first nearest to the input: names of modules, patterns, or tuples of them.
        example: What the model is called with: a tensor, a tuple or list of arguments, or a dict of keywords. One forward pass
            in eval mode without gradients, after which everything is as before.

    Returns:
        The groups, in the order of the forward pass, named after the layers' modules.

    Raises:
        InputError: If the example does not run every layer, or `layers` do not hold every parameter exactly once.

    Examples:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 1))
        >>> layerwise(net, lr=1e-3, decay=0.5)
        name      lr  tensors  parameters
        0     0.0005        4          12
        3      0.001        2           3

    Source: arXiv:1801.06146 §3.2 (ULMFiT, whose decay is 1/2.6); arXiv:2106.08254 (BEiT).
    """
    call = "layerwise"
    groups = groups_of(call, model)
    factor = real(call, "decay", decay, above=0.0)
    if factor > 1:
        raise InputError(f"{call}(decay={decay}): decay must be in (0, 1], got {decay}. 0.75 is usual.")
    bases = _bases(groups, lr)
    if len(groups.models) > 1:
        raise InputError(f"{call}: the layers of one model have an order, and these groups are of several. Add them afterwards.")
    if layers is not None and example is not None:
        raise InputError(f"{call}(layers=…, example=…): layers say the order, so there is none to measure. Leave one out.")
    if layers is None:
        found = layers_of(call, groups.models[0], example)
        home = {parameter: name for name, params in found.items() for parameter in params}
        order = list(found)
    else:
        home, order = _given_layers(groups, layers)
    rates = {name: factor**distance for distance, name in enumerate(reversed(order))}
    lost = [groups.known[parameter].names[0] for group in groups for parameter in group["params"] if parameter not in home]
    if lost:
        raise StateError(f"{call}: {listed(lost)} left the model after its groups were made. Build them anew.")
    return refine(
        groups, lambda _, parameter: home[parameter],
        lambda name, group: {"lr": bases[group["name"]] * rates[name or ""]}, order=order,
    )  # fmt: skip


def no_decay(model: Model, weight_decay: float | None = None) -> Groups:
    """No weight decay for biases, for parameters of norms and for all of at most one dimension.

    Args:
        model: A model, or groups; their other options stay.
        weight_decay: That of all others, at least 0. None: what their groups say, else what the optimizer does.

    Returns:
        The groups, each split into itself, with the decay, and ``<name>/no_decay``, with 0. A model's own are ``all`` and
        ``all/no_decay``.

    Raises:
        InputError: If the number is none, or negative.

    Examples:
        >>> no_decay(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), weight_decay=0.05)
        name          weight_decay  tensors  parameters
        all                   0.05        1           6
        all/no_decay             0        3           6

    Source: arXiv:1812.01187 §3.1.
    """
    groups = groups_of("no_decay", model)
    decay = {} if weight_decay is None else {"weight_decay": real("no_decay", "weight_decay", weight_decay, least=0.0)}

    def label(_: str, parameter: nn.Parameter) -> str | None:
        return None if parameter.ndim > 1 and groups.known[parameter].decays else NO_DECAY

    return refine(groups, label, lambda part, _: decay if part is None else {"weight_decay": 0.0})


# -- names ------------------------------------------------------------------------------------------------------------------


def _by_name(
    call: str,
    model: Model,
    patterns: Towers,
    rest: float | Options | None,
    titles: Mapping[Names | None, str] | None = None,
    outer: bool = False,
) -> Groups:
    """Split by which pattern a parameter's names match."""
    groups = groups_of(call, model)
    options = _read(call, patterns, rest)
    homes = _homes(call, groups, list(patterns))
    titles = titles or {**{key: _title(key) for key in patterns}, None: "rest"}
    if rest is not None and len(set(titles.values())) < len(titles):
        raise InputError(f"{call}: 'rest' names the group of all others, so no pattern can have it. Write 'rest.*'.")
    if rest is None:
        left = [p for group in groups if "lr" not in group for p in group["params"] if homes[p] is None]
        if left:
            raise InputError(
                f"{call}: every parameter needs a group, and nothing matches {_listed(groups, left)}. Name them too, or say "
                "rest=, the options of all others."
            )
    labels = {parameter: titles[key] for parameter, key in homes.items() if key in options}
    by_title = {titles[key]: one for key, one in options.items()}
    return refine(
        groups, lambda _, parameter: labels.get(parameter), lambda label, _: by_title.get(label or "", {}),
        order=list(titles.values()), outer=outer,
    )  # fmt: skip


def _read(call: str, patterns: Towers, rest: float | Options | None) -> dict[Names | None, Options]:
    """Each pattern's options, and under None those of the rest."""
    if not isinstance(patterns, Mapping) or not patterns:
        raise InputError(f"{call}: patterns must be a mapping such as {{'head': 1e-3}}, got {patterns!r:.60}. Name at least one.")
    read: dict[Names | None, Options] = {_checked(call, key): options_of(call, key, one) for key, one in patterns.items()}
    return read if rest is None else {**read, None: options_of(call, "rest", rest)}


def _checked(call: str, key: Names) -> Names:
    """A name, a pattern, or a tuple of them."""
    each = key if isinstance(key, tuple) else (key,)
    if not each or not all(isinstance(one, str) and one for one in each):
        raise InputError(f"{call}: a pattern must be a text, or a tuple of them, got {key!r}. Write it like 'encoder.*'.")
    return key


def _homes(call: str, groups: Groups, keys: Sequence[Names], earliest: bool = False) -> dict[nn.Parameter, Names | None]:
    """The key that each parameter's names match, None for none; of a tied one's several the earliest, or refused."""
    homes: dict[nn.Parameter, Names | None] = {}
    met, torn, used = list[str](), list[str](), set[str]()
    for parameter in (parameter for group in groups for parameter in group["params"]):
        names = groups.known[parameter].names
        found = [[key for key in keys if _hits(name, key, used)] for name in names]
        met += [name for name, hits in zip(names, found, strict=True) if len(hits) > 1]
        if len({hits[0] if hits else None for hits in found}) > 1:
            torn.append(" = ".join(names))
        homes[parameter] = min((key for hits in found for key in hits), key=list(keys).index, default=None)
    for one in (one for key in keys for one in (key if isinstance(key, tuple) else (key,)) if one not in used):
        raise InputError(f"{call}: {one!r} matches no parameter; {_nearest(groups, one)}.")
    if met:
        raise InputError(f"{call}: a parameter belongs in one group, and several patterns match {listed(met)}. Narrow one.")
    if torn and not earliest:
        raise InputError(
            f"{call}: a tied parameter is one parameter, and its names fall into different groups: {listed(torn)}. Put both "
            "into one, as a tuple of patterns, or match neither."
        )
    return homes


def _hits(name: str, key: Names, used: set[str]) -> bool:
    """Whether a parameter's name matches; a module's name stands for all below it. What matched is noted."""
    each = key if isinstance(key, tuple) else (key,)
    hits = {one for one in each if fnmatchcase(name, one) or fnmatchcase(name, f"{one}.*")}
    used |= hits
    return bool(hits)


def _names_of(call: str, groups: Groups, part: str | nn.Module) -> list[str]:
    """The names of a head given as such, or as a module."""
    if isinstance(part, str):
        return [part]
    names = [escape(name) or "*" for model in groups.models for name, module in walk(model) if module is bare(part)]
    if not names or not any(True for _ in part.parameters()):
        why = "has no parameters" if names else "is no part of the model"
        raise InputError(f"{call}(head=…): the head must be a submodule with parameters, and this {type(part).__name__} {why}.")
    return names


def _nearest(groups: Groups, name: str) -> str:
    """What could have been meant."""
    modules = [n for model in groups.models for n, module in walk(model) if n and any(True for _ in module.parameters())]
    known = [*modules, *(n for one in groups.known.values() for n in one.names)]
    near = get_close_matches(name, known, n=3)
    return f"nearest are {listed(near)}" if near else f"there are {listed([n for n in known if '.' not in n])}"


def _listed(groups: Groups, parameters: Sequence[nn.Parameter]) -> str:
    return listed([groups.known[parameter].names[0] for parameter in parameters])


def _title(key: Names) -> str:
    return "|".join(key) if isinstance(key, tuple) else key


# -- layers -----------------------------------------------------------------------------------------------------------------


def _bases(groups: Groups, lr: float | None) -> dict[str, Any]:
    """Each group's rate before the decay."""
    given = None if lr is None else real("layerwise", "lr", lr, least=0.0)
    bare_ones = [group["name"] for group in groups if "lr" not in group]
    if bare_ones and given is None:
        raise InputError(
            f"layerwise: a rate is needed to decay, and {listed(bare_ones)} has none. Say lr=, that of the last layer."
        )
    if not bare_ones and given is not None:
        raise InputError(f"layerwise(lr={lr}): these groups have rates of their own, which are multiplied. Leave lr out.")
    return {group["name"]: rate_of("layerwise", "lr of a group", group.get("lr", given)) for group in groups}


def _given_layers(groups: Groups, layers: object) -> tuple[dict[nn.Parameter, str], list[str]]:
    """Parameter → layer, and the layers in their order, as the user says them."""
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise InputError(
            f"layerwise(layers={layers!r:.60}): layers must be a list of names or patterns, the first nearest to the input."
        )
    keys = [_checked("layerwise", key) for key in layers]
    homes = _homes("layerwise", groups, keys, earliest=True)
    left = [parameter for parameter, key in homes.items() if key is None]
    if left:
        raise InputError(
            f"layerwise(layers=…): every parameter needs a layer, and none holds {_listed(groups, left)}. Name them too."
        )
    return {parameter: _title(key) for parameter, key in homes.items() if key is not None}, [_title(key) for key in keys]
