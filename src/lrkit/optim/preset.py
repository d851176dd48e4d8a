"""What all presets share: whose form they can take, and the options that torch's classes do not have."""

from __future__ import annotations

from typing import Any, TypedDict

from lrkit.clip import Clip
from lrkit.errors import InputError
from lrkit.optim.direction import check_word

LIKE = ("torch", "keras", "optax", "paper", "tutorial")


class Options(TypedDict, total=False):
    """What every preset takes beyond torch's arguments: see `lrkit.optim.Optimizer`."""

    clip: Clip | None
    backend: str | None
    stochastic_rounding: bool
    seed: int


def by_form(call: str, like: str, given: Any, forms: dict[str, Any]) -> Any:
    """An argument, or, where it is None, what the wanted form has.

    Args:
        call: The optimizer's name.
        like: Whose form.
        given: What the user said.
        forms: form → default; ``"torch"`` stands for those that are not named.

    Raises:
        InputError: If there is no such form.
    """
    check_word(call, "like", like, LIKE)
    return forms.get(like, forms["torch"]) if given is None else given


def pair(call: str, betas: Any) -> tuple[Any, Any]:
    """Two betas as a tuple.

    Raises:
        InputError: If there are not two.
    """
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise InputError(f"{call}(betas={betas!r}): betas must be two numbers, e.g. (0.9, 0.999).")
    return betas[0], betas[1]
