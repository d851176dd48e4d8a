"""A compiled step: with a tensor rate it is compiled once, however often the rate changes, and computes what it does when the
same rates are set by hand.

The backend is a counter around "eager": what is asked here is whether dynamo compiles anew, not what inductor makes of it.
Under dynamo torch's optimizers themselves take another path (the rate stays a tensor of float32, where eager makes it a Python
float), so compiled and eager differ in the last bits with or without us; the twin to the bit is therefore compiled, too.
"""

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounter

from lrkit import attach, controllers

# torch's own, when dynamo first meets an optimizer and imports half of inductor.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

UPDATES = 20
TEXT = "warmup 5 > cosine 15"
OPTIMIZERS = {
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr),
    "adam_for_loop": lambda p, lr: torch.optim.Adam(p, lr=lr, foreach=False),
    "sgd_momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
}
DATA = torch.randn(UPDATES, 4, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(make):
    """Two groups that torch lets share one rate tensor."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, make([{"params": [p]} for p in model.parameters()], torch.tensor(0.1))


def train(model, optimizer, step, before=lambda t, loss: None) -> list[list[float]]:
    """The rates of every update."""
    rates = []
    for t in range(UPDATES):
        optimizer.zero_grad()
        loss = model(DATA[t]).square().mean()
        loss.backward()
        before(t, loss)
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        step()
    return rates


def by_hand(make, rates, dynamic):
    """The twin: no attachment, each rate filled into each group's own tensor; how many graphs that takes."""
    model, optimizer = build(make)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"].clone()
    counter = CompileCounter()

    def fill(t, loss):
        for group, rate in zip(optimizer.param_groups, rates[t], strict=True):
            group["lr"].fill_(rate)

    train(model, optimizer, torch.compile(optimizer.step, backend=counter, dynamic=dynamic), fill)
    return model, counter.frame_count


def driven(make, dynamic, step_of=torch.compile, listening=()):
    model, optimizer = build(make)
    attachment = attach(optimizer, lr=TEXT, controllers=listening)
    held = [group["lr"] for group in optimizer.param_groups]
    counter = CompileCounter()
    step = torch.compile(optimizer.step, backend=counter, dynamic=dynamic) if step_of is torch.compile else optimizer.step
    rates = train(model, optimizer, step, (lambda t, loss: attachment.report(loss=loss)) if listening else lambda t, loss: None)
    assert attachment.step == UPDATES
    assert all(group["lr"] is one for group, one in zip(optimizer.param_groups, held, strict=True)), "the same tensors"
    return model, rates, counter.frame_count


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("dynamic", [None, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
class TestACompiledStep:
    def test_is_compiled_as_often_as_without_us_and_equals_the_same_rates_set_by_hand(self, name, dynamic):
        """SGD takes two graphs with or without an attachment, one of them for its first update, all others one."""
        model, rates, graphs = driven(OPTIMIZERS[name], dynamic)
        twin, least = by_hand(OPTIMIZERS[name], rates, dynamic)
        assert graphs == least == (2 if name == "sgd_momentum" else 1)
        assert same(model, twin)

    def test_has_the_rates_of_the_eager_run_to_the_bit_and_its_weights_up_to_torchs_own_rounding(self, name, dynamic):
        compiled, rates, _ = driven(OPTIMIZERS[name], dynamic)
        eager, expected, _ = driven(OPTIMIZERS[name], dynamic, step_of=None)
        assert rates == expected
        for p, q in zip(compiled.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dynamic", [None, False])
def test_a_controller_that_scales_the_rate_compiles_nothing_anew(dynamic):
    model, rates, graphs = driven(OPTIMIZERS["adamw"], dynamic, listening=[controllers.Plateau(patience=0, factor=0.5)])
    twin, _ = by_hand(OPTIMIZERS["adamw"], rates, dynamic)
    assert rates[-1][0] < 1e-3, "it has scaled"
    assert graphs == 1 and same(model, twin)


def test_dynamo_traces_none_of_our_code():
    """It would compile a schedule anew for every step, and warn of what it cannot trace."""
    traced = []
    handle = torch._dynamo.convert_frame.register_bytecode_hook(lambda code, out: traced.append(code.co_filename))
    try:
        driven(OPTIMIZERS["adamw"], None)
    finally:
        handle.remove()
    assert any("torch/optim" in file for file in traced), "the hook sees what is compiled"
    assert not [file for file in traced if "lrkit" in file]


def test_a_compiled_step_with_capturable_adam_is_left_out_on_a_cpu_because_torch_refuses_it_there():
    """Should torch ever take it, this fails, and the case belongs among OPTIMIZERS."""
    model, optimizer = build(lambda p, lr: torch.optim.Adam(p, lr=lr, capturable=True))
    with pytest.raises(AssertionError, match="capturable=True, params and state_steps must be on supported devices"):
        train(model, optimizer, optimizer.step)
