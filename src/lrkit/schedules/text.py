"""The text form: ``"warmup 500 > cosine 9500 to 0.1"`` ⇄ Schedule or Template.

    schedule := product { ">" product }                 one after the other
    product  := piece { "*" piece }                     at the same time, multiplied
    piece    := stage | "(" schedule ")" [ "[" [n] ":" [n] [ "over" n ] "]" ]
    stage    := EASING [duration] { ("from" | "to") number } [ "arrive" ]
              | "warmup" [ "(" EASING ")" ] [duration] { ("from" | "to") number }
              | "hold" [duration] [ "at" number ]  |  "constant" [ "at" number ]
              | "decay" number { "every" duration | "stairs" | ("from" | "to") number | "for" duration }
              | "inverse" number { "power" number | the same }
              | "radam" number { "offset" number | "from" number | "for" duration }
              | "points" [ "(" EASING ")" ] position ":" number { position ":" number }
              | "repeat" [ number ] "(" schedule ")" { ("stretch" | "scale") number }
              | "each" duration "(" schedule ")"               each of its values for so long
              | "between" number "and" number "(" schedule ")"  |  "base" number [ "origin" number ] "(" schedule ")"
    EASING   := linear | cosine | exponential | rex | 1-sqrt | 1-square
              | power(p) | polynomial(p, k) | wave(p, k) | tanh(low, high, k) | relax(b)
    duration := number [ "%" | "ep" | "tok" | "samples" ]    a number alone is optimizer updates; none is the rest of the run

A stage starts where the one before it ended (the first at 1, a warm-up at 0), a decay ends at 0, a warm-up at 1. What stands in
brackets starts anew. `str(schedule)` prints the same language. Reading takes time in proportion to the text.
"""

from lrkit.errors import InputError
from lrkit.schedules.base import Schedule
from lrkit.schedules.lexer import Tokens
from lrkit.schedules.reader import Reader
from lrkit.schedules.template import Template


def parse(text: str) -> Schedule | Template:
    """Read a schedule's text.

    Args:
        text: See the grammar above.

    Returns:
        A Schedule where every duration is in steps, else a Template to be resolved.

    Raises:
        InputError: If the text cannot be read; the message points at the place and suggests the nearest word.

    Examples:
        >>> schedule = parse("warmup 500 > cosine 9500 to 0.1")
        >>> schedule(499), round(schedule(10_000), 3)
        (1.0, 0.1)
        >>> parse("warmup 5% > cosine")
        Template('warmup 5% > cosine')
    """
    template = template_of(text)
    if template.needs:
        return template
    try:
        return template.resolve()
    except InputError as error:
        raise Tokens(text).error(getattr(error, "at", 0), str(error).rstrip(".")) from None


def template_of(text: str) -> Template:
    """The text as a template, also where it needs nothing to be resolved: so it can start at another level than 1.

    Raises:
        InputError: If the text cannot be read.
    """
    if not isinstance(text, str):
        raise InputError(f"parse({text!r}): a schedule's text must be a str, e.g. 'warmup 500 > cosine 9500'.")
    reader = Reader(Tokens(text))
    syntax = reader.chain()
    if reader.tokens.peek() is not None:
        hint = reader.tokens.hint(reader.allowed)
        here = ", ".join((*reader.allowed, "'>' or the end"))
        raise reader.tokens.error(reader.tokens.place(), f"expected {here}, {reader.tokens.got()}{hint}")
    return Template(syntax)


def as_schedule(spec: "str | Schedule | Template") -> Schedule | Template:
    """A schedule in any of its three forms, the text parsed.

    Raises:
        InputError: If it is none of them, or a text that cannot be read.
    """
    if isinstance(spec, str):
        return parse(spec)
    if isinstance(spec, Schedule | Template):
        return spec
    raise InputError(f"a schedule must be a text, a Schedule or a Template, got {spec!r}. E.g. 'warmup 5% > cosine'.")
