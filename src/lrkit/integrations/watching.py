"""What the watching callbacks share: batches and losses are told as they come, and handed to the watch when an update is made.

A host's loop may tell of an update that is then skipped (a scaler met an overflow), and Lightning knows a loss only inside of the
optimizer's step. So what is told waits here, and hooks of the optimizer's own, which come before the watch's, hand it over.

Knows `lrkit.watch`. Knows no host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from lrkit.binding.hooks import compiler
from lrkit.errors import StateError
from lrkit.gauges.watch import Watch as Watched
from lrkit.gauges.watch import watch
from lrkit.journal import FILE_NAME
from lrkit.run import Run


class Watching:
    """A watch on one optimizer of a host, entered.

    Args:
        model: The model that is trained.
        optimizer: Its torch optimizer.
        path: As for `lrkit.watch`.
        step: How many updates have been made before.
        given: The other keywords of `lrkit.watch`.

    Attributes:
        watch: What `lrkit.watch` made.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, path: Path | None, step: int, given: Any) -> None:
        self.watch = watch(model, optimizer, path, step=step, **given)  # of a run that is resumed: the host counts
        self._batches: list[Any] = []
        self._losses: list[Any] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._on_before),
            optimizer.register_step_post_hook(self._on_after),
        ]
        self.watch.__enter__()

    def begin(self) -> None:
        """A new update begins: forget what was told of one that was not made."""
        self._batches, self._losses = [], []

    def batch(self, batch: object) -> None:
        """A batch of the coming update, for gauges that evaluate it again."""
        self._batches.append(batch)

    def loss(self, value: Tensor) -> None:
        """The loss of a batch of the coming update; of several the mean is recorded."""
        self._losses.append(value.detach().clone())  # a host may scale it in place

    def amend(self, values: Mapping[str, Any]) -> None:
        """What belongs to the update just made; nothing before the first."""
        if values and self.watch.last:
            self.watch.amend(**values)

    def close(self) -> None:
        """Leave the watch: all rows are in its file, no hook stays behind. Once more does nothing."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        self.begin()
        if handles:
            self.watch.__exit__(None, None, None)

    def _on_before(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self._on_before, optimizer, args, kwargs)
            return
        for batch in self._batches:
            self.watch.record(batch=batch)
        self._batches = []

    def _on_after(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self._on_after, optimizer, args, kwargs)
            return
        for value in self._losses:
            self.watch.record(loss=value)
        self._losses = []


def check(given: Mapping[str, Any]) -> None:
    """Refuse keywords that `lrkit.watch` would refuse, at the callback's own line."""
    weight = nn.Linear(1, 1)
    watch(weight, torch.optim.SGD(weight.parameters(), lr=1.0), None, **given)


def place(path: str | Path | None, resumed: bool, part: int | None = None) -> Path | None:
    """Where a run is written: a resumed one beside the first, in ``<path>-2`` and so on, for nothing is written over.

    Args:
        path: As it was given.
        resumed: Whether updates have been made before.
        part: Which of several optimizers; None: there is one.
    """
    if path is None:
        return None
    path, number = Path(path), 1
    lone = path.suffix == ".jsonl"  # a file instead of a folder

    def named(number: int) -> Path:
        whole = path if number == 1 else path.with_name(f"{path.stem}-{number}.jsonl" if lone else f"{path.name}-{number}")
        if part is None:
            return whole
        return whole.with_name(f"{whole.stem}.{part}.jsonl") if lone else whole / str(part)

    while resumed and (named(number) if lone else named(number) / FILE_NAME).exists():
        number += 1
    return named(number)


def run_of(watches: list[Watched], call: str) -> Run:
    """The one run there is.

    Raises:
        StateError: Before the training, and where there are several optimizers.
    """
    if len(watches) != 1:
        what = "nothing has been trained yet. Ask after the training" if not watches else "there are several. Ask for .runs"
        raise StateError(f"{call}.run: {what}.")
    return watches[0].run


Loss = Callable[[Any, Any], Tensor]
