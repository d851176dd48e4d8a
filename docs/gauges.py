"""Draws the pictures of docs/watch.md: each quantity in three runs of one small net, whose rates are too low, healthy, too high.

    python docs/gauges.py

Writes docs/img/gauges/*.svg, each of which follows the reader's light or dark page. Takes half a minute.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

import lrkit
from lrkit.figures.style import BLUE, CSS_DARK, CSS_LIGHT, GREEN, INK, ORANGE, PINK, new_figure, styled, to_svg

HERE = Path(__file__).parent
IMAGES = HERE / "img" / "gauges"
STEPS, EVERY, ROWS = 600, 4, 64
RATES = {"too low": 1e-4, "healthy": 1e-2, "too high": 0.3}
COLOURS = {"too low": BLUE, "healthy": GREEN, "too high": ORANGE}
WINDOW = 15  # readings that the median reaches over
Batch = tuple[Tensor, Tensor]


def data() -> Batch:
    """Points of ten classes, as a net that is not trained tells them apart; one in twenty has a wrong label."""
    torch.manual_seed(1)
    x = torch.randn(4096, 20)
    teacher = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 10, bias=False))
    with torch.no_grad():
        y = (3 * teacher(x)).argmax(1)
    wrong = torch.rand(len(y)) < 0.05
    return x, torch.where(wrong, torch.randint(10, y.shape), y)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def train(lr: float, jump: int = STEPS) -> lrkit.Run:
    """A run at a constant rate; all see the same batches, but that from `jump` on the labels are others."""
    x, y = data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    places = torch.Generator().manual_seed(2)
    with lrkit.watch(model, optimizer, loss=loss, every=EVERY) as w:
        for step in range(STEPS):
            some = torch.randint(len(x), (ROWS,), generator=places)
            batch = x[some], y[some] if step < jump else (y[some] + 1) % 10
            value = loss(model, batch)
            value.backward()
            w.record(loss=value, batch=batch)
            optimizer.step()
            optimizer.zero_grad()
    return w.run


Runs = dict[str, lrkit.Run]


def lines(ax: Axes, runs: Runs, name: str, log: bool = False, raw: bool = True) -> None:
    """A quantity of all runs: what was read, faintly, and its running median."""
    for label, run in runs.items():
        if raw:
            ax.plot(*run.observed(name), color=COLOURS[label], alpha=0.22, linewidth=0.8)
        ax.plot(*run.smooth(name, WINDOW), color=COLOURS[label], label=f"{label}, η = {RATES[label]:g}")
    if log:
        ax.set_yscale("log")
    ax.set(xlabel="update", xlim=(0, STEPS))


def mark(ax: Axes, value: float, text: str, below: bool = False) -> None:
    """A level that means something, with its name at the right end."""
    ax.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.annotate(
        text, (1.0, value), xycoords=("axes fraction", "data"), xytext=(-2, -3 if below else 3), textcoords="offset points",
        ha="right", va="top" if below else "bottom", fontsize=7.5, color=INK,
    )  # fmt: skip


Level = tuple[float, str] | tuple[float, str, bool]


def one(name: str, title: str, levels: tuple[Level, ...] = (), log: bool = False, **limits: Any) -> Callable[[Runs], Figure]:
    """A picture of one quantity."""

    @styled
    def draw(runs: Runs) -> Figure:
        figure = new_figure(7.2, 2.7)
        ax = figure.axes[0]
        panel(ax, runs, name, title, levels, log, limits)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure

    return draw


def two(*panels: tuple[str, str, tuple[Level, ...], bool, dict[str, Any]]) -> Callable[[Runs], Figure]:
    """A picture of two quantities side by side."""

    @styled
    def draw(runs: Runs) -> Figure:
        figure = new_figure(7.2, 3.0, columns=2)
        for ax, (name, title, levels, log, limits) in zip(figure.axes, panels, strict=True):
            panel(ax, runs, name, title, levels, log, limits)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return figure

    return draw


def panel(ax: Axes, runs: Runs, name: str, title: str, levels: tuple[Level, ...], log: bool, limits: dict[str, Any]) -> None:
    """One quantity in one pair of axes."""
    lines(ax, runs, name, log)
    for level in levels:
        mark(ax, *level)
    ax.set(title=title, **limits)


@styled
def effective(runs: Runs) -> Figure:
    """The spread of η/σ in one layer: median, and from the 1st to the 99th percentile."""
    figure = new_figure(7.2, 2.7)
    ax = figure.axes[0]
    for label, run in runs.items():
        steps, middle = run.smooth("effective_lr/2/q50", WINDOW)
        ax.fill_between(steps, run.smooth("effective_lr/2/q1", WINDOW)[1], run.smooth("effective_lr/2/q99", WINDOW)[1],
                        color=COLOURS[label], alpha=0.15, linewidth=0)  # fmt: skip
        ax.plot(steps, middle, color=COLOURS[label], label=f"{label}, η = {RATES[label]:g}")
    ax.set_yscale("log")
    ax.set(title="effective_lr/2: η/σ of the second layer, median and 1–99 %", xlabel="update", xlim=(0, STEPS))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def out_of_date(runs: Runs) -> Figure:
    """RMS_t of the three, where nothing happens, and of a run in which something does."""
    figure = new_figure(7.2, 2.7)
    ax = figure.axes[0]
    lines(ax, runs, "rms_t", log=True)
    ax.plot(*train(RATES["healthy"], jump=300).observed("rms_t"), "--", color=PINK, linewidth=1.1, label="healthy, other labels")
    ax.axhline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set_yticks([0.5, 1, 2, 5], labels=["0.5", "1", "2", "5"])
    ax.set_yticks([], minor=True)
    ax.set(title="rms_t, 1: σ is up to date", ylim=(0.4, 5))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


PICTURES: dict[str, tuple[Callable[[Runs], Figure], str]] = {
    "loss": (
        one("loss", "loss", ylim=(0, 6)),
        "Loss by update: at the low rate it falls slowly, at the healthy one fast, at the high one it stays above its start",
    ),
    "grad_norm": (one("grad_norm", "grad_norm", ylim=(0, 3)), "Gradient norm by update: largest at the high rate"),
    "update_ratio": (
        one("update_ratio", "update_ratio", ((1e-3, "10⁻³"),), log=True, ylim=(4e-4, 0.2)),
        "Update ratio by update: below a thousandth at the low rate, a hundredth at the healthy one, above that at the high one",
    ),
    "grad_cosine": (
        one("grad_cosine", "grad_cosine", ((0.0, "unrelated", True),), ylim=(-0.3, 0.8)),
        "Gradient cosine by update: 0.4 at the low rate, just above zero at the others",
    ),
    "coherence": (
        one("coherence", "coherence κ", ((0.229, "noise, 0.23"), (1.0, "all gradients agree")), ylim=(0, 1.13)),
        "Coherence by update: it stays high at the low rate, and falls to the level of noise at the others",
    ),
    "rms_t": (out_of_date, "RMS_t by update: near one at all three rates, and far above it where the labels change"),
    "effective_lr": (effective, "Effective rates of a layer by update, with their spread: a hundredfold rate, a hundredfold η/σ"),
    "gain_ratio": (
        one(
            "gain_ratio", "gain_ratio", ((1.0, "a small step"), (0.5, "to the minimum along it"), (0.0, "nothing gained")),
            ylim=(-0.1, 1.16),
        ),
        "Gain ratio by update: one at the low rate, 0.93 at the healthy one, 0.3 at the high one",
    ),
    "noise": (
        two(
            ("half_product", "half_product ≈ ‖G‖²", ((0.0, "no signal", True),), False, {"ylim": (-0.25, 0.8)}),
            ("noise_scale", "noise_scale, examples", ((float(ROWS), "the batch", True),), True, {"ylim": (20, 2e4)}),
        ),
        "Half-batch product and noise scale by update: the noise scale is near the batch at the low rate, and above it else",
    ),
    "curvature": (
        two(
            ("edge", "edge: share of the stable limit", ((1.0, "limit"),), True, {"ylim": (1e-4, 10)}),
            ("curvature_min", "curvature_min", ((0.0, "no way down"),), False, {"ylim": (-260, 60)}),
        ),
        "Share of the stable limit, which the high rate reaches, and smallest curvature, which is below zero in all three runs",
    ),
}  # fmt: skip


def picture(name: str, runs: Runs) -> str:
    """A picture as a file of its own, which carries its colours for light and dark."""
    draw, label = PICTURES[name]
    style = f"<style>svg{{{CSS_LIGHT}}}@media(prefers-color-scheme:dark){{svg{{{CSS_DARK}}}}}</style>"
    figure = draw(runs)
    width, height = figure.get_size_inches() * 100
    head, _, rest = to_svg(figure, label).partition(">")
    return f'{head} width="{width:.0f}" height="{height:.0f}">{style}{rest}'


def main() -> None:
    """Train, write the pictures."""
    torch.set_num_threads(1)
    IMAGES.mkdir(parents=True, exist_ok=True)
    runs = {label: train(lr) for label, lr in RATES.items()}
    for name in PICTURES:
        (IMAGES / f"{name}.svg").write_text(picture(name, runs), encoding="utf-8")


if __name__ == "__main__":
    main()
