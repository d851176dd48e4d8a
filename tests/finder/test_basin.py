"""The basin's curves have the shape that they promise, and what is believed after some runs is near the truth."""

import math

import numpy as np
import pytest

from lrkit.finder.basin import DROP, Seen, believe, missing

TRUE = np.array([[-1.0, 2.0, 0.2, 0.6, 1.5, 1.1, 1.8, 5.0, 0.1, 0.0]])  # m, p, b, δ, p₂, a, w, s, k, drop
GRID = np.arange(-4, 3, 0.01)


def twin(basin, x: float, shorter: float) -> float:
    """r in the words of the module's docstring, one number at a time."""
    m, p, b, delta, p2, a, w, s, k, _ = basin
    sigma = lambda z: 1 / (1 + 10**z)  # noqa: E731
    q = x - m - a * shorter
    u = (1 - b) * sigma(p * q) + b * sigma(p2 * (q - delta))
    v = sigma(-s * (x - m - w - k * shorter))
    return u + (1 - u) * v


def runs(places, shorter: float, untrained=2.0, drop=1.5, scale=1.0, x0=0.0) -> list[Seen]:
    r = missing(TRUE, np.array(places), shorter)[0]
    return [Seen(x0 + x, shorter, scale * (untrained - drop * (1 - y))) for x, y in zip(places, r, strict=True)]


BRACKET = runs([-0.9, -0.15, 0.6, 1.35], 1.2)
RUNG = runs([-0.2, 0.2, 0.6], 0.55)


class TestTheCurve:
    def test_is_the_formula(self):
        x = np.linspace(-3, 2, 11)
        for shorter in (0.0, 0.7):
            assert missing(TRUE, x, shorter)[0] == pytest.approx([twin(TRUE[0], one, shorter) for one in x], rel=1e-12)

    def test_falls_to_one_lowest_place_and_rises_again(self):
        r = missing(TRUE, GRID, 0.0)[0]
        low = int(r.argmin())
        assert (np.diff(r[: low + 1]) <= 1e-12).all() and (np.diff(r[low:]) >= -1e-12).all()
        assert r[0] > 0.99 and r[-1] > 0.99 and r.min() < 0.05

    def test_wants_a_higher_rate_the_shorter_the_run(self):
        best = [GRID[missing(TRUE, GRID, d)[0].argmin()] for d in (0.0, 0.5, 1.0)]
        assert best == sorted(best) and best[0] < best[-1]


class TestTheBelief:
    def test_finds_the_true_optimum_and_knows_it(self):
        belief, best = believe(BRACKET + RUNG, 2.0, 0.0, False), GRID[missing(TRUE, GRID, 0.0)[0].argmin()]
        low, high = belief.interval(0.8)
        assert abs(belief.rate - best) < 0.35 and low < best + 0.2 and high > best - 0.2
        assert missing(TRUE, np.array([belief.rate]), 0.0)[0, 0] - missing(TRUE, GRID, 0.0).min() < 0.01

    def test_is_narrower_after_more_runs(self):
        few, many = believe(BRACKET, 2.0, 0.0, False).interval(0.8), believe(BRACKET + RUNG, 2.0, 0.0, False).interval(0.8)
        assert many[1] - many[0] < few[1] - few[0]

    def test_is_the_same_each_time(self):
        assert np.array_equal(believe(RUNG, 2.0, 0.0, False).basins, believe(RUNG, 2.0, 0.0, False).basins)

    @pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
    def test_does_not_depend_on_the_losss_scale(self, scale):
        scaled = [Seen(run.x, run.shorter, scale * run.loss) for run in BRACKET + RUNG]
        assert believe(scaled, 2.0 * scale, 0.0, False).rate == believe(BRACKET + RUNG, 2.0, 0.0, False).rate

    def test_moves_with_the_rates(self):
        moved = runs([-0.9, -0.15, 0.6, 1.35], 1.2, x0=-3.0)
        assert believe(moved, 2.0, -3.0, False).rate == pytest.approx(believe(BRACKET, 2.0, 0.0, False).rate - 3.0, abs=1e-6)

    def test_takes_a_diverged_run_for_a_bound_not_for_a_number(self):
        safe = believe([*RUNG, Seen(0.9, 0.55, math.nan)], 2.0, 0.0, False)
        open_above = believe(RUNG[:2], 2.0, 0.0, False)
        assert safe.interval(0.8)[1] < open_above.interval(0.8)[1]
        assert believe([*RUNG, Seen(0.9, 0.55, 1e30)], 2.0, 0.0, False).rate == safe.rate, "how far it flew says nothing"

    def test_chooses_below_the_middle_where_the_edge_is_steep(self):
        """Too high is dearer than too low, so the choice lies below where the best is as likely above as below."""
        steep = np.array([[-1.0, 1.5, 0.0, 0.5, 1.5, 1.1, 1.8, 10.0, 0.0, 0.0]])
        places = np.array([-0.6, 0.0, 0.4, 0.8])
        r = missing(steep, places, 0.4)[0]
        belief = believe([Seen(x, 0.4, 2 - 1.5 * (1 - y)) for x, y in zip(places, r, strict=True)], 2.0, 0.0, False)
        low, high = belief.interval(0.9)
        assert low < belief.rate < (low + high) / 2

    def test_expects_the_losses_that_it_has_seen(self):
        belief = believe(BRACKET + RUNG, 2.0, 0.0, False)
        expected = belief.loss(np.array([run.x for run in RUNG]), 0.55)
        assert expected == pytest.approx([run.loss for run in RUNG], abs=0.1)

    def test_stays_possible(self):
        basins = believe(BRACKET + RUNG, 2.0, 0.0, False).basins
        r = missing(basins, GRID, 0.3)
        assert np.isfinite(r).all() and (r >= -1e-12).all() and (r <= 1 + 1e-12).all() and (basins[:, DROP] >= 0).all()

    def test_moves_smoothly_with_what_was_seen(self):
        """A last bit in a loss must not change the answer."""
        nudged = [Seen(run.x, run.shorter, run.loss * (1 + 1e-9)) for run in BRACKET + RUNG]
        assert believe(nudged, 2.0, 0.0, False).rate == believe(BRACKET + RUNG, 2.0, 0.0, False).rate
