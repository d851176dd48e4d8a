"""Compiled: one pass over memory for any form of rule, by a C function that is compiled when it is first wanted.

It needs a C compiler, and where there is none nobody misses it but the clock. What was compiled is kept in the user's cache
folder (``$LRKIT_CACHE``, else ``$XDG_CACHE_HOME/lrkit``, else ``~/.cache/lrkit``), by the source, the flags, the compiler and
the processor; compiling takes half a second. Threads are torch's own.
This module knows `kernel.c`; it knows no optimizer.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lrkit.optim.rule import Form

ENTRIES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
_SOURCE = Path(__file__).with_name("kernel.c")
_COMMON = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
_TRIES = [["-march=native", "-fopenmp"], ["-march=native"], []]
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long


class CannotCompile(Exception):
    """Why there is no compiled kernel; the message says it."""


@cache
def kernel(form: Form, dtype: torch.dtype, bound: bool = False, random: bool = False) -> Callable[..., None]:
    """The function ``update`` of kernel.c for one form of rule.

    Args:
        form: What the rule has.
        dtype: What memory holds.
        bound: Whether gradients are clamped.
        random: Whether bfloat16 values are rounded at random.

    Raises:
        CannotCompile: If there is no compiler, or it fails.
    """
    flags = {
        "ENTRY": ENTRIES[dtype], "MOMENTUM": form.momentum, "GRADIENT": form.gradient, "AFTER": form.after, "SIGN": form.sign,
        "SQUARE": form.square, "INSIDE": form.inside, "BELIEF": form.belief, "CENTERED": form.centered, "MAXIMUM": form.maximum,
        "DELTA": form.delta, "BOUND": bound, "RANDOM": random and dtype == torch.bfloat16,
    }  # fmt: skip
    defines = [f"-D{name}={int(value)}" for name, value in flags.items()]
    try:
        function: Any = ctypes.CDLL(str(_library(defines))).update
    except OSError as error:
        raise CannotCompile(f"what was compiled cannot be loaded: {error}") from error
    function.argtypes = [_LONG, *[_POINTER] * 6, ctypes.c_double, _POINTER, ctypes.c_int]
    function.restype = None
    return function  # type: ignore[no-any-return]


def _library(defines: list[str]) -> Path:
    """Where the compiled file lies; compiled now, if it does not lie there yet."""
    compiler = _compiler()
    flags = [*_COMMON, *(flag for some in _TRIES for flag in some), *defines]
    what = "\n".join([_SOURCE.read_text(), *flags, compiler, _processor(), platform.platform()])
    name = f"update-{_digest(what.encode())}"
    for folder in _folders():
        try:
            for place in folder.glob(f"{name}-*.so"):
                if place.stem == f"{name}-{_digest(place.read_bytes())}":  # to load what was cut off would end the process
                    return place
            return _compile(compiler.split("\n")[0], defines, folder, name)
        except OSError:
            continue  # not readable, not writable, or full
    raise CannotCompile("no folder can be written to")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _compile(compiler: str, defines: list[str], folder: Path, name: str) -> Path:
    """Compile, and move what came out into its place at once, so that no other process ever sees a part of it.

    Its name holds its content's digest.
    """
    said = ""
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        made = Path(workplace) / "update.so"
        for flags in _TRIES:
            command = [*shlex.split(compiler), *_COMMON, *flags, *defines, "-o", str(made), str(_SOURCE), "-lm"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CannotCompile(f"{compiler} does not run: {error}") from error
            if done.returncode == 0 and made.exists():
                return made.rename(folder / f"{name}-{_digest(made.read_bytes())}.so")
            said = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
    raise CannotCompile(f"{compiler} refused: {said}")


@cache
def _compiler() -> str:
    """The compiler's path and version, on two lines."""
    for name in [*([os.environ["CC"]] if os.environ.get("CC") else []), "cc", "gcc", "clang"]:
        whole = shutil.which(name)
        first, *rest = [name] if whole else shlex.split(name) or [""]
        found = whole or shutil.which(first)
        if found:
            path = shlex.join([found, *rest])
            try:
                version = subprocess.run(
                    [*shlex.split(path), "--version"], capture_output=True, text=True, timeout=20
                ).stdout.partition("\n")[0]
            except (OSError, subprocess.TimeoutExpired):
                continue
            return f"{path}\n{version}"
    raise CannotCompile("there is no C compiler")


def _processor() -> str:
    """What the processor can do: a folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    except OSError:
        return platform.processor()


def _folders() -> list[Path]:
    """Where compiled files may lie: the user's own folder, which nobody else may write to; else a new one, for this process."""
    found = []
    folder = Path()
    try:
        wanted = os.environ.get("LRKIT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrkit"
        folder = Path(wanted).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        if not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022):
            found.append(folder)
    except (OSError, RuntimeError):
        pass  # no home, or not ours to write to
    return [*found, _temporary()] if not found or not os.access(folder, os.W_OK) else found


@cache
def _held() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lrkit-")


def _temporary() -> Path:
    return Path(_held().name)
