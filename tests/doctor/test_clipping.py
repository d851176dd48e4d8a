"""Clipping: said where more than half of the updates are clipped to the end, with the rate or the limit that says the same."""

import numpy as np
import pytest

from illnesses import N, T, accused, run_of, slide
from lrkit.doctor.clipping import clipping
from lrkit.doctor.curve import curve_of

SGD = {"optimizer": "SGD"}


def norms(seed: int = 0, size: float = 2.0):
    """(N,) gradient norms with the spread that batches make."""
    return size * np.exp(0.4 * np.random.default_rng(seed).standard_normal(N))


def clipped(limit: float, meta=SGD, norm=None, every: int = 1):
    norm = norms() if norm is None else norm
    factor = np.where(T % every == 0, np.minimum(1.0, limit / norm), np.nan)
    return run_of(slide(), meta=meta, grad_norm=norm, clip_factor=factor)


def said(run):
    return clipping(curve_of(run))


@pytest.mark.parametrize("every", [1, 20])
def test_the_rate_that_a_clip_makes_is_advised(every):
    finding = said(clipped(0.1, every=every))
    assert finding is not None and finding.sure in ("likely", "certain")
    assert 0.04 < finding.factor < 0.06  # 0.1 / 2
    assert "to 0.005" in finding.advice  # the rate is 0.1
    assert "raise the limit from 0.1 to 3." in finding.advice  # 2 · e^(0.4 · 1.28)


@pytest.mark.parametrize("limit", [2.2, 3.0, 100.0])
def test_half_and_less_is_healthy(limit):
    assert said(clipped(limit)) is None


def test_a_clip_that_engages_only_early_is_healthy():
    early = norms() * np.where(T < 0.6 * N, 10.0, 0.5)
    assert said(clipped(2.0, norm=early)) is None


def test_under_adam_a_constant_factor_cancels():
    finding = said(clipped(0.1, meta={"optimizer": "AdamW"}))
    assert finding is not None and finding.factor == 1.0 and finding.sure == "possible"
    assert "cancels" in finding.counter[0] and "rate" not in finding.advice


def test_without_the_norms_before_it_the_ceiling_is_seen():
    left = np.minimum(norms(), 1.0)
    finding = said(run_of(slide(), grad_norm=left))
    assert finding is not None and finding.factor == 1.0 and finding.sure == "likely"
    assert "sits at 1" in finding.sentence and "not known" in finding.counter[0]
    assert said(run_of(slide(), grad_norm=np.minimum(norms(), 2.5))) is None


def test_norms_that_are_not_clipped_have_no_ceiling():
    for seed in range(5):
        assert said(run_of(slide(), grad_norm=norms(seed))) is None
    assert said(run_of(slide(), grad_norm=np.zeros(N))) is None


def test_a_factor_without_norms_still_names_the_rate():
    run = run_of(slide(), meta=SGD, clip_factor=np.full(N, 0.25))
    finding = said(run)
    assert finding is not None and finding.factor == 0.25 and finding.window == (0, N - 1)


def test_silent_without_its_columns_and_on_few_values():
    assert said(run_of(slide())) is None
    few = np.full(N, np.nan)
    few[:9] = 0.1
    assert said(run_of(slide(), clip_factor=few)) is None
    assert not accused(run_of(slide()))
