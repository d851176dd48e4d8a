"""Plateaus by the gauges' columns: a valley, a saddle and a floor are told apart; where a gauge is missing, nothing is said."""

import math

import numpy as np
import pytest

from illnesses import N, T, run_of, slide
from lrkit import Run, diagnose
from lrkit.doctor.curve import curve_of
from lrkit.doctor.floor import floor
from lrkit.doctor.gauged import stretches
from lrkit.doctor.oscillation import oscillation
from lrkit.doctor.saddle_by_curvature import saddle_by_curvature

EVERY = 25
PLATEAU = {"oscillation": oscillation, "floor": floor, "saddle": saddle_by_curvature}


def columns(
    *, decay=0.0, level=0.4, ratio=0.9, cosine=0.0, edge=0.2, bent=0.0, signal=0.1, noise=1.0, beta=0.0, every=EVERY, seed=1
):
    """Gauges' columns of a level that a decay would lower by this share; every `every`-th row is a visit."""
    draw = np.random.default_rng(seed)
    promised = 4 * (1 - beta) * decay * level * draw.uniform(0.8, 1.2, N)
    products = noise * (signal + 0.3 * draw.standard_normal(N) * (signal > -0.9))
    seen = {
        "gain": ratio * promised, "gain_ratio": np.full(N, ratio), "half_product": products, "grad_noise": np.full(N, noise),
        "grad_cosine": np.full(N, cosine), "edge": np.full(N, edge), "curvature_max": np.full(N, 3.0),
        "curvature_min": np.full(N, 3.0 * bent),
    }  # fmt: skip
    return {name: np.where(T % every == 0, values, np.nan) for name, values in seen.items()}


def hanging(level=0.4, noise=0.02, seed=0):
    return slide(tau=30, low=level, noise=noise, seed=seed)


VALLEY = {"decay": 0.5, "ratio": 0.1, "cosine": -0.8, "edge": 1.0, "signal": 3.0}
FLOOR = {"decay": 0.03, "ratio": 0.97, "bent": 0.001, "signal": 0.02}
SADDLE = {"decay": 1e-4, "ratio": 1.0, "bent": -0.4, "edge": 0.01, "signal": 0.1}


def surest(run):
    found = {code: seen for code, rule in PLATEAU.items() if (seen := rule(curve_of(run))) is not None}
    return max(found.values(), key=lambda one: one.confidence, default=None)


@pytest.mark.parametrize(("gauges", "code"), [(VALLEY, "oscillation"), (FLOOR, "floor"), (SADDLE, "saddle")])
def test_the_kinds_are_told_apart_at_any_scale_of_the_loss(gauges, code):
    for scale in (1e-4, 1.0, 1e5):
        seen = columns(**gauges)
        for name in ("gain", "half_product", "grad_noise"):
            seen[name] = seen[name] * scale ** (1 if name == "gain" else 2)
        loss = np.full(N, 0.4) + 0.002 * np.sin(1.7 * T) if code == "saddle" else hanging()
        finding = surest(run_of(scale * loss, **seen))
        assert finding.code == code and finding.sure != "possible"


def test_a_valley_is_left_by_a_lower_rate_and_a_saddle_never_is():
    valley = surest(run_of(hanging(), **columns(**{**VALLEY, "decay": 0.6})))
    assert valley.factor == 0.1 and "from 0.1 to 0.01" in valley.advice and "gains about 59%" in valley.evidence[0]
    milder = surest(run_of(hanging(), **columns(**{**VALLEY, "decay": 0.25})))
    assert 0.15 < milder.factor < 0.25 and milder.confidence < valley.confidence
    saddle = surest(run_of(np.full(N, math.log(10)) + 0.002 * np.sin(T), **columns(**{**SADDLE, "level": 2.3})))
    assert saddle.factor == 1.0 and "do not lower the rate" in saddle.advice


def test_what_momentum_holds_up_is_reckoned_with():
    seen = columns(decay=0.4, ratio=0.8, cosine=0.3, edge=0.1, signal=1.0, beta=0.9)
    assert surest(run_of(hanging(), meta={"optimizer": "SGD", "momentum": 0.9}, **seen)).code == "oscillation"
    assert surest(run_of(hanging(), meta={"optimizer": "AdamW", "betas": [0.9, 0.999]}, **seen)).code == "oscillation"
    assert surest(run_of(hanging(), meta={"optimizer": "SGD"}, **seen)).code == "floor"


def test_at_the_edge_of_stability_a_loss_that_falls_is_left_alone():
    falls = 0.4 * (1 - 0.3 * T / N) + 0.01 * np.random.default_rng(0).standard_normal(N)
    assert surest(run_of(falls, **columns(**VALLEY))) is None
    exponentially = 0.001 * np.exp(-T / 500)
    assert surest(run_of(exponentially, **columns(**{**VALLEY, "level": 0.001}))) is None


def test_a_plateau_before_a_decay_that_is_to_come_is_possible_only():
    cut = run_of(hanging(), meta={"steps": 3000}, **columns(**VALLEY))
    finding = oscillation(curve_of(cut))
    assert finding.sure == "possible" and "decay is still to come" in finding.counter[0]


def test_noise_that_a_decay_would_average_out_is_told_at_a_floor():
    held, ended = (floor(curve_of(run_of(hanging(), **columns(**{**FLOOR, "decay": one})))) for one in (0.06, 0.001))
    assert "a decay to a tenth of the rate still gains about 5%" in held.advice and "stop here" in ended.advice
    assert "stationary for this data" in held.sentence and "global" not in str(held)
    assert held.factor == ended.factor == 1.0


def test_a_floor_is_no_fault():
    diagnosis = diagnose(run_of(hanging(), **columns(**FLOOR)))
    finding = next(one for one in diagnosis.findings if one.code == "floor")
    assert not finding.accuses and not diagnosis.serious and "likely" in str(finding)


def test_of_all_the_data_the_gradient_vanishes_and_the_halves_oppose_each_other():
    still = np.full(N, 0.4) + 2.0 * np.exp(-T / 30)
    seen = columns(decay=1e-6, ratio=1.0, cosine=1.0, bent=1e-4, signal=-1.0)
    finding = surest(run_of(still, **seen))
    assert finding.code == "floor" and "all the data" in finding.evidence[1]


def test_a_way_down_that_would_have_been_taken_long_ago_is_a_batch_s_noise():
    seen = columns(decay=0.03, ratio=0.95, bent=-0.6, edge=0.2)
    finding = surest(run_of(hanging(), **seen))
    assert finding.code == "floor" and "followed long ago" in finding.evidence[2]


def test_a_plateau_in_the_middle_that_is_left_is_a_saddle():
    loss = 0.4 + 2 * np.exp(-T / 20) - 0.35 / (1 + np.exp(-(T - 600) / 10)) + 0.003 * np.random.default_rng(0).standard_normal(N)
    finding = surest(run_of(loss, **columns(**SADDLE)))
    assert finding.code == "saddle" and finding.window[1] < 640 and "then falls" in finding.sentence
    lowered = np.where(T < 540, 0.1, 0.01)
    seen = surest(run_of(loss, lr=lowered, **columns(**SADDLE)))
    assert seen is None or "then falls" not in seen.sentence


def test_too_low_a_rate_is_no_floor():
    seen = columns(decay=1e-5, ratio=1.0, cosine=0.9, signal=5.0, edge=1e-5)
    assert surest(run_of(np.full(N, 0.4) + 0.01 * np.random.default_rng(0).standard_normal(N), **seen)) is None
    short = floor(curve_of(run_of(hanging(), **columns(**{**FLOOR, "decay": 1e-5}))))
    assert short.sure == "possible" and "so low" in short.counter[0]


@pytest.mark.parametrize("gone", ["gain_ratio", "half_product"])
def test_without_its_columns_nothing_is_said(gone):
    seen = columns(**VALLEY)
    seen.pop(gone)
    assert surest(run_of(hanging(), **seen)) is None
    assert stretches(curve_of(run_of(hanging()))) == (None, None)


def test_without_the_curvature_a_floor_is_possible_only():
    seen = columns(**FLOOR)
    for name in ("edge", "curvature_min", "curvature_max"):
        seen.pop(name)
    finding = surest(run_of(hanging(), **seen))
    assert finding.code == "floor" and finding.sure == "possible" and "curvature was not read" in finding.counter[0]


def test_of_few_visits_it_is_possible_only():
    assert surest(run_of(hanging(), **columns(**VALLEY, every=150))).sure == "possible"
    assert surest(run_of(hanging(), **columns(**VALLEY, every=400))) is None


def test_a_valley_hides_what_it_looks_like_on_the_curve():
    codes = [finding.code for finding in diagnose(run_of(hanging(), meta={"optimizer": "SGD"}, **columns(**VALLEY))).findings]
    assert codes[0] == "oscillation" and not {"too_high_later", "too_high_at_start", "too_low", "floor"} & set(codes)


def test_a_saddle_is_reported_once():
    escaping = math.log(10) * (1 - 0.8 / (1 + np.exp(-(T - 400) / 15))) + 0.005 * np.random.default_rng(0).standard_normal(N)
    codes = [finding.code for finding in diagnose(run_of(escaping, **columns(**SADDLE))).findings]
    assert codes.count("saddle") == 1


def test_a_loss_below_zero_is_read_too():
    assert surest(run_of(hanging() - 5, **columns(**VALLEY, level=1.9))).code == "oscillation"
    assert isinstance(Run({"loss": hanging()}), Run)
