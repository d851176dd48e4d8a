"""Alike lines read as arrays say what they say one by one."""

import random
from pathlib import Path

import numpy as np
import pytest

from lrkit import Run
from lrkit.errors import LrkitError
from lrkit.logs import text as module
from lrkit.logs.alike import pieces
from lrkit.logs.sniff import runs_in
from lrkit.logs.source import Source

LINES = {
    "nanoGPT": "iter {t}: loss {loss:.4f}, lr {lr:.3e}, time {ms:.2f}ms, mfu 30.1%",
    "Megatron": " iteration {t:>8}/ 5000 | elapsed time (ms): {ms:.1f} | learning rate: {lr:.3E} | lm loss: {loss:.6E} |",
    "modded": "step:{t}/5000 train_loss:{loss:.4f} train_time:{ms:.0f}ms",
    "dated": "[2024-01-{day:02d} 12:{min:02d}:{sec:02d}] INFO step={t} loss={loss:.4f} lr={lr:g}",
    "twice": "step {t} loss {loss:.3f} loss {lr:.5f} layer1.norm {ms:.2f} layer2.norm {ms:.3f}",
    "signed": "step {t} | loss {signed:.4f} | norm {ms:.2f}",
    "dict": "{{'step': {t}, 'loss': {loss:.4f}, 'learning_rate': {lr:g}}}",
    "epochs": "Epoch {epoch} Step {t} Loss {loss:.4f}",
    "total and epoch": "epoch {epoch} step {t}/5000 loss {loss:.4f}",
    "ends in a number": "step {t} loss {loss:.4f}",
    "layers with numbers": "step {t} block{sec}.loss {ms:.2f} loss {loss:.4f}",
}
BETWEEN = {
    "nothing": None,
    "an evaluation": "step {t}: train loss {loss:.4f}, val loss {loss:.4f}",
    "a held-out line": "Test: [0/50] Loss {loss:.4f}",
    "a heading": "Epoch {epoch}/7",
    "prose": "saving checkpoint to out/{t}.pt",
    "another form of the same words": "iter {t}: loss {loss:.4f}, eta 3h",
    "a NaN": "iter {t}: loss nan, lr {lr:.3e}, time {ms:.2f}ms, mfu 30.1%",
    "colours": "\x1b[32mstep {t} loss {loss:.4f}\x1b[0m",
    "a control letter": "step {t} loss {loss:.4f} \x01",
}


def log(line, between, rows=400, every=150, seed=0):
    """Printed rows, with another line now and then."""
    rng = random.Random(seed)
    out = []
    for t in range(rows):
        told = {
            "t": 10 * t, "loss": 3 * 0.99**t + rng.random(), "lr": 1e-3 * rng.random(), "ms": 100 * rng.random(),
            "day": 1 + t // 300, "min": t // 60 % 60, "sec": t % 60, "signed": rng.gauss(0, 2), "epoch": t // 100,
        }  # fmt: skip
        if between and t % every == every - 1:
            out.append(between.format(**told))
        out.append(line.format(**told))
    return "\n".join(out) + "\n"


def read(text, monkeypatch=None):
    """The runs, or the refusal; with `monkeypatch` line by line."""
    if monkeypatch is not None:
        monkeypatch.setattr(module, "_form", lambda _lines: None)
    try:
        return runs_in(Source.of(Path("out.log"), text.encode()))
    except LrkitError as error:
        return str(error)


def same(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    pairs = zip(one, other, strict=True)
    return all(isinstance(a, Run) and a == b and a.meta == b.meta for a, b in pairs)


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("line", LINES)
def test_both_ways_say_the_same(line, between, monkeypatch):
    text = log(LINES[line], BETWEEN[between])
    assert same(read(text), read(text, monkeypatch))


@pytest.mark.parametrize("line", [name for name in LINES if name != "layers with numbers"])
def test_the_arrays_are_really_taken(line):
    """Of lines with an evaluation now and then, nearly all."""
    lines = log(LINES[line], BETWEEN["an evaluation"]).split("\n")
    form = module._form(lines)
    assert form is not None
    assert sum(len(piece) for piece in pieces(lines, form) if isinstance(piece, np.ndarray)) == 400


@pytest.mark.parametrize("seed", range(40))
def test_damaged_logs_are_read_alike_both_ways(seed, monkeypatch):
    """Letters swapped, lost and doubled in a form that most lines keep."""
    rng = random.Random(seed)
    data = list(log(LINES[rng.choice(list(LINES))], BETWEEN[rng.choice(list(BETWEEN))], rows=200, seed=seed))
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data))
        data[at] = rng.choice(("", "\n", "7", "-", ".", " ", "e", "\x02", "nan", "inf", "1e999", data[at] * 2, rng.choice(data)))
    text = "".join(data)
    assert same(read(text), read(text, monkeypatch))
