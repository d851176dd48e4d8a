"""The learning rate of PyTorch training: find it, shape it, adapt it, watch it, explain it.

    θ ← θ − (η_t / σ_t) · m_t        η: the schedule    m: the direction (momentum)    σ: the per-parameter scale

Names load when they are first used, so that ``import lrkit`` imports neither torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lrkit.errors import LrkitError, MissingExtra

if TYPE_CHECKING:
    from lrkit import clip as clip
    from lrkit import controllers as controllers
    from lrkit import groups as groups
    from lrkit import integrations as integrations
    from lrkit import optim as optim
    from lrkit import scale as scale
    from lrkit import schedules as schedules
    from lrkit.binding.attach import attach as attach
    from lrkit.doctor.diagnosis import Diagnosis as Diagnosis
    from lrkit.doctor.diagnosis import diagnose as diagnose
    from lrkit.finder.probe import probe as probe
    from lrkit.finder.ramp import range_test as range_test
    from lrkit.finder.search import find as find
    from lrkit.finder.suggestion import Suggestion as Suggestion
    from lrkit.gauges.watch import watch as watch
    from lrkit.logs.sniff import read as read
    from lrkit.logs.sniff import read_all as read_all
    from lrkit.optim.effective import effective_lr as effective_lr
    from lrkit.reporting.html import report as report
    from lrkit.run import Run as Run
    from lrkit.schedules.base import Schedule as Schedule
    from lrkit.schedules.compare import diff as diff
    from lrkit.schedules.linter import lint as lint
    from lrkit.schedules.points import custom as custom
    from lrkit.schedules.spec import from_json as from_json
    from lrkit.schedules.template import Template as Template
    from lrkit.schedules.text import parse as parse
    from lrkit.task import Task as Task
    from lrkit.task import train as train

__version__ = "0.1.0"

# Each public name, and the module where it lives. An empty attribute means: the module itself.
_HOMES = {
    "schedules": ("lrkit.schedules", ""),
    "Schedule": ("lrkit.schedules.base", "Schedule"),
    "Template": ("lrkit.schedules.template", "Template"),
    "parse": ("lrkit.schedules.text", "parse"),
    "from_json": ("lrkit.schedules.spec", "from_json"),
    "custom": ("lrkit.schedules.points", "custom"),
    "lint": ("lrkit.schedules.linter", "lint"),
    "diff": ("lrkit.schedules.compare", "diff"),
    "attach": ("lrkit.binding.attach", "attach"),
    "groups": ("lrkit.groups", ""),
    "controllers": ("lrkit.controllers", ""),
    "clip": ("lrkit.clip", ""),
    "optim": ("lrkit.optim", ""),
    "effective_lr": ("lrkit.optim.effective", "effective_lr"),
    "integrations": ("lrkit.integrations", ""),
    "find": ("lrkit.finder.search", "find"),
    "range_test": ("lrkit.finder.ramp", "range_test"),
    "probe": ("lrkit.finder.probe", "probe"),
    "scale": ("lrkit.scale", ""),
    "Suggestion": ("lrkit.finder.suggestion", "Suggestion"),
    "Task": ("lrkit.task", "Task"),
    "train": ("lrkit.task", "train"),
    "watch": ("lrkit.gauges.watch", "watch"),
    "Run": ("lrkit.run", "Run"),
    "read": ("lrkit.logs.sniff", "read"),
    "read_all": ("lrkit.logs.sniff", "read_all"),
    "diagnose": ("lrkit.doctor.diagnosis", "diagnose"),
    "Diagnosis": ("lrkit.doctor.diagnosis", "Diagnosis"),
    "report": ("lrkit.reporting.html", "report"),
}

# Packages that are extras: whoever needs one and lacks it is told the command.
_EXTRAS = {"torch": "torch", "sklearn": "demo"}

__all__ = [
    "Diagnosis",
    "LrkitError",
    "Run",
    "Schedule",
    "Suggestion",
    "Task",
    "Template",
    "attach",
    "clip",
    "controllers",
    "custom",
    "diagnose",
    "diff",
    "effective_lr",
    "find",
    "from_json",
    "groups",
    "integrations",
    "lint",
    "optim",
    "parse",
    "probe",
    "range_test",
    "read",
    "read_all",
    "report",
    "scale",
    "schedules",
    "train",
    "watch",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lrkit' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, attribute = _HOMES[name]
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _EXTRAS:
            raise MissingExtra(f"lrkit.{name}", package, _EXTRAS[package]) from error
        raise
    value = getattr(home, attribute) if attribute else home
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
