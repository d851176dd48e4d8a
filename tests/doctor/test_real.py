"""Training logs of other people: each is read, and the doctor says of it what a person would.

ACCEPTED was written from the labels and notes in the logs' index before the doctor was run on any of them. The whole folder is
looked at where it is there (LRKIT_LOGS, else ``../shared/logs``); what is not too large lies in ``tests/data/logs/whole`` and is
always looked at.
"""

import os
from pathlib import Path

import pytest

from lrkit import Diagnosis, diagnose, read_all

HEALTHY = "healthy"  # nothing is found that is at least likely
LARGE = {  # only in the folder of all
    "HangerYang__Star__1.json", "KellerJordan__modded-nanogpt__3.txt",
    *(f"fsschneider__DeepOBS_Baselines__{i}.json" for i in (1, 4, 7, 8)),
}  # fmt: skip
HIGH = {"too_high_at_start", "too_high_later"}

# file → what is accepted of each of its runs, as the first finding's code.
ACCEPTED: dict[str, list[set[str]]] = {
    "Efaythegreat__char-rnn.pytorch__1.csv": [{HEALTHY}, {HEALTHY}, {*HIGH, "late_spikes"}, {*HIGH, "late_spikes"}],
    "EvergreenTree__di-f-fu-sion__1.csv": [{HEALTHY}, {HEALTHY}],
    "HangerYang__Star__1.json": [{HEALTHY}],
    "KellerJordan__modded-nanogpt__1.log": [{HEALTHY}],
    "KellerJordan__modded-nanogpt__3.txt": [{HEALTHY}],
    "LusterSourav__adaption-autoscientist-challenge-50000-prize-pool-bisenx__1.json": [{HEALTHY}],
    "LusterSourav__adaption-autoscientist-challenge-50000-prize-pool-bisenx__2.json": [{HEALTHY, "cannot_tell"}],
    # Fast, then flat at a bad stationary point: the curve alone cannot tell it from a rate that is too high.
    "Macro1027__Simple-Pendulum-PINN__1.csv": [{"too_high_later", "floor", "saddle", "cannot_tell"}],
    "Macro1027__Simple-Pendulum-PINN__4.csv": [{"too_high_later", "floor", "saddle", "cannot_tell"}],
    "druidowm__nanoGPT__2.log": [{"late_spikes", "overfitting"}],
    "fsschneider__DeepOBS_Baselines__1.json": [{"too_low"}],
    "fsschneider__DeepOBS_Baselines__17.json": [{"diverged"}],
    "fsschneider__DeepOBS_Baselines__4.json": [HIGH],
    "fsschneider__DeepOBS_Baselines__5.json": [{"diverged"}],
    "fsschneider__DeepOBS_Baselines__7.json": [{HEALTHY}],
    "fsschneider__DeepOBS_Baselines__8.json": [HIGH],
    "mlcommons__submissions_algorithms__12.csv": [{HEALTHY}],
    "mlcommons__submissions_algorithms__2.csv": [{"late_spikes", "warmup_too_short", "too_high_at_start"}],
    "mlcommons__submissions_algorithms__3.csv": [{"too_high_at_start"}],
    "mlcommons__submissions_algorithms__4.csv": [{"late_spikes"}],
    "mlcommons__submissions_algorithms__5.csv": [{"diverged"}],
    "mlcommons__submissions_algorithms__6.csv": [{"diverged"}],
    "mlcommons__submissions_algorithms__7.csv": [{*HIGH, "warmup_too_short"}],
    "netra-ai-lab__Netra-NMT__1.jsonl": [{HEALTHY}],
}
REAL = Path(os.environ.get("LRKIT_LOGS", Path(__file__).parents[3] / "shared" / "logs")) / "real"
HERE = Path(__file__).parents[1] / "data" / "logs" / "whole"


def said(diagnosis: Diagnosis) -> str:
    """The first finding's code, or healthy where nothing is at least likely and nothing else is to be accepted."""
    return diagnosis.findings[0].code if diagnosis.findings else HEALTHY


def agrees(diagnosis: Diagnosis, accepted: set[str]) -> bool:
    return said(diagnosis) in accepted or (HEALTHY in accepted and not diagnosis.serious)


def test_the_doctor_agrees_with_the_labels_and_accuses_no_healthy_run():
    right, accused, wrong = 0, [], []
    for name, accepted in ACCEPTED.items():
        path = REAL / name if REAL.is_dir() else HERE / f"{name}.gz"
        if not path.exists():
            assert name in LARGE, f"{path} is missing"
            continue
        runs = read_all(path)
        assert len(runs) == len(accepted), name
        for run, codes in zip(runs, accepted, strict=True):
            diagnosis = diagnose(run)
            right += agrees(diagnosis, codes)
            if not agrees(diagnosis, codes):
                wrong.append((name, said(diagnosis), sorted(codes)))
            if HEALTHY in codes and diagnosis.serious:
                accused.append((name, said(diagnosis)))
    assert not accused
    assert right / (right + len(wrong)) >= 0.85, wrong


@pytest.mark.parametrize("path", sorted(HERE.glob("*.gz")), ids=lambda path: path.name[:24])
def test_every_log_that_lies_here_is_read_and_diagnosed(path):
    for run in read_all(path):
        assert len(run) and diagnose(run).rate in ("ok", "too low", "too high", "diverged", "cannot tell")
