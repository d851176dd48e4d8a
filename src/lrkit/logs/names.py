"""What other people call the columns: one canonical name for each of their names."""

import re
from collections.abc import Iterable

# The first that a log has is taken; what is left keeps its own name.
_KNOWN: dict[str, tuple[str, ...]] = {
    "step": ("step", "global_step", "iteration", "iter", "it"),
    "loss": ("loss", "train_loss", "training_loss", "train_loss_step", "train_loss_epoch", "trl", "mean_loss"),
    "lr": ("lr", "learning_rate", "train_learning_rate", "train_lr"),
    "val_loss": ("val_loss", "eval_loss", "valid_loss", "validation_loss", "dev_loss", "test_loss"),
    "grad_norm": ("grad_norm", "gradient_norm", "train_grad_norm"),
    "epoch": ("epoch", "epochs"),
}


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Their name → ours, for the columns whose meaning is known.

    Examples:
        >>> canonical(["Train/Loss", "learning-rate", "accuracy"])
        {'Train/Loss': 'loss', 'learning-rate': 'lr'}
    """
    plain = {name: re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_") for name in names}
    out: dict[str, str] = {}
    for ours, theirs in _KNOWN.items():
        for candidate in theirs:
            found = [name for name, short in plain.items() if short == candidate]
            if found:
                out[found[0]] = ours
                break
    return out
