"""Keeping native code out of torch.compile: traced, it would be compiled anew at each update.

Import this module only where something is being compiled: `torch.compiler.disable` loads the compiler, which takes longer than
torch. Whether it is, tells `lrkit.binding.hooks.compiler` to hooks, and the same function of torch to others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable  # type: ignore[untyped-decorator]
def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function, and whatever it calls, outside of what is being compiled."""
    return function(*args)
