"""One rank of watched trainings in two processes: many scenarios in one launch, each writes what it saw.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python job_distributed.py OUT_DIRECTORY SCENARIO…
"""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lrkit import watch
from lrkit.gauges import watch as room
from lrkit.gauges.catalogue import Gauge
from together import go_through

STEPS, ROWS = 8, 4
X = torch.randn(STEPS, 2, 2, ROWS, 6, generator=torch.Generator().manual_seed(1))  # update, rank, micro-batch, sample, feature
SUMS = ("grad_norm", "update_ratio", "grad_cosine", "coherence", "rms_t")


class Net(nn.Module):
    """Rows that two processes share unevenly: 5 are 3 and 2, and of 1 the second has none."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.body, self.scale, self.head = nn.Linear(6, 5), nn.Parameter(torch.ones(1)), nn.Linear(5, 1)
        self.norm = nn.BatchNorm1d(5) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.norm(self.body(x))) * self.scale)


def plain(norm: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(norm)


def ddp(norm: bool = False) -> nn.Module:
    return DistributedDataParallel(plain(norm))


def fsdp2(norm: bool = False) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, model = init_device_mesh("cpu", (dist.get_world_size(),)), plain(norm)
    for part in (model.body, model):
        fully_shard(part, mesh=mesh)
    return model


def loss(model, x):
    return (model(x) - x.sum(-1, keepdim=True)).square().mean()


def batches(t, accumulate):
    """This rank's; alone: those of both."""
    if not dist.is_initialized():
        return [X[t].flatten(0, 2)]
    mine = X[t, dist.get_rank()]
    return list(mine) if accumulate else [mine.flatten(0, 1)]


def go(model, w=None, optimizer=None, accumulate=False, scaler=None, clipped=False, record=True, steps=STEPS) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=False) if scaler is None else scaler
    for t in range(steps):
        optimizer.zero_grad()
        some = batches(t % STEPS, accumulate)
        for i, x in enumerate(some):
            if accumulate and i < len(some) - 1 and hasattr(model, "no_sync"):
                with model.no_sync():
                    scaler.scale(loss(model, x) / len(some)).backward()
            else:
                scaler.scale(loss(model, x) / len(some)).backward()
            if w is not None:
                w.record(batch=x)
        if clipped:
            scaler.unscale_(optimizer)
            size = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            if w is not None and record:
                w.record(grad_norm=size)
        scaler.step(optimizer)
        scaler.update()


def adamw(model, **options):
    return torch.optim.AdamW(model.parameters(), lr=0.01, **options)


def whole(model) -> list[list[float]]:
    full = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return [p.detach().flatten().tolist() for p in full]


def watched(build=plain, out=None, evaluate=loss, every=1, norm=False, fused=False, inside=False, budget=0.02, **options) -> dict:
    model = build(norm)
    optimizer, rows = adamw(model, fused=fused), []
    seen = model.module if inside else model
    sinks = [lambda step, _: rows.append(step)]
    with watch(seen, optimizer, out, loss=evaluate, every=every, budget=budget, sinks=sinks) as w:
        go(model, w, optimizer, **options)
    again = build(norm)
    go(again, None, adamw(again, fused=fused), **{name: value for name, value in options.items() if name != "scaler"} | (
        {"scaler": torch.amp.GradScaler("cpu", init_scale=1024.0)} if "scaler" in options else {}))  # fmt: skip
    columns = {name: w.run[name].tolist() for name in w.run}
    return {"columns": columns, "gauges": w.gauges, "weights": whole(model), "without": whole(again), "sunk": len(rows)}


def budgeted() -> dict:
    """Two processes whose clocks differ visit together: sums over both are as long as they are."""
    visits = []

    def spinning(now):
        begun = time.monotonic()
        while time.monotonic() - begun < 0.0005 * (1 + 3 * dist.get_rank()):
            pass
        yield
        sums = now.summed(now.parameters, torch.ones(1, len(now.parameters)))
        visits.append([now.step, *sums[0].tolist()])
        return {}

    room.GAUGES = (Gauge(spinning, 0.5, 0.5, 3), *room.GAUGES)
    try:
        return watched(fsdp2, every=None, budget=0.5, steps=120) | {"visits": visits}
    finally:
        room.GAUGES = room.GAUGES[1:]


def failing() -> dict:
    """A gauge that fails in one process only is left out in both."""

    def limping(now):
        yield
        if now.step == 3 and dist.get_rank() == 1:
            raise OSError("of one process")
        return {"limped": 1.0}

    room.GAUGES = (Gauge(limping, 0.5, 0.5, 3), *room.GAUGES)
    try:
        return watched(fsdp2)
    finally:
        room.GAUGES = room.GAUGES[1:]


def leaving() -> dict:
    """One process leaves its watch early; the other must not wait for it."""
    model = fsdp2()
    optimizer = adamw(model)
    with watch(model, optimizer, every=1) as w:
        go(model, w, optimizer, steps=3)
        if dist.get_rank() == 0:
            w.__exit__()
    return {"rows": len(w.run)}


def scaled():
    return torch.amp.GradScaler("cpu", init_scale=1024.0)


def scenarios(out: Path) -> dict:
    return {
        "ddp": lambda: watched(ddp, out / "ddp"),
        "ddp inside": lambda: watched(ddp, inside=True),
        "ddp norm": lambda: watched(ddp, norm=True),
        "ddp scaled": lambda: watched(ddp, fused=True, scaler=scaled()),
        "ddp clipped": lambda: watched(ddp, fused=True, scaler=scaled(), clipped=True),
        "ddp accumulated": lambda: watched(ddp, accumulate=True),
        "noise": lambda: watched(ddp, evaluate=None),
        "noise inside": lambda: watched(ddp, evaluate=None, inside=True),
        "noise scaled": lambda: watched(ddp, evaluate=None, fused=True, scaler=scaled()),
        "noise clipped": lambda: watched(ddp, evaluate=None, fused=True, scaler=scaled(), clipped=True),
        "noise accumulated": lambda: watched(ddp, evaluate=None, accumulate=True),
        "fsdp2": lambda: watched(fsdp2, out / "fsdp2"),
        "fsdp2 budgeted": budgeted,
        "fsdp2 failing": failing,
        "fsdp2 leaving": leaving,
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    go_through(target, scenarios(target), sys.argv[2:])
