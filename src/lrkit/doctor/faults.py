"""Faults: runs with a planted illness, and healthy ones that look ill, made from a seed. For tests, and to try the doctor on.

Each seed varies scale and offset of the loss, noise, length (60 to 20,000 rows), the shape of the fall, how often is logged,
and whether the rate is. ``for name, code, make in FAULTS: diagnose(make(0))`` shows them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrkit.run import Run

Array = NDArray[np.float64]
Make = Callable[[int], Run]
Columns = dict[str, Array]


@dataclass(frozen=True)
class Frame:
    """What a seed decides of every run.

    Args:
        rng: For what a fault varies itself.
        t: (n,) place in the run, 0 to 1.
        noise: Spread of a single loss, as a share of the drop.
        lr: The peak rate.
        logged: Whether the rate is in the log, where the illness does not need it.
    """

    rng: np.random.Generator
    t: Array
    noise: float
    lr: float
    logged: bool

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.t)

    def fall(self, since: float = 0.0, tau: float | None = None) -> Array:
        """From 1 towards 0.1 to 0.3 after `since`: exponentially, or by a power of the step as large models do."""
        tau = float(self.rng.uniform(0.05, 0.25)) if tau is None else tau
        low = float(self.rng.uniform(0.1, 0.3))
        x = np.maximum(self.t - since, 0.0) / tau
        curve = np.exp(-x) if self.rng.random() < 0.5 else (1 + 2 * x) ** -1.0
        return np.asarray(low + (1 - low) * curve)

    def normal(self, size: float = 1.0) -> Array:
        """(n,) noise of a single loss."""
        return np.asarray(size * self.noise * self.rng.standard_normal(self.n))

    def decaying(self, warm: float = 0.05) -> Array:
        """Warm-up and cosine."""
        return np.asarray(np.minimum(self.t / warm, 0.5 + 0.5 * np.cos(np.pi * np.maximum(self.t - warm, 0) / (1 - warm)) + 1e-3))


Shape = Callable[[Frame], tuple[Array, Array, Columns]]


def _made(
    shape: Shape, *, rate: bool = False, absolute: bool = False, rows: tuple[int, int] = (200, 20_000), sparse: bool = True
) -> Make:
    """A maker of runs: the shape in units of the drop, scaled and shifted as the seed says, unless the loss is `absolute`."""

    def make(seed: int) -> Run:
        rng = np.random.default_rng([seed, 77])
        n = int(np.exp(rng.uniform(np.log(rows[0]), np.log(rows[1]))))
        stride = int(rng.choice([1, 1, 1, 10, 50])) if sparse else 1
        lr, noise = float(10 ** rng.uniform(-5, 0)), float(np.exp(rng.uniform(np.log(0.003), np.log(0.04))))
        frame = Frame(rng, np.arange(n) / n, noise, lr, bool(rng.random() < 0.7))
        loss, factor, more = shape(frame)
        if not absolute:
            scale, offset = float(10 ** rng.uniform(-3, 4)), float(rng.choice([0.0, 0.0, 1.0]))
            with np.errstate(invalid="ignore"):
                loss = np.where(loss == 0, 0.0, scale * (loss + offset))
            if "val_loss" in more:
                more["val_loss"] = scale * (more["val_loss"] + offset)
        columns = {"step": stride * np.arange(n, dtype=np.float64), "loss": loss, **more}
        if rate or frame.logged:
            columns["lr"] = lr * factor
        return Run(columns)

    return make


def _plain(shape: Callable[[Frame], Array]) -> Shape:
    """A shape of the loss alone, under a constant rate or under warm-up and cosine."""

    def both(frame: Frame) -> tuple[Array, Array, Columns]:
        factor = frame.decaying() if frame.rng.random() < 0.5 else np.ones(frame.n)
        return shape(frame), factor, {}

    return both


# What blows up


def _explodes(value: float) -> Callable[[Frame], Array]:
    def shape(frame: Frame) -> Array:
        at = int(frame.n * frame.rng.uniform(0.1, 0.9))
        loss = frame.fall() + frame.normal()
        rows = np.arange(frame.n)
        ramp = np.maximum(rows - at + 5, 0)
        return np.where(rows >= at, value, loss * (1 + 0.3 * ramp))

    return shape


def _explodes_in_warmup(frame: Frame) -> tuple[Array, Array, Columns]:
    warm = float(frame.rng.uniform(0.1, 0.3))
    at = frame.rng.uniform(0.4, 0.9) * warm
    loss = frame.fall(tau=0.1) + frame.normal() + np.maximum(np.exp(np.minimum((frame.t - at) * 60 / warm, 500)) - 1, 0)
    return np.where(frame.t > at + 0.5 * warm, np.nan, loss), frame.decaying(warm), {}


def _masked(frame: Frame) -> tuple[Array, Array, Columns]:
    at = frame.rng.uniform(0.2, 0.8)
    loss = np.where(frame.t >= at, 0.0, frame.fall() + frame.normal())
    return loss, np.ones(frame.n), {"grad_norm": np.where(frame.t >= at, np.nan, 1 + 0.2 * frame.rng.random(frame.n))}


def _ends_above(frame: Frame) -> Array:
    at = frame.rng.uniform(0.1, 0.6)
    to = float(np.exp(frame.rng.uniform(np.log(1.5), np.log(50))))
    climb = 1 - np.exp(-np.maximum(frame.t - at, 0) / frame.rng.uniform(0.005, 0.1))
    fall = frame.fall()
    return np.asarray(fall + (to - fall) * climb + frame.normal())


def _overflows(frame: Frame) -> tuple[Array, Array, Columns]:
    at = frame.rng.uniform(0.2, 0.8)
    scale = 65536.0 / 2.0 ** np.clip(np.floor((frame.t - at + 0.05) * 320), 0, 16)
    return np.where(frame.t >= at, np.nan, frame.fall() + frame.normal()), np.ones(frame.n), {"loss_scale": scale}


# The rate itself


def _too_high_at_start(frame: Frame) -> Array:
    high = frame.rng.uniform(0.5, 3)
    return np.asarray(np.where(frame.t < 0.005, 1.0, 0.98 + high * np.exp(-frame.t / 0.05)) + frame.normal(0.3))


def _too_high_later(frame: Frame) -> tuple[Array, Array, Columns]:
    low = frame.rng.uniform(0.3, 0.7)
    loss = (
        low + (1 - low) * np.exp(-frame.t / 0.02) + frame.rng.uniform(0.15, 0.3) * (1 - low) * frame.rng.standard_normal(frame.n)
    )
    return loss, np.ones(frame.n), {}


def _too_low(frame: Frame) -> tuple[Array, Array, Columns]:
    factor = frame.decaying() if frame.rng.random() < 0.5 else np.ones(frame.n)
    way = np.cumsum(factor) / factor.sum()
    return 1 - frame.rng.uniform(0.3, 0.7) * way ** frame.rng.uniform(0.9, 1.1) + frame.normal(0.5), factor, {}


# Spikes


def _spikes(count: int, height: tuple[float, float], back: bool = True) -> Callable[[Frame], Array]:
    def shape(frame: Frame) -> Array:
        loss = frame.fall()
        rows = np.arange(frame.n)
        for place in np.linspace(0.4, 0.9, count) + frame.rng.uniform(-0.03, 0.03, count):
            since = rows - int(place * frame.n)
            tau = max(3.0, frame.n * frame.rng.uniform(0.003, 0.01)) if back else 1e9
            loss = loss + np.where(since >= 0, frame.rng.uniform(*height) * np.exp(-since / tau), 0.0)
        return np.asarray(loss + frame.normal())

    return shape


def _spikes_at_edges(frame: Frame) -> tuple[Array, Array, Columns]:
    epochs = int(frame.rng.integers(6, 12))
    within = frame.t * epochs % 1
    high = (frame.t > 0.15) * frame.rng.uniform(0.5, 1.5) * np.exp(-within * frame.n / epochs / max(3.0, 0.02 * frame.n / epochs))
    return frame.fall() + high + frame.normal(), np.ones(frame.n), {"epoch": frame.t * epochs}


# The schedule


def _warmup_short(frame: Frame) -> tuple[Array, Array, Columns]:
    warm, back = float(frame.rng.uniform(0.0, 0.02)), float(frame.rng.uniform(0.12, 0.3))
    hump = frame.rng.uniform(1.5, 6) * np.clip((frame.t - warm / 2) / 0.01, 0, 1) * np.exp(-((frame.t / back) ** 2) * 3)
    loss = frame.fall(since=back) + hump + frame.normal()
    return loss, np.minimum(1.0, (frame.t + 1 / frame.n) / max(warm, 1e-9)), {}


def _warmup_long(share: tuple[float, float]) -> Shape:
    def shape(frame: Frame) -> tuple[Array, Array, Columns]:
        warm = float(frame.rng.uniform(*share))
        factor = np.where(
            frame.t < warm, (frame.t + 1 / frame.n) / warm, 0.5 + 0.5 * np.cos(np.pi * (frame.t - warm) / (1.001 - warm))
        )
        way = np.cumsum(factor) / frame.n / warm
        low = frame.rng.uniform(0.1, 0.3)
        return low + (1 - low) * np.exp(-way / frame.rng.uniform(0.25, 0.5)) + frame.normal(), factor, {}

    return shape


def _decay_early(frame: Frame) -> tuple[Array, Array, Columns]:
    begin, width = float(frame.rng.uniform(0.15, 0.35)), float(frame.rng.uniform(0.02, 0.1))
    factor = np.minimum(frame.t / 0.02 + 1e-3, np.clip(1 - (frame.t - begin) / width, 0.002, 1.0))
    way = np.cumsum(factor) / frame.n
    low = frame.rng.uniform(0.05, 0.2)
    return low + (1 - low) * np.exp(-way / frame.rng.uniform(0.2, 0.5)) + frame.normal(0.5), factor, {}


def _decay_late(frame: Frame) -> tuple[Array, Array, Columns]:
    begin, level = float(frame.rng.uniform(0.9, 0.96)), float(frame.rng.uniform(0.4, 0.6))
    factor = np.minimum(frame.t / 0.02 + 1e-3, np.clip(1 - (frame.t - begin) / (1 - begin), 0.0, 1.0))
    gain = frame.rng.uniform(0.15, 0.35) * (1 - np.minimum(factor, 1)) * (frame.t > begin)
    return level + (1 - level) * np.exp(-frame.t / 0.05) - gain + frame.normal(), factor, {}


# Plateaus, and rows known by heart


def _escapes(frame: Frame) -> tuple[Array, Array, Columns]:
    chance, until = float(np.log(frame.rng.integers(2, 21))), float(frame.rng.uniform(0.15, 0.5))
    x = (frame.t - until) / 0.02
    drop = frame.rng.uniform(0.6, 0.95) * (0.7 / (1 + np.exp(-x)) + 0.3 * np.clip((frame.t - until) / (1 - until), 0, 1))
    return chance * (1 - drop + frame.normal(0.5)), np.ones(frame.n), {}


def _never_escapes(frame: Frame) -> tuple[Array, Array, Columns]:
    chance = float(np.log(frame.rng.integers(2, 21)))
    return chance * (1 + 0.1 * np.exp(-frame.t / 0.01) + frame.normal(0.5)), np.ones(frame.n), {}


def _overfits(frame: Frame) -> tuple[Array, Array, Columns]:
    best = float(frame.rng.uniform(0.15, 0.5))
    train = 0.02 + 0.98 * np.exp(-frame.t / 0.25) + frame.normal(0.5)
    val = 0.4 + 0.6 * np.exp(-4 * frame.t / best) + frame.rng.uniform(0.3, 1.5) * np.maximum(frame.t - best, 0) + frame.normal()
    return train, frame.decaying() if frame.rng.random() < 0.5 else np.ones(frame.n), {"val_loss": _now_and_then(frame, val)}


def _now_and_then(frame: Frame, values: Array) -> Array:
    every = max(1, frame.n // int(frame.rng.integers(15, 60)))
    return np.where(np.arange(frame.n) % every == every - 1, values, np.nan)


def _staircase(frame: Frame) -> tuple[Array, Array, Columns]:
    epochs = int(frame.rng.integers(3, 7))
    stairs = 1 - frame.rng.uniform(0.08, 0.15) * np.floor(frame.t * epochs)
    first = 0.8 * np.exp(-frame.t * epochs / 0.15)
    return stairs + first + frame.normal(0.5), frame.decaying(), {"epoch": frame.t * epochs}


FAULTS: tuple[tuple[str, str, Make], ...] = (
    ("explodes to NaN", "diverged", _made(_plain(_explodes(np.nan)), rows=(60, 20_000))),
    ("explodes to infinity", "diverged", _made(_plain(_explodes(np.inf)), rows=(60, 20_000))),
    ("explodes within its warm-up", "diverged", _made(_explodes_in_warmup, rate=True)),
    ("is not finite from the first row on", "diverged", _made(_plain(lambda frame: np.full(frame.n, np.nan)))),
    ("logs 0 in place of NaN", "diverged", _made(_masked)),
    ("ends above its start", "diverged", _made(_plain(_ends_above), rows=(60, 20_000))),
    ("overflows in float16", "diverged", _made(_overflows)),
    ("rises at once and stays at its start", "too_high_at_start", _made(_plain(_too_high_at_start))),
    ("falls fast, then jitters on one level", "too_high_later", _made(_too_high_later)),
    ("is slow all along", "too_low", _made(_too_low, rate=True)),
    ("is hit by spikes late, and recovers", "late_spikes", _made(_plain(_spikes(5, (0.5, 3.0))), rows=(400, 20_000))),
    ("is hit by one spike late, and recovers", "late_spikes", _made(_plain(_spikes(1, (1.0, 3.0))), rows=(400, 20_000))),
    ("jumps up late, and stays there", "late_spikes", _made(_plain(_spikes(1, (0.3, 0.6), back=False)), rows=(400, 20_000))),
    ("jumps up where epochs begin", "late_spikes", _made(_spikes_at_edges, rows=(1000, 20_000))),
    ("is thrown up where its warm-up ends", "warmup_too_short", _made(_warmup_short, rate=True)),
    ("warms up to the end", "warmup_too_long", _made(_warmup_long((1.0, 1.0)), rate=True)),
    ("warms up for most of the run", "warmup_too_long", _made(_warmup_long((0.58, 0.8)), rate=True)),
    ("decays while it still falls", "decay_too_early", _made(_decay_early, rate=True)),
    ("decays in the last steps only", "decay_too_late", _made(_decay_late, rate=True)),
    ("leaves the level of chance late", "saddle", _made(_escapes, rate=True, absolute=True)),
    ("never leaves the level of chance", "saddle", _made(_never_escapes, absolute=True)),
    ("overfits", "overfitting", _made(_overfits)),
    ("falls in steps where epochs begin", "overfitting", _made(_staircase, rows=(400, 20_000))),
)


# Healthy runs that look ill


def _catapult(frame: Frame) -> Array:
    at = 0.02 * frame.rng.uniform(0.5, 1.0)
    return np.asarray(np.where(frame.t < at, 1 + 0.6 * frame.t / at, frame.fall()) + frame.normal())


def _stable_then_decay(frame: Frame) -> tuple[Array, Array, Columns]:
    begin = float(frame.rng.uniform(0.7, 0.82))
    factor = np.minimum(frame.t / 0.05 + 1e-3, np.clip(1 - (frame.t - begin) / (1 - begin), 0.0, 1.0))
    gain = 0.3 * (1 - np.minimum(factor, 1)) * (frame.t > begin)
    return 0.5 + 0.5 * np.exp(-frame.t / 0.03) - gain + frame.normal(2), factor, {}


def _two_modes(frame: Frame) -> Array:
    return np.asarray(frame.fall() * (1 + 0.8 * (frame.rng.random(frame.n) < frame.rng.uniform(0.2, 0.7))) + frame.normal(0.5))


def _outliers(frame: Frame) -> tuple[Array, Array, Columns]:
    norms = 1 + frame.rng.pareto(1.5, frame.n)
    return frame.fall() + frame.normal(), frame.decaying(), {"grad_norm": norms}


def _resumed(frame: Frame) -> tuple[Array, Array, Columns]:
    at = float(frame.rng.uniform(0.3, 0.7))
    again = np.minimum(1.0, np.maximum(frame.t - at, 0) / 0.02 + (frame.t < at))
    return frame.fall() + frame.normal(), frame.decaying() * again, {}


def _restarts(frame: Frame) -> tuple[Array, Array, Columns]:
    cycles = int(frame.rng.integers(2, 6))
    factor = 0.5 + 0.5 * np.cos(np.pi * (frame.t * cycles % 1)) + 1e-3
    return frame.fall(tau=0.15) + 0.08 * factor * (frame.t > 1 / cycles) + frame.normal(), factor, {}


def _steps_down(frame: Frame) -> tuple[Array, Array, Columns]:
    factor = 0.1 ** np.floor(np.minimum(frame.t * 3.3, 3))
    gain = 0.1 * (frame.t > 1 / 3.3) + 0.04 * (frame.t > 2 / 3.3)
    return 0.3 + 0.7 * np.exp(-frame.t / 0.06) - gain + frame.normal(), factor, {}


def _exponential(frame: Frame) -> tuple[Array, Array, Columns]:
    return frame.fall(tau=0.1) + frame.normal(), 10 ** (-frame.rng.uniform(1, 3) * frame.t), {}


def _tail(frame: Frame) -> tuple[Array, Array, Columns]:
    end = float(frame.rng.uniform(0.5, 0.7))
    factor = 0.5 + 0.5 * np.cos(np.pi * np.minimum(frame.t / end, 1)) + 1e-3
    return 0.2 + 0.8 * np.exp(-frame.t / (0.12 * end)) + frame.normal(), factor, {}


def _one_cycle(frame: Frame) -> tuple[Array, Array, Columns]:
    factor = np.interp(frame.t, [0, 0.3, 1], [0.04, 1, 0.001])
    return 0.15 + 0.85 * np.exp(-np.cumsum(factor) / factor.sum() / 0.12) + frame.normal(), factor, {}


def _validated(frame: Frame) -> tuple[Array, Array, Columns]:
    train = frame.fall()
    return train + frame.normal(), frame.decaying(), {"val_loss": _now_and_then(frame, 1.05 * train + 0.05 + frame.normal())}


def _cosine(frame: Frame) -> tuple[Array, Array, Columns]:
    return frame.fall() + frame.normal(), frame.decaying(), {}


def _negative(frame: Frame) -> tuple[Array, Array, Columns]:
    return frame.fall() - frame.rng.uniform(0.5, 3) + frame.normal(), frame.decaying(), {}


def _noisy(frame: Frame) -> tuple[Array, Array, Columns]:
    return frame.fall() * frame.rng.gamma(6.0, 1 / 6.0, frame.n), frame.decaying(), {}


HEALTHY: tuple[tuple[str, Make], ...] = (
    ("falls under warm-up and cosine", _made(_cosine, rows=(60, 20_000))),
    ("is a catapult that comes back", _made(_plain(_catapult))),
    ("is flat in its stable phase, then decays", _made(_stable_then_decay, rate=True)),
    ("has noise of two modes, as mixup makes it", _made(_plain(_two_modes))),
    ("has gradient norms with a heavy tail", _made(_outliers)),
    ("was resumed, and warmed up again", _made(_resumed, rate=True)),
    ("restarts its rate warm", _made(_restarts, rate=True)),
    ("has a loss below 0", _made(_negative)),
    ("decays exponentially", _made(_exponential, rate=True)),
    ("decays in steps, and drops there", _made(_steps_down, rate=True)),
    ("has the noise of a small batch", _made(_noisy)),
    ("has a flat tail after its schedule", _made(_tail, rate=True)),
    ("goes through one cycle", _made(_one_cycle, rate=True)),
    ("has a validation loss that falls too", _made(_validated)),
)
