"""The JSON form: read back as it was written, and nothing else is read."""

import json

import pytest

from lrkit.errors import InputError
from lrkit.schedules import custom, from_json, parse

SCHEDULE = parse("warmup 500 > repeat 3 (cosine 900) scale 0.8 > tanh(-5, 2) 9 to 0.1")


def test_reads_back_texts_mappings_and_templates():
    text = SCHEDULE.to_json()
    assert from_json(text) == from_json(json.loads(text)) == from_json(text.encode()) == SCHEDULE
    template = parse("warmup 5% > cosine")
    assert from_json(template.to_json()) == template


def test_the_form_is_stable():
    assert json.loads(parse("cosine 5").to_json()) == {
        "lrkit_schedule": 1, "kind": "Segment", "start": 1.0, "end": 0.0, "steps": 5,
        "easing": {"kind": "Cosine"}, "arrive": False,
    }  # fmt: skip
    assert parse("warmup 500 > cosine 9500").spec_hash == "521d54e1ed0a0bde"


def broken(**changes) -> str:
    return json.dumps({**json.loads(parse("cosine 5").to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "this is no JSON"),
        ("[]", "its version is None"),
        (broken(lrkit_schedule=2), "its version is 2, this lrkit reads 1"),
        (broken(kind="Eval"), "there is no kind 'Eval'. There are Segment"),
        (broken(kind="Cosine"), "from_json: Cosine has no"),
        (broken(steps=0), "steps must be at least 1"),
        (broken(steps="5"), "steps must be a whole number|relative durations"),
        (broken(start=None), "start must be a finite number"),
        (broken(code="import os"), "Segment has no 'code'"),
        (broken(easing={"kind": "Power", "p": -1}), "p must be a finite number above 0"),
        ('{"lrkit_schedule": 1, "kind": "Cosine"}', "'Cosine' alone is no schedule"),
        ('{"lrkit_schedule": 1, "kind": "Join"}', "Join needs stages"),
        ('{"lrkit_schedule": 1, "kind": "Hold", "value_held": NaN}', "NaN is no value of a schedule"),
        ('{"lrkit_schedule": 1, "kind": "Hold", "value_held": 1e999}', "a number is too large"),
        ('{"lrkit_schedule": 1, "kind": "Template", "text": "cosin"}', "did you mean 'cosine'"),
        (
            '{"lrkit_schedule": 1, "kind": "Join", "stages": ' + "[" * 5000 + "]" * 5000 + "}",
            "no JSON|too deep|must be a Schedule",
        ),
        (5, "must be the text that to_json gave"),
        ({"lrkit_schedule": {1}}, "holds what JSON cannot"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(text, message):
    with pytest.raises(InputError, match=message):
        from_json(text)


def test_a_function_has_no_json_and_no_readable_text():
    mine = custom(lambda t: 0.5, steps=9, name="mine")
    with pytest.raises(InputError, match="custom mine 9 is a function, which JSON cannot hold"):
        mine.to_json()
    with pytest.raises(InputError, match="a function, which no text can hold"):
        parse(str(mine))
