"""Memory: a step of a kernel takes none of torch's, whatever the optimizer."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lrkit import clip, optim

MAKE = {
    "sgd": optim.SGD,
    "momentum": optim.Momentum,
    "nesterov": optim.Nesterov,
    "lion": optim.Lion,
    "rms": optim.RMS,
    "adagrad": optim.Adagrad,
    "rmsprop": optim.RMSprop,
    "rmsprop_centered": lambda p, **options: optim.RMSprop(p, centered=True, **options),
    "rmsprop_momentum": lambda p, **options: optim.RMSprop(p, momentum=0.9, **options),
    "adadelta": optim.Adadelta,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "amsgrad": optim.AMSGrad,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "adabelief": optim.AdaBelief,
}
UNSAID = {"lion", "rmsprop_centered", "rmsprop_momentum", "adadelta", "adabelief"}  # of these torch has no fused kernel
SHAPES = [(40, 50), (7,), (), (0,), (3, 4, 5)]
NUMBER = 8  # bytes: torch's lists of products make a tensor of each factor
WARM = 7  # steps: RAdam scales, and so has a kernel of torch's, from its sixth on


def built(name, backend, **options):
    """An optimizer that has made some steps, so that its state is there."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer = MAKE[name](parameters, backend=backend, **options)
    for _ in range(WARM):
        optimizer.step()
    return optimizer


def ran(optimizer):
    """What executed the last step."""
    return {type(bucket.runner[1]).__name__.lower() for ledger in optimizer._ledgers for bucket, _ in ledger._buckets}


def taken(act):
    """The sizes, in bytes, of everything that torch's allocator gave while something was done, but for single numbers."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        act()
    events = profile.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > NUMBER]


def left(act):
    """How many of the bytes that torch's allocator gave while something was done were not given back."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        act()
    return sum(event.nbytes() for event in profile.kineto_results.events() if event.name() == "[memory]")


class Made(TorchDispatchMode):
    """Notes the operations that return memory which was not handed to them."""

    def __init__(self):
        super().__init__()
        self.by = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run one operation, and look at what it returns."""
        given = {one.untyped_storage()._cdata for one in tensors([args, kwargs or {}])}
        out = function(*args, **(kwargs or {}))
        if any(one.untyped_storage()._cdata not in given for one in tensors(out)):
            self.by.append(str(function))
        return out


def tensors(value):
    """All tensors in nested lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [one for item in value for one in tensors(item)] if isinstance(value, list | tuple) else []


def renew(optimizer):
    """New gradients, as after `zero_grad` and a backward pass."""
    for p in optimizer.param_groups[0]["params"]:
        p.grad = p.grad.neg()


def skip_without(optimizer, backend):
    """Leave a machine alone that has no C compiler."""
    if backend == "compiled" and ran(optimizer) == {"reference"}:
        pytest.skip("there is no C compiler")


CASES = [(name, backend) for name in MAKE for backend in ("compiled", "fused") if backend == "compiled" or name not in UNSAID]


def test_the_measure_sees_what_torch_takes():
    """torch's loop takes a temporary, and both ways of looking see it; so does the reference."""
    p = torch.nn.Parameter(torch.zeros(1000))
    p.grad = torch.ones(1000)
    loop, reference = torch.optim.Adam([p]), built("adam", "reference")
    for step in (loop.step, loop.step, reference.step):
        assert max(taken(step)) >= 4000
        with Made() as made:
            step()
        assert made.by


@pytest.mark.parametrize(("name", "backend"), CASES, ids=lambda one: one)
class TestAStep:
    def test_takes_no_memory(self, name, backend):
        optimizer = built(name, backend)
        skip_without(optimizer, backend)
        assert ran(optimizer) == {backend}
        assert taken(optimizer.step) == []

    def test_takes_none_with_new_gradients(self, name, backend):
        optimizer = built(name, backend)
        skip_without(optimizer, backend)
        renew(optimizer)
        assert taken(optimizer.step) == []

    def test_makes_no_tensor(self, name, backend):
        optimizer = built(name, backend)
        skip_without(optimizer, backend)
        with Made() as made:
            optimizer.step()
        assert made.by == []

    def test_keeps_no_more_than_its_state(self, name, backend):
        """A hundred steps hold what one holds."""
        optimizer = built(name, backend)
        skip_without(optimizer, backend)
        assert taken(lambda: [optimizer.step() for _ in range(100)]) == []


@pytest.mark.parametrize("backend", ["compiled", "fused", "reference"])
def test_gradients_that_are_let_go_are_freed(backend):
    """After `zero_grad` nobody holds them through the next forward pass, whose activations want their place."""
    optimizer = built("adam", backend)

    def cycle():
        renew(optimizer)
        optimizer.step()
        optimizer.zero_grad()

    assert left(cycle) == 0


@pytest.mark.parametrize("backend", ["compiled", "fused"])
def test_the_first_step_takes_the_state_alone(backend):
    """What is given back is counted, too: m and v, and nothing beside them."""
    built("adam", backend)  # kernels are probed on tensors of their own
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    for p in parameters:
        p.grad = torch.randn(p.shape)
    optimizer = optim.Adam(parameters, backend=backend)
    state = 2 * sum(p.nbytes for p in parameters)
    given = taken(optimizer.step)
    assert state - 2 * NUMBER <= sum(given) <= state + 64


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_entries_take_none_either(dtype):
    """The compiled kernel works in wider numbers without writing them anywhere."""
    p = torch.nn.Parameter(torch.randn(1000).to(dtype))
    p.grad = torch.randn(1000).to(dtype)
    optimizer = optim.AdamW([p], backend="compiled", stochastic_rounding=dtype == torch.bfloat16)
    optimizer.step()
    skip_without(optimizer, "compiled")
    assert taken(optimizer.step) == []


def test_a_clipped_step_takes_numbers_only():
    """The gradients are not copied to be clipped: what is taken is a few numbers a tensor."""
    optimizer = built("adam", "compiled", clip=clip.norm(1e-3))
    skip_without(optimizer, "compiled")
    assert sum(taken(optimizer.step)) < 1000 < 4 * 2000
