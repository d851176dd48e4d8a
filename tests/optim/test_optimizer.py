"""Our optimizers are torch.optim.Optimizers: whatever people do to one of torch's, ours do the same, and to the same numbers.

The twin is always torch's for-loop (``foreach=False``), in float64, doing the same.
"""

import copy
import io
import math
import pickle
import warnings

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lrkit import attach, clip, optim
from lrkit.errors import InputError

STEPS = 10
SHAPES = [(4, 3), (5,), (2, 3, 2), ()]
PAIRS = {
    "sgd": ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "weight_decay": 0.01}),
    "rmsprop_centered": ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.9}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "adam": ("Adam", {"lr": 0.01, "weight_decay": 0.01}),
    "amsgrad": ("Adam", {"lr": 0.01, "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "nadam": ("NAdam", {"lr": 0.01}),
    "radam": ("RAdam", {"lr": 0.01, "betas": (0.9, 0.9)}),
}
EVERY = pytest.mark.parametrize("name", PAIRS)
A_FEW = pytest.mark.parametrize("name", ["momentum", "rmsprop_centered", "adamw", "nadam"])


def parameters(dtype=torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def gradients(t: int, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + t)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def both(name: str, groups=list, **more):
    """Our optimizer and torch's for-loop, each on parameters of its own."""
    kind, options = PAIRS[name]
    mine, theirs = parameters(), parameters()
    ours = getattr(optim, kind)(groups(mine), **(options | more))
    return (ours, mine), (getattr(torch.optim, kind)(groups(theirs), **({"foreach": False} | options | more)), theirs)


def one_step(optimizer, params, t: int, has=lambda t, i: True) -> None:
    for i, (p, g) in enumerate(zip(params, gradients(t, params[0].dtype), strict=True)):
        p.grad = g if has(t, i) else None
    optimizer.step()


def run(optimizer, params, start: int = 0, stop: int = STEPS, has=lambda t, i: True) -> list[torch.Tensor]:
    for t in range(start, stop):
        one_step(optimizer, params, t, has)
    return [p.detach().clone() for p in params]


def alike(mine, theirs, rtol=1e-6, atol=1e-9) -> None:
    """Equal up to float32 numbers that torch keeps in its state (NAdam's product, steps)."""
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


def same(mine, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


class TestGradients:
    PATTERNS = {  # noqa: RUF012
        "come late, one by one": lambda t, i: t >= 3 * i,
        "never come for one": lambda t, i: i != 1,
        "come and go": lambda t, i: (t * 7 + i * 3) % 5 > 1,
        "stay away now and then": lambda t, i: t % 3 != 1,
    }

    @pytest.mark.parametrize("pattern", PATTERNS)
    @EVERY
    def test_that_come_late_or_never_or_come_and_go_do_what_they_do_in_torch(self, name, pattern):
        (ours, mine), (their, theirs) = both(name)
        alike(run(ours, mine, has=self.PATTERNS[pattern]), run(their, theirs, has=self.PATTERNS[pattern]))
        if name != "adagrad":  # torch's makes its state at once
            assert [len(ours.state.get(p, {})) > 0 for p in mine] == [len(their.state.get(p, {})) > 0 for p in theirs]

    def test_that_come_late_are_no_trouble_for_a_ball_where_torchs_fused_one_crashes(self):
        """Should torch's learn it, this fails, and pain 3 of research/optimizers.md is over."""
        late = self.PATTERNS["come late, one by one"]
        (ours, mine), (their, theirs) = both("momentum")
        fused = parameters()
        with pytest.raises(TypeError, match="NoneType"):
            run(torch.optim.SGD(fused, lr=0.1, momentum=0.9, fused=True), fused, has=late)
        ours.param_groups[0]["fused"] = True
        alike(run(ours, mine, has=late), run(their, theirs, has=late))

    @EVERY
    def test_that_are_infinite_do_without_a_clip_what_they_do_in_torch(self, name):
        (ours, mine), (their, theirs) = both(name)
        for optimizer, params in ((ours, mine), (their, theirs)):
            run(optimizer, params, 0, 2)
            for p, g in zip(params, gradients(2), strict=True):
                p.grad = g
            params[0].grad[0, 0], params[1].grad[2] = math.inf, math.nan
            optimizer.step()
            run(optimizer, params, 3, 6)
        for a, b in zip(mine, theirs, strict=True):  # where a weight is infinite, 0·θ of a decay of 0 makes it a NaN
            assert torch.equal(a.isfinite(), b.isfinite())
            alike([a[a.isfinite()]], [b[b.isfinite()]])
        assert not bool(mine[1][2].isfinite())

    @EVERY
    def test_that_are_infinite_skip_the_update_under_a_clip(self, name):
        ours, mine = clipped(name)
        before, state = run(ours, mine, 0, 3), copy.deepcopy(ours.state_dict()["state"])
        mine[0].grad = torch.full_like(mine[0], math.inf)
        ours.step()
        assert same(mine, before) and (ours.tally.skipped, ours.tally.updates) == (1, 3)
        now = ours.state_dict()["state"]
        assert all(torch.equal(state[i][key], now[i][key]) for i in state for key in state[i])
        other, params = clipped(name)
        assert same(run(ours, mine, 3, 6), run(other, params, 0, 6))

    def test_that_are_all_none_leave_no_state_and_move_nothing(self):
        for name in PAIRS:
            (ours, mine), _ = both(name)
            before = [p.detach().clone() for p in mine]
            ours.step()
            assert same(mine, before)
            assert not any(ours.state.values()) or name == "adagrad", "torch's Adagrad alone makes its state at once"

    def test_of_another_layout_or_not_in_order_are_read_as_what_they_are(self):
        (ours, mine), (their, theirs) = both("adam")
        for t in range(STEPS):
            for optimizer, params in ((ours, mine), (their, theirs)):
                for p, g in zip(params, gradients(t), strict=True):
                    p.grad = g
                if t % 2:
                    params[0].grad = params[0].grad.t().contiguous().t()
                if t % 3 == 2:
                    params[1].grad = torch.stack([params[1].grad, params[1].grad], 1)[:, 0]
                if t == 7:
                    params[2].grad = params[2].grad[:1, :1, :1].expand(2, 3, 2)
                optimizer.step()
        alike(mine, theirs)

    def test_with_a_graph_of_their_own_are_taken_without_it(self):
        weight = nn.Parameter(torch.ones(3))
        optimizer = optim.Adam([weight], lr=0.1)
        weight.grad = torch.autograd.grad((weight**3).sum(), weight, create_graph=True)[0]
        optimizer.step()
        assert not any(value.requires_grad for value in optimizer.state[weight].values()) and weight.is_leaf


def clipped(name: str):
    kind, options = PAIRS[name]
    mine = parameters()
    return getattr(optim, kind)(mine, clip=clip.norm(1e6), **options), mine


class TestGroups:
    @EVERY
    def test_that_are_frozen_by_a_rate_of_zero_do_what_they_do_in_torch(self, name):
        def groups(p):
            return [{"params": p[:2]}, {"params": p[2:], "lr": 0.0}]

        (ours, mine), (their, theirs) = both(name, groups)
        before = [p.detach().clone() for p in mine]
        alike(run(ours, mine), run(their, theirs))
        assert same(mine[2:], before[2:]) and not same(mine[:2], before[:2])
        ours.param_groups[1]["lr"] = their.param_groups[1]["lr"] = 0.1
        alike(run(ours, mine), run(their, theirs))

    @EVERY
    def test_that_are_added_late_have_their_own_numbers(self, name):
        (ours, mine), (their, theirs) = both(name, lambda p: p[:2])
        for optimizer, params in ((ours, mine), (their, theirs)):
            run(optimizer, params, 0, 4)
            optimizer.add_param_group({"params": params[2:], "lr": 0.03})
        alike(run(ours, mine, 4), run(their, theirs, 4))

    @A_FEW
    def test_may_change_any_number_in_mid_run(self, name):
        (ours, mine), (their, theirs) = both(name)
        for t in range(STEPS):
            for optimizer, params in ((ours, mine), (their, theirs)):
                group = optimizer.param_groups[0]
                group["lr"], group["weight_decay"] = 0.01 * (t + 1), 0.1 / (t + 1)
                if "betas" in group:
                    group["betas"] = (0.5 + 0.04 * t, 0.9 + 0.005 * t)
                if group.get("momentum"):
                    group["momentum"] = 0.5 + 0.04 * t
                if "alpha" in group:
                    group["alpha"], group["eps"] = 0.9 + 0.005 * t, 10.0**-t
                one_step(optimizer, params, t)
        alike(mine, theirs)

    def test_may_gain_and_lose_momentum_in_mid_run(self):
        """The ball starts with the first gradient that it sees, and where it is taken up again from where it lay."""
        (ours, mine), (their, theirs) = both("sgd")
        for t in range(STEPS):
            for optimizer, params in ((ours, mine), (their, theirs)):
                optimizer.param_groups[0]["momentum"] = 0.9 if t % 4 > 1 else 0.0
                one_step(optimizer, params, t)
        alike(mine, theirs)

    def test_may_have_their_parameters_changed(self):
        (ours, mine), (their, theirs) = both("adamw")
        for optimizer, params in ((ours, mine), (their, theirs)):
            run(optimizer, params, 0, 3)
            optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"][::-1]
            run(optimizer, params, 3, 6)
            optimizer.param_groups[0]["params"].pop()
            run(optimizer, params, 6, 9)
        alike(mine, theirs)

    @EVERY
    def test_with_tied_weights_move_them_once(self, name):
        kind, options = PAIRS[name]

        def trained(make):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
            model[2].weight = model[0].weight
            optimizer = make(model.parameters(), **options)
            for t in range(STEPS):
                optimizer.zero_grad()
                model(gradients(t)[0]).square().mean().backward()
                optimizer.step()
            return list(model.parameters())

        mine, theirs = trained(getattr(optim, kind)), trained(getattr(torch.optim, kind))
        assert len(mine) == 3
        alike(mine, theirs)

    def test_know_the_names_of_their_parameters(self):
        model = nn.Linear(3, 2)
        optimizer = optim.Adam(model.named_parameters())
        assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
        saved = optimizer.state_dict()
        assert saved["param_groups"][0]["param_names"] == ["weight", "bias"]
        other = optim.Adam(model.parameters())
        other.load_state_dict(saved)
        with pytest.raises(ValueError, match="with/without names"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def _loaded(optimizer, params, kept) -> None:
    optimizer.load_state_dict(kept)


def _each(change):
    """A change of every state tensor that is no counter; torch's Python numbers stay."""

    def meddle(optimizer, params, kept) -> None:
        for p in params:
            for key in [key for key in optimizer.state[p] if key not in ("step", "mu_product")]:
                change(optimizer.state[p], key)

    return meddle


MEDDLERS = {
    "p.data is replaced": lambda o, p, _: [setattr(one, "data", one.data * 1.5) for one in p],
    "p.data gets another layout": lambda o, p, _: setattr(p[0], "data", p[0].data.t().contiguous().t()),
    "p.data changes in place": lambda o, p, _: [one.data.mul_(1.5) for one in p],
    "state tensors are replaced": _each(lambda s, key: s.update({key: s[key] * 0.5})),
    "state tensors get another layout": lambda o, p, _: [
        o.state[p[0]].update({k: v.t().contiguous().t()}) for k, v in list(o.state[p[0]].items()) if v.dim() == 2
    ],
    "state tensors change in place": _each(lambda s, key: s[key].mul_(0.5)),
    "the state is cleared": lambda o, p, _: o.state.clear(),
    "one parameter's state is dropped": lambda o, p, _: o.state.pop(p[1], None),
    "one parameter's entry is replaced": lambda o, p, _: o.state.__setitem__(p[1], copy.deepcopy(o.state[p[1]])),
    "the state is another dict": lambda o, p, _: setattr(o, "state", copy.copy(o.state)),
    "an earlier state is loaded": _loaded,
    "an own state is loaded": lambda o, p, _: o.load_state_dict(o.state_dict()),
}


def _set_step(value: float, which: slice, in_place: bool):
    def meddle(optimizer, params, kept) -> None:
        for p in params[which]:
            if in_place:
                optimizer.state[p]["step"].fill_(value)
            else:
                optimizer.state[p]["step"] = torch.tensor(value)

    return meddle


COUNTERS = {
    "step is set": _set_step(7.0, slice(None), False),
    "step of one is set": _set_step(7.0, slice(1, 2), False),
    "step changes in place": _set_step(7.0, slice(None), True),
    "step of one changes in place": _set_step(2.0, slice(1, 2), True),
    "step of the last goes back to 0 in place": _set_step(0.0, slice(3, 4), True),
}
PRODUCTS = {
    "mu_product is set": lambda o, p, _: [o.state[one].update(mu_product=torch.tensor(0.3)) for one in p],
    "mu_product changes in place": lambda o, p, _: [o.state[one]["mu_product"].fill_(0.3) for one in p],
    "mu_product of one changes in place": lambda o, p, _: o.state[p[1]]["mu_product"].fill_(0.3),
}


class TestBehindOurBack:
    def check(self, name, meddle) -> None:
        (ours, mine), (their, theirs) = both(name)
        for optimizer, params in ((ours, mine), (their, theirs)):
            run(optimizer, params, 0, 2)
            kept = copy.deepcopy(optimizer.state_dict())
            run(optimizer, params, 2, 5)
            meddle(optimizer, params, kept)
        assert not same(run(ours, mine, 5, 6), run(*both(name)[0], 0, 6)) or meddle is MEDDLERS["an own state is loaded"]
        run(their, theirs, 5, 6)
        alike(run(ours, mine, 6), run(their, theirs, 6))

    @pytest.mark.parametrize("what", [key for key in MEDDLERS if key not in ("the state is another dict",)])
    @A_FEW
    def test_whatever_is_changed_is_noticed(self, name, what):
        if what in ("p.data gets another layout", "one parameter's entry is replaced", "state tensors get another layout"):
            (ours, mine), (their, theirs) = both(name)
            for optimizer, params in ((ours, mine), (their, theirs)):
                run(optimizer, params, 0, 5)
                MEDDLERS[what](optimizer, params, None)
                run(optimizer, params, 5)
            alike(mine, theirs)
        else:
            self.check(name, MEDDLERS[what])

    @pytest.mark.parametrize("what", COUNTERS)
    @pytest.mark.parametrize("name", ["adam", "nadam", "radam", "adagrad"])
    def test_a_counter_that_is_set_is_noticed(self, name, what):
        self.check(name, COUNTERS[what])

    @pytest.mark.parametrize("what", PRODUCTS)
    def test_nadams_product_that_is_set_is_noticed(self, what):
        self.check("nadam", PRODUCTS[what])

    @pytest.mark.parametrize("of", ["gradient", "parameter", "buffer"])
    def test_a_layout_that_changes_at_the_same_address_is_noticed(self, of):
        """A square matrix, turned without being moved: the same object, the same memory, another order."""
        results = []
        for kind in (optim.Adam, torch.optim.Adam):
            weight = nn.Parameter(torch.arange(16.0).reshape(4, 4) / 7)
            optimizer = kind([weight], lr=0.1)
            weight.grad = torch.arange(16.0).reshape(4, 4).sin()
            optimizer.step()
            what = {"gradient": weight.grad, "parameter": weight, "buffer": optimizer.state[weight]["exp_avg"]}[of]
            what.data = what.data.t()
            optimizer.step(), optimizer.step()
            results.append(weight.detach())
        alike(results[:1], results[1:], rtol=1e-5, atol=1e-6)

    def test_memory_that_moves_under_the_same_gradient_object_is_noticed(self):
        """As by `grad.data = …`, and by resizing storages, which FSDP does."""
        (ours, mine), (their, theirs) = both("adamw")
        for optimizer, params in ((ours, mine), (their, theirs)):
            run(optimizer, params, 0, 3)
            for t in range(3, 6):
                for p, g in zip(params, gradients(t), strict=True):
                    p.grad.data = g.clone() if t % 2 else (g.t().contiguous().t() if g.dim() == 2 else g)
                optimizer.step()
        alike(mine, theirs)

    def test_a_state_dict_that_was_taken_is_torchs_in_keys_shapes_and_order(self):
        for name in PAIRS:
            (ours, mine), (their, theirs) = both(name)
            run(ours, mine), run(their, theirs)
            assert list(ours.state_dict()["state"]) == list(their.state_dict()["state"]), name
            own, its = ours.state_dict(), their.state_dict()
            assert [(i, {k: (v.shape, v.dtype) for k, v in s.items()}) for i, s in own["state"].items()] == [
                (i, {k: (v.shape, v.dtype) for k, v in s.items()}) for i, s in its["state"].items()
            ]
            for i, entry in its["state"].items():
                alike(own["state"][i].values(), entry.values())
            assert set(its["param_groups"][0]) <= set(own["param_groups"][0])

    def test_adagrads_checkpoint_can_be_taken_up_by_torchs_where_a_gradient_is_still_to_come(self):
        """Torch's makes all state at once, and does not look whether it is there."""
        (ours, mine), (their, theirs) = both("adagrad")
        run(ours, mine, 0, 4, lambda t, i: i != 1)
        their.load_state_dict(copy.deepcopy(ours.state_dict()))
        run(their, theirs, 4)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_nadams_product_keeps_its_bits_when_it_is_loaded(self, dtype):
        """Torch's own casts all state but the step to the parameter's type."""
        weight = nn.Parameter(torch.ones(3, dtype=dtype))
        optimizer = optim.NAdam([weight])
        for _ in range(5):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        before = float(optimizer.state[weight]["mu_product"])
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.param_groups[0]["lr"] = 0.0
        assert float(optimizer.state[weight]["mu_product"]) == before

    @EVERY
    def test_checkpoints_go_both_ways(self, name):
        (ours, mine), (their, theirs) = both(name)
        run(ours, mine, 0, 5), run(their, theirs, 0, 5)
        saved = copy.deepcopy((ours.state_dict(), their.state_dict()))
        (again, mine), (their_again, theirs) = both(name)
        for params, source in ((mine, their), (theirs, ours)):
            for p, q in zip(params, source.param_groups[0]["params"], strict=True):
                p.data.copy_(q.data)
        again.load_state_dict(saved[1]), their_again.load_state_dict(saved[0])
        alike(run(again, mine, 5), run(their_again, theirs, 5))


class Log:
    """Hooks that write down who was called, and with what."""

    def __init__(self, optimizer, closure) -> None:
        self.lines, self._known = [], {id(optimizer): "optimizer", id(closure): "closure", id(None): "None"}
        self.handles = [
            register_optimizer_step_pre_hook(self.line("global pre")),
            register_optimizer_step_post_hook(self.line("global post")),
            optimizer.register_step_pre_hook(self.line("pre 1")),
            optimizer.register_step_pre_hook(self.line("pre 2")),
            optimizer.register_step_post_hook(self.line("post 1")),
            optimizer.register_step_post_hook(self.line("post 2")),
        ]

    def line(self, label: str):
        def hook(optimizer, args, kwargs):
            named = {key: self._known.get(id(one), "other") for key, one in kwargs.items()}
            self.lines.append((label, self._known.get(id(optimizer)), [self._known.get(id(one), "other") for one in args], named))

        return hook

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


class OursCareful(optim.Adam):
    """A step of one's own around the parent's."""

    def step(self, closure=None):
        self.calls = getattr(self, "calls", 0) + 1
        return super().step(closure)


class TheirsCareful(torch.optim.Adam):
    """The same of torch's."""

    def step(self, closure=None):
        self.calls = getattr(self, "calls", 0) + 1
        return super().step(closure)


CALLS = {
    "no closure": lambda o, c: o.step(),
    "a closure": lambda o, c: o.step(c),
    "a closure by keyword": lambda o, c: o.step(closure=c),
    "None": lambda o, c: o.step(None),
}


class TestHooks:
    @pytest.mark.parametrize("how", CALLS)
    @pytest.mark.parametrize("pair", [(optim.Adam, torch.optim.Adam), (OursCareful, TheirsCareful)], ids=["plain", "subclass"])
    def test_are_called_in_torchs_order_with_torchs_arguments(self, pair, how):
        seen = []
        for kind in pair:
            params = parameters()
            optimizer = kind(params, lr=0.01)

            def closure(params=params):
                for p, g in zip(params, gradients(0), strict=True):
                    p.grad = g
                return torch.tensor(3.0)

            with Log(optimizer, closure) as log:
                CALLS[how](optimizer, closure)
            seen.append(log.lines)
        assert seen[0] == seen[1]
        assert len(seen[0]) == (6 if pair[0] is optim.Adam else 12)

    def test_that_change_the_arguments_are_obeyed(self):
        for kind in (optim.Adam, torch.optim.Adam):
            params = parameters()
            optimizer, asked = kind(params, lr=0.01), []

            def other(asked=asked):
                asked.append(1)
                return 5.0

            handle = optimizer.register_step_pre_hook(lambda o, a, k: ((*a[:1], other), {}))
            assert optimizer.step() == 5.0 and optimizer.step(lambda: 7.0) == 5.0
            handle.remove()
            handle = optimizer.register_step_pre_hook(lambda o, a, k: (a[:1], {"closure": other}))
            assert optimizer.step() == 5.0
            handle.remove()
            optimizer.register_step_pre_hook(lambda o, a, k: (a[:1], {}))
            assert optimizer.step(other) is None and len(asked) == 3

    @pytest.mark.parametrize("wrong", [5, (1,), (1, 2, 3)])
    def test_that_return_something_else_are_refused_as_in_torch(self, wrong):
        for kind in (optim.Adam, torch.optim.Adam):
            optimizer = kind(parameters(), lr=0.01)
            optimizer.register_step_pre_hook(lambda o, a, k: wrong)
            with pytest.raises(RuntimeError, match="must return None or a tuple of"):
                optimizer.step()

    def test_may_remove_themselves_and_add_others(self):
        optimizer, calls = optim.Adam(parameters()), []

        def once(o, a, k):
            calls.append("once")
            handle.remove()
            o.register_step_post_hook(lambda *_: calls.append("post"))

        handle = optimizer.register_step_pre_hook(once)
        optimizer.step(), optimizer.step()
        assert calls == ["once", "post", "post"]

    def test_of_the_state_dict_are_called(self):
        optimizer, calls = optim.Adam(parameters()), []
        optimizer.register_state_dict_pre_hook(lambda o: calls.append("save pre"))
        optimizer.register_state_dict_post_hook(lambda o, s: calls.append("save post"))
        optimizer.register_load_state_dict_pre_hook(lambda o, s: calls.append("load pre"))
        optimizer.register_load_state_dict_post_hook(lambda o: calls.append("load post"))
        optimizer.load_state_dict(optimizer.state_dict())
        assert calls == ["save pre", "save post", "load pre", "load post"]

    def test_torch_does_not_wrap_our_step_and_wraps_a_subclasss(self):
        assert optim.Optimizer.step.hooked
        assert "step" not in vars(optim.Adam)
        OursCareful(parameters())
        assert OursCareful.step.hooked and OursCareful.step.__wrapped__


class TestStep:
    @pytest.mark.parametrize("kind", [optim.Adam, OursCareful])
    def test_is_seen_by_the_profiler_under_torchs_name(self, kind):
        params = parameters()
        optimizer = kind(params, lr=0.01)
        with torch.autograd.profiler.profile() as seen:
            one_step(optimizer, params, 0)
            optimizer.zero_grad()
        names = [event.name for event in seen.function_events]
        assert f"Optimizer.step#{kind.__name__}.step" in names and f"Optimizer.zero_grad#{kind.__name__}.zero_grad" in names

    @pytest.mark.parametrize("how", ["a closure", "a closure by keyword"])
    def test_takes_a_closure_and_returns_its_loss(self, how):
        (ours, mine), (their, theirs) = both("adam")
        for optimizer, params in ((ours, mine), (their, theirs)):

            def closure(optimizer=optimizer, params=params):
                assert torch.is_grad_enabled()
                optimizer.zero_grad()
                loss = sum((p**2).sum() for p in params)
                loss.backward()
                return loss

            for _ in range(STEPS):
                with torch.no_grad():
                    expected = float(sum((p**2).sum() for p in params))
                    assert float(CALLS[how](optimizer, closure)) == expected
        alike(mine, theirs)

    def test_that_raises_in_its_closure_changes_nothing(self):
        (ours, mine), _ = both("adam")
        before, state = run(ours, mine, 0, 2), copy.deepcopy(ours.state_dict()["state"])

        def broken():
            raise RuntimeError("no loss today")

        with pytest.raises(RuntimeError, match="no loss today"):
            ours.step(broken)
        assert same(mine, before) and all(float(ours.state[p]["step"]) == 2 for p in mine)
        assert all(torch.equal(state[i]["exp_avg"], ours.state[p]["exp_avg"]) for i, p in enumerate(mine))

    def test_returns_none_without_a_closure(self):
        assert optim.Adam(parameters()).step() is None

    def test_climbs_where_it_is_told_to(self):
        for name in PAIRS:
            (ours, mine), (their, theirs) = both(name, maximize=True)
            alike(run(ours, mine), run(their, theirs))

    def test_never_writes_to_gradients(self):
        for name in PAIRS:
            for rule in (None, clip.norm(0.1), clip.value(0.1), clip.adaptive(0.1)):
                kind, options = PAIRS[name]
                params = parameters()
                optimizer = getattr(optim, kind)(params, clip=rule, maximize=True, **options)
                given = gradients(0)
                for p, g in zip(params, given, strict=True):
                    p.grad = g
                optimizer.step()
                assert all(p.grad is g for p, g in zip(params, given, strict=True)) and same(given, gradients(0))

    @pytest.mark.parametrize("backend", [None, "reference", "fused"])
    def test_raises_the_version_of_what_it_writes(self, backend):
        """So that autograd refuses to go back through a weight that has moved. Torch's fused forms do not."""
        weight = nn.Parameter(torch.ones(3))
        optimizer = optim.Adam([weight], backend=backend)
        for _ in range(3):
            loss = (weight**2).sum()
            loss.backward(retain_graph=True)
            optimizer.step()
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
            optimizer.zero_grad()

    def test_with_or_without_gradients_enabled_is_the_same_step(self):
        results = []
        for mode in (torch.enable_grad, torch.no_grad):
            (ours, mine), _ = both("adam")
            with mode():
                results.append(run(ours, mine))
        assert same(*results)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda one: pickle.loads(pickle.dumps(one))}


class TestCopies:
    @pytest.mark.parametrize("how", COPIES)
    @EVERY
    def test_go_on_to_the_bit_and_alone(self, name, how):
        (ours, mine), _ = both(name)
        run(ours, mine, 0, 4)
        other = COPIES[how](ours)
        params = [p for group in other.param_groups for p in group["params"]]
        assert same(params, mine) and type(other) is type(ours) and other.defaults == ours.defaults
        alone = run(other, params, 4)
        assert same(run(ours, mine, 4), alone), "neither has seen the other's updates"
        assert repr(other) == repr(ours)

    def test_have_the_clip_and_the_tally_and_seed_of_the_first(self):
        params = parameters()
        optimizer = optim.Adam(params, clip=clip.norm(0.1), stochastic_rounding=True, seed=3, backend="reference")
        run(optimizer, params, 0, 3)
        for how in COPIES.values():
            other = how(optimizer)
            assert (other.clip, other.seed, other.backend) == (optimizer.clip, 3, "reference")
            assert other.tally.as_dict() == optimizer.tally.as_dict() and other.tally is not optimizer.tally

    def test_of_parts_of_ones_own_can_be_pickled(self):
        params = parameters()
        optimizer = optim.Optimizer(
            params, 0.1, direction=optim.direction.HeavyBall(0.5), scale=optim.scale.Mean(), factor=math.sqrt
        )
        run(optimizer, params, 0, 3)
        other = pickle.loads(pickle.dumps(optimizer))
        twins = other.param_groups[0]["params"]
        assert same(run(optimizer, params, 3), run(other, twins, 3))

    @EVERY
    def test_of_the_state_go_through_a_file_that_is_read_with_care(self, name):
        (ours, mine), _ = both(name)
        run(ours, mine, 0, 4)
        file = io.BytesIO()
        torch.save(ours.state_dict(), file)
        kept = [p.detach().clone() for p in mine]
        whole = run(ours, mine, 4)
        file.seek(0)
        (again, mine), _ = both(name)
        for p, q in zip(mine, kept, strict=True):
            p.data.copy_(q)
        again.load_state_dict(torch.load(file, weights_only=True))
        assert same(run(again, mine, 4), whole)


SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS + 1),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
}


class TestTorchsOwn:
    @pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
    @pytest.mark.parametrize("which", SCHEDULERS)
    @pytest.mark.parametrize("name", ["momentum", "adamw", "nadam"])
    def test_schedulers_drive_ours(self, name, which, tensor):
        (ours, mine), (their, theirs) = both(name)
        for optimizer in (ours, their) if tensor else ():
            optimizer.param_groups[0]["lr"] = torch.tensor(0.02)
        rates = []
        for optimizer, params in ((ours, mine), (their, theirs)):
            scheduler = SCHEDULERS[which](optimizer)
            rates.append([])
            for t in range(STEPS):
                one_step(optimizer, params, t)
                scheduler.step()
                group = optimizer.param_groups[0]
                rates[-1].append([float(group["lr"]), group.get("betas"), group.get("momentum")])
        assert rates[0] == rates[1]
        alike(mine, theirs)

    def test_reduce_on_plateau_drives_ours(self):
        (ours, mine), (their, theirs) = both("adam")
        for optimizer, params in ((ours, mine), (their, theirs)):
            scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
            for t in range(STEPS):
                one_step(optimizer, params, t)
                scheduler.step(1.0)
        assert ours.param_groups[0]["lr"] == their.param_groups[0]["lr"] < 0.01
        alike(mine, theirs)

    @pytest.mark.parametrize("clipped", [False, True], ids=["plain", "clipped"])
    @A_FEW
    def test_grad_scaler_skips_updates_of_ours(self, name, clipped):
        kind, options = PAIRS[name]
        results = []
        for home in (optim, torch.optim):
            torch.manual_seed(0)
            model = nn.Linear(3, 2).double()
            more = {"clip": clip.norm(0.05)} if clipped and home is optim else {}
            optimizer = getattr(home, kind)(model.parameters(), **options, **more)
            scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
            for t in range(STEPS):
                optimizer.zero_grad()
                scaler.scale(model(gradients(t)[0]).square().mean()).backward()
                if t == 4:
                    model.weight.grad[0, 0] = math.inf
                if clipped and home is torch.optim:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                scaler.step(optimizer)
                scaler.update()
            results.append((list(model.parameters()), scaler.get_scale(), optimizer))
        assert results[0][1] == results[1][1]
        alike(results[0][0], results[1][0], rtol=1e-4 if clipped else 1e-6, atol=1e-4 if clipped else 1e-9)

    @pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
    @EVERY
    def test_tensor_rates_are_read_anew_at_each_update(self, name, shared):
        kind, options = PAIRS[name]
        rates = [torch.tensor(0.1, dtype=torch.float64) for _ in range(2)]
        rates = [rates[0], rates[0]] if shared else rates

        def groups(p, tensor):
            return [{"params": p[i::2], "lr": rates[i] if tensor else float(rates[i])} for i in range(2)]

        mine, theirs = parameters(), parameters()
        ours = getattr(optim, kind)(groups(mine, True), **options)
        floats = getattr(optim, kind)(groups(theirs, False), **options)
        for t in range(STEPS):
            for i, rate in enumerate(rates):
                rate.fill_(0.1 / (t + i + 1))
            for i, group in enumerate(floats.param_groups):
                group["lr"] = float(rates[i])
            one_step(ours, mine, t), one_step(floats, theirs, t)
        assert same(mine, theirs)
        assert all(group["lr"] is rate for group, rate in zip(ours.param_groups, rates, strict=True))

    def test_tensor_betas_are_taken(self):
        mine, theirs = parameters(), parameters()
        ours = optim.Adam(mine, lr=torch.tensor(0.01), betas=(torch.tensor(0.5), torch.tensor(0.75)))
        alike(run(ours, mine), run(optim.Adam(theirs, lr=float(torch.tensor(0.01)), betas=(0.5, 0.75)), theirs), rtol=1e-12)

    def test_zero_grad_sets_to_none_or_to_zero(self):
        (ours, mine), _ = both("adam")
        run(ours, mine, 0, 2)
        ours.zero_grad(set_to_none=False)
        assert all(p.grad is not None and not p.grad.any() for p in mine)
        ours.zero_grad()
        assert all(p.grad is None for p in mine)

    def test_gradients_kept_in_place_are_read_in_place(self):
        """``zero_grad(set_to_none=False)`` keeps one memory for all updates."""
        (ours, mine), (their, theirs) = both("adamw")
        for optimizer, params in ((ours, mine), (their, theirs)):
            for p in params:
                p.grad = torch.zeros_like(p)
            for t in range(STEPS):
                optimizer.zero_grad(set_to_none=False)
                for p, g in zip(params, gradients(t), strict=True):
                    p.grad.add_(g)
                optimizer.step()
        alike(mine, theirs)


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "key", "meant"),
        [
            ("Adam", "learning_rate", "lr"), ("Adam", "weight_decy", "weight_decay"), ("AdamW", "wd", "weight_decay"),
            ("RMSprop", "epsilon", "eps"), ("SGD", "momentun", "momentum"), ("Adam", "beta", "betas"),
            ("RMSprop", "alhpa", "alpha"),
        ],
    )  # fmt: skip
    def test_a_misspelt_key_of_a_group_is_refused_and_the_right_one_named(self, kind, key, meant):
        with pytest.raises(InputError, match=rf"{kind}\(.*groups have no '{key}'\. Did you mean '{meant}'\?"):
            getattr(optim, kind)([{"params": parameters(), key: 0.1}], lr=0.1)
        optimizer = getattr(optim, kind)(parameters()[:1], lr=0.1)
        with pytest.raises(InputError, match=key):
            optimizer.add_param_group({"params": parameters()[1:], key: 0.1})
        assert len(optimizer.param_groups) == 1, "a group that is refused is not there"

    def test_keys_of_ones_own_are_left_alone(self):
        optimizer = optim.Adam([{"params": parameters(), "name": "all", "colour": "red", "lr_scale": 0.5}])
        assert optimizer.param_groups[0]["colour"] == "red"

    @pytest.mark.parametrize("kind", ["SGD", "RMS", "Adam", "Lion", "Adadelta", "Optimizer"])
    def test_an_unknown_keyword_is_refused_by_python(self, kind):
        with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
            getattr(optim, kind)(parameters(), learning_rate=0.1)

    @pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1, -math.inf, "0.1", None, True, torch.tensor(-1.0), torch.ones(2)])
    @pytest.mark.parametrize("kind", ["SGD", "RMS", "AdamW", "Lion", "Optimizer"])
    def test_a_rate_that_is_none_is_refused_for_all_and_for_one_group(self, kind, rate):
        with pytest.raises(InputError, match=r"lr"):
            getattr(optim, kind)(parameters(), lr=rate)
        with pytest.raises(InputError, match=r"lr"):
            getattr(optim, kind)([{"params": parameters(), "lr": rate}], lr=0.1)

    @pytest.mark.parametrize(
        ("kind", "given"),
        [
            ("Adam", {"betas": (1.0, 0.9)}), ("Adam", {"betas": (0.9, 1.0)}), ("Adam", {"betas": (0.9, math.nan)}),
            ("Adam", {"betas": 0.9}), ("Adam", {"betas": (0.9,)}), ("Adam", {"eps": -1.0}), ("Adam", {"weight_decay": -0.1}),
            ("SGD", {"momentum": -0.1}), ("SGD", {"nesterov": True}), ("RMSprop", {"alpha": -1.0}), ("Adadelta", {"rho": 1.5}),
            ("Adagrad", {"lr_decay": -1.0}), ("Adam", {"like": "mine"}), ("AdamW", {"decay": "sometimes"}),
            ("Adam", {"backend": "gpu"}), ("Adam", {"clip": 1.0}), ("Adam", {"stochastic_rounding": True, "seed": -1}),
            ("SGD", {"momentum": 0.9, "dampening": 0.1, "nesterov": True}),
        ],
    )  # fmt: skip
    def test_a_number_out_of_its_range_is_refused(self, kind, given):
        with pytest.raises(InputError, match=next(iter(given)) if len(given) == 1 else r"seed|nesterov"):
            getattr(optim, kind)(parameters(), **given)

    @pytest.mark.parametrize("kind", ["SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "NAdam", "RAdam"])
    def test_differentiable_is_refused_and_torchs_class_named(self, kind):
        with pytest.raises(InputError, match=rf"differentiable=True.*Use torch\.optim\.{kind}"):
            getattr(optim, kind)(parameters(), differentiable=True)

    def test_no_parameters_are_refused_by_torch(self):
        with pytest.raises(ValueError, match="empty parameter list"):
            optim.Adam([])


# torch's own, when dynamo first meets an optimizer and imports half of inductor.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning", "ignore:The .grad attribute of a Tensor:UserWarning")
class TestCompiled:
    @pytest.fixture(autouse=True)
    def _fresh_dynamo(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def trained(self, make, compiled: bool, updates: int, driven: bool, tensor: bool = False):
        """Model, graphs: forward, backward and update in one function, all numbers new at every update."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        optimizer = make(model.parameters(), lr=torch.tensor(0.01) if tensor else 0.01)
        counter = CompileCounter()
        attachment = attach(optimizer, lr="warmup 3 > cosine 20") if driven else None

        def update(x):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        step = torch.compile(update, backend=counter) if compiled else update
        group = optimizer.param_groups[0]
        for t in range(updates):
            if not driven:
                if tensor:
                    group["lr"].fill_(0.01 / (t + 1))
                else:
                    group["lr"] = 0.01 / (t + 1)
            if "betas" in group:
                group["betas"] = (0.5 + 0.01 * t, 0.9 + 0.001 * t)
            group["weight_decay"] = 0.1 / (t + 1)
            step(gradients(t)[0].float())
        assert attachment is None or attachment.step == updates
        return [p.detach() for p in model.parameters()], counter.frame_count

    @pytest.mark.parametrize("driven", [False, True], ids=["alone", "attached"])
    @pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam", "Lion"])
    def test_a_whole_training_step_compiles_as_often_for_20_updates_as_for_5_and_computes_the_same(self, name, driven):
        make = getattr(optim, name)
        few = self.trained(make, True, 5, driven)[1]
        torch._dynamo.reset()
        weights, many = self.trained(make, True, 20, driven)
        assert 0 < few == many <= 4
        alike(weights, self.trained(make, False, 20, driven)[0], rtol=1e-5, atol=1e-6)

    def test_a_tensor_rate_compiles_nothing_anew(self):
        few = self.trained(optim.AdamW, True, 5, False, tensor=True)[1]
        torch._dynamo.reset()
        assert self.trained(optim.AdamW, True, 20, False, tensor=True)[1] == few

    @pytest.mark.parametrize("driven", [False, True], ids=["alone", "attached"])
    def test_a_compiled_step_method_compiles_nothing_and_equals_the_plain_one(self, driven):
        results = []
        for compiled in (False, True):
            params = parameters()
            optimizer = optim.AdamW(params, lr=0.01)
            if driven:
                attach(optimizer, lr="linear 20")
            counter = CompileCounter()
            step = torch.compile(optimizer.step, backend=counter) if compiled else optimizer.step
            for t in range(STEPS):
                optimizer.param_groups[0]["weight_decay"] = 0.1 / (t + 1)
                for p, g in zip(params, gradients(t), strict=True):
                    p.grad = g
                step()
            results.append((params, counter.frame_count))
        assert same(results[0][0], results[1][0]) and results[1][1] == 0

    def test_dynamo_traces_none_of_our_update(self):
        traced = []
        handle = torch._dynamo.convert_frame.register_bytecode_hook(lambda code, out: traced.append(code.co_filename))
        try:
            self.trained(optim.AdamW, True, 5, True)
        finally:
            handle.remove()
        assert traced and {file for file in traced if "lrkit" in file} <= {optim.Adam.step.__code__.co_filename}


CAPTURABLE = {
    "adam": ("Adam", {"weight_decay": 0.01}), "adamw": ("AdamW", {"weight_decay": 0.1}), "amsgrad": ("AMSGrad", {}),
    "radam": ("RAdam", {"betas": (0.9, 0.9)}), "nadam": ("NAdam", {}),
    "nadam_decoupled": ("NAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {"centered": True, "momentum": 0.9}), "rmsprop_seeded": ("RMSprop", {"like": "tutorial"}),
    "rmsprop_keras": ("RMSprop", {"like": "keras", "momentum": 0.9}), "rms": ("RMS", {}), "lion": ("Lion", {"weight_decay": 0.1}),
    "adabelief": ("AdaBelief", {}), "adadelta": ("Adadelta", {}), "keras": ("Adam", {"like": "keras"}),
}  # fmt: skip


class TestCapturable:
    @pytest.fixture(autouse=True)
    def _wide_counters(self):
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
    @pytest.mark.parametrize("name", CAPTURABLE)
    def test_steps_compute_what_plain_ones_do(self, name, tensor):
        kind, options = CAPTURABLE[name]

        def late(t, i):
            return t >= 2 * i

        results = []
        for capturable in (True, False):
            params = parameters()
            rate = torch.tensor(0.01) if tensor and capturable else 0.01
            optimizer = getattr(optim, kind)(params, lr=rate, capturable=capturable, maximize=True, **options)
            for t in range(STEPS):
                if tensor and capturable:
                    rate.fill_(0.01 / (t + 1))
                else:
                    optimizer.param_groups[0]["lr"] = 0.01 / (t + 1) if tensor else 0.01
                one_step(optimizer, params, t, late)
            results.append((params, optimizer.state_dict()["state"]))
        alike(results[0][0], results[1][0], rtol=1e-10)
        for i, entry in results[1][1].items():
            assert list(entry) == list(results[0][1][i])
            alike(results[0][1][i].values(), entry.values(), rtol=1e-10)

    def test_steps_never_look_at_a_tensor(self, monkeypatch):
        """What waits for the device cannot be captured."""
        for name, (kind, options) in CAPTURABLE.items():
            params = parameters()
            optimizer = getattr(optim, kind)(params, lr=torch.tensor(0.01), capturable=True, **options)
            one_step(optimizer, params, 0)
            with monkeypatch.context() as patch:
                for looking in ("item", "__float__", "__bool__", "__int__", "tolist"):

                    def refuse(self, *_, name=name, looking=looking):
                        raise AssertionError(f"{name}: {looking}")

                    patch.setattr(torch.Tensor, looking, refuse)
                one_step(optimizer, params, 1)

    def test_steps_with_a_clip_are_refused(self):
        with pytest.raises(InputError, match="capturable"):
            optim.Adam(parameters(), capturable=True, clip=clip.norm(1.0))

    def test_steps_with_random_rounding_round_at_random_or_are_refused(self):
        """Silently rounding to the nearest would be neither."""
        weight = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        weight.grad = torch.ones_like(weight)
        try:
            optim.RMS([weight], lr=1e-3, capturable=True, stochastic_rounding=True).step()
        except InputError:
            return
        assert 0 < int((weight != 1).sum()) < 4096


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
class TestSparse:
    def trained(self, make, sparse: bool, dtype=torch.float64):
        torch.manual_seed(0)
        table = nn.Embedding(8, 3, sparse=sparse, dtype=dtype)
        optimizer = make(table.parameters())
        for t in range(STEPS):
            optimizer.zero_grad()
            table(torch.tensor([[t % 8, 1, 1], [3, (2 * t) % 8, 1]])).sin().sum().backward()
            assert table.weight.grad.is_sparse is sparse
            optimizer.step()
        return table.weight.detach(), optimizer

    CASES = {  # noqa: RUF012
        "sgd": ("SGD", {"lr": 0.1}), "sgd_up": ("SGD", {"lr": 0.1, "maximize": True}),
        "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}), "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    }  # fmt: skip

    @pytest.mark.parametrize("case", CASES)
    def test_gradients_do_what_dense_ones_and_torchs_do(self, case):
        kind, options = self.CASES[case]
        sparse, _ = self.trained(lambda p: getattr(optim, kind)(p, **options), True)
        dense, _ = self.trained(lambda p: getattr(optim, kind)(p, **options), False)
        theirs, _ = self.trained(lambda p: getattr(torch.optim, kind)(p, foreach=False, **options), not options.get("nesterov"))
        alike([sparse, sparse], [dense, theirs])

    @pytest.mark.parametrize("rule", [clip.norm(0.5), clip.value(0.3), clip.adaptive(0.1)], ids=["norm", "value", "adaptive"])
    @pytest.mark.parametrize("case", ["sgd", "momentum", "adagrad"])
    def test_gradients_are_clipped_as_dense_ones(self, case, rule):
        kind, options = self.CASES[case]
        sparse, optimizer = self.trained(lambda p: getattr(optim, kind)(p, clip=rule, **options), True)
        dense, other = self.trained(lambda p: getattr(optim, kind)(p, clip=rule, **options), False)
        alike([sparse], [dense])
        assert optimizer.tally.engaged == other.tally.engaged > 0

    def test_gradients_take_over_a_sparse_ball_of_torchs(self):
        options = {"lr": 0.1, "momentum": 0.9}
        theirs, their = self.trained(lambda p: torch.optim.SGD(p, **options), True)
        table = nn.Parameter(theirs.clone())
        ours = optim.SGD([table], **options)
        ours.load_state_dict(copy.deepcopy(their.state_dict()))
        for optimizer, weight in ((ours, table), (their, their.param_groups[0]["params"][0])):
            weight.grad = torch.sparse_coo_tensor([[1, 1]], torch.ones(2, 3, dtype=torch.float64), (8, 3))
            optimizer.step()
        alike([table], [their.param_groups[0]["params"][0]])

    @pytest.mark.parametrize("name", ["RMS", "RMSprop", "Adadelta", "Adam", "AdamW", "NAdam", "RAdam", "AdaBelief", "Lion"])
    def test_gradients_are_refused_in_a_sentence_by_rules_that_move_every_row(self, name):
        with pytest.raises(InputError, match=r"sparse gradient came.*Use optim\.SGD or optim\.Adagrad"):
            self.trained(lambda p: getattr(optim, name)(p, lr=0.1), True)

    def test_gradients_with_weight_decay_are_refused_as_torchs_sgd_and_adagrad_do(self):
        for kind in (optim.SGD, optim.Adagrad):
            with pytest.raises(InputError, match="without weight decay"):
                self.trained(lambda p, kind=kind: kind(p, lr=0.1, weight_decay=0.1), True)

    def test_a_refused_update_does_not_count(self):
        table = nn.Embedding(8, 3, sparse=True)
        optimizer = optim.Adam(table.parameters())
        table(torch.tensor([1])).sum().backward()
        with pytest.raises(InputError):
            optimizer.step()
        assert float(optimizer.state[table.weight].get("step", 0)) == 0

    def test_some_gradients_may_be_sparse_and_others_dense(self):
        def trained(make):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Embedding(8, 3, sparse=True), nn.Linear(3, 2)).double()
            optimizer = make(model.parameters(), lr=0.1)
            for t in range(STEPS):
                optimizer.zero_grad()
                model(torch.tensor([t % 8, 2])).square().sum().backward()
                optimizer.step()
            return list(model.parameters())

        alike(trained(optim.Adagrad), trained(lambda p, lr: torch.optim.Adagrad(p, lr=lr, foreach=False)))


def _agc(params, limit: float, eps: float = 1e-3) -> None:
    """Adaptive clipping, row by row."""
    for p in params:
        rows = [(p, p.grad)] if p.dim() < 2 else list(zip(p, p.grad, strict=True))
        for weight, grad in rows:
            most = limit * max(float(weight.detach().norm()), eps)
            if float(grad.norm()) > most:
                grad.mul_(most / float(grad.norm()))


def halves(params):
    return [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]


class TestClip:
    RULES = {  # noqa: RUF012
        "norm": (clip.norm(0.5), lambda p: nn.utils.clip_grad_norm_(p, 0.5)),
        "norm_inf": (clip.norm(0.5, type=math.inf), lambda p: nn.utils.clip_grad_norm_(p, 0.5, norm_type=math.inf)),
        "value": (clip.value(0.3), lambda p: nn.utils.clip_grad_value_(p, 0.3)),
        "adaptive": (clip.adaptive(0.1), lambda p: _agc(p, 0.1)),
        "idle": (clip.norm(1e6), lambda p: None),
    }

    @pytest.mark.parametrize("rule", RULES)
    @EVERY
    def test_folded_in_is_clipping_first_and_the_same_optimizer_then(self, name, rule):
        """To 1e-5: torch's factor has 1e-6 in its denominator."""
        kind, options = PAIRS[name]
        _, (their, theirs) = both(name, halves)
        mine = parameters()
        ours = getattr(optim, kind)(halves(mine), clip=self.RULES[rule][0], **options)
        for t in range(STEPS):
            one_step(ours, mine, t)
            for p, g in zip(theirs, gradients(t), strict=True):
                p.grad = g
            self.RULES[rule][1](theirs)
            their.step()
        alike(mine, theirs, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("rule", ["norm", "value", "adaptive"])
    @pytest.mark.parametrize("backend", ["reference", "fused", "compiled"])
    def test_is_the_same_whatever_executes(self, backend, rule):
        results = []
        for only in (backend, "reference"):
            params = parameters(torch.float32)
            optimizer = optim.AdamW(params, lr=0.1, clip=self.RULES[rule][0], backend=only, maximize=True)
            results.append(run(optimizer, params))
        alike(*results, rtol=1e-5, atol=1e-6)

    def test_with_rows_that_lie_apart_is_the_same(self):
        """A transposed weight, whose rows are no pieces of memory."""

        def turned(params):
            params[0].data = params[0].data.t().contiguous().t()
            return params

        _, (their, theirs) = both("adam")
        mine = parameters()
        ours = optim.Adam(mine, clip=clip.adaptive(0.1), **PAIRS["adam"][1])
        turned(mine), turned(theirs)
        for t in range(STEPS):
            one_step(ours, mine, t)
            for p, g in zip(theirs, gradients(t), strict=True):
                p.grad = g
            _agc(theirs, 0.1)
            their.step()
        alike(mine, theirs, rtol=1e-5, atol=1e-5)

    def test_that_skips_does_not_advance_a_schedule(self):
        params = parameters()
        optimizer = optim.Adam(params, lr=0.1, clip=clip.norm(1.0))
        attachment = attach(optimizer, lr="linear 10")
        for t in range(6):
            for p, g in zip(params, gradients(t), strict=True):
                p.grad = g
            if t in (1, 3):
                params[1].grad[0] = math.nan
            before = attachment.step, [p.detach().clone() for p in params]
            optimizer.step()
            assert (attachment.step == before[0]) is (t in (1, 3)) is same(params, before[1])
        assert (attachment.step, optimizer.tally.skipped, optimizer.tally.updates) == (4, 2, 4)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.06)

    def test_counts_what_it_did(self):
        params = parameters()
        optimizer = optim.Adam(params, clip=clip.norm(0.5))
        run(optimizer, params)
        assert (optimizer.tally.engaged, optimizer.tally.updates) == (STEPS, STEPS) and "clipped" in repr(optimizer)


class TestRepr:
    def test_shows_the_formula_the_parts_and_the_groups(self):
        text = repr(optim.AdamW([{"params": parameters(), "name": "body"}], lr=0.01, clip=clip.norm(1.0)))
        for word in ("AdamW(lr = 0.01)", "θ ← (1 − η·λ)·θ − η·m̂ / (√v̂ + ε)", "betas[0] = 0.9", "betas[1] = 0.999",
                     "weight_decay = 0.01", "ε = 1e-08, outside", "clipped", "group body: 4 tensors, 30 values"):  # fmt: skip
            assert word in text, word

    @pytest.mark.parametrize("name", optim.__all__)
    def test_can_be_had_of_every_preset_fresh_and_in_mid_run(self, name):
        kind = getattr(optim, name)
        if isinstance(kind, type):
            params = parameters()
            optimizer = kind(params)
            assert "θ ←" in repr(optimizer) and name in repr(optimizer)
            run(optimizer, params, 0, 2)
            assert "θ ←" in repr(optimizer)

    def test_can_be_had_of_tensor_rates(self):
        assert "lr = 0.5" in repr(optim.Adam(parameters(), lr=torch.tensor(0.5)))


def test_a_whole_life_raises_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (ours, mine), _ = both("adam")
        run(ours, mine)
        ours.load_state_dict(copy.deepcopy(ours.state_dict()))
        run(ours, mine)
