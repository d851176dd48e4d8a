"""Every schedule that can be composed, for the property tests: leaves of all kinds, and what holds them, three deep."""

from hypothesis import strategies as st

from lrkit.schedules import (
    Between,
    Each,
    Geometric,
    Hold,
    Hyperbolic,
    Join,
    Part,
    Points,
    Polynomial,
    Power,
    Rates,
    Rectified,
    Relax,
    Repeat,
    Segment,
    Tail,
    Tanh,
    Times,
    Wave,
)  # fmt: skip
from lrkit.schedules.easing import EASINGS

VALUE = st.floats(0, 10) | st.sampled_from([0.0, 1.0, 0.1, 0.5])
ABOVE = st.floats(1e-6, 10)
UNIT = st.floats(0, 1)
STEPS = st.integers(1, 1000) | st.integers(1, 10**6)
EXPONENT = st.floats(0.1, 5)

FROM_ZERO = (
    st.sampled_from([easing for word, easing in EASINGS.items() if word != "exponential"])
    | EXPONENT.map(Power)
    | st.builds(Polynomial, EXPONENT, EXPONENT)
    | st.builds(Wave, EXPONENT, EXPONENT)
    | st.floats(0.01, 0.9).map(Relax)
)
PLAIN = FROM_ZERO | st.builds(Tanh, st.floats(-9, 0), st.floats(0.5, 5), EXPONENT)


def segments(value=VALUE, above=ABOVE):
    """Segments between such values."""
    curved = st.builds(Segment, value, value, STEPS, PLAIN, st.booleans())
    return curved | st.builds(Segment, above, above, STEPS, st.just(EASINGS["exponential"]), st.booleans())


def points(value=VALUE):
    """Points at whole and broken steps, jumps among them."""
    places = st.lists(st.integers(0, 500) | st.floats(0, 500), min_size=1, max_size=5).map(sorted)
    return places.flatmap(lambda at: st.tuples(st.tuples(*[st.tuples(st.just(float(x)), value) for x in at]), FROM_ZERO)).map(
        lambda given: Points(*given)
    )


LAWS = st.builds(Geometric, st.floats(0.01, 0.999), st.floats(0.5, 500), st.booleans()) | st.builds(
    Hyperbolic, st.floats(1e-4, 10), EXPONENT, st.floats(0.5, 500), st.booleans()
)


def tails(steps, start=ABOVE):
    """Tails of such a length."""
    falling = st.builds(lambda law, start, share, n: Tail(law, start, start * share or None, n), LAWS, start, UNIT, steps)
    return falling | st.builds(
        lambda beta2, start, n: Tail(Rectified(beta2), start, None, n), st.floats(0.8, 0.9999), start, steps
    )


GROWING = st.builds(lambda ratio, n: Tail(Geometric(ratio, 10), 1.0, 50.0, n), st.floats(1.01, 4), STEPS)
FINITE_LEAVES = segments() | st.builds(Hold, VALUE, STEPS) | points() | tails(STEPS) | GROWING
SHAPES = segments(UNIT, st.floats(1e-3, 1)) | points(UNIT) | tails(st.none() | STEPS, st.floats(1e-3, 1))  # within 0 and 1
ENDLESS_LEAVES = st.builds(Hold, VALUE) | tails(st.none())


def _composed(inner):
    """What holds schedules that have an end."""
    return (
        st.lists(inner, min_size=1, max_size=4).map(lambda stages: Join(*stages))
        | st.lists(inner, min_size=1, max_size=3).map(lambda factors: Times(*factors))
        | st.builds(Repeat, inner, st.integers(1, 50), st.just(1.0) | st.floats(1, 2), st.just(1.0) | st.floats(0.1, 1))
        | st.builds(Each, inner, st.integers(1, 100))
        | st.builds(lambda s, a, b: s[min(a, b) : max(a, b) + 1], inner, st.integers(0, 2000), st.integers(0, 2000))
        | st.builds(lambda s, n: Part(s, 0, s.steps, n), inner, STEPS)
    )


FINITE = st.recursive(FINITE_LEAVES, _composed, max_leaves=5) | st.builds(Between, VALUE, VALUE, SHAPES.filter(lambda s: s.steps))
ENDLESS = (
    ENDLESS_LEAVES
    | st.builds(lambda head, tail: Join(head, tail), FINITE, ENDLESS_LEAVES)
    | st.builds(Repeat, FINITE, st.none(), st.sampled_from([1.0, 2.0, 1.5, 3.0]), st.just(1.0) | st.floats(0.1, 1))
    | st.builds(lambda a, b: Times(a, b), FINITE, ENDLESS_LEAVES)
    | st.builds(Between, VALUE, VALUE, SHAPES)
)
FACTORS = FINITE | ENDLESS
SCHEDULES = FACTORS | st.builds(Rates, FACTORS, st.floats(1e-6, 1))
