"""Other libraries' schedules under their own names and argument names, as Schedules of absolute values.

    schedules.compat.torch.OneCycleLR(base_lr=0.01, max_lr=0.1, total_steps=1000)

A file of LIBRARIES is one library: its constructors take that library's arguments and `base_lr`, give the values that it gives
within the planned run, and hold the last one past the end, where many of them climb or turn negative. What it has no room for is
in a file that begins with its name; what several share is in common, frame, stairs and plateau. No library is imported. A file
loads when it is first asked for.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrkit.schedules.compat import allennlp as allennlp
    from lrkit.schedules.compat import big_vision as big_vision
    from lrkit.schedules.compat import composer as composer
    from lrkit.schedules.compat import deepspeed as deepspeed
    from lrkit.schedules.compat import fvcore as fvcore
    from lrkit.schedules.compat import ignite as ignite
    from lrkit.schedules.compat import keras as keras
    from lrkit.schedules.compat import llm_foundry as llm_foundry
    from lrkit.schedules.compat import lm_engine as lm_engine
    from lrkit.schedules.compat import megatron as megatron
    from lrkit.schedules.compat import mmengine as mmengine
    from lrkit.schedules.compat import nanochat as nanochat
    from lrkit.schedules.compat import olmo as olmo
    from lrkit.schedules.compat import optax as optax
    from lrkit.schedules.compat import pytorch_optimizer as pytorch_optimizer
    from lrkit.schedules.compat import pytorch_warmup as pytorch_warmup
    from lrkit.schedules.compat import timm as timm
    from lrkit.schedules.compat import torch as torch
    from lrkit.schedules.compat import torchtitan as torchtitan
    from lrkit.schedules.compat import transformers as transformers

LIBRARIES = (
    "allennlp", "big_vision", "composer", "deepspeed", "fvcore", "ignite", "keras", "llm_foundry", "lm_engine", "megatron",
    "mmengine", "nanochat", "olmo", "optax", "pytorch_optimizer", "pytorch_warmup", "timm", "torch", "torchtitan", "transformers",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name not in LIBRARIES:
        raise AttributeError(f"module 'lrkit.schedules.compat' has no attribute {name!r}; it has {', '.join(LIBRARIES)}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(LIBRARIES)
