"""What executes an update: equal to the specification on every size, layout and dtype, reading gradients and writing nothing
else; and what cannot be had, or is wrong, is not used, and one line says so.
"""

import ctypes
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lrkit import clip, optim
from lrkit.errors import InputError
from lrkit.optim import backends, compiled, direction, fused, scale
from lrkit.optim.reference import Values, update

BACKENDS = ["compiled", "fused", "reference"]
SIZES = [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000]
FEW = [1, 7, 16, 33, 65, 1000]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
UPDATES = 3
RULES: dict[str, Any] = {
    "SGD": lambda p, **k: optim.SGD(p, 0.1, weight_decay=0.1, **k),
    "Momentum": lambda p, **k: optim.Momentum(p, 0.1, weight_decay=0.1, **k),
    "Nesterov": lambda p, **k: optim.Nesterov(p, 0.1, **k),
    "dampened": lambda p, **k: optim.SGD(p, 0.1, 0.9, 0.3, **k),
    "Lion": lambda p, **k: optim.Lion(p, 0.01, weight_decay=0.1, **k),
    "RMS": lambda p, **k: optim.RMS(p, 0.1, weight_decay=0.1, **k),
    "Adagrad": lambda p, **k: optim.Adagrad(p, 0.1, initial_accumulator_value=0.1, lr_decay=0.1, **k),
    "Adagrad like keras": lambda p, **k: optim.Adagrad(p, 0.1, like="keras", **k),
    "RMSprop": lambda p, **k: optim.RMSprop(p, 0.1, weight_decay=0.1, **k),
    "RMSprop with momentum": lambda p, **k: optim.RMSprop(p, 0.1, momentum=0.9, **k),
    "RMSprop centered": lambda p, **k: optim.RMSprop(p, 0.1, centered=True, **k),
    "RMSprop centered with momentum": lambda p, **k: optim.RMSprop(p, 0.1, momentum=0.9, centered=True, **k),
    "RMSprop like keras": lambda p, **k: optim.RMSprop(p, 0.1, momentum=0.9, centered=True, like="keras", **k),
    "RMSprop like the tutorials": lambda p, **k: optim.RMSprop(p, 0.1, like="tutorial", **k),
    "Adadelta": lambda p, **k: optim.Adadelta(p, weight_decay=0.1, **k),
    "Adam": lambda p, **k: optim.Adam(p, 0.1, weight_decay=0.1, **k),
    "Adam that climbs": lambda p, **k: optim.Adam(p, 0.1, maximize=True, **k),
    "Adam like keras": lambda p, **k: optim.Adam(p, 0.1, like="keras", **k),
    "Adam like the tutorials": lambda p, **k: optim.Adam(p, 0.1, like="tutorial", bias_correction=False, **k),
    "AdamW": lambda p, **k: optim.AdamW(p, 0.1, weight_decay=0.1, **k),
    "AMSGrad": lambda p, **k: optim.AMSGrad(p, 0.1, **k),
    "AMSGrad like optax": lambda p, **k: optim.AMSGrad(p, 0.1, like="optax", **k),
    "NAdam": lambda p, **k: optim.NAdam(p, 0.1, **k),
    "NAdam that climbs": lambda p, **k: optim.NAdam(p, 0.1, maximize=True, **k),
    "RAdam": lambda p, **k: optim.RAdam(p, 0.1, betas=(0.9, 0.9), **k),
    "AdaBelief": lambda p, **k: optim.AdaBelief(p, 0.1, **k),
    "heavy ball on the mean": lambda p, **k: optim.Optimizer(p, 0.1, direction=direction.HeavyBall(0.9), scale=scale.Mean(), **k),
    "Nesterov on the update": lambda p, **k: optim.Optimizer(
        p, 0.1, direction=direction.Nesterov(0.9, of="update"), scale=scale.Average(), **k
    ),
}
QUICK = ["Momentum", "Lion", "RMSprop centered with momentum", "Adadelta", "AdamW", "AMSGrad", "NAdam", "AdaBelief"]


def contiguous(n: int, **k: Any) -> tuple[Tensor, Tensor]:
    """(storage, a view of it)."""
    store = torch.randn(n, **k)
    return store, store


def in_the_middle(n: int, **k: Any) -> tuple[Tensor, Tensor]:
    store = torch.randn(n + 7, **k)
    return store, store[3 : 3 + n]


def transposed(n: int, **k: Any) -> tuple[Tensor, Tensor]:
    store = torch.randn(n, 3, **k)
    return store, store.t()


def strided(n: int, **k: Any) -> tuple[Tensor, Tensor]:
    store = torch.randn(2 * n + 5, **k)
    return store, store[3 : 3 + 2 * n : 2]


def columns(n: int, **k: Any) -> tuple[Tensor, Tensor]:
    store = torch.randn(n, 8, **k)
    return store, store[:, 2:5]


def channels_last(n: int, **k: Any) -> tuple[Tensor, Tensor]:
    store = torch.randn(2, n, 3, 2, **k).to(memory_format=torch.channels_last)
    return store, store


LAYOUTS = {f.__name__: f for f in (contiguous, in_the_middle, transposed, strided, columns, channels_last)}


def parameters(layout: str, dtype: torch.dtype, sizes: list[int]) -> list[tuple[Tensor, nn.Parameter]]:
    """Of some sizes, in one layout, each with the storage that it is a view of; 0-d and empty ones, too."""
    generator = torch.Generator().manual_seed(0)
    made = [LAYOUTS[layout](n, generator=generator, dtype=dtype) for n in sizes]
    scalar, empty = torch.randn(9, generator=generator, dtype=dtype), torch.randn(0, 3, dtype=dtype)
    made += [(scalar, scalar[4]), (empty, empty), (empty, empty.t())]
    return [(store, nn.Parameter(view)) for store, view in made]


def give_gradients(params: list[nn.Parameter], how: str, t: int) -> None:
    """By autograd, which keeps to the parameter's layout; or by hand, in other layouts."""
    generator = torch.Generator().manual_seed(t + 1)
    for p in params:
        p.grad = None
        wanted = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        if how == "autograd":
            (p * wanted).sum().backward()
        elif how == "expanded":
            p.grad = wanted.reshape(-1)[:1].sum().expand(p.shape)
        elif how == "reversed":
            turned = tuple(range(p.dim() - 1, -1, -1))
            p.grad = wanted.permute(turned).contiguous().permute(turned)
        else:
            p.grad = wanted


def wide(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format).to(torch.promote_types(tensor.dtype, torch.float32))


def expected(optimizer: optim.Optimizer, p: nn.Parameter, before: Values, g: Tensor, t: int) -> Values:
    """What the specification says, on contiguous copies."""
    group = optimizer.param_groups[0]
    rule = optimizer.choose(group)
    carry = optimizer.state[p].get("mu_product")
    s = rule.scalars(t, group, None if carry is None else float(carry))
    return update(before, -g if group["maximize"] else g, s, rule.form)


def now(optimizer: optim.Optimizer, p: nn.Parameter) -> Values:
    """A parameter and its buffers, as contiguous wide copies; before the first update, buffers as they begin."""
    group = optimizer.param_groups[0]
    rule, entry = optimizer.choose(group), optimizer.state.get(p, {})
    out = [wide(p)]
    for name in rule.names:
        start = rule.scale.first(group) if name and name == rule.scale.buffer else 0.0
        out.append(None if not name else wide(entry[name]) if name in entry else torch.full_like(out[0], start))
    return Values(*out)


def assert_equal(mine: Tensor, there: Tensor, dtype: torch.dtype, what: Any) -> None:
    """To rounding of the entry and of the largest; in bfloat16 to one unit in the entry's last place."""
    assert mine.dtype == dtype, what
    if mine.numel() == 0:
        return
    near, far = {torch.float32: (1e-6, 2e-6), torch.float64: (1e-13, 1e-13), torch.bfloat16: (2**-7, 2**-9)}[dtype]
    there = there.double()
    off = (mine.detach().double() - there).abs() - near * there.abs() - far * there.abs().max()
    assert bool((off <= 0).all()), (what, float(off.max()))


def check(rule: str, layout: str, how: str, dtype: torch.dtype, backend: str, sizes: list[int] = FEW) -> None:
    stores = parameters(layout, dtype, sizes)
    params = [p for _, p in stores]
    optimizer = RULES[rule](params, backend=backend)
    for t in range(1, UPDATES + 1):
        give_gradients(params, how, t)
        before = [now(optimizer, p) for p in params]
        memory = [store.clone() for store, _ in stores]
        optimizer.step()
        for (store, p), old, kept in zip(stores, before, memory, strict=True):
            there = expected(optimizer, p, old, wide(p.grad), t)
            for name, value in zip(("", *optimizer.choose(optimizer.param_groups[0]).names), there, strict=True):
                if value is not None:
                    one = optimizer.state[p][name] if name else p
                    assert_equal(one, value, dtype, (rule, layout, how, dtype, backend, t, tuple(p.shape), name or "p"))
            if store.numel():  # what of the storage is not the parameter's is as it was
                rest = store.clone()
                for whole in rest, kept:
                    whole.as_strided(p.shape, p.stride(), p.storage_offset()).zero_()
                assert torch.equal(rest, kept), ("memory beyond the parameter", rule, layout, backend, tuple(p.shape))


HOWS = ["autograd", "row-major", "reversed", "expanded"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


class TestEqualsTheSpecification:
    @each_backend
    @each_dtype
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_of_adamw_and_nesterov_on_every_size_and_layout(self, layout, dtype, backend):
        for rule, how in ("AdamW", "autograd"), ("Nesterov", "reversed"):
            check(rule, layout, how, dtype, backend, SIZES)

    @each_backend
    @pytest.mark.parametrize("rule", RULES)
    def test_of_every_rule_where_gradients_lie_otherwise_than_parameters(self, rule, backend):
        check(rule, "channels_last", "row-major", torch.float32, backend)

    @pytest.mark.parametrize("backend", ["compiled", "fused"])
    @pytest.mark.parametrize("rule", RULES)
    def test_of_every_rule_in_the_middle_of_larger_memory(self, rule, backend):
        check(rule, "in_the_middle", "autograd", torch.bfloat16, backend)

    @pytest.mark.prove
    @each_backend
    @each_dtype
    @pytest.mark.parametrize("how", HOWS)
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("rule", RULES)
    def test_of_every_rule_on_every_size_layout_dtype_and_kind_of_gradient(self, rule, layout, how, dtype, backend):
        check(rule, layout, how, dtype, backend, SIZES)

    @each_backend
    @pytest.mark.parametrize("rule", QUICK)
    def test_where_a_layout_changes_between_updates(self, rule, backend):
        """Gradients of other layouts, new gradients, a weight that is moved, a weight that is turned around in its place."""

        def run(backend, scramble):
            torch.manual_seed(0)
            p = nn.Parameter(torch.randn(6, 6, dtype=torch.float64))
            optimizer = RULES[rule]([p], backend=backend)
            for t in range(12):
                g = torch.randn(6, 6, dtype=torch.float64)
                p.grad = g.t().contiguous().t() if scramble and t % 3 == 1 else g
                if scramble and t == 5:
                    p.data = p.data.t().contiguous().t()
                if scramble and t == 7:
                    p.data = p.data.contiguous()
                if scramble and t == 9:
                    optimizer.state[p] = {key: one.clone() for key, one in optimizer.state[p].items()}
                optimizer.step()
            return p.detach()

        torch.testing.assert_close(run(backend, True), run("reference", False), rtol=1e-12, atol=1e-14)

    @each_backend
    def test_where_a_square_weight_is_transposed_without_a_copy(self, backend):
        """Its memory stays where it is; only its strides tell. Against torch."""

        def run(make):
            torch.manual_seed(0)
            p = nn.Parameter(torch.randn(6, 6, dtype=torch.float64))
            optimizer = make([p])
            for t in range(6):
                if t == 3:
                    p.data = p.data.t()
                p.grad = torch.randn(6, 6, dtype=torch.float64)
                optimizer.step()
            return p.detach()

        mine = run(lambda p: optim.Adam(p, 0.1, backend=backend))
        torch.testing.assert_close(mine, run(lambda p: torch.optim.Adam(p, 0.1)), rtol=1e-12, atol=1e-14)

    @each_backend
    def test_where_a_gradient_is_transposed_in_its_place(self, backend):
        def run(make):
            torch.manual_seed(0)
            p = nn.Parameter(torch.randn(6, 6, dtype=torch.float64))
            optimizer = make([p])
            p.grad = torch.randn(6, 6, dtype=torch.float64)
            for _ in range(4):
                optimizer.step()
                p.grad.t_()
            return p.detach()

        mine = run(lambda p: optim.Adam(p, 0.1, backend=backend))
        torch.testing.assert_close(mine, run(lambda p: torch.optim.Adam(p, 0.1)), rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("alpha", [1.0, 1 - 1e-10, 0.0])
    @each_backend
    def test_where_an_average_never_forgets_or_never_remembers(self, alpha, backend):
        def run(backend):
            p = nn.Parameter(torch.ones(5, dtype=torch.float64))
            optimizer = optim.RMSprop([p], 0.1, alpha=alpha, eps=0.1, backend=backend)
            for t in range(4):
                p.grad = torch.linspace(-1, 1, 5, dtype=torch.float64) + t
                optimizer.step()
            return p.detach()

        torch.testing.assert_close(run(backend), run("reference"), rtol=1e-12, atol=0)

    @pytest.mark.parametrize(
        "kind",
        [
            direction.HeavyBall(0.9, rate="inside"),
            direction.Nesterov(0.9, rate="inside"),
            direction.HeavyBall(0.9, 0.3, seeded=False),
            direction.Nesterov(0.9, 0.3, seeded=False),
            direction.HeavyBall(0.0, 0.3),
            direction.Nesterov(0.0),
            direction.MovingAverage(0.9),
            direction.MovingAverage(0.0),
            direction.NesterovAverage(0.9),
            direction.NesterovAverage(0.0),
            direction.Sign(0.0, 0.0),
        ],
        ids=lambda one: f"{type(one).__name__}{tuple(vars(one).values())[1:]}",
    )
    @pytest.mark.parametrize(
        "sigma", [None, scale.Mean(), scale.Sum(), scale.Average(0.9), scale.Maximum(0.9)], ids=lambda one: type(one).__name__
    )
    @each_backend
    def test_of_directions_that_no_preset_has(self, kind, sigma, backend):
        if isinstance(kind, direction.Sign):
            sigma = None

        def run(backend):
            p = nn.Parameter(torch.ones(5, dtype=torch.float64))
            optimizer = optim.Optimizer([p], 0.1, direction=kind, scale=sigma, backend=backend)
            for t in range(6):
                if t == 4 and "momentum" in optimizer.param_groups[0]:
                    optimizer.param_groups[0]["momentum"] = 0.5
                p.grad = torch.linspace(-1, 1, 5, dtype=torch.float64) + t
                optimizer.step()
            return p.detach()

        torch.testing.assert_close(run(backend), run("reference"), rtol=1e-12, atol=1e-14)

    @each_backend
    @pytest.mark.parametrize("rule", RULES)
    def test_of_what_is_not_finite(self, rule, backend):
        """nan, ±inf, -0 and numbers too small for a float32's full mantissa come out as the specification says."""

        def run(backend):
            p = nn.Parameter(torch.linspace(-1, 1, 20))
            optimizer = RULES[rule]([p], backend=backend)
            p.grad = torch.linspace(-2, 2, 20)
            p.grad[1], p.grad[3], p.grad[5], p.grad[7], p.grad[9] = math.nan, math.inf, -math.inf, -0.0, 1e-41
            optimizer.step()
            return p.detach()

        torch.testing.assert_close(run(backend), run("reference"), rtol=1e-5, atol=1e-6, equal_nan=True)


class TestGradientsAreOnlyRead:
    @each_backend
    @each_dtype
    @pytest.mark.parametrize("rule", RULES)
    def test_their_bits_are_the_same_after_a_step_also_those_of_nan_and_inf(self, rule, dtype, backend):
        p = nn.Parameter(torch.randn(40, dtype=dtype))
        q = nn.Parameter(torch.randn(5, 4, dtype=dtype).t())
        optimizer = RULES[rule]([p, q], backend=backend)
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        for _ in range(2):
            p.grad, q.grad = torch.randn(40, dtype=dtype), torch.randn(4, 5, dtype=dtype)
            p.grad[3], p.grad[5], p.grad[20] = math.nan, math.inf, -math.inf
            before = [(one, one.data_ptr(), one._version, one.view(bits).clone()) for one in (p.grad, q.grad)]
            optimizer.step()
            for one, address, version, kept in before:
                assert one.data_ptr() == address and one._version == version and torch.equal(one.view(bits), kept)
            assert p.grad is before[0][0] and q.grad is before[1][0]

    @each_backend
    def test_also_where_they_are_clipped(self, backend):
        p = nn.Parameter(torch.ones(40))
        for limit in clip.norm(0.1), clip.value(0.1):
            optimizer = optim.AdamW([p], clip=limit, backend=backend)
            p.grad = torch.linspace(-1, 1, 40)
            optimizer.step()
            assert torch.equal(p.grad, torch.linspace(-1, 1, 40))


class Allocations(TorchDispatchMode):
    """Counts what torch is asked to do, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


class TestAStep:
    @pytest.mark.parametrize(
        ("rule", "backend"), [(r, "compiled") for r in RULES] + [(r, "fused") for r in ("AdamW", "Nesterov", "RMS")]
    )
    def test_asks_torch_for_no_memory_once_it_is_under_way(self, rule, backend):
        """Counted at the dispatcher: a compiled step asks torch for nothing, a fused one for its kernel alone."""
        params = [nn.Parameter(torch.randn(n)) for n in (3, 40, 1000)]
        optimizer = RULES[rule](params, backend=backend)
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
        optimizer.step()
        with Allocations() as counted:
            optimizer.step()
        assert len(counted.asked) == (0 if backend == "compiled" else 1)
        assert all("_fused_" in name for name in counted.asked)

    @pytest.mark.parametrize("backend", [*BACKENDS, None])
    def test_gives_the_same_bits_each_time(self, backend):
        def run():
            p = nn.Parameter(torch.linspace(-1, 1, 1000))
            optimizer = optim.NAdam([p], 0.1, backend=backend)
            for t in range(5):
                p.grad = torch.linspace(-1, 2, 1000) * (t + 1)
                optimizer.step()
            return p.detach()

        assert torch.equal(run(), run())


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing is known of what can be had; and afterwards nothing is remembered of what the test made of it."""

    def forget() -> None:
        for one in (*vars(backends).values(), *vars(compiled).values()):
            if hasattr(one, "cache_clear") and one is not compiled._held:
                one.cache_clear()

    forget()
    yield
    forget()


def two_steps(kind: str = "AdamW", dtype: torch.dtype = torch.float32, **kwargs: Any) -> Tensor:
    p = nn.Parameter(torch.linspace(-1, 1, 50).to(dtype))
    optimizer = getattr(optim, kind)([p], lr=0.1, **kwargs)
    for t in range(2):
        p.grad = torch.linspace(-1, 2, 50).to(dtype) * (t + 1)
        optimizer.step()
    return p.detach()


class TestWhatCannotBeHad:
    def test_no_compiler_costs_one_line_and_nothing_else(self, fresh, monkeypatch, caplog):
        def none() -> str:
            raise compiled.CannotCompile("there is no C compiler")

        wanted = two_steps(backend="reference")
        monkeypatch.setattr(compiled, "_compiler", none)
        with caplog.at_level(logging.DEBUG, logger="lrkit"):
            for _ in range(3):
                torch.testing.assert_close(two_steps(), wanted, rtol=1e-6, atol=1e-6)
        assert [record.name for record in caplog.records] == ["lrkit"]
        message = caplog.records[0].getMessage()
        assert "there is no C compiler" in message and "compiled" in message and "\n" not in message

    def test_a_kernel_that_computes_wrongly_is_noticed_and_not_used(self, fresh, monkeypatch, caplog):
        wanted = two_steps(backend="reference")
        honest = compiled.kernel

        def wrong(form, dtype, bound=False, random=False):
            function = honest(form, dtype, bound, random)

            def call(count, sizes, where, numbers, *rest):
                ctypes.cast(numbers, ctypes.POINTER(ctypes.c_double))[6] *= 1.01  # cm
                function(count, sizes, where, numbers, *rest)

            return call

        monkeypatch.setattr(backends, "kernel", wrong)
        with caplog.at_level(logging.DEBUG, logger="lrkit"):
            torch.testing.assert_close(two_steps(), wanted, rtol=1e-6, atol=1e-6)
            two_steps()
        assert len(caplog.records) == 1 and "p is off by" in caplog.text

    @pytest.mark.parametrize("where", ["before", "after"])
    def test_a_kernel_that_writes_beyond_a_tensor_is_noticed_and_not_used(self, fresh, monkeypatch, caplog, where):
        wanted = two_steps(backend="reference")
        honest = compiled.kernel

        def careless(form, dtype, bound=False, random=False):
            function = honest(form, dtype, bound, random)

            def call(count, sizes, places, *rest):
                function(count, sizes, places, *rest)
                size = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_long))[0]
                first = ctypes.cast(places, ctypes.POINTER(ctypes.c_int64))[0]
                ctypes.cast(first, ctypes.POINTER(ctypes.c_float))[-1 if where == "before" else size] = 0.0

            return call

        monkeypatch.setattr(backends, "kernel", careless)
        with caplog.at_level(logging.DEBUG, logger="lrkit"):
            torch.testing.assert_close(two_steps(), wanted, rtol=1e-6, atol=1e-6)
        assert len(caplog.records) == 1 and "it writes beyond a tensor" in caplog.text

    def test_a_fused_kernel_that_leaves_blocks_out_is_noticed_and_not_used(self, fresh, monkeypatch, caplog):
        """As torch 2.13's SGD does in 16 bit: pytorch/pytorch#191763."""
        wanted = two_steps("RMS", backend="reference")
        honest = torch._fused_adam_

        def lazy(params, grads, *rest, **kwargs):
            honest(
                [p[:1] for p in params],
                [g[:1] for g in grads],
                *([one[:1] for one in some] for some in rest[:2]),
                *rest[2:],
                **kwargs,
            )

        monkeypatch.setattr(torch, "_fused_adam_", lazy)
        with caplog.at_level(logging.DEBUG, logger="lrkit"):
            torch.testing.assert_close(two_steps("RMS", backend="fused"), wanted, rtol=1e-6, atol=1e-6)
        assert len(caplog.records) == 1 and "fused kernel" in caplog.text

    def test_torchs_broken_sgd_of_sixteen_bits_is_never_called(self, fresh, monkeypatch):
        def never(*args, **kwargs):
            raise AssertionError("it was called")

        monkeypatch.setattr(torch, "_fused_sgd_", never)
        two_steps("Momentum", torch.bfloat16, backend="fused")

    def test_a_backend_that_there_is_not_is_refused(self):
        with pytest.raises(InputError, match=r"Optimizer\(backend='cuda'\): must be one of compiled, fused, reference, or None"):
            optim.SGD([nn.Parameter(torch.ones(1))], backend="cuda")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.complex64])
    def test_dtypes_that_no_kernel_knows_take_the_same_update(self, dtype):
        mine, wanted = two_steps(dtype=dtype), two_steps(dtype=dtype, backend="reference")
        torch.testing.assert_close(mine, wanted, rtol=2e-3, atol=2e-3)


class TestWhichIsChosen:
    @pytest.mark.parametrize(
        ("rule", "says"),
        [
            *((rule, True) for rule in ("SGD", "Momentum", "Nesterov", "RMS", "Adagrad", "RMSprop", "Adam", "AdamW", "AMSGrad")),
            *((rule, True) for rule in ("NAdam", "RAdam", "Adam like keras", "heavy ball on the mean")),
            *((rule, False) for rule in ("Lion", "AMSGrad like optax", "Adadelta", "AdaBelief", "RMSprop centered")),
        ],
    )
    def test_fused_says_what_torchs_kernels_can(self, rule, says):
        p = nn.Parameter(torch.ones(8))
        p.grad = torch.ones(8)
        optimizer = RULES[rule]([p], backend="fused")
        optimizer.step()
        (bucket, _), *_ = optimizer._ledgers[0]._buckets
        assert fused.says(optimizer.choose(optimizer.param_groups[0]).form, bucket) is says
        assert isinstance(bucket.runner[1], backends.Fused if says else backends.Reference)

    @pytest.mark.parametrize("rule", RULES)
    def test_every_rule_is_compiled_where_there_is_a_compiler(self, rule):
        p = nn.Parameter(torch.ones(8))
        p.grad = torch.ones(8)
        optimizer = RULES[rule]([p])
        optimizer.step()
        (bucket, _), *_ = optimizer._ledgers[0]._buckets
        assert isinstance(bucket.runner[1], backends.Compiled)

    @pytest.mark.parametrize("layout", ["strided", "columns"])
    def test_memory_with_holes_is_walked_by_no_kernel(self, layout):
        (_, p), *_ = parameters(layout, torch.float32, FEW)[1:]
        p.grad = torch.ones_like(p)
        optimizer = optim.Adam([p])
        optimizer.step()
        (bucket, _), *_ = optimizer._ledgers[0]._buckets
        assert isinstance(bucket.runner[1], backends.Reference)
