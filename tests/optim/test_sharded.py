"""Two processes: DDP, FSDP2 and ZeRO with our optimizers do what they do with torch's, and what one process does.

This file is the test and, run as a script, one rank of it:

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python test_sharded.py OUT_DIRECTORY SCENARIO…

A scenario that raises is recorded as {"error": traceback}; the others go on. Floats pass JSON to the bit.
"""

import copy
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import lrkit
from lrkit import attach, clip, effective_lr, optim
from together import go_through, of, once, seen

STEPS = 10
CUT = 4
TEXT = "warmup 3 > cosine 9"
DATA = torch.randn(STEPS, 2, 4, 6, generator=torch.Generator().manual_seed(1))  # update, rank, sample, feature
RULES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9, "eps": 0.1}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "nadam": ("NAdam", {"lr": 0.01}),
    "radam": ("RAdam", {"lr": 0.01, "betas": (0.9, 0.9)}),
}
OURS = {"rms": ("RMS", {"lr": 0.01}), "lion": ("Lion", {"lr": 0.001}), "adabelief": ("AdaBelief", {"lr": 0.01}),
        "keras": ("Adam", {"lr": 0.01, "like": "keras"})}  # fmt: skip
SHORT = ("sgd", "momentum", "adamw", "nadam", "rms", "lion")
CLIPS = {"norm": clip.norm(0.3), "value": clip.value(0.1), "adaptive": clip.adaptive(0.1)}


class Net(nn.Module):
    """Rows that two processes share unevenly: 5 are 3 and 2, and of 1 the second has none."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale, self.head = nn.Linear(6, 5), nn.Parameter(torch.ones(5)), nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)) * self.scale)


def plain(dtype=torch.float32) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype)


def make(home, name: str, model: nn.Module, **more) -> torch.optim.Optimizer:
    kind, options = (RULES | OURS)[name]
    if home is torch.optim:
        more = {"foreach": False} | more
    return getattr(home, kind)(model.parameters(), **(options | more))


def update(model, optimizer, x: torch.Tensor, before=None) -> None:
    optimizer.zero_grad()
    model(x.to(next(model.parameters()).dtype)).square().mean().backward()
    if before is not None:
        before()
    optimizer.step()


def whole(tensor: torch.Tensor) -> list:
    """All of a tensor, also of a sharded one."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().double().flatten().tolist()


def weights(model: nn.Module) -> list[list[float]]:
    return [whole(p) for p in model.parameters()]


def alone(name: str, home=optim, dtype=torch.float32, **more) -> list[list[float]]:
    """One process with both ranks' samples."""
    model = plain(dtype)
    optimizer = make(home, name, model, **more)
    attach(optimizer, lr=TEXT)
    for t in range(STEPS):
        update(model, optimizer, DATA[t].flatten(0, 1))
    return weights(model)


# -- one rank -----------------------------------------------------------------------------------------------------------


def ddp(dtype=torch.float32) -> nn.Module:
    return nn.parallel.DistributedDataParallel(plain(dtype))


def fsdp2(dtype=torch.float32) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = plain(dtype)
    for part in (model.body, model.head, model):
        fully_shard(part, mesh=mesh)
    return model


def go(model, optimizer, start: int, stop: int, before=None) -> None:
    for t in range(start, stop):
        update(model, optimizer, DATA[t, dist.get_rank()], before)


def trained(build, home, name: str, before=None, **more):
    model = build()
    optimizer = make(home, name, model, **more)
    attachment = attach(optimizer, lr=TEXT)
    go(model, optimizer, 0, STEPS, None if before is None else lambda: before(model))
    return model, optimizer, attachment


def parity(build, name: str) -> dict:
    """Ours, and torch's where there is one; and what the state is."""
    model, optimizer, _ = trained(build, optim, name)
    out = {"ours": weights(model), "local": [(p.to_local() if hasattr(p, "to_local") else p).shape for p in model.parameters()]}
    out["state"] = sorted({type(value).__name__ for e in optimizer.state.values() for k, value in e.items() if value.dim()})
    out["shapes"] = all(v.shape == p.shape for p, e in optimizer.state.items() for v in e.values() if v.dim())
    if name in RULES:
        out["theirs"] = weights(trained(build, torch.optim, name)[0])
    return out


def clipped(rule: str) -> dict:
    """Ours with a clip folded in, and torch's after torch's."""
    model, optimizer, _ = trained(fsdp2, optim, "adamw", clip=CLIPS[rule])

    def by_hand(other):
        if rule == "norm":
            nn.utils.clip_grad_norm_(other.parameters(), 0.3)
        else:
            nn.utils.clip_grad_value_(other.parameters(), 0.1)

    out = {"ours": weights(model), "tally": optimizer.tally.as_dict()}
    if rule != "adaptive":
        out["theirs"] = weights(trained(fsdp2, torch.optim, "adamw", by_hand)[0])
    return out


def infinite() -> dict:
    """A gradient that is not finite on one rank alone, in the part that this rank holds."""
    model = fsdp2()
    optimizer = make(optim, "adamw", model, clip=clip.norm(1.0))
    attachment = attach(optimizer, lr=TEXT)
    go(model, optimizer, 0, 2)
    before = weights(model)

    def spoil():
        if dist.get_rank() == 1:
            model.body.weight.grad.to_local().fill_(float("inf"))

    go(model, optimizer, 2, 3, spoil)
    return {"moved": weights(model) != before, "step": attachment.step, "skipped": optimizer.tally.skipped}


def checkpoint(name: str, random=False, **options) -> dict:
    """An uninterrupted run, and one that went through a distributed checkpoint."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    said = StateDictOptions(**options)
    place = OUT / f"dcp-{name}-{random}-{'-'.join(options)}"

    def build():
        return fsdp2(torch.bfloat16 if random else torch.float32)

    def state(model, optimizer):
        return {
            "model": get_model_state_dict(model, options=said),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=said),
        }

    uninterrupted, _, _ = trained(build, optim, name, stochastic_rounding=random)
    first = build()
    driven = make(optim, name, first, stochastic_rounding=random)
    attach(driven, lr=TEXT)
    go(first, driven, 0, CUT)
    dcp.save(state(first, driven), checkpoint_id=place)
    dist.barrier()
    again = build()
    resumed = make(optim, name, again, stochastic_rounding=random)
    attachment = attach(resumed, lr=TEXT)
    loaded = state(again, resumed)
    dcp.load(loaded, checkpoint_id=place)
    set_model_state_dict(again, loaded["model"], options=said)
    set_optimizer_state_dict(again, resumed, loaded["optimizer"], options=said)
    at = attachment.step
    go(again, resumed, CUT, STEPS)
    return {"at": at, "whole": weights(uninterrupted), "again": weights(again)}


def zero(name: str) -> dict:
    """ZeRO around ours and around torch's; and one that was saved and goes on."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def sharded(home, model):
        kind, options = (RULES | OURS)[name]
        return ZeroRedundancyOptimizer(model.parameters(), optimizer_class=getattr(home, kind), **options)

    results = {}
    for key, home in {"ours": optim, "theirs": torch.optim}.items():
        if home is torch.optim and name not in RULES:
            continue
        model = ddp()
        optimizer = sharded(home, model)
        attach(optimizer, lr=TEXT)
        go(model, optimizer, 0, STEPS)
        results[key] = weights(model)
    first = ddp()
    optimizer = sharded(optim, first)
    attach(optimizer, lr=TEXT)
    go(first, optimizer, 0, CUT)
    optimizer.consolidate_state_dict(to=0)
    place = OUT / f"zero-{name}"
    if dist.get_rank() == 0:
        torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, place)
    dist.barrier()
    saved = torch.load(place, weights_only=True)
    again = ddp()
    again.load_state_dict(saved["model"])
    resumed = sharded(optim, again)
    attach(resumed, lr=TEXT)
    resumed.load_state_dict(saved["optimizer"])
    go(again, resumed, CUT, STEPS)
    return results | {"again": weights(again)}


def readout() -> dict:
    """`effective_lr` of sharded parameters, and the finder's snapshot around them."""
    from lrkit.snapshot import preserved

    model, optimizer, _ = trained(fsdp2, optim, "adamw")
    rates = effective_lr(optimizer)
    rows, table = rates.quantiles(), repr(rates)
    local = [rates[p].shape == p.to_local().shape or rates[p].shape == p.shape for p in model.parameters()]
    before = (
        weights(model),
        copy.deepcopy({i: {k: whole(v) for k, v in e.items()} for i, e in enumerate(optimizer.state.values())}),
    )
    with preserved(model, optimizer):
        go(model, optimizer, 0, 3)
    after = weights(model), {i: {k: whole(v) for k, v in e.items()} for i, e in enumerate(optimizer.state.values())}
    return {"rows": len(rows), "table": len(table.splitlines()), "local": all(local), "same": before == after}


def rounding() -> dict:
    """bfloat16 weights, rounded at random, in parts."""
    moved = {}
    for random in (False, True):
        model = fsdp2(torch.bfloat16)
        optimizer = optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, stochastic_rounding=random)
        before = weights(model)
        for _ in range(5):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
        moved[str(random)] = sum(
            a != b for old, new in zip(before, weights(model), strict=True) for a, b in zip(old, new, strict=True)
        )
    return moved


def scenarios() -> dict:
    cases = {}
    for name in (*RULES, *OURS):
        cases[f"ddp {name}"] = lambda name=name: parity(ddp, name)
        cases[f"fsdp2 {name}"] = lambda name=name: parity(fsdp2, name)
        cases[f"dcp {name}"] = lambda name=name: checkpoint(name)
        cases[f"dcp full {name}"] = lambda name=name: checkpoint(name, full_state_dict=True)
        cases[f"dcp flattened {name}"] = lambda name=name: checkpoint(name, flatten_optimizer_state_dict=True)
        cases[f"zero {name}"] = lambda name=name: zero(name)
    for rule in CLIPS:
        cases[f"clip {rule}"] = lambda rule=rule: clipped(rule)
    cases["dcp random"] = lambda: checkpoint("adamw", random=True)
    return cases | {"infinite": infinite, "readout": readout, "rounding": rounding}


OUT = Path()


def main() -> None:
    global OUT
    OUT = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    go_through(OUT, scenarios(), sys.argv[2:])


# -- the tests ----------------------------------------------------------------------------------------------------------


QUICK = [
    *(f"{how} {name}" for how in ("ddp", "fsdp2") for name in SHORT), *(f"dcp {name}" for name in ("sgd", "momentum", "nadam")),
    "dcp full adamw", "dcp flattened adamw", "zero momentum", "zero adamw", "dcp random",
    *(f"clip {rule}" for rule in CLIPS), "infinite", "readout", "rounding",
]  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    return once(tmp_path_factory, "sharded", Path(__file__), *QUICK)


def close(mine, theirs, tolerance=1e-4) -> None:
    assert [len(one) for one in mine] == [len(one) for one in theirs]
    for a, b in zip(mine, theirs, strict=True):
        assert a == pytest.approx(b, rel=10 * tolerance, abs=tolerance)


def check(ranks, how: str, name: str) -> None:
    both = of(ranks, f"{how} {name}")
    assert both[0]["ours"] == both[1]["ours"]
    if name in RULES:
        close(both[0]["ours"], both[0]["theirs"], 1e-5)
    close(both[0]["ours"], alone(name), 2e-3 if name == "lion" else 1e-4)  # a sign of almost 0 can fall either way
    if how == "fsdp2":
        assert both[0]["state"] == ([] if name == "sgd" else ["DTensor"]) and both[0]["shapes"]
        assert both[0]["local"] != both[1]["local"], "the parts are uneven"


def check_resumed(both) -> None:
    for one in both:
        assert one.get("at", CUT) == CUT
        assert one["again"] == one.get("whole", one.get("ours"))


class TestTwoProcesses:
    @pytest.mark.parametrize("name", SHORT)
    @pytest.mark.parametrize("how", ["ddp", "fsdp2"])
    def test_do_what_torchs_optimizers_do_and_what_one_process_does(self, ranks, how, name):
        check(ranks, how, name)

    @pytest.mark.parametrize("case", [case for case in QUICK if case.startswith("dcp")])
    def test_go_on_to_the_bit_after_a_distributed_checkpoint(self, ranks, case):
        check_resumed(of(ranks, case))

    @pytest.mark.parametrize("name", ["momentum", "adamw"])
    def test_share_the_state_by_zero_and_go_on_to_the_bit(self, ranks, name):
        both = of(ranks, f"zero {name}")
        assert both[0]["ours"] == both[1]["ours"]
        if name in RULES:
            close(both[0]["ours"], both[0]["theirs"], 1e-5)
        check_resumed(both)

    @pytest.mark.parametrize("rule", CLIPS)
    def test_clip_by_the_whole_gradient_and_not_by_their_part(self, ranks, rule):
        both = of(ranks, f"clip {rule}")
        assert both[0]["ours"] == both[1]["ours"] and both[0]["tally"] == both[1]["tally"] and both[0]["tally"]["engaged"] > 0
        if "theirs" in both[0]:
            close(both[0]["ours"], both[0]["theirs"])
        close(both[0]["ours"], alone("adamw", clip=CLIPS[rule]))

    def test_skip_an_update_together_where_one_of_them_has_a_gradient_that_is_not_finite(self, ranks):
        for one in of(ranks, "infinite"):
            assert one == {"moved": False, "step": 2, "skipped": 1}

    def test_can_read_their_effective_rates_and_be_put_back(self, ranks):
        for one in of(ranks, "readout"):
            assert one == {"rows": 5, "table": 6, "local": True, "same": True}

    def test_round_their_parts_at_random(self, ranks):
        """All weights but those below 1/32 stand still; rounded at random, some of the rest move."""
        for one in of(ranks, "rounding"):
            assert one["True"] > one["False"]

    @pytest.mark.prove
    @pytest.mark.parametrize("name", [*RULES, *OURS])
    def test_do_all_of_this_with_every_rule(self, tmp_path, name):
        kinds = [f"{how} {name}" for how in ("ddp", "fsdp2", "dcp", "dcp full", "dcp flattened", "zero")]
        kinds = [case for case in kinds if case != "dcp full sgd"]  # torch cannot load a full state dict without state
        both = seen(Path(__file__), tmp_path, *kinds)
        for how in ("ddp", "fsdp2"):
            check(both, how, name)
        for case in kinds[2:]:
            check_resumed(of(both, case))


def test_the_public_names_are_there():
    assert lrkit.optim is optim and lrkit.clip is clip


if __name__ == "__main__":
    main()
