"""The linter names each classic mistake, and is silent where there is none."""

import pytest

import lrkit
from lrkit import schedules as s
from lrkit.errors import InputError

MISTAKES = [
    ("linear 500 from 0 to 1 > cosine 9500", {}, {"zero_first_update"}),
    ("warmup 500 > hold 300 at 0 > cosine 1000 from 1", {}, {"zero_update", "jump"}),
    ("cosine 4", {}, {"floor_never_reached", "epochs_as_steps"}),
    ("cosine 9500", {"total": 2000}, {"longer_than_run"}),
    ("cosine 2000", {"total": 5000}, {"ends_early"}),
    ("cosine 90", {"total": 9000, "steps_per_epoch": 100}, {"epochs_as_steps", "ends_early"}),
    ("cosine 90", {}, {"epochs_as_steps"}),
    ("warmup 500 > constant", {}, {"never_falls"}),
    ("constant", {}, {"never_falls"}),
    ("warmup 5000 > cosine 9500", {"total": 4000}, {"warmup_longer_than_run", "longer_than_run"}),
    ("warmup 6000 > cosine 4000", {}, {"warmup_long"}),
    ("warmup 100 > (cosine 1000)[400:]", {}, {"jump"}),
    ("warmup 400 from 0.1 to 0.7 > cosine 9500 from 1", {}, {"jump"}),
    ("repeat 5 (cosine 2000)", {"total": 8500}, {"restart_near_end", "longer_than_run"}),
    ("repeat 5 (cosine 2000)", {"total": 7000}, {"restart_after_end", "longer_than_run"}),
    ("cosine 1000 > cosine 1000 from 1", {"total": 900}, {"restart_after_end", "longer_than_run"}),
    ("warmup 500 to 3 > cosine 5000", {}, {"above_base"}),
    ("base 1.21 origin -3 (linear 500)", {}, {"negative"}),
    (str(s.triangular(1000)), {"steps_per_epoch": 1000, "total": 20_000}, {"half_cycle"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "run", "codes"), MISTAKES)
def test_names_the_mistake(text, run, codes):
    assert {remark.code for remark in lrkit.lint(text, **run)} == codes


@pytest.mark.parametrize(
    "schedule",
    [
        "warmup 500 > cosine 9500", "warmup 500 > hold 7500 > 1-sqrt 2000", "repeat 5 (cosine 2000) scale 0.8",
        "hold 300 > hold 300 at 0.1 > hold 300 at 0.01", s.one_cycle(1000), s.wsd_s([1000, 1000], 50, 200),
        s.step(300), s.inverse_sqrt(100), s.triangular(500), "base 0.1 (warmup 500 > cosine 9500)", s.from_range(0.001, 0.1, 500),
    ],
    ids=str,
)  # fmt: skip
def test_is_silent_where_all_is_well(schedule):
    assert lrkit.lint(schedule) == ()


def test_a_template_is_read_for_its_run():
    assert lrkit.lint("warmup 5% > cosine", total=1000) == ()
    assert [r.code for r in lrkit.lint("warmup 60% > cosine", total=1000)] == ["warmup_long"]
    with pytest.raises(InputError, match="Pass total="):
        lrkit.lint("warmup 5% > cosine")


def test_a_remark_says_where_and_what_to_do():
    (remark,) = lrkit.lint("linear 500 from 0 to 1 > cosine 9500")
    assert str(remark).startswith("step 0: update 0 has rate 0") and "Let the rise arrive" in str(remark)


class TestDiff:
    def test_says_where_two_part_and_what_it_makes_of_the_whole(self):
        found = lrkit.diff("hold 10 > linear 90", "hold 10 > linear 90 to 0.5")
        assert found and found.first == 11 and found.at == 99
        assert found.largest == pytest.approx(0.5 * 89 / 90)
        assert found.mean[0] < found.mean[1] and "part at step 11" in str(found)

    def test_is_false_where_they_are_the_same(self):
        found = lrkit.diff("1-sqrt 100", "power(0.5) 100")
        assert not found and str(found) == "the same over 100 updates"

    def test_takes_templates_with_a_total(self):
        assert lrkit.diff("warmup 5% > cosine", "warmup 10% > cosine", total=100).first == 0
