"""Width: the rates of a wide model from that of a narrow one of the same kind, by the maximal update parametrisation (μP).

Under μP what each layer puts out keeps its size, and moves as fast, at every width; so one rate suits all widths, once it is
multiplied by what each parameter's shape says. Compares the shapes of two models; sees no forward pass, so what μP asks of that
is said in the answer. Changes no optimizer; `mup_init` changes the weights it is given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lrkit.binding.layers import listed
from lrkit.binding.refine import Groups, Known, Model, Options, groups_of, rate_of, refine
from lrkit.errors import InputError, real
from lrkit.finder.transfer import ADAM, PLAIN, Rate, Scaled, interval, kind_of

if TYPE_CHECKING:
    from lrkit.finder.transfer import Optimizer

_ENTRYWISE = (*ADAM, "adabelief", "adagrad", "lion")  # whose step does not depend on the gradient's size
_DECOUPLED = ("adamw", "lion")
_ROLES = ("input", "hidden", "output", "fixed")

Output = Literal["init", "multiplier"]


class _Growth(NamedTuple):
    """How a parameter differs from the base's: what it is, and its fans over those of the base."""

    role: str
    fan_in: float
    fan_out: float
    before: nn.Parameter


def width(
    model: Model,
    base: nn.Module,
    optimizer: Optimizer = "adamw",
    lr: Rate | None = None,
    *,
    weight_decay: float | None = None,
    output: Output = "init",
) -> Scaled:
    """The rates of a wide model, from that of a narrow one of the same class, as param groups::

        Adam and its kin   η ← η/r,     λ ← λ·r         r = fan-in over the base's, where that grew; else 1
        SGD                η ← η·q/r,   λ ← λ·r/q       q = fan-out over the base's, where that grew; else 1

    Parameters are told apart by which of their dimensions grew: ``hidden`` weights by both; those of ``output`` layers, which
    are Linear or convolutions, by their fan-in alone; ``input`` by one (first weights, embeddings, biases, norms); ``fixed`` by
    none. Weights of modules that torch does not have are read as (out, in), like Linear's.

    Args:
        model: The wide model; or groups of its parameters, whose options stay and whose rates and decays are multiplied.
        base: The narrow one, whose rate is known: only its shapes are read, so it may lie on the device ``"meta"``.
        optimizer: Its name, its class, or itself, made for the base.
        lr: The base's rate, or a Suggestion; for groups, that of those that have none. 1.0 gives the factors themselves.
        weight_decay: λ of the base, at least 0, in torch's convention: an update takes off η·λ; for groups, that of those that
            have none. None: the optimizer's own, if it is given itself. It must be known, for it is multiplied, too.
        output: How the model keeps its output from growing. ``"init"``: by smaller weights and a lower rate in its output layers.
            ``"multiplier"``: it divides by r what goes into them; so it must where one is tied to an embedding.

    Returns:
        The base's rate and its interval, unchanged, and ``groups``, with what μP makes of it.

    Raises:
        InputError: If the models differ in more than widths, a rate or decay is missing, the optimizer is none of these, or
            Adam shall decay through its gradient, for which μP has no rule.
        StateError: If the Suggestion found nothing, or schedules drive the groups already.

    Examples:
        >>> def net(n): return nn.Sequential(nn.Linear(3, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 1))
        >>> width(net(64), net(16), "adamw", lr=0.01, weight_decay=0.1).groups
        name        lr  weight_decay  tensors  parameters
        input     0.01           0.1        3         320
        hidden  0.0025           0.4        1       4,096
        output  0.0025           0.4        1          64
        fixed     0.01           0.1        1           1

    Source: Yang et al. 2022 (arXiv 2203.03466), table 3 (``"init"``) and table 8 (``"multiplier"``), appendix B.3; for the
    decay also Wang & Aitchison 2024 (arXiv 2405.13698).
    """
    call = "width"
    groups = groups_of(call, model)
    kind = kind_of(call, optimizer, (*PLAIN, *_ENTRYWISE))
    grown = _growths(call, groups, base, output)
    bases = _bases(groups, lr)
    given = getattr(optimizer, "defaults", {}).get("weight_decay") if weight_decay is None else weight_decay
    decays = {group["name"]: _decay(kind, group, given) for group in groups}
    factors = {p: (one.fan_out if kind in PLAIN else 1.0) / one.fan_in for p, one in grown.items()}
    labels = _labels(grown, factors)
    by_label = {labels[p]: factor for p, factor in factors.items()}

    def options(label: str | None, group: Options) -> Options:
        factor = by_label[label or ""]
        return {"lr": bases[group["name"]] * factor, "weight_decay": decays[group["name"]] / factor}

    order = sorted(by_label, key=lambda label: _ROLES.index(label.partition("_")[0]))
    made = refine(groups, lambda _, p: labels[p], options, order=order)
    rate, low, high = (float(next(iter(bases.values()))),) * 3 if lr is None else interval(call, lr)
    rule = "μP: η·q/r and λ·r/q, q = fan-out, r = fan-in" if kind in PLAIN else "μP: η/r and λ·r, r = fan-in"
    return Scaled(rate, 1.0, low, high, f"{rule} over the base's", _where(grown, output), groups=made)


def mup_init(model: nn.Module, base: nn.Module, *, output: Output = "init") -> None:
    """Give a freshly initialised model the start that μP wants, by that of a freshly initialised base::

        rms(W) ← rms(W of the base)·r^(−1/2)     r^(−1) in output layers     r = fan-in over the base's, where that grew; else 1

    In place, and twice is once, whatever initialised the two models. What has one dimension (biases, norms) stays, and so does
    what did not grow.

    Args:
        model: The model; its weights are multiplied.
        base: The narrow model of the same class, with weights as it began.
        output: As for `width`: with ``"multiplier"`` output layers begin as the base's.

    Raises:
        InputError: If the models differ in more than widths, or a weight is all zero in the model and not in the base.

    Source: Yang et al. 2022 (arXiv 2203.03466), tables 3 and 8.
    """
    call = "mup_init"
    groups = groups_of(call, model)
    wanted = []
    for parameter, one in _growths(call, groups, base, output).items():
        if parameter.ndim < 2 or one.role == "fixed":
            continue
        want, now = _rms(one.before) * one.fan_in ** (-1.0 if one.role == "output" else -0.5), _rms(parameter)
        if not math.isfinite(want + now) or (now == 0.0 and want > 0.0):
            raise InputError(
                f"{call}: weights are multiplied to have the base's size, and {groups.known[parameter].names[0]!r} has rms "
                f"{now:g} where {want:g} is wanted. Initialise both models alike, off the device 'meta'."
            )
        wanted.append((parameter, want / now if now else 1.0))
    with torch.no_grad():
        for parameter, factor in wanted:
            parameter.mul_(factor)


def _rms(parameter: Tensor) -> float:
    if parameter.is_meta:
        return math.nan
    norm = torch.linalg.vector_norm(parameter.detach(), dtype=torch.promote_types(parameter.dtype, torch.float32))
    return float(norm) / math.sqrt(parameter.numel())


# -- what grew --------------------------------------------------------------------------------------------------------------


def _growths(call: str, groups: Groups, base: nn.Module, output: object) -> dict[nn.Parameter, _Growth]:
    """Each parameter of the model, beside the base's of the same name."""
    if output not in ("init", "multiplier"):
        raise InputError(f"{call}(output={output!r:.60}): it must be 'init' or 'multiplier'. See width.")
    if len(groups.models) != 1:
        raise InputError(f"{call}: one model is compared with one base, and these groups are of several. Add them afterwards.")
    before = {name: parameter for parameter, known in groups_of(call, base).known.items() for name in known.names}
    lone = sorted(before.keys() ^ {name for known in groups.known.values() for name in known.names})
    if lone:
        raise InputError(
            f"{call}(base=…): a model and its base differ in widths alone, and only one has {listed(lone)}. Build both from one "
            "class."
        )
    return {
        parameter: _growth(call, parameter, known, before[known.names[0]], output == "init")
        for parameter, known in groups.known.items()
    }


def _growth(call: str, parameter: nn.Parameter, known: Known, before: nn.Parameter, init: bool) -> _Growth:
    """What a parameter is, by its shape, the base's, and the modules that hold it."""
    ours, theirs = tuple(parameter.shape), tuple(before.shape)
    grown = [dim for dim, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    table = any(isinstance(holder, nn.Embedding | nn.EmbeddingBag) for holder in known.holders)
    if len(ours) != len(theirs) or len(grown) > 2 or 0 in ours + theirs or (table and 0 in grown):
        raise InputError(
            f"{call}(base=…): a model and its base differ in widths alone, and {known.names[0]!r} is {ours} against {theirs}. "
            "Build both from one class, with one vocabulary."
        )
    ratios = [ours[dim] / theirs[dim] for dim in grown]
    maps = [holder for holder in known.holders if isinstance(holder, nn.Linear | _ConvNd)]
    flipped = any(getattr(holder, "transposed", False) for holder in maps)  # (in, out), as transposed convolutions have it
    if len(ratios) == 2:
        fan_out, fan_in = reversed(ratios) if flipped else ratios
        return _Growth("hidden", fan_in, fan_out, before)
    if not ratios:
        return _Growth("fixed", 1.0, 1.0, before)
    depthwise = flipped and any(getattr(holder, "groups", 1) > 1 for holder in maps)
    if not maps or len(ours) < 2 or depthwise or grown[0] != (0 if flipped else 1):
        return _Growth("input", 1.0, ratios[0], before)
    if table and init:
        raise InputError(
            f"{call}(output='init'): an embedding and an output layer start apart, and {' = '.join(map(repr, known.names))} is "
            f"both. Let the model divide what goes into its output layer by {ratios[0]:g}, and say output='multiplier'."
        )
    return _Growth("output", *((ratios[0], 1.0) if init else (1.0, ratios[0])), before)


def _labels(grown: dict[nn.Parameter, _Growth], factors: dict[nn.Parameter, float]) -> dict[nn.Parameter, str]:
    """Each parameter's group: its role, and its factor where one role has several."""
    of_role: dict[str, set[float]] = {}
    for parameter, one in grown.items():
        of_role.setdefault(one.role, set()).add(factors[parameter])
    return {p: one.role + (f"_x{factors[p]:g}" if len(of_role[one.role]) > 1 else "") for p, one in grown.items()}


# -- rates and decays -------------------------------------------------------------------------------------------------------


def _bases(groups: Groups, lr: Rate | None) -> dict[str, Any]:
    """Each group's rate before the factors."""
    bare = [group["name"] for group in groups if "lr" not in group]
    if bare and lr is None:
        raise InputError(f"width: a rate is needed, that of the base, and {listed(bare)} has none. Say lr=; 1.0 gives factors.")
    if not bare and lr is not None:
        raise InputError(f"width(lr={lr!r:.60}): these groups have rates of their own, which are multiplied. Leave lr out.")
    given = None if lr is None else interval("width", lr)[0]
    return {group["name"]: rate_of("width", "lr of a group", group.get("lr", given)) for group in groups}


def _decay(kind: str, group: Options, given: object) -> float:
    """A group's weight decay before the factors."""
    came = group.get("weight_decay", given)
    if came is None:
        raise InputError(
            "width: a decay is multiplied, too, so it must be known. Say weight_decay=; 0 for none, AdamW's is 0.01."
        )
    decay = real("width", "weight_decay", came, least=0.0)
    if decay > 0 and kind not in (*PLAIN, *_DECOUPLED):
        raise InputError(
            f"width(optimizer={kind!r}, weight_decay={decay:g}): μP has no rule for a decay through the gradient, which {kind} "
            "divides by σ. Take AdamW, or weight_decay=0."
        )
    return decay


def _where(grown: dict[nn.Parameter, _Growth], output: str) -> str:
    """When the rule for widths holds."""
    ratios = sorted({one.fan_in * one.fan_out for one in grown.values() if one.role == "output"})
    said = "Holds for a model that starts as μP wants (mup_init), "
    if output == "multiplier":
        said += f"divides what goes into its output layers by {' or '.join(f'{r:g}' for r in ratios) or 'their growth'}, "
    said += (
        "scales attention (if any) by 1/d and not 1/√d, and has an ε far below its gradients, which shrink as it widens; at the "
        "same batch, length and depth. Less exact for a narrow base; the best decay and dropout may change."
    )
    return said if ratios else f"{said} No layer leads from a grown width to a fixed one, so none counts as output."
