"""`watch`: anyone's training loop → Run, through torch's optimizer hooks.

Loss and rates are recorded at every update, gradient norm and update ratio at every `every`-th. Values stay on their device until
a flush copies them all at once; a file that is written survives a kill up to the last flush. Nothing changes the training.

Knows optimizers and tensors. Knows no loop, no model internals, no illness.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from lrkit.binding.hooks import Owner, compiler, skipped, without_gradient
from lrkit.binding.record import has_updates
from lrkit.errors import InputError, StateError, whole
from lrkit.gauges.quantities import total_norm, update_ratio
from lrkit.run import Run, Writer

Value = float | Tensor
_FLUSH_ROWS, _FLUSH_SECONDS = 50, 5.0
_OURS = ("step", "lr", "meta", "lrkit_run")


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    path: str | Path | None = None,
    *,
    every: int = 10,
    meta: dict[str, Any] | None = None,
) -> Watch:
    """Watch a training loop.

    Args:
        model: The model that is trained.
        optimizer: Its optimizer; every update that really happens becomes a row.
        path: Folder for ``run.jsonl``, which must not hold one yet; None keeps the run in memory only.
        every: Gradient norm and update ratio are taken at every `every`-th update, at least 1.
        meta: What to remember of the run; plain JSON values.

    Returns:
        A context manager with `.record(loss=…)`, `.amend(…)` and `.run`.

    Raises:
        InputError: If `every` is below 1.
        FileError: If `path` holds a run already.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, optimizer) as w:
        ...     for _ in range(2):
        ...         loss = model(torch.ones(4, 3)).square().mean()
        ...         loss.backward()
        ...         w.record(loss=loss)
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> w.run
        Run(2 rows, steps 0–1; step, loss, lr, grad_norm, update_ratio)
    """
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        came = f"{type(model).__name__}, {type(optimizer).__name__}"
        raise InputError(f"watch({came}): needs a torch module and its optimizer, in this order.")
    every = whole("watch", "every", every, what="a whole number of updates")
    about = {"optimizer": type(optimizer).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    group = optimizer.param_groups[0]
    if isinstance(group.get("momentum"), float):
        about["momentum"] = group["momentum"]
    if isinstance(betas := group.get("betas"), tuple) and all(isinstance(beta, float) for beta in betas):
        about["betas"] = list(betas)
    return Watch(model, optimizer, path, every, about | (meta or {}))


class Watch(Owner):
    """Records one row an update. Made by `watch`; use it in a ``with`` statement."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        path: str | Path | None,
        every: int,
        meta: dict[str, Any],
    ) -> None:
        self._model, self._optimizer, self._every = model, optimizer, every
        self.meta = meta
        self._writer = Writer(path, meta) if path is not None else None  # writes nothing before the first flush
        self._step = 0
        self._waiting: dict[str, list[Value]] = {}
        self._row: dict[str, Value] | None = None  # of the last update
        self._in_force: dict[str, Value] = {}  # the rates of the update under way
        self._buffer: list[dict[str, Value]] = []
        self._rows: dict[int, dict[str, float]] = {}
        self._before: list[Tensor] | None = None
        self._armed = self._closed = False
        self._flushed = time.monotonic()
        self._handles: list[Any] = []

    def __enter__(self) -> Watch:
        if self._handles or self._closed:
            raise StateError("watch: a watch is entered once. Make a new one.")
        step = self._optimizer.param_groups[0].get("lrkit_step") if self._optimizer.param_groups else None
        self._step = 0 if step is None else int(step)  # a resumed run goes on where its schedule is
        self._handles = [
            self._optimizer.register_step_pre_hook(self._on_before),
            self._optimizer.register_step_post_hook(self._on_after),
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._closed = True
        try:
            self.flush()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def record(self, *, batch: object = None, **values: Value) -> None:  # noqa: ARG002  (no gauge evaluates it yet)
        """Say what belongs to the coming update, before it; several calls before one update are averaged.

        Args:
            batch: The batch of this update, for gauges that evaluate it again.
            **values: ``loss=…`` and whatever else is worth a column: numbers, or tensors of one number.

        Raises:
            InputError: If a value is a tensor of several numbers.
            StateError: If the watch has been left.
        """
        self._check_open("record")
        for name, value in values.items():
            self._waiting.setdefault(name, []).append(_one(name, value))

    def amend(self, **values: Value) -> None:
        """Say what belongs to the update just made: ``val_loss=…``, for example.

        Raises:
            InputError: If a value is a tensor of several numbers.
            StateError: If no update has been made yet, or the watch has been left.
        """
        self._check_open("amend")
        if self._row is None:
            raise StateError("watch.amend: no update has been made yet. Before an update, call record.")
        checked = {name: _one(name, value) for name, value in values.items()}
        if float(self._row["step"]) >= self._step:
            return  # a controller has gone back beyond that update
        if not any(row is self._row for row in self._buffer):  # flushed already: a second line of the same step adds to it
            self._buffer.append({"step": self._row["step"], **checked})
        self._row.update(checked)

    @property
    def run(self) -> Run:
        """What has been seen so far."""
        self.flush()
        return Run.from_rows(self._rows.values(), self.meta)

    @property
    def last(self) -> dict[str, float]:
        """The row of the last update, on the host; empty before the first."""
        return {name: float(value) for name, value in (self._row or {}).items()}

    def note(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Remember what controllers did, in ``meta["events"]``; where one went back to a snapshot, the rows since then go."""
        self.flush()
        self.add_meta(events=[dict(event) for event in events])
        back = events[-1].get("back_to")
        if back is not None:
            self._rows = {step: row for step, row in self._rows.items() if step < back}
            self._step, self._waiting = int(back), {}

    def add_meta(self, **meta: Any) -> None:
        """Add to the run's meta what only became known later."""
        self.meta = self.meta | meta
        if self._writer is not None:
            self._writer.add_meta(**meta)

    def flush(self) -> list[dict[str, float]]:
        """Copy what is on the device to the host, all at once, and write it to the file.

        Returns:
            The rows that were new.
        """
        tensors = [v for row in self._buffer for v in row.values() if isinstance(v, Tensor)]
        # One copy a device: on the CPU none, on an accelerator one wait instead of one a number.
        numbers = iter(torch.stack([t.to(tensors[0].device, torch.float64) for t in tensors]).tolist() if tensors else [])
        fresh = [{k: next(numbers) if isinstance(v, Tensor) else float(v) for k, v in row.items()} for row in self._buffer]
        self._buffer = []
        for row in fresh:
            self._rows.setdefault(int(row["step"]), {}).update(row)
            if self._writer is not None:
                self._writer.append(row)
        if self._writer is not None:
            self._writer.flush()
        self._flushed = time.monotonic()
        return fresh

    # -- the hooks ------------------------------------------------------------------------------------------------------

    def _on_before(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self._on_before, optimizer, args, kwargs)
            return
        self._armed = not self._paused and not _dry(optimizer)
        if not self._armed:
            return
        self._in_force = _rates(optimizer)
        sampled = self._step % self._every == 0
        self._before = [p.detach().clone() for p in _trained(optimizer)] if sampled else None

    def _on_after(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self._on_after, optimizer, args, kwargs)
            return
        if not self._armed:
            return
        self._armed = False
        if skipped(optimizer):
            self._waiting = {}
            return
        said = {name: sum(values) / len(values) for name, values in self._waiting.items()}
        self._row = {"step": float(self._step), **said, **self._in_force}
        self._waiting = {}
        if self._before is not None:
            # Gradients are read after the update: before it, a closure has not made them yet.
            params = _trained(optimizer)
            with torch.no_grad():
                self._row["grad_norm"] = total_norm([_dense(p.grad) for p in params if p.grad is not None])
                if len(params) == len(self._before):
                    self._row["update_ratio"] = update_ratio(self._before, [p.detach() for p in params])
            self._before = None
        self._buffer.append(self._row)
        self._step += 1
        if len(self._buffer) >= _FLUSH_ROWS or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def _check_open(self, call: str) -> None:
        if not self._handles:
            raise StateError(f"watch.{call}: nothing is watched outside of the `with` statement. Move the call inside.")


def _dry(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is a distributed checkpoint's step with all rates at 0, which only creates missing state."""
    at_rest = all(float(group.get("lr", 1.0)) == 0 for group in optimizer.param_groups)
    return at_rest and not has_updates(optimizer.state) and without_gradient(optimizer)


def _dense(grad: Tensor) -> Tensor:
    """The values that a gradient holds; of a sparse one those that are not 0."""
    return grad.coalesce().values() if grad.is_sparse else grad


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every parameter that the optimizer may change."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, Value]:
    """``lr`` of the first group, and ``lr/<name>`` of each where there are several."""
    groups = optimizer.param_groups
    out: dict[str, Value] = {}
    for i, group in enumerate(groups):
        value = group.get("lr")
        if value is None:
            continue
        value = value.detach().clone() if isinstance(value, Tensor) else float(value)
        if i == 0:
            out["lr"] = value
        if len(groups) > 1:
            out[f"lr/{group.get('name', i)}"] = value
    return out


def _one(name: str, value: Value) -> Value:
    """A value as a number, or as a detached 0-d tensor."""
    if name in _OURS:
        raise InputError(f"watch: {name!r} is written by the watch itself. Choose another name.")
    if not isinstance(value, Tensor):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"watch: {name} must be one number, got {type(value).__name__}. Take its mean.") from error
    if value.is_complex():
        raise InputError(f"watch: {name} must be a real number, got a complex tensor. Record its parts.")
    if value.numel() != 1:
        raise InputError(f"watch: {name} must be one number, got a tensor of shape {tuple(value.shape)}. Take its mean.")
    return value.detach().reshape(()).clone()
