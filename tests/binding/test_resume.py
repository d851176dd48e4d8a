"""Another schedule on resume is refused with the difference named, or one of the two wins; and replacing one in mid-run."""

import copy

import pytest
import torch
from torch import nn

from binding.test_attach import STEPS, build, through_a_file, train
from binding.test_keys import step, two_groups
from lrkit import attach, custom, parse
from lrkit.errors import InputError, StateError

ORDERS = pytest.mark.parametrize("order", ["attach then load", "load then attach"])


def resumed(order, saved, name="adamw", **given):
    """A new optimizer that takes up a saved one, and its attachment."""
    model, optimizer = build(name)
    if order == "attach then load":
        attachment = attach(optimizer, **given)
        optimizer.load_state_dict(saved)
    else:
        optimizer.load_state_dict(saved)
        attachment = attach(optimizer, **given)
    return model, optimizer, attachment


def saved_after(updates, name="adamw", **given):
    """The state dict of a run of so many updates, and its rates."""
    model, optimizer = build(name)
    attach(optimizer, **given)
    rates = train(model, optimizer, 0, updates)
    return through_a_file(optimizer.state_dict()), rates


@ORDERS
class TestMismatch:
    def test_is_refused_and_names_key_texts_and_the_step_where_they_part(self, order):
        saved, _ = saved_after(3, lr="warmup 2 > cosine 8")
        message = (
            r"lr was 'warmup 2 > cosine 8', now it is 'warmup 2 > cosine 9' \(they part at step 3\). "
            r"Attach the recorded one, or say attach\(…, on_mismatch='keep'\)"
        )
        with pytest.raises(StateError, match=message):
            resumed(order, saved, lr="warmup 2 > cosine 9")

    def test_names_the_group(self, order):
        optimizer = two_groups()
        attach(optimizer, lr={"head": "linear 10", "body": "linear 10"})
        step(optimizer, 2)
        other = two_groups()
        with pytest.raises(StateError, match=r"lr of group 'body' was 'linear 10', now it is 'linear 20'"):
            if order == "attach then load":
                attach(other, lr={"head": "linear 10", "body": "linear 20"})
            other.load_state_dict(optimizer.state_dict())
            attach(other, lr={"head": "linear 10", "body": "linear 20"})

    def test_a_key_more_is_refused(self, order):
        saved, _ = saved_after(3, lr="linear 10")
        with pytest.raises(StateError, match=r"weight_decay was not driven, now it is by 'linear 10'"):
            resumed(order, saved, lr="linear 10", weight_decay="linear 10")

    def test_a_key_less_is_refused_before_the_first_update(self, order):
        saved, _ = saved_after(3, lr="linear 10", weight_decay="linear 10")
        with pytest.raises(StateError, match=r"weight_decay was driven by 'linear 10', now nothing drives it"):
            model, optimizer, _ = resumed(order, saved, lr="linear 10")
            train(model, optimizer, 3, 4)

    def test_keep_goes_on_with_the_recorded_one(self, order):
        saved, _ = saved_after(3, lr="linear 10", weight_decay="linear 10")
        model, optimizer, attachment = resumed(order, saved, lr="linear 20", weight_decay="linear 10", on_mismatch="keep")
        assert str(attachment.schedules["lr"][None]) == "linear 10"
        assert train(model, optimizer, 3, 5) == pytest.approx([0.07, 0.06])
        assert attachment.step == 5

    def test_replace_lets_the_new_one_take_over_on_the_recorded_base(self, order):
        saved, _ = saved_after(3, lr="linear 10")
        model, optimizer, attachment = resumed(order, saved, lr="linear 20", on_mismatch="replace")
        assert train(model, optimizer, 3, 5) == pytest.approx([0.1 * 17 / 20, 0.1 * 16 / 20])
        again = optimizer.state_dict()
        assert resumed(order, again, lr="linear 20")[2].step == attachment.step == 5

    def test_replace_by_one_that_is_too_short_is_refused(self, order):
        saved, _ = saved_after(8, lr="linear 10")
        with pytest.raises(InputError, match=r"'linear 5' plans 5 updates, and 8 are done"):
            resumed(order, saved, lr="linear 5", on_mismatch="replace")

    @pytest.mark.parametrize("mode", ["keep", "replace"])
    def test_what_is_on_record_and_not_attached_follows_the_mode(self, order, mode):
        saved, _ = saved_after(5, lr="linear 10", weight_decay="linear 10")
        model, optimizer, _ = resumed(order, saved, lr="linear 10", on_mismatch=mode)
        train(model, optimizer, 5, 6)
        group = optimizer.param_groups[0]
        assert group["weight_decay"] == (pytest.approx(0.004) if mode == "keep" else 0.01)
        assert ("lrkit_base_weight_decay" in group) == (mode == "keep")

    def test_keeping_a_function_is_refused_for_it_cannot_be_read_back(self, order):
        saved, _ = saved_after(3, lr=custom(lambda t: 1 / (1 + t), 10, "mine"))
        with pytest.raises(InputError, match=r"'custom mine 10', recorded for lr, cannot be read back. Attach it as it was"):
            resumed(order, saved, lr="linear 10", on_mismatch="keep")
        assert resumed(order, saved, lr=custom(lambda t: 1 / (1 + t), 10, "mine"))[2].step == 3

    def test_a_refused_load_changes_nothing(self, order):
        saved, _ = saved_after(3, lr="linear 10")
        _, optimizer = build("adamw")
        attach(optimizer, lr="linear 20")
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(StateError):
            optimizer.load_state_dict(saved)
        assert optimizer.state_dict() == before

    def test_a_run_that_is_over_can_be_resumed_and_holds(self, order):
        saved, _ = saved_after(STEPS, lr="linear 6 to 0.1")
        model, optimizer, attachment = resumed(order, saved, lr="linear 6 to 0.1")
        assert attachment.step == STEPS and train(model, optimizer, 0, 1) == [pytest.approx(0.01)]

    def test_a_template_resolves_to_the_same_record(self, order):
        saved, _ = saved_after(3, lr="warmup 25% > cosine", total=8)
        assert resumed(order, saved, lr="warmup 2 > cosine 6")[2].step == 3


class TestOtherCases:
    def test_an_unknown_way_to_deal_with_it_is_refused(self):
        with pytest.raises(InputError, match=r"on_mismatch='ask'\): must be 'refuse', 'keep' or 'replace'"):
            attach(build("adam")[1], lr="linear 10", on_mismatch="ask")

    def test_a_schedule_shorter_than_the_steps_done_is_refused(self):
        model, optimizer = build("adam")
        train(model, optimizer, 0, 8)
        with pytest.raises(InputError, match=r"attach\(lr=…\): 'linear 5' plans 5 updates, and 8 are done. Make it longer"):
            attach(optimizer, lr="linear 5", step=8)
        assert not any(key.startswith("lrkit_") for key in optimizer.param_groups[0])
        assert attach(optimizer, lr="linear 5 > constant", step=8).step == 8

    def test_a_checkpoint_without_the_named_group_is_refused(self):
        first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        plain = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=0.1).state_dict()
        optimizer = two_groups()
        attach(optimizer, lr={"head": "linear 10"})
        with pytest.raises(InputError, match=r"load_state_dict\(lr=…\): there is no group 'head'"):
            optimizer.load_state_dict(plain)
        assert optimizer.param_groups[0]["name"] == "head"

    def test_a_foreign_record_is_refused(self):
        _, optimizer = build("adam")
        optimizer.param_groups[0]["lrkit_spec"] = "lr: linear 10"
        optimizer.param_groups[0]["lrkit_step"] = 3
        with pytest.raises(InputError, match="which lrkit did not write"):
            attach(optimizer, lr="linear 10")

    def test_a_step_that_a_host_made_an_int_is_read(self):
        saved, _ = saved_after(3, lr="linear 10")
        saved["param_groups"][0]["lrkit_step"] = 3
        _, optimizer, attachment = resumed("attach then load", saved, lr="linear 10")
        assert attachment.step == 3 and isinstance(optimizer.param_groups[0]["lrkit_step"], torch.Tensor)

    def test_a_saved_state_keeps_its_step_while_the_run_goes_on(self):
        model, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 2)
        saved = optimizer.state_dict()
        train(model, optimizer, 2, 5)
        assert int(saved["param_groups"][0]["lrkit_step"]) == 2

    def test_a_late_group_that_was_saved_before_its_first_update_has_its_own_base(self):
        def late(optimizer):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0})

        model, optimizer = build("adam")
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 4)
        late(optimizer)
        saved = optimizer.state_dict()
        for order in ("attach then load", "load then attach"):
            _, other = build("adam")
            late(other)
            if order == "attach then load":
                attach(other, lr="linear 10")
            other.load_state_dict(saved)
            if order == "load then attach":
                attach(other, lr="linear 10")
            assert [group["lr"] for group in other.param_groups] == pytest.approx([0.06, 0.6])


class TestReplace:
    def test_takes_over_at_the_present_step_on_the_present_base(self):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="warmup 5% > cosine", total=20)
        train(model, optimizer, 0, 5)
        attachment.replace(lr="linear", total=10)
        assert attachment.step == 5 and optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
        assert attachment.schedules == {"lr": {None: parse("linear 10")}}
        assert resumed("attach then load", optimizer.state_dict(), "adam", lr="linear 10")[2].step == 5

    def test_remembers_the_clock_of_attach(self):
        _, optimizer = build("adam")
        attachment = attach(optimizer, lr="warmup 5% > cosine", total=20)
        attachment.replace(lr="linear")
        assert attachment.schedules["lr"][None] == parse("linear 20")

    def test_extends_a_run_with_the_past_unchanged(self):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="warmup 2 > cosine 8")
        train(model, optimizer, 0, 6)
        before = attachment.values()[0]["lr"]
        attachment.replace(lr=attachment.schedules["lr"][None].extend(6, 20))
        assert attachment.values()[0]["lr"] == pytest.approx(before) and attachment.schedules["lr"][None].steps == 20

    def test_of_named_groups_lets_go_of_those_left_out(self):
        optimizer = two_groups()
        attachment = attach(optimizer, lr="linear 10")
        step(optimizer, 5)
        attachment.replace(lr={"head": "linear 20"})
        assert [group["lr"] for group in optimizer.param_groups] == [0.75, 0.1]
        assert "lrkit_base_lr" not in optimizer.param_groups[1]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"eps": "linear 10"}, r"replace\(eps=…\): 'eps' is not driven here; driven are lr"),
            ({"lr": "linear 3"}, r"replace\(lr=…\): 'linear 3' plans 3 updates, and 4 are done"),
            ({"lr": {"head": "linear 10"}}, r"replace\(lr=…\): there is no group 'head'"),
            ({"lr": "linaer 10"}, r"replace\(lr=…\): "),
            ({"lr": "base 1 origin -3 (linear 40)"}, "falls below 0"),
        ],
    )
    def test_what_cannot_be_is_refused_and_nothing_changes(self, given, message):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 4)
        before = copy.deepcopy(optimizer.param_groups[0]["lr"]), str(attachment)
        with pytest.raises(InputError, match=message):
            attachment.replace(**given)
        assert (optimizer.param_groups[0]["lr"], str(attachment)) == before


class TestRebase:
    def test_by_names(self):
        optimizer = two_groups()
        attachment = attach(optimizer, lr="linear 10")
        attachment.rebase(lr={"body": 0.5})
        assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.5]
        with pytest.raises(InputError, match=r"rebase\(lr=…\): there is no group 'tail'"):
            attachment.rebase(lr={"tail": 0.5})

    def test_of_absolute_values_is_refused(self):
        _, optimizer = build("adam")
        with pytest.raises(
            InputError, match=r"'base 0.2 \(linear 4\)' has absolute values, which no base multiplies. Use replace"
        ):
            attach(optimizer, lr="base 0.2 (linear 4)").rebase(lr=0.3)

    def test_to_zero_is_refused(self):
        _, optimizer = build("adam")
        with pytest.raises(InputError, match="lr is 0 in every group"):
            attach(optimizer, lr="linear 10").rebase(lr=0.0)


class TestComingFromATorchScheduler:
    """A checkpoint of a run that torch's scheduler drove holds initial_lr: the base that its rates came from."""

    def scheduled(self):
        model, optimizer = build("adam")
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for t in range(5):
            train(model, optimizer, t, t + 1)
            scheduler.step()
        return optimizer

    def test_its_base_is_taken_where_the_updates_done_are_said(self):
        _, optimizer = build("adam")
        optimizer.load_state_dict(self.scheduled().state_dict())
        attachment = attach(optimizer, lr="cosine 12", step=5)
        assert attachment.values()[0]["lr"] == pytest.approx(0.1 * parse("cosine 12")(5))
        assert "initial_lr" not in optimizer.param_groups[0]

    def test_without_them_it_is_refused_with_the_way_to_say_them(self):
        _, optimizer = build("adam")
        optimizer.load_state_dict(self.scheduled().state_dict())
        with pytest.raises(StateError, match=r"say attach\(…, step=updates done\): its initial_lr is the base"):
            attach(optimizer, lr="cosine 12")

    def test_a_scheduler_that_is_there_is_refused_in_any_case(self):
        with pytest.raises(StateError, match="Remove that scheduler"):
            attach(self.scheduled(), lr="cosine 12", step=5)


class TestTheStepThatIsSaid:
    def test_against_the_record_is_refused(self):
        """A script that says step= for its first start would else go back at its second."""
        saved, _ = saved_after(7, lr="linear 10")
        with pytest.raises(StateError, match=r"attach\(step=4\): the optimizer's own record says 7 updates. Leave step out"):
            resumed("load then attach", saved, lr="linear 10", step=4)
        assert resumed("load then attach", saved, lr="linear 10", step=7)[2].step == 7

    def test_that_agrees_lets_another_schedule_in(self):
        saved, _ = saved_after(7, lr="linear 10")
        assert str(resumed("load then attach", saved, lr="cosine 10", step=7)[2].schedules["lr"][None]) == "cosine 10"


class TestEvents:
    def test_who_writes_a_driven_key_is_told_once_and_overruled(self):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="linear 10")
        for t in range(3):
            optimizer.param_groups[0]["lr"] = 7.0
            assert train(model, optimizer, t, t + 1) == [7.0], "what a loop reads before the update"
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.07)
        what = "lr was set to 7 by somebody else; its schedule overrules that with 0.1"
        assert attachment.events == [{"step": 0, "by": "lr", "what": what}]

    def test_loading_is_not_somebody_else(self):
        saved, _ = saved_after(7, lr="linear 10")
        for order in ("attach then load", "load then attach"):
            model, optimizer, attachment = resumed(order, saved, lr="linear 10")
            train(model, optimizer, 7, 9)
            assert attachment.events == []
