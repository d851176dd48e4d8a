"""Every key of every group can be driven, each by its own schedule, by one attachment or by several."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from binding.test_attach import DATA, build, train
from lrkit import attach, find, groups
from lrkit.binding.attach import attached
from lrkit.errors import InputError, StateError


def two_groups(kind=torch.optim.SGD, **options):
    """An optimizer with groups named head and body."""
    head, body = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    named = [{"params": [head], "lr": 1.0, "name": "head"}, {"params": [body], "lr": 0.1, "name": "body"}]
    return kind(named, **options)


def step(optimizer, times=1):
    """Updates with a gradient of ones."""
    for _ in range(times):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()


class TestKeys:
    def test_each_numeric_key_of_adam(self):
        optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.01)
        optimizer.param_groups[0]["temperature"] = 4.0
        keys = {"lr": 0.1, "betas[0]": 0.8, "betas[1]": 0.9, "eps": 1e-6, "weight_decay": 0.01, "temperature": 4.0}
        attachment = attach(optimizer, **dict.fromkeys(keys, "linear 10"))
        step(optimizer, 5)
        assert attachment.values() == [{key: base * 0.5 for key, base in keys.items()}]
        group = optimizer.param_groups[0]
        assert group["betas"] == (0.4, 0.45) and group["eps"] == 5e-7 and group["temperature"] == 2.0

    def test_a_beta_changes_the_update_as_by_hand(self):
        parameter, twin = (nn.Parameter(torch.ones(3)) for _ in range(2))
        optimizer, by_hand = (torch.optim.Adam([p], lr=0.1) for p in (parameter, twin))
        attach(optimizer, **{"betas[0]": "linear 8 to 0.5"})
        for t in range(8):
            by_hand.param_groups[0]["betas"] = (0.9 * (1 - 0.5 * t / 8), 0.999)
            parameter.grad, twin.grad = (torch.full((3,), float(t - 3)) for _ in range(2))
            optimizer.step()
            by_hand.step()
            assert torch.allclose(parameter, twin, rtol=0, atol=1e-7)

    def test_betas_that_are_tensors_are_written_in_place_and_shared_with_nobody(self):
        betas = (torch.tensor(0.9), torch.tensor(0.999))
        parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        optimizer = torch.optim.Adam([{"params": [p]} for p in parameters], lr=torch.tensor(0.1), betas=betas, capturable=False)
        attach(optimizer, **{"betas[0]": "linear 10", "lr": "linear 10"})
        held = [group["betas"][0] for group in optimizer.param_groups]
        assert held[0] is not held[1] and held[0] is not betas[0]
        for group in optimizer.param_groups:
            group["lr"].fill_(0.05)  # by a foreign hand; the next update brings it back
        step(optimizer)
        assert all(group["betas"][0] is one for group, one in zip(optimizer.param_groups, held, strict=True))
        assert [float(one) for one in held] == pytest.approx([0.81, 0.81]) and float(betas[0]) == pytest.approx(0.9)

    @pytest.mark.parametrize("field", ["lr", "weight_decay", "eps"])
    def test_a_foreign_write_to_a_driven_key_is_overruled_by_the_next_update(self, field):
        _, optimizer = build("adamw")
        attachment = attach(optimizer, **{field: "constant"})
        base = attachment.values()[0][field]
        optimizer.param_groups[0][field] = 7.0
        step(optimizer)
        assert optimizer.param_groups[0][field] == base and attachment.step == 1

    def test_keys_that_are_not_driven_are_left_alone(self):
        _, optimizer = build("adamw")
        attach(optimizer, lr="linear 10")
        optimizer.param_groups[0]["weight_decay"] = 0.5
        step(optimizer, 2)
        assert optimizer.param_groups[0]["weight_decay"] == 0.5

    @pytest.mark.parametrize(
        "key", ["betas", "nesterov", "foreach", "params", "lrkit_step", "betas[2]", "beta1", "learning_rate"]
    )
    def test_what_is_no_number_is_refused_with_the_numbers_there_are(self, key):
        _, optimizer = build("adamw")
        with pytest.raises(InputError, match=r"has no number '.*It has lr") as caught:
            attach(optimizer, **{key: "constant"})
        assert "betas[0], betas[1], eps" in str(caught.value)

    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            ("beta[0]", r"betas\[0\]"), ("beta1", r"betas\[0\]"), ("momentum", r"betas\[0\]"), ("beta2", r"betas\[1\]"),
            ("wd", "weight_decay"), ("weight_dekay", "weight_decay"), ("learning_rate", "lr"),
        ],
    )  # fmt: skip
    def test_the_key_that_was_meant_is_named(self, key, meant):
        with pytest.raises(InputError, match=f"Did you mean '{meant}'"):
            attach(build("adamw")[1], **{key: "constant"})

    def test_a_beta_that_would_reach_one_is_refused(self):
        with pytest.raises(InputError, match=r"takes betas\[0\] to 1.08, and a beta stays below 1"):
            attach(build("adamw")[1], **{"betas[0]": "linear 10 from 1.2 to 1"})

    @pytest.mark.parametrize("spec", [{"head": "linear 10"}, {"head": "linear 10", "body": "linear 10"}])
    def test_a_named_group_whose_base_is_zero_is_refused(self, spec):
        optimizer = two_groups()
        optimizer.param_groups[0]["lr"] = 0.0
        with pytest.raises(InputError, match=r"lr is 0 in group 'head', and 0 × a factor stays 0"):
            attach(optimizer, lr=spec)
        assert not any(key.startswith("lrkit_") for group in optimizer.param_groups for key in group)

    def test_a_group_without_decay_stays_without(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        optimizer = torch.optim.AdamW(groups.no_decay(model, weight_decay=0.1), lr=0.1)
        attach(optimizer, weight_decay="linear 10")
        step(optimizer, 5)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]

    def test_a_name_drives_what_lies_under_it(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        split = groups.no_decay(groups.head_and_backbone(model, head="1", lr=1.0, backbone_lr=0.1), weight_decay=0.1)
        optimizer = torch.optim.AdamW(split)
        attach(optimizer, lr={"head": "constant at 0.5"})
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates == {"backbone": 0.1, "backbone/no_decay": 0.1, "head": 0.5, "head/no_decay": 0.5}

    def test_a_name_drives_the_layers_under_it_and_none_all_others(self):
        optimizer = two_groups()
        for group, name in zip(optimizer.param_groups, ("vit.blocks.3/no_decay", "head"), strict=True):
            group["name"] = name
        attachment = attach(optimizer, lr={"vit": "constant at 0.5", None: "constant at 0.25"})
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.025]
        assert "'vit': 'constant at 0.5'" in repr(attachment) and "None: 'constant at 0.25'" in repr(attachment)

    def test_a_longer_name_wins_over_the_one_it_lies_under(self):
        optimizer = two_groups()
        optimizer.param_groups[1]["name"] = "head/deep"
        attach(optimizer, lr={"head": "constant at 0.5", "head/deep": "constant at 0.25"})
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.025]


class TestSeveralAttachments:
    def test_share_the_step_and_drive_each_its_own(self):
        model, optimizer = build("adamw")
        rate = attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 3)
        decay = attach(optimizer, weight_decay="linear 10")
        train(model, optimizer, 3, 5)
        assert rate.step == decay.step == 5
        assert (rate.values(), decay.values()) == ([{"lr": 0.05}], [{"weight_decay": 0.005}])
        assert attached(optimizer) == [rate, decay]

    def test_one_can_go_and_the_other_stays(self):
        model, optimizer = build("adamw")
        rate, decay = attach(optimizer, lr="linear 10"), attach(optimizer, weight_decay="linear 10")
        train(model, optimizer, 0, 5)
        rate.detach()
        assert optimizer.param_groups[0]["lr"] == 0.1 and "lrkit_base_lr" not in optimizer.param_groups[0]
        train(model, optimizer, 5, 6)
        assert decay.values() == [{"weight_decay": pytest.approx(0.004)}]
        decay.detach()
        assert not any(key.startswith("lrkit_") for key in optimizer.param_groups[0])

    def test_two_on_one_key_are_refused(self):
        _, optimizer = build("adamw")
        attach(optimizer, lr="linear 10")
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(
            StateError, match=r"lr is driven already, by .linear 10.. Use replace on that attachment, or detach it"
        ):
            attach(optimizer, weight_decay="linear 10", lr="constant")
        assert optimizer.state_dict() == before

    def test_another_step_is_refused(self):
        model, optimizer = build("adamw")
        attach(optimizer, lr="linear 10")
        train(model, optimizer, 0, 2)
        with pytest.raises(StateError, match=r"what is attached already has counted 2 updates"):
            attach(optimizer, weight_decay="linear 10", step=5)
        assert attach(optimizer, weight_decay="linear 10", step=2).step == 2

    @pytest.mark.parametrize("order", ["attach then load", "load then attach"])
    def test_resume_together(self, order):
        def both(optimizer):
            return attach(optimizer, lr="linear 12"), attach(optimizer, **{"betas[0]": "linear 12", "weight_decay": "cosine 12"})

        model, optimizer = build("adamw")
        both(optimizer)
        reference = train(model, optimizer, 0, 12)
        first, before = build("adamw")
        both(before)
        train(first, before, 0, 5)
        again, resumed = build("adamw")
        again.load_state_dict(first.state_dict())
        if order == "attach then load":
            both(resumed)
        resumed.load_state_dict(before.state_dict())
        if order == "load then attach":
            both(resumed)
        assert train(again, resumed, 5, 12) == reference[5:]
        assert torch.equal(again.weight, model.weight) and resumed.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]

    def test_what_is_on_record_and_not_attached_is_missed_before_the_first_update(self):
        model, optimizer = build("adamw")
        attach(optimizer, lr="linear 10", weight_decay="linear 10")
        train(model, optimizer, 0, 3)
        again, resumed = build("adamw")
        resumed.load_state_dict(optimizer.state_dict())
        attach(resumed, lr="linear 10")
        before = again.weight.detach().clone()
        with pytest.raises(StateError, match="weight_decay was driven by 'linear 10', now nothing drives it"):
            train(again, resumed, 3, 4)
        assert torch.equal(again.weight, before)
        attach(resumed, weight_decay="linear 10")
        train(again, resumed, 3, 4)
        assert resumed.param_groups[0]["weight_decay"] == pytest.approx(0.006)


class TestHardCases:
    def test_a_whole_numbers_tensor_is_refused(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=torch.tensor(1))
        with pytest.raises(InputError, match=r"lr of group 0 is a tensor of whole numbers. Make it a float's"):
            attach(optimizer, lr="linear 4")

    def test_one_item_has_one_name(self):
        _, optimizer = build("adamw")
        attach(optimizer, **{"betas[0]": "constant"})
        with pytest.raises(StateError, match="is driven already"):
            attach(optimizer, **{"betas[00]": "constant"})

    def test_the_record_cannot_be_driven(self):
        _, optimizer = build("adamw")
        attach(optimizer, lr="constant")
        with pytest.raises(InputError, match="has no number 'lrkit_base_lr'"):
            attach(optimizer, lrkit_base_lr="linear 4")

    @pytest.mark.parametrize("bases", [{"betas[0]": 1.5}, {"lr": {"head": 0.0}}, {"lr": {"body": 5.0}}])
    def test_a_base_that_attach_would_refuse_is_refused(self, bases):
        optimizer = two_groups(torch.optim.Adam)
        attachment = attach(optimizer, lr={"head": "linear 10"}, **{"betas[0]": "constant"})
        before = copy.deepcopy(optimizer.state_dict()["param_groups"])
        with pytest.raises(InputError, match="rebase"):
            attachment.rebase(**bases)
        assert optimizer.state_dict()["param_groups"] == before

    def test_the_finders_rate_is_refused_for_absolute_values(self):
        model, optimizer = build("adam")
        attach(optimizer, lr="base 0.05 (cosine 12)")
        found = find(model, optimizer, lambda m, b: m(b).square().mean(), [DATA[t] for t in range(12)], steps=12, budget=4)
        if not found.found:
            found = dataclasses.replace(found, status="ok", lr=0.1)
        with pytest.raises(InputError, match="has absolute values"):
            found.apply(optimizer)

    @pytest.mark.parametrize("how", ["a late group stands first", "all groups are new"])
    def test_the_step_is_not_lost_with_the_first_group(self, how):
        model, optimizer = build("adam")
        attachment = attach(optimizer, lr="linear 12")
        train(model, optimizer, 0, 8)
        if how == "all groups are new":
            optimizer.param_groups.clear()
            optimizer.add_param_group({"params": list(model.parameters()), "lr": 0.1})
        else:
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.1})
            optimizer.param_groups.insert(0, optimizer.param_groups.pop())
            attach(optimizer, eps="constant")  # nor is it by a second attachment, which comes before the next update
        train(model, optimizer, 8, 9)
        assert attachment.step == 9
