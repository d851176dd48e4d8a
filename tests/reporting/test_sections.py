"""The diagnosis on a page: the verdict, a figure and a card for each finding, a list where there are several."""

import re

import pytest

from lrkit import Run, report
from lrkit.reporting.panels import loss_and_rate
from lrkit.reporting.sections import diagnosis_section
from reporting.stubs import ALL, HIGH, TWO, UNCLEAR, WELL, finding, said


def test_each_finding_has_a_figure_in_which_it_is_named_and_a_card():
    page = diagnosis_section("log", TWO)
    assert page.count("<svg") == 2 and page.count('class="card') == 2
    assert ">1 diverged</text>" in page and ">2 late spikes</text>" in page
    assert "certain 98&nbsp;%" in page and "likely 64&nbsp;%" in page
    assert "Not in the log: lr, grad_norm." in page


def test_the_verdict_has_its_word_its_rate_and_a_bar_as_long_as_the_probabilities():
    page = diagnosis_section("log", HIGH)
    assert "rate too high <b>try 0.01</b>" in page
    shares = [float(one) for one in re.findall(r"flex-grow:([\d.]+)", page)]
    assert shares == [0.02, 0.15, 0.78, 0.05]
    assert 'class="high most">too high 78&nbsp;%' in page


def test_a_healthy_run_and_an_unclear_one_accuse_nobody():
    assert "healthy" in diagnosis_section("log", WELL) and WELL.well in diagnosis_section("log", WELL)
    page = diagnosis_section("log", UNCLEAR)
    assert "cannot tell" in page and "certain" not in page


def test_where_nothing_can_be_told_there_is_no_bar():
    assert 'class="bar"' in diagnosis_section("log", WELL) and 'class="bar"' not in diagnosis_section("log", UNCLEAR)


def test_everything_from_the_log_is_escaped():
    odd = said(Run({"loss": [1.0, 0.5]}, {"format": "<i>"}), (finding(advice="<b>x</b>", evidence=("<u>",)),), ("<s>",))
    page = diagnosis_section("<h1>", odd)
    assert not re.search(r"<(b>x|u>|s>|h1>)", page) and "<i>" not in page


def test_a_name_that_cannot_be_encoded_can_be_written(tmp_path):
    assert "log?" in report({"log\udc80": WELL}, tmp_path / "report.html").read_text()


def test_several_runs_are_listed_with_links_to_their_sections(tmp_path):
    page = report(ALL, tmp_path / "report.html").read_text()
    for place, name in enumerate(ALL):
        assert f'<a href="#s{place}">{name}</a>' in page and f'<section id="s{place}"><h2>{name}</h2>' in page
    assert 'href="#s0"' not in report({"one": WELL}, tmp_path / "report.html").read_text()


def test_colours_of_a_page_have_a_light_and_a_dark_value(tmp_path):
    page = report(ALL, tmp_path / "report.html").read_text()
    light, dark = page.split("@media(prefers-color-scheme:dark)")[:2]
    for name in set(re.findall(r"var\(--(\w+)", page)) - {"c"}:
        assert f"--{name}:" in light and f"--{name}:" in dark[:600], name


@pytest.mark.parametrize("one", ALL.values(), ids=ALL)
def test_the_picture_reaches_over_the_whole_run_also_where_the_loss_is_lost(one):
    figure = loss_and_rate(one.run, (300, 399), "1 x")
    low, high = figure.axes[0].get_xlim()
    assert low <= 0 and high >= 399
