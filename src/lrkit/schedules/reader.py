"""The rules of the grammar, one method each: tokens → syntax. `text` has the grammar and the way in."""

import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import lrkit.schedules.easing as shapes
from lrkit.errors import LARGEST, InputError
from lrkit.schedules.base import Schedule
from lrkit.schedules.clock import UNITS, Clock, Duration, rounded
from lrkit.schedules.compose import Between, Rates
from lrkit.schedules.easing import number_text
from lrkit.schedules.lexer import Token, Tokens
from lrkit.schedules.parts import Hold, Segment
from lrkit.schedules.points import Points
from lrkit.schedules.syntax import Chain, Loop, Node, Product, Slice, Slower, Stage, Wrapped, is_constant
from lrkit.schedules.tails import Geometric, Hyperbolic, Law, Rectified, Tail

_DURATIONS = "durations are steps (500), per cent (5%), epochs (2ep), tokens (1e9tok) or samples (1e6samples)"
_DEEPEST = 90  # brackets within brackets
_EDGES = ("from", "to", "at", "arrive", "every", "stairs", "for")
OPTIONS = (*_EDGES, "power", "offset", "stretch", "scale", "and", "over", "origin")
_WRAPPED = ("repeat", "each", "between", "base")
_TAILS = {"decay": ("every", "stairs", "from", "to", "for"), "radam": ("offset", "from", "for")}
_TAILS["inverse"] = ("power", *_TAILS["decay"])
_EASINGS = tuple(dict.fromkeys((*shapes.EASINGS, *shapes.SHAPES)))
WORDS = ("warmup", "hold", "constant", "points", *_TAILS, *_WRAPPED, *_EASINGS)


class Reader:
    """Turns tokens into syntax, one method a rule of the grammar."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.depth = tokens, 0
        self.allowed: tuple[str, ...] = ()  # the options of the stage before

    def chain(self) -> Node:
        """product { ">" product }"""
        parts: list[Node] = []
        rest = False
        while True:
            at = self.tokens.place()
            part = self.product()
            if parts and _is_endless(parts[-1]):
                raise self.tokens.error(at, f"what follows {str(parts[-1])[:60]!r} is never reached; give that a duration")
            if not isinstance(part, Slice) and None in part.durations():
                if rest:
                    raise self.tokens.error(at, "two stages want the rest of the run; give one of them a duration")
                rest = True
            parts += part.parts if isinstance(part, Chain) else (part,)
            if not self.tokens.take(">"):
                return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def product(self) -> Node:
        """piece { "*" piece }"""
        at = self.tokens.place()
        factors = [self.piece()]
        while self.tokens.take("*"):
            factors.append(self.piece())
        return factors[0] if len(factors) == 1 else Product(tuple(factors), at)

    def piece(self) -> Node:
        """A stage, or a schedule in brackets, of which a piece may be taken."""
        if not self.tokens.peek("("):
            return self.stage()
        body = self.group("(")
        return self.slice(body) if self.tokens.peek("[") else body

    def group(self, before: str) -> Node:
        """ "(" schedule ")" """
        at = self.tokens.place()
        self.tokens.expect("(", f" after {before!r}" if before != "(" else "")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.tokens.error(at, f"brackets more than {_DEEPEST} deep; write it simpler")
        body = self.chain()
        self.tokens.expect(")")
        self.depth -= 1
        return body

    def slice(self, body: Node) -> Node:
        """ "[" [n] ":" [n] [ "over" n ] "]" """
        at = self.tokens.place()
        self.tokens.expect("[")
        start = self.count("[") if self.tokens.peek(kind="number") else 0
        self.tokens.expect(":")
        stop = self.count(":") if self.tokens.peek(kind="number") else None
        over = self.count("over") if self.tokens.take("over") else None
        self.tokens.expect("]")
        if (stop is not None and stop <= start) or over == 0:
            raise self.tokens.error(at, "a piece has at least one step")
        text = f"[{start or ''}:{'' if stop is None else stop}{'' if over is None else f' over {over}'}]"
        return Slice(body, start, stop, over, f"({body}){text}", at)

    def count(self, after: str) -> int:
        """A whole number of steps."""
        at = self.tokens.place()
        number = self.tokens.number(after)
        if number != int(number) or number > LARGEST:
            raise self.tokens.error(at, f"expected a whole number after {after!r}")
        return int(number)

    def duration(self, needed_after: str | None = None) -> Duration | None:
        """number [unit]"""
        at = self.tokens.place()
        token = self.tokens.take(kind="number")
        if token is None:
            if needed_after is not None:
                raise self.tokens.error(at, f"expected a duration after {needed_after!r}, {self.tokens.got()}")
            return None
        unit = self.unit()
        after = self.tokens.peek(kind="word")
        if after and not unit and after.at == token.at + len(token.text):
            raise self.tokens.error(after.at, f"{after.text!r} is no unit; {_DURATIONS}")
        amount = float(token.text)
        whole = unit != "" or amount == int(min(amount, LARGEST)) or needed_after == "every"
        if amount == 0 or amount > LARGEST * (1e9 if unit else 1) or not whole:
            raise self.tokens.error(at, f"a duration must be at least 1 step and whole in steps, got {token.text[:20]}{unit}")
        return Duration(amount, unit)

    def unit(self) -> str:
        """ "%" | "ep" | "tok" | "samples", or nothing: steps"""
        return next((unit for unit in UNITS if unit and self.tokens.take(unit)), "")

    def stage(self) -> Node:
        """One stage."""
        at = self.tokens.place()
        word = self.tokens.peek(kind="word")
        hint = self.tokens.hint(WORDS) if word is not None and word.text not in WORDS else ""
        word = self.tokens.take(kind="word")
        if word is None or word.text not in WORDS:
            if word is not None and word.text == "custom":
                raise self.tokens.error(at, "a custom schedule is a function, which no text can hold; build it in Python again")
            got = f"got {word.text[:40]!r}" if word else self.tokens.got()
            raise self.tokens.error(at, f"a stage begins with one of {', '.join(WORDS)}; {got}{hint if word else ''}")
        if word.text in _WRAPPED:
            return self.wrapped(word)
        if word.text in _TAILS:
            return self.tail(word)
        return {"hold": self.hold, "constant": self.hold, "points": self.points}.get(word.text, self.segment)(word)

    def options(self, word: str, allowed: tuple[str, ...]) -> dict[str, Any]:
        """The options that follow, each at most once."""
        given: dict[str, Any] = {}
        self.allowed = allowed  # what a word that follows and is none may have been meant to be
        while (token := self.tokens.peek(kind="word")) and token.text in OPTIONS:
            if token.text not in allowed or token.text in given:
                takes = f"{word!r} takes {', '.join(allowed)}, once each" if allowed else f"{word!r} takes none"
                raise self.tokens.error(token.at, f"{token.text!r} has no place here; {takes}")
            self.tokens.take()
            if token.text in ("arrive", "stairs"):
                given[token.text] = True
            elif token.text in ("every", "for"):
                given[token.text] = self.duration(token.text)
            elif token.text == "offset":
                given[token.text] = self.count("offset")
            else:
                given[token.text] = self.tokens.number(token.text)
        return given

    def segment(self, word: Token) -> Stage:
        """A warm-up or a decay."""
        warmup = word.text == "warmup"
        shape: shapes.Easing = shapes.linear
        if not warmup:
            shape = self.easing(word)
        elif self.tokens.peek("("):
            shape = self.bracketed_easing()
        duration = self.duration()
        given = self.options(word.text, ("from", "to") if warmup else ("from", "to", "arrive"))
        end = given.get("to", 1.0 if warmup else 0.0)
        start = given.get("from")
        arrive = warmup or "arrive" in given
        if isinstance(shape, shapes.Exponential) and (end == 0 or start == 0):
            why = "give it a start above 0" if end else "give it an end, e.g. 'exponential 1000 to 0.001'"
            raise self.tokens.error(word.at, f"an exponential never reaches 0; {why}")

        def make(_clock: Clock, steps: int, level: float) -> Schedule:
            before = 0.0 if warmup and level == 1.0 else level
            return Segment(before if start is None else start, end, steps, shape, arrive)

        head = ("warmup" if shape == shapes.linear else f"warmup({shape})") if warmup else str(shape)
        shown = {k: v for k, v in given.items() if k != "to" or v != (1.0 if warmup else 0.0)}
        return Stage(_text(head, duration, shown), make, duration, at=word.at)

    def hold(self, word: Token) -> Stage:
        """A value that stays."""
        endless = word.text == "constant"
        duration = self.duration()
        if endless and duration is not None:
            raise self.tokens.error(word.at, "'constant' has no end; use 'hold' with a duration")
        given = self.options(word.text, ("at",))

        def make(_clock: Clock, steps: int, level: float) -> Schedule:
            return Hold(given.get("at", level), None if endless else steps)

        return Stage(_text(word.text, duration, given), make, duration, endless, at=word.at)

    def tail(self, word: Token) -> Stage:
        """A schedule without an end, or the beginning of one."""
        number = self.tokens.number(word.text)
        given = self.options(word.text, _TAILS[word.text])
        if word.text == "decay" and number > 1 and "to" not in given:
            raise self.tokens.error(word.at, "what grows needs a ceiling, e.g. 'decay 2 to 100'; to fall straight say 'linear'")
        every: Duration = given.get("every") or Duration(1.0)
        duration, stairs = given.get("for"), "stairs" in given

        def law(clock: Clock) -> Law:
            length = every.amount if every.unit == "" else every.steps(clock)
            if word.text == "decay":
                return Geometric(number, length, stairs)
            if word.text == "inverse":
                return Hyperbolic(number, given.get("power", 1.0), length, stairs)
            return Rectified(number, given.get("offset", 5))

        def make(clock: Clock, steps: int, level: float) -> Schedule:
            return Tail(law(clock), given.get("from", level), given.get("to"), steps if duration else None)

        order = [name for name in ("power", "offset", "every", "stairs", "from", "to", "for") if name in given]
        text = _text(f"{word.text} {number_text(number)}", None, {name: given[name] for name in order})
        if not every.unit:
            self._checked(word.at, lambda: law(Clock()))
        return Stage(text, make, duration, duration is None, (every,), word.at)

    def points(self, word: Token) -> Stage:
        """Points, each a position and a value."""
        shape = self.bracketed_easing() if self.tokens.peek("(") else shapes.linear
        places: list[tuple[Duration, float]] = []
        while self.tokens.peek(kind="number"):
            amount = self.tokens.number("points")
            unit = self.unit()
            self.tokens.expect(":", " between a step and its value")
            places.append((Duration(amount, unit), self.tokens.number(":")))
        if not places:
            raise self.tokens.error(self.tokens.place(), "expected points such as '0:0.1 500:1'")

        def make(clock: Clock, _steps: int, _level: float) -> Schedule:
            at = [place.exact(clock) for place, _ in places]
            whole = [x if place.unit == "" else float(rounded(x)) for x, (place, _) in zip(at, places, strict=True)]
            return Points(tuple(zip(whole, (value for _, value in places), strict=True)), shape)

        head = "points" if shape == shapes.linear else f"points({shape})"
        text = f"{head} " + " ".join(f"{place}:{number_text(value)}" for place, value in places)
        durations = tuple(place for place, _ in places)
        if not any(place.unit for place in durations):
            self._checked(word.at, lambda: make(Clock(), 1, 1.0))
        last = durations[-1]
        length = last if last.unit else Duration(max(1.0, math.ceil(last.amount)))  # the update that a broken step falls into
        return Stage(text, make, length, others=durations, at=word.at)

    def wrapped(self, word: Token) -> Node:
        """What holds a schedule in brackets."""
        if word.text == "repeat":
            times = self.count("repeat") if self.tokens.peek(kind="number") else None
            body = self.group("repeat")
            given = self.options("repeat", ("stretch", "scale"))
            if times == 0 or 0 in given.values():
                raise self.tokens.error(word.at, "a number of 'repeat' must be above 0")
            if _is_endless(body):
                raise self.tokens.error(word.at, f"{str(body)[:60]!r} has no end, so it never begins again; give it a duration")
            text = _text(f"repeat{'' if times is None else f' {times}'} ({body})", None, given)
            return Loop(body, times, given.get("stretch", 1.0), given.get("scale", 1.0), text, word.at)
        if word.text == "each":
            every = self.duration("each")
            body = self.group("each")
            return Slower(body, every or Duration(1.0), word.at)
        if word.text == "between":
            low = self.tokens.number("between")
            self.tokens.expect("and")
            high = self.tokens.number("and")
            body = self.group("between")
            text = f"between {number_text(low)} and {number_text(high)} ({body})"
            return Wrapped(body, lambda shape: Between(low, high, shape), text, word.at)
        base = self.tokens.signed("base")
        origin = self.tokens.signed("origin") if self.tokens.take("origin") else 0.0
        body = self.group("base")
        text = f"base {number_text(base)}{f' origin {number_text(origin)}' if origin else ''} ({body})"
        return Wrapped(body, lambda factors: Rates(factors, base, origin), text, word.at)

    def bracketed_easing(self) -> shapes.Easing:
        """ "(" EASING ")" """
        self.tokens.expect("(")
        hint = self.tokens.hint(_EASINGS)
        word = self.tokens.take(kind="word")
        if word is None or word.text not in _EASINGS:
            got = f"got {word.text[:40]!r}{hint}" if word else self.tokens.got()
            raise self.tokens.error(word.at if word else self.tokens.place(), f"expected an easing, {got}")
        shape = self.easing(word)
        self.tokens.expect(")")
        return shape

    def easing(self, word: Token) -> shapes.Easing:
        """An easing, with its parameters in brackets where it has any."""
        kind = shapes.SHAPES.get(word.text)
        names = [f.name for f in fields(kind)] if kind is not None else []  # type: ignore[arg-type]
        at = self.tokens.place()
        needed = [f.name for f in fields(kind) if f.default is MISSING] if kind is not None else []  # type: ignore[arg-type]
        given: dict[str, float] = {}
        if not names:
            return shapes.EASINGS[word.text]
        if not self.tokens.take("("):
            self._complete(word, at, needed)
            return kind()  # type: ignore[misc]
        while not self.tokens.take(")"):
            name = self.tokens.take(kind="word")
            if name is not None:
                self.tokens.expect("=")
            key = name.text if name else next((n for n in names if n not in given), "")
            if key not in names or key in given:
                raise self.tokens.error(self.tokens.place(), f"{word.text!r} takes {', '.join(names)} in brackets, once each")
            given[key] = self.tokens.signed(word.text)
            if not self.tokens.peek(")"):
                self.tokens.expect(",")
        self._complete(word, at, [name for name in needed if name not in given])
        return self._checked(at, lambda: kind(**given))  # type: ignore[misc,no-any-return]

    def _complete(self, word: Token, at: int, missing: list[str]) -> None:
        """Refuse an easing that lacks a parameter."""
        if missing:
            raise self.tokens.error(at, f"expected the exponent in brackets, e.g. '{word.text}(0.5) 1000'")

    def _checked(self, at: int, make: Callable[[], Any]) -> Any:
        """What `make` makes; what it refuses is pointed at."""
        try:
            return make()
        except InputError as error:
            raise self.tokens.error(at, str(error).rstrip(".")) from None


def _is_endless(node: Node) -> bool:
    if isinstance(node, Stage):
        return node.endless
    if isinstance(node, Chain):
        return _is_endless(node.parts[-1])
    if isinstance(node, Product):
        own = [factor for factor in node.factors if not is_constant(factor)]
        return not own or any(map(_is_endless, own))
    if isinstance(node, Loop):
        return node.times is None
    if isinstance(node, Slice):
        return node.stop is None and _is_endless(node.body)
    return isinstance(node, Wrapped | Slower) and _is_endless(node.body)


def _text(head: str, duration: Duration | None, given: dict[str, Any]) -> str:
    """``cosine 5% to 0.1``: a stage's words in their usual form."""
    parts = [head] + ([] if duration is None else [str(duration)])
    for name, value in given.items():
        parts += [name] if value is True else [name, number_text(value) if isinstance(value, float) else str(value)]
    return " ".join(parts)
