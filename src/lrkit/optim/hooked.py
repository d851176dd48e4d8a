"""Torch's hooks around a step, without the cost of torch's wrapper, which is that of a small net's update; and apart from
whatever is being compiled.

Knows torch's optimizers; knows no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch._C._autograd import _profiler_enabled
from torch._C._dynamo import eval_frame  # no public way says whether the compiler watches
from torch.compiler import is_dynamo_compiling
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

compiler = eval_frame.get_eval_frame_callback  # not None: it would compile what is called natively
Step = TypeVar("Step", bound=Callable[..., Any])


def hooked(function: Step) -> Step:
    """A method ``step`` that calls its optimizer's hooks and the global ones, in torch's order and with torch's arguments."""

    @wraps(function)
    def step(*args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling() or compiler() is not None:
            from lrkit.apart import apart

            return apart(_run, function, args, kwargs)
        if _profiler_enabled():
            with torch.autograd.profiler.record_function(f"Optimizer.step#{type(args[0]).__name__}.step"):
                return _run(function, args, kwargs)
        return _run(function, args, kwargs)

    step.hooked = True  # type: ignore[attr-defined]  # so that torch does not wrap it
    return step  # type: ignore[return-value]


def _run(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    optimizer: Any = args[0]
    if _global_optimizer_pre_hooks or optimizer._optimizer_step_pre_hooks:
        for before in (*_global_optimizer_pre_hooks.values(), *optimizer._optimizer_step_pre_hooks.values()):
            changed = before(optimizer, args, kwargs)
            if changed is not None:
                if not isinstance(changed, tuple) or len(changed) != 2:
                    raise RuntimeError(f"{function} must return None or a tuple of (new_args, new_kwargs), but got {changed}.")
                args, kwargs = changed
    out = function(*args, **kwargs)
    optimizer._optimizer_step_code()
    if _global_optimizer_post_hooks or optimizer._optimizer_step_post_hooks:
        for after in (*optimizer._optimizer_step_post_hooks.values(), *_global_optimizer_post_hooks.values()):
            after(optimizer, args, kwargs)
    return out
