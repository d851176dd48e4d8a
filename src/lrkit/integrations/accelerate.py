"""`attach` for accelerate: to the torch optimizer inside the prepared one, so that only real updates count, in any world.

accelerate steps a torch scheduler once per process; an attachment sees each update once. Knows accelerate's wrappers.
"""

import math
from typing import Any

from torch.optim import Optimizer

from lrkit.binding.attach import Attachment
from lrkit.binding.attach import attach as attach_to
from lrkit.errors import InputError, MissingExtra
from lrkit.integrations.keywords import missing

try:
    from accelerate import Accelerator
    from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard
    from accelerate.optimizer import AcceleratedOptimizer
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
