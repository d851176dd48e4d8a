"""Several processes that train one model search together: one answer, nobody waits for ever, and everything as it was.

What one of them alone raises is not tested: the others wait for it until torch's timeout, as in any training of several.
"""

from math import isnan
from pathlib import Path

import pytest

from finder import job_distributed as job
from together import of, once

JOB = Path(job.__file__)
LONG = (
    "accumulation", "dear validate", "fsdp2", "fsdp2 nan at high rates", "nan in validate at high rates", "other rows",
    "probe fsdp2", "range fsdp2", "task", "views of buckets", "zero", "zero untouched",
)  # fmt: skip
REFUSED = ("other steps", "validate on rank 0", "other epochs")
TWINS = {  # which make the same updates, but no search; the others are like "ddp untouched"
    "dropout and batch norm": "dropout and batch norm untouched", "attached": "attached untouched", "zero": "zero untouched",
    "static graph": "static graph untouched",
    "fsdp2": "fsdp2 untouched", "fsdp2 validated": "fsdp2 untouched", "fsdp2 nan at high rates": "fsdp2 untouched",
    "range fsdp2": "fsdp2 untouched", "probe fsdp2": "fsdp2 untouched",
}  # fmt: skip
NO_TWIN = ("other batches", "other rows", "tiny", "fsdp2 tiny", "task")


def cases(*names: str) -> list:
    """Scenarios, the long form's marked as such."""
    return [pytest.param(name, marks=pytest.mark.prove) if name in LONG else name for name in names]


ALL = [name for name in job.scenarios(0) if not name.endswith("untouched")]
SEARCHES = [name for name in ALL if name not in REFUSED]


@pytest.fixture(scope="module")
def ranks(request, tmp_path_factory) -> list[dict]:
    long = any(item.get_closest_marker("prove") for item in request.session.items)
    names = [name for name in job.scenarios(0) if long or name not in LONG]
    return once(tmp_path_factory, "finding", JOB, *names, timeout=300)


class TestTwoProcesses:
    @pytest.mark.parametrize("case", cases(*SEARCHES))
    def test_get_the_same_answer(self, ranks, case):
        first, second = of(ranks, case)
        assert first["said"] == second["said"]

    @pytest.mark.parametrize("case", cases(*(case for case in ALL if case != "task")))
    def test_are_as_they_were(self, ranks, case):
        first, second = of(ranks, case)
        assert first["kept"] and second["kept"]
        assert first["weights"] == second["weights"] or "fsdp2" in case

    @pytest.mark.parametrize("case", cases(*(case for case in ALL if case not in NO_TWIN)))
    def test_go_on_as_without_a_search(self, ranks, case):
        both, twins = of(ranks, case), of(ranks, TWINS.get(case, "ddp untouched"))
        for one, twin in zip(both, twins, strict=True):
            assert one["weights"] == twin["weights"] and one["rates"] == twin["rates"]


class TestTheAnswer:
    def test_is_that_of_one_process_with_the_batches_of_all(self, ranks):
        found, alone = of(ranks, "ddp")[0], job.alone()
        assert (found["lr"], found["status"], found["steps"]) == (alone.lr, alone.status, alone.steps)
        assert [(lr, steps) for lr, steps, _ in found["trials"]] == [(trial.lr, trial.steps) for trial in alone.trials]
        assert [loss for *_, loss in found["trials"]] == pytest.approx(
            [trial.loss for trial in alone.trials], rel=1e-3, nan_ok=True
        )
        assert found["context"]["processes"] == 2 and found["context"]["batch_size"] == job.ROWS

    @pytest.mark.parametrize("case", [pytest.param("", marks=pytest.mark.prove), " validated", " tiny"])
    def test_does_not_depend_on_how_the_weights_are_shared_out(self, ranks, case):
        sharded, whole = of(ranks, f"fsdp2{case}")[0], of(ranks, case.strip() or "ddp")[0]
        assert [(lr, steps) for lr, steps, _ in sharded["trials"]] == [(lr, steps) for lr, steps, _ in whole["trials"]]
        assert (sharded["lr"], sharded["status"]) == (whole["lr"], whole["status"])

    @pytest.mark.parametrize("case", cases("ddp", "validated", "dropout and batch norm", "other batches", "other rows", "zero"))
    def test_is_a_rate(self, ranks, case):
        assert of(ranks, case)[0]["status"] in ("ok", "edge")

    def test_is_for_the_attached_schedule(self, ranks):
        context = of(ranks, "attached")[0]["context"]
        assert (context["horizon"], context["schedule"]) == (job.STEPS, "warmup 16 > cosine 144")


class TestANaNOnOneRank:
    @pytest.mark.parametrize("case", ["nan", "nan in validate"])
    def test_from_the_start_is_divergence_on_all(self, ranks, case):
        for one in of(ranks, case):
            assert one["status"] == "diverged" and one["lr"] == 1e-4

    @pytest.mark.parametrize("case", cases("nan at high rates", "nan in validate at high rates", "fsdp2 nan at high rates"))
    def test_ends_those_runs_on_all(self, ranks, case):
        for one in of(ranks, case):
            diverged = [lr for lr, _, loss in one["trials"] if isnan(loss)]
            finished = [lr for lr, _, loss in one["trials"] if not isnan(loss)]
            assert finished and diverged and max(finished) < min(diverged)
            assert one["lr"] < min(diverged)


class TestTheBudget:
    @pytest.mark.parametrize(
        ("case", "forwards"),
        [("validated", 1), ("other forwards", 3), pytest.param("dear validate", 5, marks=pytest.mark.prove)],
    )
    def test_counts_the_mean_of_the_forwards_rounded_up(self, ranks, case, forwards):
        found = of(ranks, case)[0]
        validations = 2 + sum(not isnan(loss) for *_, loss in found["trials"])  # two before the first run
        assert 3 * (found["cost"] * job.STEPS - found["steps"]) == pytest.approx(forwards * validations)

    def test_ends_for_all_after_a_validation_that_costs_more_than_it(self, ranks):
        for one in of(ranks, "dearest validate"):
            assert one["status"] == "budget" and one["trials"] == [] and one["cost"] > 0.5


class TestWhatOneProcessIsGivenOtherwise:
    @pytest.mark.parametrize(
        ("case", "what"), [("other steps", "steps"), ("validate on rank 0", "validate"), ("other epochs", "steps")]
    )
    def test_is_refused_by_all(self, ranks, case, what):
        for one in of(ranks, case):
            assert len(one["refusals"]) == 1 and f"the processes differ in {what} (here " in one["refusals"][0]


class TestARangeTest:
    def test_with_a_nan_on_one_rank_ends_on_all(self, ranks):
        for one in of(ranks, "range nan"):
            assert one["rows"] == 1
        for one in of(ranks, "range nan at high rates"):
            assert 1 < one["rows"] < of(ranks, "range")[0]["rows"] and one["edge"] is not None

    def test_holds_rates_for_epochs(self, ranks):
        assert of(ranks, "range epochs")[0]["rows"] > 1


class TestAProbe:
    def test_with_a_nan_on_one_rank_cannot_tell_on_all(self, ranks):
        assert {one["advice"] for one in of(ranks, "probe nan")} == {"cannot tell"}

    def test_with_a_nan_on_one_rank_at_a_high_rate_does_not_advise_it(self, ranks):
        for one in of(ranks, "probe nan at high rates"):
            assert one["diverged"] == [False, False, True] and one["advice"] != "raise"
