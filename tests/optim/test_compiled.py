"""The compiled kernel: where it is kept, what happens where it cannot be made or was broken, and its threads."""

import ctypes
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrkit import clip, optim
from lrkit.optim import backends, compiled
from lrkit.optim.rule import Form

FORM = Form(momentum=True, gradient=False, square=True)  # Adam's
CODE = """
import logging, sys, torch
from torch import nn
from lrkit import optim
logging.basicConfig(stream=sys.stdout, format="LOG %(name)s %(message)s")
for kind in sys.argv[1:]:
    p = nn.Parameter(torch.linspace(-1, 1, 50))
    optimizer = getattr(optim, kind)([p], lr=0.1)
    for t in range(3):
        p.grad = torch.linspace(-1, 2, 50) * (t + 1)
        optimizer.step()
    (bucket, _), *_ = optimizer._ledgers[0]._buckets
    print(type(bucket.runner[1]).__name__, float(p.detach().double().pow(2).sum()))
"""


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch) -> Iterator[None]:
    """An empty cache of its own for each test; and nothing is remembered before or after."""
    monkeypatch.setenv("LRKIT_CACHE", str(tmp_path / "cache"))
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Whatever the two modules remember, but for the folder that they remove when the process ends."""
    for one in (*vars(backends).values(), *vars(compiled).values()):
        if hasattr(one, "cache_clear") and one is not compiled._held:
            one.cache_clear()


def two_steps(kind: str = "AdamW", **kwargs: Any) -> Tensor:
    p = nn.Parameter(torch.linspace(-1, 1, 50))
    optimizer = getattr(optim, kind)([p], lr=0.1, **kwargs)
    for t in range(2):
        p.grad = torch.linspace(-1, 2, 50) * (t + 1)
        optimizer.step()
    return p.detach()


def right() -> None:
    """Whatever happens, the update is that of the specification."""
    torch.testing.assert_close(two_steps(), two_steps(backend="reference"), rtol=1e-6, atol=1e-6)


def process(*kinds: str, **environment: str) -> subprocess.Popen[str]:
    """Another process, so that what would crash does not crash us."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *kinds],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def outcome(running: subprocess.Popen[str]) -> list[str]:
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 0, f"it ended with {running.returncode}: {said}"
    return said.splitlines()


def script(folder: Path, text: str) -> str:
    """A compiler of our own."""
    path = folder / "my compiler"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def one_line(caplog: pytest.LogCaptureFixture, words: str) -> None:
    assert len(caplog.records) == 1 and words in caplog.text
    assert "\n" not in caplog.records[0].getMessage()


class TestTheCache:
    def test_holds_one_file_a_form_and_dtype_and_is_used_again(self, tmp_path, monkeypatch):
        right()
        files = list((tmp_path / "cache").iterdir())
        assert [one.suffix for one in files] == [".so"]
        compiled.kernel.cache_clear()
        monkeypatch.setattr(compiled, "_compile", lambda *args: pytest.fail("it is there already"))
        compiled.kernel(FORM, torch.float32)

    def test_is_the_users_own(self, tmp_path):
        right()
        assert (tmp_path / "cache").stat().st_mode & 0o077 == 0

    def test_is_found_by_the_variables_in_their_order(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        (tmp_path / "home").mkdir()
        for name, folder in ("LRKIT_CACHE", "cache"), ("XDG_CACHE_HOME", "xdg/lrkit"), ("HOME", "home/.cache/lrkit"):
            forget()
            compiled.kernel(FORM, torch.float32)
            assert len(list((tmp_path / folder).glob("update-*.so"))) == 1
            monkeypatch.delenv(name)

    def test_that_is_a_file_is_no_obstacle(self, tmp_path, monkeypatch, caplog):
        (tmp_path / "file").write_text("not a folder")
        monkeypatch.setenv("LRKIT_CACHE", str(tmp_path / "file"))
        right()
        assert (tmp_path / "file").read_text() == "not a folder" and not caplog.records

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
    def test_that_others_can_write_to_is_neither_loaded_from_nor_written_to(self, tmp_path, monkeypatch, mode):
        """What would be loaded from it would be run."""
        open_ = tmp_path / "open"
        monkeypatch.setenv("LRKIT_CACHE", str(open_))
        compiled.kernel(FORM, torch.float32)  # makes it, while it is safe
        (file,) = open_.iterdir()
        file.unlink()
        file.write_bytes(b"planted")
        open_.chmod(mode)
        forget()
        right()
        compiled.kernel(FORM, torch.float32)
        assert [one.read_bytes() for one in open_.iterdir()] == [b"planted"]

    def test_that_is_not_writable_but_ours_is_read_and_what_is_missing_is_made_elsewhere(self, tmp_path, monkeypatch):
        """Root may write everywhere, so the refusal is made here."""
        ours, honest = tmp_path / "cache", compiled._compile
        compiled.kernel(FORM, torch.float32)

        def refuse(compiler, defines, folder, name):
            if folder == ours:
                raise PermissionError(13, "Permission denied")
            return honest(compiler, defines, folder, name)

        monkeypatch.setattr(compiled, "_compile", refuse)
        allowed = compiled.os.access
        monkeypatch.setattr(compiled.os, "access", lambda path, mode: path != ours and allowed(path, mode))
        forget()
        compiled.kernel(FORM, torch.float32)
        compiled.kernel(FORM, torch.float64)
        assert len(list(ours.iterdir())) == 1

    def test_two_processes_that_compile_the_same_form_at_once_do_not_hinder_each_other(self, tmp_path):
        both = [process("Lion") for _ in range(2)]
        first, second = (outcome(one) for one in both)
        assert first == second and [line.split()[0] for line in first] == ["Compiled"]
        assert sorted(one.suffix for one in (tmp_path / "cache").iterdir()) == [".so"], "and nothing is left lying"

    def test_a_file_that_was_cut_off_is_made_anew_or_not_used_and_crashes_nothing(self, tmp_path):
        """A full disk, a copy that was interrupted; in a process of its own, for the loader maps what is not there."""
        compiled.kernel(Form(momentum=True, gradient=True, sign=True), torch.float32)
        (file,) = (tmp_path / "cache").iterdir()
        whole = file.read_bytes()
        file.unlink()  # not written over: it is mapped here
        file.write_bytes(whole[: len(whole) // 2])
        *log, result = outcome(process("Lion"))
        assert result.split()[0] in ("Compiled", "Reference") and len(log) <= 1

    @pytest.mark.parametrize("content", [b"", b"\x7fELF", b"not a library" * 1000])
    def test_a_file_of_something_else_is_made_anew_or_not_used(self, tmp_path, content, caplog):
        right()
        (file,) = (tmp_path / "cache").iterdir()
        file.unlink()  # not written over: it is mapped here
        file.write_bytes(content)
        forget()
        right()
        assert len(caplog.records) <= 1


class TestTheCompiler:
    def test_that_always_fails_costs_one_line(self, monkeypatch, caplog):
        monkeypatch.setenv("CC", "false")
        right()
        one_line(caplog, "compiled kernel")

    def test_that_is_a_script_that_fails_is_quoted(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("CC", script(tmp_path, "echo 'licence\nexpired' >&2; exit 1"))
        right()
        one_line(caplog, "refused: expired")

    def test_that_says_all_is_well_and_makes_nothing_costs_one_line(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("CC", script(tmp_path, "exit 0"))
        right()
        one_line(caplog, "compiled kernel")

    def test_that_makes_rubbish_costs_one_line(self, tmp_path, monkeypatch, caplog):
        text = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo rubbish > "$2"; shift; done; exit 0'
        monkeypatch.setenv("CC", script(tmp_path, text))
        right()
        one_line(caplog, "cannot be loaded")

    def test_without_openmp_or_native_flags_is_asked_for_less(self, tmp_path, monkeypatch, caplog):
        text = 'for a in "$@"; do case "$a" in -fopenmp|-march=native) echo "unknown $a" >&2; exit 1;; esac; done; exec cc "$@"'
        monkeypatch.setenv("CC", script(tmp_path, text))
        right()
        compiled.kernel(FORM, torch.float32)
        assert not caplog.records

    def test_that_does_not_exist_is_passed_over(self, monkeypatch, caplog):
        monkeypatch.setenv("CC", "/nowhere/cc")
        right()
        assert not caplog.records

    def test_another_one_has_another_file(self, tmp_path, monkeypatch):
        compiled.kernel(FORM, torch.float32)
        forget()
        monkeypatch.setenv("CC", script(tmp_path, 'exec cc "$@"'))
        compiled.kernel(FORM, torch.float32)
        assert len(list((tmp_path / "cache").iterdir())) == 2

    def test_nowhere_at_all_costs_one_line(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setenv("CC", "")
        monkeypatch.setenv("PATH", str(tmp_path))
        with caplog.at_level(logging.DEBUG, logger="lrkit"):
            right()
        one_line(caplog, "there is no C compiler")


class TestThreads:
    @pytest.fixture(autouse=True)
    def as_before(self) -> Iterator[None]:
        yield
        torch.set_num_threads(1)

    @pytest.mark.parametrize("kind", ["Adadelta", "NAdam"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
    def test_one_two_and_four_give_the_same_bits(self, kind, dtype):
        """Enough entries for several threads, in tensors that no boundary fits; and with gradients clipped row by row."""

        def run(threads, **kwargs):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((30_001,), (), (0,), (111, 301), (5, 4_001))]
            optimizer = getattr(optim, kind)(params, lr=0.1, backend="compiled", **kwargs)
            for _ in range(3):
                for p in params:
                    p.grad = torch.randn(p.shape).to(dtype)
                optimizer.step()
            return [p.detach() for p in params]

        for kwargs in {}, {"clip": clip.value(0.5)}, {"clip": clip.Adaptive(0.01)}:
            alone = run(1, **kwargs)
            for threads in (2, 4):
                assert all(torch.equal(a, b) for a, b in zip(alone, run(threads, **kwargs), strict=True))

    def test_random_rounding_does_not_depend_on_them(self):
        def run(threads):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            p = nn.Parameter(torch.randn(100_001).bfloat16())
            optimizer = optim.AdamW([p], stochastic_rounding=True, seed=3, backend="compiled")
            for _ in range(3):
                p.grad = torch.randn(100_001).bfloat16()
                optimizer.step()
            return p.detach()

        assert torch.equal(run(1), run(2)) and torch.equal(run(1), run(4))


class TestTheFunction:
    def test_takes_no_tensor_at_all(self):
        function = compiled.kernel(FORM, torch.float32)
        numbers = (ctypes.c_double * 10)()
        function(0, None, None, ctypes.addressof(numbers), None, None, None, 0.0, None, 4)

    def test_is_exactly_the_specification_where_no_rounding_can_differ(self):
        """Small whole numbers: SGD by ½ has no rounding at all."""
        p = nn.Parameter(torch.arange(100.0))
        optimizer = optim.SGD([p], lr=0.5, backend="compiled")
        p.grad = torch.arange(100.0) - 50
        optimizer.step()
        assert torch.equal(p.detach(), torch.arange(100.0) / 2 + 25)

    def test_rounds_to_the_nearest_even_bfloat16_as_torch_does(self):
        """Every finite bfloat16, halfway cases and overflow: p − g where g is 0, and where it is half a unit."""
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
        every = every[every.isfinite()]
        for step in (torch.zeros_like(every), every * 2**-8, -every * 2**-9, every * 3 * 2**-9):
            p = nn.Parameter(every.clone())
            optimizer = optim.SGD([p], lr=1.0, backend="compiled")
            p.grad = step
            optimizer.step()
            wanted = (every.float() - step.float()).bfloat16()
            assert torch.equal(p.detach().view(torch.int16), wanted.view(torch.int16))

    def test_of_random_rounding_is_the_specifications_to_the_bit(self):
        def run(backend):
            torch.manual_seed(0)
            params = [nn.Parameter(torch.randn(n).bfloat16()) for n in (1, 33, 1000)]
            optimizer = optim.SGD(params, lr=1e-3, stochastic_rounding=True, seed=7, backend=backend)
            for _ in range(5):
                for p in params:
                    p.grad = torch.randn(p.shape).bfloat16()
                optimizer.step()
            return [p.detach() for p in params]

        assert all(torch.equal(a, b) for a, b in zip(run("compiled"), run("reference"), strict=True))
