"""Schedules: step ↦ factor of a base value, as immutable values. Pure maths; no torch, no files.

Segment, Hold and Join are all that a schedule is made of; the recipes are one expression each.
"""

from lrkit.schedules.base import Hold, Join, Schedule, Segment
from lrkit.schedules.easing import Easing, Power
from lrkit.schedules.recipes import cosine, linear, warmup, wsd
from lrkit.schedules.template import Template
from lrkit.schedules.text import parse

__all__ = [
    "Easing",
    "Hold",
    "Join",
    "Power",
    "Schedule",
    "Segment",
    "Template",
    "cosine",
    "linear",
    "parse",
    "warmup",
    "wsd",
]
