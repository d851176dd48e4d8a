"""Sinks: where a watched run's rows go besides its file. A sink is any function ``(step, {name: value})``."""

from collections.abc import Callable, Mapping
from typing import Any

from lrkit.errors import InputError


def tensorboard(writer: Any) -> Callable[[int, Mapping[str, float]], None]:
    """A sink that writes each value as a scalar of TensorBoard's: ``watch(…, sinks=tensorboard(SummaryWriter("runs/tb")))``.

    Args:
        writer: Has ``add_scalar(name, value, step)``, as torch's and tensorboardX's SummaryWriter do; closing it is yours.

    Raises:
        InputError: If it has no such method.
    """
    add = getattr(writer, "add_scalar", None)
    if not callable(add):
        raise InputError(f"tensorboard({type(writer).__name__}): needs a SummaryWriter, with add_scalar. Pass one.")

    def sink(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            add(name, value, step)

    return sink
