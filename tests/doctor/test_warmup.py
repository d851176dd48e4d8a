"""Warm-up too short or too long: steps lost, in numbers; a catapult, one cycle and a log that was cut are no fault."""

import numpy as np
import pytest

from illnesses import N, T, accused, found, run_of, slide
from lrkit import parse


class TestTooShort:
    HUMP = np.where(T < 200, 2.3 + 4 * np.minimum(T / 10, 1) * np.exp(-T / 60), 0) + (T >= 200) * slide(150, high=6)

    def test_a_blow_that_is_overcome_at_the_same_rate(self):
        finding = found(run_of(self.HUMP))["warmup_too_short"]
        assert finding.confidence >= 0.6 and finding.restart == 0 and finding.factor == 1.0
        assert "steps lost" in finding.evidence[0] and "in place of 0" in finding.advice

    def test_a_catapult_that_is_soon_back_is_none(self):
        assert "warmup_too_short" not in found(run_of(np.where(T < 30, 2.3 + 0.05 * T, slide())))

    def test_where_the_rate_fell_before_it_came_back_the_rate_was_too_high(self):
        lr = np.where(T < 100, 0.1, 0.01)
        assert "warmup_too_short" not in found(run_of(self.HUMP, lr))

    def test_without_a_rate_nothing_is_said(self):
        from lrkit import Run

        assert "warmup_too_short" not in found(Run({"loss": self.HUMP}))


class TestTooLong:
    @staticmethod
    def rising(share, n=N):
        lr = np.array(parse(f"warmup {share}% > cosine").resolve(total=n)(np.arange(n)))
        return lr, 0.1 + 2.2 * np.exp(-np.cumsum(lr) / (0.25 * n)) + 0.01 * np.sin(np.arange(n))

    @pytest.mark.parametrize("share", [60, 80, 99])
    def test_the_steps_lost_and_a_shorter_one_are_named(self, share):
        lr, loss = self.rising(share)
        finding = found(run_of(loss, lr))["warmup_too_long"]
        assert finding.confidence >= 0.6 and "steps lost" in finding.evidence[0]
        assert "warm up over 50 steps in place of" in finding.advice

    @pytest.mark.parametrize("share", [5, 10, 30])
    def test_usual_ones_and_one_cycle_are_none(self, share):
        lr, loss = self.rising(share)
        assert "warmup_too_long" not in found(run_of(loss, lr))

    def test_a_log_of_the_first_hundred_updates_is_not_accused(self):
        lr, loss = self.rising(99, 100)
        assert not accused(run_of(loss, lr))

    def test_a_run_that_is_still_under_way_is_none(self):
        lr, loss = self.rising(99)
        assert "warmup_too_long" not in found(run_of(loss, lr, meta={"max_steps": 10_000}))
