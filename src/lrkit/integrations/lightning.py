"""lrkit inside Lightning: `Schedules`, a callback, or `scheduled`, for ``configure_optimizers``; `Clip`; `Watch`; and `find`.

The optimizer's state, which Lightning saves, holds the position; nothing else is saved. Knows Lightning's Trainer; what a
schedule is, it leaves to `lrkit.attach`, and how to search to `lrkit.find`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch.optim import Optimizer

from lrkit import clip
from lrkit.binding.attach import Attachment, attached
from lrkit.errors import InputError, MissingExtra, StateError
from lrkit.finder.suggestion import Suggestion
from lrkit.integrations.keywords import attach_at, check_heard, heard, missing
from lrkit.integrations.lightning_find import Found, Seeker, as_it_was, check_findable, quiet
from lrkit.integrations.lightning_watch import Watch as Watch
from lrkit.integrations.torch import as_torch
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template
from lrkit.task import Validate

try:
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise MissingExtra(__name__, "lightning", "lightning") from error


class Schedules(Callback):
    """Attaches schedules to a fit's optimizers: ``Trainer(callbacks=[Schedules(lr="warmup 5% > cosine")])``.

    What a schedule needs and nobody gave, it asks of the Trainer: ``total`` is ``estimated_stepping_batches``. In manual
    optimization only you know how often an optimizer steps: say ``total=``.

    Controllers hear what they listen for: ``"loss"`` is the training loss of each update, any other metric the one that is
    logged under this name, at the end of each validation.

    Args:
        *each: Instead of keywords, a mapping of them for each of several optimizers, in the order of `configure_optimizers`.
        **given: As for `lrkit.attach`, for all optimizers.

    Attributes:
        attachments: One an optimizer, from the start of a fit on.

    Raises:
        InputError: If nothing is to be driven, a schedule cannot be read, or both `each` and keywords are given.
    """

    def __init__(self, *each: Mapping[str, Any], **given: Any) -> None:
        if each and given:
            raise InputError("Schedules(…): either a mapping for each optimizer or keywords for all. Put the keywords inside.")
        for one in each or (given,):
            if not isinstance(one, Mapping):
                raise InputError(f"Schedules({one!r:.60}): say what it drives, e.g. lr={one!r:.60}.")
            missing("Schedules", one)
        self.attachments: list[Attachment] = []
        self._before: list[Attachment] = []
        self._each, self._given = each, given
        self._done: list[int] = []
        self._losses: list[Any] = []
        self._counted = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach before a checkpoint is restored, which is right for every strategy, where the Trainer need not be asked."""
        driven = [config.scheduler for config in trainer.lr_scheduler_configs]
        if driven:
            raise StateError(
                f"Schedules(…): configure_optimizers returns a scheduler as well ({type(driven[0]).__name__}), and two cannot "
                "drive one optimizer. Return only the optimizer."
            )
        self._before, self.attachments = self.attachments, []
        self._done = [one.step for one in self._before] if trainer.global_step else []  # this trainer's last fit
        if not any(missing("Schedules", one) for one in self._each or (self._given,)):
            self._attach(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach where it has to be asked: asked earlier, Lightning would not restore the place within an epoch."""
        if not self.attachments:
            self._attach(trainer, pl_module, trainer.global_step)
        self._losses, self._counted = [], trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, _module: LightningModule, outputs: Any, _batch: Any, _index: int) -> None:
        """Report the loss of an update, which is the sum of its batches' as Lightning gives them."""
        if outputs and "loss" in outputs:
            self._losses.append(outputs["loss"].detach())
        if self._losses and trainer.global_step != self._counted:
            self._report({"loss": sum(self._losses)})
            self._losses, self._counted = [], trainer.global_step

    def on_validation_end(self, trainer: Trainer, _module: LightningModule) -> None:
        """Report what is logged."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            for given in self._each or (self._given,):
                check_heard(given, trainer.callback_metrics, "val")
            self._report({name: value for name, value in trainer.callback_metrics.items() if name != "loss"})

    def _attach(self, trainer: Trainer, module: LightningModule, counted: int = 0) -> None:
        """A further fit of the same trainer goes on where the last one stopped, though its optimizers are new."""
        optimizers: list[Optimizer] = trainer.optimizers
        each = self._each or (self._given,) * len(optimizers)
        if len(each) != len(optimizers):
            raise InputError(f"Schedules(…): got {len(each)} mappings for {len(optimizers)} optimizers. Give one an optimizer.")
        for i, (optimizer, given) in enumerate(zip(optimizers, each, strict=True)):
            for one in set(attached(optimizer)) & set(self._before):  # configure_optimizers gave the same optimizer again
                one.detach()
            place = {"step": self._done[i]} if i < len(self._done) else {}
            self.attachments.append(attach_at(optimizer, {**_complete(module, given), **place}, counted))

    def _report(self, measured: Mapping[str, Any]) -> None:
        for attachment, given in zip(self.attachments, self._each or (self._given,) * len(self.attachments), strict=True):
            if metrics := heard(given, measured):
                attachment.report(**metrics)


class Clip(Callback):
    """Clips gradients before each update, for optimizers that do not clip themselves: ``Clip(lrkit.clip.norm(1.0))``.

    Lightning steps with a closure, so that a hook of the optimizer would come before the gradients. A gradient that is not finite
    skips the update, which schedules do not count. lrkit's optimizers take ``clip=`` instead.

    Args:
        rule: How far gradients may go.

    Attributes:
        tally: How often, and how hard.

    Raises:
        InputError: If `rule` is no clip.
        StateError: In a fit, if an optimizer clips itself.
    """

    def __init__(self, rule: clip.Clip) -> None:
        if not isinstance(rule, clip.Clip):
            raise InputError(f"Clip({rule!r:.60}): must be a clip. Pass lrkit.clip.norm(1.0), for example.")
        self.rule, self.tally = rule, clip.Tally(rule)
        self._void: Optimizer | None = None  # whose update is not to be
        self._skipped = torch.ones(())
        self._handles: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """See to it that who counts updates is told of those that are skipped."""
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "clip"):
                raise StateError(f"Clip({self.rule!r}): {type(optimizer).__name__} clips itself. Give it clip= instead.")
            self._handles.append(optimizer.register_step_post_hook(self._after))
            optimizer._optimizer_step_post_hooks.move_to_end(self._handles[-1].id, last=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Leave no hook behind."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:  # noqa: ARG002
        """Clip what has just been computed."""
        if vars(optimizer).get("found_inf") is self._skipped:
            del optimizer.found_inf  # type: ignore[attr-defined]  # of the last update
        if not clip.apply(optimizer, self.rule, self.tally).finite:
            self._void = optimizer
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _after(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if self._void is optimizer:
            self._void = None
            vars(optimizer)["found_inf"] = self._skipped


def scheduled(module: LightningModule, optimizer: Optimizer, **given: Any) -> dict[str, Any]:
    """The value of ``configure_optimizers``: the optimizer with its schedules attached, and a scheduler to be looked at.

    With a dataloader that resumes within an epoch, say `total=`, or use `Schedules`: asked for its length now, Lightning would
    not restore the dataloader's place.

    Args:
        module: The module whose `configure_optimizers` this is.
        optimizer: Its optimizer.
        **given: As for `lrkit.attach`; what a schedule needs and nobody gave is asked of the module's Trainer.

    Returns:
        The dict that Lightning takes; several make a list of them.

    Raises:
        InputError: As `lrkit.attach`; if there are controllers, which nobody would report to.
        StateError: As `lrkit.attach`.
    """
    if not isinstance(optimizer, Optimizer):
        came = type(optimizer).__name__
        raise InputError(f"scheduled(module, {came}): the second must be the torch optimizer, got a {came}. Pass it alone.")
    missing("scheduled", given)
    if "controllers" in given:
        raise InputError("scheduled(controllers=…): nobody would report to them. Use the callback: Schedules(controllers=…).")
    done = module.trainer.global_step if module.automatic_optimization else 0  # by a fit before of the same trainer
    place = {"step": done} if done else {}
    scheduler = as_torch(attach_at(optimizer, _complete(module, {**place, **given})))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _complete(module: LightningModule, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords, with what the Trainer knows."""
    unknown, known, trainer = missing("Schedules", given), dict(given), module.trainer
    if unknown and module.automatic_optimization:
        updates = trainer.estimated_stepping_batches  # loads the data, if nobody has yet
        epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        for name, value in (("total", updates), ("steps_per_epoch", epoch)):
            if name in unknown and 0 < value < math.inf:
                known[name] = math.ceil(value)
    return known


def find(
    trainer: Trainer,
    module: LightningModule,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: LightningDataModule | None = None,
    *,
    steps: int | None = None,
    schedule: str | Schedule | Template | None = None,
    validate: Validate | str | None = None,
    budget: float = 0.25,
    max_steps: int | None = None,
    seed: int = 0,
    progress: Callable[[float, float], object] | None = None,
) -> Suggestion:
    """`lrkit.find` on what ``trainer.fit(module, …)`` would train, before it; afterwards it trains the same to the bit.

    A quiet Trainer of the same precision, accumulation and clipping begins a fit and searches instead of it; what is logged
    meanwhile goes nowhere. Of the callbacks only `Schedules` and `Clip` take part.

    Args:
        trainer: The Trainer, on one device, not fitted yet.
        module: The module, with automatic optimization and one optimizer. Give it the rate where its `configure_optimizers` reads
            it: ``module.lr = suggestion.lr``.
        train_dataloaders: As for ``fit``.
        val_dataloaders: As for ``fit``.
        datamodule: As for ``fit``.
        steps: Updates of the real run; None: ``estimated_stepping_batches``.
        schedule: Of the real run. None: that of `Schedules` or `scheduled`, else a constant rate.
        validate: The name of a loss that the module logs in its validation: it ranks the candidates, on as many batches as cost,
            a dozen times, a fifth of the budget. Or ``(module) → float``. None: the training loss does.
        budget: As for `lrkit.find`.
        max_steps: As for `lrkit.find`.
        seed: As for `lrkit.find`.
        progress: As for `lrkit.find`.

    Returns:
        The Suggestion.

    Raises:
        InputError: If there are several optimizers or processes, optimization is manual, a torch scheduler is returned and
            `schedule` not given, the run has no end and `steps` is not given, or as `lrkit.find`.
        StateError: If the Trainer has been fitted.
    """
    check_findable(trainer, module)
    given = {"budget": budget, "max_steps": max_steps, "seed": seed, "progress": progress}
    seeker = Seeker(steps, schedule, validate, given)
    schedules = [Schedules(*one._each, **one._given) for one in trainer.callbacks if isinstance(one, Schedules)]
    clips = [Clip(one.rule) for one in trainer.callbacks if isinstance(one, Clip)]
    loaders = [train_dataloaders, val_dataloaders]
    with as_it_was(module, datamodule, loaders), suppress(Found):
        try:
            quiet(trainer, [*schedules, *clips, seeker]).fit(module, *loaders, datamodule)
        finally:
            for attachment in [attachment for one in schedules for attachment in one.attachments]:
                attachment.detach()
    return seeker.answer()
