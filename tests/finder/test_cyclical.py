"""`cyclical` reads the two limits of a cyclical rate off a range test, or says that it cannot."""

import contextlib
import math
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrkit import Run, attach, range_test
from lrkit.errors import InputError
from lrkit.finder.cyclical import cyclical
from lrkit.finder.rules import NoAnswer
from lrkit.schedules import compat, exp_range, triangular, triangular2


def losses_at(power):
    """Falls around 1e-3, is lowest at 10^−1.4, then rises steeply."""
    return 2.3 - 1.5 / (1 + np.exp(-2 * (power + 3))) + 10.0 ** np.minimum(3 * (power + 0.8), 3)


def accuracies_at(power):
    """Rises around 1e-4, stays, falls from 1e-2 on."""
    return 0.1 + 0.6 / (1 + np.exp(-4 * (power + 4))) - 0.6 / (1 + np.exp(-8 * (power + 1)))


def run_of(values, power, name="loss", **meta):
    return Run({name: values, "lr": 10.0**power}, meta)


POWER = np.linspace(-7, 1, 100)


class TestLimits:
    def test_are_where_the_smoothed_loss_turns_and_a_quarter_of_it(self):
        base_lr, max_lr = cyclical(run_of(losses_at(POWER), POWER))
        assert math.log10(max_lr) == pytest.approx(-1.4, abs=0.1) and base_lr == max_lr / 4

    def test_a_third_is_allowed(self):
        base_lr, max_lr = cyclical(run_of(losses_at(POWER), POWER), share=1 / 3)
        assert base_lr == max_lr / 3

    @pytest.mark.parametrize("noise", [0.01, 0.1, 0.2])
    def test_hardly_move_with_noise(self, noise):
        rng = np.random.default_rng(0)
        tops = [cyclical(run_of(losses_at(POWER) + noise * rng.normal(size=100), POWER))[1] for _ in range(20)]
        assert abs(np.median(np.log10(tops)) + 1.4) < 0.3 and np.log10(max(tops)) < -0.8

    @pytest.mark.parametrize("begin", [-8, -6, -4])
    @pytest.mark.parametrize("end", [-0.5, 0.5, 2])
    def test_do_not_depend_on_where_the_ramp_begins_and_ends(self, begin, end):
        power = np.linspace(begin, end, round(12 * (end - begin)))
        assert math.log10(cyclical(run_of(losses_at(power), power))[1]) == pytest.approx(-1.4, abs=0.15)

    def test_hardly_depend_on_how_many_rates_there_are(self):
        tops = [cyclical(run_of(losses_at(p), p))[1] for p in (np.linspace(-7, 1, n) for n in (50, 100, 200, 800))]
        assert max(tops) / min(tops) < 10**0.2

    def test_a_single_spike_moves_nothing(self):
        values = losses_at(POWER)
        spiked = values.copy()
        spiked[40] = 100.0
        assert cyclical(run_of(spiked, POWER)) == cyclical(run_of(values, POWER))

    def test_a_loss_that_ends_in_nan_turned_before(self):
        values = np.where(POWER > -2, math.nan, losses_at(POWER))
        last = POWER[POWER <= -2][-2]  # the loss of the last finite row came of the rate before it
        assert cyclical(run_of(values, POWER))[1] == pytest.approx(10**last)


class TestMetric:
    """Larger is better; where there is one it decides."""

    @pytest.mark.parametrize("rates", [9, 16, 40, 100])
    def test_the_last_rate_of_a_plateau_counts(self, rates):
        power = np.linspace(-6, 0, rates)
        values = accuracies_at(power) + 0.002 * np.random.default_rng(0).normal(size=rates)
        top = math.log10(cyclical(run_of(values, power, "metric", per="epoch"))[1])
        assert -2.3 < top < -1.3, "of a plateau from -3.5 to -1.5"

    def test_wins_over_the_loss(self):
        run = Run({"loss": losses_at(POWER), "metric": -losses_at(POWER + 2), "lr": 10**POWER})
        assert math.log10(cyclical(run)[1]) == pytest.approx(-3.4, abs=0.2)

    def test_is_the_loss_turned_over_but_for_the_row_that_a_loss_is_late(self):
        losses = losses_at(POWER)
        assert cyclical(run_of(-losses[1:], POWER[:-1], "metric")) == cyclical(run_of(losses, POWER))
        assert cyclical(run_of(-losses, POWER, "metric")) == cyclical(run_of(losses, POWER, per="epoch"))


class TestSaysThatItCannot:
    @pytest.mark.parametrize("name", ["loss", "metric"])
    @pytest.mark.parametrize(
        "values",
        [np.ones(100), np.arange(100.0), 300 + 1e-5 * (np.arange(100) % 2)],
        ids=["constant", "only worse", "rounding"],
    )
    def test_of_a_curve_that_never_gets_better(self, values, name):
        with pytest.raises(NoAnswer, match="nothing gets better by more than its noise"):
            cyclical(run_of(values if name == "loss" else -values, POWER, name))

    @pytest.mark.parametrize(
        "draw",
        [
            lambda rng: rng.normal(size=100),
            lambda rng: rng.exponential(size=100),
            lambda rng: rng.standard_t(3, size=100),
            lambda rng: (rng.random(100) < 0.2).astype(float),
            lambda rng: np.array(list(accumulate(rng.normal(size=100), lambda a, b: a / 2 + b))),
        ],
        ids=["even", "skewed", "heavy tails", "rare", "each takes after the last"],
    )
    def test_of_noise(self, draw):
        """Of 60 curves of nothing but noise at most three may pass for one."""
        answers, rng = 0, np.random.default_rng(0)
        for _ in range(60):
            with contextlib.suppress(NoAnswer):
                answers += bool(cyclical(run_of(draw(rng) + 5, POWER)))
        assert answers <= 3

    @pytest.mark.parametrize("spoiled", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("name", ["loss", "metric"])
    def test_of_what_is_not_finite_from_the_start(self, name, spoiled):
        with pytest.raises(NoAnswer, match=r"needs 5 finite rows before it diverges, got 0\. Begin lower"):
            cyclical(run_of(np.full(100, spoiled), POWER, name))

    def test_of_too_few_rates(self):
        with pytest.raises(NoAnswer, match="needs 5 finite rows"):
            cyclical(run_of(np.array([3.0, 2.0, 1.0, 2.0]), POWER[:4]))
        with pytest.raises(NoAnswer, match="needs 5 finite rows"):
            cyclical(Run({"loss": [], "lr": []}))

    def test_of_a_ramp_that_ends_too_early(self):
        power = POWER[POWER < -2.5]
        with pytest.raises(NoAnswer, match=r"still at its best at the last rate, 0.00\d+. Test with a larger end"):
            cyclical(run_of(losses_at(power), power))

    def test_but_not_of_one_whose_last_epoch_blew_up(self):
        power = np.linspace(-5, -2, 20)
        run = run_of(2.0 - 0.1 * np.arange(20.0), power, per="epoch", edge=0.01)
        assert cyclical(run)[1] == run["lr"][-2]

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan, "a quarter"])
    def test_a_share_is_below_1(self, share):
        with pytest.raises(InputError, match=r"cyclical\(share="):
            cyclical(run_of(losses_at(POWER), POWER), share=share)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"loss": [1.0] * 9}, "needs a Run with lr and loss or metric"),
            ({"lr": [1.0] * 9}, "needs a Run with lr and loss or metric"),
            ({"loss": [1.0] * 9, "lr": [0.1] * 4 + [0.05] * 5}, "whose rate only rises"),
            ({"loss": [1.0] * 9, "lr": [math.nan] * 9}, "whose rate only rises"),
            ({"loss": [1.0] * 9, "lr": [0.0] * 9}, "whose rate only rises"),
        ],
    )
    def test_of_what_is_no_range_test(self, columns, message):
        with pytest.raises(InputError, match=message):
            cyclical(Run(columns))


class TestScaleAndOffset:
    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.integers(-64, 64), min_size=40, max_size=40),
        st.integers(-30, 30),
        st.integers(-1000, 1000),
        st.sampled_from(["loss", "metric"]),
    )
    def test_change_nothing_at_all(self, noise, power_of_two, offset, name):
        """Multiplying by a power of two and adding whole numbers are exact in floats, and so is the answer."""
        power = np.linspace(-6, 1, 40)
        values = np.round(losses_at(power) * 256) / 256 + np.array(noise) / 1024
        values = values if name == "loss" else -values

        def ask(values):
            try:
                return cyclical(run_of(values, power, name))
            except NoAnswer:
                return None

        answer = ask(values)
        assert ask(values * 2.0**power_of_two) == answer
        assert ask(values + offset) == answer

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=5, max_size=60))
    def test_the_answer_is_one_of_the_rates_or_none_that_is_said(self, values):
        rates = 10.0 ** np.linspace(-5, 0, len(values))
        try:
            base_lr, max_lr = cyclical(Run({"loss": [2e3] * 5 + values, "lr": [*rates[:1]] * 5 + [*rates]}))
        except NoAnswer:
            return
        assert max_lr in rates and base_lr == 0.25 * max_lr


@pytest.fixture(scope="module")
def limits():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 6, generator=generator)
    y = (x @ torch.randn(6, 1, generator=generator)).tanh()
    model = nn.Linear(6, 1)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)]
    return cyclical(
        range_test(model, optimizer, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), batches, 1e-5, 1e2, 12, per="epoch")
    )


class TestGoesStraightInto:
    """A schedule, and a training whose rate cycles between the two."""

    def test_a_real_test_has_limits(self, limits):
        """Of gradient descent on a parabola: below 2 over the largest curvature, which is about 2.6 here."""
        assert 0.02 < limits[1] < 0.8

    @pytest.mark.parametrize("recipe", [triangular, triangular2, lambda half, low: exp_range(half, 0.99, low)])
    def test_the_recipes(self, limits, recipe):
        base_lr, max_lr = limits
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=max_lr)
        attach(optimizer, lr=recipe(10, low=base_lr / max_lr))
        rates = []
        for _ in range(40):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        assert rates[0] == pytest.approx(base_lr) and min(rates) >= base_lr * (1 - 1e-9)
        assert 0.9 * max_lr < max(rates) <= max_lr and rates.index(max(rates)) == 10

    def test_torchs_own_cycle(self, limits):
        base_lr, max_lr = limits
        wave = compat.torch.CyclicLR(base_lr, max_lr, step_size_up=10)
        assert wave(0) == pytest.approx(base_lr) and wave(10) == pytest.approx(max_lr)
