"""`attach`: the rate that is written is the schedule's, and nothing is lost on resume."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from lrkit import attach, parse
from lrkit.binding.attach import attached
from lrkit.errors import InputError, StateError

STEPS = 12
SCHEDULES = [
    "warmup 3 > cosine 9",
    "warmup 2 > hold 6 > 1-sqrt 4",
    "linear 12 to 0.1",
    "warmup 4 from 0.1 > constant",
    "exponential 6 to 0.01",
    "warmup 3 * decay 0.5 every 4 stairs",
    "repeat 3 (cosine 4) scale 0.8",
    "points(cosine) 0:0.04 2.5:1 11:0.01",
]
OPTIMIZERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.01),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr),
    "adamw_fused": lambda p, lr: torch.optim.AdamW(p, lr=lr, fused=True),
    "adamw_foreach": lambda p, lr: torch.optim.AdamW(p, lr=lr, foreach=True),
    "adamw_tensor_lr": lambda p, lr: torch.optim.AdamW(p, lr=torch.tensor(lr)),
    "rmsprop_two_groups": lambda p, lr: torch.optim.RMSprop(
        [{"params": p[:1], "lr": lr}, {"params": p[1:], "lr": lr / 10}], lr=lr
    ),
}
DATA = torch.randn(STEPS, 4, 3, generator=torch.Generator().manual_seed(1))


def build(name: str, lr: float = 0.1):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, OPTIMIZERS[name](list(model.parameters()), lr)


def train(model, optimizer, start: int, stop: int) -> list[float]:
    """The rates of the updates."""
    rates = []
    for t in range(start, stop):
        optimizer.zero_grad()
        model(DATA[t]).square().mean().backward()
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
    return rates


def through_a_file(state):
    """As torch.save writes it and a careful reader loads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class TestRates:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    @pytest.mark.parametrize("text", SCHEDULES)
    def test_each_update_has_base_times_factor(self, name, text):
        model, optimizer = build(name)
        attachment = attach(optimizer, lr=text)
        expected = [0.1 * parse(text)(t) for t in range(STEPS)]
        assert train(model, optimizer, 0, STEPS) == pytest.approx(expected, rel=1e-6)
        assert attachment.step == STEPS

    def test_any_numeric_key_can_be_driven(self):
        model, optimizer = build("momentum")
        attachment = attach(optimizer, lr="cosine", weight_decay="linear", momentum="constant at 0.5", total=STEPS)
        train(model, optimizer, 0, 6)
        group = optimizer.param_groups[0]
        assert (group["weight_decay"], group["momentum"]) == (0.005, 0.45)
        assert attachment.values()[0] == {"lr": group["lr"], "weight_decay": 0.005, "momentum": 0.45}
        assert attachment.values(step=12)[0]["lr"] == 0

    def test_named_groups_have_their_own_schedules(self):
        parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
        optimizer = torch.optim.SGD([{"params": [p], "name": n} for p, n in zip(parameters, "abc", strict=True)], lr=1.0)
        attachment = attach(optimizer, lr={"a": "constant at 0.5", "b": "linear 10"})
        for p in parameters:
            p.grad = torch.zeros_like(p)
        for _ in range(5):
            optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 1.0]
        assert "'a': 'constant at 0.5'" in repr(attachment)

    def test_a_tensor_rate_is_written_in_place_and_shared_with_nobody(self):
        first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        rate = torch.tensor(0.1)
        optimizer = torch.optim.AdamW([{"params": [first]}, {"params": [second]}], lr=rate)
        attach(optimizer, lr="linear 10")
        held = [group["lr"] for group in optimizer.param_groups]
        first.grad = second.grad = torch.ones(1)
        optimizer.step()
        assert all(group["lr"] is h for group, h in zip(optimizer.param_groups, held, strict=True))
        assert held[0] is not held[1] and rate == torch.tensor(0.1)
        assert float(held[0]) == pytest.approx(0.09)

    def test_a_late_group_joins_with_its_own_base(self):
        model, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 4)
        late = nn.Parameter(torch.zeros(1))
        late.grad = torch.ones(1)
        optimizer.add_param_group({"params": [late], "lr": 1.0})
        train(model, optimizer, 4, 5)
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5)


class TestOnlyRealUpdatesCount:
    def test_accumulation_counts_once(self):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="linear 10")
        for _ in range(4):
            model(DATA[0]).square().mean().backward()
        optimizer.step()
        assert attachment.step == 1

    def test_a_closure_counts_once_and_a_raising_one_not_at_all(self):
        model = nn.Linear(3, 2)
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
        attachment = attach(optimizer, lr="linear 10")

        def closure():
            optimizer.zero_grad()
            loss = model(DATA[0]).square().mean()
            loss.backward()
            return loss

        def broken():
            raise RuntimeError("no loss today")

        optimizer.step(closure)
        with pytest.raises(RuntimeError, match="no loss today"):
            optimizer.step(broken)
        assert attachment.step == 1
        optimizer.step(closure)
        assert attachment.step == 2

    @pytest.mark.parametrize("name", ["adamw", "adamw_fused"])
    def test_an_update_that_the_scaler_skips_does_not_count(self, name):
        model, optimizer = build(name)
        attachment = attach(optimizer, lr="linear 10")
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for bad in (False, True, False):
            optimizer.zero_grad()
            scaler.scale(model(DATA[0]).square().mean()).backward()
            if bad:
                model.weight.grad.fill_(float("inf"))
            scaler.step(optimizer)
            scaler.update()
        assert attachment.step == 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.08)

    def test_a_step_that_calls_its_parents_counts_once(self):
        class Careful(torch.optim.SGD):
            def step(self, closure=None):
                return super().step(closure)

        weight = nn.Parameter(torch.ones(2))
        optimizer = Careful([weight], lr=0.1)
        attachment = attach(optimizer, lr="linear 10")
        weight.grad = torch.ones(2)
        optimizer.step()
        assert attachment.step == 1

    def test_a_distributed_checkpoints_dry_step_neither_counts_nor_moves(self):
        """get_optimizer_state_dict sets all rates to 0 and steps once, to create missing state."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        model, optimizer = build("adamw")
        attachment = attach(optimizer, lr="warmup 3 > cosine 9")
        before = model.weight.detach().clone()
        get_optimizer_state_dict(model, optimizer)
        assert attachment.step == 0 and torch.equal(model.weight, before)

    @pytest.mark.parametrize("name", ["momentum", "adamw", "adamw_fused"])
    def test_distributed_checkpoints_resume_exactly_where_attach_comes_first(self, name):
        """Cut at every step; the order attach, then load, which is the one that they allow."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

        whole, driven = build(name)
        attach(driven, lr="warmup 3 > cosine 9")
        reference = train(whole, driven, 0, STEPS)
        for cut in range(1, STEPS + 1):
            model, optimizer = build(name)
            attach(optimizer, lr="warmup 3 > cosine 9")
            assert train(model, optimizer, 0, cut) == reference[:cut]
            state, weights = copy.deepcopy(get_optimizer_state_dict(model, optimizer)), copy.deepcopy(model.state_dict())
            model, optimizer = build(name)
            attach(optimizer, lr="warmup 3 > cosine 9")
            model.load_state_dict(weights)
            set_optimizer_state_dict(model, optimizer, optim_state_dict=state)
            assert train(model, optimizer, cut, STEPS) == reference[cut:]
            assert torch.equal(model.weight, whole.weight)


class TestResume:
    @pytest.mark.parametrize("order", ["attach then load", "load then attach"])
    @pytest.mark.parametrize("text", SCHEDULES)
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_is_exact_wherever_the_run_was_cut(self, name, text, order):
        """Rates and weights equal the uninterrupted run's to the bit, cut at each of the 12 steps."""
        model, optimizer = build(name)
        attach(optimizer, lr=text)
        rates = train(model, optimizer, 0, STEPS)
        for cut in range(STEPS + 1):
            first, driven = build(name)
            attach(driven, lr=text)
            before = train(first, driven, 0, cut)
            saved = through_a_file({"model": first.state_dict(), "optimizer": driven.state_dict()})
            again, resumed = build(name)
            again.load_state_dict(saved["model"])
            if order == "attach then load":
                attach(resumed, lr=text)
                resumed.load_state_dict(saved["optimizer"])
            else:
                resumed.load_state_dict(saved["optimizer"])
                attach(resumed, lr=text)
            assert before + train(again, resumed, cut, STEPS) == rates
            assert torch.equal(again.weight, model.weight) and torch.equal(again.bias, model.bias)

    @pytest.mark.parametrize("how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
    def test_a_copied_optimizer_goes_on_when_attached_again(self, how):
        model, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 3)
        again = how(optimizer)
        assert attached(again) == [], "torch drops the hooks"
        assert attach(again, lr="linear 10").step == 3
        assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]

    @pytest.mark.parametrize("order", ["attach then load", "load then attach"])
    def test_another_schedule_is_refused_and_both_are_named(self, order):
        model, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 3)
        _, other = build("adam")
        if order == "attach then load":
            attach(other, lr="linear 20")
        with pytest.raises(StateError, match=r"lr was 'linear 10', now it is 'linear 20' \(they part at step 1\)"):
            other.load_state_dict(optimizer.state_dict())
            attach(other, lr="linear 20")

    def test_updates_without_a_record_are_refused_unless_their_number_is_said(self):
        model, optimizer = build("adam")
        train(model, optimizer, 0, 3)
        with pytest.raises(StateError, match="updates were taken without lrkit's record"):
            attach(optimizer, lr="linear 10")
        assert attach(optimizer, lr="linear 10", step=3).step == 3
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.07)

    def test_loading_a_checkpoint_without_a_record_is_refused_before_anything_is_lost(self):
        model, optimizer = build("adam")
        train(model, optimizer, 0, 3)
        _, other = build("adam")
        attachment = attach(other, lr="linear 10")
        with pytest.raises(StateError, match="load_state_dict: updates were taken without lrkit's record"):
            other.load_state_dict(optimizer.state_dict())
        assert attachment.step == 0 and other.param_groups[0]["lr"] == pytest.approx(0.1)


class TestChanging:
    def test_rebase_keeps_the_position(self):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 5)
        attachment.rebase(lr=1.0)
        assert optimizer.param_groups[0]["lr"] == 0.5 and attachment.step == 5

    def test_rebase_refuses_what_is_not_driven(self):
        _, optimizer = build("adam")
        with pytest.raises(InputError, match=r"rebase\(eps=…\): 'eps' is not driven here; driven are lr"):
            attach(optimizer, lr="linear 10").rebase(eps=1.0)

    def test_detach_leaves_the_optimizer_as_it_was(self):
        _, optimizer = build("adam")
        before = copy.deepcopy(optimizer.state_dict())
        attach(optimizer, lr="linear 10").detach()
        assert optimizer.state_dict() == before
        assert attached(optimizer) == []
        attach(optimizer, lr="linear 20")

    def test_while_paused_nothing_is_counted_or_written(self):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="linear 10")
        with attachment.paused():
            optimizer.param_groups[0]["lr"] = 7.0
            train(model, optimizer, 0, 2)
            assert optimizer.param_groups[0]["lr"] == 7.0
        assert attachment.step == 0


class TestRefusals:
    def test_a_key_that_does_not_exist(self):
        message = r"attach\(momentun=…\): group 0 has no number 'momentun'. Did you mean 'momentum'\? It has lr"
        with pytest.raises(InputError, match=message):
            attach(build("momentum")[1], momentun="linear 10")

    def test_a_group_that_does_not_exist(self):
        with pytest.raises(InputError, match="there is no group 'head'; the optimizer has no named group"):
            attach(build("adam")[1], lr={"head": "linear 10"})

    def test_a_template_without_its_total(self):
        with pytest.raises(InputError, match=r"attach\(lr=…\): resolve: .* Pass total="):
            attach(build("adam")[1], lr="warmup 5% > cosine")

    def test_a_base_of_zero(self):
        with pytest.raises(InputError, match="weight_decay is 0 in every group"):
            attach(build("sgd")[1], weight_decay="linear 10")

    def test_attaching_twice(self):
        _, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        with pytest.raises(StateError, match="lr is driven already, by 'linear 10'"):
            attach(optimizer, lr="linear 10")

    def test_an_optimizer_that_a_torch_scheduler_drives(self):
        _, optimizer = build("adam")
        torch.optim.lr_scheduler.StepLR(optimizer, 3)
        with pytest.raises(StateError, match="a torch scheduler has been made on it"):
            attach(optimizer, lr="linear 10")

    def test_what_is_no_optimizer(self):
        class Wrapper:
            def __init__(self, optimizer):
                self.optimizer = optimizer

        with pytest.raises(InputError, match=r"this is no torch optimizer. Attach to its .optimizer."):
            attach(Wrapper(build("adam")[1]), lr="linear 10")

    def test_nothing_to_drive(self):
        with pytest.raises(InputError, match="nothing to drive"):
            attach(build("adam")[1])

    @pytest.mark.parametrize("step", [-1, 1.5, True])
    def test_a_step_that_is_no_count(self, step):
        with pytest.raises(InputError, match=r"attach\(step=.*: step must be a whole number, at least 0"):
            attach(build("adam")[1], lr="linear 10", step=step)


class TestHardCases:
    def test_a_fresh_adagrad_has_state_but_no_updates(self):
        attach(torch.optim.Adagrad([nn.Parameter(torch.ones(2))]), lr="linear 10")

    def test_late_groups_of_a_tensor_rate_do_not_share_the_defaults(self):
        first = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.AdamW([first], lr=torch.tensor(0.1))
        attachment = attach(optimizer, lr="linear 10")
        for n in range(3):
            late = nn.Parameter(torch.ones(1))
            optimizer.add_param_group({"params": [late]})
            assert len(attachment.values()) == n + 2
            for group in optimizer.param_groups:
                group["params"][0].grad = torch.ones(1)
            optimizer.step()
        assert [g["lrkit_base_lr"] for g in optimizer.param_groups] == pytest.approx([0.1] * 4)
        assert float(optimizer.defaults["lr"]) == pytest.approx(0.1)

    @pytest.mark.parametrize("keys", [{"weight_decay": "linear 12"}, {"lr": "linear 12", "weight_decay": "linear 12"}])
    def test_a_dry_step_is_known_whatever_is_driven_and_after_a_broken_closure(self, keys):
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        model, optimizer = build("adamw")
        attachment = attach(optimizer, **keys)

        def broken():
            raise RuntimeError("no loss today")

        with pytest.raises(RuntimeError, match="no loss today"):
            optimizer.step(broken)
        get_optimizer_state_dict(model, optimizer)
        assert attachment.step == 0

    @pytest.mark.parametrize("base", [-1.0, float("nan"), float("inf"), True, None, "x", [0.1, 0.2]])
    def test_rebase_takes_only_rates_and_changes_nothing_otherwise(self, base):
        _, optimizer = build("adam")
        attachment = attach(optimizer, lr="linear 10")
        with pytest.raises(InputError, match="rebase"):
            attachment.rebase(lr=base)
        assert optimizer.param_groups[0]["lr"] == 0.1

    def test_a_detached_attachment_says_so(self):
        attachment = attach(build("adam")[1], lr="linear 10")
        attachment.detach()
        for call in (attachment.values, attachment.detach, attachment.rebase):
            with pytest.raises(StateError, match="has been detached"):
                call()

    def test_a_torch_scheduler_made_afterwards_is_refused_at_the_next_step(self):
        model, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        torch.optim.lr_scheduler.StepLR(optimizer, 3)
        with pytest.raises(StateError, match="a torch scheduler has been made on it"):
            train(model, optimizer, 0, 1)

    @pytest.mark.parametrize("rate", [float("nan"), float("inf")])
    def test_a_base_that_is_no_rate_is_refused(self, rate):
        _, optimizer = build("adam")
        optimizer.param_groups[0]["lr"] = rate
        with pytest.raises(InputError, match="must be finite and at least 0"):
            attach(optimizer, lr="linear 10")


class TestAbsoluteValuesAndUnits:
    def test_an_absolute_schedule_sets_every_group_to_its_values(self):
        a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([{"params": [a], "lr": 0.5}, {"params": [b], "lr": 0.1}], lr=1.0)
        attachment = attach(optimizer, lr="base 0.2 (linear 4)")
        assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]
        optimizer.step()
        assert [values["lr"] for values in attachment.values()] == pytest.approx([0.15, 0.15])

    def test_one_that_turns_negative_is_refused(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        with pytest.raises(InputError, match="falls below 0, and a negative lr climbs the loss"):
            attach(optimizer, lr="base 1 origin -3 (linear 4)")

    def test_tokens_and_samples_are_units_too(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        attachment = attach(optimizer, lr="warmup 1e6tok > cosine 3200samples", tokens_per_step=1e5, samples_per_step=32)
        assert str(attachment.schedules["lr"][None]) == "warmup 10 > cosine 100"
