"""`watch`: anyone's training loop → Run, through torch's optimizer hooks.

Loss and rates are recorded at every update, everything else now and then, within a budget of the training's time. What an
accelerator has computed stays there until a flush copies it all at once; a file that is written survives a kill up to the last
flush. Nothing changes the training.

Knows optimizers and tensors. Knows no loop, no model internals, no illness.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from lrkit.binding.hooks import Owner, compiler, skipped, without_gradient
from lrkit.binding.processes import agreed, parallel
from lrkit.binding.record import has_updates
from lrkit.errors import InputError, StateError, real, whole
from lrkit.gauges.batches import rows_of
from lrkit.gauges.catalogue import GAUGES
from lrkit.gauges.curvature import Curvature, curvature
from lrkit.gauges.evaluation import Loss, Unavailable
from lrkit.gauges.pace import Pace
from lrkit.gauges.recorder import Recorder, Sink
from lrkit.gauges.rows import OURS, is_number, number, rates_of
from lrkit.gauges.view import Value, View
from lrkit.gauges.visits import Visits
from lrkit.run import Run
from lrkit.tally import tally_of


def watch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    path: str | Path | None = None,
    *,
    loss: Loss | None = None,
    budget: float = 0.02,
    every: int | None = None,
    sinks: Iterable[Sink] = (),
    step: int | None = None,
    meta: dict[str, Any] | None = None,
) -> Watch:
    """Watch a training loop.

    In several processes each may watch: with DDP the first measures and writes; where weights are sharded (FSDP2) all have to
    watch, and measure together.

    Args:
        model: The model that is trained.
        optimizer: Its optimizer; every update that really happens becomes a row.
        path: Folder for ``run.jsonl``, which must not hold one yet; None keeps the run in memory only.
        loss: ``(model, batch) → loss``: evaluates a batch again, given by ``record(batch=…)``; for gain, noise and curvature.
        budget: Share of the training's time that everything beyond loss and rates may take, from 0, nothing, to 1.
        every: Read every gauge at every so many updates, whatever it takes; None: as the budget allows.
        sinks: Functions ``(step, {name: value})`` that are handed each row when it is flushed.
        step: What the next update counts as, at least 0; None: where an attached schedule is, else 0.
        meta: What to remember of the run; plain JSON values.

    Returns:
        A context manager with `.record(loss=…)`, `.amend(…)` and `.run`.

    Raises:
        InputError: If `every` is below 1, `step` below 0, `budget` not from 0 to 1, or `loss` or a sink no function.
        FileError: If `path` holds a run already.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, optimizer, every=1) as w:
        ...     for _ in range(2):
        ...         loss = model(torch.ones(4, 3)).square().mean()
        ...         loss.backward()
        ...         w.record(loss=loss)
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> w.run
        Run(2 rows, steps 0–1; step, loss, lr, grad_norm, update_ratio, grad_cosine)
    """
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        came = f"{type(model).__name__}, {type(optimizer).__name__}"
        raise InputError(f"watch({came}): needs a torch module and its optimizer, in this order.")
    every = None if every is None else whole("watch", "every", every, what="a whole number of updates")
    budget = real("watch", "budget", budget, least=0.0)
    if budget > 1:
        raise InputError(f"watch(budget={budget:g}): it is a share of the training's time, from 0 to 1. 0.02 is usual.")
    if isinstance(loss, nn.Module) or not (loss is None or callable(loss)):
        raise InputError(f"watch(loss={type(loss).__name__}): loss takes the model and a batch. Pass a function of both.")
    sinks = (sinks,) if callable(sinks) else tuple(sinks)
    for sink in sinks:
        if not callable(sink):
            raise InputError(f"watch(sinks={type(sink).__name__}): a sink is a function (step, {{name: value}}). Pass such.")
    step = None if step is None else whole("watch", "step", step, least=0)
    return Watch(View(model, optimizer, loss), path, budget, every, sinks, step, _about(model, optimizer) | (meta or {}))


def _about(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    about: dict[str, Any] = {"optimizer": type(optimizer).__name__, "parameters": sum(p.numel() for p in model.parameters())}
    group = optimizer.param_groups[0]
    if isinstance(group.get("momentum"), float):
        about["momentum"] = group["momentum"]
    if isinstance(betas := group.get("betas"), tuple) and all(isinstance(beta, float) for beta in betas):
        about["betas"] = list(betas)
    return about


class Watch(Owner):
    """Records one row an update. Made by `watch`; use it in a ``with`` statement."""

    def __init__(
        self,
        view: View,
        path: str | Path | None,
        budget: float,
        every: int | None,
        sinks: tuple[Sink, ...],
        step: int | None,
        meta: dict[str, Any],
    ) -> None:
        first = not parallel() or torch.distributed.get_rank() == 0
        self._view, self._optimizer = view, view.optimizer
        self._recorder = Recorder(path if first else None, sinks if first else (), meta)
        together = view.sharded
        gauges = {gauge.name: gauge for gauge in GAUGES if (first or together) and not view.flattened}
        shares = {name: (gauge.share, gauge.guess, gauge.least) for name, gauge in gauges.items()}
        self._pace = Pace(shares, budget, every, agreed if together else list)
        self._visits = Visits(view, self._pace, gauges)
        if view.flattened:
            self._visits.left_out = {gauge.name: "FSDP1 shows only parts of what there is: use fully_shard" for gauge in GAUGES}
        self._begin, self._step = step, 0
        self._waiting: dict[str, Value] = {}  # sums of what was recorded since the last update
        self._counts: dict[str, int] = {}  # of these, where recorded more than once
        self._made = False  # since the last record
        trained = [] if parallel() else [p for p in view.parameters if p.is_leaf]
        self._sample = min(trained, key=Tensor.numel, default=None)  # by whose gradient a skipped update is known
        self._mark: Tensor | None = None  # that gradient at the last record
        self._row: dict[str, Value] | None = None  # of the last update
        self._in_force: dict[str, Value] = {}  # the rates of the update under way
        self._armed: bool | None = False  # between the hooks of an update; None: after both
        self._nested = self._closed = self._void = False
        self._handles: list[Any] = []

    def __enter__(self) -> Watch:
        if self._handles or self._closed:
            raise StateError("watch: a watch is entered once. Make a new one.")
        counted = self._optimizer.param_groups[0].get("lrkit_step") if self._optimizer.param_groups else None
        self._step = self._begin if self._begin is not None else int(counted or 0)  # a resumed run goes on where its schedule is
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
            self._visits.drop()
            if self._recorder:
                self.add_meta(gauges=self.gauges)
        finally:
            self._recorder.close()

    def record(self, *, batch: object = None, **values: Value) -> None:
        """Say what belongs to the coming update, before it; several calls before one update are averaged.

        Args:
            batch: The batch of this update, or of this part of it, for gauges that evaluate it again.
            **values: ``loss=…``, ``grad_norm=…`` as clip_grad_norm_ returned it, and whatever else is worth a column: numbers,
                or tensors of one number.

        Raises:
            InputError: If a value is a tensor of several numbers.
            StateError: If the watch has been left.
        """
        if not self._handles:
            self._refuse("record")
        self._check_skipped()
        if batch is not None:
            if self._made:
                self._view.batches, self._view.rows, self._made = [], [], False
            self._view.rows.append(rows_of(batch))
            if self._view.loss is not None:
                self._view.batches.append(batch)
        for name, value in values.items():
            one = number(name, value)
            if name in self._waiting:
                self._waiting[name] = self._waiting[name] + one
                self._counts[name] = self._counts.get(name, 1) + 1
            else:
                self._waiting[name] = one

    def amend(self, **values: Value) -> None:
        """Say what belongs to the update just made: ``val_loss=…``, for example.

        Raises:
            InputError: If a value is a tensor of several numbers.
            StateError: If no update has been made yet, or the watch has been left.
        """
        if not self._handles:
            self._refuse("amend")
        if self._row is None:
            raise StateError("watch.amend: no update has been made yet. Before an update, call record.")
        checked = {name: number(name, value) for name, value in values.items()}
        if float(self._row["step"]) >= self._step:
            return  # a controller has gone back beyond that update
        self._recorder.amend(self._row, checked)

    def curvature(self, batch: object = None, steps: int = 20) -> Curvature:
        """The extreme curvatures here and now, by as many products with the Hessian as it takes; the budget does not count it.

        Args:
            batch: On which the loss is taken; None: that of the last update.
            steps: Products at most, of two gradients each; as many again where the optimizer has a σ.

        Returns:
            A Curvature: the smallest eigenvalue of the Hessian, the largest one in the optimizer's metric, the limit of that.

        Raises:
            StateError: If there is no loss or no batch, or the weights are sharded.
        """
        steps = whole("watch.curvature", "steps", steps, what="a whole number of products")
        held = self._view.batches
        try:
            self._view.batches = held if batch is None else [batch]
            self._view.check_evaluable()
            return curvature(self._view, self._view.batches, steps)
        except Unavailable as reason:
            raise StateError(f"watch.curvature: {reason}. It needs watch(…, loss=…), and a batch.") from reason
        finally:
            self._view.batches = held

    @property
    def run(self) -> Run:
        """What has been seen so far."""
        return self._recorder.run

    @property
    def meta(self) -> dict[str, Any]:
        """What is remembered of it."""
        return self._recorder.meta

    @property
    def last(self) -> dict[str, float]:
        """The row of the last update, on the host; empty before the first."""
        return {name: float(value) for name, value in (self._row or {}).items()}

    @property
    def gauges(self) -> dict[str, Any]:
        """What reading them took: ``{gauge: {"visits": …, "seconds": …}}``, or ``{gauge: why it is left out}``."""
        pace = self._pace
        read = {name: {"visits": n, "seconds": round(pace.spent[name], 6)} for name, n in pace.visits.items() if n}
        return read | self._visits.left_out

    def note(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Remember what controllers did, in ``meta["events"]``; where one went back to a snapshot, the rows since then go."""
        self.flush()
        self.add_meta(events=[dict(event) for event in events])
        back = events[-1].get("back_to")
        if back is not None:
            self._recorder.forget(int(back))
            self._step, self._void = int(back), True
            self._forget()
            self._visits.drop()
            self._pace.rewind(self._step)

    def add_meta(self, **meta: Any) -> None:
        """Add to the run's meta what only became known later."""
        self._recorder.add_meta(**meta)

    def flush(self) -> list[dict[str, float]]:
        """Copy what is on the device to the host, all at once, write it to the file and hand it to the sinks.

        Returns:
            The rows that were new.
        """
        return self._recorder.flush()

    # -- the hooks ------------------------------------------------------------------------------------------------------

    def _on_before(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self._on_before, optimizer, args, kwargs)
            return
        if self._armed:  # this is the step() of a parent, called by one that is under way; or the last one has failed
            if self._nested:
                return
            self._visits.drop()
        self._in_force = rates = rates_of(optimizer)
        self._armed = (
            not self._paused
            and not (type(lr := rates.get("lr")) is float and lr == 0 and _dry(optimizer))  # one on a device is not waited for
            and not (self._void and self._is_void(args, kwargs))
        )
        if not self._armed:
            return
        self._pace.beat()
        if self._visits.under_way or self._step >= self._pace.soonest:
            if self._made:
                self._view.batches, self._view.rows = [], []  # those of an earlier update
            self._view.said = self._said()
            self._visits.before(self._step)

    def _on_after(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self._on_after, optimizer, args, kwargs)
            return
        if not self._armed:
            self._nested = self._nested or self._armed is None  # the child's
            return
        self._armed = None
        if skipped(optimizer):
            self._forget()
            self._visits.drop()
            return
        step, said = self._step, self._said() if self._counts else self._waiting
        self._row = row = {"step": float(step), **said, **self._in_force}
        self._recorder.add(row)  # before the gauges: what interrupts them, Ctrl-C, must not lose it
        self._step = step + 1
        self._forget()
        if self._visits.under_way:
            self._view.said = {name: value for name, value in row.items() if name not in OURS}
            seen = self._visits.after(step)
            row.update({name: value for name, value in seen.items() if name not in row and is_number(value)})
        if (tally := tally_of(optimizer)) is not None and tally.last is not None:
            row.update(tally.columns())
        self._recorder.flush_if_due()

    def _is_void(self, args: Any, kwargs: Any) -> bool:
        """Whether the run went back between backward and step: then there is nothing to apply."""
        self._void = False
        closure = any(one is not None for one in (*args[1:], *kwargs.values()))
        return not closure and without_gradient(self._optimizer)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing is seen; what is under way is given up."""
        self._visits.drop()
        with super().paused():
            yield

    def _forget(self) -> None:
        """What was recorded belongs to an update that has been made, or will not be."""
        self._waiting, self._counts, self._made, self._mark = {}, {}, True, None

    def _check_skipped(self) -> None:
        """A scaler that skips an update of an unfused optimizer calls no hook: then gradients are thrown away without one.

        Within an accumulation they stay the same tensor; with several processes they may not, and nothing is concluded.
        """
        if self._armed:
            return  # within the step: a closure makes new gradients
        grad = None if self._sample is None else self._sample.grad
        if self._mark is not None and grad is not self._mark:
            self._forget()
            self._visits.drop()
        self._mark = grad

    def _said(self) -> dict[str, Value]:
        """What was recorded for the coming update, averaged."""
        return {name: total / self._counts.get(name, 1) for name, total in self._waiting.items()}

    def _refuse(self, call: str) -> None:
        raise StateError(f"watch.{call}: nothing is watched outside of the `with` statement. Move the call inside.")


def _dry(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is a distributed checkpoint's step with all rates at 0, which only creates missing state."""
    at_rest = all(float(group.get("lr", 1.0)) == 0 for group in optimizer.param_groups)
    return at_rest and not has_updates(optimizer.state) and without_gradient(optimizer)
