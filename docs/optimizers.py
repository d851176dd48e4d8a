"""Draws the pictures of docs/optimizers.md.

    python docs/optimizers.py

Writes docs/img/optimizers/*.svg, each of which follows the reader's light or dark page.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import lrkit
from lrkit import optim
from lrkit.figures.style import BLUE, CSS_DARK, CSS_LIGHT, GREEN, GRID, INK, ORANGE, PAPER, PINK, new_figure, styled, to_svg

HERE = Path(__file__).parent
IMAGES = HERE / "img" / "optimizers"
CURVATURES = torch.tensor([1.0, 200.0], dtype=torch.float64)  # of the ravine along x and y


def example() -> Any:
    """examples/line.py as a module."""
    spec = importlib.util.spec_from_file_location("line", HERE.parent / "examples" / "line.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@styled
def line() -> Figure:
    """How far from the least squares each way of fitting a line is, epoch by epoch."""
    there = example()
    x, y = there.points()
    best = there.least_squares(x, y)
    figure = new_figure(7.2, 3.5)
    ax = figure.axes[0]
    for (way, (batch, lr)), colour in zip(there.WAYS.items(), (GREEN, BLUE, ORANGE), strict=True):
        for kind, schedule, dashes in (("fixed", there.FIXED, "--"), ("decaying", there.DECAYING, "-")):
            if (way, kind) == ("full batch", "decaying"):
                continue  # it arrives, too; the two lines would only cover each other
            far = [max(2e-7, float((one - best).norm())) for one in there.fit(x, y, batch, lr, schedule)]
            ax.semilogy(range(1, len(far) + 1), far, dashes, color=colour, label=f"{way}, {kind} rate")
    ax.text(16, 3e-7, "float32 tells no smaller distance", color=GREEN, fontsize=8)
    ax.set(xlabel="epoch", ylabel="distance from least squares", xlim=(0, 40.5), ylim=(1e-7, 3))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def path(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], updates: int) -> numpy.ndarray:
    """The way down the ravine ½(x² + 200·y²) from (−1, 0.08): (updates + 1, 2)."""
    place = torch.nn.Parameter(torch.tensor([-1.0, 0.08], dtype=torch.float64))
    optimizer, places = make([place]), [place.tolist()]
    for _ in range(updates):
        place.grad = CURVATURES * place.detach()
        optimizer.step()
        places.append(place.tolist())
    return numpy.array(places)


@styled
def ravine() -> Figure:
    """Two rates of SGD, and the three scales."""
    figure = new_figure(7.2, 3.1, columns=2)
    left, right = figure.axes
    for ax in (left, right):
        valley(ax)
    walk(left, path(lambda p: optim.SGD(p, lr=1e-2), 50), ORANGE, "SGD, η = 10⁻²: bounces", "o-")
    walk(left, path(lambda p: optim.SGD(p, lr=1e-4), 50), BLUE, "SGD, η = 10⁻⁴: crawls", "s-")
    walk(right, path(lambda p: optim.RMS(p, lr=0.05), 100), BLUE, "RMS, η = 0.05", "o-")
    walk(right, path(lambda p: optim.Adagrad(p, lr=0.1), 100), ORANGE, "Adagrad, η = 0.1", "s-")
    walk(right, path(lambda p: optim.RMSprop(p, lr=0.01, alpha=0.9), 100), GREEN, "RMSprop, η = 0.01", "^-")
    left.set_title("one rate for both, 50 updates")
    right.set_title("a rate for each, η/σ, 100 updates")
    right.annotate(
        "RMS jumps: σ has shrunk", (-0.065, -0.105), (-1.0, -0.1), fontsize=8, arrowprops={"arrowstyle": "->", "color": INK}
    )
    for ax, where in ((left, "upper right"), (right, "upper center")):
        ax.legend(loc=where, frameon=True, facecolor=PAPER, edgecolor="none", framealpha=0.9)
    return figure


def valley(ax: Axes) -> None:
    """The contours of the ravine."""
    x, y = numpy.meshgrid(numpy.linspace(-1.12, 0.25, 160), numpy.linspace(-0.12, 0.17, 160))
    ax.contour(x, y, (x**2 + 200 * y**2) / 2, levels=[0.02, 0.1, 0.25, 0.5, 0.9, 1.4, 2.0, 2.7], colors=GRID, linewidths=1.0)
    ax.plot(0, 0, "*", color=INK, markersize=9, zorder=5)
    ax.grid(False)
    ax.set(xlabel="x (curvature 1)", ylabel="y (curvature 200)", xlim=(-1.12, 0.25), ylim=(-0.12, 0.17))


def walk(ax: Axes, places: numpy.ndarray, colour: str, label: str, mark: str) -> None:
    """A path, with a mark every few updates."""
    ax.plot(places[:, 0], places[:, 1], mark, color=colour, label=label, linewidth=0.8, markersize=3, markevery=3)


@styled
def radam() -> Figure:
    """RAdam's rectification beside a linear warm-up."""
    weight = [torch.nn.Parameter(torch.zeros(1))]
    rectified, plain = optim.RAdam(weight, lr=1.0), optim.Adam(weight, lr=1.0)
    t = numpy.arange(6, 5001)
    r = [rectified.scalars(int(one)).cm / plain.scalars(int(one)).cm for one in t]
    figure = new_figure(7.2, 2.9)
    ax = figure.axes[0]
    ax.plot(t, r, "-", color=BLUE, label="RAdam's rₜ, β₂ = 0.999")
    every = numpy.arange(5000)
    ax.plot(every + 1, lrkit.schedules.untuned_warmup(0.999)(every), "--", color=ORANGE, label="warm-up over 2/(1 − β₂) = 2,000")
    ax.plot(every + 1, lrkit.parse("warmup 500")(every), ":", color=PINK, label="warm-up over 500")
    ax.set(xlabel="update t", ylabel="factor of η", xlim=(0, 5000), ylim=(0, 1.05))
    ax.legend(loc="lower right")
    return figure


PICTURES: dict[str, tuple[Callable[[], Figure], str]] = {
    "line": (line, "Distance from the least-squares line by epoch: fixed rates keep a distance, decaying ones close in"),
    "ravine": (ravine, "Paths in a ravine: SGD bounces or crawls, RMS, Adagrad and RMSprop go along both directions"),
    "radam": (radam, "RAdam's factor of the rate by update, beside two linear warm-ups"),
}


def picture(name: str) -> str:
    """A picture as a file of its own, which carries its colours for light and dark."""
    draw, label = PICTURES[name]
    style = f"<style>svg{{{CSS_LIGHT}}}@media(prefers-color-scheme:dark){{svg{{{CSS_DARK}}}}}</style>"
    figure = draw()
    width, height = figure.get_size_inches() * 100
    head, _, rest = to_svg(figure, label).partition(">")
    return f'{head} width="{width:.0f}" height="{height:.0f}">{style}{rest}'


def main() -> None:
    """Write the pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        (IMAGES / f"{name}.svg").write_text(picture(name), encoding="utf-8")


if __name__ == "__main__":
    main()
