"""Several processes, and every line of DESIGN §8 (Binding: what was tried, and holds).

Where the lines are held; A is test_attach, C test_compile, D this file, I tests/integrations:

    lrkit_step is a 0-d int64 CPU tensor, spec a str, base a float; flat    D TestTheRecord
    it recompiles nothing                                                   C
    its step in a state dict taken earlier stays                            D TestTheRecord
    pre hook: adopts late groups, writes the rates                          A a_late_group_…, late_groups_…; D TestTheHooks
    pre hook: arms, post hook disarms; found_inf                            A TestOnlyRealUpdatesCount
    hooks are kept out of the compiler                                      C
    load pre: another spec is refused, nothing is lost                      A another_schedule_…, loading_a_checkpoint_…
    load post: normalises, completes, writes                                D TestTheHooks
    no reference to a group's dict                                          D TestTheRecord
    either order: plain torch                                               A TestResume; after kills: test_kill
    either order: accelerate, Lightning, transformers                       I (make test-hosts)
    either order: FSDP1; DDP, ZeRO, unfreezing                              D TestTwoProcesses
    DCP, FSDP2: attach, then load                                           A distributed_checkpoints_…; D TestTwoProcesses
    DCP, FSDP2: load, then attach is refused unless step=                   D TestDistributedCheckpoints
    a dry step neither counts nor moves                                     A a_dry_step_…, a_distributed_…; D TestADryStep
    fused under GradScaler                                                  A an_update_that_the_scaler_skips_…
    a step() that calls super().step()                                      A a_step_that_calls_its_parents_…
    deepcopy and pickle drop hooks                                          A a_copied_optimizer_…
    a foreign scheduler, initial_lr                                         A …_torch_scheduler_…; D TestRefusals
    wrappers: accelerate's, SAM, Lookahead, ZeRO's inner                    A what_is_no_…; D TestRefusals, TestTwoProcesses
    gradients are read in the post hook                                     tests/gauges
"""

import copy
import itertools
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from binding import job_distributed as job
from binding.test_attach import build, through_a_file, train
from lrkit import attach, controllers, parse
from lrkit.errors import InputError, StateError
from together import launch, of, once, seen

JOB = Path(job.__file__)
ORDERS = ("attach then load", "load then attach")
QUICK = [
    *(f"ddp {name} torch.save {order}" for name in ("momentum", "adamw") for order in ORDERS),
    "ddp adamw sharded",
    "fsdp2 sgd sharded",
    "fsdp2 momentum flattened",
    *(f"fsdp2 adamw {how}" for how in ("sharded", "full", "flattened", "rank0")),
    "fsdp2 adamw_tensor_lr sharded",
    *(f"{kind} adamw {order}" for kind in ("fsdp1", "zero") for order in ORDERS),
    *(f"unfreezing ddp {order}" for order in ORDERS),
    "unfreezing fsdp2 sharded awake",
]
ALL = [name for name in job.kinds() if "asleep" not in name]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    scenarios = [name for name in job.SCENARIOS if name != "survivors"]
    return once(tmp_path_factory, "distributed", JOB, "1,7", *scenarios, *QUICK, "unfreezing fsdp2 sharded asleep")


def check(both: list[dict], case: str) -> None:
    """The rates of one process on every rank at every update; resumed, the same rates and weights to the bit."""
    if not case.startswith("unfreezing"):
        name = case.split()[1]
        assert both[0]["rates"] == both[1]["rates"] == job.alone(name if name in job.OPTIMIZERS else "adamw")
    assert both[0]["rates"] == both[1]["rates"]
    if "fsdp" not in case:
        assert both[0]["weights"] == both[1]["weights"]
    for one in both:
        assert one["resumed"], "it was cut"
        for resumed in one["resumed"]:
            assert resumed["at"] == resumed["cut"]
            assert resumed["rates"] == one["rates"], f"cut at {resumed['cut']}"
            assert resumed["weights"] == one["weights"], f"cut at {resumed['cut']}"


class TestTwoProcesses:
    @pytest.mark.parametrize("case", QUICK)
    def test_have_the_rates_of_one_and_resume_to_the_bit(self, ranks, case):
        check(of(ranks, case), case)

    def test_attaching_to_the_inner_part_of_zero_is_refused_and_the_outer_one_named(self, ranks):
        for one in of(ranks, "zero inner"):
            assert one["kind"] == "InputError" and "ZeroRedundancyOptimizer" in one["said"] and not one["driven"]

    def test_agree_on_the_mean_of_what_they_report(self, ranks):
        """Rank 0's losses alone would never reduce, rank 1's always would: the mean decides, on both alike."""
        for case, events in {"other losses": list(range(1, 12)), "other losses, mean falls": []}.items():
            both = [one[case] for one in of(ranks, "plateau")]
            assert both[0]["scales"] == both[1]["scales"] and both[0]["events"] == both[1]["events"] == events
            assert both[0]["rates"] == both[1]["rates"] and both[0]["weights"] == both[1]["weights"]
        both = [one["own loss"] for one in of(ranks, "plateau")]
        assert both[0]["losses"] != both[1]["losses"] and both[0]["events"]
        assert both[0]["scales"] == both[1]["scales"] and both[0]["weights"] == both[1]["weights"]

    def test_see_a_nan_that_one_of_them_reports(self, ranks):
        for one in of(ranks, "plateau"):
            assert one["nan on rank 1"]["events"] == [6]
            assert one["nan on rank 1"]["scales"] == [1.0] * 6 + [0.5] * 6

    @pytest.mark.parametrize("mode", ["sharded", "full", "flattened", "rank0"])
    def test_get_a_controllers_state_back_from_a_distributed_checkpoint(self, ranks, mode):
        for one in of(ranks, "plateau fsdp2"):
            run = one[mode]
            assert run["whole"][-1][0] < 0.5 * job.alone()[-1][0], "it has scaled"
            assert run["parts"] == run["whole"] and run["again"] == run["weights"]

    def test_unfreeze_the_body_together(self, ranks):
        """Its weights do not move for four updates, then they move, and alike; no gradient is withheld from DDP."""
        both = of(ranks, "unfreezing")
        expected = {name: parse(text) for name, text in job.BODY_AND_HEAD.items()}
        assert both[0]["rates"] == [[0.1 * expected[name](t) for name in ("body", "head")] for t in range(job.STEPS)]
        assert all(both[0][what] == both[1][what] for what in ("rates", "body", "head"))
        body, head = both[0]["body"], both[0]["head"]
        assert body[0] == body[1] == body[2] == body[3] == body[4]
        assert all(a != b for a, b in itertools.pairwise(body[4:]))
        assert all(a != b for a, b in itertools.pairwise(head))
        assert all(one["gradients"] == [True] * job.STEPS for one in both)

    @pytest.mark.prove
    @pytest.mark.parametrize("name", [*job.OPTIMIZERS, "fsdp1", "zero", "unfreezing"])
    def test_resume_to_the_bit_wherever_they_were_cut(self, tmp_path, name):
        """Cut at each of the 12 updates; every optimizer, every kind of checkpoint."""
        cases = [case for case in ALL if name in (case.split()[0], case.split()[1])]
        both = seen(JOB, tmp_path, ",".join(str(cut) for cut in range(1, job.STEPS + 1)), *cases, timeout=400)
        for case in cases:
            check(of(both, case), case)

    @pytest.mark.prove
    def test_go_on_from_what_processes_that_are_gone_left_behind(self, tmp_path):
        assert launch(JOB, tmp_path, "5", "survivors") == [3, 3], "they end in the middle"
        for one in of(seen(JOB, tmp_path, "5", "survivors"), "survivors"):
            assert one["at"] == 5 and one["rates"] == one["whole"] and one["weights"] == one["whole_weights"]


# -- one process --------------------------------------------------------------------------------------------------------


def linear(make=torch.optim.AdamW, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, make(model.parameters(), **({"lr": 0.1} | options))


def dry_step(model, optimizer) -> None:
    """By which torch's distributed checkpoints create missing state."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    get_optimizer_state_dict(model, optimizer)


class TestDistributedCheckpoints:
    def test_loaded_before_attaching_are_refused_unless_the_step_is_said(self, ranks):
        """The loaded rate is not the base: whoever says step= sets the base, too."""
        for one in of(ranks, "lost record"):
            assert one["said"] is not None and "updates were taken without lrkit's record" in one["said"]
            assert "step=" in one["said"]
            assert one["loaded_lr"] != 0.1
            assert one["at"] == 5 and one["rates"] == job.alone()[5:]

    def test_taken_while_a_group_sleeps_are_refused_by_torch_which_demands_state_of_all(self, ranks):
        """Loud: torch's planner misses the state that a sleeping group has none of."""
        for rank in ranks:
            assert "Missing key" in rank["unfreezing fsdp2 sharded asleep"]["error"]

    @pytest.mark.parametrize("paused", [True, False])
    def test_of_one_process_keep_the_state_of_a_group_that_has_woken_where_all_are_awake(self, tmp_path, paused):
        """Torch passes over what wants no gradient, in a fresh process the sleeping group: that is said, and how to load."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

        def fresh():
            model = job.plain()
            optimizer = torch.optim.AdamW(job.body_and_head(model), lr=0.1)
            return model, optimizer, attach(optimizer, lr=job.BODY_AND_HEAD)

        whole, driven, _ = fresh()
        job.train(whole, driven, 0, job.STEPS, 0)
        first, driven, _ = fresh()
        job.train(first, driven, 0, 7, 0)
        with pytest.warns(UserWarning):
            dcp.save({"o": get_optimizer_state_dict(first, driven)}, checkpoint_id=tmp_path)
        again, resumed, attachment = fresh()
        again.load_state_dict(first.state_dict())

        def load():
            with pytest.warns(UserWarning):
                state = {"o": get_optimizer_state_dict(again, resumed)}
                dcp.load(state, checkpoint_id=tmp_path)
            set_optimizer_state_dict(again, resumed, state["o"])

        if not paused:
            with pytest.raises(StateError, match=r"group 'body' is awake at step 7, and its optimizer state was not loaded"):
                load()
            return
        with attachment.paused():
            load()
        assert attachment.step == 7
        job.train(again, resumed, 7, job.STEPS, 0)
        assert job.weights(again) == job.weights(whole)


class TestADryStep:
    """None counts, none moves a weight, and the rates in force afterwards are the schedule's."""

    @pytest.mark.parametrize("text", ["hold 3 at 0 > cosine 9", "points(linear) 0:0 4:1 12:0"])
    @pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
    def test_is_known_where_the_schedule_itself_is_at_0(self, text, lr):
        model, optimizer = linear(lr=lr if isinstance(lr, float) else lr.clone())
        attachment = attach(optimizer, lr=text)
        assert float(optimizer.param_groups[0]["lr"]) == 0.0
        before = copy.deepcopy(model.state_dict())
        dry_step(model, optimizer)
        assert attachment.step == 0 and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        rates = train(model, optimizer, 0, 12)
        assert rates == pytest.approx([0.1 * parse(text)(t) for t in range(12)], rel=1e-6)

    def test_is_told_from_an_update_at_rate_0_that_really_happened(self):
        model, optimizer = linear()
        attachment = attach(optimizer, lr="hold 3 at 0 > cosine 9")
        train(model, optimizer, 0, 2)
        assert attachment.step == 2 and optimizer.param_groups[0]["lr"] == 0.0

    @pytest.mark.parametrize("driven", [{"lr": "linear 10"}, {"weight_decay": "linear 10"}])
    def test_of_plain_sgd_after_zero_grad_does_not_count_in_mid_run(self, driven):
        """It has no state, so torch takes the dry step at every checkpoint."""
        model, optimizer = linear(torch.optim.SGD, weight_decay=0.01)
        attachment = attach(optimizer, **driven)
        train(model, optimizer, 0, 3)
        for n in (3, 3, 4):
            optimizer.zero_grad()
            before, values = copy.deepcopy(model.state_dict()), attachment.values()
            dry_step(model, optimizer)
            if n == 4:
                break
            assert attachment.step == 3 and attachment.values() == values
            assert optimizer.param_groups[0]["lr"] == (pytest.approx(0.07) if "lr" in driven else 0.1)
            assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        train(model, optimizer, 3, 5)
        assert attachment.step == 5

    @pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
    def test_of_two_attachments_on_different_keys_does_not_count(self, lr):
        model, optimizer = linear(lr=lr if isinstance(lr, float) else lr.clone())
        rate, decay = attach(optimizer, lr="linear 10"), attach(optimizer, weight_decay="cosine 10")
        before = copy.deepcopy(model.state_dict())
        dry_step(model, optimizer)
        assert rate.step == decay.step == 0 and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        train(model, optimizer, 0, 4)
        assert rate.step == decay.step == 4
        assert rate.values()[0] == {"lr": pytest.approx(0.06)}
        assert optimizer.param_groups[0]["weight_decay"] == 0.01 * parse("cosine 10")(4)

    def test_does_not_count_where_only_one_named_group_is_driven(self):
        model = job.plain()
        optimizer = torch.optim.AdamW(job.body_and_head(model), lr=0.1)
        attachment = attach(optimizer, lr={"head": "linear 10"})
        dry_step(model, optimizer)
        assert attachment.step == 0 and job.rates(optimizer) == [0.1, 0.1]

    def test_leaves_a_controller_as_it_was(self):
        model, optimizer = linear()
        attachment = attach(optimizer, lr="constant", controllers=controllers.Plateau(patience=0))
        attachment.report(loss=1.0)
        attachment.report(loss=2.0)
        dry_step(model, optimizer)
        assert attachment.step == 0 and optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


class TestTheRecord:
    def test_is_flat_keys_of_a_counter_a_text_and_plain_numbers(self):
        model, optimizer = linear()
        attachment = attach(optimizer, lr="linear 10", weight_decay="cosine 10", controllers=controllers.Plateau())
        train(model, optimizer, 0, 3)
        attachment.report(loss=1.0)
        for groups in (optimizer.param_groups, optimizer.state_dict()["param_groups"]):
            own = {key: value for key, value in groups[0].items() if key.startswith("lrkit_")}
            assert {key: type(value) for key, value in own.items()} == {
                "lrkit_step": torch.Tensor, "lrkit_spec": str, "lrkit_base_lr": float, "lrkit_base_weight_decay": float,
                "lrkit_state_plateau": torch.Tensor,
            }  # fmt: skip
            step, state = own["lrkit_step"], own["lrkit_state_plateau"]
            assert (step.dtype, step.dim(), step.device.type, int(step)) == (torch.int64, 0, "cpu", 3)
            assert (state.dtype, state.dim(), state.device.type) == (torch.float64, 1, "cpu")

    def test_in_a_state_dict_taken_earlier_stays_while_training_goes_on(self):
        """Held in memory, nested in another, copied, and by torch's distributed functions."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        model, optimizer = linear()
        attachment = attach(optimizer, lr="linear 10", controllers=controllers.Plateau(patience=0))
        train(model, optimizer, 0, 2)
        attachment.report(loss=1.0)
        taken = [optimizer.state_dict(), copy.copy(optimizer.state_dict()), get_optimizer_state_dict(model, optimizer)]
        states = [one["param_groups"][0]["lrkit_state_plateau"].tolist() for one in taken]
        train(model, optimizer, 2, 5)
        attachment.report(loss=2.0)
        assert attachment.step == 5
        assert [int(one["param_groups"][0]["lrkit_step"]) for one in taken] == [2, 2, 2]
        assert [one["param_groups"][0]["lrkit_state_plateau"].tolist() for one in taken] == states
        optimizer.load_state_dict(taken[0])
        train(model, optimizer, 2, 3)
        assert attachment.step == 3 and int(taken[0]["param_groups"][0]["lrkit_step"]) == 2, "loading does not share, either"

    @pytest.mark.parametrize("how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
    def test_in_a_copied_optimizer_stays_while_the_first_goes_on(self, how):
        model, optimizer = linear()
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 2)
        again = how(optimizer)
        train(model, optimizer, 2, 5)
        assert int(again.param_groups[0]["lrkit_step"]) == 2
        assert attach(again, lr="linear 10").step == 2 and again.param_groups[0]["lr"] == pytest.approx(0.08)

    def test_is_read_by_a_careful_reader(self):
        """torch.load(weights_only=True), a controller's state with its infinity included."""
        _, optimizer = linear()
        attach(optimizer, lr="linear 10", controllers=controllers.Plateau())
        group = through_a_file(optimizer.state_dict())["param_groups"][0]
        assert group["lrkit_state_plateau"].tolist() == [1.0, float("inf"), 0.0, 0.0]
        assert int(group["lrkit_step"]) == 0

    def test_is_not_held_by_a_groups_dict_of_before_a_load(self):
        """Loading replaces the list and its dicts; nobody may go on writing to the old ones."""
        model, optimizer = linear()
        attachment = attach(optimizer, lr="linear 10", controllers=controllers.Plateau())
        train(model, optimizer, 0, 3)
        attachment.report(loss=1.0)
        saved, old = copy.deepcopy(optimizer.state_dict()), optimizer.param_groups[0]
        groups = optimizer.param_groups
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0] is not old and optimizer.param_groups is not groups
        del groups
        held = sys.getrefcount(old)
        assert held == 2, "nobody but this test holds the old dict"
        left = dict(old)
        train(model, optimizer, 3, 5)
        assert old["lr"] == left["lr"] and attachment.step == 5 and optimizer.param_groups[0]["lr"] == pytest.approx(0.05)

    @pytest.mark.parametrize("device", ["meta"])
    def test_stays_on_the_cpu_whatever_the_default_device(self, device):
        model, optimizer = linear(torch.optim.SGD, momentum=0.9)
        torch.set_default_device(device)
        try:
            attachment = attach(optimizer, lr="linear 10", controllers=controllers.Plateau(patience=0))
            for _ in range(3):
                for p in model.parameters():
                    p.grad = torch.ones(p.shape, device="cpu")
                optimizer.step()
                attachment.report(loss=1.0)
            saved = optimizer.state_dict()
            optimizer.load_state_dict(saved)
            for groups in (optimizer.param_groups, saved["param_groups"]):
                assert groups[0]["lrkit_step"].device.type == groups[0]["lrkit_state_plateau"].device.type == "cpu"
                assert int(groups[0]["lrkit_step"]) == 3
        finally:
            torch.set_default_device(None)
        assert attachment.step == 3


class TestTheHooks:
    def test_fire_once_in_a_step_that_calls_its_parents_and_survive_one_that_raises(self):
        class Careful(torch.optim.AdamW):
            broken = False

            @torch.no_grad()
            def step(self, closure=None):
                if self.broken:
                    raise RuntimeError("not today")
                return super().step(closure)

        model, optimizer = linear(Careful)
        attachment = attach(optimizer, lr="linear 12")
        assert train(model, optimizer, 0, 4) == pytest.approx([0.1 * parse("linear 12")(t) for t in range(4)])
        optimizer.broken = True
        with pytest.raises(RuntimeError, match="not today"):
            optimizer.step()
        assert attachment.step == 4
        optimizer.broken = False
        train(model, optimizer, 4, 6)
        assert attachment.step == 6 and optimizer.param_groups[0]["lr"] == pytest.approx(0.05)

    @pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
    def test_write_what_an_update_uses_over_what_a_stranger_wrote(self, lr):
        model, optimizer = linear(torch.optim.SGD, lr=lr if isinstance(lr, float) else lr.clone())
        attach(optimizer, lr="linear 10")
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        before = model.weight.detach().clone()
        if isinstance(lr, float):
            optimizer.param_groups[0]["lr"] = 7.0
        else:
            optimizer.param_groups[0]["lr"].fill_(7.0)
        optimizer.step()
        torch.testing.assert_close(before - model.weight.detach(), torch.full((2, 3), 0.1))

    @pytest.mark.parametrize("form", [int, float, lambda t: t.to(torch.float32), lambda t: t.to(torch.int32).reshape(1)])
    def test_bring_a_step_that_a_host_has_changed_into_its_form(self, form):
        model, optimizer = linear()
        attachment = attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 4)
        saved = optimizer.state_dict()
        saved["param_groups"][0]["lrkit_step"] = form(saved["param_groups"][0]["lrkit_step"])
        optimizer.load_state_dict(saved)
        step = optimizer.param_groups[0]["lrkit_step"]
        assert isinstance(step, torch.Tensor) and (step.dtype, step.dim(), int(step)) == (torch.int64, 0, 4)
        train(model, optimizer, 4, 6)
        assert attachment.step == 6

    @pytest.mark.parametrize("order", ORDERS)
    def test_adopt_a_late_group_that_was_saved_before_its_first_update(self, order):
        """It has no record yet in that checkpoint; resumed, it has the rates that it would have had."""

        def grown():
            model, optimizer = linear()
            late = nn.Parameter(torch.ones(2))
            late.grad = torch.ones(2)
            return model, optimizer, late

        model, optimizer, late = grown()
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 4)
        optimizer.add_param_group({"params": [late], "lr": 1.0})
        saved = through_a_file(optimizer.state_dict())
        model, again, late = grown()
        again.add_param_group({"params": [late], "lr": 1.0})
        if order == "attach then load":
            attach(again, lr="linear 10")
            again.load_state_dict(saved)
        else:
            again.load_state_dict(saved)
            attach(again, lr="linear 10")
        train(model, again, 4, 5)
        assert job.rates(again) == pytest.approx([0.05, 0.5])


class Sam(torch.optim.Optimizer):
    """As the usual implementation: a torch optimizer that holds the one that takes the steps, and shares its groups."""

    def __init__(self, params, base_optimizer, **options):
        super().__init__(params, dict(options))
        self.base_optimizer = base_optimizer(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure=None):
        self.base_optimizer.step()


class Lookahead(torch.optim.Optimizer):
    """As the usual implementation: never calls the parent's __init__."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups, self.defaults = optimizer, optimizer.param_groups, optimizer.defaults
        self.state = {}

    def step(self, closure=None):
        return self.optimizer.step(closure)


class TestRefusals:
    def test_a_sam_is_refused_and_its_base_optimizer_named(self):
        model = nn.Linear(3, 2)
        sam = Sam(model.parameters(), torch.optim.SGD, lr=0.1)
        with pytest.raises(InputError, match=r"attach\(Sam\): this wraps another optimizer.* Attach to its \.base_optimizer\."):
            attach(sam, lr="linear 10")
        assert "lrkit_step" not in sam.param_groups[0]
        attachment = attach(sam.base_optimizer, lr="linear 10")
        train(model, sam, 0, 3)
        assert attachment.step == 3 and sam.param_groups[0]["lr"] == pytest.approx(0.07)

    def test_a_lookahead_is_refused_and_its_optimizer_named(self):
        model, optimizer = build("adam")
        with pytest.raises(InputError, match=r"attach\(Lookahead\): this wraps another optimizer.* Attach to its \.optimizer\."):
            attach(Lookahead(optimizer), lr="linear 10")
        attachment = attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 2)
        assert attachment.step == 2

    @pytest.mark.parametrize("place", [0, 1])
    def test_initial_lr_in_any_group_is_refused(self, place):
        model = job.plain()
        groups = job.body_and_head(model)
        groups[place]["initial_lr"] = 0.1
        optimizer = torch.optim.SGD(groups, lr=0.1)
        with pytest.raises(StateError, match=r"its groups hold 'initial_lr'"):
            attach(optimizer, lr="linear 10")

    def test_a_checkpoint_that_a_torch_scheduler_has_marked_is_refused_before_the_next_update(self):
        """Loaded into a driven optimizer, 'initial_lr' comes with the groups."""
        model, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        saved = optimizer.state_dict()
        saved["param_groups"][0]["initial_lr"] = 0.1
        optimizer.load_state_dict(saved)
        with pytest.raises(StateError, match="initial_lr"):
            train(model, optimizer, 0, 1)
