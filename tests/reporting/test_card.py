"""A diagnosis in a terminal: within the width, within a screen, and nothing said by colour alone."""

import json

import numpy as np
import pytest

from lrkit import Run, diagnose
from lrkit.reporting.card import card, overview, shorten
from lrkit.reporting.curve import curve, trace
from lrkit.reporting.terminal import spark
from lrkit.reporting.verdict import as_dict, gravity, percent, printable, run_name
from reporting.stubs import ALL, DECAYED, HIGH, LOST, MAYBE, TWO, UNCLEAR, WELL, finding, said


def text(lines) -> str:
    return "\n".join(line.plain for line in lines)


class TestWidth:
    @pytest.mark.parametrize("width", [40, 41, 57, 80, 99, 120])
    @pytest.mark.parametrize("name", ALL)
    def test_no_line_is_wider_than_the_terminal(self, name, width):
        for line in card(name * 9, ALL[name], width):
            assert line.cell_len <= width and "\n" not in line.plain

    @pytest.mark.parametrize("width", [40, 60, 80, 120])
    def test_nor_is_one_of_the_table(self, width):
        lines = overview([(f"very/long/folder/漢字{name}", one) for name, one in ALL.items()], width)
        assert len(lines) == 1 + len(ALL) and all(line.cell_len <= width for line in lines)

    def test_a_run_with_one_finding_fits_a_screen_of_80_by_24(self):
        assert len(card("a.csv", HIGH, 80, 24)) <= 24
        assert len(card("a.csv", WELL, 80, 24)) <= 24

    def test_a_taller_screen_has_a_taller_curve_within_reason(self):
        assert len(card("a.csv", HIGH, 80, 24)) < len(card("a.csv", HIGH, 80, 60)) < 35

    def test_further_lines_hang_under_the_first(self):
        lines = text(card("a.csv", HIGH, 50)).splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("   do       change"))
        assert lines[at + 1].startswith(" " * 12) and lines[at + 1][12] != " "


class TestWords:
    def test_the_order_is_header_curve_verdict_finding_what_is_missing(self):
        lines = text(card("a.csv", HIGH, 80))
        parts = ["a.csv   400 rows, steps 0–399, csv", "└──", "lr 0.03 constant", "step 0", "rate too high   try 0.01",
                 "too low 2 %", "1  too high later   likely 78 %   steps 40–399", "   for      86%", "   against  a floor",
                 "   do       change", "   verify   the loss", "not in the log: grad_norm"]  # fmt: skip
        places = [lines.index(part) for part in parts]
        assert places == sorted(places)

    def test_each_finding_has_its_number_and_the_first_is_marked_in_the_picture(self):
        lines = text(card("log", TWO, 80))
        assert "1 diverged ─" in lines and "2  late spikes   likely 64 %" in lines
        assert "2 late spikes" not in lines

    def test_a_healthy_run_says_so_and_marks_nothing(self):
        lines = text(card("log", WELL, 80))
        assert "rate ok\n" in lines and WELL.well in lines and "└" not in lines

    def test_cannot_tell_claims_no_confidence(self):
        lines = text(card("log", UNCLEAR, 80))
        assert "\ncannot tell\n" in lines and "certain" not in lines

    def test_where_nothing_can_be_told_there_is_no_bar(self):
        assert "█" in text(card("log", WELL, 80)) and "█" not in text(card("log", UNCLEAR, 80))

    def test_no_name_steers_the_terminal(self):
        named = said(Run({"loss": [1.0, 0.5]}, {"label": "a\x1b[31m\nb\udc80"}), missing=("x\x1b[2J",))
        lines = text(card("f\x1b[0m", named, 80))
        assert "\x1b" not in lines and "\udc80" not in lines

    def test_every_colour_is_one_of_the_terminals_own(self):
        known = {"", "bold", "dim", "not", "green", "cyan", "magenta", "red"}
        for name, one in ALL.items():
            for line in [*card(name, one), *overview([(name, one)])]:
                for style in [line.style, *(span.style for span in line.spans)]:
                    assert set(str(style).split()) <= known


class TestCurve:
    def test_the_bracket_stands_below_its_steps(self):
        lines = text(curve(DECAYED, 80, 4, (100, 299, "1 x", ""))).splitlines()
        bracket = next(line for line in lines if "└" in line)
        first = lines[-1].index("0")
        room = 80 - first
        assert abs((bracket.index("└") - first) / room - 0.25) < 0.03 and abs((bracket.index("┘") - first) / room - 0.75) < 0.03

    @pytest.mark.parametrize(("window", "shown"), [((0, 9), "└┘ 1 a name"), ((0, 1), "▲ 1 a name"), ((398, 399), "1 a name ▲")])
    def test_a_short_stretch_has_its_name_beside_it(self, window, shown):
        assert shown in text(curve(DECAYED, 80, 4, (*window, "1 a name", "")))

    def test_a_rate_that_changes_is_drawn_and_one_that_does_not_is_said(self):
        assert "lr 0.003 ███" in text(curve(DECAYED, 80, 4)) and "▁" in text(curve(DECAYED, 80, 4))
        assert "lr" not in text(curve(LOST, 80, 4))

    def test_where_the_loss_is_lost_is_shown(self):
        lines = text(curve(LOST, 80, 4)).splitlines()
        assert lines[0].count("×") == pytest.approx(73 / 4, abs=2) and lines[0].endswith("×")
        assert "×" not in text(curve(DECAYED, 80, 4))

    def test_a_wide_range_is_drawn_logarithmically_and_says_so(self):
        assert "log loss" in text(curve(Run({"loss": np.exp(-np.arange(50.0))}), 80, 4))

    @pytest.mark.parametrize(
        "loss",
        [
            [1.0],
            [1.0, 1.0],
            [float("nan")] * 5,
            [1e308, -1e308] * 9,
            [1e308] * 50,
            [0.0] * 5,
            [-1.0, 5.0, float("inf"), 2.0, 1.0],
        ],
    )
    def test_hard_losses_are_drawn(self, loss):
        run = Run({"loss": loss, "lr": [0.0] * len(loss)})
        for line in curve(run, 40, 4, (0, len(loss), "1 name", "red")):
            assert line.cell_len <= 40
        assert len(trace(run, 8)) == 8

    def test_a_bar_has_eight_heights(self):
        assert spark([i / 7 for i in range(8)], 0, 1) == "▁▂▃▄▅▆▇█"


class TestVerdict:
    def test_the_dictionary_is_strict_json_with_every_key(self):
        odd = said(findings=(finding(factor=float("nan"), window=(np.int64(1), np.int64(2))),))
        found = json.loads(json.dumps(as_dict(odd), allow_nan=False))
        assert set(found) >= {"rate", "probabilities", "advised_lr", "healthy", "findings", "missing"}
        assert found["advised_lr"] is None
        one = found["findings"][0]
        assert set(one) == {
            "code", "sentence", "confidence", "sure", "window", "evidence", "counter", "advice", "verify", "factor", "restart",
            "probe",
        }  # fmt: skip
        assert one["factor"] is None and one["window"] == [1, 2] and isinstance(one["evidence"], list)

    def test_only_what_is_at_least_likely_is_serious(self):
        assert [one.serious for one in (WELL, UNCLEAR, MAYBE, HIGH, TWO)] == [False, False, False, True, True]
        assert sorted((TWO, WELL, HIGH, MAYBE), key=gravity) == [WELL, MAYBE, HIGH, TWO]

    def test_a_percentage_never_claims_certainty(self):
        assert [percent(share) for share in (0.0, 0.5, 1.0)] == ["< 1 %", "50 %", "> 99 %"]

    def test_a_run_is_called_by_its_file_and_its_own_name(self):
        assert run_name("a/b.csv", Run({"loss": [1.0]}, {"label": "seed 1"})) == "a/b.csv · seed 1"
        assert run_name("a/b.csv", Run({"loss": [1.0]})) == "a/b.csv"
        assert printable("a\tb") == "a?b" and shorten("abcdef", 4) == "…def"

    def test_a_real_diagnosis_can_be_shown(self):
        assert "log" in text(card("log", diagnose(DECAYED), 80)) and as_dict(diagnose(LOST))["rate"] == "diverged"
