"""Other libraries' constructors meet bad arguments with a sentence, and unknown libraries with the known ones."""

import inspect
import math

import pytest

from lrkit.errors import LrkitError
from lrkit.schedules import Schedule, compat
from schedules.compat.test_vectors import KEPT, built

BAD = ["x", math.nan, math.inf, -1, 0, 0.5, 10**400, None, [], True, {}]
FIRST = {(vector["library"], vector["name"]): vector for vector in reversed(KEPT) if isinstance(vector["args"], dict)}


@pytest.mark.parametrize("vector", FIRST.values(), ids=lambda vector: f"{vector['library']}-{vector['name']}")
def test_a_bad_argument_is_refused_or_taken_never_a_crash(vector):
    """Each argument in turn is replaced by each bad value."""
    for key in vector["args"]:
        for bad in BAD:
            spoilt = {**vector, "args": {**vector["args"], key: bad}}
            try:
                schedule = built(spoilt)
                values = [schedule(t) for t in (0, 1, 7, 10**6)] if isinstance(schedule, Schedule) else []
            except LrkitError as error:
                assert len(str(error)) < 600, (key, bad)
            else:
                assert all(map(math.isfinite, values)), (key, bad)


def test_every_constructor_is_documented():
    for name in compat.LIBRARIES:
        module = getattr(compat, name)
        assert module.__doc__
        for public, member in vars(module).items():
            if inspect.isfunction(member) and member.__module__ == module.__name__ and not public.startswith("_"):
                assert member.__doc__, f"{name}.{public}"


def test_an_unknown_library_is_answered_with_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'jax'; it has allennlp, "):
        compat.jax  # noqa: B018
    assert dir(compat) == sorted(compat.LIBRARIES)
