"""Saddle: flat at the level of a blind guess, then left at once, or never; the rate is not lowered."""

import math

import numpy as np
import pytest

from illnesses import N, T, found, run_of, slide


def escaping(level, until=300, noise=0.005):
    fall = 1 / (1 + np.exp(-(T - until) / 15))
    return level * (1 - 0.8 * fall) + noise * np.random.default_rng(0).standard_normal(N)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_number_of_classes_is_named(classes):
    finding = found(run_of(escaping(math.log(classes))))["saddle"]
    assert f"= ln {classes}" in finding.evidence[0] and 200 < finding.window[1] < 330
    assert "do not lower the rate" in finding.advice and finding.factor == 1.0


def test_a_plateau_at_the_start_is_seen_at_any_level():
    assert "where it began" in found(run_of(escaping(0.37)))["saddle"].evidence[0]


def test_a_slow_start_under_a_warm_up_is_none():
    warm = np.minimum(T / 500, 1.0)
    assert "saddle" not in found(run_of(2.3 * np.exp(-np.cumsum(warm) / 100) + 0.005 * np.sin(T), 0.1 * warm))
    assert "saddle" not in found(run_of(slide()))


def test_a_log_that_is_dense_at_first_has_no_plateau_there():
    from lrkit import Run

    step = np.r_[np.arange(200), 200 + 100 * np.arange(200)]
    loss = 0.1 + 2.2 * np.exp(-step / 3000)
    assert "saddle" not in found(Run({"step": step, "loss": loss, "lr": np.full(400, 0.1)}))


def test_chance_that_is_never_left_is_possible_only():
    flat = math.log(10) + 0.01 * np.random.default_rng(0).standard_normal(N) + 0.1 * np.exp(-T / 5)
    finding = found(run_of(flat))["saddle"]
    assert finding.confidence < 0.6 and "comes down to 2.30" in finding.sentence and "labels" in finding.counter[0]
    assert "saddle" not in found(run_of(flat - 0.0002 * T))


def test_a_loss_that_has_not_moved_from_chance_is_left_to_cannot_tell():
    assert "saddle" not in found(run_of(math.log(10) + 0.01 * np.random.default_rng(0).standard_normal(N)))
