"""Odds: which word is said, and how the probabilities give way to a rule that saw more."""

import pytest

from lrkit.doctor.odds import WORDS, Odds, surely


def odds(low: float, ok: float, high: float) -> Odds:
    chances = dict(zip(WORDS, (low, ok, high), strict=True))
    return Odds(chances, chances, 0.0, None)


@pytest.mark.parametrize(
    ("chances", "word"),
    [
        ((0.6, 0.3, 0.1), "too low"),
        ((0.1, 0.3, 0.6), "too high"),
        ((0.3, 0.4, 0.3), "ok"),
        ((0.45, 0.35, 0.2), "too low"),  # 0.35 + 1.5 · 0.2 expected errors against 0.65 of "ok"
        ((0.42, 0.2, 0.38), "too low"),  # 0.77 against 0.8
        ((0.35, 0.32, 0.33), "ok"),  # the likeliest would be wrong by 0.815, the middle by 0.68
        ((0.33, 0.32, 0.35), "ok"),
    ],
)
def test_the_word_is_the_one_that_is_expected_to_be_least_wrong(chances, word):
    assert odds(*chances).word == word


def test_a_rule_that_saw_more_raises_its_word_and_leaves_the_others_in_proportion():
    raised = surely(odds(0.2, 0.6, 0.2), "too high", 0.9)
    assert raised.word == "too high" and sum(raised.probabilities.values()) == pytest.approx(1)
    assert raised.probabilities["ok"] == pytest.approx(3 * raised.probabilities["too low"])
    assert surely(odds(0.0, 0.05, 0.95), "too high", 0.9).probabilities["too high"] == 0.95
