"""One rank of searches that two processes make together: many scenarios in one launch, each writes what it saw.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python job_distributed.py OUT_DIRECTORY SCENARIO…

A scenario that raises is recorded as {"error": traceback}; the others go on. Floats pass JSON to the bit.
"""

import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lrkit
from lrkit.snapshot import capture_random
from lrkit.task import validation
from together import go_through

STEPS, ROWS = 160, 8
TEXT = "warmup 10% > cosine"
_DRAWN = torch.Generator().manual_seed(1)
X = torch.randn(160, 6, generator=_DRAWN)
Y = torch.tanh(X @ torch.randn(6, 2, generator=_DRAWN)) + 0.1 * torch.randn(160, 2, generator=_DRAWN)
UNSEEN = X[128:], Y[128:]


class Net(nn.Module):
    """Two layers, and between them what the case is about."""

    def __init__(self, middle: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body, self.middle, self.head = nn.Linear(6, 16), middle(), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(torch.tanh(self.body(x))))


def plain(middle: Callable[[], nn.Module] = nn.Identity) -> Net:
    torch.manual_seed(0)
    return Net(middle)


def ddp(middle: Callable[[], nn.Module] = nn.Identity, **options: bool) -> nn.Module:
    return DistributedDataParallel(plain(middle), **options)


def fsdp2() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, model = init_device_mesh("cpu", (dist.get_world_size(),)), plain()
    for part in (model.body, model):  # the head is the root's own, which stays whole after a forward
        fully_shard(part, mesh=mesh)
    return model


def tiny(build: Callable[[], nn.Module]) -> nn.Module:
    """With weights that are almost 0: the usual norm stands in for theirs."""
    model = build()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e-3)
    return model


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def zero(model: nn.Module) -> torch.optim.Optimizer:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.AdamW, lr=1e-4)


def loader(ranks: int, rank: int, rows: int = ROWS, batches: int | None = None) -> DataLoader:
    """A rank's own shard."""
    data = TensorDataset(X[:128], Y[:128])
    sampler = DistributedSampler(data, num_replicas=ranks, rank=rank, seed=3)
    if batches is not None:  # as many as the others or not
        sampler = list(sampler)[: batches * rows]
    return DataLoader(data, batch_size=rows, sampler=sampler)


def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    x, y = batch
    return (model(x) - y).square().mean()


def validate(model: nn.Module, rank: int, times: tuple[int, int] = (1, 1)) -> float:
    """The loss on this rank's part of what nobody trains on; a rank may need several forwards for it."""
    x, y = (part[16 * rank : 16 * (rank + 1)] for part in UNSEEN)
    parts = times[rank]
    return sum(float((model(x[i::parts]) - y[i::parts]).square().sum()) for i in range(parts)) / y.numel()


def spoiled(function: Callable, rank: int, from_size: float = 0.0) -> Callable:
    """NaN on rank 1 where a weight is as large as this."""

    def called(model: nn.Module, *args: object) -> object:
        largest = max(float(p.detach().abs().max()) for p in model.parameters())
        return function(model, *args) * (math.nan if rank == 1 and largest >= from_size else 1.0)

    return called


def accumulating(model: nn.Module, batch: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Half a batch after the other; the gradients are shared with the second."""
    optimizer.zero_grad()
    total = 0.0
    for half, quiet in ((0, model.no_sync()), (1, contextlib.nullcontext())):
        with quiet:
            part = loss(model, [one[half::2] for one in batch]) / 2
            part.backward()
        total = total + part.detach()
    optimizer.step()
    return total


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader, updates: int) -> None:
    model.train()
    for _, batch in zip(range(updates), batches, strict=False):
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()


def numbers(value: object) -> object:
    """Tensors as what JSON holds; of a sharded one this rank's part."""
    if isinstance(value, torch.Tensor):
        return (value.to_local() if hasattr(value, "to_local") else value).detach().tolist()
    if isinstance(value, dict):
        return {str(key): numbers(one) for key, one in value.items()}
    return [numbers(one) for one in value] if isinstance(value, list | tuple) else repr(value)


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> object:
    """All that a search might leave behind."""
    weights = model.state_dict()  # first: it makes sharded modules let go of the others' parts
    gradients = [p.grad for p in model.parameters()]
    inner = getattr(optimizer, "optim", optimizer)
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    kept = [weights, gradients, list(inner.state.values()), groups, torch.get_rng_state()]
    return [numbers(kept), [module.training for module in model.modules()]]


def trained(
    search: Callable | None,
    build: Callable = ddp,
    make: Callable = adamw,
    text: str | None = None,
    first: int = 3,
    **data: int,
) -> dict:
    """A few updates, a search, a few updates more; every rank with random numbers of its own."""
    rank = dist.get_rank()
    model = build()
    optimizer, batches = make(model), loader(2, rank, **data)
    if text is not None:
        lrkit.attach(optimizer, lr=text, total=STEPS)
    torch.manual_seed(10 + rank)
    train(model, optimizer, batches, first)
    validation(partial(validate, rank=rank), model)  # after which all have rank 0's buffers
    before, random, out = state(model, optimizer), capture_random(), {}
    validation(partial(validate, rank=rank), model)  # after which sharded modules are whole
    if search is not None:
        out = search(model, optimizer, batches)
    out["kept"] = state(model, optimizer) == before
    random()
    train(model, optimizer, batches, 5)
    return out | {"weights": numbers(list(model.parameters())), "rates": [group["lr"] for group in optimizer.param_groups]}


def finding(loss: Callable = loss, validate: Callable | None = None, steps: int | None = STEPS, budget: float = 0.5, **options):
    """A search for `trained`."""

    def search(model, optimizer, batches) -> dict:
        found = lrkit.find(model, optimizer, loss, batches, steps, validate=validate, budget=budget, **options)
        plain = {name: getattr(found, name) for name in ("lr", "low", "high", "status", "cost", "steps", "context")}
        trials = [[trial.lr, trial.steps, trial.loss] for trial in found.trials]
        return plain | {"trials": trials, "said": repr(dataclasses.replace(found, seconds=0.0))}

    return search


def ranging(loss: Callable = loss, **options):
    def search(model, optimizer, batches) -> dict:
        run = lrkit.range_test(model, optimizer, loss, batches, 1e-5, 10.0, **({"steps": 40} | options))
        return {"edge": run.meta["edge"], "rows": len(run), "said": repr([run.columns, run.meta])}

    return search


def probing(loss: Callable = loss, **options):
    def search(model, optimizer, batches) -> dict:
        probe = lrkit.probe(model, optimizer, loss, batches, **({"steps": 10} | options))
        return {
            "advice": probe.advice,
            "diverged": [arm.diverged for arm in probe.arms],
            "said": repr([probe, [arm.curve for arm in probe.arms]]),
        }

    return search


def refused(search: Callable, **options: object) -> dict:
    """What a search is refused with; and whether the processes can go on together."""
    said = []

    def tried(*training: object) -> dict:
        try:
            search(*training)
        except lrkit.LrkitError as error:
            said.append(str(error))
        return {}

    return trained(tried, **options) | {"refusals": said}


def of_a_task() -> dict:
    task = lrkit.Task(
        model=ddp, loss=loss, batches=lambda: loader(2, dist.get_rank()), steps=STEPS,
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-3),
    )  # fmt: skip
    found = lrkit.find(task, budget=0.5)
    return {"said": repr(dataclasses.replace(found, seconds=0.0)), "status": found.status}


def alone() -> lrkit.Suggestion:
    """One process, each of whose batches is those of both ranks."""
    model = plain()
    pairs = zip(loader(2, 0), loader(2, 1), strict=True)
    batches = [[torch.cat(parts) for parts in zip(*pair, strict=True)] for pair in pairs]
    optimizer = adamw(model)
    train(model, optimizer, batches, 3)
    return lrkit.find(model, optimizer, loss, batches, STEPS, budget=0.5)


def scenarios(rank: int) -> dict[str, Callable[[], dict]]:
    own = partial(validate, rank=rank)
    noisy = partial(ddp, lambda: nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.2)))
    cases = {
        "ddp": lambda: trained(finding()),
        "ddp untouched": lambda: trained(None),
        "validated": lambda: trained(finding(validate=own)),
        "dropout and batch norm": lambda: trained(finding(validate=own), noisy),
        "dropout and batch norm untouched": lambda: trained(None, noisy),
        "views of buckets": lambda: trained(finding(), partial(ddp, gradient_as_bucket_view=True)),
        "static graph": lambda: trained(finding(), partial(ddp, static_graph=True), first=0),
        "static graph untouched": lambda: trained(None, partial(ddp, static_graph=True), first=0),
        "accumulation": lambda: trained(finding(step=accumulating)),
        "attached": lambda: trained(finding(steps=None), text=TEXT),
        "attached untouched": lambda: trained(None, text=TEXT),
        "zero": lambda: trained(finding(), make=zero),
        "zero untouched": lambda: trained(None, make=zero),
        "task": of_a_task,
        "nan": lambda: trained(finding(spoiled(loss, rank))),
        "nan in validate": lambda: trained(finding(validate=spoiled(own, rank))),
        "nan at high rates": lambda: trained(finding(spoiled(loss, rank, 1.0))),
        "nan in validate at high rates": lambda: trained(finding(validate=spoiled(own, rank, 1.0))),
        "other forwards": lambda: trained(finding(validate=partial(own, times=(1, 4)))),
        "dear validate": lambda: trained(finding(validate=partial(own, times=(2, 8)))),
        "dearest validate": lambda: trained(finding(validate=partial(own, times=(1, 600)))),
        "other batches": lambda: trained(finding(), batches=8 if rank == 0 else 6),
        "other rows": lambda: trained(finding(), rows=8 if rank == 0 else 5),
        "other steps": lambda: refused(finding(steps=STEPS + rank)),
        "validate on rank 0": lambda: refused(finding(validate=own if rank == 0 else None)),
        "other epochs": lambda: refused(ranging(per="epoch", steps=4), batches=8 if rank == 0 else 6),
        "fsdp2": lambda: trained(finding(), fsdp2),
        "fsdp2 untouched": lambda: trained(None, fsdp2),
        "fsdp2 validated": lambda: trained(finding(validate=own), fsdp2),
        "tiny": lambda: trained(finding(), partial(tiny, ddp)),
        "fsdp2 tiny": lambda: trained(finding(), partial(tiny, fsdp2)),
        "fsdp2 nan at high rates": lambda: trained(finding(spoiled(loss, rank, 1.0)), fsdp2),
        "range": lambda: trained(ranging()),
        "range nan": lambda: trained(ranging(spoiled(loss, rank))),
        "range nan at high rates": lambda: trained(ranging(spoiled(loss, rank, 1.0))),
        "range metric": lambda: trained(ranging(metric=lambda model: -own(model))),
        "range epochs": lambda: trained(ranging(per="epoch", steps=6)),
        "range fsdp2": lambda: trained(ranging(), fsdp2),
        "probe": lambda: trained(probing()),
        "probe validated": lambda: trained(probing(validate=own)),
        "probe nan": lambda: trained(probing(spoiled(loss, rank))),
        "probe nan at high rates": lambda: trained(probing(spoiled(loss, rank, 1.0), factor=(0.1, 1e4))),
        "probe fsdp2": lambda: trained(probing(validate=own), fsdp2),
    }
    return cases


def main() -> None:
    go_through(Path(sys.argv[1]), scenarios(int(os.environ["RANK"])), sys.argv[2:])


if __name__ == "__main__":
    main()
