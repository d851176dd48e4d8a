"""Where the log leaves doubt, the finding says at which step a probe would settle it; where it leaves none, it does not."""

import numpy as np

from illnesses import run_of, slide
from lrkit import diagnose
from lrkit.doctor.curve import curve_of
from lrkit.doctor.doubt import with_probes
from lrkit.doctor.finding import Finding


def finding(code: str, confidence: float) -> Finding:
    return Finding(code, "", confidence, (0, 999), (), (), "", "")


def test_only_what_a_probe_can_decide_and_is_not_likely_gets_one():
    curve = curve_of(run_of(slide()))
    seen = with_probes((finding("too_low", 0.5), finding("too_low", 0.7), finding("overfitting", 0.5)), curve)
    assert [one.probe for one in seen] == [749, None, None]
    assert "at step 749" in str(seen[0]) and "settle" not in str(seen[1])


def test_it_is_where_the_rate_has_not_decayed_yet():
    lr = 0.1 * np.minimum(1.0, (1000 - np.arange(1000)) / 300)
    curve = curve_of(run_of(slide(), lr=lr))
    at = with_probes((finding("cannot_tell", 1.0),), curve)[0].probe
    assert at is not None and 700 <= at <= 740 and lr[at] >= 0.09


def test_a_flat_log_without_optimizer_says_where_to_probe():
    flat = diagnose(run_of(np.random.default_rng(0).normal(2.0, 0.05, 1000)))
    assert flat.rate == "cannot tell" and flat.probe == flat.findings[0].probe == 749


def test_a_clear_log_asks_for_nothing():
    t = np.arange(200)
    from lrkit import Run

    slow = diagnose(Run({"loss": 2.3 - 0.004 * t, "lr": np.full(200, 1e-5)}))
    assert slow.findings[0].sure != "possible" and slow.findings[0].probe is None
