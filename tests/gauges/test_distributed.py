"""Two processes: with DDP the first measures, with FSDP2 both; what is measured is what one process would."""

import math
from pathlib import Path

import pytest
import torch

from gauges import job_distributed as job
from lrkit import Run
from together import of, once

JOB = Path(job.__file__)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return once(tmp_path_factory, "watching", JOB, timeout=120)


@pytest.fixture(scope="module")
def alone():
    return job.watched()["columns"]


def parts(accumulate, clipped=False):
    """[update][rank or micro-batch of rank 0] the gradients along the watched training, in float64."""
    model = job.plain()
    optimizer, found = job.adamw(model), []
    for t in range(job.STEPS):
        twin = job.plain().double()
        twin.load_state_dict(model.state_dict())
        some = list(job.X[t, 0]) if accumulate else [job.X[t, rank].flatten(0, 1) for rank in (0, 1)]
        each = [torch.autograd.grad(job.loss(twin, x.double()), list(twin.parameters())) for x in some]
        found.append([torch.cat([g.flatten() for g in one]) for one in each])
        optimizer.zero_grad()
        job.loss(model, job.X[t].flatten(0, 2)).backward()
        if clipped:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return found


def same(one, other, rel=1e-3):
    for a, b in zip(one, other, strict=True):
        assert math.isnan(a) == math.isnan(b) and (math.isnan(a) or a == pytest.approx(b, rel=rel, abs=1e-6))


class TestDDP:
    CASES = ("ddp", "ddp inside", "ddp norm", "ddp scaled", "ddp clipped", "ddp accumulated")

    @pytest.mark.parametrize("case", CASES)
    def test_weights_are_as_without(self, ranks, case):
        for one in of(ranks, case):
            assert one["weights"] == one["without"]

    @pytest.mark.parametrize("case", CASES)
    def test_the_first_measures_and_writes(self, ranks, case):
        first, second = of(ranks, case)
        assert "gain" in first["columns"] and "curvature_max" in first["columns"] and first["sunk"] == job.STEPS
        assert set(second["columns"]) <= {"step", "loss", "lr", "grad_norm"} and not second["gauges"] and not second["sunk"]

    def test_the_file_is_the_firsts(self, ranks, tmp_path_factory):
        shared = next(
            base
            for base in (tmp_path_factory.getbasetemp(), tmp_path_factory.getbasetemp().parent)
            if (base / "watching").exists()
        )
        assert len(Run.load(shared / "watching" / "ddp")) == len(Run.load(shared / "watching" / "fsdp2")) == job.STEPS

    @pytest.mark.parametrize("case", ["ddp", "ddp inside", "ddp scaled"])
    def test_sums_are_those_of_one_process(self, ranks, alone, case):
        columns = of(ranks, case)[0]["columns"]
        for name in alone:
            if name.split("/")[0] in job.SUMS:
                same(columns[name], alone[name])

    @pytest.mark.parametrize("case", ["noise", "noise inside", "noise scaled", "noise clipped"])
    def test_noise_is_that_between_local_and_reduced_gradients(self, ranks, case):
        columns = of(ranks, case)[0]["columns"]
        for t, (mine, other) in enumerate(parts(False, "clipped" in case)):
            whole, own = float(((mine + other) / 2).square().sum()), float(mine.square().sum())
            signal, noise = 2 * whole - own, own - whole
            scale = 16 * noise / signal if signal > 0 else math.nan
            expected = [math.nan] * 3 if t == 0 else [signal, noise, scale]  # of the first, no backward pass was seen
            same([columns[name][t] for name in ("half_product", "grad_noise", "noise_scale")], expected, rel=3e-3)

    def test_noise_within_a_process_that_accumulates(self, ranks):
        columns = of(ranks, "noise accumulated")[0]["columns"]
        for t, (mine, other) in enumerate(parts(True)):
            signal = float(mine @ other)
            noise = (float(mine.square().sum() + other.square().sum()) / 2 - signal) / 4
            scale = 16 * noise / signal if signal > 0 else math.nan
            if t:
                same(
                    [columns[name][t] for name in ("half_product", "grad_noise", "noise_scale")], [signal, noise, scale], rel=3e-3
                )


class TestFSDP2:
    def test_sums_are_those_of_one_process_in_both(self, ranks, alone):
        for one in of(ranks, "fsdp2"):
            names = [name for name in alone if name.split("/")[0] in job.SUMS]
            assert len(names) > 10
            for name in names:
                same(one["columns"][name], alone[name])

    @pytest.mark.parametrize("case", ["fsdp2", "fsdp2 budgeted", "fsdp2 failing"])
    def test_weights_are_as_without(self, ranks, case):
        for one in of(ranks, case):
            assert one["weights"] == one["without"]

    def test_what_needs_all_processes_is_left_out_with_a_reason(self, ranks):
        for one in of(ranks, "fsdp2"):
            assert all("the weights are sharded" in one["gauges"][name] for name in ("gain", "edge", "parts"))

    def test_visits_agree_within_a_budget(self, ranks):
        first, second = of(ranks, "fsdp2 budgeted")
        assert first["visits"] == second["visits"] and len(first["visits"]) > 2
        assert all(set(sums) == {2.0} for _, *sums in first["visits"])

    def test_what_fails_in_one_is_left_out_in_both(self, ranks):
        first, second = of(ranks, "fsdp2 failing")
        assert first["gauges"]["limping"] == "it failed in another process" and "of one process" in second["gauges"]["limping"]

    def test_leaving_waits_for_nobody(self, ranks):
        assert [one["rows"] for one in of(ranks, "fsdp2 leaving")] == [3, 3]
