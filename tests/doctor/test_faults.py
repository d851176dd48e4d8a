"""The planted faults are found by their rules, whatever the seed; healthy runs that look ill are left alone."""

import numpy as np
import pytest

from illnesses import RULES, accused, found
from lrkit import Run
from lrkit.doctor.faults import FAULTS, HEALTHY

OWN = [fault for fault in FAULTS if fault[1] in {rule.__name__ for rule in RULES}]
SEEDS = range(10)


@pytest.mark.parametrize(("name", "code", "make"), OWN, ids=[fault[0] for fault in OWN])
def test_planted_faults_are_found(name, code, make):
    missed = [seed for seed in SEEDS if code not in found(make(seed))]
    assert len(missed) <= 1, missed


@pytest.mark.parametrize(("name", "make"), HEALTHY, ids=[case[0] for case in HEALTHY])
def test_healthy_runs_are_not_accused(name, make):
    wrong = {seed: codes for seed in SEEDS if (codes := accused(make(seed)))}
    assert not wrong


@pytest.mark.parametrize(("name", "code", "make"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_the_same_run_each_time_and_another_one_for_another_seed(name, code, make):
    assert make(3) == make(3)
    assert len(make(3)) != len(make(4)) or make(3) != make(4)


def test_the_seeds_vary_length_logging_and_scale():
    runs = [make(seed) for _, _, make in FAULTS for seed in SEEDS]
    assert min(map(len, runs)) < 300 and max(map(len, runs)) > 5_000
    assert {float(np.diff(run["step"])[0]) for run in runs} == {1.0, 10.0, 50.0}
    assert any("lr" not in run for run in runs)


@pytest.mark.parametrize("scale", [1e-3, 1e5])
def test_findings_do_not_depend_on_the_losss_scale(scale):
    for _, code, make in OWN:
        run = make(1)
        if code == "saddle":
            continue  # ln C is a number of nats
        losses = {name: run[name] * (scale if name in ("loss", "val_loss") else 1) for name in run.columns}
        assert code in found(Run(losses, run.meta)), code
