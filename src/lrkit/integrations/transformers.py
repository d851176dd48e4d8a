"""lrkit inside transformers' Trainer: a callback, and the pair that keeps it from making a scheduler of its own; `Watch`; `find`.

    schedules = Schedules(lr="warmup 5% > cosine")
    Trainer(…, optimizers=schedules.pair(), callbacks=[schedules])

The Trainer loads the optimizer, whose state holds the position, before the callback attaches. `find` lets the Trainer begin its
training, searches instead of it, and puts everything back. Knows the Trainer's events.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrkit.binding.attach import Attachment, attached
from lrkit.binding.slots import slot
from lrkit.errors import InputError, MissingExtra, StateError
from lrkit.finder.search import find as search
from lrkit.finder.suggestion import Suggestion
from lrkit.integrations.finding import Windows, ending, kept, of_updates, validation_batches
from lrkit.integrations.keywords import attach_at, check_heard, heard, missing
from lrkit.integrations.torch import Passive
from lrkit.integrations.transformers_watch import Watch as Watch
from lrkit.schedules.base import Schedule
from lrkit.schedules.compat.transformers import get_scheduler
from lrkit.schedules.parts import Hold
from lrkit.schedules.template import Template
from lrkit.snapshot import preserved
from lrkit.task import Validate

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import TrainerMemoryTracker

    from lrkit.integrations.accelerate import Reading, check_whole, untouched  # what its Trainer is built upon
except ModuleNotFoundError as error:
    raise MissingExtra(__name__, "transformers", "transformers") from error


class Schedules(TrainerCallback):
    """Attaches schedules when training begins.

    What a schedule needs and nobody gave, it asks of the Trainer: ``total`` is ``max_steps``. Controllers hear what the Trainer
    logs, under its names: ``loss``, ``eval_loss``.

    Args:
        **given: As for `lrkit.attach`. ``step=`` is taken only where the optimizer carries no record.

    Attributes:
        attachment: From the beginning of the training on.

    Raises:
        InputError: If nothing is to be driven, or a schedule cannot be read.
    """

    def __init__(self, **given: Any) -> None:
        missing("Schedules", given)
        self.attachment: Attachment | None = None
        self._given, self._used = given, given
        self._scheduler, self._training = Passive(), False

    def pair(self, optimizer: Optimizer | None = None) -> tuple[Optimizer | None, LRScheduler]:
        """What goes to ``Trainer(optimizers=…)``: the optimizer, and a scheduler that is only looked at.

        Args:
            optimizer: Yours; None lets the Trainer build its own. Where nothing has to be asked of the Trainer, it is attached to
                at once.
        """
        if optimizer is not None and not missing("Schedules", self._given):
            self._attach(optimizer, self._given)
        return optimizer, self._scheduler

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        """Attach. A training from the start, with the optimizer of one before, starts the schedule anew."""
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # inside accelerate's
        self._check_pair(kwargs["lr_scheduler"])
        given, self._training = self._complete(args, state, kwargs["train_dataloader"]), True
        mine = next((one for one in attached(optimizer) if one is self.attachment), None)
        if mine is None:
            self._attach(optimizer, given, state.global_step)
        elif state.global_step == 0:
            mine.detach()
            self._attach(optimizer, {**given, "step": 0})
        elif given != self._used:
            raise StateError(
                "Schedules(…): the run's length has changed since this optimizer was attached to. Build the Trainer anew."
            )

    def on_log(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        """Report what is logged while training."""
        logs = kwargs.get("logs") or {}
        if self._training and any(name.startswith("eval_") for name in logs):
            check_heard(self._given, logs, "eval_")
        metrics = heard(self._given, logs) if self._training else {}
        if metrics and self.attachment is not None:
            self.attachment.report(**metrics)

    def on_train_end(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any) -> None:
        """What is evaluated from now on is no part of the training."""
        self._training = False

    def _check_pair(self, scheduler: LRScheduler) -> None:
        if scheduler is not self._scheduler:
            raise StateError(
                f"Schedules(…): the Trainer drives the rate by a {type(scheduler).__name__} of its own. Build it "
                "with Trainer(…, optimizers=schedules.pair(), callbacks=[schedules])."
            )

    def _attach(self, optimizer: Optimizer, given: dict[str, Any], done: int = 0) -> None:
        self.attachment = attach_at(optimizer, given, done)
        self._scheduler.optimizer, self._used = optimizer, given

    def _complete(self, args: TrainingArguments, state: TrainerState, loader: Any) -> dict[str, Any]:
        """The keywords, with what the Trainer knows."""
        unknown, given = missing("Schedules", self._given), dict(self._given)
        if "total" in unknown:
            given["total"] = state.max_steps
        if "steps_per_epoch" in unknown and hasattr(loader, "__len__"):
            given["steps_per_epoch"] = math.ceil(len(loader) / args.gradient_accumulation_steps)
        return given


def find(
    trainer: Trainer,
    *,
    steps: int | None = None,
    schedule: str | Schedule | Template | None = None,
    validate: Validate | bool = True,
    budget: float = 0.25,
    max_steps: int | None = None,
    seed: int = 0,
    progress: Callable[[float, float], object] | None = None,
) -> Suggestion:
    """`lrkit.find` on what the Trainer would train, before ``trainer.train()``, which afterwards does the same to the bit.

    Loss, batches, accumulation, clipping, precision and gradient checkpointing are the Trainer's; callbacks other than
    `Schedules` rest. Set ``trainer.args.learning_rate = suggestion.lr``, or, where you passed the optimizer, call
    ``suggestion.apply(optimizer)``.

    Args:
        trainer: The Trainer, not trained yet; of several processes all have to call.
        steps: Updates of the real run; None: what the Trainer would make.
        schedule: Of the real run. None: that of `Schedules`, or what is attached, else ``args.lr_scheduler_type`` with its
            warm-up; those that go by a metric count as constant.
        validate: True: the loss on the first batches of the (first) evaluation dataset ranks the candidates, as many as cost, a
            dozen times, a fifth of the budget; without a dataset, or with False, the training loss does. Or ``(model) → float``.
        budget: As for `lrkit.find`.
        max_steps: As for `lrkit.find`.
        seed: As for `lrkit.find`.
        progress: As for `lrkit.find`.

    Returns:
        The Suggestion.

    Raises:
        InputError: If the model is split over processes, the scheduler is your own and `schedule` not given, or as `lrkit.find`.
        StateError: If it has been trained.
    """
    if not isinstance(trainer, Trainer):
        raise InputError(f"find({type(trainer).__name__}): needs the Trainer. For a loop of your own there is lrkit.find.")
    check_whole(trainer.accelerator, "find(trainer)")
    if trainer.state.global_step:
        raise StateError(f"find(trainer): it has made {trainer.state.global_step} updates. Find before train().")
    given = {"budget": budget, "max_steps": max_steps, "seed": seed, "progress": progress}
    with _as_it_was(trainer):
        seeker = _Seeker(trainer, steps, schedule, validate, given)
        trainer._memory_tracker = TrainerMemoryTracker(skip_memory_metrics=True)  # the other may start a thread
        trainer.callback_handler.callbacks = [seeker]
        try:
            trainer.train()
        except _Found as found:
            return found.suggestion
    raise StateError("find(trainer): its train() came back without having begun to train. Call lrkit.find with your own loop.")


class _Found(Exception):
    """Leaves the Trainer's loop with the answer."""

    def __init__(self, suggestion: Suggestion) -> None:
        super().__init__()
        self.suggestion = suggestion


@contextmanager
def _as_it_was(trainer: Trainer) -> Iterator[None]:
    """Afterwards the Trainer, its parts and what it hangs on the model are as before; `lrkit.find` itself sees to the weights."""
    model, optimizer = trainer.model, trainer.optimizer
    things = [trainer, trainer.callback_handler, trainer.control, trainer.accelerator, *model.modules()]
    things += [getattr(model, name) for name in ("config", "generation_config") if getattr(model, name, None) is not None]
    things += [] if optimizer is None else [optimizer, *optimizer.param_groups]
    places = {p.device for p in model.parameters()}
    try:
        with preserved(), kept(*things):
            yield
    finally:
        if len(places) == 1 and {p.device for p in model.parameters()} != places:
            model.to(places.pop())


class _Seeker(TrainerCallback):
    """Searches when training begins, and leaves."""

    def __init__(self, trainer: Trainer, steps: int | None, schedule: Any, validate: Any, given: dict[str, Any]) -> None:
        self._trainer, self._steps, self._schedule, self._validate, self._given = trainer, steps, schedule, validate, given
        self._schedules = [one for one in trainer.callback_handler.callbacks if isinstance(one, Schedules)]
        self._plain = trainer.lr_scheduler is None and type(trainer).create_scheduler is Trainer.create_scheduler

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any) -> None:
        """Search: all is in its place, and no batch has been read."""
        trainer, loader = self._trainer, kwargs["train_dataloader"]
        optimizer = trainer.optimizer.optimizer  # inside accelerate's
        steps = state.max_steps if self._steps is None else self._steps
        for one in self._schedules:
            one._check_pair(kwargs["lr_scheduler"])
        fresh = [] if attached(optimizer) else self._schedules
        attachments = [attach_at(optimizer, one._complete(args, state, loader)) for one in fresh]
        update, windows = _Update(trainer), Windows(loader, args.gradient_accumulation_steps, state=Reading(loader))
        try:
            schedule = self._shape(optimizer, kwargs["lr_scheduler"], args, steps)
            validate = self._validation(update, steps)
            with untouched(trainer.accelerator, loader):
                step = ending(update, trainer.accelerator.scaler)
                suggestion = search(
                    trainer.model, optimizer, update.loss, windows, steps, schedule, step, validate, **self._given
                )  # fmt: skip
        finally:
            for attachment in attachments:
                attachment.detach()
        raise _Found(of_updates(suggestion, args.gradient_accumulation_steps))

    def _shape(self, optimizer: Optimizer, scheduler: LRScheduler, args: TrainingArguments, steps: int) -> Any:
        """What `lrkit.find` takes for the schedule of the real run; None: the attached one."""
        if not isinstance(scheduler, Passive):
            if not self._plain and self._schedule is None:
                raise InputError(
                    f"find(trainer): the rate will be driven by a {type(scheduler).__name__} of yours, whose shape cannot be "
                    "told. Say schedule=, e.g. schedule='warmup 5% > cosine'."
                )
            for group in optimizer.param_groups:
                if "initial_lr" in group:
                    slot("lr").put(group, group.pop("initial_lr"))
        if self._schedule is not None or any("lr" in one.schedules for one in attached(optimizer)):
            return self._schedule
        name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        if not self._plain or name in _BY_METRIC:
            return Hold()
        return get_scheduler(name, args.learning_rate, args.get_warmup_steps(steps), steps, args.lr_scheduler_kwargs).schedule

    def _validation(self, update: "_Update", steps: int) -> Validate | None:
        """The function that ranks the candidates."""
        if not isinstance(self._validate, bool):
            return self._validate  # type: ignore[no-any-return]
        trainer, data = self._trainer, self._trainer.eval_dataset
        if not self._validate or data is None:
            return None
        loader = trainer.get_eval_dataloader(next(iter(data)) if isinstance(data, dict) else None)
        with untouched(trainer.accelerator, loader):
            batches = list(islice(enumerate(loader), validation_batches(steps, self._given["budget"])))
        return lambda model: float(update.loss(model, batches))


_BY_METRIC = ("reduce_lr_on_plateau", "greedy")


@dataclass(frozen=True, slots=True)
class _Update:
    """One update of the Trainer. With slots, for a search looks through the attributes of what it calls and puts back what it
    finds there, which `_as_it_was` does for the Trainer.
    """

    trainer: Trainer

    def __call__(self, _model: Any, window: list[tuple[int, Any]], _optimizer: Optimizer) -> Tensor:
        trainer, args, accelerator = self.trainer, self.trainer.args, self.trainer.accelerator
        batches, items = trainer.get_batch_samples((inputs for _, inputs in window), len(window), args.device)
        trainer.current_gradient_accumulation_steps = len(batches)
        losses = []
        for i, inputs in enumerate(batches, 1):
            accelerator.sync_gradients = i == len(batches)
            with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(trainer.model_wrapped):
                losses.append(trainer.training_step(trainer.model_wrapped, inputs, items))
        if args.max_grad_norm > 0:
            accelerator.clip_grad_norm_(trainer.model_wrapped.parameters(), args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model_wrapped.zero_grad()
        return torch.stack(losses).sum()  # each is its share of the update's mean

    def loss(self, _model: Any, window: list[tuple[int, Any]]) -> Tensor:
        """The mean loss as it is evaluated."""
        trainer = self.trainer
        trainer.optimizer.eval()  # schedule-free ones have other weights then
        losses = [trainer.prediction_step(trainer.model_wrapped, inputs, prediction_loss_only=True)[0] for _, inputs in window]
        if not losses or any(loss is None for loss in losses):
            raise InputError(
                "find(trainer, validate=True): the evaluation gives no loss: no batch, or none of args.label_names in it. Mend "
                "that, or say validate=False."
            )
        return torch.stack(losses).mean()
