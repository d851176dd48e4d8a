"""Rounding at random: bfloat16 weights arrive on average where float32 ones arrive, and the same seed draws the same bits."""

import copy
import io

import pytest
import torch
from torch import nn

from lrkit import attach, clip, optim
from lrkit.errors import InputError
from lrkit.optim import noise

RULES = {
    "sgd": ("SGD", {"lr": 1e-3}),
    "momentum": ("SGD", {"lr": 1e-4, "momentum": 0.9}),
    "rms": ("RMS", {"lr": 1e-3}),
    "rmsprop_centered": ("RMSprop", {"lr": 1e-3, "centered": True, "momentum": 0.5, "eps": 0.5}),
    "adamw": ("AdamW", {"lr": 1e-3}),
    "amsgrad": ("AMSGrad", {"lr": 1e-3}),
    "nadam": ("NAdam", {"lr": 1e-3}),
    "radam": ("RAdam", {"lr": 1e-3, "betas": (0.9, 0.9)}),
    "adabelief": ("AdaBelief", {"lr": 1e-3}),
    "adadelta": ("Adadelta", {"lr": 0.1}),
    "lion": ("Lion", {"lr": 1e-3}),
}
EVERY = pytest.mark.parametrize("name", RULES)
SIZES = (1, 15, 257, 4096)


def build(name: str, dtype=torch.bfloat16, random=True, **more):
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in SIZES]
    kind, options = RULES[name]
    return getattr(optim, kind)(params, stochastic_rounding=random, **(options | more)), params


def run(optimizer, params, start: int, stop: int, has=lambda t, i: True):
    for t in range(start, stop):
        generator = torch.Generator().manual_seed(t)
        for i, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator).to(p.dtype)
            p.grad = g if has(t, i) else None
        optimizer.step()
    return [p.detach().clone() for p in params]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class TestTheNoise:
    @pytest.mark.parametrize("value", [1.001, -1.001, 0.3, 1e-30, -7e30, 1.0 + 2**-20])
    def test_is_unbiased_within_five_sigma(self, value):
        many = 2**20
        wide = torch.full((many,), value)
        got = noise.rounded(wide, 12345).double()
        low, high = sorted({float(one) for one in got.unique()})
        exact = float(wide[0].double())
        assert low < exact < high and float(torch.tensor(low).bfloat16()) == low
        share = (exact - low) / (high - low)
        up = float((got == high).double().mean())
        assert abs(up - share) < 5 * (share * (1 - share) / many) ** 0.5 + 2**-16

    def test_leaves_what_bfloat16_can_hold_alone(self):
        for value in (0.0, -0.0, 1.0, -2.5, float("inf"), -float("inf")):
            got = noise.rounded(torch.full((4096,), value), 7)
            assert torch.equal(got, torch.full((4096,), value, dtype=torch.bfloat16))
        assert bool(noise.rounded(torch.full((64,), float("nan")), 7).isnan().all())

    def test_of_neighbours_updates_parameters_and_buffers_is_not_the_same(self):
        """No two columns of bits are correlated beyond five sigma."""
        half = torch.full((2**14,), 1.0 + 2**-8)
        import numpy as np

        keys = [int(key) for t in (1, 2) for key in noise.keys(0, t, np.arange(3, dtype=np.uint32))]
        keys += [int(noise.keys(1, 1, np.arange(1, dtype=np.uint32))[0])]
        columns = [(noise.rounded(half, key, which) > 1).double() for key in keys for which in (0, 1, 2, 3)]
        columns += [columns[0].roll(k) for k in (1, 2, 16, 64)]
        bits = torch.stack(columns) - 0.5
        correlation = (bits @ bits.t()) / 2**14 * 4
        off = correlation - torch.eye(len(columns), dtype=torch.float64)
        assert float(off.abs().max()) < 5 / 2**7


class TestUpdates:
    @pytest.mark.parametrize("backend", [None, "reference"])
    def test_are_right_on_average(self, backend):
        """After a step of 1e-3 from 1 the mean over many weights is 0.999 within five sigma, none is beyond its neighbours."""
        weight = nn.Parameter(torch.ones(2**18, dtype=torch.bfloat16))
        optimizer = optim.SGD([weight], lr=1e-3, stochastic_rounding=True, backend=backend)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert sorted(weight.detach().float().unique().tolist()) == [1 - 2**-8, 1.0]
        share = 1e-3 * 2**8
        sigma = (share * (1 - share) / 2**18) ** 0.5 * 2**-8
        assert abs(float(weight.detach().double().mean()) - 0.999) < 5 * sigma

    def test_let_a_run_that_stood_still_go_as_far_as_float32_goes(self):
        results = {}
        for dtype, random in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
            weight = nn.Parameter(torch.ones(2**14, dtype=dtype))
            optimizer = optim.AdamW([weight], lr=1e-3, stochastic_rounding=random)
            for _ in range(100):
                weight.grad = torch.ones_like(weight)
                optimizer.step()
            results[dtype, random] = 1.0 - float(weight.detach().double().mean())
        exact = results[torch.float32, False]
        assert exact > 0.09 and results[torch.bfloat16, False] == 0.0
        assert results[torch.bfloat16, True] == pytest.approx(exact, rel=0.02)

    def test_without_momentum_do_not_draw_the_same_noise_at_every_update(self):
        """Plain SGD remembers nothing, not even how many updates there were."""
        weight = nn.Parameter(torch.ones(2**12, dtype=torch.bfloat16))
        optimizer = optim.SGD([weight], lr=1e-3, stochastic_rounding=True)
        for t in range(60):
            weight.grad = torch.ones_like(weight)
            if t % 2:  # another layout of memory, or a pause, makes buckets anew
                weight.grad = torch.stack([weight.grad, weight.grad], 1)[:, 0]
            optimizer.step()
        moved = 1.0 - weight.detach().double()
        assert float(moved.mean()) == pytest.approx(0.06, rel=0.05)
        assert len(moved.unique()) > 5, "each entry has its own luck at each update"
        assert float(moved.std()) < 0.03, "and no entry has the same luck at all updates"

    @EVERY
    def test_equal_the_references_bit_for_bit(self, name):
        (ours, mine), (slow, params) = build(name), build(name, backend="reference")
        assert same(run(ours, mine, 0, 6), run(slow, params, 0, 6))
        for p, q in zip(mine, params, strict=True):
            assert all(torch.equal(value, slow.state[q][key]) for key, value in ours.state[p].items())

    @pytest.mark.parametrize("rule", [clip.norm(0.5), clip.value(0.5)], ids=["norm", "value"])
    def test_equal_the_references_bit_for_bit_when_clipped(self, rule):
        (ours, mine), (slow, params) = build("adamw", clip=rule), build("adamw", clip=rule, backend="reference")
        assert same(run(ours, mine, 0, 6), run(slow, params, 0, 6))

    def test_in_another_layout_equal_the_references(self):
        results = []
        for backend in (None, "reference"):
            weight = nn.Parameter(torch.randn(33, 17, generator=torch.Generator().manual_seed(0)).bfloat16().t())
            optimizer = optim.AdamW([weight], lr=1e-3, stochastic_rounding=True, backend=backend)
            results.append(run(optimizer, [weight], 0, 3)[0])
        assert torch.equal(*results)


class TestReproducible:
    @EVERY
    def test_the_same_seed_gives_the_same_bits_and_another_gives_others(self, name):
        results = [run(*build(name, seed=seed), 0, 5) for seed in (3, 3, 4)]
        assert same(results[0], results[1]) and not torch.equal(results[0][-1], results[2][-1])

    def test_no_global_random_state_is_touched(self):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        run(*build("adamw"), 0, 3)
        assert torch.equal(torch.get_rng_state(), before)

    @EVERY
    def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(self, name):
        """Through a file, and with a schedule."""
        optimizer, params = build(name)
        attach(optimizer, lr="linear 12 to 0.5")
        whole = run(optimizer, params, 0, 10)
        first, mine = build(name)
        attach(first, lr="linear 12 to 0.5")
        file = io.BytesIO()
        torch.save({"params": run(first, mine, 0, 6), "optimizer": first.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        again, params = build(name)
        attach(again, lr="linear 12 to 0.5")
        for p, kept in zip(params, saved["params"], strict=True):
            p.data.copy_(kept)
        again.load_state_dict(saved["optimizer"])
        assert same(run(again, params, 6, 10), whole)

    @EVERY
    def test_a_copy_goes_on_bit_for_bit(self, name):
        optimizer, params = build(name)
        run(optimizer, params, 0, 4)
        other = copy.deepcopy(optimizer)
        assert same(run(other, other.param_groups[0]["params"], 4, 8), run(optimizer, params, 4, 8))

    @pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
    def test_buckets_made_anew_draw_what_they_would_have_drawn(self, name):
        """A copy of a gradient in another layout, in one run and not in the other."""
        (ours, mine), (other, params) = build(name), build(name)
        for t in range(8):
            run(ours, mine, t, t + 1)
            generator = torch.Generator().manual_seed(t)
            for p in params:
                g = torch.randn(p.shape, generator=generator).bfloat16()
                p.grad = torch.stack([g, g], 1)[:, 0] if t % 3 == 1 else g
            other.step()
        assert same(mine, params)

    def test_parameters_draw_by_their_place_whoever_else_has_a_gradient(self):
        (ours, mine), (other, params) = build("adamw"), build("adamw")
        run(ours, mine, 0, 4), run(other, params, 0, 4, has=lambda t, i: i == 3)
        assert torch.equal(mine[3], params[3])


class TestOthers:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
    @pytest.mark.parametrize("name", ["momentum", "adamw", "lion"])
    def test_types_are_unaffected(self, name, dtype):
        assert same(run(*build(name, dtype), 0, 5), run(*build(name, dtype, random=False), 0, 5))

    def test_parameters_beside_a_bfloat16_one_are_unaffected(self):
        def trained(random):
            wide, narrow = nn.Parameter(torch.ones(64)), nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
            optimizer = optim.AdamW([wide, narrow], lr=1e-3, stochastic_rounding=random)
            return run(optimizer, [wide, narrow], 0, 5)

        (wide, narrow), (other, still) = trained(True), trained(False)
        assert torch.equal(wide, other) and not torch.equal(narrow, still)

    def test_it_is_off_unless_it_is_asked_for(self):
        (ours, mine), (slow, params) = build("adamw", random=False), build("adamw", random=False, seed=5)
        assert ours.seed is None and same(run(ours, mine, 0, 3), run(slow, params, 0, 3))

    @pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
    def test_a_seed_that_is_none_is_refused(self, seed):
        with pytest.raises(InputError, match="seed"):
            build("adamw", seed=seed)

    @pytest.mark.parametrize("seed", [2**32, 2**40 + 1])
    def test_a_large_seed_is_not_a_small_one(self, seed):
        results = [run(*build("adamw", seed=one), 0, 3) for one in (seed, seed % 2**32)]
        assert not torch.equal(results[0][-1], results[1][-1])
