"""How every picture of the house looks, and how it becomes bytes.

The colours are Okabe and Ito's, which stay apart for colour-blind readers (https://jfly.uni-koeln.de/color/). Figures are
made without pyplot: no global state, no window, nothing to close.
"""

import io
import re
from collections.abc import Callable
from functools import wraps
from hashlib import blake2b
from typing import Any, ParamSpec, TypeVar

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GRID, PAPER = "#24292f", "#d8dee4", "#ffffff"
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
PALETTE = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)

# In a page the colours are variables, so that one SVG serves light and dark: CSS_LIGHT and CSS_DARK give their values.
_VARIABLES = {INK: "ink", GRID: "grid", PAPER: "paper"} | {colour: f"c{i}" for i, colour in enumerate(PALETTE)}
_DARK = ("#e6edf3", "#3d444d", "#0d1117", "#58a6ff", "#ff8c42", "#3fd0a0", "#e5a3c8", "#f2c14e", "#8ecdf5")
CSS_LIGHT = "".join(f"--{name}:{colour};" for colour, name in _VARIABLES.items())
CSS_DARK = "".join(f"--{name}:{colour};" for name, colour in zip(_VARIABLES.values(), _DARK, strict=True))

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "lrkit",
    "figure.constrained_layout.use": True,
}


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Let a drawing be made in the house's style: legends and titles take theirs when they are made."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapped


@styled
def new_figure(width: float = 5.2, height: float = 3.0, rows: int = 1, columns: int = 1, sharex: bool = False) -> Figure:
    """An empty figure in the house's style.

    Args:
        width: Inches. The default is legible on a telephone and, scaled up, beside a text.
        height: Inches.
        rows: Rows of axes.
        columns: Columns of axes.
        sharex: Whether the axes of one column share their x axis.

    Returns:
        A figure that holds ``rows × columns`` axes.
    """
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.subplots(rows, columns, sharex=sharex)
    return figure


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes that were given, or those of a new figure."""
    return ax if ax is not None else new_figure().axes[0]


def figure_of(ax: Axes) -> Figure:
    """The figure that holds these axes, also where they sit in a subfigure."""
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure), "axes that are drawn on belong to a figure"
    return figure


@styled
def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as a PNG on white paper."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


@styled
def to_svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element that scales, follows a page's colours where it has them, and can stand beside others.

    Args:
        figure: What to draw.
        label: What a screen reader says.

    Returns:
        ``<svg …>…</svg>`` without an XML header; the same figure gives the same text.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Ids are unique in a page only if each picture brings its own prefix.
    prefix = blake2b((label + svg).encode(), digest_size=4).hexdigest()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{prefix}-", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name},{colour})")
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r'<svg ([^>]*?)width="[^"]*"', f'<svg role="img" aria-label="{escaped}" \\1', svg, count=1).replace(
        f'height="{figure.get_figheight() * 72:g}pt"', "", 1
    )
