"""lrkit inside other people's loops: one file a host, which maps its words to `lrkit.attach` and `lrkit.find`.

    lightning      Schedules, Clip, Watch, callbacks; scheduled, the value of configure_optimizers; find
    transformers   Schedules, a callback, and the pair for Trainer(optimizers=…); Watch, a callback; find
    accelerate     attach, to a prepared optimizer; find
    torch          as_torch: an LRScheduler that changes nothing, for whoever insists on one
    optax          to_optax: a schedule for JAX

A file is imported when it is first asked for, and it imports its own host only. What several share is in keywords, finding,
watching.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lrkit.errors import MissingExtra

if TYPE_CHECKING:
    from lrkit.integrations.optax import to_optax as to_optax
    from lrkit.integrations.torch import as_torch as as_torch

HOSTS = ("accelerate", "lightning", "optax", "torch", "transformers")
_HOMES = {"as_torch": "torch", "to_optax": "optax"}

__all__ = ["as_torch", "to_optax"]


def __getattr__(name: str) -> object:
    host = _HOMES.get(name, name)
    if host not in HOSTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__dir__())}")
    try:
        module = import_module(f"{__name__}.{host}")
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingExtra(f"{__name__}.{name}", "torch", "torch") from error
        raise
    return getattr(module, name) if name in _HOMES else module


def __dir__() -> list[str]:
    return sorted((*HOSTS, *_HOMES))
