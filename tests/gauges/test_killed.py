"""A training that is killed: what was flushed is there, and the file loads."""

import os
import subprocess
import sys

import pytest

from lrkit import Run

PROGRAM = """
import os, signal, sys, torch
from lrkit import watch
weight = torch.nn.Parameter(torch.ones(3))
model = torch.nn.Module()
model.weight = weight
optimizer = torch.optim.SGD([weight], lr=0.1)
with watch(model, optimizer, sys.argv[1], every=3, meta={"seed": 7}) as w:
    for step in range(1000):
        weight.grad = torch.full((3,), float("nan") if step == 20 else 1.0)
        w.record(loss=float(step))
        optimizer.step()
        if step == 137:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_kill_loses_at_most_what_was_not_flushed(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == -9, done.stderr
    run = Run.load(tmp_path / "run")
    assert 100 <= len(run) <= 138 and run["loss"].tolist() == run.step.tolist() == list(range(len(run)))
    assert run.meta["seed"] == 7 and run.observed("grad_norm")[0][:4].tolist() == [0, 3, 6, 9]
