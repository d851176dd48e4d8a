"""A training that is killed again and again: torch is imported once, every launch of the loop is a fork.

    python job_kill.py DIRECTORY KILLS SEED

In turn for each case (optimizer × order of attach and load): an undisturbed run, then runs that are killed (SIGKILL) at random
moments and begun again until they end, until there have been so many kills. All that a launch knows of the one before is the
checkpoint. Writes DIRECTORY/report.json; floats pass JSON to the bit.
"""

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import lrkit

STEPS, EVERY = 60, 3
TEXT = "warmup 10 > cosine 50 to 0.1"
DATA = torch.randn(STEPS, 16, 8, generator=torch.Generator().manual_seed(1))
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}
CASES = list(itertools.product(OPTIMIZERS, ["attach then load", "load then attach"]))


def attach(optimizer):
    plateau = lrkit.controllers.Plateau(patience=2, factor=0.7, cooldown=1)
    return lrkit.attach(optimizer, lr=TEXT, controllers=plateau)


def launch(place: Path, optimizer_name: str, order: str) -> None:
    """Train from the checkpoint, if there is one, to the end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = OPTIMIZERS[optimizer_name](list(model.parameters()))
    checkpoint = place / "checkpoint.pt"
    saved = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    attachment = attach(optimizer) if order == "attach then load" else None
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    attachment = attachment or attach(optimizer)
    log = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, b"launch\n")
    for t in range(attachment.step, STEPS):  # the optimizer alone says where we are
        optimizer.zero_grad()
        loss = model(DATA[t]).square().mean()
        loss.backward()
        attachment.report(loss=loss.detach())
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        os.write(log, f"{t} {rate.hex()}\n".encode())
        if attachment.step % EVERY == 0:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, place / "checkpoint.tmp")
            (place / "checkpoint.tmp").replace(checkpoint)
    scale = optimizer.param_groups[0]["lrkit_state_plateau"].tolist()
    result = {"weights": [p.detach().flatten().tolist() for p in model.parameters()], "plateau": scale}
    (place / "result.tmp").write_text(json.dumps(result))
    (place / "result.tmp").replace(place / "result.json")


def forked(place: Path, case: tuple[str, str], delay: float | None) -> bool:
    """One launch, killed after a delay unless it has ended; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            launch(place, *case)
        except BaseException:
            (place / "error").write_text(__import__("traceback").format_exc())
            os._exit(1)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"{case}: {(place / 'error').read_text()}")
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def outcome(place: Path) -> dict:
    """Launches, each a list of (step, rate), and what the run ended with."""
    launches = []
    for line in (place / "log").read_text().splitlines():
        if line == "launch":
            launches.append([])
        else:
            step, rate = line.split()
            launches[-1].append([int(step), float.fromhex(rate)])
    return {"launches": launches, **json.loads((place / "result.json").read_text())}


def main() -> None:
    directory, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    report, seconds = {"whole": {}, "killed": []}, {}
    (directory / "warm").mkdir()
    launch(directory / "warm", *CASES[0])  # what torch imports late is imported before the forks, too
    launch(directory / "warm", *CASES[0])
    for case in CASES:
        place = directory / f"whole-{' '.join(case)}"
        place.mkdir()
        begun = time.perf_counter()
        forked(place, case, None)
        seconds[case] = time.perf_counter() - begun
        report["whole"][" ".join(case)] = outcome(place)
    done = 0
    for n in itertools.count():
        if done >= kills and n % len(CASES) == 0:
            break
        case = CASES[n % len(CASES)]
        place = directory / f"killed-{n}"
        place.mkdir()
        mine = 0
        # At least one kill a run and no more than are needed, so that a short report, too, has every case.
        while not (place / "result.json").exists():
            enough = mine >= max(1, -(-kills // len(CASES) // 2))
            killed = forked(place, case, None if enough else rng.uniform(0.0, seconds[case]))
            mine += killed
        if mine:
            report["killed"].append({"case": " ".join(case), "kills": mine, **outcome(place)})
        done += mine
    (directory / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
