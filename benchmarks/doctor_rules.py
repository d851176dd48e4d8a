"""How often each of the doctor's rules is right, on sweeps whose labels come from a run's place in its sweep.

Reads ``deepobs_sweeps.jsonl.gz`` (675 runs of 5 problems x 3 optimizers x 36 constant rates; MIT, fsschneider/DeepOBS_Baselines)
from the folder that LRKIT_LOGS names, ../shared/logs without it. The thresholds were chosen by hand on these same sweeps, so the
precisions are no promise for others; they are what the findings' confidences say.
"""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

from lrkit import Run, diagnose

WORDS = {"ok": "ok", "too_low": "too low", "too_high": "too high", "diverged": "diverged"}


def main() -> None:
    """Print the table."""
    file = Path(os.environ.get("LRKIT_LOGS", "../shared/logs")) / "deepobs_sweeps.jsonl.gz"
    if not file.exists():
        print(f"{file} is not here: set LRKIT_LOGS to the folder that holds it. Nothing measured.")
        return
    fired: dict[str, Counter[str]] = {}
    words: dict[str, Counter[str]] = {}
    for line in gzip.decompress(file.read_bytes()).decode().splitlines():
        entry = json.loads(line)
        loss = [float("nan") if v is None else v for v in [entry["train_losses"][0], *entry["block_mean"]]]
        steps = np.linspace(0, entry["n_steps"], len(loss)).round()
        verdict = diagnose(Run({"step": steps, "loss": loss, "lr": np.full(len(loss), entry["lr"])}))
        code = verdict.findings[0].code if verdict.findings else "healthy"
        fired.setdefault(code, Counter())[entry["label"]] += 1
        words.setdefault(entry["label"], Counter())[verdict.rate] += 1
    print(f"{'first finding':18s} {'runs':>5s} {'right':>6s}   of which ok / too low / too high / diverged")
    right = {"diverged": ("diverged",), "too_low": ("too_low",), "healthy": ("ok",)}
    for code, labels in sorted(fired.items()):
        good = sum(labels[label] for label in right.get(code, ("too_high", "diverged")))
        cells = " / ".join(str(labels[label]) for label in WORDS)
        print(f"{code:18s} {labels.total():5d} {good / labels.total():6.0%}   {cells}")
    print(f"\n{'label':10s} {'runs':>5s}  answered ok / too low / too high / diverged / cannot tell")
    for label in WORDS:
        answers = words[label]
        print(f"{label:10s} {answers.total():5d}  {' / '.join(str(answers[w]) for w in [*WORDS.values(), 'cannot tell'])}")
    recall = [words[label][WORDS[label]] / words[label].total() for label in ("too_low", "ok", "too_high")]
    print(f"balanced accuracy over too low / ok / too high: {np.mean(recall):.2f}")


if __name__ == "__main__":
    main()
