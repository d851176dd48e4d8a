"""The text form: what people type is read, what is wrong is pointed at, what is relative waits for its length."""

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lrkit.errors import InputError, LrkitError
from lrkit.schedules import Hold, Join, Power, Segment, Template, parse
from lrkit.schedules.easing import cosine, exponential, linear
from lrkit.schedules.text import as_schedule


class TestReading:
    @pytest.mark.parametrize(
        ("text", "schedule"),
        [
            ("warmup 500 > cosine 9500 to 0.1", Join(Segment(0, 1, 500, linear, True), Segment(1, 0.1, 9500, cosine))),
            ("linear 10", Segment(1, 0, 10)),
            ("  linear   10  to .5 ", Segment(1, 0.5, 10)),
            ("hold 5 > linear 5", Join(Hold(1, 5), Segment(1, 0, 5))),
            ("hold 5 at 0.3 > cosine 5", Join(Hold(0.3, 5), Segment(0.3, 0, 5, cosine))),
            ("warmup 5 from 0.2 to 0.5 > linear 5", Join(Segment(0.2, 0.5, 5, linear, True), Segment(0.5, 0, 5))),
            ("1-sqrt 7", Segment(1, 0, 7, Power(0.5))),
            ("power(3) 7 arrive", Segment(1, 0, 7, Power(3), True)),
            ("exponential 7 to 1e-3", Segment(1, 1e-3, 7, exponential)),
            ("constant at 0.5", Hold(0.5)),
            ("cosine 1e3", Segment(1, 0, 1000, cosine)),
        ],
    )
    def test_gives_the_schedule(self, text, schedule):
        assert parse(text) == schedule

    @pytest.mark.parametrize(
        ("text", "place", "message"),
        [
            ("cosin 10", 1, "did you mean 'cosine'"),
            ("warmup 5% > ", 13, "got nothing"),
            ("cosine 0", 8, "a duration must be at least 1 step"),
            ("cosine 0%", 8, "a duration must be at least 1 step"),
            ("cosine 1.5", 8, "whole in steps"),
            ("warmup 10 > cosine > linear", 22, "two stages want the rest of the run"),
            ("cosine 10 to -1", 14, "must be at least 0"),
            ("cosine 10 form 1", 11, "did you mean 'from'"),
            ("cosine 10steps", 10, "'steps' is no unit"),
            ("hold 3 to 1", 8, "'to' has no place here"),
            ("cosine 10 to 0.1 to 0.2", 18, "'to' has no place here"),
            ("constant > cosine 5", 12, "never reached"),
            ("constant 5", 1, "'constant' has no end"),
            ("power 5", 7, "expected the exponent in brackets"),
            ("power(0) 5", 6, "p must be a finite number above 0"),
            ("exponential 5", 1, "an exponential never reaches 0"),
            ("cosine 5 to", 12, "expected a number after 'to'"),
            ("cosine 5 ; rm", 10, "';' has no meaning here"),
            ("", 1, "got nothing"),
        ],
    )
    def test_points_at_what_is_wrong(self, text, place, message):
        with pytest.raises(InputError, match=message) as caught:
            parse(text)
        assert f"at character {place}." in str(caught.value)
        marked = str(caught.value).splitlines()
        assert marked[-1].index("^") - 4 == place - 1, "the mark stands under the place"

    @given(st.text(alphabet="warmupcosinehldkt0159.%e>()- \n\té", max_size=80))
    @example("warmup " * 2000)
    @example("cosine 1e400")
    @example("cosine 10 to 1e400")
    @example("power(" + "9" * 400 + ") 5")
    def test_never_fails_in_another_way(self, text):
        """Whatever comes, it is a schedule, a template, or lrkit's own error."""
        with contextlib.suppress(LrkitError):
            parse(text)

    def test_what_is_no_text_is_refused(self):
        with pytest.raises(InputError, match="must be a str"):
            parse(5)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="a schedule must be a text"):
            as_schedule(0.1)  # type: ignore[arg-type]


class TestTemplates:
    @pytest.mark.parametrize("text", ["warmup 5% > cosine", "warmup 2ep > hold > 1-sqrt 20%", "hold", "cosine 10% > constant"])
    def test_print_back_and_compare_by_their_text(self, text):
        template = parse(text)
        assert isinstance(template, Template) and str(template) == text and template == parse(text)
        assert hash(template) == hash(parse(text))

    def test_resolve_into_steps(self):
        assert str(parse("warmup 5% > cosine").resolve(total=2000)) == "warmup 100 > cosine 1900"
        assert str(parse("warmup 2ep > cosine").resolve(total=100, steps_per_epoch=10)) == "warmup 20 > cosine 80"
        assert str(parse("warmup 1% > cosine").resolve(total=12)) == "warmup 1 > cosine 11"
        assert str(parse("warmup 50% > constant").resolve(total=10)) == "warmup 5 > constant"

    @given(share=st.floats(0.1, 90), total=st.integers(2, 10**7))
    def test_fill_the_run_exactly(self, share, total):
        try:
            schedule = parse(f"warmup {share}% > cosine").resolve(total=total)
        except InputError:
            assert round(share * total / 100) >= total  # nothing was left for the cosine
        else:
            assert schedule.steps == total

    @pytest.mark.parametrize(
        ("text", "given", "message"),
        [
            ("warmup 5% > cosine", {}, "Pass total="),
            ("cosine", {}, "Pass total="),
            ("warmup 2ep > cosine", {"total": 10}, "2ep cannot be turned into steps. Pass steps_per_epoch="),
            ("warmup 20 > cosine", {"total": 20}, "needs 20 steps and one more"),
            ("warmup 20 > cosine 20%", {"total": 20}, "needs 24 steps. Shorten its stages"),
            ("cosine", {"total": 0}, r"resolve\(total=0\): total must be a whole number of updates, at least 1"),
        ],
    )
    def test_that_cannot_be_resolved_say_what_to_pass(self, text, given, message):
        with pytest.raises(InputError, match=message):
            parse(text).resolve(**given)

    def test_called_unresolved_are_refused(self):
        with pytest.raises(InputError, match=r"it has no steps yet. Call .resolve\(total=…\) first"):
            parse("warmup 5% > cosine")(3)


class TestUnitsAndSlowerClocks:
    def test_a_run_may_be_given_as_a_duration(self):
        assert parse("warmup 5% > cosine").resolve(total="10ep", steps_per_epoch=100).steps == 1000
        assert parse("cosine").resolve(total="1e12tok", tokens_per_step=4e6).steps == 250_000
        assert parse("cosine").resolve(total=1e12 / 4e6).steps == 250_000
        with pytest.raises(InputError, match=r"total='soon'\): total must be a number of updates, or a duration"):
            parse("cosine").resolve(total="soon")

    def test_inside_each_a_step_is_the_larger_unit(self):
        """Epochs are epochs there too, and a share is of the run in those units."""
        for text in ("each 1ep (cosine 90)", "each 1ep (cosine 90ep)", "each 391 (cosine 90ep)"):
            assert str(parse(text).resolve(steps_per_epoch=391)) == "each 391 (cosine 90)"
        schedule = parse("each 1ep (warmup 10% > cosine)").resolve(total="100ep", steps_per_epoch=391)
        assert str(schedule) == "each 391 (warmup 10 > cosine 90)"

    @pytest.mark.parametrize(
        ("text", "total"),
        [
            ("repeat 3 (cosine)", 100),
            ("repeat 4 (warmup 5 > cosine) scale 0.5", 99),
            ("warmup 5% * cosine", 77),
            ("warmup 10% > repeat 2 (cosine) stretch 2", 100),
            ("between 0.1 and 1 (cosine)", 50),
            ("base 0.1 (warmup 5% > cosine)", 60),
            ("constant at 0.5 * cosine", 40),
            ("(warmup 5% > cosine)[:20] > linear", 100),
            ("each 10 (cosine)", 100),
            ("points 0:0.1 50%:1 100%:0", 100),
        ],
    )
    def test_what_takes_the_rest_fills_the_run(self, text, total):
        assert parse(text).resolve(total=total).steps == total

    @pytest.mark.parametrize("text", ["repeat (cosine)", "repeat 2 (constant)", "(decay 0.9)[5:] > linear 5"])
    def test_what_never_ends_or_begins_is_refused(self, text):
        with pytest.raises(InputError):
            parse(text).resolve(total=100)

    def test_a_template_survives_a_pickle_and_says_what_it_needs(self):
        import pickle

        template = parse("warmup 2ep > repeat 3 (cosine 1e6tok) > linear 5%")
        assert pickle.loads(pickle.dumps(template)) == template
        assert template.needs == ("total", "steps_per_epoch", "tokens_per_step")
        assert parse("cosine 5").resolve(total=9) == parse("cosine 5"), "a schedule resolves to itself"


class TestHints:
    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("cosine 100 floor 0.1", "'to'"),
            ("warmup 5 , cosine 9", "'>'"),
            ("warmup 5 - > cosine 9", "'>'"),
            ("stable 100", "'hold'"),
            ("step 30", "'decay'"),
            ("cosine 10 to 10%", "a factor is a number: 0.1, not 10%"),
            ("warmup(cosin) 5", "'cosine'"),
            ("repeet 5 (cosine 3)", "'repeat'"),
            ("inverse 0.1 powr 2", "'power'"),
        ],
    )
    def test_know_what_people_say_elsewhere(self, text, meant):
        with pytest.raises(InputError) as caught:
            parse(text)
        assert meant in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "place", "message"),
        [
            ("power(0.5, 3) 5", 12, "takes p in brackets"),
            ("cosine(2) 5", 7, "expected"),
            ("tanh(3, -3) 5", 5, "high must be above low"),
            ("points 0:1 5", 13, "expected ':'"),
            ("points 5:1 3:0", 1, "the steps must be in order"),
            ("(cosine 5)[3:2]", 11, "at least one step"),
            ("(cosine 5)[1.5:]", 12, "whole number"),
            ("repeat 0 (cosine 5)", 1, "must be above 0"),
            ("between 0 (cosine 5)", 11, "expected 'and'"),
            ("decay 2", 1, "what grows needs a ceiling"),
            ("decay 1 every 5", 1, "would never change"),
            ("radam 0.5", 1, "beta2 in"),
            ("custom mine", 1, "a function, which no text can hold"),
            ("(cosine 5", 10, "expected ')'"),
            ("base 0.1 cosine 5", 10, "expected '('"),
        ],
    )
    def test_point_at_the_place(self, text, place, message):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            parse(text)
        assert f"at character {place}." in str(caught.value)
