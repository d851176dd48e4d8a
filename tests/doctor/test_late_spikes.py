"""Late spikes: out of the run's own noise, for some rows; whether it recovers; the data's order; and what is no spike."""

import numpy as np
import pytest

from illnesses import N, T, accused, found, run_of, slide


def spiky(places, height=1.0, tau=6.0, **more):
    return slide(**more) + sum(np.where(place <= T, height * np.exp(-(T - place) / tau), 0) for place in places)


def test_spikes_are_counted_and_the_run_is_rewound_to_before_the_first():
    finding = found(run_of(spiky([400, 600, 800]), meta={"betas": [0.9, 0.999]}))["late_spikes"]
    assert "3 spikes from step 400" in finding.evidence[0] and "each recovers" in finding.evidence[1]
    assert finding.restart == 351 and finding.factor == 0.5
    assert "change the rate from 0.1 to 0.05" in finding.advice and "beta2 from 0.999 to 0.95" in finding.advice
    assert "the order of the data could do it too" in finding.counter[0]


def test_one_that_recovers_is_possible_only_and_one_that_does_not_is_likely():
    assert found(run_of(spiky([600])))["late_spikes"].confidence < 0.6
    lasting = found(run_of(spiky([600], tau=1e9)))["late_spikes"]
    assert lasting.confidence >= 0.8 and "the last does not recover" in lasting.evidence[1]


def test_spikes_at_the_edges_of_epochs_are_the_datas():
    finding = found(run_of(spiky(range(200, N, 100)), epoch=T / 100))["late_spikes"]
    assert "the order of the data" in finding.sentence and finding.factor == 1.0 and finding.restart is None
    elsewhere = found(run_of(spiky(range(250, N, 100)), epoch=T / 100))["late_spikes"]
    assert "the order of the data" not in elsewhere.sentence


def test_spikes_that_fill_a_third_of_the_rows_do_not_hide_one_another():
    assert "late_spikes" in accused(run_of(spiky(range(300, N, 60), tau=15)))


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_two_modes_heavy_tails_and_single_outliers_are_none(seed):
    rng = np.random.default_rng(seed)
    for factor in (1 + (rng.random(N) < 0.5), np.exp(0.3 * rng.standard_t(3, N)), 1 + 5 * (rng.random(N) < 0.02)):
        assert "late_spikes" not in accused(run_of(slide(seed=seed) * factor))


def test_a_rise_after_a_warm_restart_of_the_rate_is_none():
    rate = 0.5 + 0.5 * np.cos(np.pi * (T % 250) / 250)
    assert "late_spikes" not in found(run_of(slide() + 0.5 * (rate > 0.7) * (T > 250), rate))


def test_a_loss_below_0_is_read_too():
    assert "late_spikes" in accused(run_of(spiky([400, 600, 800]) - 3))


def test_of_a_log_without_a_rate_the_factor_is_named():
    from lrkit import Run

    assert "divide the rate by 2" in found(Run({"loss": spiky([400, 600, 800])}))["late_spikes"].advice
