"""One rank of a small training: many scenarios in one launch, each writes what it saw into one JSON file a rank.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python job_distributed.py OUT_DIRECTORY CUTS SCENARIO…

A scenario that raises is recorded as {"error": traceback}; the others go on. Floats pass JSON to the bit.
"""

import copy
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

import lrkit
from together import go_through

STEPS = 12
TEXT = "warmup 3 > cosine 9"
BODY_AND_HEAD = {"body": "hold 4 at 0 > warmup 2 > cosine 6", "head": "warmup 2 > cosine 10"}
DATA = torch.randn(STEPS, 2, 4, 6, generator=torch.Generator().manual_seed(1))  # update, rank, sample, feature
OPTIMIZERS: dict[str, Callable] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "adamw_tensor_lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1)),
}
OUT = Path()
CUTS: list[int] = []


class Net(nn.Module):
    """Two layers with names."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)))


def plain() -> Net:
    torch.manual_seed(0)
    return Net()


def body_and_head(model: nn.Module) -> list[dict]:
    """Two named groups."""
    named = list(model.named_parameters())
    return [{"params": [p for n, p in named if part in n], "name": part} for part in ("body", "head")]


def rates(optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """A rank's own part of a sharded tensor."""
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()


def weights(model: nn.Module) -> list[list[float]]:
    return [local(p).flatten().tolist() for p in model.parameters()]


def loss_of(model: nn.Module, t: int, rank: int) -> torch.Tensor:
    return model(DATA[t, rank]).square().mean()


def train(model, optimizer, start: int, stop: int, rank: int) -> list[list[float]]:
    """The rates of every group at every update."""
    seen = []
    for t in range(start, stop):
        optimizer.zero_grad()
        loss_of(model, t, rank).backward()
        seen.append(rates(optimizer))
        optimizer.step()
    return seen


def alone(name: str = "adamw") -> list[list[float]]:
    """The rates of the run in one process."""
    model = plain()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    lrkit.attach(optimizer, lr=TEXT)
    return train(model, optimizer, 0, STEPS, 0)


# -- how a run is built, saved and loaded -------------------------------------------------------------------------------


def ddp() -> nn.Module:
    return nn.parallel.DistributedDataParallel(plain())


def fsdp2() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = plain()
    for part in (model.body, model.head, model):
        fully_shard(part, mesh=mesh)
    return model


def fsdp1() -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    warnings.simplefilter("ignore")
    # With use_orig_params=True torch itself does not get exp_avg back on a CPU, attached or not.
    return FullyShardedDataParallel(plain(), device_id=torch.device("cpu"), use_orig_params=False)


class TorchSave:
    """Rank 0 saves, all load."""

    def save(self, model, optimizer, to: Path) -> None:
        if dist.get_rank() == 0:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, to)
        dist.barrier()

    def load(self, model, optimizer, frm: Path) -> None:
        saved = torch.load(frm, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])


class Dcp:
    """torch's distributed checkpoints: dcp.save and dcp.load of get_state_dict and set_state_dict."""

    def __init__(self, **options: bool) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions

        self.options = StateDictOptions(**options)

    def save(self, model, optimizer, to: Path) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

        state = {
            "model": get_model_state_dict(model, options=self.options),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=self.options),
        }
        dcp.save(state, checkpoint_id=to)
        dist.barrier()

    def load(self, model, optimizer, frm: Path) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import (
            get_model_state_dict,
            get_optimizer_state_dict,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        state = {
            "model": get_model_state_dict(model, options=self.options),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=self.options),
        }
        dcp.load(state, checkpoint_id=frm)
        set_model_state_dict(model, state["model"], options=self.options)
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=self.options)


class FullOnRank0:
    """A full state dict that only rank 0 holds, saved by torch.save, and broadcast when it is loaded."""

    def save(self, model, optimizer, to: Path) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        both = get_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if dist.get_rank() == 0:
            torch.save(both, to)
        dist.barrier()

    def load(self, model, optimizer, frm: Path) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict

        saved = torch.load(frm, weights_only=True) if dist.get_rank() == 0 else ({}, {})
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, saved[0], options=options)  # set_state_dict would pass over the model where a rank has none
        set_optimizer_state_dict(model, optimizer, saved[1], options=options)


class Fsdp1OptimStateDict:
    """FSDP1's own pair of functions."""

    def save(self, model, optimizer, to: Path) -> None:
        from torch.distributed.fsdp import FullyShardedDataParallel

        state = FullyShardedDataParallel.optim_state_dict(model, optimizer)
        weights_then_state = copy.deepcopy((model.state_dict(), state))
        if dist.get_rank() == 0:
            torch.save(weights_then_state, to)
        dist.barrier()

    def load(self, model, optimizer, frm: Path) -> None:
        from torch.distributed.fsdp import FullyShardedDataParallel

        saved = torch.load(frm, weights_only=True)
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(model, optimizer, saved[1]))


class ZeroSave(TorchSave):
    """ZeroRedundancyOptimizer gathers its state on rank 0 first."""

    def save(self, model, optimizer, to: Path) -> None:
        optimizer.consolidate_state_dict(to=0)
        super().save(model, optimizer, to)


def zero(params) -> torch.optim.Optimizer:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(params, optimizer_class=torch.optim.AdamW, lr=0.1)


# -- the scenarios ------------------------------------------------------------------------------------------------------


def interrupted(
    case: str, build: Callable, make: Callable, how, order: str, text=TEXT, groups: Callable | None = None, cuts=None
) -> dict:
    """An uninterrupted run, and one for each cut that is saved there and goes on in new objects."""
    rank = dist.get_rank()

    def fresh():
        model = build()
        return model, make(list(model.parameters()) if groups is None else groups(model))

    model, optimizer = fresh()
    lrkit.attach(optimizer, lr=text)
    whole = train(model, optimizer, 0, STEPS, rank)
    out = {"rates": whole, "weights": weights(model), "resumed": []}
    for cut in CUTS if cuts is None else cuts:
        first, driven = fresh()
        lrkit.attach(driven, lr=text)
        before = train(first, driven, 0, cut, rank)
        place = OUT / f"{case}-{cut}"
        how.save(first, driven, place)
        again, resumed = fresh()
        if order == "attach then load":
            attachment = lrkit.attach(resumed, lr=text)
            how.load(again, resumed, place)
        else:
            how.load(again, resumed, place)
            attachment = lrkit.attach(resumed, lr=text)
        at = attachment.step
        after = train(again, resumed, cut, STEPS, rank)
        out["resumed"].append({"cut": cut, "at": at, "rates": before + after, "weights": weights(again)})
    return out


def kinds() -> dict[str, Callable]:
    """All interrupted runs by name."""
    cases = {}

    def add(case: str, *args, **more) -> None:
        cases[case] = lambda: interrupted(case, *args, **more)

    for name, make in OPTIMIZERS.items():
        for order in ("attach then load", "load then attach"):
            add(f"ddp {name} torch.save {order}", ddp, make, TorchSave(), order)
        add(f"ddp {name} sharded", ddp, make, Dcp(), "attach then load")
        if name != "sgd":  # torch cannot load a full state dict of an optimizer without state
            add(f"fsdp2 {name} full", fsdp2, make, Dcp(full_state_dict=True), "attach then load")
            add(f"fsdp2 {name} rank0", fsdp2, make, FullOnRank0(), "attach then load")
        add(f"fsdp2 {name} sharded", fsdp2, make, Dcp(), "attach then load")
        add(f"fsdp2 {name} flattened", fsdp2, make, Dcp(flatten_optimizer_state_dict=True), "attach then load")
    for order in ("attach then load", "load then attach"):
        add(f"fsdp1 adamw {order}", fsdp1, OPTIMIZERS["adamw"], Fsdp1OptimStateDict(), order)
        add(f"zero adamw {order}", ddp, zero, ZeroSave(), order)
        add(f"unfreezing ddp {order}", ddp, OPTIMIZERS["adamw"], TorchSave(), order, BODY_AND_HEAD, body_and_head)
    modes = {"sharded": {}, "full": {"full_state_dict": True}, "flattened": {"flatten_optimizer_state_dict": True}}
    for how, options in modes.items():
        for state, cuts in {"asleep": (2,), "awake": (5, 11)}.items():
            add(
                f"unfreezing fsdp2 {how} {state}", fsdp2, OPTIMIZERS["adamw"], Dcp(**options), "attach then load", BODY_AND_HEAD,
                body_and_head, cuts,
            )  # fmt: skip
    return cases


def zero_inner() -> dict:
    """What attaching to the inner part of ZeRO says, and whether it was left alone."""
    optimizer = zero(list(ddp().parameters()))
    try:
        lrkit.attach(optimizer.optim, lr=TEXT)
    except lrkit.LrkitError as error:
        return {"said": str(error), "kind": type(error).__name__, "driven": "lrkit_step" in optimizer.optim.param_groups[0]}
    return {"said": None}


def lost_record() -> dict:
    """Distributed checkpoints, loaded before attaching."""
    rank, how, place = dist.get_rank(), Dcp(), OUT / "lost"
    model = fsdp2()
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    lrkit.attach(optimizer, lr=TEXT)
    train(model, optimizer, 0, 5, rank)
    how.save(model, optimizer, place)
    again = fsdp2()
    other = OPTIMIZERS["adamw"](list(again.parameters()))
    how.load(again, other, place)
    out = {"loaded_lr": rates(other)[0]}
    try:
        lrkit.attach(other, lr=TEXT)
        out["said"] = None
    except lrkit.LrkitError as error:
        out["said"] = str(error)
    other.param_groups[0]["lr"] = 0.1
    attachment = lrkit.attach(other, lr=TEXT, step=5)
    out["at"], out["rates"] = attachment.step, train(again, other, 5, STEPS, rank)
    return out


def plateau() -> dict:
    """Each rank reports its own loss; on rank 0 it falls, on rank 1 it rises by more, so the mean does not improve."""
    rank = dist.get_rank()
    out = {}
    for case, reported in {
        "other losses": lambda t: 1.0 - 0.01 * t if rank == 0 else 1.0 + 0.02 * t,
        "other losses, mean falls": lambda t: 1.0 - 0.05 * t if rank == 0 else 1.0 + 0.02 * t,
        "nan on rank 1": lambda t: float("nan") if rank == 1 and t == 6 else 1.0 / (t + 1),
        "own loss": None,
    }.items():
        model = ddp()
        optimizer = OPTIMIZERS["momentum"](list(model.parameters()))
        attachment = lrkit.attach(optimizer, lr=TEXT, controllers=lrkit.controllers.Plateau(patience=0, factor=0.5))
        scales, losses = [], []
        for t in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model, t, rank)
            loss.backward()
            attachment.report(loss=loss if reported is None else reported(t))
            losses.append(float(loss.detach()))
            optimizer.step()
            scales.append(float(optimizer.param_groups[0]["lrkit_state_plateau"][0]))
        out[case] = {"scales": scales, "losses": losses, "weights": weights(model), "rates": rates(optimizer)}
        out[case]["events"] = [event["step"] for event in attachment.events]
    return out


def plateau_fsdp2() -> dict:
    """A controller's state goes through a distributed checkpoint, too."""
    rank, out = dist.get_rank(), {}
    for mode, how in {
        "sharded": Dcp(),
        "full": Dcp(full_state_dict=True),
        "flattened": Dcp(flatten_optimizer_state_dict=True),
        "rank0": FullOnRank0(),
    }.items():

        def fresh():
            model = fsdp2()
            optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
            controller = lrkit.controllers.Plateau(patience=1, factor=0.5)
            return model, optimizer, lrkit.attach(optimizer, lr=TEXT, controllers=controller)

        def go(model, optimizer, attachment, start, stop):
            seen = []
            for t in range(start, stop):
                seen += train(model, optimizer, t, t + 1, rank)
                attachment.report(loss=1.0 + rank * t)
            return seen

        model, optimizer, attachment = fresh()
        whole = go(model, optimizer, attachment, 0, STEPS)
        cut, place = 5, OUT / f"plateau-{mode}"
        first = fresh()
        before = go(*first, 0, cut)
        how.save(*first[:2], place)
        again = fresh()
        how.load(*again[:2], place)
        after = go(*again, cut, STEPS)
        out[mode] = {"whole": whole, "parts": before + after, "weights": weights(model), "again": weights(again[0])}
    return out


def unfreezing() -> dict:
    """The body's weights after each update, under DDP."""
    rank, model = dist.get_rank(), ddp()
    optimizer = torch.optim.AdamW(body_and_head(model), lr=0.1)
    lrkit.attach(optimizer, lr=BODY_AND_HEAD)
    out = {"rates": [], "body": [weights(model.module.body)], "head": [weights(model.module.head)], "gradients": []}
    for t in range(STEPS):
        out["rates"] += train(model, optimizer, t, t + 1, rank)
        out["body"].append(weights(model.module.body))
        out["head"].append(weights(model.module.head))
        out["gradients"].append(all(p.requires_grad for p in model.parameters()))
    return out


def survivors() -> dict:
    """Goes on from what a launch that is gone left behind."""
    rank, how = dist.get_rank(), Dcp()
    model = fsdp2()
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    attachment = lrkit.attach(optimizer, lr=TEXT)
    if not (OUT / "launch" / ".metadata").exists():
        before = train(model, optimizer, 0, 5, rank)
        how.save(model, optimizer, OUT / "launch")
        (OUT / f"before-{rank}.json").write_text(json.dumps(before))
        os._exit(3)
    how.load(model, optimizer, OUT / "launch")
    at = attachment.step
    parts = json.loads((OUT / f"before-{rank}.json").read_text()) + train(model, optimizer, at, STEPS, rank)
    whole = fsdp2()
    undisturbed = OPTIMIZERS["adamw"](list(whole.parameters()))
    lrkit.attach(undisturbed, lr=TEXT)
    rates_of_whole = train(whole, undisturbed, 0, STEPS, rank)
    return {"at": at, "rates": parts, "whole": rates_of_whole, "weights": weights(model), "whole_weights": weights(whole)}


SCENARIOS = {
    "zero inner": zero_inner,
    "lost record": lost_record,
    "plateau": plateau,
    "plateau fsdp2": plateau_fsdp2,
    "unfreezing": unfreezing,
    "survivors": survivors,
}


def main() -> None:
    global OUT, CUTS
    OUT, CUTS = Path(sys.argv[1]), [int(cut) for cut in sys.argv[2].split(",")]
    go_through(OUT, SCENARIOS | kinds(), sys.argv[3:], errors=(Exception, CheckpointException))  # the latter is none


if __name__ == "__main__":
    main()
