"""How fast a log of a million rows is read, in how much memory, and how that compares with TensorBoard's own reader.

Each row of the table is a process of its own, so that its peak memory is its own. `python benchmarks/logs/speed.py [rows]` also
writes runs/benchmarks/logs.json.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FORMATS = ("csv", "jsonl", "run.jsonl", "sparse.csv", "tensorboard", "printed")
_PEER_ROWS = 100_000  # EventAccumulator takes minutes for a million
_RESULTS = Path("runs/benchmarks/logs.json")


def columns(rows: int) -> dict[str, np.ndarray]:
    """A run that falls, with noise."""
    t = np.arange(rows)
    noise = np.random.default_rng(0).normal(size=rows)
    rate = 1e-3 * np.minimum(1, (t + 1) / 1000)
    return {"step": t, "loss": 2 + np.exp(-t / rows) + 0.05 * noise, "lr": rate, "grad_norm": 1 + 0.1 * noise**2}


def write(kind: str, rows: int, folder: Path) -> Path:
    """A log of a kind."""
    run = columns(rows)
    path = folder / ("run.jsonl" if kind == "run.jsonl" else f"log.{kind.split('.')[-1]}")
    if kind == "printed":  # as nanoGPT does
        with path.open("w") as file:
            for i, (loss, lr) in enumerate(zip(run["loss"].tolist(), run["lr"].tolist(), strict=True)):
                if i % 250 == 0:
                    file.write(f"step {i}: train loss {loss:.4f}, val loss {loss + 0.1:.4f}\n")
                file.write(f"iter {i}: loss {loss:.4f}, lr {lr:.3e}, time {80 + i % 9 / 7:.2f}ms, mfu {30 + i % 5 / 3:.2f}%\n")
        return path
    if kind == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder / "events"), max_queue=10_000) as writer:
            for i in range(rows):
                writer.add_scalar("train/loss", run["loss"][i], i)
                writer.add_scalar("train/learning_rate", run["lr"][i], i)
        return folder / "events"
    values = list(zip(*(column.tolist() for column in run.values()), strict=True))
    with path.open("w") as file:
        if kind.endswith("csv"):
            file.write(",".join([*run, *(["val_loss"] if "sparse" in kind else [])]) + "\n")
            for row in values:
                cells = [*map(repr, row)]
                if "sparse" in kind:
                    cells.append("2.5" if row[0] % 100 == 0 else "")
                file.write(",".join(cells) + "\n")
        else:
            if kind == "run.jsonl":
                file.write(json.dumps({"lrkit_run": 1, "columns": list(run), "meta": {"optimizer": "Adam"}}) + "\n")
            for row in values:
                file.write(json.dumps(dict(zip(run, row, strict=True))) + "\n")
    return path


def measure(path: str) -> None:
    """In a process of its own: read, diagnose, and say how long and how large."""
    import lrkit

    start = time.perf_counter()
    run = lrkit.read(path)
    read = time.perf_counter() - start
    lrkit.diagnose(run)
    both = time.perf_counter() - start
    # Not ru_maxrss: that of a child begins at its parent's.
    peak = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    print(json.dumps({"rows": len(run), "read": read, "both": both, "peak": peak}))


def against_peer(path: Path) -> dict[str, float]:
    """Our reader and EventAccumulator on the same file; their values must be equal."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    import lrkit

    start = time.perf_counter()
    run = lrkit.read(path)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    peer = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    peer.Reload()
    theirs = time.perf_counter() - start
    for tag, name in (("train/loss", "loss"), ("train/learning_rate", "lr")):
        points = peer.Scalars(tag)
        assert np.array_equal([p.value for p in points], run[name]), tag
        assert np.array_equal([p.step for p in points], run.step), tag
    return {"ours": ours, "theirs": theirs, "ratio": theirs / ours}


def main() -> None:
    """The table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    results: dict[str, object] = {"rows": rows}
    print(f"{'format':<12} {'rows':>8} {'read s':>7} {'+ diagnose s':>13} {'rows/s':>10} {'peak MB':>8}")
    for kind in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            path = write(kind, rows, Path(folder))
            command = [sys.executable, __file__, "--measure", str(path)]
            answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        results[kind] = answer
        count, read, both, peak = (answer[name] for name in ("rows", "read", "both", "peak"))
        print(f"{kind:<12} {count:>8} {read:>7.2f} {both:>13.2f} {count / read:>10.0f} {peak:>8.0f}")
    with tempfile.TemporaryDirectory() as folder:
        peer = against_peer(write("tensorboard", min(rows, _PEER_ROWS), Path(folder)))
    results["EventAccumulator"] = peer
    print(f"EventAccumulator, {min(rows, _PEER_ROWS)} steps: {peer['theirs']:.2f} s, ours {peer['ours']:.2f} s, ", end="")
    print(f"{peer['ratio']:.0f} times faster, values equal")
    _RESULTS.parent.mkdir(parents=True, exist_ok=True)
    _RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main()
