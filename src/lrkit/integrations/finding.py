"""What the hosts' `find` share: the batches of one update together, objects that are left as they were, a scaler in a search.

Knows loaders, scalers and plain objects; knows no host.
"""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lrkit.binding.processes import agreed
from lrkit.errors import InputError
from lrkit.finder.suggestion import Suggestion
from lrkit.task import Step, length_of

# Of the budget, what about a dozen validations may cost; the rest is for updates.
_VALIDATIONS, _SHARE = 12, 0.2


class Windows:
    """A loader's batches, each with its number in the epoch, in lists for one update; the last of an epoch may be shorter.

    Args:
        batches: What can be iterated again and again.
        each: Batches of an update, at least 1.
        most: Batches of an epoch at most; None: all.
        state: What a search takes for the loader's state, and puts back to read it anew; None: the loader.

    Raises:
        InputError: If `batches` is an iterator, which can be read only once.
    """

    def __init__(self, batches: Iterable[Any], each: int, most: int | None = None, state: Any = None) -> None:
        if isinstance(batches, Iterator):
            raise InputError("find(batches=…): an iterator can be read only once. Pass what makes it: a list, a DataLoader.")
        self.state = batches if state is None else state
        self._read: Callable[[], Iterator[Any]] = lambda: islice(batches, most)
        self._length = length_of(batches)
        if self._length is not None and most is not None:
            self._length = min(self._length, most)
        self._each = each

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        source = enumerate(self._read())
        while window := list(islice(source, self._each)):
            yield window

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("the loader has no length")
        return math.ceil(self._length / self._each)


@contextmanager
def kept(*things: Any) -> Iterator[None]:
    """Afterwards each of these has the attributes that it had, and the dicts, lists and sets among them what they held.

    No tensor is copied: `snapshot.preserved` is for weights, this is for what a host hangs on its objects.

    Args:
        *things: Objects, or dicts that are taken for attributes.
    """
    restores = [_Held(thing if isinstance(thing, dict) else vars(thing)) for thing in things]
    try:
        yield
    finally:
        for held in reversed(restores):
            held.restore()


_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)  # these very types: another might do more than hold


class _Held:
    """What a dict of attributes holds, and what the containers among them do."""

    def __init__(self, attributes: dict[Any, Any]) -> None:
        self._attributes, self._before = attributes, dict(attributes)
        self._inside = [(one, one.copy()) for one in attributes.values() if type(one) in _CONTAINERS]

    def restore(self) -> None:
        """Put it back."""
        for container, content in self._inside:
            _refill(container, content)
        _refill(self._attributes, self._before)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    (container.extend if isinstance(container, list) else container.update)(content)


def ending(step: Step, scaler: Any) -> Step:
    """A step that makes the update which a scaler refuses, where the loss itself is not finite.

    That is no matter of the scale: weights so large give no gradient, and the scaler would skip for ever. The update is made for
    the search to see the loss; it puts back weights and, as a part of this step, the scaler.

    Args:
        step: ``(model, batch, optimizer) → loss``, with a scaler that skips updates.
        scaler: The GradScaler, or None.
    """
    if scaler is None:
        return step

    def ended(model: Any, window: Any, optimizer: Optimizer) -> Tensor:
        scale = scaler.get_scale()
        loss = step(model, window, optimizer)
        skipped = scaler.get_scale() < scale  # in all processes or in none
        if skipped and not math.isfinite(agreed([float(loss)])[0]):
            optimizer.step()
        return loss

    return ended


def of_updates(suggestion: Suggestion, each: int) -> Suggestion:
    """The Suggestion, whose context counts the rows of an update instead of those of one batch.

    Args:
        suggestion: What was found with `Windows`.
        each: Batches of an update.
    """
    rows = suggestion.context.get("batch_size")
    return suggestion if rows is None else replace(suggestion, context={**suggestion.context, "batch_size": rows * each})


def validation_batches(steps: int, budget: float) -> int:
    """Batches of a validation, so that about a dozen of them cost a fifth of the budget; a forward costs a third of an update.

    Args:
        steps: Updates of the run.
        budget: Of the search, in runs.
    """
    return max(1, round(3 * _SHARE * budget * steps / _VALIDATIONS))
