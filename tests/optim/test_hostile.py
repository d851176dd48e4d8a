"""What an attacker tried: memory that changes its meaning at the same address, failures in the middle, checkpoints of others."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from lrkit import clip, optim
from lrkit.errors import InputError, StateError


def weight(n=4, start=1.0, dtype=torch.float32):
    return nn.Parameter(torch.full((n,), start, dtype=dtype))


class TestMemory:
    def test_of_a_subclass_is_not_walked(self):
        """It may have none of its own: to take its address ends the process."""
        p = nn.Parameter(TwoTensor(torch.ones(5), torch.ones(5)))
        optimizer = optim.Adam([p], lr=0.1)
        p.grad = TwoTensor(torch.ones(5), torch.ones(5))
        optimizer.step()
        torch.testing.assert_close(p.detach().a, torch.full((5,), 0.9))

    @pytest.mark.parametrize("turn", [lambda b: b[:1].expand(4), lambda b: b[::2]], ids=["expanded", "strided"])
    def test_of_a_gradient_in_another_order_at_the_same_address_is_noticed(self, turn):
        buffer, p = torch.arange(1.0, 9.0), weight()
        optimizer = optim.SGD([p], lr=0.1)
        p.grad = buffer[:4]
        optimizer.step()
        p.grad = turn(buffer)
        expected = p.detach() - 0.1 * p.grad
        optimizer.step()
        torch.testing.assert_close(p.detach(), expected)

    @pytest.mark.parametrize("part", [slice(0, 2), slice(0, 8, 2)], ids=["shorter", "strided"])
    def test_that_is_no_longer_the_parameters_is_not_written(self, part):
        memory = torch.zeros(8)
        p = nn.Parameter(memory[:4])
        optimizer = optim.SGD([p], lr=0.1)
        p.grad = gradient = torch.ones(4)
        optimizer.step()
        p.grad = None
        p.data = memory[part]
        p.grad = gradient[: p.numel()]
        expected = memory.clone()
        expected[part] -= 0.1
        optimizer.step()
        torch.testing.assert_close(memory, expected)

    def test_that_is_negated_lazily_has_its_sign(self):
        p = weight()
        optimizer = optim.SGD([p], lr=0.1)
        p.grad = torch._neg_view(torch.ones(4))
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.full((4,), 1.1))

    def test_of_a_conjugate_gradient_is_conjugate(self):
        p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        optimizer = optim.SGD([p], lr=1.0)
        p.grad = torch.tensor([1 + 2j, 3j]).conj()
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.tensor([-1 + 2j, 3j]))


class TestFailures:
    def test_in_the_middle_are_not_counted(self, monkeypatch):
        """A float32 and a float64 parameter are two buckets; the second one's kernel is interrupted."""
        a, b = weight(), weight(dtype=torch.float64)
        optimizer = optim.NAdam([a, b])
        for p in (a, b):
            p.grad = torch.ones_like(p)
        optimizer.step()
        import lrkit.optim.optimizer as module

        honest = module.run

        def interrupted(bucket, *rest):
            if bucket.p[0].dtype == torch.float64:
                raise KeyboardInterrupt
            honest(bucket, *rest)

        monkeypatch.setattr(module, "run", interrupted)
        before = {name: one.clone() for name, one in optimizer.state[b].items()}
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
        assert all(torch.equal(one, optimizer.state[b][name]) for name, one in before.items())
        assert float(optimizer.state[a]["step"]) == 2

    def test_that_can_be_foreseen_come_before_anything_has_moved(self):
        dense, table = weight(), nn.Embedding(4, 2, sparse=True)
        optimizer = optim.SGD([dense, table.weight], lr=0.1, weight_decay=0.1)
        dense.grad = torch.ones(4)
        table(torch.tensor([1])).sum().backward()
        with pytest.raises(InputError, match="a sparse gradient came"):
            optimizer.step()
        assert torch.equal(dense.detach(), torch.ones(4))
        assert not any(bucket.g for ledger in optimizer._ledgers for bucket in ledger.made())  # nor is a gradient kept

    @pytest.mark.parametrize("change", [{"eps": None}, {"weight_decay": math.nan}, {"lr": math.inf}], ids=str)
    def test_of_groups_edited_by_hand_are_one_sentence(self, change):
        p = weight()
        optimizer = optim.AdamW([p])
        optimizer.param_groups[0].update(change)
        p.grad = torch.ones(4)
        with pytest.raises(InputError, match="Look at the group's hyperparameters"):
            optimizer.step()
        assert torch.equal(p.detach(), torch.ones(4)) and float(optimizer.state[p]["step"]) == 0

    def test_leave_no_group_behind(self):
        optimizer = optim.Adam([weight()])
        with pytest.raises(InputError, match="Invalid learning rate"):
            optimizer.add_param_group({"params": [weight()], "lr": 10**400})
        assert len(optimizer.param_groups) == 1


class TestCheckpoints:
    @pytest.mark.parametrize("other", [optim.Momentum, optim.RMSprop, optim.AdaBelief, optim.Adagrad])
    def test_of_another_rule_are_refused(self, other):
        p = weight()
        theirs = other([p], lr=0.1)
        p.grad = torch.ones(4)
        theirs.step()
        ours = optim.Adam([p], lr=0.2)
        with pytest.raises(StateError, match="it is of another rule"):
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        assert ours.param_groups[0]["lr"] == 0.2

    def test_of_another_model_are_refused(self):
        small, large = weight(1), weight(3)
        theirs = optim.Adam([small])
        small.grad = torch.ones(1)
        theirs.step()
        with pytest.raises(StateError, match=r"has the shape \(1,\), its parameter \(3,\): it is of another model"):
            optim.Adam([large]).load_state_dict(theirs.state_dict())

    @pytest.mark.parametrize("nothing", [{}, None, [1]], ids=str)
    def test_that_are_none_are_refused(self, nothing):
        with pytest.raises(InputError, match="no optimizer's state"):
            optim.Adam([weight()]).load_state_dict(nothing)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: optim.SGD([weight()], dampening=math.nan), "Invalid dampening value"),
        (lambda: optim.SGD([nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)]), "cannot move by fractions"),
        (lambda: optim.Adam([weight()], maximize="no"), "maximize must be True or False"),
        (lambda: optim.Adam([weight()], lr=torch.tensor(1j)), "Invalid learning rate"),
        (lambda: optim.Optimizer([weight()], factor=optim.factor.Rectified), "Did you mean Rectified"),
        (lambda: optim.Optimizer([weight()], direction=0), "must be a part of lrkit.optim.direction"),
        (lambda: optim.Optimizer([weight()], scale=optim.scale.Average(1.0)), "must be below 1"),
        (lambda: optim.Adam([weight()], capturable=True, stochastic_rounding=True), "Leave one out"),
        (lambda: optim.Adam([weight()], capturable=True, clip=clip.norm(1.0)), "Leave one out"),
    ],
)
def test_bad_input_is_one_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_a_factor_that_is_no_number_is_refused_before_anything_moves():
    p = weight()
    optimizer = optim.Optimizer([p], factor=lambda t: math.nan)
    p.grad = torch.ones(4)
    with pytest.raises(InputError, match="factor must be a finite number"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4))
