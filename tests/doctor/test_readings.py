"""What gauges say of a rate becomes numbers, and moves the odds; what was not read moves nothing."""

import numpy as np
import pytest

from illnesses import N, run_of, slide
from lrkit import Run, diagnose
from lrkit.doctor.curve import curve_of
from lrkit.doctor.odds import Move, odds_of
from lrkit.doctor.readings import NAMES, readings_of


def watched(every: int = 40, **values: float) -> Run:
    """A run that falls, with gauges that read the same at each visit."""
    columns = {name: np.where(np.arange(N) % every == 0, value, np.nan) for name, value in values.items()}
    return run_of(slide(), meta={"optimizer": "SGD"}, **columns)


def of(run: Run) -> dict[str, float]:
    return dict(zip(NAMES, readings_of(curve_of(run)).tolist(), strict=True))


class TestReadings:
    def test_each_is_the_middle_of_its_column(self):
        seen = of(watched(gain_ratio=0.9, grad_cosine=-0.2, edge=0.5, coherence=0.3, rms_t=1.0, half_product=3.0, grad_noise=1.0))
        assert seen == pytest.approx({
            "curved": -1.0, "cosine": -0.2, "edge": np.log10(0.5), "coherence": 0.3, "out_of_date": 0.0, "signal": 0.75,
            "worst_gain": -1.0, "worst_edge": np.log10(0.5),
        })  # fmt: skip

    def test_a_run_that_was_not_watched_has_none(self):
        assert np.isnan(readings_of(curve_of(run_of(slide())))).all()

    def test_two_visits_are_too_few(self):
        assert np.isnan(of(watched(every=450, gain_ratio=0.9))["curved"])

    def test_warm_up_and_decay_do_not_count(self):
        t = np.arange(N)
        cosine = np.where(t % 10 == 0, np.where((t >= 100) & (t < 700), -0.5, 0.9), np.nan)
        assert of(run_of(slide(), grad_cosine=cosine))["cosine"] == -0.5

    def test_the_scale_of_the_loss_does_not_matter(self):
        one, other = (of(watched(half_product=2 * k, grad_noise=6 * k, gain_ratio=0.5)) for k in (1.0, 1e-8))
        assert one == pytest.approx(other, nan_ok=True)


class TestOdds:
    def test_gauges_move_them(self):
        """Each update gains all it promises and gradients agree: a higher rate would have done more."""
        plain = odds_of(curve_of(watched()))
        small = odds_of(curve_of(watched(gain_ratio=0.9999, grad_cosine=0.9, edge=1e-4)))
        assert small.gauged and not plain.gauged
        assert small.probabilities["too low"] > plain.probabilities["too low"]

    def test_a_flat_loss_whose_updates_gain_all_they_promise_is_too_low_though_the_optimizer_is_unknown(self):
        t = np.arange(N)
        flat = 2.3 + 0.02 * np.random.default_rng(0).standard_normal(N)
        gauges = {"gain_ratio": 0.9999, "grad_cosine": 0.8, "edge": 1e-4, "half_product": 1.0, "grad_noise": 0.5}
        columns = {name: np.where(t % 40 == 0, value, np.nan) for name, value in gauges.items()}
        assert diagnose(run_of(flat)).rate == "cannot tell"
        assert diagnose(run_of(flat, **columns)).rate == "too low"

    def test_a_reading_that_is_missing_moves_nothing(self):
        move = Move(np.array([1.0, 2.0]), np.ones(2), np.array([[1.0, 0.0, -1.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        chances = np.array([[0.2, 0.5, 0.3]])
        assert np.array_equal(move.moved(chances, np.array([[np.nan, np.nan]])), chances)
        assert np.allclose(move.moved(chances, np.array([[1.0, np.nan]])), chances)
        assert move.moved(chances, np.array([[3.0, np.nan]]))[0, 0] > 0.5

    def test_what_was_impossible_can_be_overruled(self):
        move = Move(np.zeros(1), np.ones(1), np.array([[8.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        assert move.moved(np.array([[0.0, 1.0, 0.0]]), np.array([[4.0]]))[0, 0] > 0.9
