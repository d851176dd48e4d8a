"""Keeping hooks out of torch.compile: traced, they would be compiled anew at each update.

Imported only where something is being compiled: `torch.compiler.disable` loads the compiler, which takes longer than torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable  # type: ignore[untyped-decorator]
def apart(hook: Callable[[Any, Any, Any], None], optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Run a hook, and whatever it calls, outside of what is being compiled."""
    hook(optimizer, args, kwargs)
