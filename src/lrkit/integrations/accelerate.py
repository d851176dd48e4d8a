"""`attach` and `find` for accelerate: with the torch optimizer inside the prepared one, so that only real updates count.

accelerate steps a torch scheduler once per process; an attachment sees each update once, in any world. Knows accelerate's
wrappers.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrkit.binding.attach import Attachment
from lrkit.binding.attach import attach as attach_to
from lrkit.errors import InputError, MissingExtra, real
from lrkit.finder.search import find as search
from lrkit.finder.suggestion import Suggestion
from lrkit.integrations.finding import Windows, ending, kept, of_updates
from lrkit.integrations.keywords import missing
from lrkit.schedules.base import Schedule
from lrkit.schedules.template import Template
from lrkit.snapshot import preserved
from lrkit.task import Loss, Validate, length_of

try:
    from accelerate import Accelerator
    from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.utils import DistributedType, send_to_device
except ModuleNotFoundError as error:
    raise MissingExtra(__name__, "accelerate", "accelerate") from error


def attach(accelerator: Accelerator, optimizer: Optimizer, *, dataloader: Any = None, **given: Any) -> Attachment:
    """`lrkit.attach`, before or after ``accelerator.prepare``.

    Args:
        accelerator: The run's Accelerator.
        optimizer: The prepared optimizer, or the torch optimizer before it is prepared.
        dataloader: The prepared dataloader, where a schedule counts in epochs (``2ep``) and `steps_per_epoch` is not given.
        **given: As for `lrkit.attach`; `total` counts updates, whatever the number of processes or of accumulated batches.

    Returns:
        The attachment.

    Raises:
        InputError: If one of them is not what it should be, or `lrkit.attach` refuses.
        StateError: As `lrkit.attach`.
    """
    if not isinstance(accelerator, Accelerator):
        came = type(accelerator).__name__
        raise InputError(
            f"attach({came}, …): the first must be the Accelerator, got a {came}. Say attach(accelerator, optimizer)."
        )
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    if not isinstance(inner, Optimizer):
        came = type(inner).__name__
        raise InputError(f"attach(accelerator, {came}): this is no torch optimizer, nor a prepared one. Pass what prepare gave.")
    if dataloader is not None and "steps_per_epoch" in missing("attach", given):
        given["steps_per_epoch"] = _updates_per_epoch(accelerator, dataloader)
    return attach_to(inner, **given)


def _updates_per_epoch(accelerator: Accelerator, dataloader: Any) -> int:
    """This process's batches, by as many as make one update."""
    if not isinstance(dataloader, DataLoaderShard | DataLoaderDispatcher):
        came = type(dataloader).__name__
        raise InputError(
            f"attach(dataloader={came}): it must be prepared, for only then is its length this process's. Prepare it."
        )
    batches: int = len(dataloader)
    each: int = accelerator.gradient_accumulation_steps
    if batches % each and not accelerator.gradient_state.sync_with_dataloader:
        raise InputError(
            f"attach(dataloader=…): {batches} batches an epoch are no whole number of updates of {each}. Say steps_per_epoch=…."
        )
    return math.ceil(batches / each)


def find(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    batches: Iterable[Any],
    steps: int | None = None,
    schedule: str | Schedule | Template | None = None,
    validate: Validate | None = None,
    budget: float = 0.25,
    max_steps: int | None = None,
    seed: int = 0,
    *,
    max_norm: float | None = None,
    progress: Callable[[float, float], object] | None = None,
) -> Suggestion:
    """`lrkit.find` with what your loop has: the same precision, scaler, accumulation and clipping; nothing is left behind.

    Args:
        accelerator: The run's Accelerator; of several processes all have to call.
        model: The prepared model.
        optimizer: The prepared optimizer.
        loss: ``(model, batch) → Tensor`` of one number: your loop's forward pass, in ``accelerator.autocast()`` if that is.
        batches: The loader, prepared or not; each update takes as many batches as the accelerator accumulates.
        steps: Updates of the real run, however many batches each takes. May be left out where an attached schedule has an end.
        schedule: Of the real run. None: the attached one, else ``"warmup 5% > cosine"``.
        validate: As for `lrkit.find`.
        budget: As for `lrkit.find`.
        max_steps: As for `lrkit.find`.
        seed: As for `lrkit.find`.
        max_norm: What your loop gives to ``accelerator.clip_grad_norm_``, above 0; None: it does not clip.
        progress: As for `lrkit.find`.

    Returns:
        The Suggestion, for ``suggestion.apply(optimizer.optimizer)``: the torch optimizer inside the prepared one.

    Raises:
        InputError: If one of them is not what it should be, the model is split over processes, or as `lrkit.find`.
    """
    inner = _inner(accelerator, optimizer)
    limit = None if max_norm is None else real("find", "max_norm", max_norm, above=0.0)
    each, device, length = accelerator.gradient_accumulation_steps, accelerator.device, length_of(batches)
    # Without this switch accelerate carries what is left of an epoch over into the next one; here it is left out.
    most = None if length is None or accelerator.gradient_state.sync_with_dataloader else length - length % each
    update = ending(_Update(accelerator, optimizer, loss, limit), accelerator.scaler)

    def mean_loss(model: nn.Module, window: list[tuple[int, Any]]) -> Tensor:
        return torch.stack([loss(model, send_to_device(batch, device)) for _, batch in window]).mean()

    windows = Windows(batches, each, most, Reading(batches))
    with untouched(accelerator, batches, optimizer):
        found = search(
            model, inner, mean_loss, windows, steps, schedule, update, validate, budget, max_steps, seed, progress=progress
        )  # fmt: skip
    return of_updates(found, each)


@dataclass(frozen=True, slots=True)
class _Update:
    """One update of the loop. With slots, for a search looks through the attributes of what it calls and puts back what it finds
    there, which `untouched` does for the accelerator.
    """

    accelerator: Accelerator
    optimizer: Any
    loss: Loss
    limit: float | None

    def __call__(self, model: Any, window: list[tuple[int, Any]], _inner: Optimizer) -> Tensor:
        accelerator, losses = self.accelerator, []
        for i, (_, batch) in enumerate(window, 1):
            # accelerator.accumulate would ask the loader that is being read whether it ends; here none is.
            accelerator.sync_gradients = i == len(window)
            with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
                loss = self.loss(model, send_to_device(batch, accelerator.device))
                accelerator.backward(loss)
            losses.append(loss.detach())
        if self.limit is not None:
            accelerator.clip_grad_norm_(model.parameters(), self.limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return torch.stack(losses).mean()


def _inner(accelerator: Accelerator, optimizer: Optimizer) -> Optimizer:
    """The torch optimizer inside; refuse what cannot be searched with."""
    if not isinstance(accelerator, Accelerator):
        came = type(accelerator).__name__
        raise InputError(f"find({came}, …): the first must be the Accelerator, got a {came}. Say find(accelerator, model, …).")
    if not isinstance(optimizer, AcceleratedOptimizer):
        came = type(optimizer).__name__
        raise InputError(f"find(accelerator, model, {came}, …): the optimizer must be prepared. Pass what prepare gave.")
    check_whole(accelerator, "find(accelerator, …)")
    inner: Optimizer = optimizer.optimizer
    return inner


def check_whole(accelerator: Accelerator, call: str) -> None:
    """Refuse a world in which no process has the whole model; where each has one, all of them search together.

    Raises:
        InputError: If the model is split (FSDP, DeepSpeed, …).
    """
    if accelerator.distributed_type in _SPLIT:
        raise InputError(
            f"{call}: the model is split over processes ({accelerator.distributed_type.value}), and a search needs all of it. "
            "Find where one process holds it."
        )


_SPLIT = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)


class Reading:
    """What there is to put back of a loader. A prepared one says that it has a state_dict, whether it has or not: so not itself.

    Args:
        loader: A loader, prepared or not.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = getattr(loader, "base_dataloader", loader)
        self.attributes = {} if self.loader is loader else vars(loader)


@contextmanager
def untouched(accelerator: Accelerator, loader: Any, *things: Any) -> Iterator[None]:
    """Afterwards the accelerator, a loader and other things are as before; meanwhile the loader moves nothing to the device.

    A search keeps many batches, and a step moves its own.

    Args:
        accelerator: The Accelerator.
        loader: A loader, prepared or not.
        *things: Objects whose attributes are put back.
    """
    with kept(accelerator, accelerator.gradient_state, *things), preserved(batches=Reading(loader)):
        if isinstance(loader, DataLoaderShard):
            loader.device = None
        yield
