"""What holds for every schedule that can be composed."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrkit.errors import InputError
from lrkit.schedules import Hold, Join, Repeat, Segment, Times, cosine, from_json, linear, parse, warmup
from schedules.strategies import FACTORS, FINITE, SCHEDULES

STEPS = st.lists(st.integers(-10, 3000) | st.integers(0, 10**7) | st.floats(0, 5000), min_size=1, max_size=20)
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def ulps(a: float, b: float) -> float:
    """How many representable numbers lie between two values."""
    return abs(a - b) / np.spacing(max(abs(a), abs(b), np.finfo(float).tiny))


class TestEverySchedule:
    @RELAXED
    @given(SCHEDULES, STEPS)
    def test_is_pure_finite_and_within_its_bounds(self, schedule, steps):
        forwards = [schedule(t) for t in steps]
        assert forwards == [schedule(t) for t in reversed(steps)][::-1]
        low, high = schedule.bounds
        assert all(math.isfinite(value) and low <= value <= high for value in forwards)
        assert low >= 0

    @RELAXED
    @given(SCHEDULES, STEPS)
    def test_holds_its_end(self, schedule, steps):
        if schedule.steps is not None:
            assert all(schedule(schedule.steps + abs(t)) == schedule.end_value for t in steps)

    @RELAXED
    @given(SCHEDULES)
    def test_survives_text_json_and_pickle(self, schedule):
        assert parse(str(schedule)) == schedule
        assert from_json(schedule.to_json()) == schedule
        copy = pickle.loads(pickle.dumps(schedule))
        assert copy == schedule and copy.spec_hash == schedule.spec_hash
        assert json.loads(schedule.to_json())["lrkit_schedule"] == 1

    @RELAXED
    @given(SCHEDULES, STEPS)
    def test_a_curve_is_its_values_within_two_ulp(self, schedule, steps):
        curve = schedule(np.array(steps))
        assert all(ulps(found, schedule(t)) <= 2 for found, t in zip(curve, np.array(steps).tolist(), strict=True))

    @RELAXED
    @given(SCHEDULES, STEPS)
    def test_torch_gets_the_same_bits_on_every_path(self, schedule, steps):
        torch = pytest.importorskip("torch")
        asked = torch.tensor([float(t) for t in steps], dtype=torch.float64)
        assert schedule(asked).tolist() == schedule(asked.numpy()).tolist()

    @RELAXED
    @given(SCHEDULES)
    def test_starts_where_it_says_and_before_the_first_step_too(self, schedule):
        low, high = schedule.bounds
        assert low * (1 - 1e-12) <= schedule.start_value <= high * (1 + 1e-12)
        assert math.isfinite(schedule(-5))


class TestComposition:
    @given(FINITE, FINITE, FACTORS)
    @RELAXED
    def test_joining_and_multiplying_are_associative(self, a, b, c):
        assert Join(Join(a, b), c) == Join(a, Join(b, c)) == Join(a, b, c)
        assert Times(Times(a, b), c) == Times(a, Times(b, c)) == Times(a, b, c)

    @given(FINITE, FACTORS, st.integers(0, 10**6))
    @RELAXED
    def test_a_join_is_each_stage_in_its_own_time(self, a, b, t):
        joined = Join(a, b)
        if not isinstance(a, Join):
            assert joined(t) == (a(t) if t < a.steps else b(t - a.steps))

    @given(FINITE, st.integers(0, 500), st.integers(1, 500))
    @RELAXED
    def test_a_piece_has_the_wholes_values(self, schedule, start, length):
        piece = schedule[start : start + length]
        for t in {0, length // 2, length - 1}:
            assert piece(t) == schedule(start + t)

    @given(st.integers(1, 200), st.sampled_from([1, 2, 3]), st.integers(0, 10**9))
    def test_a_cycle_is_found_by_whole_numbers(self, n, growth, t):
        """The naive twin walks from cycle to cycle."""
        start, length = 0, n
        while t >= start + length and length < 10**9 and growth > 1:
            start, length = start + length, length * growth
        if growth == 1:
            start = t // n * n
        assert Repeat(cosine(n), stretch=growth)(t) == cosine(n)((t - start) / (length // n))

    def test_restarts_are_exact_where_logarithms_fail(self):
        """363 = 3 + 9 + … + 243: the peak, where a rounded logarithm gives 0."""
        assert Repeat(cosine(3), stretch=3)(363) == 1.0

    @given(FACTORS)
    @RELAXED
    def test_absolute_values_are_not_composed(self, schedule):
        rates = parse("base 0.1 (cosine 10)")
        for make in (Join, Times):
            with pytest.raises(InputError, match="its values are absolute, and only factors can be composed"):
                make(schedule, rates)


def planned(schedule, steps=2000):
    """The values of the planned run, or of its beginning."""
    return [schedule(t) for t in range(min(schedule.steps or steps, steps))]


class TestNoUpdateAtZero:
    @pytest.mark.parametrize(
        "text",
        [
            "warmup 5 > cosine 95", "warmup(cosine) 5 > linear 95", "warmup 5 > hold 50 > 1-sqrt 45", "repeat 3 (cosine 33)",
            "decay 0.5 every 10 stairs", "inverse 0.1 power 0.5", "tanh 50", "rex 50", "polynomial(0.9) 50", "radam 0.99",
        ],
    )  # fmt: skip
    def test_unless_it_was_asked_for(self, text):
        assert min(planned(parse(text))) > 0

    def test_recipes_have_none(self):
        from lrkit import schedules as s

        for schedule in (
            s.one_cycle(100), s.triangular(10), s.triangular2(10), s.exp_range(10), s.warm_restarts(10, times=3),
            s.wsd(100, 5, 20),
            s.wsd_s([50, 50], 5, 10), s.inverse_sqrt(5, 100, 20), s.power_scheduler(5, total=100, decay=10), s.chebyshev(16),
            s.untuned_warmup(0.9), s.exponential_warmup(5), s.one_cycle_momentum(100), s.warm_restarts([10, 20], peak_decay=0.5),
        ):  # fmt: skip
            assert min(planned(schedule)) > 0, str(schedule)


class TestChange:
    @RELAXED
    @given(FINITE, st.data())
    def test_extending_keeps_the_past_to_the_bit_and_the_join_continuous(self, schedule, data):
        check_extend(schedule, data.draw(st.integers(1, 10**6)), data.draw(st.integers(1, 10**6)))

    @RELAXED
    @given(SCHEDULES, st.integers(1, 3000), FINITE | st.sampled_from(["linear 100", "1-sqrt 50 to 0.01", "hold 5 > cosine 20"]))
    def test_branching_keeps_the_past_to_the_bit_and_the_join_continuous(self, schedule, step, tail):
        check_branch(schedule, step, tail)

    def test_a_hold_gives_way_and_a_cooldown_keeps_its_length(self):
        schedule = parse("warmup 10 > hold 70 > 1-sqrt 20")
        assert str(schedule.extend(50, 200)) == "warmup 10 > hold 40 > hold 130 > 1-sqrt 20"

    def test_without_a_hold_the_rest_is_stretched(self):
        longer = parse("warmup 10 > cosine 90").extend(40, 200)
        assert longer.steps == 200 and longer(40) == parse("warmup 10 > cosine 90")(40)
        assert longer(199) > 0 and longer(200) == 0

    def test_a_cool_down_starts_where_the_schedule_is(self):
        branched = parse("warmup 10 > cosine 90").branch(40, "linear 20")
        assert branched.steps == 60 and branched(60) == 0
        assert branched(50) == pytest.approx(branched(40) / 2)

    def test_the_rest_of_the_run_is_known_to_a_tail(self):
        assert parse("warmup 10 > cosine 90").branch(40, "linear").steps == 100

    def test_absolute_values_stay_absolute(self):
        schedule = parse("base 0.1 (warmup 10 > cosine 90)")
        assert schedule.branch(40, "linear 20").base == schedule.extend(40, 150).base == schedule[:10].base == 0.1

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: cosine(10).extend(0, 20), r"extend\(step=0\): step must be a whole number of updates, at least 1"),
            (lambda: cosine(10).extend(10, 20), "was over at step 10, its last value holds. Use branch"),
            (lambda: cosine(10).extend(5, 5), "5 updates are done, so total must be above that"),
            (lambda: Hold().extend(5, 50), "has no end that could be moved. Use branch"),
            (lambda: cosine(10).branch(3, warmup(5)), "comes from 0, the schedule is at 0.79.*: the rate would jump"),
            (lambda: cosine(10).branch(3, 5), "must be a text or a Schedule"),
            (lambda: cosine(10)[3], r"for one value call it"),
            (lambda: cosine(10)[3:3], "a piece has at least one step"),
            (lambda: cosine(10)[1:9:2], "take a piece"),
            (lambda: cosine(10)[1.5:9], "steps must be whole numbers"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, make, message):
        with pytest.raises(InputError, match=message):
            make()


def past(step: int) -> set[int]:
    """Some of the steps before one: the first, the last, and a few between."""
    return {t for t in (0, 1, step // 3, step // 2, step - 2, step - 1) if 0 <= t < step}


def check_extend(schedule, a: int, b: int) -> None:
    """The past stays, the join is continuous, the new end is where it was asked to be."""
    if schedule.steps < 2:
        return
    step = 1 + a % (schedule.steps - 1)
    total = step + 1 + b
    longer = schedule.extend(step, total)
    assert longer.steps == total
    assert all(longer(t) == schedule(t) for t in past(step))
    assert longer(step) == pytest.approx(schedule(step), rel=1e-9, abs=1e-300)
    assert longer.end_value == pytest.approx(schedule.end_value, rel=1e-9, abs=1e-12)


def check_branch(schedule, step: int, tail) -> None:
    """The past stays, and the tail comes from where the schedule is."""
    try:
        branched = schedule.branch(step, tail)
    except InputError as error:
        assert "would jump" in str(error) or "exponential" in str(error) or "Factors" in str(error), error
        return
    assert all(branched(t) == schedule(t) for t in past(step))
    follow = branched[step:] if branched.steps is None or branched.steps > step else branched
    assert follow.start_value == pytest.approx(schedule(step), rel=1e-9, abs=1e-300)


def random_schedule(rng) -> object:
    """A schedule of up to five stages, by a plain generator: ten thousand of hypothesis' own would take an hour."""
    stages = []
    for _ in range(rng.randint(1, 5)):
        word = rng.choice(["linear", "cosine", "1-sqrt", "wave(2)", "polynomial(0.9)", "rex", "tanh", "relax(0.5)"])
        ends = f"from {rng.random():.3g} to {rng.random():.3g}"
        stages.append(
            rng.choice(
                [
                    f"{word} {rng.randint(1, 900)} {ends}",
                    f"warmup {rng.randint(1, 90)}",
                    f"hold {rng.randint(1, 900)} at {rng.random():.3g}",
                    f"repeat {rng.randint(1, 6)} ({word} {rng.randint(1, 90)}) stretch {rng.choice([1, 2, 1.5])} scale 0.8",
                    f"decay 0.9 every {rng.randint(1, 30)} for {rng.randint(1, 300)}",
                    f"(warmup {rng.randint(1, 50)} * inverse 0.1 power 0.5 for {rng.randint(50, 300)})",
                    f"points 0:0.1 {rng.randint(1, 40)}.5:1 {rng.randint(41, 90)}:0.3",
                ]
            )
        )
    return parse(" > ".join(stages))


@pytest.mark.prove
def test_ten_thousand_branches_and_extensions():
    import random

    rng = random.Random(0)
    for _ in range(10_000):
        schedule = random_schedule(rng)
        check_extend(schedule, rng.randrange(10**6), rng.randrange(10**4))
        check_branch(schedule, rng.randint(1, 1500), rng.choice(["linear 100", "1-sqrt 50", linear(77), Segment(0.5, 0.1, 9)]))
