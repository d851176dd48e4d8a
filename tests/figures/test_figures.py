"""Pictures: the same data give the same bytes, SVGs can share a page and follow its colours, long curves stay short."""

import re

import numpy as np
import pytest

from lrkit.figures import charts, style

X = np.arange(50.0)


def drawn():
    return style.figure_of(charts.curves({"loss": (X, np.exp(-X)), "raw": (X, np.exp(-X))}, faint=("raw",)))


def test_svg_is_repeatable_and_self_contained():
    svg = style.to_svg(drawn(), "a curve")
    assert svg == style.to_svg(drawn(), "a curve")
    assert svg.startswith('<svg role="img" aria-label="a curve"')
    assert not re.findall(r'(?:href|src)="(?!#)', svg), "nothing is loaded from elsewhere"


def test_svg_uses_the_pages_colours_and_no_other():
    svg = style.to_svg(drawn(), "a curve")
    assert "var(--ink,#24292f)" in svg and "var(--c0,#0072b2)" in svg
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r"var\(--\w+,#[0-9a-f]{6}\)", "", svg))
    for name in re.findall(r"var\(--(\w+)", svg):
        assert f"--{name}:" in style.CSS_LIGHT and f"--{name}:" in style.CSS_DARK


def test_two_svgs_in_one_page_share_no_id():
    ids = [set(re.findall(r'\bid="([^"]+)"', style.to_svg(drawn(), label))) for label in ("one", "two")]
    assert ids[0] and not ids[0] & ids[1]


def test_labels_are_escaped():
    assert 'aria-label="a &quot;b&quot; &lt;c"' in style.to_svg(drawn(), 'a "b" <c')


def test_png_is_a_png():
    assert style.to_png(drawn()).startswith(b"\x89PNG")


def test_a_long_curve_is_thinned_and_keeps_its_extremes():
    x = np.arange(100_000.0)
    y = np.sin(x / 1000)
    y[40_000], y[70_000] = 50.0, -50.0
    thin_x, thin_y = charts.thin(x, y)
    assert len(thin_x) < 2000 and thin_y.max() == 50 and thin_y.min() == -50
    assert (np.diff(thin_x) > 0).all()


def test_a_logarithmic_axis_is_chosen_by_the_spread():
    assert charts.curves({"a": (X, np.exp(-X))}).get_yscale() == "log"
    assert charts.curves({"a": (X, X)}).get_yscale() == "linear"


def test_evidence_marks_diverged_runs_and_the_choice():
    ax = charts.evidence(
        [(10, np.array([1.0, 2.0]), np.array([0.5, np.nan])), (30, np.array([1.0]), np.array([0.0]))],
        fit=(30, X + 1, X),
        chosen=1.5,
        interval=(1.2, 2.0),
        untrained=40.0,
        title="ok",
    )
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:3] == ["80 % interval", "untrained", "fit, 30 updates"]
    assert labels[3:] == ["bracket, 10 updates", "diverged", "short runs, 30 updates", "chosen: 1.5"]
    assert any(line.get_marker() == "x" for line in ax.lines)
    assert ax.get_ylim()[1] == pytest.approx(45.6) and ax.get_title("left") == "ok"


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (20, 30), (49, 49), (80, 400)])
def test_a_named_stretch_stays_within_the_picture(start, stop):
    ax = charts.curves({"loss": (X, np.exp(-X))})
    before = ax.get_xlim()
    charts.window(ax, start, stop, "1 too high later")
    assert ax.get_xlim() == before
    assert ">1 too high later</text>" in style.to_svg(style.figure_of(ax), "a curve")
    figure = style.figure_of(ax)
    figure.canvas.draw()
    box, name = figure.bbox, ax.texts[0].get_window_extent()
    assert box.x0 <= name.x0 and name.x1 <= box.x1


def test_a_logarithm_is_chosen_without_overflow():
    assert not charts.positive_spread(np.full(3, 1e308))
