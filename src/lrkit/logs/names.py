"""What other people call the columns: one canonical name for each of their names. Knows names only, no values."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from lrkit.errors import FileError

HELD_OUT = ("val", "valid", "validation", "eval", "dev", "test")  # the first that a log has is its val_loss
_LOSSES = ("loss", "loss_step", "loss_epoch", "mean_loss", "avg_loss", "epoch_loss", "batch_loss", "ctc_loss", "ce_loss", "nll")

SPLITS = ("mode", "split", "phase", "stage", "subset")  # of a row: whether it tells of training or of what was held out

# For each of ours the names it goes by, the likeliest first. The first that a log has is taken; what is left keeps its own name.
_KNOWN: dict[str, tuple[str, ...]] = {
    "step": (
        "step", "global_step", "trainer_global_step", "train_global_step", "training_step", "iteration", "iter", "it", "iters",
        "num_updates", "num_update", "update", "updates",
    ),
    "loss": (
        "loss", *(f"train_{name}" for name in _LOSSES[:2]), "training_loss", "loss_step", "train_samples_train_loss",
        "train_loss_epoch", "loss_epoch", "loss_train", "trl", "lm_loss", "train_lm_loss", "mean_loss", "avg_loss",
        "total_loss", "train_total_loss", "loss_total", "batch_loss", "epoch_loss", "minibatch_loss", "tr_loss", "trn_loss",
        "trainloss", *(f"train_{name}" for name in _LOSSES[3:]), "nll_loss", "train_crossentropyloss", "train_cross_entropy_loss",
        "cross_entropy_loss", "objective",
    ),
    "lr": (
        "lr", "learning_rate", "learningrate", "train_learning_rate", "train_lr", "train_samples_lr", "optimizer_lr",
        "charts_learning_rate", "current_lr", "cur_lr", "base_lr", "epoch_learning_rate", "epoch_lr",
        "optim_learning_rate_group0",
    ),
    "val_loss": (
        *(f"{part}_{name}" for part in HELD_OUT for name in _LOSSES), *(f"loss_{part}" for part in HELD_OUT),
        *(f"{part}loss" for part in HELD_OUT), "tel", "lm_loss_validation",
    ),
    "grad_norm": (
        "grad_norm", "gradient_norm", "train_grad_norm", "grad_norm_total", "total_grad_norm", "l2_norm_grad_global",
        "grad_2_0_norm_total", "grad_2_norm_total", "gnorm", "optim_total_grad_norm",
    ),
    "epoch": ("epoch", "epochs", "train_epoch"),
}  # fmt: skip

# A rate of one group among several: YOLO's x/lr0 and lr/pg0, Lightning's lr-Adam and lr-Adam/pg1, lr_group_1, lr/head.
_GROUP = re.compile(r"(?:x_)?(?:lr|learning_rate)_?(?:(?:param_)?(?:pg|group)_?)?(\d{1,3})")
_LIGHTNING = re.compile(r"lr-([A-Za-z][A-Za-z0-9]*)(?:-\d+)?(?:/(.+))?")
_RATE = re.compile(r"(?:lr|learning[ _-]?rate)\s*[_=: -]\s*([0-9.]+(?:e[+-]?\d+)?)", re.IGNORECASE)


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """A name in small letters, its parts joined by one underscore.

    Examples:
        >>> plain(" Train/Learning-Rate ")
        'train_learning_rate'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def meaning(name: str) -> str | None:
    """Which of ours a single name stands for, or None.

    Examples:
        >>> meaning("iter"), meaning("val loss"), meaning("accuracy")
        ('step', 'val_loss', None)
    """
    return _MEANING.get(plain(name))


_MEANING = {theirs: ours for ours, names in _KNOWN.items() for theirs in names}


def told_apart(row: dict[str, Any]) -> dict[str, Any]:
    """A row that says it is about held-out data, with its loss as `val_loss`; any other as it is.

    Examples:
        >>> told_apart({"mode": "val", "epoch": 1, "loss": 2.5})
        {'mode': 'val', 'epoch': 1, 'val_loss': 2.5}
    """
    if not any(isinstance(word := row.get(name), str) and plain(word) in HELD_OUT for name in SPLITS):
        return row
    ours = canonical(row)
    known = "val_loss" in ours.values()
    return {
        ("val_loss" if ours.get(name) == "loss" else name): row[name] for name in row if not (known and ours.get(name) == "loss")
    }


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Their name → ours, for the columns whose meaning is known.

    Examples:
        >>> canonical(["Train/Loss", "learning-rate", "accuracy"])
        {'Train/Loss': 'loss', 'learning-rate': 'lr'}
        >>> canonical(["loss", "lr-Adam/pg1", "lr-Adam/pg2"])
        {'loss': 'loss', 'lr-Adam/pg1': 'lr', 'lr-Adam/pg2': 'lr/pg2'}
    """
    shorts: dict[str, str] = {}
    literal = list(names)
    for name in literal:
        short = plain(name)
        if short not in shorts or name == short:  # of "Loss" and "loss" the one that is ours already
            shorts[short] = name
    out: dict[str, str] = {}
    for ours, theirs in _KNOWN.items():
        found = next((shorts[short] for short in theirs if short in shorts), None)
        if found == "_step":  # W&B counts its log calls: an update's own number is better
            found = next((shorts[short] for short in theirs if short.endswith("global_step") and short in shorts), found)
        if found is not None:
            out[found] = ours
    first = None if "lr" in out.values() else "lr"
    return out | _groups([name for name in literal if name not in out], first)


def _groups(names: list[str], first: str | None) -> dict[str, str]:
    """The rates of single groups, each `lr/<group>`; the first is called what `first` says."""
    found: list[tuple[int, str, str]] = []
    for place, name in enumerate(names):
        numbered, lightning = _GROUP.fullmatch(plain(name)), _LIGHTNING.fullmatch(name.strip())
        if numbered and rate_in(name) is None:
            found.append((int(numbered[1]), name, f"lr/pg{int(numbered[1])}"))
        elif lightning:
            found.append((place, name, f"lr/{lightning[2] or lightning[1]}"))
        elif name.startswith("lr/"):
            found.append((place, name, name))
    found.sort(key=lambda one: one[0])
    return {name: ours if i or first is None else first for i, (_, name, ours) in enumerate(found)}


def optimizer_in(names: Iterable[str]) -> str | None:
    """The optimizer that Lightning's monitor names in its columns, e.g. Adam in `lr-Adam/pg1`."""
    return next((match[1] for name in names if (match := _LIGHTNING.fullmatch(name.strip()))), None)


def rate_in(name: str) -> float | None:
    """The rate that a column's name holds, or None.

    Examples:
        >>> rate_in("learning_rate_0.005"), rate_in("lr=1e-3"), rate_in("lr")
        (0.005, 0.001, None)
    """
    match = _RATE.fullmatch(name.strip())
    try:
        rate = float(match[1]) if match else 0.0
    except ValueError:
        return None
    return rate if 0 < rate < 1e6 and match and not match[1].isdigit() else None


def renamed(call: str, names: Iterable[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Their name → ours for every column, each of ours once: by their meaning, and above that by what the caller wants.

    Args:
        call: For the message.
        names: What the log calls its columns.
        wanted: Ours → theirs, from the caller.

    Raises:
        FileError: If the caller wants a column that is not there.
    """
    literal = list(names)
    by_short = {plain(name): name for name in literal}
    chosen: dict[str, str] = {}
    for ours, theirs in wanted.items():
        found = theirs if theirs in literal else by_short.get(plain(theirs))
        if found is None:
            shown = ", ".join(literal[:30]) or "no columns"
            raise FileError(f"{call}: there is no column {theirs!r} for {ours!r}; it has {shown}. Name one of these.")
        chosen[found] = ours
    known = {name: ours for name, ours in canonical(literal).items() if name not in chosen and ours not in wanted}
    out = chosen | known
    taken = set(out.values())
    for name in literal:
        if name not in out:
            own = name if name not in taken and name not in ("meta", "lrkit_run") else f"other/{name}"
            while own in taken:
                own = f"other/{own}"
            out[name] = own
            taken.add(own)
    return out
