"""transformers' trainer_state.json: `log_history`, one object a log call."""

from typing import Any

from lrkit.logs.documents import document
from lrkit.logs.source import Source
from lrkit.logs.table import Builder, Table, number

_TOLD = {"max_steps": "steps", "num_train_epochs": "epochs", "train_batch_size": "batch_size", "trial_name": "run"}


def huggingface(source: Source) -> list[Table] | None:
    """trainer_state.json of transformers; the summary at its end is left out."""
    state = document(source) if '"log_history"' in source.text else None
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        return None
    rows = [row for row in state["log_history"] if isinstance(row, dict) and not _is_summary(row)]
    builder = Builder()
    builder.objects(rows)
    return [builder.table(format="huggingface", **_told(state))]


def _is_summary(row: dict[str, Any]) -> bool:
    """The row that `train()` writes when it is done: the mean loss of the whole run."""
    return "train_runtime" in row or ("train_loss" in row and "loss" not in row and "total_flos" in row)


def _told(state: dict[str, Any]) -> dict[str, object]:
    told: dict[str, object] = {}
    for theirs, ours in _TOLD.items():
        value = state.get(theirs)
        if isinstance(value, str) or (number(value) or 0) > 0:
            told[ours] = value
    return told
