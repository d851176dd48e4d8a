"""What the rules read off the rows: phases of a schedule, spikes, epochs, and a log whose rows are not equally far apart."""

import numpy as np
import pytest

from illnesses import N, T, found, run_of, slide
from lrkit import Run, parse
from lrkit.doctor.curve import curve_of
from lrkit.doctor.signal import edges, phases, slope, spikes, way


def phases_of(text):
    return phases(curve_of(run_of(slide(), np.array(parse(text).resolve(total=N)(T), dtype=float))))


def test_phases_of_warm_up_hold_and_decay():
    plan = phases_of("warmup 100 > hold 600 > linear 300")
    assert plan is not None and plan.simple and not plan.rising and plan.peak == 1.0
    assert 95 <= plan.warm <= 100 and 700 <= plan.decay <= 735


def test_phases_of_other_schedules():
    constant, rising, cyclic = (phases_of(text) for text in ("hold 1000", "warmup 1000", "repeat 4 (cosine 250)"))
    assert constant is not None and (constant.warm, constant.decay, constant.rising) == (0, N, False)
    assert rising is not None and rising.rising and rising.simple
    assert cyclic is not None and not cyclic.simple
    assert phases(curve_of(Run({"loss": slide()}))) is None


def test_spikes_have_their_rows_height_and_level():
    loss = slide(noise=0.01) + np.where(abs(T - 602) < 3, 2.0, 0.0)
    (spike,) = spikes(curve_of(run_of(loss)))
    assert (spike.first, spike.last) == (600, 604) and spike.height == pytest.approx(2.0, abs=0.05)
    assert spike.level == pytest.approx(0.1, abs=0.03)


def test_epochs_begin_where_their_number_rises():
    assert list(edges(curve_of(run_of(slide(), epoch=T // 250)))) == [250, 500, 750]
    assert not len(edges(curve_of(run_of(slide()))))


def test_the_way_is_counted_in_steps_not_in_rows():
    step = np.r_[np.arange(500), 500 + 100 * np.arange(500)]
    run = Run({"step": step, "loss": slide()})
    assert way(curve_of(run))[50] < 0.05


def test_a_slope_comes_with_its_error():
    change, error = slope(T.astype(float), 2 * T + np.random.default_rng(0).standard_normal(N))
    assert change == pytest.approx(2 * (N - 1), abs=5 * error) and 0.05 < error < 0.3
    assert slope(T[:3].astype(float), T[:3].astype(float)) == (0.0, float("inf"))


@pytest.mark.parametrize("loss", [np.ones(50), np.zeros(200), np.r_[5.0, np.zeros(99)], np.arange(40.0), -np.arange(300.0)])
def test_odd_losses_upset_no_rule(loss):
    n = len(loss)
    for rate in (np.ones(n), np.zeros(n), np.linspace(0, 1, n), np.r_[1.0, np.zeros(n - 1)]):
        more = {"val_loss": loss, "epoch": np.arange(n) // 20, "grad_norm": loss}
        assert isinstance(found(Run({"loss": loss, "lr": rate, **more})), dict)
        assert isinstance(found(Run({"step": np.zeros(n), "loss": loss, "lr": rate, **more})), dict)
