"""Each recipe against its formula, written out naively, step by step."""

import math

import numpy as np
import pytest

from lrkit import schedules as s
from lrkit.errors import InputError

T = range(1000)


def cos01(u: float) -> float:
    return (1 + math.cos(math.pi * u)) / 2


def triangle(t: int, half: int) -> float:
    """Smith's formula (arXiv:1506.01186)."""
    cycle = math.floor(1 + t / (2 * half))
    return max(0.0, 1 - abs(t / half - 2 * cycle + 1))


def zigzag_cycle(t: int, half: int) -> int:
    return math.floor(1 + t / (2 * half))


TWINS = {
    "constant": (s.constant(0.5), lambda t: 0.5),
    "step, every n": (s.step(30, 0.5), lambda t: 0.5 ** (t // 30)),
    "step, with a floor": (s.step(30, 0.5, floor=0.1), lambda t: max(0.1, 0.5 ** (t // 30))),
    "halve every ten epochs": (s.step(10 * 7, 0.5), lambda t: 0.5 ** ((t // 7) // 10)),
    "multi-step": (s.multi_step([100, 300, 500], 0.1), lambda t: 0.1 ** sum(t >= m for m in (100, 300, 500))),
    "exponential per step": (s.exponential(0.99), lambda t: 0.99**t),
    "exponential per epoch, 0.95^epoch": (s.exponential(0.95, every=50, stairs=True), lambda t: 0.95 ** (t // 50)),
    "exponential with a floor": (s.exponential(0.99, floor=0.2), lambda t: max(0.2, 0.99**t)),
    "inverse time, α/(1 + k·epoch)": (s.inverse_time(0.1, every=50, stairs=True), lambda t: 1 / (1 + 0.1 * (t // 50))),
    "inverse time, per step": (s.inverse_time(0.01), lambda t: 1 / (1 + 0.01 * t)),
    "power time decay": (s.time_decay(0.05, p=0.7), lambda t: (1 + 0.05 * t) ** -0.7),
    "polynomial": (s.polynomial(1000, 0.9), lambda t: (1 - t / 1000) ** 0.9),
    "polynomial with a floor": (s.polynomial(1000, 2, end=0.1), lambda t: 0.1 + 0.9 * (1 - t / 1000) ** 2),
    "linear": (s.linear(1000), lambda t: 1 - t / 1000),
    "cosine": (s.cosine(1000), lambda t: cos01(t / 1000)),
    "cosine to a floor": (s.cosine(1000, end=0.1), lambda t: 0.1 + 0.9 * cos01(t / 1000)),
    "cosine to a power": (s.cosine(1000, power=3), lambda t: cos01(t / 1000) ** 3),
    "k-decay": (s.cosine(1000, k=2), lambda t: cos01((t / 1000) ** 2)),
    "tanh": (s.tanh(1000, -6, 3), lambda t: (1 - math.tanh(-6 * (1 - t / 1000) + 3 * t / 1000)) / 2),
    "REX": (s.rex(1000), lambda t: (1 - t / 1000) / (1 - t / 2000)),
    "warm restarts": (s.warm_restarts(100), lambda t: cos01(t % 100 / 100)),
    "decaying peaks": (s.warm_restarts(100, times=10, peak_decay=0.8), lambda t: 0.8 ** (t // 100) * cos01(t % 100 / 100)),
    "peaks above a floor": (
        s.warm_restarts(100, times=10, peak_decay=0.8, end=0.1),
        lambda t: 0.1 + (max(0.1, 0.8 ** (t // 100)) - 0.1) * cos01(t % 100 / 100),
    ),
    "given periods": (
        s.warm_restarts([100, 300, 600]),
        lambda t: cos01(t / 100) if t < 100 else cos01((t - 100) / 300) if t < 400 else cos01((t - 400) / 600),
    ),
    "triangular": (s.triangular(50, low=0.25), lambda t: 0.25 + 0.75 * triangle(t, 50)),
    "triangular2": (s.triangular2(50, low=0.25), lambda t: 0.25 + 0.75 * triangle(t, 50) / 2 ** (zigzag_cycle(t, 50) - 1)),
    "exp_range": (s.exp_range(50, gamma=0.999, low=0.25), lambda t: 0.25 + 0.75 * triangle(t, 50) * 0.999**t),
    "from 0.001 to 0.1 and back": (s.from_range(0.001, 0.1, 50), lambda t: 0.001 + 0.099 * triangle(t, 50)),
    "from a range, triangular2": (
        s.from_range(0.001, 0.1, 50, "triangular2"), lambda t: 0.001 + 0.099 * triangle(t, 50) / 2 ** (zigzag_cycle(t, 50) - 1)
    ),
    "linear warm-up": (s.warmup(100), lambda t: min(1, (t + 1) / 100)),
    "cosine warm-up": (s.warmup(100, easing="cosine"), lambda t: 1 - cos01(min(1, (t + 1) / 100))),
    "exponential warm-up": (s.warmup(100, start=0.01, easing="exponential"), lambda t: 0.01 ** (1 - min(1, (t + 1) / 100))),
    "warm-up from a start": (s.warmup(100, start=0.1), lambda t: 0.1 + 0.9 * min(1, (t + 1) / 100)),
    "untuned linear": (s.untuned_warmup(0.99), lambda t: min(1, (t + 1) * (1 - 0.99) / 2)),
    "untuned exponential": (s.untuned_warmup(0.99, "exponential"), lambda t: 1 - math.exp(-(t + 1) * (1 - 0.99))),
    "gradual warm-up to a multiple": (
        s.gradual_warmup(100, 8, s.linear(900)), lambda t: 1 + 7 * t / 100 if t < 100 else 8 * (1 - (t - 100) / 900)
    ),
    "the tutorials' warm-up and power": (
        s.warmup_power(epochs=10, batches=100, warm=2, power=0.9),
        lambda t: ((t // 100) * 100 + t % 100) / (2 * 100) if t // 100 < 2 else (1 - (t - 200) / 800) ** 0.9,
    ),
    "the tutorials' warm-up and power, progress of the whole run": (
        s.warmup_power(epochs=10, batches=100, warm=2, power=2, from_start=True),
        lambda t: t / 200 if t < 200 else (1 - t / 1000) ** 2,
    ),
    "WSD, linear": (
        s.wsd(1000, 100, 200, "linear"), lambda t: (t + 1) / 100 if t < 100 else 1 if t < 800 else 1 - (t - 800) / 200
    ),
    "WSD, 1-square": (
        s.wsd(1000, 100, 200, "1-square"), lambda t: (t + 1) / 100 if t < 100 else 1 if t < 800 else 1 - ((t - 800) / 200) ** 2
    ),
    "WSD, exponential": (
        s.wsd(1000, 100, 200, "exponential", 0.1),
        lambda t: (t + 1) / 100 if t < 100 else 1 if t < 800 else 0.1 ** ((t - 800) / 200)
    ),
    "WSD-S": (
        s.wsd_s([500, 500], 100, 100),
        lambda t: (t + 1) / 100 if t < 100 else 1 - (t - 400) / 100 if 400 <= t < 500 else 1 - (t - 900) / 100 if t >= 900 else 1,
    ),
    "inverse square root": (s.inverse_sqrt(100), lambda t: (t + 1) / 100 if t < 100 else math.sqrt(100 / t)),
    "inverse square root, cooled down": (
        s.inverse_sqrt(100, 1000, 200),
        lambda t: (t + 1) / 100 if t < 100 else math.sqrt(100 / t) if t < 800 else math.sqrt(100 / 800) * (1 - (t - 800) / 200),
    ),
    "power scheduler": (s.power_scheduler(100, 0.51), lambda t: (t + 1) / 100 if t < 100 else (t / 100) ** -0.51),
    "one cycle": (
        s.one_cycle(1000),
        lambda t: 0.04 + 0.96 * (1 - cos01((t + 1) / 300)) if t < 300 else 4e-6 + (1 - 4e-6) * cos01((t - 300) / 700),
    ),
    "piecewise": (
        s.piecewise([(0, 0.1), (200, 1), (1000, 0)]), lambda t: 0.1 + 0.9 * t / 200 if t < 200 else 1 - (t - 200) / 800
    ),
    "a scheduler stepped once an epoch": (s.Each(s.cosine(10), 100), lambda t: cos01(t // 100 / 10)),
}  # fmt: skip


@pytest.mark.parametrize(("schedule", "twin"), TWINS.values(), ids=TWINS)
def test_is_its_formula(schedule, twin):
    expected = np.array([twin(t) for t in T])
    assert schedule(np.arange(1000)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert s.parse(str(schedule)) == schedule, "each has a text"


def test_growing_periods_are_a_geometric_series():
    schedule = s.warm_restarts(10, growth=2)
    starts = [10 * (2**k - 1) for k in range(20)]
    assert all(schedule(start) == 1.0 for start in starts)
    assert schedule(starts[7] + 10 * 2**6) == pytest.approx(0.5)


def test_one_cycles_momentum_mirrors_its_rate():
    rate, momentum = s.one_cycle(1000), s.one_cycle_momentum(1000)
    t = np.arange(1000)
    assert np.argmax(rate(t)) in (299, 300) and np.argmin(momentum(t)) in (299, 300)
    assert 0.95 * momentum(299) == pytest.approx(0.85) and np.corrcoef(rate(t), momentum(t))[0, 1] < -0.9


def test_radams_warm_up_is_the_papers():
    """arXiv:1908.03265, eq. 5, with β₂ = 0.999."""
    schedule, top = s.radam_warmup(0.999), 2 / (1 - 0.999) - 1
    for t in (0, 10, 1000, 50_000):
        n = t + 5
        rho = top - 2 * n * 0.999**n / (1 - 0.999**n)
        expected = math.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
        assert schedule(t) == pytest.approx(expected, rel=1e-9)


def test_chebyshev_steps_solve_a_quadratic():
    """Gradient steps of these sizes take any eigenvalue in [low, 1] down by the Chebyshev polynomial's factor."""
    schedule, low, n = s.chebyshev(16, low=0.05), 0.05, 16
    rates = schedule(np.arange(n)) / low
    for eigenvalue in (0.05, 0.3, 0.7, 1.0):
        left = abs(np.prod(1 - rates * eigenvalue))
        x = np.cosh(n * np.arccosh((1 + low) / (1 - low)))
        assert left <= 1 / x * (1 + 1e-9)
    assert sorted(s.chebyshev_order(64)) == list(range(64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: s.step(0), r"step\(every=0\)"),
        (lambda: s.step(10, gamma=0), r"Geometric\(ratio=0\)"),
        (lambda: s.multi_step([5, 3]), "milestones must rise"),
        (lambda: s.multi_step([0]), "at least 1"),
        (lambda: s.exponential(1.1), "what grows needs a ceiling"),
        (lambda: s.warm_restarts(10, peak_decay=2), "peaks must not grow"),
        (lambda: s.warm_restarts(10, peak_decay=0.8, end=0.1), "need a number of periods. Say times="),
        (lambda: s.warm_restarts([10], times=3), "a list says every period"),
        (lambda: s.from_range(0.1, 0.01, 10), "low must be below high"),
        (lambda: s.from_range(0.01, 0.1, 10, "square"), "There are triangular, triangular2, exp_range"),
        (lambda: s.one_cycle(1), "at least 2"),
        (lambda: s.one_cycle(100, rise=30), "For 30 per cent say 0.3"),
        (lambda: s.inverse_sqrt(10, cooldown=5), "needs an end. Say total="),
        (lambda: s.inverse_sqrt(10, total=12, cooldown=5), "leave no update between them"),
        (lambda: s.wsd_s([10], 5, 5), "leaves no update to hold"),
        (lambda: s.chebyshev(12), "powers of two. Take 16"),
        (lambda: s.chebyshev(16, low=1), "low must be below 1"),
        (lambda: s.untuned_warmup(1.0), "beta2 must be below 1"),
        (lambda: s.radam_warmup(0.5), r"Take beta2 in \(0.6, 1\)"),
        (lambda: s.gradual_warmup(5, 0.5), "multiplier"),
        (lambda: s.warmup_power(5, 10, 5), "must leave epochs for the decay"),
        (lambda: s.tanh(10, 3, 1), "high must be above low"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make()
