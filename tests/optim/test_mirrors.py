"""The rules that torch has: on torch's configurations, by torch's checks, held against torch's for-loop, on every backend."""

import copy
import functools
import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer as protocol
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

from lrkit import optim
from lrkit.errors import InputError

NAMES = ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "NAdam", "RAdam")
INFOS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in NAMES}
CONFIGS = [
    pytest.param(name, config.kwargs, id=f"{name}-{config.desc or 'default'}")
    for name, info in INFOS.items()
    for config in info.optim_inputs_func(device="cpu")
]
ERRORS = [
    pytest.param(name, error, id=f"{name}-{error.optimizer_error_input.desc}")
    for name, info in INFOS.items()
    for error in info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
]
FOREACHS_SAKE = ("foreach=True", "both floats or both Tensors")  # in the messages of what only torch has reason to refuse
BACKENDS = [None, "fused", "reference"]
BARS = {torch.float32: 1e-6, torch.float64: 1e-12, torch.complex64: 1e-6, torch.complex128: 1e-12}
UPDATES = 100
SHAPES = [(), (0,), (4, 5), (33,)]

each_config = pytest.mark.parametrize(("name", "kwargs"), CONFIGS)
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=str)
each_name = pytest.mark.parametrize("name", NAMES)


def each_dtype(*quick: torch.dtype, proven: tuple[torch.dtype, ...] = ()) -> Any:
    """The dtypes that a test runs with always, and those of its long form."""
    return pytest.mark.parametrize(
        "dtype",
        [
            *(pytest.param(dtype, id=str(dtype)[6:]) for dtype in quick),
            *(pytest.param(dtype, id=str(dtype)[6:], marks=pytest.mark.prove) for dtype in proven),
        ],
    )


@pytest.fixture(params=[torch.float32, torch.float64], ids=["numbers in float32", "numbers in float64"])
def default_dtype(request) -> Iterator[None]:
    """Torch keeps steps, and NAdam's product of μ, in the default dtype: what it rounds there, we round there."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


def starts(dtype: torch.dtype) -> list[nn.Parameter]:
    """Parameters of awkward shapes, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


@functools.cache
def gradients(dtype: torch.dtype) -> list[list[Tensor]]:
    """For each update one gradient a parameter, its entries of sizes from 1e-3 to 10; one update has nothing but zeros."""
    generator = torch.Generator().manual_seed(1)
    out = []
    for t in range(UPDATES):
        rows = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
        sizes = [10 ** (torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 4 - 3) for shape in SHAPES]
        out.append([row * size.to(row.real.dtype) * (t != 7) for row, size in zip(rows, sizes, strict=True)])
    return out


def torchs(name: str, params: Any, **kwargs: Any) -> torch.optim.Optimizer:
    """Torch's class, in a loop over parameters."""
    return getattr(torch.optim, name)(params, **(kwargs | {"foreach": False}))


def ours(name: str, params: Any, backend: str | None = None, **kwargs: Any) -> optim.Optimizer:
    return getattr(optim, name)(params, backend=backend, **kwargs)


def steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], given: list[list[Tensor]]) -> None:
    for row in given:
        for p, g in zip(params, row, strict=True):
            p.grad = g
        optimizer.step()


def gap(theirs: list[Any], mine: list[Any]) -> float:
    """‖a − b‖/‖a‖ over all parameters."""
    a, b = (torch.cat([one.detach().reshape(-1) for one in some]) for some in (theirs, mine))
    assert a.dtype == b.dtype and a.isfinite().all() and b.isfinite().all()
    return float((a - b).norm() / a.norm())


class TestEqualsTorch:
    @each_config
    @each_dtype(torch.float32, proven=(torch.float64, torch.complex64, torch.complex128))
    def test_over_a_hundred_updates_on_each_of_torchs_configurations(self, name, kwargs, dtype):
        self.compare(name, kwargs, dtype, UPDATES, BACKENDS[: 2 if dtype is torch.float32 else 3])

    @each_config
    @each_dtype(torch.float64, proven=(torch.float32,))
    def test_over_thirty_updates_on_every_backend(self, name, kwargs, dtype):
        self.compare(name, kwargs, dtype, 30 if dtype is torch.float64 else UPDATES, BACKENDS)

    def compare(self, name, kwargs, dtype, updates, backends):
        """After every tenth update."""
        theirs, given = starts(dtype), gradients(dtype)
        one = torchs(name, theirs, **kwargs)
        mine = {backend: starts(dtype) for backend in backends}
        others = {backend: ours(name, mine[backend], backend, **kwargs) for backend in backends}
        for t in range(0, updates, 10):
            steps(one, theirs, given[t : t + 10])
            for backend, other in others.items():
                steps(other, mine[backend], given[t : t + 10])
                assert gap(theirs, mine[backend]) <= BARS[dtype], (backend, t)

    @each_config
    @each_dtype(torch.complex64, torch.complex128)
    def test_over_ten_updates_of_complex_numbers(self, name, kwargs, dtype):
        theirs, mine = starts(dtype), starts(dtype)
        steps(torchs(name, theirs, **kwargs), theirs, gradients(dtype)[:10])
        steps(ours(name, mine, **kwargs), mine, gradients(dtype)[:10])
        assert gap(theirs, mine) <= BARS[dtype]

    @each_config
    @each_dtype(torch.float64, proven=(torch.float32, torch.complex64, torch.complex128))
    def test_through_state_dicts_that_go_both_ways_in_the_middle(self, name, kwargs, dtype):
        """Torch for 10, ours for 20 from its state, torch for 10 from ours; and the other way round."""
        self.exchange(name, kwargs, dtype, (0, 10, 30, 40))

    @pytest.mark.prove
    @each_config
    @each_dtype(torch.float32, torch.float64, torch.complex64, torch.complex128)
    @pytest.mark.parametrize("cuts", [(0, 1, 2, 100), (0, 30, 60, 100), (0, 99, 100, 100)])
    def test_through_state_dicts_wherever_the_run_is_cut(self, name, kwargs, dtype, cuts, default_dtype):
        self.exchange(name, kwargs, dtype, cuts)

    def exchange(self, name, kwargs, dtype, cuts):
        pure, given = starts(dtype), gradients(dtype)
        steps(torchs(name, pure, **kwargs), pure, given[: cuts[-1]])
        for order in itertools.islice(itertools.cycle((torchs, ours)), 3), itertools.islice(itertools.cycle((ours, torchs)), 3):
            mixed, state = starts(dtype), None
            for make, (start, stop) in zip(order, itertools.pairwise(cuts), strict=True):
                optimizer = make(name, mixed, **kwargs)
                if state is not None:
                    optimizer.load_state_dict(copy.deepcopy(state))
                steps(optimizer, mixed, given[start:stop])
                state = optimizer.state_dict()
            rounds = name == "NAdam" and torch.get_default_dtype() == torch.float32  # torch's reload makes its product float64
            assert gap(pure, mixed) <= (max(BARS[dtype], 1e-7) if rounds else BARS[dtype])

    @each_config
    def test_has_the_state_that_torch_has_in_its_order_dtype_and_shape(self, name, kwargs, default_dtype):
        theirs, mine = starts(torch.float64), starts(torch.float64)
        one, other = torchs(name, theirs, **kwargs), ours(name, mine, **kwargs)
        steps(one, theirs, gradients(torch.float64)[:5])
        steps(other, mine, gradients(torch.float64)[:5])
        a, b = one.state_dict()["state"], other.state_dict()["state"]
        assert list(a) == list(b)
        for i in a:
            there = {key: value for key, value in a[i].items() if value is not None}  # of an SGD without momentum
            assert list(there) == list(b[i])
            for key, value in there.items():
                assert (value.dtype, value.shape) == (b[i][key].dtype, b[i][key].shape)
                torch.testing.assert_close(value, b[i][key], rtol=1e-11, atol=1e-14)

    @each_name
    def test_group_by_group_each_with_its_own_numbers(self, name):
        """As torch's param_groups_lr and _weight_decay; and a group that is added late."""

        def run(make):
            params = starts(torch.float64)
            groups = [{"params": params[:2], "lr": 0.05}, {"params": params[2:4], "weight_decay": 0.3}]
            optimizer = make(name, groups, lr=0.01, weight_decay=0.1)
            steps(optimizer, params[:4], [row[:4] for row in gradients(torch.float64)[:20]])
            optimizer.add_param_group({"params": params[4:], "lr": 0.1, "maximize": True})
            steps(optimizer, params, gradients(torch.float64)[:20])
            return params

        assert gap(run(torchs), run(ours)) <= 1e-12

    @each_name
    @each_backend
    def test_where_gradients_come_late_or_now_and_then(self, name, backend):
        """Gradual unfreezing: parameter i has its first gradient at update 3·i, and none in every fifth update."""

        def run(optimizer, params):
            for t, row in enumerate(gradients(torch.float64)[:40]):
                for i, (p, g) in enumerate(zip(params, row, strict=True)):
                    p.grad = g.clone() if t >= 3 * i and (t + i) % 5 else None
                optimizer.step()
            return params

        kwargs = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
        theirs, mine = starts(torch.float64), starts(torch.float64)
        gap_ = gap(run(torchs(name, theirs, lr=0.02, **kwargs), theirs), run(ours(name, mine, backend, lr=0.02, **kwargs), mine))
        assert gap_ <= 1e-12

    @each_name
    @each_backend
    def test_with_numbers_that_change_between_updates(self, name, backend):
        def run(optimizer, params):
            group = optimizer.param_groups[0]
            for t, row in enumerate(gradients(torch.float64)[:60]):
                group["lr"] = 0.02 / (1 + t)
                group["weight_decay"] = 0.01 * t
                for key, value in {"momentum": 0.5 + 0.005 * t, "alpha": 0.9 + 0.001 * t, "rho": 0.8 + 0.003 * t}.items():
                    if key in group:
                        group[key] = value
                if "betas" in group:
                    group["betas"] = (0.8 + 0.002 * t, 0.99 + 0.0001 * t)
                if "eps" in group:
                    group["eps"] = 1e-6 * (1 + t)
                steps(optimizer, params, [row])
            return params

        theirs, mine = starts(torch.float64), starts(torch.float64)
        assert gap(run(torchs(name, theirs), theirs), run(ours(name, mine, backend), mine)) <= 1e-12

    @each_name
    def test_of_parameters_of_several_dtypes_in_one_group(self, name):
        def run(make):
            params = [*starts(torch.float64), *starts(torch.complex128), *starts(torch.float32)]
            given = zip(*(gradients(dtype)[:30] for dtype in (torch.float64, torch.complex128, torch.float32)), strict=True)
            steps(make(name, params, lr=0.01), params, [list(itertools.chain(*rows)) for rows in given])
            return params

        theirs, mine = run(torchs), run(ours)
        for start, bar in (0, 1e-12), (4, 1e-12), (8, 1e-6):
            assert gap(theirs[start : start + 4], mine[start : start + 4]) <= bar

    @each_name
    def test_with_rates_and_betas_that_are_tensors(self, name):
        def run(make, wrap):
            params = starts(torch.float64)
            betas = {"betas": (wrap(0.8), wrap(0.9))} if name in ("Adam", "AdamW") else {}
            steps(make(name, params, lr=wrap(0.01), **betas), params, gradients(torch.float64)[:30])
            return params

        def as_tensor(x):
            return torch.tensor(x, dtype=torch.float64)

        assert gap(run(torchs, float), run(ours, as_tensor)) <= 1e-12

    @each_name
    def test_down_a_model_with_real_gradients(self, name):
        """A small net whose gradients follow from where it stands: 50 updates, float64."""

        def run(make):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
            x, y = torch.randn(16, 6, dtype=torch.float64), torch.randn(16, 3, dtype=torch.float64)
            optimizer = make(name, model.parameters(), lr=0.01)
            for _ in range(50):
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
            return list(model.parameters())

        assert gap(run(torchs), run(ours)) <= 1e-12


class TestAsTorchTestsItself:
    @each_config
    def test_a_step_without_gradients_does_nothing(self, name, kwargs):
        params = starts(torch.float32)
        optimizer = ours(name, params, **kwargs)
        before = copy.deepcopy(params)
        optimizer.step()
        for p in params:
            p.grad = None
        optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
        assert not optimizer.state_dict()["state"]

    @each_config
    def test_a_step_with_zero_gradients_only_decays(self, name, kwargs):
        theirs, mine = starts(torch.float64), starts(torch.float64)
        zeros = [[torch.zeros_like(p) for p in mine]] * 5
        steps(torchs(name, theirs, **kwargs), theirs, zeros)
        steps(ours(name, mine, **kwargs), mine, zeros)
        assert gap(theirs, mine) <= 1e-12
        if not kwargs.get("weight_decay") and name != "AdamW":
            assert all(torch.equal(p, q) for p, q in zip(mine, starts(torch.float64), strict=True))

    @pytest.mark.parametrize(
        ("name", "schedulers"),
        [
            pytest.param(name, each, id=f"{name}-{i}")
            for name in NAMES
            for i, each in enumerate([[], *INFOS[name].scheduler_inputs])
        ],
    )
    def test_it_goes_in_the_right_direction_with_torchs_schedulers(self, name, schedulers):
        for config, contiguous in zip(INFOS[name].optim_inputs_func(device="cpu"), itertools.cycle((True, False)), strict=False):
            kwargs = dict(config.kwargs)
            schedules = [] if isinstance(kwargs.get("lr"), Tensor) and schedulers else schedulers
            if schedules and "lr" not in kwargs:
                kwargs["lr"] = 0.01
            torch.manual_seed(0)
            weight = torch.randn(10, 5) if contiguous else torch.randn(10, 5, 2)[..., 0]
            bias = torch.randn(10) if contiguous else torch.randn(10, 2)[..., 0]
            weight, bias, x = nn.Parameter(weight), nn.Parameter(bias), torch.randn(5)
            optimizer = ours(name, [weight, bias], **kwargs)
            made = [make(optimizer) for make in schedules]

            def closure(optimizer=optimizer, weight=weight, bias=bias, x=x):
                optimizer.zero_grad()
                loss = (weight.mv(x) + bias).pow(2).sum()
                loss.backward()
                return loss

            first = closure().item()
            for _ in range(20):
                loss = optimizer.step(closure)
                for scheduler in made:
                    scheduler.step(*([loss.item()] if isinstance(scheduler, ReduceLROnPlateau) else []))
            last = closure().item()
            assert last > first if kwargs.get("maximize") else last < first

    @each_config
    def test_an_old_state_dict_loads(self, name, kwargs):
        """Steps that are plain numbers, and groups that lack the keys which torch added later."""
        theirs, given = starts(torch.float64), gradients(torch.float64)[:20]
        one = torchs(name, theirs, **kwargs)
        steps(one, theirs, given[:10])
        old = copy.deepcopy(one.state_dict())
        for entry in old["state"].values():
            for key in ("step", "mu_product"):
                if key in entry:
                    entry[key] = float(entry[key]) if key == "mu_product" else int(entry[key])
        for group in old["param_groups"]:
            for flag in INFOS[name].not_og_supported_flags:
                if flag != "maximize" or not group[flag]:
                    group.pop(flag, None)
        mine = copy.deepcopy(theirs)
        other = ours(name, mine, **kwargs)
        other.load_state_dict(old)
        steps(one, theirs, given[10:])
        steps(other, mine, given[10:])
        assert gap(theirs, mine) <= 1e-12

    @each_config
    @each_dtype(torch.float64, proven=(torch.float32, torch.bfloat16, torch.complex64))
    def test_a_run_resumed_from_a_file_that_is_loaded_with_care_goes_on_to_the_bit(self, name, kwargs, dtype, tmp_path):
        """Cut at update 3, where NAdam's product of μ still weighs something."""
        mine, given = starts(dtype), gradients(dtype)[:10]
        optimizer = ours(name, mine, **kwargs)
        steps(optimizer, mine, given[:3])
        torch.save(optimizer.state_dict(), tmp_path / "state.pt")
        again = copy.deepcopy(mine)
        other = ours(name, again, **kwargs)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        steps(optimizer, mine, given[3:])
        steps(other, again, given[3:])
        assert all(torch.equal(p, q) for p, q in zip(mine, again, strict=True))

    @each_name
    def test_a_state_dict_is_the_same_at_each_call(self, name):
        mine = starts(torch.float64)
        optimizer = ours(name, mine)
        steps(optimizer, mine, gradients(torch.float64)[:3])
        assert str(optimizer.state_dict()) == str(optimizer.state_dict())

    @each_config
    def test_a_deep_copy_goes_on_alone(self, name, kwargs):
        mine, given = starts(torch.float64), gradients(torch.float64)[:20]
        optimizer = ours(name, mine, **kwargs)
        steps(optimizer, mine, given[:10])
        pair = copy.deepcopy({"params": mine, "optimizer": optimizer})
        steps(optimizer, mine, given[10:])
        before = copy.deepcopy(mine)
        steps(pair["optimizer"], pair["params"], given[10:])
        assert all(torch.equal(p, q) for p, q in zip(mine, pair["params"], strict=True))
        assert all(torch.equal(p, q) for p, q in zip(mine, before, strict=True))

    @each_name
    @pytest.mark.parametrize("named", [True, False])
    def test_names_of_parameters_go_where_torchs_go(self, name, named):
        model = nn.Linear(3, 2)
        params = model.named_parameters() if named else model.parameters()
        group = ours(name, params).state_dict()["param_groups"][0]
        assert group.get("param_names") == (["weight", "bias"] if named else None)

    @each_name
    def test_hooks_are_called_in_torchs_order(self, name):
        said = []
        weight = nn.Parameter(torch.ones(2))
        optimizer = ours(name, [weight], lr=0.1)
        handles = [
            optimizer.register_step_pre_hook(lambda *_: said.append("own pre")),
            optimizer.register_step_post_hook(lambda *_: said.append("own post")),
            protocol.register_optimizer_step_pre_hook(lambda *_: said.append("global pre")),
            protocol.register_optimizer_step_post_hook(lambda *_: said.append("global post")),
        ]
        optimizer.step(lambda: said.append("loss"))
        for handle in handles:
            handle.remove()
        assert said == ["global pre", "own pre", "loss", "own post", "global post"]

    @each_name
    def test_arguments_have_torchs_names_order_and_kinds(self, name):
        theirs = inspect.signature(getattr(torch.optim, name)).parameters
        mine = inspect.signature(getattr(optim, name)).parameters
        positional = [key for key, one in theirs.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
        assert list(mine)[: len(positional)] == positional and set(theirs) <= set(mine)
        for key, one in theirs.items():
            assert mine[key].kind == one.kind
            if mine[key].default is not None:
                assert mine[key].default == one.default

    @each_name
    def test_groups_have_torchs_keys_and_values(self, name):
        one, other = torchs(name, starts(torch.float32)), ours(name, starts(torch.float32))
        for key, value in one.param_groups[0].items():
            if key not in ("params", "foreach"):
                assert other.param_groups[0][key] == value


class TestRefusals:
    @pytest.mark.parametrize(("name", "error"), ERRORS)
    def test_what_torch_refuses_is_refused_in_its_words_unless_it_is_for_foreachs_sake(self, name, error):
        given = error.optimizer_error_input
        assert error.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
        params = starts(torch.float32) if given.params is None else given.params
        make = getattr(optim, name)
        if any(words in error.error_regex.replace("\\", "") for words in FOREACHS_SAKE):
            steps(make(params, **given.kwargs), params, gradients(torch.float32)[:2])
        elif error.error_type is UserWarning:
            with pytest.warns(UserWarning, match=error.error_regex):
                make(params, **given.kwargs)
        else:
            with pytest.raises(error.error_type, match=error.error_regex) as caught:
                make(params, **given.kwargs)
            assert given.params is not None or isinstance(caught.value, InputError)

    @pytest.mark.parametrize(
        ("name", "key", "value"),
        [
            *((name, "lr", value) for name in NAMES for value in (-0.1, float("nan"), True, None)),
            *((name, "eps", -1e-8) for name in NAMES if name != "SGD"),
            *((name, "weight_decay", -0.1) for name in NAMES),
            *((name, "betas", (0.9, 1.0)) for name in ("Adam", "AdamW", "NAdam", "RAdam")),
            *(("Adam", "betas", value) for value in ((-0.1, 0.9), (0.9, 2.0), (0.9, float("nan")))),
            *(("RMSprop", key, -0.5) for key in ("alpha", "momentum")),
            ("Adagrad", "initial_accumulator_value", -1.0),
            ("SGD", "momentum", float("nan")),
        ],
    )  # fmt: skip
    def test_a_number_out_of_range_is_refused_by_its_name_also_in_a_group(self, name, key, value):
        params = starts(torch.float32)
        word = "learning rate" if key == "lr" else "beta parameter at index" if key == "betas" else key
        refused = pytest.raises(InputError, match=re.compile(rf"^{name}\({key}=.*Invalid {word}", re.DOTALL))
        with refused:
            getattr(optim, name)(params, **{key: value})
        optimizer = getattr(optim, name)(params[:1])
        with refused:
            optimizer.add_param_group({"params": params[1:], key: value})
        assert len(optimizer.param_groups) == 1, "what was refused is not kept"

    @each_name
    def test_an_update_that_gradients_flow_through_is_refused(self, name):
        with pytest.raises(InputError, match=rf"{name}\(differentiable=True\).*Use torch.optim.{name}"):
            getattr(optim, name)(starts(torch.float32), differentiable=True)

    @pytest.mark.parametrize("kwargs", [{"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}])
    def test_nesterov_needs_momentum_and_no_dampening(self, kwargs):
        with pytest.raises(InputError, match="Nesterov momentum requires a momentum and zero dampening"):
            optim.SGD(starts(torch.float32), **kwargs)
