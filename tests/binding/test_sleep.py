"""A group whose rate is held at 0 sleeps until its turn: nothing moves, nothing is computed for it, nothing is kept."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

from binding.test_attach import through_a_file
from lrkit import attach, find, parse
from lrkit.binding.controllers import DivergenceGuard
from lrkit.binding.sleep import sleeps_until
from lrkit.snapshot import preserved

TEXT = {"body": "hold 4 at 0 > warmup 2 > cosine 6", "head": "warmup 2 > cosine 10"}
DATA = torch.randn(12, 8, 3, generator=torch.Generator().manual_seed(1))


def build(kind=torch.optim.AdamW, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    named = [
        {"params": list(model[0].parameters()), "lr": 0.01, "name": "body"},
        {"params": list(model[2].parameters()), "lr": 0.1, "name": "head"},
    ]
    return model, kind(named, **options)


def train(model, optimizer, start, stop):
    for t in range(start, stop):
        optimizer.zero_grad()
        model(DATA[t]).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("hold 4 at 0 > warmup 2 > cosine 6", 4), ("hold 4 at 0 > hold 2 at 0 > linear 5", 6), ("constant at 0", float("inf")),
        ("warmup 4 > cosine 6", 0), ("linear 4 to 0 > hold 3 at 0", 0), ("hold 4 at 0.1 > cosine 6", 0),
    ],
)  # fmt: skip
def test_sleep_is_the_hold_at_zero_that_a_schedule_begins_with(text, until):
    assert sleeps_until(parse(text)) == until


class TestASleepingGroup:
    def test_is_neither_computed_nor_moved_nor_remembered(self):
        model, optimizer = build()
        before = model[0].weight.detach().clone()
        attach(optimizer, lr=TEXT)
        train(model, optimizer, 0, 4)
        assert torch.equal(model[0].weight, before) and not torch.equal(model[2].weight, build()[0][2].weight)
        assert model[0].weight not in optimizer.state and model[0].weight.grad is None

    def test_wakes_when_its_turn_has_come(self):
        model, optimizer = build()
        before = model[0].weight.detach().clone()
        attach(optimizer, lr=TEXT)
        assert not model[0].weight.requires_grad
        train(model, optimizer, 0, 4)
        assert model[0].weight.requires_grad
        train(model, optimizer, 4, 5)
        assert not torch.equal(model[0].weight, before)

    def test_moves_afterwards_as_one_that_had_no_gradient_until_then(self):
        model, optimizer = build()
        attach(optimizer, lr=TEXT)
        train(model, optimizer, 0, 12)
        twin, by_hand = build()
        for t in range(12):
            by_hand.zero_grad()
            twin(DATA[t]).square().mean().backward()
            for group, base in zip(by_hand.param_groups, (0.01, 0.1), strict=True):
                group["lr"] = parse(TEXT[group["name"]])(t) * base
            if t < 4:
                twin[0].weight.grad = twin[0].bias.grad = None
            by_hand.step()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))

    def test_gradients_left_over_are_not_applied(self):
        model, optimizer = build(torch.optim.SGD)
        before = model[0].weight.detach().clone()
        model(DATA[0]).square().mean().backward()
        attach(optimizer, lr=TEXT)
        optimizer.step()
        assert torch.equal(model[0].weight, before)

    @pytest.mark.parametrize("cut", [1, 3, 4, 5, 9])
    @pytest.mark.parametrize("order", ["attach then load", "load then attach"])
    def test_is_resumed_exactly(self, cut, order):
        whole, optimizer = build()
        attach(optimizer, lr=TEXT)
        train(whole, optimizer, 0, 12)
        model, before = build()
        attach(before, lr=TEXT)
        train(model, before, 0, cut)
        saved = through_a_file({"model": model.state_dict(), "optimizer": before.state_dict()})
        again, resumed = build()
        again.load_state_dict(saved["model"])
        if order == "attach then load":
            attach(resumed, lr=TEXT)
        resumed.load_state_dict(saved["optimizer"])
        if order == "load then attach":
            attach(resumed, lr=TEXT)
        train(again, resumed, cut, 12)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))

    def test_wakes_when_it_is_detached(self):
        model, optimizer = build()
        attach(optimizer, lr=TEXT).detach()
        assert all(p.requires_grad for p in model.parameters())

    def test_what_was_frozen_by_hand_stays_so(self):
        model, optimizer = build()
        model[0].bias.requires_grad_(False)
        attach(optimizer, lr=TEXT)
        train(model, optimizer, 0, 5)
        assert model[0].weight.requires_grad and not model[0].bias.requires_grad

    def test_where_all_would_sleep_nobody_does(self):
        model, optimizer = build()
        attachment = attach(optimizer, lr="hold 3 at 0 > cosine 9")
        train(model, optimizer, 0, 5)
        assert attachment.step == 5

    def test_is_awake_while_the_finder_looks_for_a_rate(self):
        model, optimizer = build()
        attach(optimizer, lr=TEXT)
        seen = set()

        def loss(net, batch):
            seen.add(net[0].weight.requires_grad)
            return net(batch).square().mean()

        find(model, optimizer, loss, [DATA[t] for t in range(12)], steps=12, max_steps=6, budget=3)
        assert seen == {True}
        assert not model[0].weight.requires_grad


class TestHardCases:
    """Whoever drives the model next finds out who froze what."""

    def wakes(self, model, optimizer, start=2):
        before = model[0].weight.detach().clone()
        train(model, optimizer, start, 6)
        assert model[0].weight.requires_grad and not torch.equal(before, model[0].weight)

    def test_a_new_optimizer_of_the_same_model(self):
        model, optimizer = build()
        attach(optimizer, lr=TEXT)
        train(model, optimizer, 0, 2)
        again = torch.optim.AdamW([{"params": g["params"], "lr": 0.01, "name": g["name"]} for g in optimizer.param_groups])
        attach(again, lr=TEXT, step=2)
        self.wakes(model, again)

    def test_copies_of_model_and_optimizer(self):
        pair = build()
        attach(pair[1], lr=TEXT)
        train(*pair, 0, 2)
        for copied in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
            attach(copied[1], lr=TEXT)
            self.wakes(*copied)

    def test_nobody_after_the_driven_optimizer_is_gone(self):
        model, optimizer = build()
        attach(optimizer, lr=TEXT)
        del optimizer
        gc.collect()
        assert all(p.requires_grad for p in model.parameters())

    def test_a_snapshot_of_sleep_put_back_when_all_are_awake(self):
        model, optimizer = build()
        attach(optimizer, lr=TEXT)
        train(model, optimizer, 0, 2)
        with preserved(model, optimizer):
            train(model, optimizer, 2, 8)
        assert not model[0].weight.requires_grad
        self.wakes(model, optimizer)

    def test_a_guard_that_goes_back_beyond_the_turn(self):
        model, optimizer = build()
        attachment = attach(optimizer, lr=TEXT, controllers=DivergenceGuard(model))
        train(model, optimizer, 0, 6)
        attachment.report(loss=float("nan"))
        assert attachment.step == 0 and not model[0].weight.requires_grad
        train(model, optimizer, 0, 4)
        self.wakes(model, optimizer, 4)

    def test_a_head_that_was_frozen_by_hand_keeps_the_body_awake(self):
        model, optimizer = build()
        model[2].requires_grad_(False)
        attach(optimizer, lr=TEXT)
        train(model, optimizer, 0, 6)
        assert model[0].weight.requires_grad

    def test_absolute_values_sleep_as_factors_do(self):
        assert sleeps_until(parse("base 0.1 (hold 4 at 0 > cosine 6)")) == 4

    def test_no_state_dict_carries_the_mark(self):
        _, optimizer = build()
        attach(optimizer, lr=TEXT)
        assert optimizer.param_groups[0]["lrkit_asleep"] == "11"
        assert "lrkit_asleep" not in optimizer.state_dict()["param_groups"][0]
