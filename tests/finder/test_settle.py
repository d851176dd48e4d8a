"""`settle` probes the state that the training had at that step, and leaves the random states alone."""

import torch

from lrkit import Task, probe
from lrkit.finder.settle import settle
from lrkit.task import begin, seed_everything, updates


def task(steps: int = 60) -> Task:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    return Task(
        model=lambda: torch.nn.Linear(4, 1),
        loss=lambda model, batch: (model(batch[0]) - batch[1]).square().mean(),
        batches=lambda: list(zip(x.split(16), y.split(16), strict=True)),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.01),
        steps=steps,
    )


def test_it_is_what_a_probe_there_says():
    found = settle(task(), 20, 0.001, "constant", seed=3)
    seed_everything(3)
    model, optimizer, batches, _ = begin(task(), 0.001, "constant")
    for _ in updates(model, optimizer, task().loss, batches, 20):
        pass
    assert found == probe(model, optimizer, task().loss, batches, steps=15, seed=3)
    assert found.advice == "raise" and found.lr == 0.003


def test_random_states_are_left_alone_and_progress_ends():
    torch.manual_seed(5)
    before, told = torch.get_rng_state(), []
    settle(task(), 0, progress=lambda done, of: told.append((done, of)))
    assert torch.equal(torch.get_rng_state(), before)
    assert told[-1][0] == told[-1][1]
