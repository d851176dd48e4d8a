"""A schedule is a pure, finite, never negative value, and its text is itself."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrkit
from lrkit.errors import InputError
from lrkit.schedules import Hold, Join, Power, Segment, Template, cosine, linear, parse, warmup, wsd
from lrkit.schedules.easing import EASINGS

VALUE = st.floats(0, 10, allow_nan=False)
STEPS = st.integers(1, 10**6)
PLAIN = st.sampled_from([e for name, e in EASINGS.items() if name != "exponential"]) | st.floats(0.1, 5).map(Power)
SEGMENTS = st.builds(Segment, VALUE, VALUE, STEPS, PLAIN, st.booleans()) | st.builds(
    Segment,
    VALUE.filter(lambda v: v > 1e-6),
    VALUE.filter(lambda v: v > 1e-6),
    STEPS,
    st.just(EASINGS["exponential"]),
    st.booleans(),
)
FINITE = SEGMENTS | st.builds(Hold, VALUE, STEPS)
SCHEDULES = (
    st.lists(FINITE, min_size=1, max_size=5)
    .flatmap(lambda stages: st.just(stages) | st.just(Hold()).map(lambda last: [*stages, last]))
    .map(lambda stages: stages[0] if len(stages) == 1 else Join(*stages))
)


ASKED = given(schedule=SCHEDULES, steps=st.lists(st.integers(-10, 5 * 10**6), min_size=1, max_size=20))


class TestContract:
    @ASKED
    def test_the_order_of_asking_does_not_matter(self, schedule, steps):
        forwards = [schedule(t) for t in steps]
        assert forwards == [schedule(t) for t in reversed(steps)][::-1]

    @ASKED
    def test_values_are_finite_and_within_the_stages_ends(self, schedule, steps):
        stages = schedule.stages if isinstance(schedule, Join) else (schedule,)
        ends = [v for s in stages for v in ((s.start, s.end) if isinstance(s, Segment) else (s.value_held,))]
        for value in map(schedule, steps):
            assert math.isfinite(value) and min(ends) * (1 - 1e-12) <= value <= max(ends) * (1 + 1e-12)

    @ASKED
    def test_past_the_end_the_last_value_holds(self, schedule, steps):
        if schedule.steps is not None:
            assert all(schedule(schedule.steps + abs(t)) == schedule.end_value for t in steps)

    @ASKED
    def test_a_whole_curve_is_the_values_one_by_one(self, schedule, steps):
        one_by_one = np.array([schedule(t) for t in steps])
        assert schedule(np.array(steps)) == pytest.approx(one_by_one, rel=1e-14, abs=1e-300)

    @ASKED
    def test_survives_a_pickle(self, schedule, steps):
        assert pickle.loads(pickle.dumps(schedule)) == schedule

    @ASKED
    def test_its_text_reads_back_as_itself(self, schedule, steps):
        assert parse(str(schedule)) == schedule


class TestConventions:
    def test_a_warm_up_arrives_and_a_decay_departs(self):
        schedule = parse("warmup 4 > cosine 4")
        values = [round(schedule(t), 4) for t in range(10)]
        assert values == [0.25, 0.5, 0.75, 1.0, 1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]

    def test_no_update_of_the_planned_run_has_rate_zero(self):
        schedule = parse("warmup 5% > cosine").resolve(total=100)
        assert min(schedule(t) for t in range(100)) > 0

    def test_arrive_puts_a_decays_end_on_its_last_update(self):
        assert [parse("linear 4 arrive")(t) for t in range(5)] == [0.75, 0.5, 0.25, 0.0, 0.0]

    def test_a_boundary_belongs_to_the_new_segment(self):
        assert Join(Hold(1.0, 3), Hold(0.5, 3))(3) == 0.5

    @given(a=FINITE, b=FINITE, c=FINITE)
    def test_joining_is_associative(self, a, b, c):
        assert Join(Join(a, b), c) == Join(a, Join(b, c)) == Join(a, b, c)

    @given(start=VALUE, end=VALUE, steps=STEPS, easing=PLAIN)
    def test_a_segment_hits_its_ends_exactly(self, start, end, steps, easing):
        assert Segment(start, end, steps, easing)(0) == start
        assert Segment(start, end, steps, easing)(steps) == end
        assert Segment(start, end, steps, easing, arrive=True)(steps - 1) == end


class TestGoldenNumbers:
    def test_cosine_is_the_formula_of_the_paper(self):
        """arXiv:1608.03983, eq. 5, with η_max = 1, η_min = 0.1, T = 1000."""
        t = np.arange(1000)
        assert cosine(1000, end=0.1)(t) == pytest.approx(0.1 + 0.45 * (1 + np.cos(np.pi * t / 1000)), rel=1e-14)

    def test_the_1_sqrt_decay_is_the_formula_of_the_paper(self):
        """arXiv:2405.18392: 1 − √((t − (N − D)) / D) in the decay of warmup–stable–decay."""
        schedule = wsd(1000, warmup=100, decay=200)
        t = np.arange(800, 1000)
        assert schedule(t) == pytest.approx(1 - np.sqrt((t - 800) / 200), rel=1e-12, abs=1e-15)
        assert schedule(np.arange(100, 800)).tolist() == [1.0] * 700

    def test_an_exponential_is_a_geometric_sequence(self):
        schedule = parse("exponential 100 to 0.001")
        ratios = schedule(np.arange(1, 100)) / schedule(np.arange(99))
        assert ratios == pytest.approx(np.full(99, 0.001 ** (1 / 100)), rel=1e-12)

    def test_recipes_are_the_segments_they_say(self):
        assert warmup(5) == Segment(0.0, 1.0, 5, arrive=True)
        assert linear(5, end=0.1) == Segment(1.0, 0.1, 5)
        assert lrkit.schedules.wsd(10, 2, 3, easing="linear") == parse("warmup 2 > hold 5 > linear 3")


class TestTorchAndLongArrays:
    def test_takes_torch_tensors(self):
        torch = pytest.importorskip("torch")
        schedule = parse("warmup 4 > 1-sqrt 4 to 0.1")
        values = schedule(torch.arange(10, dtype=torch.float64))
        assert isinstance(values, torch.Tensor)
        assert values.tolist() == pytest.approx([schedule(t) for t in range(10)], rel=1e-14)


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Segment(0, 1, 0), r"Segment\(steps=0\): steps must be at least 1, got 0. For one value use Hold."),
            (lambda: Segment(0, 1, 1.5), r"Segment\(steps=1.5\): steps must be a whole number"),
            (lambda: Segment(0, -1, 5), r"Segment\(end=-1\): end must be a finite number of at least 0"),
            (lambda: Segment(math.nan, 1, 5), r"Segment\(start=nan\): start must be a finite number"),
            (
                lambda: Segment(1, 0, 5, EASINGS["exponential"]),
                r"Segment\(start=1, end=0\): an exponential never reaches 0",
            ),
            (lambda: Hold(1.0, 0), r"Hold\(steps=0\): steps must be at least 1"),
            (lambda: Join(), r"Join\(\): there must be at least one stage"),
            (lambda: Join(Hold(), Hold()), r"Join: constant has no end"),
            (lambda: Power(0), r"Power\(p=0\): p must be a finite number above 0"),
            (lambda: wsd(10, 5, 5), r"wsd\(10, warmup=5, decay=5\): warmup and decay must leave at least one update"),
            (
                lambda: wsd(10, 1, 5, easing="1-sqr"),
                r"easing='1-sqr'\): there is none of that name. Did you mean '1-sqrt'",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused_in_a_sentence(self, make, message):
        with pytest.raises(InputError, match=message):
            make()


class TestPlot:
    def test_draws_factors_or_rates(self):
        assert cosine(10).plot().get_ylabel() == "factor of the base rate"
        ax = cosine(10).plot(base=0.5)
        assert max(ax.lines[0].get_ydata()) == 0.5
        assert Join(warmup(10), Hold())._repr_html_().startswith("<svg")


def test_a_template_is_exported_for_isinstance():
    assert isinstance(parse("cosine"), Template)


class TestHardCases:
    def test_small_integers_do_not_overflow_inside_a_formula(self):
        schedule = parse("warmup 300 > cosine 100000")
        for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int64, np.float32):
            steps = np.array([3, 50, 120]).astype(kind)
            assert schedule(steps) == pytest.approx([schedule(t) for t in (3, 50, 120)], rel=1e-6)
            assert schedule(kind(3)) == pytest.approx(schedule(3)) and isinstance(schedule(kind(3)), float)

    def test_numpys_numbers_are_numbers(self):
        assert Segment(np.float32(0.5), np.int64(1), np.int64(5)) == Segment(0.5, 1, 5)
        assert parse("cosine").resolve(total=np.int64(10)) == cosine(10)

    @pytest.mark.parametrize("step", ["3", None, [1j], ["a"]])
    def test_steps_that_are_none_are_refused(self, step):
        with pytest.raises(InputError, match="a step is a number"):
            cosine(10)(step)

    def test_percentages_that_make_a_whole_fit_any_total(self):
        for total in range(2, 200):
            assert parse("warmup 50% > cosine 50%").resolve(total=total).steps == total
            assert parse("warmup 33.3% > hold 33.3% > cosine 33.4%").resolve(total=total + 5).steps == total + 5

    @pytest.mark.parametrize("make", [lambda: Join(3), lambda: Join(parse("cosine")), lambda: Segment(1, 0, 5, "cosin")])
    def test_parts_that_are_none_are_refused(self, make):
        with pytest.raises(InputError, match=r"Join|Segment"):
            make()

    @pytest.mark.parametrize(("text", "total"), [("warmup 97% > cosine 3%", 10), ("warmup 98% > hold 1% > cosine 1%", 40)])
    def test_short_shares_that_are_rounded_up_take_from_the_longest(self, text, total):
        assert parse(text).resolve(total=total).steps == total
