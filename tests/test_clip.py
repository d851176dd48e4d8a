"""Gradient clipping: measured like its naive twin in every dtype and layout, written only where it must be, and counted."""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils._python_dispatch import TorchDispatchMode

from lrkit import attach, clip, watch
from lrkit.errors import InputError, StateError

RULES = [clip.norm(0.5), clip.norm(0.5, type=math.inf), clip.norm(0.5, type=3.0), clip.value(0.1), clip.adaptive(0.05)]
SHAPES = [(4, 3), (3, 2, 2, 2), (5,), (), (0,), (2, 0), (1, 6)]
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
}


def tensors(seed, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    real = torch.float64 if not dtype.is_complex else torch.complex128
    return [(scale * torch.randn(shape, generator=generator, dtype=real)).to(dtype) for shape in SHAPES]


def with_gradients(rule, gradients, weights=None):
    """What `apply` makes of these gradients, and its verdict."""
    weights = tensors(0) if weights is None else weights
    parameters = [nn.Parameter(w.clone()) for w in weights]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    verdict = clip.apply(torch.optim.SGD(parameters, lr=0.1), rule)
    return [p.grad for p in parameters], verdict


def naive(rule, weights, gradients):
    """Every formula in the words of its paper, entry by entry and row by row, in float64."""
    wide = [g.to(torch.complex128 if g.is_complex() else torch.float64) for g in gradients]
    if isinstance(rule, clip.Norm):
        entries = [abs(x) for g in wide for x in g.flatten().tolist()]
        size = max(entries) if rule.type == math.inf else sum(x**rule.type for x in entries) ** (1 / rule.type)
        return [g * (rule.limit / size) if size > rule.limit else g for g in wide], size
    if isinstance(rule, clip.Value):
        capped = [torch.tensor([x * min(1.0, rule.limit / abs(x)) for x in g.flatten().tolist()]) for g in wide]
        return [c.reshape(g.shape).to(g.dtype) for c, g in zip(capped, wide, strict=True)], max(
            abs(x) for g in wide for x in g.flatten().tolist()
        )
    clipped, largest = [], 0.0
    for w, g in zip(weights, wide, strict=True):
        rows = [(w, g)] if g.ndim < 2 else list(zip(w, g, strict=True))
        done = []
        for weight, gradient in rows:
            reach = max(math.sqrt(sum(abs(x) ** 2 for x in weight.flatten().tolist())), rule.eps)
            length = math.sqrt(sum(abs(x) ** 2 for x in gradient.flatten().tolist()))
            largest = max(largest, length / reach)
            done.append(gradient * (rule.limit * reach / length) if length / reach > rule.limit else gradient)
        clipped.append(done[0] if g.ndim < 2 else torch.stack(done) if done else g)
    return clipped, largest


@pytest.mark.parametrize("rule", RULES, ids=repr)
class TestEachRule:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
    def test_does_what_its_naive_twin_does(self, rule, dtype):
        weights, gradients = tensors(0, dtype), tensors(1, dtype)
        expected, size = naive(rule, weights, gradients)
        clipped, verdict = with_gradients(rule, gradients, weights)
        assert verdict.finite and verdict.engaged and verdict.size == pytest.approx(size, rel=1e-5)
        for got, want in zip(clipped, expected, strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(got, want.to(dtype), rtol=1.6e-2 if dtype.itemsize == 2 else 1e-5, atol=1e-6)

    def test_leaves_small_gradients_to_the_bit(self, rule):
        gradients = tensors(1, scale=1e-4)
        clipped, verdict = with_gradients(rule, gradients)
        assert verdict[:3] == (True, 1.0, None) and not verdict.engaged
        assert all(map(torch.equal, clipped, gradients))

    def test_judges_without_writing(self, rule):
        weights, gradients = tensors(0), tensors(1)
        before = copy.deepcopy((weights, gradients))
        versions = [t._version for t in weights + gradients]
        rule.judge(weights, gradients)
        assert versions == [t._version for t in weights + gradients]
        assert all(map(torch.equal, weights + gradients, before[0] + before[1]))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_sees_one_entry_of_many_that_is_not_finite(self, rule, bad):
        gradients = tensors(1)
        gradients[1][2, 1, 0, 1] = bad
        clipped, verdict = with_gradients(rule, gradients)
        assert verdict[:3] == (False, 1.0, None) and not verdict.engaged and not math.isfinite(verdict.size)
        assert torch.equal(clipped[0], gradients[0]), "nothing is written"

    def test_waits_for_the_device_once(self, rule):
        class Waits(TorchDispatchMode):
            count = 0

            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                self.count += function is torch.ops.aten._local_scalar_dense.default
                return function(*args, **(kwargs or {}))

        with Waits() as waits:
            assert rule.judge(tensors(0), tensors(1)).engaged
        assert waits.count == 1

    def test_takes_no_gradients_at_all(self, rule):
        assert rule.judge([], []) == (True, 1.0, None, 0.0, False)

    def test_takes_gradients_that_are_all_empty_or_zero(self, rule):
        assert rule.judge([torch.ones(0, 2), torch.ones(3)], [torch.ones(0, 2), torch.zeros(3)]) == (True, 1.0, None, 0.0, False)

    def test_prints_what_can_be_typed(self, rule):
        assert eval(repr(rule), {"clip": clip, "math": math}) == rule  # noqa: S307
        assert str(rule) == repr(rule)

    def test_is_a_value(self, rule):
        for again in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
            assert again == rule and hash(again) == hash(rule)
        with pytest.raises(AttributeError):
            rule.limit = 2.0

    def test_a_sparse_gradient_is_clipped_as_the_dense_one(self, rule):
        weight = torch.arange(12.0).reshape(4, 3) / 10
        indices, values = torch.tensor([[2, 0, 2]]), torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, 0.0], [1.0, -1.0, 1.0]])
        sparse = torch.sparse_coo_tensor(indices, values, (4, 3), check_invariants=True)
        (dense,), expected = with_gradients(rule, [sparse.to_dense()], [weight])
        parameter = nn.Parameter(weight.clone())
        parameter.grad = gradient = sparse.clone()
        verdict = clip.apply(torch.optim.SGD([parameter], lr=0.1), rule)
        assert verdict.size == pytest.approx(expected.size) and verdict.engaged
        assert parameter.grad is gradient and gradient.is_sparse
        torch.testing.assert_close(gradient.to_dense(), dense)
        if isinstance(rule, clip.Adaptive):
            assert verdict.gains[0].shape == (4, 1) and verdict.gains[0][1] == 1.0, "one gain a row of the weight"

    def test_the_same_direction_remains(self, rule):
        """No sign turns, and nothing grows."""
        gradients = tensors(1)
        clipped, _ = with_gradients(rule, gradients)
        for got, g in zip(clipped, gradients, strict=True):
            assert torch.equal(got.sign(), g.sign()) and bool((got.abs() <= g.abs()).all())


class TestNorm:
    def test_is_torchs_own_up_to_its_1e_6(self):
        for seed in range(5):
            gradients = tensors(seed)
            parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g.clone()
            expected = clip_grad_norm_(parameters, 0.5)
            clipped, verdict = with_gradients(clip.norm(0.5), gradients)
            assert verdict.size == pytest.approx(float(expected), rel=1e-6)
            for got, p in zip(clipped, parameters, strict=True):
                torch.testing.assert_close(got, p.grad, rtol=1e-5, atol=0.0)

    def test_divides_by_the_norm_exactly(self):
        verdict = clip.norm(1.0).judge([torch.zeros(2)], [torch.tensor([3.0, 4.0])])
        assert verdict == (True, 0.2, None, 5.0, True)

    def test_at_the_limit_nothing_is_done(self):
        assert not clip.norm(5.0).judge([torch.zeros(2)], [torch.tensor([3.0, 4.0])]).engaged

    @pytest.mark.parametrize(("dtype", "entry"), [(torch.float32, 1e30), (torch.bfloat16, 1e30), (torch.float64, 1e200)])
    @pytest.mark.parametrize("rule", RULES, ids=repr)
    def test_finite_entries_have_a_finite_size_though_their_squares_overflow(self, rule, dtype, entry):
        gradient = torch.full((2, 8), entry, dtype=dtype)
        (clipped,), verdict = with_gradients(rule, [gradient], [torch.ones(2, 8, dtype=dtype)])
        _, size = naive(rule, [torch.ones(2, 8)], [torch.ones(2, 8)])
        assert verdict.finite and verdict.engaged and verdict.size == pytest.approx(size * float(gradient[0, 0]), rel=1e-5)
        assert with_gradients(rule, [clipped], [torch.ones(2, 8, dtype=dtype)])[1].size == pytest.approx(rule.limit, rel=1e-2)

    def test_half_precision_is_summed_in_float32(self):
        verdict = clip.norm(1.0).judge([torch.zeros(4)], [torch.full((4,), 60_000.0, dtype=torch.float16)])
        assert verdict.size == 120_000.0, "beyond float16"

    def test_entries_whose_powers_vanish_still_count(self):
        assert clip.norm(1e-4, type=20.0).judge([torch.zeros(1)], [torch.tensor([1e-3])]).size == pytest.approx(1e-3)
        assert clip.norm(1.0).judge([torch.zeros(2)], [torch.full((2,), 1e-30)]).size == pytest.approx(math.sqrt(2) * 1e-30)

    @given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=20), st.floats(1e-3, 1e3))
    def test_never_exceeds_its_limit(self, entries, limit):
        gradient = torch.tensor(entries, dtype=torch.float64)
        verdict = clip.norm(limit).judge([gradient], [gradient])
        assert verdict.size == pytest.approx(math.hypot(*entries), rel=1e-9)
        assert math.hypot(*(gradient * verdict.gains).tolist()) <= limit * (1 + 1e-12) and verdict.gains <= 1.0


class TestValue:
    def test_bounds_every_entry_and_no_other_is_touched(self):
        (clipped,), verdict = with_gradients(clip.value(1.0), [torch.tensor([-3.0, -1.0, 0.25, 2.0])], [torch.zeros(4)])
        assert clipped.tolist() == [-1.0, -1.0, 0.25, 1.0] and verdict == (True, 1.0, 1.0, 3.0, True)

    def test_a_complex_entry_keeps_its_angle(self):
        gradient = torch.tensor([3 + 4j, 0j])
        (clipped,), _ = with_gradients(clip.value(1.0), [gradient], [gradient])
        torch.testing.assert_close(clipped, torch.tensor([0.6 + 0.8j, 0j]))

    def test_a_limit_beyond_half_precision_is_none_there(self):
        gradients = [torch.ones(2, dtype=torch.float16), torch.full((2,), 1e6)]
        (half, full), _ = with_gradients(clip.value(1e5), gradients, [torch.ones(2, dtype=torch.float16), torch.ones(2)])
        assert half.tolist() == [1.0, 1.0] and full.tolist() == [1e5, 1e5]


class TestAdaptive:
    def test_gains_are_one_a_row_or_one_a_vector(self):
        weights, gradients = tensors(0), tensors(1)
        verdict = clip.adaptive(0.05).judge(weights, gradients)
        assert [tuple(gain.shape) for gain in verdict.gains] == [(4, 1), (3, 1, 1, 1), (), (), (), (2, 1), (1, 1)]

    def test_gains_of_half_precision_are_float32(self):
        verdict = clip.adaptive().judge(tensors(0, torch.bfloat16), tensors(1, torch.bfloat16))
        assert {gain.dtype for gain in verdict.gains} == {torch.float32}

    def test_weights_may_be_as_large_as_their_gradients(self):
        weight, gradient = torch.full((2, 4), 1e30), torch.full((2, 4), 3e30)
        (clipped,), verdict = with_gradients(clip.adaptive(0.5), [gradient], [weight])
        assert verdict.size == pytest.approx(3.0) and verdict.gains[0].dtype == torch.float32
        torch.testing.assert_close(clipped, 0.5 * weight)

    def test_a_weight_at_zero_may_move_by_limit_times_eps(self):
        (clipped,), _ = with_gradients(clip.adaptive(0.1, eps=0.5), [torch.tensor([3.0, 4.0])], [torch.zeros(2)])
        assert float(clipped.norm()) == pytest.approx(0.05)

    def test_after_it_no_row_exceeds_its_limit(self):
        weights = tensors(0, torch.float64)
        clipped, _ = with_gradients(clip.adaptive(0.05), tensors(1, torch.float64), weights)
        assert clip.adaptive(0.05).judge(weights, clipped).size == pytest.approx(0.05, rel=1e-12)

    def test_gradients_sparse_in_two_dimensions_and_sparse_vectors_are_taken(self):
        two = torch.eye(3).to_sparse(2)
        one = torch.tensor([0.0, 3.0, 4.0]).to_sparse()
        (first, second), verdict = with_gradients(clip.adaptive(0.5), [two, one], [torch.ones(3, 3), torch.ones(3)])
        torch.testing.assert_close(first.to_dense(), torch.eye(3) * 0.5 * math.sqrt(3))
        assert verdict.size == pytest.approx(5 / math.sqrt(3)) and float(second.to_dense().norm()) == pytest.approx(
            0.5 * math.sqrt(3)
        )


REFUSALS = [
    (lambda: clip.norm(0), "clip.norm(limit=0): limit must be a finite number above 0, got 0."),
    (lambda: clip.norm(1.0, type=0.5), "clip.norm(type=0.5): type must be a finite number of at least 1, got 0.5."),
    (lambda: clip.value(math.nan), "clip.value(limit=nan): limit must be a finite number above 0, got nan."),
    (lambda: clip.adaptive(eps=0.0), "clip.adaptive(eps=0.0): eps must be a finite number above 0, got 0.0."),
    (lambda: clip.norm(1.0).judge([], [torch.ones(1)]), "clip.norm(1.0).judge: got 1 gradients for 0 parameters. Give one each."),
    (
        lambda: clip.on(torch.optim.SGD([nn.Parameter(torch.ones(1))]), 1.0),
        "clip.on(SGD, 1.0): the second must be a clip. Pass clip.norm(1.0), for example.",
    ),
    (
        lambda: clip.on(nn.Linear(1, 1), clip.norm(1.0)),
        "clip.on(Linear, clip.norm(1.0)): the first must be a torch optimizer that takes its own steps. Pass the one inside.",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSALS, ids=[message[:30] for _, message in REFUSALS])
def test_what_breaks_a_rule_is_refused(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


def test_a_layout_that_nobody_knows_is_refused():
    with pytest.raises(InputError) as caught:
        clip.norm(1.0).judge([torch.ones(2, 2)], [torch.eye(2).to_mkldnn()])
    assert str(caught.value) == "clip: a gradient has the layout torch._mkldnn; dense and sparse COO are known. Make it dense."


def test_an_optimizer_that_clips_itself_is_told_to():
    class Ours(torch.optim.SGD):
        clip = None

    with pytest.raises(InputError, match=r"clip.on\(Ours, clip.norm\(1.0\)\): it clips itself.* Pass clip=clip.norm\(1.0\)"):
        clip.on(Ours([nn.Parameter(torch.ones(1))]), clip.norm(1.0))


# -- at work --------------------------------------------------------------------------------------------------------------------


def build(name="sgd", seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, OPTIMIZERS[name](model.parameters())


def backward(model, t, scaled=lambda loss: loss):
    batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(t))
    scaled((model(batch) - 3.0).square().mean()).backward()


def numbers(tally):
    """All that it counts, for pytest.approx."""
    return {name: value for name, value in tally.as_dict().items() if name != "rule"}


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
class TestOnAnyOptimizer:
    def test_steps_as_if_clipped_before_each_step(self, name):
        one, clipped = build(name)
        two, plain = build(name)
        clipping = clip.on(clipped, clip.norm(0.5))
        for t in range(6):
            for model, optimizer in ((one, clipped), (two, plain)):
                optimizer.zero_grad()
                backward(model, t)
                if optimizer is plain:
                    clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
            for p, q in zip(one.parameters(), two.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        assert clipping.tally.updates == 6 and clipping.tally.engaged > 0

    @pytest.mark.parametrize("order", ["attach first", "clip first"])
    def test_an_update_whose_gradient_is_not_finite_is_no_update(self, name, order):
        """Weights, state and gradients stay as they are, attach does not count it; what follows is as if it had not been."""
        model, optimizer = build(name)
        if order == "attach first":
            attachment = attach(optimizer, lr="linear 10")
            clipping = clip.on(optimizer, clip.norm(0.5))
        else:
            clipping = clip.on(optimizer, clip.norm(0.5))
            attachment = attach(optimizer, lr="linear 10")
        twin, other = build(name)
        attach(other, lr="linear 10")
        clip.on(other, clip.norm(0.5))
        for t, bad in enumerate([False, True, True, False, True, False]):
            optimizer.zero_grad()
            backward(model, t)
            if bad:
                model[0].weight.grad[0, 0] = math.inf
                before, held = weights_of(model), [p.grad for p in model.parameters()]
            else:
                other.zero_grad()
                backward(twin, t)
                other.step()
            optimizer.step()
            if bad:
                assert all(map(torch.equal, before, weights_of(model)))
                assert all(p.grad is g for p, g in zip(model.parameters(), held, strict=True))
        assert attachment.step == 3 and optimizer.param_groups[0]["lr"] == pytest.approx(0.07)
        assert (clipping.tally.updates, clipping.tally.skipped) == (3, 3)
        assert all(map(torch.equal, weights_of(model), weights_of(twin)))

    @pytest.mark.parametrize("rule", RULES, ids=repr)
    def test_under_a_scaler_it_clips_what_the_gradients_really_are(self, name, rule):
        """Fused optimizers get them still scaled."""
        one, scaled = build(name)
        two, plain = build(name)
        clipping, twin = clip.on(scaled, rule), clip.on(plain, rule)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for t in range(4):
            for optimizer in (scaled, plain):
                optimizer.zero_grad()
            backward(two, t)
            plain.step()
            backward(one, t, scaler.scale)
            scaler.step(scaled)
            scaler.update()
        assert clipping.tally.updates == 4 and clipping.tally.engaged > 0
        assert numbers(clipping.tally) == pytest.approx(numbers(twin.tally), rel=1e-4)
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("unscale", [False, True])
    def test_what_the_scaler_skips_is_its_own_affair(self, name, unscale):
        model, optimizer = build(name)
        clipping = clip.on(optimizer, clip.norm(0.5))
        attachment = attach(optimizer, lr="linear 10")
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for t, bad in enumerate([False, True, False]):
            optimizer.zero_grad()
            backward(model, t, scaler.scale)
            if bad:
                model[0].weight.grad.fill_(math.inf)
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert attachment.step == 2 and scaler.get_scale() == 2.0
        assert (clipping.tally.updates, clipping.tally.skipped) == (2, 0)
        assert not hasattr(optimizer, "found_inf") and not hasattr(optimizer, "grad_scale")

    def test_a_gradient_broken_after_the_scaler_looked_is_skipped_here(self, name):
        model, optimizer = build(name)
        clipping = clip.on(optimizer, clip.norm(0.5))
        attachment = attach(optimizer, lr="linear 10")
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        before = weights_of(model)
        backward(model, 0, scaler.scale)
        scaler.unscale_(optimizer)
        model[0].weight.grad[0, 0] = math.nan
        scaler.step(optimizer)
        scaler.update()
        assert attachment.step == 0 and clipping.tally.skipped == 1
        assert all(map(torch.equal, before, weights_of(model)))
        optimizer.zero_grad()
        backward(model, 1, scaler.scale)
        scaler.step(optimizer)
        assert attachment.step == 1 and clipping.tally.updates == 1

    def test_once_removed_it_leaves_no_trace(self, name):
        model, optimizer = build(name)
        clipping = clip.on(optimizer, clip.norm(1e-3))
        backward(model, 0)
        model[0].weight.grad[0, 0] = math.nan
        optimizer.step()
        clipping.remove()
        optimizer.zero_grad()
        backward(model, 1)
        before = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
        assert not hasattr(optimizer, "found_inf") and clipping.tally.updates == 0
        clip.on(optimizer, clip.norm(1.0))

    @pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, when it imports its compiler
    def test_a_compiled_step_is_clipped_and_the_hook_not_traced(self, name):
        import torch._dynamo

        torch._dynamo.reset()
        traced = []
        handle = torch._dynamo.convert_frame.register_bytecode_hook(lambda code, out: traced.append(code.co_filename))
        try:
            one, compiled = build(name)
            two, plain = build(name)
            clipping = clip.on(compiled, clip.norm(0.5))
            clip.on(plain, clip.norm(0.5))
            step = torch.compile(compiled.step, backend="eager")
            for t in range(4):
                for model, optimizer in ((one, compiled), (two, plain)):
                    optimizer.zero_grad()
                    backward(model, t)
                    if t == 2:
                        model[0].weight.grad[0, 0] = math.inf
                    step() if optimizer is compiled else optimizer.step()
        finally:
            handle.remove()
            torch._dynamo.reset()
        assert traced and not [name for name in traced if "lrkit" in name]
        assert (clipping.tally.updates, clipping.tally.skipped) == (3, 1)
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_a_watch_sees_clipped_gradients_and_no_skipped_update(tmp_path):
    model, optimizer = build()
    with watch(model, optimizer, every=1) as w:
        clip.on(optimizer, clip.norm(0.5))
        for t in range(3):
            optimizer.zero_grad()
            backward(model, t)
            if t == 1:
                model[0].weight.grad[0, 0] = math.inf
            w.record(loss=1.0)
            optimizer.step()
    assert w.run.step.tolist() == [0, 1]
    assert w.run["grad_norm"].min() > 0.5, "as it was before clipping"
    assert w.run["clip_factor"] == pytest.approx(0.5 / w.run["grad_norm"])


def test_the_norm_is_over_all_groups_and_frozen_parameters_do_not_count():
    first, second, frozen = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [first, frozen]}, {"params": [second], "lr": 0.2}], lr=0.1)
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    verdict = clip.apply(optimizer, clip.norm(1.0))
    assert verdict.size == 5.0 and frozen.grad is None
    assert (first.grad.item(), second.grad.item()) == (pytest.approx(0.6), pytest.approx(0.8))


def test_gradients_are_clipped_in_place():
    model, optimizer = build()
    backward(model, 0)
    held = [p.grad for p in model.parameters()]
    clip.apply(optimizer, clip.norm(0.1))
    assert all(p.grad is g for p, g in zip(model.parameters(), held, strict=True))
    assert math.sqrt(sum(float(g.square().sum()) for g in held)) == pytest.approx(0.1)


def test_apply_counts_where_it_is_told_to_and_writes_nothing_that_is_not_finite():
    model, optimizer = build()
    tally = clip.Tally(clip.norm(0.1))
    backward(model, 0)
    clip.apply(optimizer, clip.norm(0.1), tally)
    model[0].weight.grad[0, 0] = math.nan
    before = model[0].bias.grad.clone()
    assert not clip.apply(optimizer, clip.norm(0.01), tally).finite
    assert (tally.updates, tally.skipped) == (1, 1) and torch.equal(before, model[0].bias.grad)


@pytest.mark.parametrize("rule", [clip.norm(1.0), clip.value(1.0), clip.adaptive(1.0)], ids=repr)
def test_what_is_judged_of_scaled_gradients_is_said_in_their_real_size(rule):
    weight = nn.Parameter(torch.tensor([0.6, 0.8]))
    weight.grad = 64.0 * torch.tensor([0.0, 4.0])
    optimizer = torch.optim.SGD([weight], fused=True)
    optimizer.grad_scale = torch.tensor(64.0)
    verdict = clip.apply(optimizer, rule)
    assert verdict.size == pytest.approx(4.0) and verdict.bound == (1.0 if isinstance(rule, clip.Value) else None)
    torch.testing.assert_close(weight.grad, 64.0 * torch.tensor([0.0, 1.0]))


def test_inside_a_closure_apply_does_it():
    model, optimizer = build()

    def closure():
        optimizer.zero_grad()
        backward(model, 0)
        clip.apply(optimizer, clip.norm(0.1))

    optimizer.step(closure)
    assert math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters())) == pytest.approx(0.1)


@pytest.mark.parametrize("how", ["position", "name"])
def test_a_closure_is_refused_at_the_step(how):
    _, optimizer = build()
    clip.on(optimizer, clip.norm(0.1))
    with pytest.raises(StateError) as caught:
        optimizer.step(lambda: None) if how == "position" else optimizer.step(closure=lambda: None)
    assert str(caught.value) == (
        "SGD.step(closure): clip.on clips before the step, and a closure makes the gradients in it. In Lightning use "
        "lrkit.integrations.lightning.Clip, elsewhere clip.apply in the closure, after backward."
    )


def test_a_second_clip_on_one_optimizer_is_refused():
    _, optimizer = build()
    clip.on(optimizer, clip.norm(0.1))
    with pytest.raises(StateError) as caught:
        clip.on(optimizer, clip.value(1.0))
    assert str(caught.value) == (
        "clip.on(SGD, clip.value(1.0)): it is clipped already. Call .remove() of what clip.on returned before."
    )


def test_a_copied_optimizer_is_not_clipped_and_can_be():
    model, optimizer = build()
    clip.on(optimizer, clip.norm(0.1))
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        clip.on(again, clip.norm(0.1))
    backward(model, 0)
    optimizer.step()


@pytest.mark.parametrize("bad", [False, True])
def test_a_step_that_calls_its_parents_is_clipped_and_counted_once(bad):
    class Careful(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    torch.optim.SGD([nn.Parameter(torch.ones(1))])  # by which its parent's step has hooks, too
    weight = nn.Parameter(torch.zeros(2))
    optimizer = Careful([weight], lr=1.0)
    clipping = clip.on(optimizer, clip.norm(1.0))
    weight.grad = torch.tensor([3.0, math.nan if bad else 4.0])
    optimizer.step()
    tally = clipping.tally
    assert (tally.updates, tally.engaged, tally.skipped) == ((0, 0, 1) if bad else (1, 1, 0))
    assert tally.hardest == (None if bad else 0.2) and weight.grad is not None
    torch.testing.assert_close(weight.detach(), torch.zeros(2) if bad else torch.tensor([-0.6, -0.8]))


def test_after_a_step_that_failed_the_next_is_clipped():
    class Moody(torch.optim.SGD):
        moody = True

        def step(self, closure=None):
            if self.moody:
                raise RuntimeError("not today")
            return super().step(closure)

    weight = nn.Parameter(torch.zeros(2))
    optimizer = Moody([weight], lr=1.0)
    clip.on(optimizer, clip.norm(1.0))
    for bad in (False, True):
        optimizer.moody = True
        weight.grad = torch.tensor([3.0, math.nan if bad else 4.0])
        with pytest.raises(RuntimeError, match="not today"):
            optimizer.step()
        optimizer.moody = False
        weight.data.zero_()
        weight.grad = torch.tensor([30.0, 40.0])
        optimizer.step()
        torch.testing.assert_close(weight.detach(), torch.tensor([-0.6, -0.8]))


def test_a_distributed_checkpoints_dry_step_is_not_counted():
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model, optimizer = build("adam")
    clipping = clip.on(optimizer, clip.norm(1.0))
    get_optimizer_state_dict(model, optimizer)
    assert clipping.tally.updates == 0


# -- the tally ------------------------------------------------------------------------------------------------------------------


def verdict(size, limit=1.0):
    return clip.Verdict(math.isfinite(size), 1.0, None, size, limit < size < math.inf)


class TestTheTally:
    def test_counts(self):
        tally = clip.Tally(clip.norm(1.0))
        for size in (0.5, 2.0, 4.0, math.inf, math.nan, 0.0, 1.0):
            tally.note(verdict(size))
        assert (tally.updates, tally.engaged, tally.skipped) == (4, 2, 2)
        assert (tally.share, tally.mean, tally.hardest) == (0.5, 0.375, 0.25)
        assert tally.as_dict() == {
            "rule": "clip.norm(1.0)", "updates": 4, "engaged": 2, "skipped": 2, "share": 0.5, "mean": 0.375, "hardest": 0.25
        }  # fmt: skip

    def test_begins_with_nothing(self):
        tally = clip.Tally(clip.value(0.5))
        assert (tally.updates, tally.share, tally.mean, tally.hardest) == (0, 0.0, None, None)
        assert str(tally) == "value 0.5: engaged in 0 of 0 updates"

    def test_is_one_clear_sentence(self):
        tally = clip.Tally(clip.norm(1.0))
        for size in [0.5] * 880 + [1 / 0.08] + [1.0 / 0.635] * 119 + [math.inf] * 2:
            tally.note(verdict(size))
        assert str(tally) == (
            "norm 1.0: engaged in 120 of 1000 updates (12 %), to 0.63 on average, 0.08 at the hardest; "
            "2 updates skipped (gradient not finite)"
        )

    def test_speaks_of_one_update_in_the_singular(self):
        tally = clip.Tally(clip.adaptive())
        tally.note(verdict(math.nan))
        assert str(tally) == "adaptive 0.01: engaged in 0 of 0 updates; 1 update skipped (gradient not finite)"

    @pytest.mark.parametrize("rule", [clip.norm(1.0), clip.value(1.0), clip.adaptive(1.0)], ids=repr)
    def test_its_factor_is_limit_by_size_for_every_rule(self, rule):
        weight = nn.Parameter(torch.tensor([0.6, 0.8]))
        weight.grad = torch.tensor([0.0, 4.0])
        tally = clip.Tally(rule)
        clip.apply(torch.optim.SGD([weight]), rule, tally)
        assert tally.mean == pytest.approx(0.25)


# -- several processes ----------------------------------------------------------------------------------------------------------

JOB = """
import json, math, sys, torch, torch.distributed as dist, warnings
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from lrkit import clip
from lrkit.errors import StateError
from together import leave

rank, place, out = int(sys.argv[1]), sys.argv[2], {}
dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
RULES = [clip.norm(0.5), clip.norm(0.5, type=math.inf), clip.norm(0.5, type=3.0), clip.value(0.1), clip.adaptive(0.05)]
SHAPES = [(5, 3), (4, 2, 2), (5,), (1,), ()]
torch.manual_seed(0)
whole = [(torch.randn(s), torch.randn(s)) for s in SHAPES]

def clipped(rule, pairs, scale=1.0):
    parameters = []
    for weight, gradient in pairs:
        parameter = nn.Parameter(weight.clone())
        parameter.grad = gradient.clone() * scale
        parameters.append(parameter)
    verdict = clip.apply(torch.optim.SGD(parameters), rule)
    grads = [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in parameters]
    return verdict.size, verdict.engaged, [g.double().flatten().tolist() for g in grads]

def sharded(dim, only=None):
    def spread(t, i):
        can = t.ndim > dim and (only is None or i in only)
        return distribute_tensor(t, mesh, [Shard(dim) if can else Replicate()])
    return [(spread(w, i), spread(g, i)) for i, (w, g) in enumerate(whole)]

def refusal(call):
    try:
        call()
    except StateError as error:
        return str(error)

for rule in RULES:
    for scale in (1.0, 1e30):
        key = f"{rule} {scale:g}"
        out[key] = [clipped(rule, pairs, scale) for pairs in (whole, sharded(0), sharded(0)[:2] + whole[2:])]
    bad = sharded(0)
    if rank == 1:
        bad[0][1].to_local()[0, 0] = math.nan
    out[f"{rule} nan"] = clip.Clip.judge(rule, *map(list, zip(*bad))).finite
out["columns"] = [clipped(RULES[0], whole), clipped(RULES[0], sharded(1))]
out["cut"] = refusal(lambda: clipped(RULES[-1], sharded(1)))
partial = DTensor.from_local(torch.ones(2), mesh, [Partial()])
out["partial"] = refusal(lambda: RULES[0].judge([partial], [partial]))

def train(shard):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    if shard:
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipping = clip.on(optimizer, clip.adaptive(0.02))
    for t in range(3):
        optimizer.zero_grad()
        (model(torch.arange(12.0).reshape(4, 3) / 6 - t) - 1).square().mean().backward()
        optimizer.step()
    weights = [p.full_tensor() if shard else p for p in model.parameters()]
    return [w.flatten().tolist() for w in weights], [clipping.tally.engaged, clipping.tally.mean, clipping.tally.hardest]

out["fsdp2"] = [train(False), train(True)]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for original in (False, True):
        model = FullyShardedDataParallel(nn.Linear(3, 5), use_orig_params=original, device_id=torch.device("cpu"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(2, 3)).sum().backward()
        out[f"fsdp1 {original}"] = refusal(lambda: clip.apply(optimizer, RULES[0]))
with open(f"{place}/{rank}.json", "w") as file:
    json.dump(out, file)
leave()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two processes wrote down."""
    place = tmp_path_factory.mktemp("ranks")
    said = [(place / f"said{rank}").open("w+") for rank in range(2)]
    commands = [[sys.executable, "-c", JOB, str(rank), str(place)] for rank in range(2)]
    shared = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    given = {"stderr": subprocess.STDOUT, "env": shared}
    ranks = [subprocess.Popen(one, stdout=out, **given) for one, out in zip(commands, said, strict=True)]
    try:
        codes = [rank.wait(timeout=120) for rank in ranks]
    finally:
        for rank, out in zip(ranks, said, strict=True):
            rank.kill()
            out.close()
    assert codes == [0, 0], [(place / f"said{rank}").read_text() for rank in range(2)]
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(2)]


class TestTwoProcesses:
    @pytest.mark.parametrize("scale", ["1", "1e+30"])
    @pytest.mark.parametrize("rule", RULES, ids=repr)
    def test_sharded_gradients_are_clipped_as_the_whole(self, seen, rule, scale):
        for rank in seen:
            (size, engaged, whole), *others = rank[f"{rule} {scale}"]
            for other_size, other_engaged, gradients in others:
                assert other_size == pytest.approx(size, rel=1e-6) and other_engaged == engaged is True
                for got, want in zip(gradients, whole, strict=True):
                    assert got == pytest.approx(want, rel=1e-5, abs=1e-7)

    @pytest.mark.parametrize("rule", RULES, ids=repr)
    def test_all_skip_where_one_has_a_nan(self, seen, rule):
        assert [rank[f"{rule} nan"] for rank in seen] == [False, False]

    def test_a_norm_may_be_sharded_by_columns_and_rows_may_not(self, seen):
        for rank in seen:
            (size, _, whole), (other, _, gradients) = rank["columns"]
            assert other == pytest.approx(size)
            assert all(got == pytest.approx(want) for got, want in zip(gradients, whole, strict=True))
            assert rank["cut"] == (
                "clip.adaptive(0.05): a gradient is sharded (Shard(dim=1),), which cuts its rows. Shard dimension 0."
            )

    def test_fsdp2_trains_as_one_process_does(self, seen):
        for rank in seen:
            (weights, tally), (sharded, tally_of_sharded) = rank["fsdp2"]
            assert all(got == pytest.approx(want, rel=1e-5) for got, want in zip(sharded, weights, strict=True))
            assert tally_of_sharded == pytest.approx(tally) and tally[0] == 3

    def test_what_shows_only_parts_is_refused(self, seen):
        for rank in seen:
            assert rank["partial"] == (
                "clip: a gradient is not yet summed over the processes, (Partial(sum),). Redistribute it first."
            )
            assert (
                rank["fsdp1 False"]
                == rank["fsdp1 True"]
                == ("clip.norm(0.5): FSDP1 shows only parts of gradients. Use fully_shard, or the model's clip_grad_norm_.")
            )
