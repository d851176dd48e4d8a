"""What the tests of find, probe and range_test train: a small net on a small regression; and whether it was left as it was."""

import random

import numpy as np
import torch
from torch import nn


def drawn(rows):
    """Six inputs and their noisy target, a tanh of a line."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 6, generator=generator)
    return x, torch.tanh(x @ torch.randn(6, 1, generator=generator)) + 0.1 * torch.randn(rows, 1, generator=generator)


def loss(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def build(lr=1e-3, kind=torch.optim.AdamW):
    """A net that draws, and that counts its batches; and its optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    return model, kind(model.parameters(), lr=lr)


def state_of(model, optimizer):
    """Every tensor, flag and hyperparameter, copied."""
    return {
        "model": [t.detach().clone() for t in model.state_dict().values()],
        "state": [copied(v) for e in optimizer.state.values() for v in e.values()],
        "groups": [{k: copied(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        "flags": [m.training for m in model.modules()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [
            len(optimizer._optimizer_step_pre_hooks),
            len(optimizer._optimizer_step_post_hooks),
            len(model._forward_pre_hooks),
        ],
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state()),
    }


def copied(value):
    return value.clone() if torch.is_tensor(value) else value


def same(a, b) -> bool:
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
