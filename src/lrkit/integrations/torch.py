"""`as_torch`: an attachment behind the face of a torch scheduler, for hosts that insist on one.

It changes nothing, for the attachment drives; it only answers. Knows torch's LRScheduler; knows no host.
"""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrkit.binding import record
from lrkit.binding.attach import Attachment
from lrkit.binding.driver import driver_of
from lrkit.errors import InputError, StateError


def as_torch(attachment: Attachment) -> LRScheduler:
    """An LRScheduler that is only looked at: its `step()` does nothing, its `get_last_lr()` are the rates of the last update.

    Args:
        attachment: What `lrkit.attach` gave.

    Returns:
        The scheduler, for `accelerator.prepare`, Lightning's ``"lr_scheduler"`` or the Trainer's ``optimizers=``.

    Raises:
        InputError: If it is no attachment.

    Examples:
        >>> import lrkit, torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> scheduler = as_torch(lrkit.attach(optimizer, lr="linear 10"))
        >>> scheduler.step()
        >>> scheduler.get_last_lr(), "initial_lr" in optimizer.param_groups[0]
        ([0.1], False)
    """
    if not isinstance(attachment, Attachment):
        came = type(attachment).__name__
        raise InputError(f"as_torch({came}): must be an attachment, got a {came}. Pass what lrkit.attach(optimizer, …) gave.")
    return Passive(attachment.optimizer)


class Passive(LRScheduler):
    """A scheduler that changes nothing and asks what is attached to its optimizer. Made by `as_torch`.

    A copy asks its copied optimizer: attach to that again, and it answers again.

    Args:
        optimizer: The optimizer; None where the host has yet to build it.
    """

    def __init__(self, optimizer: Optimizer | None = None) -> None:
        # Not super().__init__: it would patch optimizer.step, put initial_lr into the groups and take a step.
        self.optimizer: Any = optimizer
        self._step_count = 0  # accelerate counts micro-batches here

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]
        """Each group's base rate."""
        return [float(group.get(record.BASE + "lr", group["lr"])) for group in self._groups]

    @property
    def last_epoch(self) -> int:  # type: ignore[override]
        """Updates done: of an attached optimizer, those that really happened."""
        return (record.read_step(self._groups[0]) or 0) if self._groups else 0

    def get_last_lr(self) -> list[Any]:
        """Each group's rate at the last update; before the first, what the first will have.

        Raises:
            StateError: If there is no optimizer, because whoever was to attach has not been called.
        """
        if self.optimizer is None:
            raise StateError("get_last_lr: nothing is attached yet. Give the Trainer the callback too: callbacks=[schedules].")
        driver = driver_of(self.optimizer)
        used = [{}] * len(self._groups) if driver is None else driver.values(max(driver.step - 1, 0))
        return [float(values.get("lr", group["lr"])) for values, group in zip(used, self._groups, strict=True)]

    def get_lr(self) -> list[Any]:
        """Each group's rate now: what the next update will have."""
        return [float(group["lr"]) for group in self._groups]

    def step(self, *_args: object, **_kwargs: object) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position is in the optimizer's own groups."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing from it: loading the optimizer is all that resuming takes."""

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return [] if self.optimizer is None else self.optimizer.param_groups
