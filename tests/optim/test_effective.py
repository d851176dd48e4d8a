"""`effective_lr`: η/σ is what a step divided by its direction is, for ours and for torch's."""

import copy
import math

import pytest
import torch
from torch import nn

import lrkit
from lrkit import attach, effective_lr, optim
from lrkit.errors import InputError

SHAPES = [(4, 3), (5,), ()]
BETAS = (0.9, 0.99)
# name ↦ (class, options): of ours and torch's alike.
MIRRORED = {
    "sgd": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop_centered": ("RMSprop", {"lr": 0.01, "centered": True, "eps": 0.1}),
    "rmsprop_momentum": ("RMSprop", {"lr": 0.01, "momentum": 0.9}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    "adam": ("Adam", {"lr": 0.01, "betas": BETAS, "eps": 0.1}),
    "amsgrad": ("Adam", {"lr": 0.01, "betas": BETAS, "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.01, "betas": BETAS, "weight_decay": 0.0}),
    "nadam": ("NAdam", {"lr": 0.01, "betas": BETAS}),
    "radam": ("RAdam", {"lr": 0.01, "betas": (0.9, 0.9)}),
}
OURS = {
    "rms": ("RMS", {"lr": 0.1}),
    "keras": ("Adam", {"lr": 0.01, "betas": BETAS, "eps": 0.1, "like": "keras"}),
    "tutorial": ("Adam", {"lr": 0.01, "betas": BETAS, "eps": 0.1, "like": "tutorial"}),
    "optax": ("AMSGrad", {"lr": 0.01, "betas": BETAS, "like": "optax"}),
    "adabelief": ("AdaBelief", {"lr": 0.01, "betas": BETAS}),
    "rmsprop_tutorial": ("RMSprop", {"lr": 0.01, "like": "tutorial"}),
    "adagrad_keras": ("Adagrad", {"lr": 0.1, "like": "keras"}),
    "lion": ("Lion", {"lr": 0.01}),
}
FUSED = ("sgd", "momentum", "adam", "adamw", "amsgrad", "adagrad")
CASES = [
    *(("lrkit", name, None) for name in (*MIRRORED, *OURS)),
    *(("torch", name, form) for name in MIRRORED for form in ("loop", "foreach", *(["fused"] if name in FUSED else []))),
]


def parameters(dtype=torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def one_step(optimizer, params, t: int) -> list[torch.Tensor]:
    """What was taken off each parameter."""
    generator = torch.Generator().manual_seed(100 + t)
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
    given = [p.grad for p in params]
    for p, g in zip(params, given, strict=True):
        p.grad = g.clone()
    optimizer.step()
    for p, g in zip(params, given, strict=True):
        p.grad = g  # torch's foreach form of Nesterov writes to gradients
    return [a - b.detach() for a, b in zip(before, params, strict=True)]


def make(home: str, name: str, form=None):
    kind, options = (MIRRORED | OURS)[name]
    params = parameters()
    if home == "lrkit":
        return getattr(optim, kind)(params, **options), params
    said = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}[form]
    return getattr(torch.optim, kind)(params, **options, **said), params


def direction(name: str, optimizer, p, t: int, earlier: dict) -> torch.Tensor:
    """m̂, from the state and the gradient, in the words of the papers; `earlier` is the state before update t."""
    state, group, g = optimizer.state[p], optimizer.param_groups[0], p.grad
    if name in ("sgd", "rmsprop", "rmsprop_centered", "rmsprop_tutorial", "adagrad", "adagrad_keras", "rms"):
        return g
    if name == "momentum":
        return state["momentum_buffer"]
    if name == "nesterov":
        return g + group["momentum"] * state["momentum_buffer"]
    b1 = group["betas"][0]
    if name == "lion":
        return torch.sign(b1 * earlier.get("exp_avg", 0.0) + (1 - b1) * g)
    m = state["exp_avg"]
    if name != "nadam":
        return m / (1 - b1**t)

    def mu(t):
        return b1 * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"]))

    product = math.prod(mu(i) for i in range(1, t + 1))
    return mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)


class TestRates:
    @pytest.mark.parametrize(("home", "name", "form"), CASES)
    def test_equal_what_a_step_moved_over_its_direction(self, home, name, form):
        optimizer, params = make(home, name, form)
        for t in range(1, 9):
            earlier = copy.deepcopy([optimizer.state.get(p, {}) for p in params])
            for p, moved, before in zip(params, one_step(optimizer, params, t), earlier, strict=True):
                rate = effective_lr(optimizer)[p]
                assert rate.shape == p.shape and rate.dtype == torch.float64
                if name == "rmsprop_momentum":  # m is of g/σ: m − μ·m₋ is g/σ
                    new = optimizer.state[p]["momentum_buffer"]
                    scaled = new - 0.9 * before["momentum_buffer"] if t > 1 else new
                    expected = 0.01 * scaled / p.grad
                else:
                    m = direction(name, optimizer, p, t, before)
                    expected = moved / torch.where(m == 0, 1.0, m)
                torch.testing.assert_close(rate, expected, rtol=1e-6, atol=1e-12)

    @pytest.mark.parametrize("home", [optim, torch.optim])
    def test_of_adadelta_equal_what_a_step_moved_over_its_gradient(self, home):
        """The numerator is the mean of the squared steps before that step."""
        params = parameters()
        optimizer = home.Adadelta(params, lr=1.0, eps=1e-2)
        for t in range(1, 9):
            for p, moved in zip(params, one_step(optimizer, params, t), strict=True):
                torch.testing.assert_close(effective_lr(optimizer)[p], moved / p.grad, rtol=1e-6, atol=1e-12)

    def test_hold_the_rate_at_hand_and_the_last_updates_scale(self):
        optimizer, params = make("lrkit", "adam")
        attachment = attach(optimizer, lr="linear 10")
        one_step(optimizer, params, 1)
        first = effective_lr(optimizer)[params[0]].clone()
        attachment.rebase(lr=0.05)
        torch.testing.assert_close(effective_lr(optimizer)[params[0]], first * 5.0)

    def test_are_nan_before_the_first_update_where_there_is_a_scale(self):
        for home, name, form in CASES:
            optimizer, params = make(home, name, form)
            rates = effective_lr(optimizer)
            scaled = (MIRRORED | OURS)[name][0] not in ("SGD", "Lion")
            for p in params:
                assert rates[p].shape == p.shape
                assert bool(rates[p].isnan().all()) is scaled or (not scaled and bool((rates[p] > 0).all()))
            assert all(math.isnan(one) is scaled for row in rates.quantiles().values() for one in row)
            assert rates.unmoved() == {}

    def test_of_a_parameter_that_has_had_no_update_yet_are_nan_and_others_are_not(self):
        params = parameters()
        optimizer = optim.Adam(params)
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
        rates = effective_lr(optimizer)
        assert not bool(rates[params[0]].isnan().any()) and bool(rates[params[1]].isnan().all())

    def test_are_read_when_they_are_asked_for_and_change_nothing(self):
        optimizer, params = make("lrkit", "adam")
        rates = effective_lr(optimizer)
        before, state = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict())
        assert bool(rates[params[0]].isnan().all()) and optimizer.state_dict() == state
        one_step(optimizer, params, 1)
        kept, state = rates[params[0]].clone(), copy.deepcopy(optimizer.state_dict())
        rates[params[0]].mul_(7.0) if rates[params[0]].is_contiguous() else None
        rates.quantiles(), rates.unmoved(), repr(rates)
        assert torch.equal(rates[params[0]], kept)
        assert all(torch.equal(state["state"][i][k], v) for i, e in optimizer.state_dict()["state"].items() for k, v in e.items())
        assert not any(torch.equal(a, b) for a, b in zip(before, params, strict=True))

    @pytest.mark.parametrize("name", ["sgd", "adam"])
    def test_are_of_the_parameters_shape_also_where_it_is_complex_or_16_bits(self, name):
        for dtype in (torch.complex64, torch.bfloat16, torch.float16):
            weight = nn.Parameter(torch.ones(3, 2, dtype=dtype))
            for home in (optim, torch.optim):
                kind, options = MIRRORED[name]
                optimizer = getattr(home, kind)([weight], **options)
                weight.grad = torch.full((3, 2), 2.0, dtype=dtype)
                optimizer.step()
                assert effective_lr(optimizer)[weight].shape == weight.shape

    def test_are_a_mapping_in_the_optimizers_order(self):
        params = parameters()
        optimizer = optim.Adam([{"params": params[2:]}, {"params": params[:2]}])
        rates = effective_lr(optimizer)
        assert [id(p) for p in rates] == [id(p) for p in (params[2], params[0], params[1])] and len(rates) == 3
        assert params[0] in rates and nn.Parameter(torch.ones(2)) not in rates and 3 not in rates
        with pytest.raises(KeyError, match="does not have this parameter"):
            rates[nn.Parameter(torch.ones(2))]
        assert all(rate.shape == p.shape for p, rate in rates.items())

    def test_take_each_groups_rate(self):
        params = parameters()
        optimizer = optim.SGD([{"params": params[:1]}, {"params": params[1:], "lr": torch.tensor(0.25)}], lr=0.5)
        assert effective_lr(optimizer)[params[0]].unique().tolist() == [0.5]
        assert effective_lr(optimizer)[params[1]].unique().tolist() == [0.25]

    def test_are_found_under_the_public_name(self):
        assert lrkit.effective_lr is effective_lr

    def test_of_a_step_that_can_be_captured_are_the_same(self):
        results = []
        for capturable in (False, True):
            params = parameters()
            optimizer = optim.RAdam(params, lr=torch.tensor(0.01), betas=(0.9, 0.9), capturable=capturable)
            for t in range(8):
                one_step(optimizer, params, t)
            results.append(effective_lr(optimizer)[params[0]])
        torch.testing.assert_close(*results, rtol=1e-4, atol=0.0)

    def test_of_a_subclass_of_torchs_are_known(self):
        class Mine(torch.optim.AdamW):
            pass

        params = parameters()
        optimizer = Mine(params)
        one_step(optimizer, params, 1)
        assert not bool(effective_lr(optimizer)[params[0]].isnan().any())


class TestQuantiles:
    @pytest.mark.parametrize("home", ["lrkit", "torch"])
    def test_equal_torchs(self, home):
        optimizer, params = make(home, "adam", "loop")
        for t in range(3):
            one_step(optimizer, params, t)
        q = (0.0, 0.1, 0.5, 1.0)
        rows = effective_lr(optimizer).quantiles(q)
        assert list(rows) == ["0.0", "0.1", "0.2"]
        for row, p in zip(rows.values(), params, strict=True):
            expected = torch.quantile(effective_lr(optimizer)[p].float().flatten(), torch.tensor(q)).tolist()
            assert row == pytest.approx(expected, rel=1e-6)
        assert len(effective_lr(optimizer).quantiles()["0.0"]) == 5

    def test_of_very_many_entries_are_near_to_all(self):
        weight = nn.Parameter(torch.zeros(3_000_001))
        optimizer = optim.RMS([weight], lr=1.0)
        weight.grad = torch.linspace(1.0, 2.0, 3_000_001)
        optimizer.step()
        row = effective_lr(optimizer).quantiles((0.25, 0.5, 0.75))["0.0"]
        assert row == pytest.approx([1 / 1.75, 1 / 1.5, 1 / 1.25], rel=1e-4)

    def test_have_the_names_of_named_parameters_or_of_groups(self):
        model = nn.Linear(3, 2)
        assert list(effective_lr(optim.Adam(model.named_parameters())).quantiles()) == ["weight", "bias"]
        groups = [{"params": [model.weight], "name": "body"}, {"params": [model.bias]}]
        assert list(effective_lr(torch.optim.Adam(groups)).quantiles()) == ["body.0", "1.0"]

    def test_of_an_empty_parameter_are_nan(self):
        weight = nn.Parameter(torch.zeros(0, 3))
        optimizer = optim.Adam([weight])
        weight.grad = torch.zeros(0, 3)
        optimizer.step()
        assert all(math.isnan(one) for one in effective_lr(optimizer).quantiles()["0.0"])

    @pytest.mark.parametrize("q", [(-0.1,), (1.5,), (math.nan,), ("a",)])
    def test_of_what_is_no_share_are_refused(self, q):
        with pytest.raises(InputError, match="quantiles"):
            effective_lr(make("lrkit", "adam")[0]).quantiles(q)


def at_one(dtype, kind, **options):
    """A weight of ones under a gradient of ones."""
    weight = nn.Parameter(torch.ones(64, dtype=dtype))
    return weight, kind([("weight", weight)], **options)


def go(weight, optimizer, steps: int) -> None:
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()


class TestUnmoved:
    @pytest.mark.parametrize("kind", [optim.AdamW, torch.optim.AdamW])
    def test_names_the_bfloat16_weight_that_stands_still(self, kind):
        """p = 1, a rate of 1e-3: each step is below a 512th of the weight, decay and all."""
        weight, optimizer = at_one(torch.bfloat16, kind, lr=1e-3)
        go(weight, optimizer, 50)
        assert bool((weight == 1).all()), "it has moved 0"
        assert effective_lr(optimizer).unmoved() == {"weight": 1.0}
        assert "100% of its entries do not move" in repr(effective_lr(optimizer))

    @pytest.mark.parametrize("kind", [optim.AdamW, torch.optim.AdamW])
    def test_names_no_weight_that_moves(self, kind):
        for dtype, rate in ((torch.float32, 1e-3), (torch.bfloat16, 0.1), (torch.float64, 1e-6)):
            weight, optimizer = at_one(dtype, kind, lr=rate)
            go(weight, optimizer, 5)
            assert not bool((weight == 1).any())
            assert effective_lr(optimizer).unmoved() == {}

    def test_gives_the_share_of_entries(self):
        weight, optimizer = at_one(torch.bfloat16, optim.AdamW, lr=1e-3, weight_decay=0.0)
        with torch.no_grad():
            weight[:16] = 0.01
        go(weight, optimizer, 3)
        assert effective_lr(optimizer).unmoved() == {"weight": 0.75}

    def test_does_not_count_entries_without_an_update(self):
        weight, optimizer = at_one(torch.bfloat16, optim.Adam, lr=1e-3)
        weight.grad = torch.ones_like(weight)
        weight.grad[:48] = 0.0
        optimizer.step()
        assert effective_lr(optimizer).unmoved() == {"weight": 1.0}
        still, other = at_one(torch.bfloat16, optim.Adam, lr=1e-3)
        still.grad = torch.zeros_like(still)
        other.step()
        assert effective_lr(other).unmoved() == {}

    @pytest.mark.parametrize("kind", [optim.SGD, torch.optim.SGD, optim.RMS, torch.optim.RMSprop])
    def test_reads_the_gradient_where_there_is_no_memory(self, kind):
        weight, optimizer = at_one(torch.bfloat16, kind, lr=1e-4)
        go(weight, optimizer, 4)
        if kind is torch.optim.RMSprop:  # its first steps are ten times as long
            go(weight, optimizer, 40)
        assert effective_lr(optimizer).unmoved() == {"weight": 1.0}
        optimizer.zero_grad()
        assert effective_lr(optimizer).unmoved() == {}

    def test_agrees_with_what_the_next_step_does(self):
        """For every rule of ours, where the next gradient is the last one again."""
        for name in (*MIRRORED, *OURS):
            if name in ("rmsprop_momentum",):
                continue
            kind, options = (MIRRORED | OURS)[name]
            generator = torch.Generator().manual_seed(0)
            weight = nn.Parameter(torch.randn(4096, generator=generator).to(torch.bfloat16))
            optimizer = getattr(optim, kind)([weight], **(options | {"lr": 2e-3, "maximize": False}))
            for _ in range(20):
                weight.grad = torch.full((4096,), 0.5, dtype=torch.bfloat16)
                optimizer.step()
            share = effective_lr(optimizer).unmoved().get("0.0", 0.0)
            before = weight.detach().clone()
            optimizer.step()
            assert share == pytest.approx(float((weight == before).float().mean()), abs=0.03), name

    def test_knows_the_direction_of_maximize(self):
        """Up from 1 a step must be twice as long as down from 1."""
        for maximize, stands in ((False, False), (True, True)):
            weight, optimizer = at_one(torch.bfloat16, optim.SGD, lr=3e-3, maximize=maximize)
            weight.grad = torch.ones_like(weight)
            optimizer.step()
            assert bool((weight == 1).all()) is stands
            with torch.no_grad():
                weight.fill_(1.0)
            assert (effective_lr(optimizer).unmoved() == {"weight": 1.0}) is stands

    def test_reports_nothing_where_values_are_rounded_at_random(self):
        weight, optimizer = at_one(torch.bfloat16, optim.AdamW, lr=1e-3, stochastic_rounding=True)
        go(weight, optimizer, 1)
        assert effective_lr(optimizer).unmoved() == {}

    def test_reports_nothing_of_a_frozen_group(self):
        weight, optimizer = at_one(torch.bfloat16, optim.AdamW, lr=0.0)
        go(weight, optimizer, 3)
        assert effective_lr(optimizer).unmoved() == {}


class TestRepr:
    def test_is_a_table_with_a_row_a_parameter(self):
        model = nn.Linear(3, 2)
        optimizer = optim.Adam(model.named_parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        lines = repr(effective_lr(optimizer)).splitlines()
        assert [line.split()[0] for line in lines] == ["η/σ", "weight", "bias"] and "median" in lines[0]
        assert len(lines[1].split()) == 4

    def test_can_be_had_before_the_first_update(self):
        assert "nan" in repr(effective_lr(make("lrkit", "adam")[0]))


class Wrapper:
    """As accelerate's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


class TestRefusals:
    @pytest.mark.parametrize(
        "kind", [torch.optim.LBFGS, torch.optim.ASGD, torch.optim.Rprop, torch.optim.Adamax, torch.optim.Adafactor]
    )
    def test_an_optimizer_without_such_a_form_is_refused_and_those_with_one_named(self, kind):
        with pytest.raises(InputError, match=rf"effective_lr\({kind.__name__}\): .* known are SGD, RMSprop"):
            effective_lr(kind(parameters()))

    def test_a_wrapper_is_refused_and_its_optimizer_named(self):
        with pytest.raises(InputError, match=r"effective_lr\(Wrapper\).*Pass its \.optimizer\."):
            effective_lr(Wrapper(torch.optim.Adam(parameters())))

    def test_what_is_no_optimizer_is_refused(self):
        with pytest.raises(InputError, match=r"effective_lr\(int\)"):
            effective_lr(3)
