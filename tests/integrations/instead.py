"""For the tests of the hosts' `find`: what can be learned, an optimizer that lets itself be watched, and a search's stand-in.

The stand-in makes a few updates as a host's `find` makes them, so that they can be compared with those of the host.
"""

import random

import numpy as np
import torch

from integrations.plain import INPUTS
from lrkit.snapshot import preserved
from lrkit.task import updates

TARGETS = INPUTS @ torch.randn(5, 2, generator=torch.Generator().manual_seed(3))


def learnable():
    return torch.utils.data.TensorDataset(INPUTS, TARGETS)


class Instead:
    """Called as `lrkit.find` is: makes so many updates, keeps losses and weights, and puts the training back."""

    def __init__(self, number):
        self.number, self.context = number, {}

    def __call__(self, model, optimizer, loss, batches, steps, schedule, step, validate, *_given, **_named):
        self.steps, self.schedule, self.epoch = steps, schedule, len(batches)
        with preserved(model, optimizer):
            self.loss = float(loss(model, next(iter(batches))))
            self.losses = [float(update.loss) for update in updates(model, optimizer, loss, batches, self.number, step)]
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        return self

    def made(self, weights):
        """Whether the updates led to these weights, to the bit."""
        return weights.keys() == self.weights.keys() and all(torch.equal(weights[k], self.weights[k]) for k in weights)


def watched(kind, norms):
    """An optimizer of this kind that notes the norm of the gradient of each update in a list of the caller's."""

    class Watched(kind):
        def step(self, closure=None):
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()))
            super().step()
            return loss

    return Watched


def drawn():
    """What the global generators would give next, without drawing it."""
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def attributes(*things):
    """The attributes of objects, and what their containers hold, to be compared by identity."""
    found = []
    for thing in things:
        held = thing if isinstance(thing, dict) else vars(thing)
        for name, value in held.items():
            inside = list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list | set) else []
            found.append((name, value, list(value) if isinstance(value, dict) else [], inside))
    return found


def alike(before, after):
    """Whether all attributes are the very same objects, plain values equal ones."""
    if len(before) != len(after):
        return False
    return all(
        name == there and _one(value, now) and keys == others and len(inside) == len(within) and all(map(_one, inside, within))
        for (name, value, keys, inside), (there, now, others, within) in zip(before, after, strict=True)
    )


def untouched(before, after):
    """Whether (attributes, what is drawn, weights, values…) are what they were."""
    (held, random, weights, *values), (now_held, now_random, now_weights, *now_values) = before, after
    return alike(held, now_held) and random == now_random and all(map(torch.equal, weights, now_weights)) and values == now_values


def _one(value, other):
    return value is other or (isinstance(value, int | float | str) and value == other)
