"""Members side by side: one net at several peak rates, trained at once, where that is as exact as one after another, and faster.

The members' weights are stacked along a new first axis and `torch.func.vmap` computes all losses in one pass. One optimizer of
the same class updates the stack at the highest rate r, and each member then keeps its share of its own step:

    θ_k ← θ_k + (r_k/r)·(θ′_k − θ_k)

which is the update at r_k wherever an update is elementwise and linear in the rate, as in nearly every optimizer that looks at
no norm and no matrix. Knows torch's transforms and which optimizers are so; knows no schedule and no search.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrkit import optim
from lrkit.binding.hooks import owners
from lrkit.binding.processes import parallel
from lrkit.binding.slots import slot
from lrkit.errors import InputError, real
from lrkit.snapshot import capture_random, preserved
from lrkit.task import Loss, updates

# Elementwise, and linear in the rate: by their formulas, and tested. A subclass may do anything, so only these very classes.
LINEAR: frozenset[type] = frozenset(
    {
        *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
        *(torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adadelta),
        *(optim.SGD, optim.Momentum, optim.Nesterov, optim.Lion, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam),
        *(optim.AMSGrad, optim.AdaBelief, optim.RMS, optim.Adagrad, optim.RMSprop, optim.Adadelta),
    }
)
_COUNTS = ("step", "mu_product")  # state of which all members have the same
_LARGEST = 2**28  # bytes of stacked weights; gradients, the optimizer's state and activations come on top
_TRIED, _ALONE = 2, 3  # updates of the probe; alone one more, for that is cheap and a hiccup there would speak for the stack
_WORTH = 1.2  # times faster: below, it is not worth the memory


class Members:
    """One net at K peak rates, trained at once, all on the same batches with the same random numbers.

    The live optimizer is never stepped. Before each update the caller writes into its groups what is in force for the member
    with the highest rate, as for a run of its own; the others' rates keep their ratio to it, and share all else.

    Args:
        model: The model at its start; left in training mode, otherwise touched by `write` only.
        optimizer: Its optimizer; groups, hyperparameters and state are taken over.
        loss: ``(model, batch) → Tensor``.
        rates: Each member's peak rate of the first group, above 0.

    Attributes:
        rate: The highest of `rates`, for which the caller drives the groups.

    Raises:
        InputError: If a rate is not above 0, or such a training cannot be stacked (see `obstacle`).
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, rates: Sequence[float]) -> None:
        why = "there are no rates" if not rates else obstacle(model, optimizer, len(rates))
        if why:
            raise InputError(f"Members: cannot be stacked: {why}. Train one after another.")
        self.rates = [real("Members", "rates", rate, above=0.0) for rate in rates]
        self.rate = max(self.rates)
        if not model.training:
            model.train()  # single parts in another mode are meant so
        self._whole, self._live = _Whole(model, loss), optimizer
        trained = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
        weights = dict(self._whole.named_parameters())
        self._sources = {name: p for name, p in weights.items() if id(p) in trained}
        # What is not trained is not stacked: one serves all, and gathers no gradient.
        self._fixed = {name: p.detach() for name, p in weights.items() if id(p) not in trained}
        self._buffer_sources = dict(self._whole.named_buffers())
        self._weights = {name: self._stack(p).requires_grad_() for name, p in self._sources.items()}
        self._buffers = {name: self._stack(buffer) for name, buffer in self._buffer_sources.items()}
        self._before = {name: torch.empty_like(leaf) for name, leaf in self._weights.items()}
        self._shares = {name: self._share_of(leaf) for name, leaf in self._weights.items()}
        self._optimizer = self._twin()

    def update(self, batch: Any) -> Tensor:
        """Make one update of every member.

        Args:
            batch: What `loss` takes; the same for all.

        Returns:
            The members' losses before it, shape (K,). One that is not finite says nothing of the others.
        """
        for group, live in zip(self._optimizer.param_groups, self._live.param_groups, strict=True):
            group.update({key: value for key, value in live.items() if key != "params"}, lr=float(live["lr"]))
        self._optimizer.zero_grad()
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention cannot be batched
            losses, buffers = vmap(partial(self._one, batch), randomness="same")(self._weights, self._buffers)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, leaf in self._weights.items():
                self._before[name].copy_(leaf)
            self._optimizer.step()
            for name, leaf in self._weights.items():
                torch.lerp(self._before[name], leaf, self._shares[name], out=leaf)
        # A model may have put a new tensor where a buffer was; one that is the same for all gets memory for each.
        self._buffers = {name: buffer.detach().contiguous() for name, buffer in buffers.items()}
        return losses.detach()

    def write(self, k: int) -> None:
        """Write member k's weights and buffers into the live model, e.g. to validate it; the caller restores."""
        with torch.no_grad():
            for name, p in self._sources.items():
                p.copy_(self._weights[name][k])
            for name, buffer in self._buffer_sources.items():
                buffer.copy_(self._buffers[name][k])

    def buffers(self, k: int) -> list[Tensor]:
        """Member k's buffers, in the model's order."""
        return [stack[k] for stack in self._buffers.values()]

    def _one(self, batch: Any, weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one member, and its buffers afterwards, as vmap sees them."""
        tensors = {**self._fixed, **weights, **buffers}
        loss = functional_call(self._whole, tensors, (batch,))
        return loss.reshape(()), {name: tensors[name] for name in buffers}

    def _stack(self, tensor: Tensor) -> Tensor:
        return torch.stack([tensor.detach()] * len(self.rates))

    def _share_of(self, leaf: Tensor) -> Tensor:
        """r_k/r, shaped to be broadcast over the member's weights: (K, 1, …)."""
        shares = [rate / self.rate for rate in self.rates]
        return leaf.new_tensor(shares).reshape(-1, *[1] * (leaf.ndim - 1))

    def _twin(self) -> torch.optim.Optimizer:
        """An optimizer like the live one, over the stack. It is made as a copy is, so it carries no hooks."""
        stacked = {id(p): self._weights[name] for name, p in self._sources.items()}
        made = self._live.__getstate__()
        groups = [{**group, "params": [p for p in group["params"] if id(p) in stacked]} for group in made["param_groups"]]
        state: dict[Tensor, Any] = defaultdict(dict)
        for p in (p for group in groups for p in group["params"]):
            if p in made["state"]:
                state[stacked[id(p)]] = {key: self._stacked_state(key, value) for key, value in made["state"][p].items()}
        for group in groups:
            group["params"] = [stacked[id(p)] for p in group["params"]]
        twin = type(self._live).__new__(type(self._live))
        twin.__setstate__({**made, "defaults": dict(made["defaults"]), "state": state, "param_groups": groups})
        return twin

    def _stacked_state(self, key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.clone() if key in _COUNTS else self._stack(value)


class _Whole(nn.Module):
    """Model and loss as one module, so that whatever the loss does with the model sees the weights that are put in."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        return self.loss(self.model, batch)


def obstacle(model: nn.Module, optimizer: torch.optim.Optimizer, members: int) -> str:
    """Why a training cannot be stacked, as far as one can tell without trying; empty where nothing stands against it.

    Args:
        model: The model.
        optimizer: Its optimizer.
        members: How many.
    """
    if parallel() or any(isinstance(m, nn.parallel.DistributedDataParallel | nn.DataParallel) for m in model.modules()):
        return "several processes or devices share the training"
    return _of_optimizer(optimizer) or _of_weights(model, optimizer, members) or _of_model(model)


def _of_optimizer(optimizer: torch.optim.Optimizer) -> str:
    """Its update must be elementwise and linear in the rate, and nobody else may take part in it."""
    name = type(optimizer).__name__
    if type(optimizer) not in LINEAR:
        return f"{name}'s update is not known to be elementwise and linear in the rate"
    if any(group.get("capturable") or group.get("differentiable") for group in optimizer.param_groups):
        return f"{name} is capturable or differentiable"
    if isinstance(optimizer, optim.Optimizer):
        rules = [optimizer.choose(group) for group in optimizer.param_groups]
        if optimizer.clip is not None or optimizer.seed is not None:
            return f"{name} clips, or rounds at random"
        if any(getattr(rule.decay, "by", "") == "constant" or getattr(rule.direction, "rate", "") == "inside" for rule in rules):
            return f"{name}'s decay or momentum is not linear in the rate"
    hooks = [*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values()]
    own = owners(optimizer)
    if "step" in vars(optimizer) or any(getattr(hook, "__self__", None) not in own for hook in hooks):
        return f"{name}'s step has been wrapped or hooked, by whom is unknown"
    return ""


def _of_weights(model: nn.Module, optimizer: torch.optim.Optimizer, members: int) -> str:
    """They must be the model's, precise enough to take a part of a step, few, and nobody may listen to their gradients."""
    weights = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    known = {id(p) for p in model.parameters()}
    if not weights:
        return "no weight is trained"
    if any(id(p) not in known for p in weights):
        return "the optimizer trains weights that are not the model's"
    if any(p.dtype not in (torch.float32, torch.float64) or p.layout != torch.strided for p in weights):
        return "a weight is neither float32 nor float64"
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in weights):
        return "a weight's gradient has a hook"
    if members * sum(p.nbytes for p in weights) > _LARGEST:
        return f"{members} copies of the weights take more than {_LARGEST >> 20} MiB"
    return ""


def _of_model(model: nn.Module) -> str:
    """A hook would see all members at once; what is compiled cannot be traced again by another."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            return "the model is compiled"
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return "a part of the model has a hook"
    return ""


@dataclass(frozen=True)
class Verdict:
    """Whether members are to be trained side by side.

    Args:
        yes: Whether it gives the same values, in less time.
        updates: What asking cost, in updates of one member.
        gain: Seconds one after another for each second side by side; NaN where it did not come to that.
        reason: In words.
    """

    yes: bool
    updates: int
    gain: float
    reason: str


def faster(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batch: Any,
    rates: Sequence[float],
    *,
    clock: Callable[[], float] | None = None,
) -> Verdict:
    """Try two updates side by side and three of one member alone; compare losses, buffers and time. Everything is as before.

    Whatever fails, side by side or alone, is a no: the training that follows one after another will say what it has to say.

    Args:
        model: The model.
        optimizer: Its optimizer, its groups driven for the highest rate, as `Members` expects.
        loss: ``(model, batch) → Tensor``.
        batch: One batch.
        rates: The members' peak rates.
        clock: Tells the time in seconds. None: the processor's own time where one thread does all, which nobody beside disturbs;
            else the wall's.

    Returns:
        The verdict; it costs 2·K + 3 updates, or less where something stands against it earlier.
    """
    why = "there is only one member" if len(rates) < 2 else obstacle(model, optimizer, len(rates))
    if why:
        return Verdict(False, 0, math.nan, why)
    probe = _Probe(model, optimizer, loss, batch, rates, clock)
    try:
        with preserved(model, optimizer), ExitStack() as quiet:
            for owner in owners(optimizer):
                quiet.enter_context(owner.paused())
            return probe.verdict()
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        return Verdict(False, probe.made, math.nan, f"{type(error).__name__}: {said}")


class _Probe:
    """The attempt itself; it counts what it makes and restores nothing."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        batch: Any,
        rates: Sequence[float],
        clock: Callable[[], float] | None,
    ) -> None:
        self.model, self.optimizer, self.loss, self.batch, self.rates = model, optimizer, loss, batch, rates
        self.device = next(model.parameters()).device
        one_thread = self.device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = clock or (time.process_time if one_thread else time.perf_counter)
        self.made = 0

    def verdict(self) -> Verdict:
        """Both ways from the same random state; of the updates of each the fastest is what counts."""
        again, own = capture_random(), _own_tensors(self.model)
        members = Members(self.model, self.optimizer, self.loss, self.rates)
        stacked, together = self._stacked(members)
        now = _own_tensors(self.model)
        if now.keys() != own.keys() or any(now[key] is not own[key] for key in own):
            return self._no("the model keeps tensors of its own from one call to the next, in no buffer")
        again()
        k = sorted(range(len(self.rates)), key=lambda i: self.rates[i])[len(self.rates) // 2]
        equal, alone = self._alone(self.rates[k] / members.rate, stacked[:, k], members.buffers(k))
        if not equal:
            return self._no("the values differ from those of one after another")
        gain = len(self.rates) * alone / max(together, 1e-9)
        if gain < _WORTH:
            return Verdict(False, self.made, gain, f"one after another takes only {gain:.2g} times as long")
        return Verdict(True, self.made, gain, f"the same values, {gain:.2g} times as fast")

    def _no(self, reason: str) -> Verdict:
        return Verdict(False, self.made, math.nan, reason)

    def _stacked(self, members: Members) -> tuple[Tensor, float]:
        """Losses, shape (updates, K), and the seconds of an update."""
        losses, seconds = [], math.inf
        with warnings.catch_warnings():
            # Where torch has no batched form of an operation it goes through the members one by one, and says so.
            warnings.filterwarnings("error", message="There is a performance drop")
            for _ in range(_TRIED):
                loss, took = self._timed(partial(members.update, self.batch))
                losses.append(loss)
                seconds = min(seconds, took)
                self.made += len(self.rates)
        return torch.stack(losses), seconds

    def _alone(self, share: float, losses: Tensor, buffers: list[Tensor]) -> tuple[bool, float]:
        """Whether one member alone has these losses and comes to these buffers, and the seconds of an update."""
        for group in self.optimizer.param_groups:
            slot("lr").put(group, float(group["lr"]) * share)
        equal, seconds = True, math.inf
        with closing(updates(self.model, self.optimizer, self.loss, [self.batch], _ALONE)) as loop:
            for t in range(_ALONE):
                update, took = self._timed(partial(next, loop))
                seconds = min(seconds, took)
                self.made += 1
                if t < _TRIED:
                    equal = equal and _alike(update.loss.reshape(()), losses[t])
                if t == _TRIED - 1:
                    equal = equal and all(map(_alike, self.model.buffers(), buffers))
        return equal, seconds

    def _timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        self._wait()
        began = self.clock()
        value = call()
        self._wait()
        return value, self.clock() - began

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def _own_tensors(model: nn.Module) -> dict[tuple[int, str], Tensor]:
    """Tensors that are plain attributes: neither parameters nor buffers, so nobody stacks them."""
    modules = enumerate(model.modules())
    return {(i, name): value for i, module in modules for name, value in vars(module).items() if isinstance(value, Tensor)}


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to within what another order of sums explains; what is not finite is equal to its like."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    rtol = torch.finfo(a.dtype).eps ** 0.4  # 2e-3 in single precision, 5e-7 in double
    a, b = (torch.where(torch.isfinite(x), x, math.nan) for x in (a, b))
    scale = float(b.nan_to_num().abs().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=rtol, atol=rtol * scale, equal_nan=True)
