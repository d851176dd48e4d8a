"""A rate carried over to another batch size or horizon: by the rule, with what it leaves open, and not beyond where it holds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrkit import Suggestion, optim
from lrkit.errors import InputError, StateError
from lrkit.finder.suggestion import Fit
from lrkit.scale import Scaled, batch, horizon, noise_scale

SIZES = st.integers(1, 4096)
RATES = st.floats(1e-6, 10.0)
BAD_COUNTS = [0, -1, True, 2.5, math.nan, "32", None]
BAD_RATES = [0, -1e-3, True, math.nan, math.inf, "1e-3", None]


def suggestion(status="ok", **context):
    fit = Fit(10, (1e-2,), (1.0,)) if status == "ok" else None
    return Suggestion(1e-2, 10.0, 5e-3, 2e-2, status, 0.5, 100, 1.0, 1e-3, 4e-3, (), fit, 1.0, context)


def parameter():
    return [torch.nn.Parameter(torch.zeros(2))]


class TestBatch:
    def test_linear_for_sgd(self):
        scaled = batch(0.1, 256, 8192, "sgd")
        assert scaled.lr == pytest.approx(3.2) and scaled.factor == 32.0 and scaled.others == {}
        assert (scaled.low, scaled.high) == pytest.approx((0.1, 3.2)), "from saturated to linear, as the noise scale is unknown"

    @pytest.mark.parametrize("kind", ["adam", "AdamW", "nadam", "radam", "amsgrad"])
    def test_the_square_root_for_adam_and_its_moments_go_along(self, kind):
        """Malladi et al., definition of the rule, by hand for a batch four times as large."""
        scaled = batch(1e-3, 64, 256, kind)
        assert scaled.lr == pytest.approx(2e-3) and (scaled.low, scaled.high) == pytest.approx((1e-3, 4e-3))
        assert scaled.others["betas"] == pytest.approx((0.6, 0.996)) and scaled.others["eps"] == pytest.approx(5e-9)

    def test_rmsprop_has_one_average(self):
        scaled = batch(1e-3, 64, 256, torch.optim.RMSprop)
        assert scaled.others == {"alpha": pytest.approx(0.96), "eps": pytest.approx(5e-9)}

    @given(RATES, SIZES, SIZES, st.one_of(st.none(), st.floats(1.0, 1e6)), st.sampled_from(["sgd", "adamw"]))
    def test_there_and_back_is_where_it_began(self, lr, old, new, n, kind):
        betas = None if kind == "sgd" else (0.9999, 0.99999)
        there = batch(lr, old, new, kind, noise_scale=n, betas=betas)
        back = batch(there, new, old, kind, noise_scale=n, betas=there.others.get("betas"), eps=there.others.get("eps"))
        assert back.lr == pytest.approx(lr) and back.factor == pytest.approx(1 / there.factor)
        assert back.low <= lr * (1 + 1e-9) and lr <= back.high * (1 + 1e-9)
        assert kind == "sgd" or back.others == {"betas": pytest.approx(betas), "eps": pytest.approx(1e-8)}

    @given(SIZES, SIZES, st.floats(1.0, 1e6), st.sampled_from(["sgd", "rmsprop"]))
    def test_a_noise_scale_saturates_the_rule_and_narrows_what_is_open(self, old, new, n, kind):
        if kind == "rmsprop":
            old = max(old, -(-new // 40))
        without, scaled = batch(1.0, old, new, kind), batch(1.0, old, new, kind, noise_scale=n)
        power = 1.0 if kind == "sgd" else 0.5
        assert scaled.factor == pytest.approx(((1 + n / old) / (1 + n / new)) ** power)
        assert abs(math.log(scaled.factor)) <= abs(math.log(without.factor)) + 1e-9
        assert without.low * (1 - 1e-9) <= scaled.low <= scaled.lr * (1 + 1e-9)
        assert scaled.lr * (1 - 1e-9) <= scaled.high <= without.high * (1 + 1e-9)

    def test_far_below_the_noise_scale_it_is_the_plain_rule_and_far_above_nothing_changes(self):
        assert batch(0.1, 32, 64, "sgd", noise_scale=1e12).factor == pytest.approx(2.0)
        assert batch(0.1, 32, 64, "sgd", noise_scale=1e-9).factor == pytest.approx(1.0)

    @pytest.mark.parametrize(
        "optimizer",
        [torch.optim.Adam(parameter(), betas=(0.95, 0.99), eps=1e-6), optim.AdamW(parameter(), betas=(0.95, 0.99), eps=1e-6)],
        ids=["torch", "lrkit"],
    )
    def test_reads_the_optimizers_own_moments(self, optimizer):
        assert batch(1e-3, 32, 64, optimizer).others["betas"] == pytest.approx((0.9, 0.98))
        assert batch(1e-3, 32, 64, optimizer).others["eps"] == pytest.approx(1e-6 / math.sqrt(2))
        assert batch(1e-3, 32, 64, optimizer, betas=(0.9, 0.9)).others["betas"] == pytest.approx((0.8, 0.8))

    def test_groups_with_different_moments_have_no_one_answer(self):
        groups = [{"params": parameter(), "betas": (0.9, 0.99)}, {"params": parameter()}]
        with pytest.raises(InputError, match="groups differ in betas"):
            batch(1e-3, 32, 64, torch.optim.Adam(groups))

    def test_without_momentum_there_is_none_at_the_new_size(self):
        assert batch(1e-3, 32, 128, "adam", betas=(0.0, 0.99)).others["betas"] == (0.0, pytest.approx(0.96))

    @pytest.mark.parametrize(
        ("new", "betas"), [(600, (0.9, 0.999)), (600, (0.99, 0.9)), (600, (0.0, 0.9)), (60, (0.4, 0.999)), (100, (0.4, 0.999))]
    )
    def test_refuses_where_an_average_would_forget_at_once(self, new, betas):
        """κ·(1 − β) shall be far below 1, before and after; the limit that is stated is 0.5."""
        with pytest.raises(InputError, match=r"κ·\(1 − β\) is far below 1, here above 0 and at most 0.5, got 0.6"):
            batch(1e-3, 100, new, "adam", betas=betas)
        assert batch(1e-3, 100, 500, "adam").others["betas"][0] == pytest.approx(0.5)

    @pytest.mark.parametrize("noise", [0, -1.0, True, math.nan, math.inf, "5"])
    def test_refuses_a_noise_scale_that_is_none(self, noise):
        with pytest.raises(InputError, match="noise_scale must be a finite number above 0"):
            batch(1e-3, 32, 64, "sgd", noise_scale=noise)

    @pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 1.0), (0.9, -0.1), (0.9, math.nan), (0.9, 0.99, 0.999), (True, 0.9)])
    def test_refuses_betas_that_are_none(self, betas):
        with pytest.raises(InputError, match="batch"):
            batch(1e-3, 32, 64, "adam", betas=betas)

    def test_refuses_moments_for_what_has_none(self):
        with pytest.raises(InputError, match="betas and eps are Adam's, and sgd has none"):
            batch(1e-3, 32, 64, "sgd", eps=1e-8)

    @pytest.mark.parametrize("optimizer", ["lion", "muon", "", None, 3, torch.optim.Adagrad, torch.optim.LBFGS(parameter())])
    def test_refuses_an_optimizer_whose_rule_it_does_not_know(self, optimizer):
        with pytest.raises(InputError, match="the rule is known for sgd, momentum"):
            batch(1e-3, 32, 64, optimizer)

    def test_says_when_it_holds_and_what_is_doubtful(self):
        assert "which is unknown here" in batch(1e-3, 32, 64, "sgd").valid
        assert "takes a third to three times" in batch(1e-3, 32, 64, "sgd", noise_scale=100).valid
        assert "doubtful here: 64 is above it" in batch(1e-3, 32, 64, "adam", noise_scale=50).valid
        assert "as far as that is known" in batch(1e-3, 32, 64, "adam", noise_scale=100).valid
        assert "weight_decay beside it: times 2," in batch(1e-3, 32, 128, "adamw").valid
        assert "weight_decay" not in batch(1e-3, 32, 128, "adam").valid


class TestNoiseScale:
    @given(st.floats(0.01, 100), st.floats(0.01, 1e5), st.lists(SIZES, min_size=2, max_size=2, unique=True))
    def test_is_exact_where_the_norms_are_the_expected_ones(self, signal, noise, sizes):
        """E|g_B|² = |G|² + tr Σ/B, thus from exact means of squares N = tr Σ/|G|²."""
        norms = {size: math.sqrt(signal + noise / size) for size in sizes}
        if len(set(norms.values())) == 2 and noise / signal < 1e4:
            assert noise_scale(norms) == pytest.approx(noise / signal, rel=1e-3)

    def test_finds_that_of_gaussian_gradients(self):
        generator = torch.Generator().manual_seed(0)
        mean, spread = torch.full((50,), 0.1), 2.0  # |G|² = 0.5, tr Σ = 200
        draw = {size: mean + spread / math.sqrt(size) * torch.randn(2000, 50, generator=generator) for size in (8, 800)}
        assert noise_scale({size: g.norm(dim=1) for size, g in draw.items()}) == pytest.approx(400, rel=0.1)

    @pytest.mark.parametrize("norms", [{32: 1.0}, {}, [1.0, 2.0], {1: 1.0, 2: 1.0, 3: 1.0}, None])
    def test_refuses_other_than_two_batch_sizes(self, norms):
        with pytest.raises(InputError, match="two batch sizes are needed"):
            noise_scale(norms)

    @pytest.mark.parametrize("norm", [-1.0, math.nan, True, "1", None, []])
    def test_refuses_what_is_no_norm(self, norm):
        with pytest.raises(InputError, match="noise_scale"):
            noise_scale({32: norm, 64: 1.0})

    @pytest.mark.parametrize("size", [0, -3, 1.5, True])
    def test_refuses_what_is_no_batch_size(self, size):
        with pytest.raises(InputError, match="batch size"):
            noise_scale({size: 2.0, 64: 1.0})

    @pytest.mark.parametrize("norms", [{32: 1.0, 64: 1.0}, {32: 1.0, 64: 2.0}, {1: 100.0, 2: 1.0}])
    def test_refuses_norms_that_tell_nothing(self, norms):
        with pytest.raises(InputError, match="too few norms for their noise"):
            noise_scale(norms)


class TestHorizon:
    def test_falls_by_the_drift_with_every_decade(self):
        scaled = horizon(1e-2, 1000, 8000, 0.5, spread=0.1)
        assert math.log10(scaled.factor) == pytest.approx(-0.5 * math.log10(8))
        assert math.log10(scaled.high / scaled.low) == pytest.approx(2 * 0.1 * math.log10(8))

    def test_takes_a_prior_where_no_drift_is_known_and_says_so(self):
        scaled = horizon(1e-2, 1000, 4000)
        assert scaled.lr == pytest.approx(1e-2 * 4**-0.15) and scaled.low < scaled.lr < scaled.high
        assert "s is a prior" in scaled.valid and "s is your own" in horizon(1e-2, 1000, 4000, 0.2).valid

    @given(RATES, st.integers(100, 10_000), st.floats(1 / 8, 8), st.floats(-1, 1))
    def test_there_and_back_is_the_rate_with_a_wider_interval(self, lr, old, ratio, drift):
        new = min(8 * old, max(math.ceil(old / 8), round(old * ratio)))
        there = horizon(lr, old, new, drift)
        back = horizon(there, new, old, drift)
        assert back.lr == pytest.approx(lr)
        assert math.log(back.high / back.low) == pytest.approx(2 * math.log(there.high / there.low), abs=1e-9)

    @pytest.mark.parametrize(("old", "new"), [(1000, 8001), (8001, 1000)])
    def test_refuses_beyond_eight_times_either_way(self, old, new):
        with pytest.raises(InputError, match="reaches 8 times as far either way"):
            horizon(1e-2, old, new)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, True, "0.1"])
    def test_refuses_a_drift_or_spread_that_is_none(self, bad):
        with pytest.raises(InputError, match="drift"):
            horizon(1e-2, 1000, 2000, bad)
        with pytest.raises(InputError, match="spread"):
            horizon(1e-2, 1000, 2000, spread=-1.0)


RULES = [lambda lr, old, new: batch(lr, old, new, "sgd"), horizon]


@pytest.mark.parametrize("rule", RULES, ids=["batch", "horizon"])
class TestEachRule:
    def test_changes_nothing_where_nothing_changed(self, rule):
        scaled = rule(suggestion(), 100, 100)
        assert (scaled.lr, scaled.factor, scaled.low, scaled.high) == (1e-2, 1.0, 5e-3, 2e-2)

    def test_moves_the_interval_of_a_suggestion_along(self, rule):
        plain, found = rule(1e-2, 100, 200), rule(suggestion(), 100, 200)
        assert found.lr == plain.lr and found.factor == plain.factor
        assert (found.low, found.high) == pytest.approx((plain.low / 2, plain.high * 2))

    def test_goes_on_from_an_answer(self, rule):
        once, twice = rule(1e-2, 100, 400), rule(rule(1e-2, 100, 200), 200, 400)
        assert twice.lr == pytest.approx(once.lr) and twice.low == pytest.approx(once.low)

    def test_knows_from_a_suggestion_what_it_is_for(self, rule):
        found = suggestion(batch_size=100, horizon=100)
        assert rule(found, None, 200) == rule(found, 100, 200)
        with pytest.raises(InputError, match=r"is 100, got 50. Leave old out"):
            rule(found, 50, 200)
        with pytest.raises(InputError, match="what the rate is for must be known"):
            rule(suggestion(), None, 200)

    def test_refuses_a_suggestion_that_found_nothing(self, rule):
        with pytest.raises(StateError, match="no rate to carry over"):
            rule(suggestion("flat"), 100, 200)

    @pytest.mark.parametrize("bad", BAD_RATES)
    def test_refuses_a_rate_that_is_none(self, rule, bad):
        with pytest.raises(InputError, match="lr must be a finite number above 0"):
            rule(bad, 100, 200)

    @pytest.mark.parametrize("bad", BAD_COUNTS)
    def test_refuses_a_size_that_is_none(self, rule, bad):
        with pytest.raises(InputError, match="old"):
            rule(1e-2, bad, 200)
        with pytest.raises(InputError, match="new must be"):
            rule(1e-2, 100, bad)

    def test_is_read_at_a_glance(self, rule):
        scaled = rule(1e-2, 100, 200)
        first, second = str(scaled).splitlines()
        assert first.startswith(f"rate {scaled.lr:.3g} (interval") and first.endswith(scaled.rule) and second == scaled.valid
        assert isinstance(scaled, Scaled) and second.startswith("Holds for ")
