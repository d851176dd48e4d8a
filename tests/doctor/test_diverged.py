"""Diverged: the explosion, its masks, where the rise began, and what is not the rate."""

import math

import numpy as np
import pytest

from illnesses import N, T, found, run_of, slide

NAN_AT_500 = np.where(T >= 500, math.nan, slide())


def test_a_loss_of_exactly_0_beside_a_nan_gradient_is_an_explosion():
    loss = np.where(T >= 500, 0.0, slide())
    finding = found(run_of(loss, grad_norm=np.where(T >= 500, math.nan, 1.0)))["diverged"]
    assert finding.window[1] == N - 1 and "exactly 0 from step 500" in finding.evidence[0]
    assert "diverged" in found(run_of(loss))


def test_a_loss_that_reaches_0_by_itself_is_none():
    assert "diverged" not in found(run_of(np.maximum(slide(40, low=-0.1, noise=0.001), 0.0)))
    assert "diverged" not in found(run_of(np.where(T >= 500, 0.0, slide()), grad_norm=np.ones(N)))


def test_during_warm_up_the_rate_where_the_rise_began_is_the_measure():
    rate = np.minimum(T / 500, 1.0)
    loss = np.where(T >= 260, math.nan, slide() + np.maximum(np.exp((T - 200) / 5) - 1, 0))
    finding = found(run_of(loss, rate))["diverged"]
    assert finding.restart == 0 and 0.38 / 3 < finding.factor * rate[259] < 0.42 / 3
    assert "where the warm-up had reached 0.4" in finding.evidence[1]


def test_after_it_the_run_is_rewound_to_before_the_rise():
    finding = found(run_of(NAN_AT_500))["diverged"]
    assert finding.factor == pytest.approx(1 / 3) and finding.restart is not None and 400 <= finding.restart < 500


@pytest.mark.parametrize("meta", [{"fp16": True}, {"precision": "16-mixed"}, {"dtype": "float16"}, {"dtype": "torch.float16"}])
def test_float16_is_suspected_first(meta):
    finding = found(run_of(NAN_AT_500, meta=meta))["diverged"]
    assert finding.advice.startswith("first train in bfloat16") and "float16" in finding.counter[0]


@pytest.mark.parametrize("meta", [{"precision": "bf16-mixed"}, {"dtype": "bfloat16"}, {"dtype": "float32"}, {}])
def test_other_precisions_are_not(meta):
    assert found(run_of(NAN_AT_500, meta=meta))["diverged"].advice.startswith("change the rate")


def test_a_falling_loss_scale_tells_float16():
    scale = np.where(T > 480, 1.0, 65536.0)
    assert "the loss scale falls from 65536 to 1" in found(run_of(NAN_AT_500, loss_scale=scale))["diverged"].counter[0]


def test_an_infinite_validation_loss_is_not_blamed_on_the_rate():
    finding = found(run_of(slide(), val_loss=np.where(T % 100 == 99, math.inf, math.nan)))["diverged"]
    assert finding.factor == 1.0 and finding.confidence < 0.6 and "leave the rate" in finding.advice


def test_runs_that_end_above_their_start_are_told_from_noise():
    assert "diverged" in found(run_of(np.where(T < 100, slide(), 2.6) + 0.02 * np.sin(T)))
    wild = 2.0 + 50 * np.random.default_rng(0).random(N) * (T > 3)
    assert "diverged" in found(run_of(wild))
    wrong = sum("diverged" in found(run_of(2.3 + 0.1 * np.random.default_rng(s).standard_normal(N))) for s in range(50))
    assert wrong <= 1


def test_a_run_that_is_stuck_a_little_above_its_start_after_a_deep_fall_is_not_diverged():
    assert "diverged" not in found(run_of(np.where(T < 800, slide(), 2.35) + 0.01 * np.sin(T)))


def test_a_log_that_ends_as_the_loss_leaps_is_an_explosion():
    rate = np.minimum(T / 1000, 1.0) + 1e-3
    finding = found(run_of(np.where(T < N - 2, slide(), 100.0 ** (T - N + 3)), rate))["diverged"]
    assert "the log ends as the loss leaps to 1e+04" in finding.evidence[0] and finding.factor == pytest.approx(1 / 3, rel=0.02)
    assert "diverged" not in found(run_of(np.where(T < N - 1, slide(), 1e4)))


def test_a_gauge_that_was_read_beside_a_nan_loss_does_not_hide_the_explosion():
    """A validation in the row would say that the loss was merely not logged; what every update measures does not."""
    ratio = np.where(T % 3 == 0, 1e-3, math.nan)
    run = run_of(NAN_AT_500, grad_cosine=ratio, update_ratio=ratio, **{"rms_t/head": ratio})
    assert found(run)["diverged"].confidence == found(run_of(NAN_AT_500))["diverged"].confidence >= 0.9
