"""Schedules: step ↦ factor of a base value, as immutable values. Pure maths; no torch, no files.

Segment, Hold, Join, Repeat, Times and Tail are what the recipes are made of; each recipe is one expression.
"""

from lrkit.schedules import change, compat, parts, spec
from lrkit.schedules.base import Schedule
from lrkit.schedules.compare import Difference, diff
from lrkit.schedules.compose import Between, Each, Rates, Repeat, Times
from lrkit.schedules.cycles import exp_range, from_range, triangular, triangular2, warm_restarts
from lrkit.schedules.easing import Easing, Polynomial, Power, Relax, Rex, Tanh, Wave
from lrkit.schedules.linter import Remark, lint
from lrkit.schedules.live import from_torch
from lrkit.schedules.parts import Hold, Join, Part, Segment
from lrkit.schedules.plans import (
    chebyshev,
    chebyshev_order,
    inverse_sqrt,
    one_cycle,
    one_cycle_momentum,
    power_scheduler,
    wsd,
    wsd_s,
)
from lrkit.schedules.points import Custom, Points, custom
from lrkit.schedules.recipes import (
    constant,
    cosine,
    exponential,
    exponential_warmup,
    gradual_warmup,
    inverse_time,
    linear,
    multi_step,
    piecewise,
    polynomial,
    radam_warmup,
    rex,
    step,
    tanh,
    time_decay,
    untuned_warmup,
    warmup,
    warmup_power,
)
from lrkit.schedules.spec import from_json
from lrkit.schedules.tails import Geometric, Hyperbolic, Rectified, Tail
from lrkit.schedules.template import Template
from lrkit.schedules.text import parse

__all__ = [
    "Between",
    "Custom",
    "Difference",
    "Each",
    "Easing",
    "Geometric",
    "Hold",
    "Hyperbolic",
    "Join",
    "Part",
    "Points",
    "Polynomial",
    "Power",
    "Rates",
    "Rectified",
    "Relax",
    "Remark",
    "Repeat",
    "Rex",
    "Schedule",
    "Segment",
    "Tail",
    "Tanh",
    "Template",
    "Times",
    "Wave",
    "change",
    "chebyshev",
    "chebyshev_order",
    "compat",
    "constant",
    "cosine",
    "custom",
    "diff",
    "exp_range",
    "exponential",
    "exponential_warmup",
    "from_json",
    "from_range",
    "from_torch",
    "gradual_warmup",
    "inverse_sqrt",
    "inverse_time",
    "linear",
    "lint",
    "multi_step",
    "one_cycle",
    "one_cycle_momentum",
    "parse",
    "parts",
    "piecewise",
    "polynomial",
    "power_scheduler",
    "radam_warmup",
    "rex",
    "spec",
    "step",
    "tanh",
    "time_decay",
    "triangular",
    "triangular2",
    "untuned_warmup",
    "warm_restarts",
    "warmup",
    "warmup_power",
    "wsd",
    "wsd_s",
]
