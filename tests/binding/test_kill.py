"""A training that is killed at random moments continues on the exact curve: the checkpoint of the optimizer is all it has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).parent / "job_kill.py"
STEPS, EVERY = 60, 3


def killed(directory: Path, kills: int, seed: int, timeout: float) -> dict:
    """What the zygote reports (see `job_kill`); a launch that hangs fails here."""
    command = [sys.executable, str(JOB), str(directory), str(kills), str(seed)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "report.json").read_text())


def check(report: dict, kills: int) -> set[str]:
    """Every update of every launch had the undisturbed run's rate; weights and controller ended where its did.

    Returns:
        The cases in which a launch went on from a checkpoint.
    """
    resumed = set()
    for run in report["killed"]:
        whole = report["whole"][run["case"]]
        expected = whole["launches"][0]
        done = 0  # updates in the log so far
        for steps in run["launches"]:
            if not steps:  # killed before its first update
                continue
            start = steps[0][0]
            assert start % EVERY == 0 and done - EVERY <= start <= done, f"{run['case']}: began at {start} after {done}"
            assert steps == expected[start : start + len(steps)], f"{run['case']}: another curve from {start}"
            done = start + len(steps)
            if start > 0:
                resumed.add(run["case"])
        assert done == STEPS
        assert run["weights"] == whole["weights"], run["case"]
        assert run["plateau"] == whole["plateau"], run["case"]
    assert sum(run["kills"] for run in report["killed"]) >= kills
    for case, whole in report["whole"].items():
        assert whole["plateau"][0] < 0.5, f"{case}: the controller never acted, so nothing of it could be lost"
    return resumed


def test_a_killed_training_continues_on_the_exact_curve(tmp_path):
    """Eight kills: SGD with momentum and fused AdamW, attach before and after load, under a Plateau."""
    assert check(killed(tmp_path, 8, seed=0, timeout=60), 8), "no launch went on from a checkpoint"


@pytest.mark.prove
@pytest.mark.parametrize("seed", [1, 2])
def test_a_training_killed_fifty_times_continues_on_the_exact_curve(tmp_path, seed):
    report = killed(tmp_path, 50, seed, timeout=300)
    assert check(report, 50) == set(report["whole"]), "each case went on from a checkpoint"
