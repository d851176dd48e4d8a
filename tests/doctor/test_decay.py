"""Decay too early or too late: steps lost, in numbers; plateaus and tails by design are no fault."""

import numpy as np
import pytest

from illnesses import T, found, run_of
from lrkit import parse


def under(text, tau=400, gain=0.0, flat=None):
    lr = np.array(parse(text)(T), dtype=float)
    way = np.cumsum(lr)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(T))
    if flat is not None:
        return lr, flat + (2.3 - flat) * np.exp(-T / 30) - gain * (1 - lr) * (T > 500) + noise
    return lr, 0.1 + 2.2 * np.exp(-way / tau) + noise


class TestTooEarly:
    def test_the_steps_lost_are_named_and_a_later_begin_advised(self):
        lr, loss = under("warmup 20 > hold 230 > linear 50 to 0.001")
        finding = found(run_of(loss, lr))["decay_too_early"]
        assert "about 70" in finding.evidence[0] and "let the decay begin at step 799" in finding.advice
        assert finding.factor == 1.0

    @pytest.mark.parametrize(
        ("text", "tau"),
        [
            ("warmup 20 > hold 230 > linear 50 to 0.001", 40),  # it had levelled off before
            ("warmup 20 > cosine 980", 400),
            ("warmup 20 > hold 780 > linear 200", 400),
            ("exponential 1000 to 0.001", 60),
        ],
    )
    def test_a_tail_after_the_fall_is_over_and_decays_that_end_with_the_run_are_none(self, text, tau):
        lr, loss = under(text, tau)
        assert "decay_too_early" not in found(run_of(loss, lr))


class TestTooLate:
    def test_a_long_plateau_before_a_short_decay(self):
        lr, loss = under("warmup 20 > hold 920 > linear 60", gain=0.5, flat=1.2)
        finding = found(run_of(loss, lr))["decay_too_late"]
        assert "let the decay begin at step 799 in place of" in finding.advice and finding.restart == 799
        assert any("gained nothing" in line for line in finding.evidence)

    def test_a_plateau_that_decays_in_time_is_by_design(self):
        lr, loss = under("warmup 20 > hold 780 > linear 200", gain=0.5, flat=1.2)
        assert not found(run_of(loss, lr))

    def test_a_decay_that_gains_nothing_is_none(self):
        lr, loss = under("warmup 20 > hold 920 > linear 60", gain=0.0, flat=1.2)
        assert "decay_too_late" not in found(run_of(loss, lr))
