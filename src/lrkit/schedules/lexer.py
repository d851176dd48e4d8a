"""Tokens of a schedule's text, and the complaint that points at one. Reads once, from left to right; evaluates nothing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from lrkit.errors import InputError

_TOKEN = re.compile(
    r"\s*(?:(?P<word>1-sqrt|1-square|[A-Za-z_]+\d*)|(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<mark>[>()%:,=*\[\]-]))"
)


# What people say elsewhere, and the word for it here.
_MEANT = {
    said: meant
    for meant, words in {
        "to": ("floor", "min", "end", "until"),
        "from": ("start",),
        ">": ("then", ",", "-"),
        "hold": ("stable", "keep"),
        "constant": ("const",),
        "cosine": ("cos", "anneal"),
        "polynomial": ("poly",),
        "decay": ("step", "steplr", "gamma"),
        "exponential": ("exp",),
        "repeat": ("restart", "restarts", "cycle", "cyclic"),
        "base": ("lr",),
        "points": ("piecewise",),
        "1-sqrt": ("sqrt",),
        "inverse": ("rsqrt",),
        "warmup": ("ramp",),
        "each": ("epoch",),
    }.items()
    for said in words
}


@dataclass(frozen=True)
class Token:
    """A word, a number or a mark, and where it stands."""

    kind: str
    text: str
    at: int


class Tokens:
    """A walk over the tokens of a text."""

    def __init__(self, text: str) -> None:
        lower = text.lower()
        self.text, self.i = lower if len(lower) == len(text) else text, 0
        self.tokens: list[Token] = []
        at = 0
        end = len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if match is None:
                at = end - len(self.text[at:end].lstrip())
                raise self.error(at, f"{self.text[at]!r} has no meaning here")
            kind = str(match.lastgroup)
            self.tokens.append(Token(kind, match[kind], match.start(kind)))
            at = match.end()

    def error(self, at: int, what: str) -> InputError:
        """The complaint, with the text and a mark under the place."""
        start = max(0, at - 60)
        shown = self.text[start : at + 40].replace("\n", " ")
        return InputError(f"parse: {what}, at character {at + 1}.\n    {shown}\n    {' ' * (at - start)}^")

    def peek(self, text: str | None = None, kind: str | None = None) -> Token | None:
        """The next token, if there is one of that text or kind."""
        token = self.tokens[self.i] if self.i < len(self.tokens) else None
        wrong = token is None or (text is not None and token.text != text) or (kind is not None and token.kind != kind)
        return None if wrong else token

    def take(self, text: str | None = None, kind: str | None = None) -> Token | None:
        """The same, and step over it."""
        token = self.peek(text, kind)
        self.i += token is not None
        return token

    def expect(self, text: str, why: str = "") -> None:
        """Step over a token that has to be there."""
        if not self.take(text):
            raise self.error(self.place(), f"expected {text!r}{why}, {self.got()}")

    def place(self) -> int:
        """Where the next token stands."""
        return self.tokens[self.i].at if self.i < len(self.tokens) else len(self.text)

    def got(self) -> str:
        """What stands there instead."""
        token = self.peek()
        return f"got {token.text[:40]!r}" if token else "got nothing"

    def hint(self, words: Iterable[str]) -> str:
        """The word that may have been meant by the next token."""
        token, known = self.peek(), list(words)
        if token is None:
            return ""
        meant = _MEANT.get(token.text)
        near = [meant] if meant in known or meant == ">" else get_close_matches(token.text[:40], known, n=1)
        if token.text == "%":
            return " (a factor is a number: 0.1, not 10%)"
        return f" (did you mean {near[0]!r}?)" if near else ""

    def number(self, after: str, least: str = "must be at least 0: a negative rate climbs the loss") -> float:
        """A number at least 0."""
        at = self.place()
        if self.take("-"):
            raise self.error(at, f"the number after {after!r} is negative; it {least}")
        token = self.take(kind="number")
        if token is None:
            raise self.error(at, f"expected a number after {after!r}")
        value = float(token.text)
        if value == float("inf"):
            raise self.error(at, f"{token.text[:20]} is too large")
        return value

    def signed(self, after: str) -> float:
        """A number of any sign."""
        return -self.number(after) if self.take("-") else self.number(after)
