"""lrkit's `Watch` inside transformers' Trainer: `lrkit.watch` on its optimizer, as a callback.

The Trainer tells its callbacks neither batch nor loss, so a hook on the model's forward pass sees both while an update is being
computed. Where the loss that is trained is another than the model's, the Trainer's log tells it. Knows the Trainer's events.
"""

from __future__ import annotations

import logging
import math
import re
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from lrkit.binding.hooks import compiler
from lrkit.errors import InputError, MissingExtra
from lrkit.gauges.recorder import Sink
from lrkit.gauges.watch import Watch as Watched
from lrkit.integrations.watching import Loss, Watching, check, place, run_of
from lrkit.run import Run

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise MissingExtra("lrkit.integrations.transformers", "transformers", "transformers") from error

_ASIDE = re.compile(r"(?:^|_)(?:runtime|samples_per_second|steps_per_second|jit_compilation_time|model_preparation_time)$")
_SAME = 0.01  # of the logged loss: how far apart the same loss may be, summed in another order and precision
_log = logging.getLogger("lrkit")


class Watch(TrainerCallback):
    """Watches a training: ``Trainer(…, callbacks=[Watch("runs/first")])``.

    Each update's loss is recorded, as the model gives it, over all accumulated batches; after an evaluation its metrics, as
    ``val_…`` instead of ``eval_…``. Where the Trainer trains another loss than the model's (label smoothing, ``compute_loss``),
    the loss is what it logs, every `logging_steps`, unless your ``compute_loss`` calls `record`. Weights are the same to the bit
    as without it.

    Args:
        path: Folder for the run. A training that is resumed from a checkpoint writes beside it, to ``<path>-2``. None: in memory
            only.
        loss: For gain, noise and curvature, which evaluate the batch again. True: ``model(**batch).loss``; or a function
            ``(model, batch) → loss``, whose batch is the dict that the model was called with. None: without these.
        budget: As for `lrkit.watch`.
        every: As for `lrkit.watch`.
        sinks: As for `lrkit.watch`; in several processes the first hands over.
        meta: As for `lrkit.watch`.

    Attributes:
        watch: What `lrkit.watch` made, from the beginning of the training on; None before.

    Raises:
        InputError: As `lrkit.watch`.
        FileError: At the beginning of a new training, if `path` holds a run.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        loss: Loss | bool | None = None,
        budget: float = 0.02,
        every: int | None = None,
        sinks: Iterable[Sink] = (),
        meta: dict[str, Any] | None = None,
    ) -> None:
        sinks = (sinks,) if callable(sinks) else tuple(sinks)
        own = (_models if loss else None) if isinstance(loss, bool) else loss
        self._path, self._given = path, {"loss": own, "budget": budget, "every": every, "sinks": sinks, "meta": meta}
        check(self._given)
        self.watch: Watched | None = None
        self._watching: Watching | None = None
        self._ear = _Ear()
        self._trusted, self._own = True, False
        self._end: Any = None

    @property
    def run(self) -> Run:
        """What has been seen so far.

        Raises:
            StateError: Before the training.
        """
        return run_of([] if self.watch is None else [self.watch], "Watch")

    def record(self, **values: Any) -> None:
        """Say more of the coming update, as to `lrkit.watch`: a ``loss=`` from your ``compute_loss`` then counts."""
        if self.watch is None or self._watching is None:
            return  # it is evaluated, not trained
        if "loss" in values:
            self._trusted, self._own = False, True
        self.watch.record(**values)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        """Enter the watch; a checkpoint has been loaded by now."""
        self._close()
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # inside accelerate's
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(f"Watch: watches torch's optimizers, and this one is a {type(optimizer).__name__}. Leave it out.")
        model, done = kwargs["model"], state.global_step
        given = self._given if state.is_world_process_zero else {**self._given, "sinks": ()}
        counted = optimizer.param_groups[0].get("lrkit_step", done) if done else 0
        self._watching = Watching(model, optimizer, place(self._path, done > 0), int(counted), given)
        self.watch, self._ear = self._watching.watch, _Ear()
        self._trusted, self._own = args.n_gpu <= 1, False  # of copies on several devices each would be heard
        handle = model.register_forward_hook(self._ear.hear, with_kwargs=True)
        # The Trainer tells nobody of an exception: what is not closed by the next training is when the callback goes.
        self._end = weakref.finalize(self, _leave, self._watching, handle)

    def on_step_begin(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any) -> None:
        """A new update begins."""
        if self._watching is not None:
            self._watching.begin()
            self._ear.begin()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        """An update comes: tell what has been heard of it."""
        ear, watching = self._ear, self._watching
        if watching is None:
            return
        ear.open = False
        for batch in ear.batches:
            watching.batch(batch)
        value = ear.update(args.world_size if args.average_tokens_across_devices else 1)
        if value is not None and self._trusted:
            watching.loss(value)

    def on_log(self, args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        """Take the logged loss where the model gives none, or turns out to give another than the one that is trained."""
        logged = (kwargs.get("logs") or {}).get("loss")
        if self._watching is None or logged is None or self._own:
            return
        heard = self._ear.since_the_log()
        if self._trusted and heard is not None and args.world_size == 1:
            known = math.isfinite(heard) and math.isfinite(logged)  # the Trainer logs others in place of what is not finite
            if known and abs(heard - logged) > _SAME * abs(logged) + 1e-6:
                self._trusted = False
                _log.warning(
                    "watch: the model's loss, %.4g, is not what is trained, %.4g by the log. From now on the log's is recorded; "
                    "call Watch.record(loss=…) in compute_loss for that of each update.", heard, logged,
                )  # fmt: skip
        if not self._trusted or heard is None:
            self._watching.amend({"loss": logged})

    def on_evaluate(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        """Amend what the evaluation measured."""
        if self._watching is not None:
            measured = {name: value for name, value in (kwargs.get("metrics") or {}).items() if isinstance(value, int | float)}
            named = {re.sub(r"\W", "_", name.removeprefix("eval_")): value for name, value in measured.items() if name != "epoch"}
            self._watching.amend({f"val_{name}": value for name, value in named.items() if not _ASIDE.search(name)})

    def on_train_end(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any) -> None:
        """Leave the watch."""
        self._close()

    def _close(self) -> None:
        if self._end is not None:
            self._end()
        self._watching = self._end = None


class _Ear:
    """Hears a model's batches and losses, while an update is being computed."""

    def __init__(self) -> None:
        self.open = False
        self.batches: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []
        self._shares = False  # of a sum over all batches' tokens, as models are told it; else means
        self._sum: Any = 0.0
        self._updates = 0

    def begin(self) -> None:
        """A new update begins."""
        self.open, self.batches, self._losses, self._shares = True, [], [], False

    def hear(self, model: Any, args: Any, inputs: dict[str, Any], output: Any) -> None:
        """A hook of the forward pass."""
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            apart(self.hear, model, args, inputs, output)
            return
        if not self.open or not torch.is_grad_enabled():
            return
        value = _loss_of(output)
        self.batches.append({name: one for name, one in inputs.items() if name != "num_items_in_batch"})
        if isinstance(value, Tensor) and value.numel() == 1:
            self._losses.append(value.detach().clone())
            self._shares = inputs.get("num_items_in_batch") is not None

    def update(self, processes: int) -> Tensor | None:
        """The loss of the update that comes; None where the model gave none."""
        if not self._losses:
            return None
        total = torch.stack([value.reshape(()) for value in self._losses]).sum()
        value = total * processes if self._shares else total / len(self._losses)
        self._sum, self._updates = self._sum + value, self._updates + 1
        return value

    def since_the_log(self) -> float | None:
        """The mean of the updates since this was last asked."""
        mean = float(self._sum) / self._updates if self._updates else None
        self._sum, self._updates = 0.0, 0
        return mean


def _loss_of(output: Any) -> Any:
    """As the Trainer finds it."""
    if isinstance(output, dict):
        return output.get("loss")
    return output[0] if isinstance(output, tuple | list) and output else None


def _models(model: Any, batch: Any) -> Tensor:
    """The loss that the model gives itself."""
    return _loss_of(model(**batch))  # type: ignore[no-any-return]


def _leave(watching: Watching, hook: Any) -> None:
    hook.remove()
    watching.close()
