"""The drawings: curves over steps, curves over rates, a finder's evidence. Arrays in, axes out."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lrkit.figures.style import BLUE, GREEN, INK, PALETTE, YELLOW, axes_or_new, styled

Array = NDArray[np.float64]
_POINTS = 1200  # more than a screen shows


def thin(x: Array, y: Array, limit: int = _POINTS) -> tuple[Array, Array]:
    """At most about ``limit`` points that look the same: of each stretch, the lowest and the highest value.

    Args:
        x: (n,) ascending.
        y: (n,) values; non-finite ones are kept as gaps.
        limit: Points to keep.
    """
    if len(x) <= limit:
        return x, y
    keep = {0, len(x) - 1}
    for block in np.array_split(np.arange(len(x)), limit // 2):
        values = y[block]
        if np.isfinite(values).any():
            keep.update((int(block[np.nanargmin(values)]), int(block[np.nanargmax(values)])))
        else:
            keep.add(int(block[0]))
    index = np.array(sorted(keep))
    return x[index], y[index]


def positive_spread(y: Array) -> bool:
    """Whether a logarithmic axis suits these values: all positive, and more than a factor of 20 apart."""
    y = y[np.isfinite(y)]
    return bool(len(y) and y.min() > 0 and y.max() / 20 > y.min())


@styled
def curves(
    lines: Mapping[str, tuple[Array, Array]],
    ax: Axes | None = None,
    *,
    xlabel: str = "step",
    ylabel: str = "",
    log_y: bool | None = None,
    faint: Sequence[str] = (),
    colors: Mapping[str, str] | None = None,
) -> Axes:
    """Curves over a common x.

    Args:
        lines: label → (x, y), each (n,).
        ax: Axes to draw on; a new figure's where None.
        xlabel: Name and unit of x.
        ylabel: Name and unit of y.
        log_y: A logarithmic y axis; None decides by the values' spread.
        faint: Labels to draw thin, pale and without a place in the legend (raw values behind smoothed ones).
        colors: Colours by label, where they carry a meaning.
    """
    ax = axes_or_new(ax)
    colors = colors or {}
    strong = [label for label in lines if label not in faint]
    for label, (x, y) in lines.items():
        color = colors.get(label, PALETTE[strong.index(label) % len(PALETTE)] if label in strong else BLUE)
        width, alpha = (0.7, 0.35) if label in faint else (1.6, 1.0)
        shown = "_nolegend_" if label in faint else label
        ax.plot(*thin(np.asarray(x, float), np.asarray(y, float)), color=color, lw=width, alpha=alpha, label=shown)
    every = np.concatenate([np.asarray(y, float) for _, y in lines.values()]) if lines else np.empty(0)
    if positive_spread(every) if log_y is None else log_y:
        ax.set_yscale("log")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if len(strong) > 1:
        ax.legend(loc="best")
    return ax


@styled
def window(ax: Axes, start: float, stop: float, name: str = "") -> None:
    """Shade a stretch of steps in a colour that no curve has, and name it above the picture, where no curve runs.

    Args:
        ax: Axes whose curves are drawn already, on a linear x axis.
        start: First step; the stretch may be a single one.
        stop: Last step.
        name: What to write.
    """
    low, high = ax.get_xlim()
    start, stop = min(max(start, low), high), max(min(stop, high), low)
    ax.axvspan(start, stop, facecolor=(YELLOW, 0.2), edgecolor=YELLOW, lw=1)
    ax.set_xlim(low, high)
    middle = ((start + stop) / 2 - low) / ((high - low) or 1.0)
    side = "left" if middle < 0.3 else "right" if middle > 0.7 else "center"
    at = {"left": start, "right": stop, "center": (start + stop) / 2}[side]
    ax.annotate(
        name, (at, 1), (0, 3), xycoords=ax.get_xaxis_transform(), textcoords="offset points", ha=side, va="bottom",
        fontsize=9, fontweight="bold",
    )  # fmt: skip


@styled
def schedule_curve(steps: Array, values: Array, ax: Axes | None = None, *, ylabel: str = "factor of the base rate") -> Axes:
    """A schedule over its steps, filled, from zero up."""
    ax = axes_or_new(ax)
    x, y = thin(steps, values)
    ax.fill_between(x, 0, y, color=BLUE, alpha=0.12, lw=0)
    ax.plot(x, y, color=BLUE)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step (optimizer update)")
    ax.set_ylabel(ylabel)
    return ax


@styled
def evidence(
    rungs: Sequence[tuple[int, Array, Array]],
    ax: Axes | None = None,
    *,
    fit: tuple[int, Array, Array] | None = None,
    chosen: float | None = None,
    interval: tuple[float, float] | None = None,
    untrained: float | None = None,
    title: str = "",
) -> Axes:
    """What a finder saw, over the rate.

    Args:
        rungs: (updates, rates, losses after that many updates) of the short runs, the bracket first; a loss that is not finite
            was a diverged run and is drawn as a cross at the top.
        ax: Axes to draw on; a new figure's where None.
        fit: (updates, rates, losses) of the basin that explains the runs best, for the longest of them.
        chosen: The rate that was chosen.
        interval: Its interval.
        untrained: The loss before any update; the picture is cut a little above it.
        title: Above the picture.
    """
    ax = axes_or_new(ax)
    if interval is not None:
        ax.axvspan(*interval, color=GREEN, alpha=0.15, lw=0, label="80 % interval")
    if untrained is not None and np.isfinite(untrained):
        ax.axhline(untrained, color=INK, lw=0.8, ls=":", alpha=0.6, label="untrained")
    colors = dict(zip([horizon for horizon, *_ in rungs], PALETTE, strict=False))
    if fit is not None:
        ax.plot(fit[1], fit[2], color=colors.get(fit[0], INK), lw=1.2, alpha=0.7, label=f"fit, {fit[0]} updates")
    for i, (marker, (horizon, rates, losses)) in enumerate(zip("osD^v<", rungs, strict=False)):
        good, color = np.isfinite(losses), colors[horizon]
        name = "bracket" if i == 0 else "short runs"
        ax.plot(rates[good], losses[good], color=color, marker=marker, ms=6, ls="", label=f"{name}, {horizon} updates")
        if (~good).any():
            height = np.full(int((~good).sum()), 0.97)
            ax.plot(rates[~good], height, "x", color=color, ms=6, transform=ax.get_xaxis_transform(), label="diverged")
    if chosen is not None:
        ax.axvline(chosen, color=GREEN, lw=2, label=f"chosen: {chosen:.3g}")
    ax.set_xscale("log")
    seen = [losses for _, _, losses in rungs]
    finite = np.concatenate(seen)[np.isfinite(np.concatenate(seen))] if seen else np.empty(0)
    if untrained is not None and np.isfinite(untrained) and len(finite):
        low = min(float(np.min(finite)), untrained, np.inf if fit is None else float(np.min(fit[2])))
        top = untrained if low < untrained else float(np.max(finite))
        ax.set_ylim(low - 0.08 * (top - low) - 1e-12, top + 0.14 * (top - low) + 1e-12)
    ax.set_title(title)
    ax.set_xlabel("learning rate (first group)")
    ax.set_ylabel("loss")
    if ax.get_legend_handles_labels()[0]:
        # Below, because the evidence fills the picture: inside, it would lie over the interval or the runs.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.19), ncols=3)
    return ax
