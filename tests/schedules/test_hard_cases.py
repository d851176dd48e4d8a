"""What clever and careless people tried: each case once went wrong."""

import copy
import math

import numpy as np
import pytest

import lrkit
from lrkit import schedules as s
from lrkit.errors import InputError
from lrkit.schedules import Hold, Join, Part, Points, Power, Rates, Segment, parse


class TestTemplates:
    @pytest.mark.parametrize(
        "text", ["repeat 2 (cosine) > cosine", "cosine * warmup 5 > cosine", "cosine > between 0 and 1 (cosine)"]
    )
    def test_only_one_stage_may_take_the_rest_however_it_is_wrapped(self, text):
        with pytest.raises(InputError, match="two stages want the rest of the run"):
            parse(text)

    @pytest.mark.parametrize(
        ("text", "total"), [("repeat 5 (cosine) stretch 2", 100), ("repeat 30 (cosine)", 100), ("repeat 3 (cosine)", 100)]
    )
    def test_cycles_that_share_the_rest_are_all_there(self, text, total):
        schedule = parse(text).resolve(total=total)
        assert schedule.steps == total and 0 < schedule(total - 1) < 0.25

    def test_more_cycles_than_updates_are_refused(self):
        with pytest.raises(InputError, match="100 updates are too few for the cycles"):
            parse("repeat 200 (cosine)").resolve(total=100)

    @pytest.mark.parametrize(
        ("text", "total"),
        [
            ("each 10 (cosine)", 105),
            ("warmup 5 > each 10 (cosine)", 7),
            ("repeat 3 (cosine 10%) > linear", 105),
            ("hold 50% > repeat 5 (cosine 10%)", 107),
            ("repeat 3 (cosine 10%) > linear 70%", 105),
            ("linear > repeat 2 (rex 12.5%)", 468),
        ],
    )
    def test_shares_inside_wrappers_fill_the_run(self, text, total):
        assert parse(text).resolve(total=total).steps == total

    def test_an_epoch_that_does_not_fit_a_slower_clock_says_so(self):
        with pytest.raises(InputError, match="an epoch is no whole number of 3 updates"):
            parse("each 3 (cosine 2ep)").resolve(steps_per_epoch=10)

    @pytest.mark.parametrize("places", ["1.25:0", "0:1 1.25:0", "0.1:1", "0:1 0:2", "0:0.1 3.5:1 7.75:0"])
    def test_points_between_updates_are_as_long_as_they_say(self, places):
        for text in (f"repeat 3 (points {places})", f"points {places} > linear 5", f"(points {places}) * hold 9"):
            assert parse(str(parse(text))) == parse(text)
        points = parse(f"points {places}")
        assert (
            parse(f"repeat 3 (points {places})") == s.Repeat(points, 3)
            and parse(f"points {places} > hold 2").steps == points.steps + 2
        )


class TestNumbers:
    def test_no_update_of_a_long_cosine_is_lost_to_rounding(self):
        n = 10**9
        assert parse(f"cosine {n}")(n - 2) == pytest.approx(math.sin(math.pi / n) ** 2, rel=1e-6)
        assert parse(f"warmup(cosine) {n}")(0) == pytest.approx((math.pi / 2 / n) ** 2, rel=1e-6)
        assert parse("wave(0.5) 1000000")(999_999) == pytest.approx(math.pi / 2e6, rel=1e-6)

    def test_a_number_is_its_place_on_the_curve_also_where_integers_are_huge(self):
        schedule = parse("(repeat 1000 (linear 1000003 from 0 to 1 > linear 1000003))[: over 3000000021]")
        assert schedule(3_000_000_019) == schedule(np.array([3_000_000_019]))[0]

    @pytest.mark.parametrize("step", [10**400, -(10**400), math.inf, -math.inf, 2**63, -5])
    def test_absurd_steps_have_a_value(self, step):
        for text in ("warmup 5 > cosine 9", "repeat (cosine 9) stretch 2", "decay 0.9", "points 0:1 5:0.5", "each 3 (linear 4)"):
            schedule = parse(text)
            assert 0 <= schedule(step) <= 1

    @pytest.mark.parametrize(
        "make",
        [lambda: Hold(10**400), lambda: Rates(s.linear(5), 10**400), lambda: Power(10**400), lambda: Points([(10**400, 1)])],
    )
    def test_absurd_values_are_refused(self, make):
        with pytest.raises(InputError):
            make()

    def test_the_last_of_many_cycles_is_within_bounds_to_the_bit(self):
        for times in range(1, 60):
            schedule = s.Repeat(Hold(1.0, 1), times, scale=0.1)
            assert schedule.bounds[0] <= schedule(times - 1) and schedule.bounds[1] == 1.0

    def test_minus_zero_is_zero(self):
        for schedule in (Hold(-0.0, 5), Points([(-0.0, -0.0), (5, 1)]), Segment(-0.0, 1, 5)):
            assert parse(str(schedule)) == schedule

    def test_products_and_rates_beyond_all_floats_are_refused(self):
        for text in ("hold 5 at 1e200 * hold 5 at 1e200", "base 1e308 (hold 5 at 100)"):
            with pytest.raises(InputError, match="beyond all bounds"):
                parse(text)

    def test_what_grows_is_cut_without_a_warning(self):
        assert parse("decay 1.1 from 1e5 to 1e6")(np.array([1e5])).tolist() == [1e6]
        assert parse("inverse 1e300")(np.array([1e10])).tolist() == [0.0]

    def test_joins_beyond_what_floats_count_keep_their_steps(self):
        schedule = Join(Hold(1, 2**52), s.cosine(5), Hold(1, 5))
        assert parse(str(schedule)) == schedule

    def test_repeated_slices_and_extensions_stay_flat(self):
        schedule = s.cosine(1000)
        for _ in range(100):
            schedule = schedule[1:]
        assert schedule == Part(s.cosine(1000), 100, 1000)
        plan = parse("warmup 10 > cosine 990")
        for step in range(100, 140):
            plan = plan.extend(step, 1000 + step)
        assert parse(str(plan)) == plan


class TestArrays:
    @pytest.mark.parametrize("steps", [[[1], [1, 2]], ["a"], object(), [math.nan]])
    def test_what_is_no_array_of_steps_is_refused(self, steps):
        with pytest.raises(InputError, match="a step is a number, or an array of numbers"):
            s.cosine(9)(steps)

    def test_every_shape_and_type_is_taken(self):
        torch = pytest.importorskip("torch")
        schedule, plain = parse("warmup 3 > cosine 9"), [parse("warmup 3 > cosine 9")(t) for t in range(12)]
        grid = torch.arange(12).reshape(3, 4)
        for steps in (grid, grid.t().contiguous().t(), grid.double().requires_grad_(), grid.to(torch.int8), grid.bfloat16()):
            found = schedule(steps)
            assert found.shape == (3, 4) and not found.requires_grad
            assert found.flatten().tolist() == pytest.approx(plain, rel=1e-2 if steps.dtype == torch.bfloat16 else 1e-6)
        assert schedule(torch.tensor(2)).shape == () and schedule(torch.empty(0)).shape == (0,)
        assert schedule(np.empty((0, 3))).shape == (0, 3)
        with pytest.raises(InputError, match="dense tensor"):
            schedule(torch.empty(3, device="meta"))

    def test_a_thousand_stages_are_asked_for_their_own_steps_only(self):
        schedule = s.chebyshev(2**12)
        assert schedule(np.arange(2**12)).tolist() == [schedule(t) for t in range(2**12)]

    def test_copies_are_equal(self):
        schedule = parse("warmup 5 * repeat 3 (cosine 9) scale 0.5 > linear 5")
        assert copy.deepcopy(schedule) == schedule and hash(copy.copy(schedule)) == hash(schedule)


class TestChanges:
    @pytest.mark.parametrize("tail", ["radam 0.99", "warmup 10 from 0.5 > linear 100", "hold 10 at 0.5"])
    def test_a_text_that_starts_elsewhere_is_refused_not_scaled(self, tail):
        with pytest.raises(InputError, match="the rate would jump"):
            parse("warmup 500 > cosine 9500").branch(4000, tail)

    def test_a_hold_at_zero_does_not_give_way(self):
        longer = parse("warmup 500 > cosine 9500 > hold 10 at 0").extend(8000, 20_000)
        assert longer.steps == 20_000 and longer(15_000) > 0

    def test_an_absolute_tail_goes_on_in_the_schedules_base(self):
        schedule = parse("base 0.1 (cosine 100)")
        branched = schedule.branch(50, Rates(s.linear(10), 0.05))
        assert branched.base == 0.1 and branched(50) == pytest.approx(schedule(50))

    def test_units_of_a_tail_are_told(self):
        assert parse("cosine 100").branch(40, "linear 2ep", steps_per_epoch=10).steps == 60
        with pytest.raises(InputError, match="nothing is left of the schedule's 100 updates"):
            parse("cosine 100").branch(150, "linear")

    def test_a_schedule_takes_the_arguments_of_a_template(self):
        assert parse("cosine 5").resolve(9, 2, 3.0, 4.0) == parse("cosine 5")
        with pytest.raises(TypeError):
            parse("cosine 5").resolve(totl=9)


class TestLinter:
    @pytest.mark.parametrize(
        ("text", "run"),
        [
            ("repeat (cosine 100)", {"total": 1000}),
            ("decay 0.1 every 3000 stairs", {}),
            ("repeat (cosine 3000)", {}),
            ("base 0.001 (warmup 5000 > hold 5000 > linear 2000)", {}),
        ],
    )
    def test_raises_no_false_alarm(self, text, run):
        assert lrkit.lint(text, **run) == ()

    def test_names_a_decay_that_was_stepped_too_often(self):
        assert [r.code for r in lrkit.lint("decay 0.1 every 30 stairs", total=39_100)] == ["epochs_as_steps"]

    def test_reads_a_template_that_is_longer_than_its_run(self):
        found = lrkit.lint("warmup 500 > cosine 100ep", total=39_100, steps_per_epoch=391)
        assert [r.code for r in found] == ["longer_than_run"] and str(found).count("\n") == 0

    def test_says_at_which_step_a_rate_turns_negative(self):
        (remark,) = lrkit.lint("base 0.1 origin -0.1 (linear 1000000)")
        assert remark.code == "negative" and 499_000 < remark.step < 501_000

    def test_a_difference_in_a_long_run_is_found_exactly(self):
        assert lrkit.diff("linear 1000000000000", "hold 5000000 > linear 999995000000").first == 1001


class TestMessages:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: s.cosine("5%"), "relative durations are for the text form"),
            (lambda: s.wsd_s([], 0, 5), "periods must be a list of updates"),
            (lambda: s.multi_step(None), "milestones must be a list of updates"),
            (lambda: s.triangular(10, low=2), "low must be below 1"),
            (lambda: s.power_scheduler(10, total=100, decay=-1), r"power_scheduler\(decay=-1\)"),
            (lambda: parse("radam 0.99 offset 5.7"), "expected a whole number after 'offset'"),
            (lambda: parse("power() 5"), "expected the exponent in brackets"),
            (lambda: parse("polynomial(k=2) 5"), "expected the exponent in brackets"),
            (lambda: parse("decay 0.5 to 2"), "a floor must lie on the way, below the start"),
            (lambda: parse("repeat 1000000 (cosine 10) stretch 1.01"), "cycles of different length"),
            (lambda: parse("cosine").resolve(total="1e300"), "total must be"),
        ],
    )
    def test_say_what_to_do(self, make, message):
        with pytest.raises(InputError, match=message):
            make()

    def test_warm_restarts_take_numpys_integers(self):
        assert s.warm_restarts(np.int64(10), times=2) == s.warm_restarts(10, times=2)
