"""Sparse gradients: only the rows that have one are touched, which is right for rules without memory, and for a sum of squares.

Knows the ten numbers and the reference; knows no optimizer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrkit.errors import InputError
from lrkit.optim.lists import Change, Lists
from lrkit.optim.reference import Values, apply
from lrkit.optim.rule import Form, Scalars


class Sparse:
    """Executes updates whose gradients are sparse COO tensors.

    Args:
        lists: The tensors.
        form: What the rule has.
    """

    def __init__(self, lists: Lists, form: Form) -> None:
        self._lists, self._form = lists, form

    def __call__(self, s: Scalars, change: Change) -> bool:
        """Execute one update."""
        form = self._form
        for i, gradient in enumerate(self._lists.g):
            gradient = gradient.coalesce()  # two gradients of one row are one
            values = self._lists.values(i)
            gain = change.gain if isinstance(change.gain, float) else change.gain[i]
            if form.momentum:  # the ball rolls on in every row; only what is added is sparse
                apply(values, gradient.to_dense(), s, form, gain, change.bound)
                continue
            index = tuple(gradient.indices())
            if not isinstance(gain, float) and gain.dim():
                gain = gain.expand(gain.shape[0], *values.p.shape[1:])[index]
            rows = Values(*(one if one is None else one[index] for one in values))  # type: ignore[arg-type]
            apply(rows, gradient.values(), s, form, gain, change.bound)
            for here, new in zip(values, rows, strict=True):
                if here is not None and new is not None:
                    here[index] = new
        return True


def check_sparse(g: Tensor, s: Scalars, form: Form, rounded: bool) -> None:
    """Refuse sparse gradients where an update changes every row.

    Args:
        g: One of them.
        s: The numbers of the update.
        form: What the rule has.
        rounded: Whether values are rounded at random.

    Raises:
        InputError: If it does, if they are, or if the layout is not COO.
    """
    if g.layout != torch.sparse_coo or g.is_complex():
        raise InputError(f"step(): a gradient of layout {g.layout} has no update here. Give a dense one.")
    if rounded:
        raise InputError("step(): stochastic_rounding=True rounds whole tensors, and a sparse gradient came. Leave one out.")
    decays = s.wd != 0 or s.rho != 1 or (form.square and s.bv != 1)
    if decays or form.extra or form.sign or form.after or (form.momentum and form.square):
        raise InputError(
            "step(): a sparse gradient came, and this rule changes every row at every update. Use optim.SGD or optim.Adagrad "
            "without weight decay, or dense gradients (Embedding(sparse=False))."
        )
