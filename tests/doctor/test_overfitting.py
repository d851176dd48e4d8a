"""Overfitting: validation rises while training falls, or a staircase at the edges of epochs; the rate is left."""

import math

import numpy as np

from illnesses import T, found, run_of, slide

EACH = T % 25 == 24


def test_says_where_the_best_validation_was_and_leaves_the_rate():
    val = np.where(EACH, 0.8 + np.abs(T - 300) / 600 + 0.01 * np.sin(T), math.nan)
    finding = found(run_of(slide(300), val_loss=val))["overfitting"]
    assert abs(finding.window[0] - 300) <= 25 and finding.confidence >= 0.9
    assert f"stop at step {finding.window[0]}" in finding.advice and finding.factor == 1.0 and finding.restart is None


def test_a_validation_loss_that_levels_off_or_wobbles_is_none():
    for val in (0.5 + np.exp(-T / 100), 0.5 + np.exp(-T / 100) + 0.05 * np.sin(T / 13)):
        assert "overfitting" not in found(run_of(slide(), val_loss=np.where(EACH, val, math.nan)))


def test_a_training_loss_that_rises_too_is_another_illness():
    val = np.where(EACH, 0.8 + np.abs(T - 300) / 600, math.nan)
    assert "overfitting" not in found(run_of(slide(60) + np.maximum(T - 300, 0) / 1000, val_loss=val))


def test_steps_down_where_epochs_begin_are_repeats_known_by_heart():
    stairs = 2.0 - 0.3 * (T // 250) + 0.01 * np.sin(7 * T) + np.exp(-T / 40)
    finding = found(run_of(stairs, epoch=T / 250))["overfitting"]
    assert "in steps where epochs begin" in finding.sentence and finding.window[0] == 250


def test_steps_down_of_the_rate_make_no_staircase():
    stairs = 2.0 - 0.3 * (T // 250) + 0.01 * np.sin(7 * T) + np.exp(-T / 40)
    assert "overfitting" not in found(run_of(stairs, 0.1 * 0.3 ** (T // 250), epoch=T / 250))
    assert "overfitting" not in found(run_of(slide(400), epoch=T / 250))
