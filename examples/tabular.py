"""Regression on a table: how a year later diabetes has progressed in 442 patients, from ten measurements (scikit-learn's data).

``lrkit find examples/tabular.py`` finds its rate, ``lrkit train examples/tabular.py --lr 0.01`` trains it.
"""

from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

import lrkit


def task() -> lrkit.Task:
    """An MLP, SGD with momentum, gradients clipped at norm 1."""
    data: Any = load_diabetes(scaled=False)
    x = torch.tensor(data.data, dtype=torch.float32)
    y = torch.tensor(data.target, dtype=torch.float32)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    seen, unseen = order[:342], order[342:]

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return mse_loss(model(batch[0]).squeeze(1), batch[1])

    def step(model: nn.Module, batch: Any, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value

    return lrkit.Task(
        model=lambda: nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1)),
        loss=loss,
        batches=lambda: DataLoader(TensorDataset(x[seen], y[seen]), batch_size=32, shuffle=True),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
        steps=220,
        step=step,
        validate=lambda model: float(loss(model, (x[unseen], y[unseen]))),
    )


if __name__ == "__main__":
    suggestion = lrkit.find(task(), budget=1.0)
    print(suggestion)
    lrkit.train(task(), lr=suggestion.lr, echo=print)
