"""lrkit inside transformers' Trainer: a callback, and the pair that keeps the Trainer from making a scheduler of its own.

    schedules = Schedules(lr="warmup 5% > cosine")
    Trainer(…, optimizers=schedules.pair(), callbacks=[schedules])

The Trainer loads the optimizer, whose state holds the position, before the callback attaches. Knows the Trainer's events.
"""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrkit.binding.attach import Attachment, attached
from lrkit.errors import MissingExtra, StateError
from lrkit.integrations.keywords import attach_at, check_heard, heard, missing
from lrkit.integrations.torch import Passive

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
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
        if kwargs["lr_scheduler"] is not self._scheduler:
            raise StateError(
                f"Schedules(…): the Trainer drives the rate by a {type(kwargs['lr_scheduler']).__name__} of its own. Build it "
                "with Trainer(…, optimizers=schedules.pair(), callbacks=[schedules])."
            )
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
