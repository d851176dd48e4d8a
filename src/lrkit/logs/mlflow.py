"""MLflow's file store: a folder a run, in which metrics/<key> holds a line `time value step` a point."""

from lrkit.logs.source import Source
from lrkit.logs.table import Builder, Table, number

_RUN_NAME = "mlflow.runName"
_OURS = {"optimizer": "optimizer", "opt": "optimizer", "lr": "lr", "learning_rate": "lr", "max_steps": "steps"}
_OURS |= {"opt_name": "optimizer", "optimizer_name": "optimizer", "opt_learning_rate": "lr"}  # of its automatic logging


def mlflow(source: Source) -> list[Table] | None:
    """A run's folder of MLflow: metrics/, with params/ and tags/ beside it."""
    builder, told, params = Builder(), dict[str, object](), dict[str, str]()
    for member in source.members:
        try:
            room, *key = member.path.relative_to(source.path).parts
        except ValueError:
            return None
        name = "/".join(key)
        text = member.data[: 1 << 27].decode("utf-8", errors="replace")
        if room == "metrics":
            builder.objects(_points(name, text))
        elif room == "params" and len(text) <= 1000:
            params[name] = text.strip()
        elif room == "tags" and name == _RUN_NAME:
            told["run"] = text.strip()
    if not builder.length:
        return None
    for name, value in params.items():
        ours = _OURS.get(name.lower())
        if ours is not None:
            known = number(value)
            told.setdefault(ours, value if ours == "optimizer" else known)
    return [builder.table(format="mlflow", params=params or None, **told)]


def _points(name: str, text: str) -> list[dict[str, object]]:
    """The rows of one metric; a torn line is dropped, and a line of old MLflow, without a step, is counted."""
    rows: list[dict[str, object]] = []
    for line in text.split("\n"):
        parts = line.split()
        if len(parts) not in (2, 3) or (value := number(parts[1])) is None:
            continue
        step = number(parts[2]) if len(parts) == 3 else float(len(rows))
        if step is not None:
            rows.append({"step": step, name: value})
    return rows
