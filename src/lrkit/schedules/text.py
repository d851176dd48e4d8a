"""The text form: ``"warmup 500 > cosine 9500 to 0.1"`` ⇄ Schedule or Template.

    schedule := stage { ">" stage }
    stage    := word [ "(" number ")" ] [ duration ] { ("from" | "to" | "at") number } [ "arrive" ]
    word     := warmup | hold | constant | an easing (linear, cosine, exponential, power(p), 1-sqrt, 1-square)
    duration := number [ "%" | "ep" ]            a number alone is optimizer updates; none is the rest of the run

A stage starts where the one before it ended (the first at 1, a warm-up at 0), a decay ends at 0, a warm-up at 1.
`str(schedule)` prints the same language. Reading takes time in proportion to the text; nothing is evaluated.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches

import lrkit.schedules.easing as shapes
from lrkit.errors import LARGEST, InputError
from lrkit.schedules.base import Hold, Schedule, Segment
from lrkit.schedules.template import Duration, Stage, Template

_TOKEN = re.compile(
    r"\s*(?:(?P<word>1-sqrt|1-square|[A-Za-z_]+)|(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<mark>[>()%-]))"
)
_EDGES = ("from", "to", "at")
_WORDS = ("warmup", "hold", "constant", "power", *shapes.EASINGS)


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
    if not isinstance(text, str):
        raise InputError(f"parse({text!r}): a schedule's text must be a str, e.g. 'warmup 500 > cosine 9500'.")
    stages = _Reader(text).schedule()
    template = Template(tuple(stages))
    ready = all(stage.endless or (stage.duration is not None and stage.duration.unit == "") for stage in stages)
    return template.resolve() if ready else template


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Reader:
    """Walks over the tokens once, from left to right."""

    def __init__(self, text: str) -> None:
        lower = text.lower()
        self.text, self.i = lower if len(lower) == len(text) else text, 0
        self.tokens: list[_Token] = []
        at = 0
        end = len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if match is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                raise self.error(at, f"{self.text[at]!r} has no meaning here")
            kind = str(match.lastgroup)
            self.tokens.append(_Token(kind, match[kind], match.start(kind)))
            at = match.end()

    def error(self, at: int, what: str) -> InputError:
        """The complaint, with the text and a mark under the place."""
        start = max(0, at - 60)
        shown = self.text[start : at + 40].replace("\n", " ")
        return InputError(f"parse: {what}, at character {at + 1}.\n    {shown}\n    {' ' * (at - start)}^")

    def peek(self, text: str | None = None, kind: str | None = None) -> _Token | None:
        """The next token, if there is one of that text or kind."""
        token = self.tokens[self.i] if self.i < len(self.tokens) else None
        wrong = token is None or (text is not None and token.text != text) or (kind is not None and token.kind != kind)
        return None if wrong else token

    def take(self, text: str | None = None, kind: str | None = None) -> _Token | None:
        """The same, and step over it."""
        token = self.peek(text, kind)
        self.i += token is not None
        return token

    def schedule(self) -> list[Stage]:
        """stage { ">" stage }"""
        stages: list[Stage] = []
        level = 1.0
        while True:
            at = self.place()
            stage, level = self.stage(level)
            if stages and stages[-1].endless:
                raise self.error(at, "what follows 'constant' is never reached; use 'hold' with a duration")
            if stage.duration is None and not stage.endless and any(s.duration is None for s in stages):
                raise self.error(at, "two stages want the rest of the run; give one of them a duration")
            stages.append(stage)
            if self.take(">"):
                continue
            if self.peek() is not None:
                raise self.error(self.place(), f"expected '>' or the end, got {self.tokens[self.i].text!r}{self.hint()}")
            return stages

    def place(self) -> int:
        """Where the next token stands."""
        return self.tokens[self.i].at if self.i < len(self.tokens) else len(self.text)

    def hint(self) -> str:
        """The word that may have been meant by the next token."""
        token = self.tokens[self.i]
        near = get_close_matches(token.text[:40], (*_EDGES, "arrive"), n=1)
        return f" (did you mean {near[0]!r}?)" if near else ""

    def number(self, after: str) -> float:
        """A number at least 0."""
        at = self.place()
        if self.take("-"):
            why = "the exponent must be above 0" if after == "power" else "must be at least 0: a negative rate climbs the loss"
            raise self.error(at, f"the number after {after!r} is negative; it {why}")
        token = self.take(kind="number")
        if token is None:
            raise self.error(at, f"expected a number after {after!r}")
        value = float(token.text)
        if value == float("inf"):
            raise self.error(at, f"{token.text[:20]} is too large")
        return value

    def duration(self) -> Duration | None:
        """number [unit]"""
        at = self.place()
        token = self.take(kind="number")
        if token is None:
            return None
        amount = float(token.text)
        unit = "%" if self.take("%") else "ep" if self.take("ep") else ""
        after = self.peek(kind="word")
        if after and not unit and after.at == token.at + len(token.text):
            raise self.error(after.at, f"{after.text!r} is no unit; durations are steps (500), per cent (5%) or epochs (2ep)")
        if amount == 0 or amount > LARGEST or (unit == "" and amount != int(amount)):
            raise self.error(at, f"a duration must be at least 1 step and whole in steps, got {token.text[:20]}{unit}")
        return Duration(amount, unit)

    def stage(self, level: float) -> tuple[Stage, float]:
        """One stage and the value that it leaves behind."""
        at = self.place()
        word = self.take(kind="word")
        if word is None or word.text not in _WORDS:
            near = get_close_matches(word.text[:40].lower(), _WORDS, n=1) if word else []
            got = (
                f"got {word.text[:40]!r}"
                if word
                else "got nothing"
                if self.peek() is None
                else f"got {self.tokens[self.i].text!r}"
            )
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise self.error(at, f"a stage begins with one of {', '.join(_WORDS)}; {got}{hint}")
        kind = word.text
        shape = self.power(kind) if kind == "power" else shapes.EASINGS.get(kind, shapes.linear)
        duration = self.duration()
        edges: dict[str, float] = {}
        allowed = ("at",) if kind in ("hold", "constant") else ("from", "to")
        while (token := self.peek(kind="word")) and token.text in _EDGES:
            if token.text not in allowed or token.text in edges:
                raise self.error(token.at, f"{token.text!r} has no place here; {kind!r} takes {' and '.join(allowed)}, once each")
            self.take()
            edges[token.text] = self.number(token.text)
        if kind in ("hold", "constant"):
            if kind == "constant" and duration is not None:
                raise self.error(at, "'constant' has no end; use 'hold' with a duration")
            value = edges.get("at", level)
            return Stage(lambda n: Hold(value, None if kind == "constant" else n), duration, kind == "constant"), value
        arrive = kind == "warmup" or self.take("arrive") is not None
        start = edges.get("from", 0.0 if kind == "warmup" and level == 1.0 else level)
        end = edges.get("to", 1.0 if kind == "warmup" else 0.0)
        if isinstance(shape, shapes.Exponential) and not (start > 0 and end > 0):
            raise self.error(at, "an exponential never reaches 0; give it an end, e.g. 'exponential 1000 to 0.001'")
        return Stage(lambda n: Segment(start, end, n, shape, arrive), duration), end

    def power(self, kind: str) -> shapes.Easing:
        """The exponent of ``power(p)``."""
        at = self.place()
        if not self.take("("):
            raise self.error(at, "expected the exponent in brackets, e.g. 'power(0.5) 1000'")
        p = self.number(kind)
        if not self.take(")"):
            raise self.error(self.place(), "expected ')'")
        if p == 0:
            raise self.error(at, "the exponent of 'power' must be above 0")
        return shapes.Power(p)


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
