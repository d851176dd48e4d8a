"""Spike due: each sign in columns that are drawn, said at the end of the log alone; silence on what a healthy run shows."""

import numpy as np
import pytest

from illnesses import run_of
from lrkit import Run, diagnose
from lrkit.doctor.curve import curve_of
from lrkit.doctor.spike_due import foresee, look, signs_of, spike_due

N, EVERY = 600, 5
T = np.arange(N)
LATE = np.clip((T - 400) / 200, 0.0, 1.0)  # what happens, happens in the last third
EARLY = np.minimum(1.0, 2.5 * LATE)
ADAM = {"optimizer": "Adam", "betas": [0.9, 0.999]}


def drawn(seed: int = 0, meta=ADAM, lr=None, **means) -> Run:
    """A run whose gauges are read at every fifth row: of each quantity its mean, times the noise that batches make."""
    rng = np.random.default_rng(seed)
    usual = {"grad_norm": 1.0, "update_ratio": 0.004, "rms_t": 0.95, "coherence": 0.2, "edge": 0.5, "gain_ratio": 0.7}
    columns = {}
    for name, mean in (usual | {"effective_lr/body/q50": 1.0} | means).items():
        if mean is None:
            continue
        if name == "grad_cosine":
            columns[name] = np.where(T % EVERY == 0, mean + 0.05 * rng.standard_normal(N), np.nan)
            continue
        noise = np.exp((0.02 if name in ("edge", "effective_lr/body/q50") else 0.15) * rng.standard_normal(N))
        columns[name.replace("body_", "body/")] = np.where(T % EVERY == 0, mean * noise, np.nan)
    loss = 0.1 + 2.2 * np.exp(-T / 50) + 0.01 * rng.standard_normal(N)
    return run_of(loss, lr, meta, **columns)


def bursting(size: float) -> np.ndarray:
    """Gradients of which every tenth visit's is so much larger."""
    return np.where(T % (10 * EVERY) == 0, size, 1.0)


ILL = {
    "edge": dict(edge=0.5 + 0.6 * LATE, gain_ratio=0.7 - 0.65 * LATE, **{"effective_lr/body/q50": 1 + 2 * LATE}),
    "stale": {"rms_t": 0.95 - 0.94 * EARLY, "coherence": 0.2 * (1 - 0.97 * EARLY), "update_ratio": 0.03 * (1 - 0.97 * EARLY)},
    "out of date": {"rms_t": np.where(T > 580, 4.0, 1.0), "update_ratio": np.where(T > 580, 0.06, 0.01)},
    "bursts": {"grad_norm": np.where(T > 450, bursting(9.0), 1.0), "update_ratio": 0.05, "gain_ratio": 0.2},
    "turn": {"grad_norm": np.exp(3 * LATE), "grad_cosine": 0.5 - 1.2 * LATE, "update_ratio": 0.01},
    "surge": {"update_ratio": np.where(T > 580, 0.04, 0.004)},
}


@pytest.mark.parametrize("sign", ILL)
def test_a_sign_is_seen_with_when_it_began_and_what_to_do(sign):
    run = drawn(**ILL[sign])
    assert sign in signs_of(look(run))
    finding = spike_due(curve_of(run))
    assert finding is not None and finding.sure != "possible"
    assert 400 <= finding.window[0] < 600 and finding.window[1] == N - 1
    assert finding.factor == 0.5 and "from 0.1 to 0.05" in finding.advice and "β2 from 0.999 to 0.95" in finding.advice
    assert foresee(run) == finding.confidence


@pytest.mark.parametrize("sign", ILL)
def test_only_the_end_of_the_log_counts(sign):
    ill, calm = drawn(**ILL[sign]), drawn(1)
    assert foresee(ill, 400) == 0.0
    rows = [dict(zip(ill.columns, values, strict=True)) for values in zip(*ill.values(), strict=True)]
    rows += [row | {"step": row["step"] + N} for row in calm.rows()]
    assert foresee(Run.from_rows(rows, ADAM)) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_a_prefix_is_what_is_seen_at_its_end(seed):
    run = drawn(seed, **ILL["stale"])
    for stop in range(100, N, 40):
        assert foresee(run, stop) == foresee(run.slice(stop=stop))


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_is_left_alone_at_each_prefix(seed):
    run = drawn(seed)
    assert not any(foresee(run, int(row) + 1) for row in T[::EVERY])


HEALTHY = {
    "the edge, where updates still gain": {"edge": 1.05, "gain_ratio": 0.6},
    "the edge, to which sigma has come down": dict(edge=1.05, gain_ratio=0.1, **{"effective_lr/body/q50": 1 - 0.7 * T / N}),
    "small gradients under a low rate": {"rms_t": 0.1, "coherence": 0.02, "update_ratio": 0.0004},
    "a warm-up": {"update_ratio": 0.004 * (0.1 + LATE * 10), "lr": 0.1 * (0.1 + 10 * LATE)},
    "a cosine": {"update_ratio": 0.004 * np.cos(T / N * 1.57), "lr": 0.1 * np.cos(T / N * 1.57)},
    "gradients that grow": {"grad_norm": 1 + 3 * LATE, "grad_cosine": 0.2, "update_ratio": 0.01},
    "gradients that turn": {"grad_cosine": 0.5 - 1.2 * LATE, "update_ratio": 0.01},
    "heavy tails and short updates": {"grad_norm": bursting(9.0)},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_looks_like_a_sign_and_is_none(name):
    run = drawn(**HEALTHY[name])
    assert not any(foresee(run, int(row) + 1) for row in T[::EVERY])


def test_at_a_beta2_that_follows_at_once_the_edge_is_no_sign():
    assert foresee(drawn(meta={"optimizer": "Adam", "betas": [0.9, 0.95]}, **ILL["edge"])) == 0.0


def test_without_a_sigma_the_edge_counts_where_the_rate_rises():
    plain = {"meta": {"optimizer": "SGD"}, "rms_t": None, "coherence": None, "effective_lr/body/q50": None}
    at = {"edge": 0.5 + 0.6 * LATE, "gain_ratio": 0.7 - 0.65 * LATE}
    assert foresee(drawn(**plain, **at)) == 0.0
    rising = drawn(**plain, **at, lr=0.1 * np.exp(T / 200))
    finding = spike_due(curve_of(rising))
    assert finding is not None and "steps are too long" in finding.sentence and "β2" not in finding.advice


def test_more_signs_are_surer():
    both = drawn(**(ILL["edge"] | ILL["surge"] | {"rms_t": 0.3}))
    assert foresee(both) > foresee(drawn(**ILL["surge"])) > 0.6


def test_silent_without_its_columns_and_on_few_visits():
    assert spike_due(curve_of(drawn(update_ratio=None))) is None
    assert spike_due(curve_of(drawn(grad_norm=None))) is None
    assert look(drawn(), 11 * EVERY) is None
    assert "spike_due" not in {finding.code for finding in diagnose(drawn()).findings}
