"""Figures of whole Runs: loss above, rate below, on one step axis."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lrkit.figures.charts import curves, window
from lrkit.figures.style import GREEN, INK, PALETTE, new_figure
from lrkit.run import Run


def loss_and_rate(run: Run, shaded: tuple[int, int] | None = None, name: str = "") -> Figure:
    """The loss (raw, smoothed, validation) and the rate of one run, with the stretch that a finding is about shaded.

    Args:
        run: Needs `loss`; `lr` and `val_loss` are drawn where they are there.
        shaded: First and last step of the stretch.
        name: What to call it in the picture.
    """
    known = "lr" in run and bool(np.isfinite(run["lr"]).any())
    figure = new_figure(height=3.6 if known else 2.8, rows=2 if known else 1, sharex=True)
    top = figure.axes[0]
    if np.isfinite(run["loss"]).any():
        run.plot(top)
    else:
        top.text(0.5, 0.5, "no finite loss", transform=top.transAxes, ha="center")
    if len(run) > 1 and run["step"][-1] > run["step"][0]:  # also where the loss is lost before the end
        margin = 0.03 * (run["step"][-1] - run["step"][0])
        top.set_xlim(run["step"][0] - margin, run["step"][-1] + margin)
    if shaded is not None:
        window(top, *shaded, name)
    if known:
        gridspec = top.get_gridspec()
        assert gridspec is not None, "axes of new_figure lie on a grid"
        gridspec.set_height_ratios([2, 1])
        curves({"rate": run.observed("lr")}, figure.axes[1], ylabel="learning rate", log_y=False, colors={"rate": GREEN})
        figure.axes[1].set_ylim(bottom=0)
        top.set_xlabel("")
        if shaded is not None:
            window(figure.axes[1], *shaded)
    return figure


# What a page shows of a watched run: column, name, and the value that divides one kind of training from another.
_GAUGES = (
    ("gain_ratio", "gain ratio", 0.5), ("grad_cosine", "cosine of gradients", 0.0), ("edge", "curvature : stable limit", 1.0),
    ("update_ratio", "update : weights", None), ("coherence", "coherence κ", None), ("rms_t", "RMS_t", 1.0),
    ("grad_norm", "gradient norm", None), ("noise_scale", "noise scale, examples", None),
)  # fmt: skip
_FEWEST = 4  # visits that make a picture
_MOST = 6  # pictures


def gauges(run: Run) -> Figure | None:
    """What gauges have read, a small picture each, six at most; None where the run was not watched so closely."""
    seen = [one for one in _GAUGES if one[0] in run and len(run.observed(one[0])[1]) >= _FEWEST][:_MOST]
    if not seen:
        return None
    rows = -(-len(seen) // 2)
    figure = new_figure(width=6.2, height=0.5 + 1.45 * rows, rows=rows, columns=min(2, len(seen)), sharex=True)
    for ax, (column, name, divide) in zip(figure.axes, seen, strict=False):
        steps, values = run.observed(column)
        curves({name: (steps, values)}, ax, xlabel="")
        ax.lines[-1].set(marker=".", markersize=3.5, linewidth=0.9)
        ax.set_title(name, fontsize="medium", loc="left")
        if divide is not None:
            ax.axhline(divide, color=INK, lw=0.8, ls=":")
        ax.margins(x=0.03)
    for ax in figure.axes[len(seen) :]:
        ax.set_axis_off()
    for ax in figure.axes[max(0, len(seen) - 2) : len(seen)]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    return figure


def compare(runs: Sequence[Run], name: str = "loss") -> Figure:
    """Several runs' smoothed loss, and their rates on a logarithmic axis below; ``meta["label"]`` names each."""
    figure = new_figure(width=6.2, height=3.8, rows=2, sharex=True)
    labels = [str(run.meta.get("label", f"run {i + 1}")) for i, run in enumerate(runs)]
    labels = [label if labels.count(label) == 1 else f"{label} ({i + 1})" for i, label in enumerate(labels)]
    colors = {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}
    both = [(label, run) for label, run in zip(labels, runs, strict=True) if name in run]
    curves(
        {label: run.smooth(name) for label, run in both},
        figure.axes[0],
        xlabel="",
        ylabel=name,
        colors=colors,
    )
    rates = {label: run.observed("lr") for label, run in both if "lr" in run}
    rates = {label: (steps[lr > 0], lr[lr > 0]) for label, (steps, lr) in rates.items()}
    curves(rates, figure.axes[1], ylabel="learning rate", log_y=True, colors=colors)
    legend = figure.axes[1].get_legend()
    if legend is not None:
        legend.remove()
    return figure
