"""Two processes that go through scenarios together: what the tests in several processes share.

A program is a script that calls `go_through` with its scenarios; a test launches it by `seen`, or `once` for a whole file.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

# -- a rank ---------------------------------------------------------------------------------------------------------------


def go_through(out: Path, scenarios: dict[str, Callable[[], dict]], names: Sequence[str], errors: tuple = (Exception,)) -> None:
    """Go through scenarios, by none named through all, and write what was seen; floats pass JSON to the bit.

    One that raises is recorded as {"error": traceback}; the others go on.
    """
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    results = {}
    for name in names or scenarios:
        try:
            results[name] = scenarios[name]()
        except errors:
            results[name] = {"error": traceback.format_exc()}
    (out / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    leave()


def leave() -> NoReturn:
    """End this process, all of it done: leave the world, then go without the interpreter's own end.

    gloo's threads can outlive the group while a model still holds it, and abort a process whose interpreter is ending
    (pytorch/pytorch#179291).
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


# -- the tests ------------------------------------------------------------------------------------------------------------


def launch(program: Path, out: Path, *arguments: str, timeout: float = 120) -> list[int]:
    """Two processes; their exit codes. One that hangs is killed, and fails the test."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common |= {"PYTHONPATH": str(Path(__file__).parent)}
    ranks = []
    try:
        for number in ("0", "1"):
            with said(out, number).open("w") as into:
                env = common | {"RANK": number, "LOCAL_RANK": number}
                command = [sys.executable, str(program), str(out), *arguments]
                ranks.append(subprocess.Popen(command, env=env, stdout=into, stderr=subprocess.STDOUT))
        return [one.wait(timeout=timeout) for one in ranks]
    finally:
        for one in ranks:
            if one.poll() is None:
                one.kill()
                one.wait()


def said(out: Path, number: object) -> Path:
    """What a rank printed."""
    return out / f"said{number}"


def seen(program: Path, out: Path, *arguments: str, timeout: float = 120) -> list[dict]:
    """Two processes; scenario → what was seen, one dict a rank."""
    codes = launch(program, out, *arguments, timeout=timeout)
    assert codes == [0, 0], "\n".join(said(out, number).read_text()[-3000:] for number in (0, 1))
    return read(out)


def read(out: Path) -> list[dict]:
    """What was seen by a launch that has ended."""
    return [json.loads((out / f"rank{number}.json").read_text()) for number in (0, 1)]


def once(factory, name: str, program: Path, *arguments: str, timeout: float = 120) -> list[dict]:
    """One launch for all tests of a file, also where two workers share them."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        out = shared / name
        if out.exists():
            return read(out)
        out.mkdir()
        return seen(program, out, *arguments, timeout=timeout)


def of(ranks: list[dict], scenario: str) -> list[dict]:
    """What each rank saw of a scenario."""
    both = [one[scenario] for one in ranks]
    for one in both:
        assert "error" not in one, one["error"]
    return both
