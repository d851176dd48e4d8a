"""Vanishing: said where gradients and updates fall from layer to layer, not where one layer differs or Adam makes up for it."""

import numpy as np
import pytest

from illnesses import N, run_of, slide
from lrkit.doctor.curve import curve_of
from lrkit.doctor.vanishing import vanishing

SGD = {"optimizer": "SGD"}


def layered(name: str, sizes, every: int = 10, seed: int = 0) -> dict:
    """Columns of a quantity that is read at every tenth row, with noise."""
    rng = np.random.default_rng(seed)
    read = np.arange(N) % every == 0
    return {
        f"{name}/layer{k}": np.where(read, size * np.exp(0.3 * rng.standard_normal(N)), np.nan) for k, size in enumerate(sizes)
    }


def said(gradients, ratios=None, meta=SGD):
    columns = layered("grad_norm", gradients) | (layered("update_ratio", ratios, seed=1) if ratios is not None else {})
    return vanishing(curve_of(run_of(slide(), meta=meta, **columns)))


def fall(each: float, layers: int, last: float = 1.0):
    """(layers,) sizes, each the same share of the next."""
    return last * each ** np.arange(layers)[::-1]


@pytest.mark.parametrize("layers, each", [(6, 0.2), (10, 0.4), (20, 0.6)])
def test_a_geometric_fall_is_found_with_its_factor(layers, each):
    finding = said(fall(each, layers), fall(each, layers, 1e-3))
    assert finding is not None and finding.sure == "likely"
    assert finding.factor == 1.0 and finding.restart is None
    shrinks = float(finding.evidence[1].split("shrinks to ")[1].split(",")[0])
    assert abs(shrinks - each) < 0.1
    assert finding.advice.startswith("leave the rate")


def test_the_optimizer_decides_where_updates_are_not_in_the_log():
    assert said(fall(0.2, 8)) is not None
    assert said(fall(0.2, 8), meta={"optimizer": "Adam"}) is None
    assert said(fall(0.2, 8), meta={}) is None


def test_adam_whose_updates_do_not_fall_is_healthy_and_one_below_its_eps_is_not():
    assert said(fall(0.2, 8), np.full(8, 1e-3), {"optimizer": "Adam"}) is None
    assert said(fall(0.2, 8), fall(0.4, 8, 1e-3), {"optimizer": "Adam"}) is not None


def test_one_layer_that_differs_is_no_fall():
    even, steady = np.ones(8), np.full(8, 1e-3)
    for place in (0, -1):
        odd, slow = even.copy(), steady.copy()
        odd[place], slow[place] = 1e-5, 1e-8
        assert said(odd, slow) is None
    assert said(np.r_[1e-5, even, 1e2], np.r_[1e-9, steady, 1e-2]) is None  # an embedding and a head


def test_a_layer_without_a_gradient_is_frozen():
    assert said(np.r_[np.zeros(4), np.ones(4)], np.r_[np.zeros(4), np.full(4, 1e-3)]) is None


def test_rates_that_fall_with_depth_by_design_are_no_illness():
    assert said(np.ones(12), fall(0.3, 12, 1e-3)) is None


def test_a_mild_fall_is_healthy():
    assert said(fall(0.6, 8), fall(0.6, 8, 1e-3)) is None


def test_layers_in_disorder_are_no_fall():
    sizes = np.exp(np.random.default_rng(0).uniform(-8, 0, 12))
    sizes[0], sizes[-1] = 1e-4, 1.0
    assert said(sizes, 1e-3 * sizes) is None


def test_silent_without_layers():
    assert vanishing(curve_of(run_of(slide(), grad_norm=np.ones(N)))) is None
    assert said(fall(0.01, 3)) is None
