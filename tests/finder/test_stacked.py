"""Members trained side by side are what each would be alone; the probe says no wherever they would not, and leaves no trace."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrkit import attach, clip, optim, parse
from lrkit.errors import InputError
from lrkit.finder.stacked import LINEAR, Members, Verdict, faster, obstacle

RATES = [1e-2, 1e-4, 3e-3, 1e-3]
STEPS = 30
SHAPE = parse("warmup 5 > cosine 25")
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(STEPS, 12, 5, generator=GENERATOR, dtype=torch.float64)
BATCHES = [(x, torch.tanh(x @ torch.ones(5, 3, dtype=torch.float64))) for x in X]

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, weight_decay=0.1),
    "SGD, heavy ball": lambda p: torch.optim.SGD(p, momentum=0.9, dampening=0.1),
    "SGD, Nesterov": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, weight_decay=0.1),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, weight_decay=0.1),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, weight_decay=0.1, decoupled_weight_decay=True),
    "RAdam": lambda p: torch.optim.RAdam(p, betas=(0.9, 0.9), weight_decay=0.1, decoupled_weight_decay=True),
    "Adamax": lambda p: torch.optim.Adamax(p),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr_decay=0.1, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True, weight_decay=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, weight_decay=0.1),
    "lrkit SGD": lambda p: optim.SGD(p, momentum=0.9, weight_decay=0.1),
    "lrkit Momentum": lambda p: optim.Momentum(p),
    "lrkit Nesterov": lambda p: optim.Nesterov(p),
    "lrkit Lion": lambda p: optim.Lion(p, weight_decay=0.1),
    "lrkit Adam": lambda p: optim.Adam(p, weight_decay=0.1),
    "lrkit AdamW": lambda p: optim.AdamW(p, weight_decay=0.1),
    "lrkit AdamW, decay by the schedule": lambda p: optim.AdamW(p, weight_decay=0.1, decay="schedule"),
    "lrkit NAdam": lambda p: optim.NAdam(p),
    "lrkit RAdam": lambda p: optim.RAdam(p, betas=(0.9, 0.9)),
    "lrkit AMSGrad": lambda p: optim.AMSGrad(p),
    "lrkit AdaBelief": lambda p: optim.AdaBelief(p),
    "lrkit RMS": lambda p: optim.RMS(p),
    "lrkit Adagrad": lambda p: optim.Adagrad(p),
    "lrkit RMSprop": lambda p: optim.RMSprop(p, momentum=0.9),
    "lrkit Adadelta": lambda p: optim.Adadelta(p),
}


def loss(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def net(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), *between, nn.Tanh(), nn.Linear(8, 3)).double()


def grouped(model: nn.Module, kind=OPTIMIZERS["AdamW"]) -> torch.optim.Optimizer:
    """Weights at 1e-3 with the optimizer's own decay, all else at five times that rate without."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return kind([{"params": weights, "lr": 1e-3}, {"params": rest, "lr": 5e-3, "weight_decay": 0.0}])


def drive(optimizer, rate: float, t: int) -> None:
    """What the finder does before an update: the schedule times the peak rate, which the second group has fivefold."""
    for group, ratio in zip(optimizer.param_groups, (1.0, 5.0), strict=False):
        group["lr"] = rate * ratio * SHAPE(t)


def alone(model, optimizer, rate, batches=BATCHES, loss=loss) -> list[float]:
    """The naive twin: an ordinary loop."""
    torch.manual_seed(7)
    losses = []
    for t, batch in enumerate(batches):
        drive(optimizer, rate, t)
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def side_by_side(model, optimizer, rates=RATES, batches=BATCHES, loss=loss) -> tuple[Members, np.ndarray]:
    torch.manual_seed(7)
    members = Members(model, optimizer, loss, rates)
    losses = []
    for t, batch in enumerate(batches):
        drive(optimizer, members.rate, t)
        losses.append(members.update(batch).numpy())
    return members, np.array(losses)


def state(model: nn.Module) -> list[torch.Tensor]:
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


def assert_equal_to_each_alone(build, rates=RATES, loss=loss, rtol=1e-10) -> None:
    """`build` makes (model, optimizer) at the start; losses of all updates, and weights and buffers at the end, are compared."""
    model, optimizer = build()
    start = state(model)
    members, losses = side_by_side(model, optimizer, rates, loss=loss)
    assert all(map(torch.equal, state(model), start)), "the live model waits"
    for k, rate in enumerate(rates):
        other, other_optimizer = build()
        expected = alone(other, other_optimizer, rate, loss=loss)
        np.testing.assert_allclose(losses[:, k], expected, rtol=rtol)
        members.write(k)
        for a, b in zip(state(model), state(other), strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


class TestEqualToEachAlone:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_for_each_optimizer_with_a_schedule_and_two_groups(self, name):
        def build():
            model = net()
            return model, grouped(model, OPTIMIZERS[name])

        assert_equal_to_each_alone(build)

    def test_and_every_optimizer_that_is_allowed_is_tried_here(self):
        assert {type(make([torch.zeros(1)])) for make in OPTIMIZERS.values()} == LINEAR

    @pytest.mark.parametrize("name", ["SGD, heavy ball", "AdamW", "NAdam", "Adagrad", "lrkit NAdam", "lrkit AdamW"])
    def test_for_an_optimizer_that_has_trained_before(self, name):
        def build():
            model = nn.Sequential(net(), Scale())
            optimizer = grouped(model, OPTIMIZERS[name])
            alone(model, optimizer, 1e-3, BATCHES[:5])
            return model, optimizer

        assert_equal_to_each_alone(build)

    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.floats(1e-5, 1e-2), min_size=1, max_size=4))
    def test_for_any_rates_in_any_order(self, rates):
        def build():
            model = net()
            return model, grouped(model)

        assert_equal_to_each_alone(build, rates)

    def test_where_other_hyperparameters_have_schedules_too(self):
        model, other = net(), net()
        optimizer, other_optimizer = grouped(model), grouped(other)
        members = Members(model, optimizer, loss, RATES)
        for t, batch in enumerate(BATCHES):
            for one, rate in ((optimizer, members.rate), (other_optimizer, RATES[1])):
                drive(one, rate, t)
                one.param_groups[0].update(weight_decay=0.1 * t, betas=(0.5 + 0.01 * t, 0.99))
            mine = members.update(batch)[1]
            other_optimizer.zero_grad()
            theirs = loss(other, batch)
            theirs.backward()
            other_optimizer.step()
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-10, atol=0)

    def test_in_single_precision_to_within_rounding(self):
        batches = [(x.float(), y.float()) for x, y in BATCHES]
        model = net().float()
        _, losses = side_by_side(model, grouped(model), batches=batches)
        for k, rate in enumerate(RATES):
            other = net().float()
            np.testing.assert_allclose(losses[:, k], alone(other, grouped(other), rate, batches), rtol=1e-5)


class Scale(nn.Module):
    """A weight without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.weight * x


class Noise(nn.Module):
    """Draws in several ways, of its own and of an input's shape."""

    def forward(self, x):
        x = x + 0.1 * torch.randn(x.shape, dtype=x.dtype) + 0.1 * torch.randn_like(x)
        return x * torch.empty_like(x).bernoulli_(0.9) * torch.rand(1, dtype=x.dtype)


class NewBuffer(nn.Module):
    """Puts new tensors where its buffers were, as some running averages do; one of them is the same for all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8, dtype=torch.float64), persistent=False)
        self.register_buffer("calls", torch.zeros(8, dtype=torch.float64))

    def forward(self, x):
        self.calls += x.detach().mean(0)
        self.calls = torch.ones(8, dtype=torch.float64)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.dropout = nn.Linear(8, 24), dropout

    def forward(self, x):
        q, k, v = self.qkv(x).view(1, 12, 3, 2, 4).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        return x + seen.transpose(1, 2).reshape(12, 8)


class Symmetric(nn.Linear):
    """Its weight is computed from another each time it is asked for."""

    class Mean(nn.Module):
        def forward(self, w):
            return (w + w.T) / 2

    def __init__(self) -> None:
        super().__init__(8, 8)
        nn.utils.parametrize.register_parametrization(self, "weight", self.Mean())


class TestEqualForEachKindOfNet:
    @pytest.mark.parametrize("part", [
        lambda: nn.BatchNorm1d(8), lambda: nn.LayerNorm(8), lambda: nn.Dropout(0.3), Noise, NewBuffer, Attention,
        lambda: Attention(0.1),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Dropout1d(0.3), nn.Flatten(),
                              nn.Linear(24, 8)),
        lambda: nn.BatchNorm1d(8).eval(), Symmetric,
    ], ids=["batch norm", "layer norm", "dropout", "own noise", "a new buffer", "attention", "attention with dropout",
            "convolution", "a part in eval mode", "a parametrised weight"])  # fmt: skip
    def test_with_the_random_numbers_that_each_alone_would_draw(self, part):
        def build():
            torch.manual_seed(2)
            model = net(part()).double()
            return model, grouped(model, OPTIMIZERS["SGD, heavy ball"])

        assert_equal_to_each_alone(build)

    def test_with_tied_weights(self):
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(1)
                self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
                self.head.weight = self.embed.weight

            def forward(self, x):
                return self.head(torch.tanh(self.embed(x)))

        def build():
            model = Tied().double()
            return model, torch.optim.AdamW(model.parameters())

        letters = torch.randint(6, (2, 12), generator=torch.Generator().manual_seed(3))
        assert_equal_to_each_alone(build, loss=lambda model, _: nn.functional.cross_entropy(model(letters[0]), letters[1]))

    def test_where_only_some_weights_are_trained(self):
        def build():
            model = net(nn.Linear(8, 8))
            model[0].requires_grad_(False)
            return model, torch.optim.AdamW([{"params": model[0].parameters()}, {"params": model[3].parameters()}])

        assert_equal_to_each_alone(build)
        model, optimizer = build()
        members = Members(model, optimizer, loss, RATES)
        drive(optimizer, members.rate, 0)
        members.update(BATCHES[0])
        assert all(p.grad is None for p in model.parameters())
        assert set(members._weights) == {"model.3.weight", "model.3.bias"}, "what is not trained is not stacked"

    @pytest.mark.parametrize("kind", ["AdamW", "lrkit AdamW"])
    def test_where_a_weight_leads_nowhere(self, kind):
        """It has no gradient, so not even its decay is applied."""

        def build():
            model = net()
            model.unused = nn.Linear(2, 2).double()
            model.forward = lambda x: model[2](model[1](model[0](x)))
            return model, OPTIMIZERS[kind](model.parameters())

        assert_equal_to_each_alone(build)

    def test_where_the_loss_uses_parts_of_the_model_and_its_parameters(self):
        def with_penalty(model, batch):
            return loss(model, batch) + 0.1 * sum(p.square().sum() for p in model.parameters()) + model[0](batch[0]).mean() ** 2

        def build():
            model = net()
            return model, grouped(model)

        assert_equal_to_each_alone(build, loss=with_penalty)

    def test_where_a_loss_has_one_dimension(self):
        def build():
            model = net()
            return model, grouped(model)

        assert_equal_to_each_alone(build, loss=lambda model, batch: loss(model, batch).reshape(1))

    def test_left_in_training_mode_but_for_parts_in_another(self):
        model = net(nn.BatchNorm1d(8)).double().eval()
        Members(model, grouped(model), loss, RATES)
        assert model.training and model[1].training
        model[1].eval()
        Members(model, grouped(model), loss, RATES)
        assert not model[1].training


class TestADivergingMember:
    @pytest.mark.parametrize("name", ["SGD, heavy ball", "AdamW", "lrkit SGD"])
    def test_harms_no_other(self, name):
        rates = [1e-3, 1e200, 1e-4]
        model, other = net(nn.BatchNorm1d(8)).double(), net(nn.BatchNorm1d(8)).double()
        members, losses = side_by_side(model, grouped(model, OPTIMIZERS[name]), rates)
        assert not np.isfinite(losses[-1, 1])
        expected = alone(other, grouped(other, OPTIMIZERS[name]), 1e-4)
        np.testing.assert_allclose(losses[:, 2], expected, rtol=1e-10)
        members.write(2)
        for a, b in zip(state(model), state(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class Somebodys(torch.optim.SGD):
    """An optimizer of somebody's own."""


def hooked() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net()
    model[0].register_forward_hook(lambda *_: None)
    return model, grouped(model)


def listened() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net()
    model[0].weight.register_hook(lambda g: g.clamp(-1, 1))
    return model, grouped(model)


def watched() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net()
    optimizer = grouped(model)
    optimizer.register_step_post_hook(lambda *_: None)
    return model, optimizer


def compiled() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = net()
    model[0].compile()
    return model, grouped(model)


def with_optimizer(kind):
    def build():
        model = net()
        return model, kind(model.parameters())

    return build


REFUSED = {
    "not known to be elementwise": with_optimizer(lambda p: torch.optim.LBFGS(p)),
    "Somebodys's update is not known": with_optimizer(lambda p: Somebodys(p)),
    "ASGD's": with_optimizer(lambda p: torch.optim.ASGD(p)),
    "Optimizer's": with_optimizer(lambda p: optim.Optimizer(p)),
    "capturable": with_optimizer(lambda p: torch.optim.Adam(p, capturable=True)),
    "differentiable": with_optimizer(lambda p: torch.optim.SGD(p, differentiable=True)),
    "AdamW's decay or momentum is not linear": with_optimizer(lambda p: optim.AdamW(p, decay="constant")),
    "RMSprop's decay or momentum is not linear": with_optimizer(lambda p: optim.RMSprop(p, momentum=0.9, like="keras")),
    "clips": with_optimizer(lambda p: optim.AdamW(p, clip=clip.norm(1.0))),
    "rounds at random": with_optimizer(lambda p: optim.AdamW(p, stochastic_rounding=True)),
    "not the model's": with_optimizer(lambda p: torch.optim.SGD([*p, nn.Parameter(torch.ones(1))])),
    "no weight": with_optimizer(lambda p: torch.optim.SGD([q.requires_grad_(False) for q in p])),
    "neither float32": lambda: ((model := net().bfloat16()), grouped(model)),
    "wrapped or hooked": watched,
    "a part of the model has a hook": hooked,
    "gradient has a hook": listened,
    "compiled": compiled,
    "MiB": lambda: ((model := nn.Linear(5000, 5000, device="meta")), torch.optim.SGD(model.parameters())),
    "processes or devices": lambda: ((model := nn.DataParallel(net())), grouped(model)),
}  # fmt: skip


class TestRefuses:
    @pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, where something is compiled
    @pytest.mark.parametrize("reason", REFUSED)
    def test_what_is_not_known_to_be_equal(self, reason):
        model, optimizer = REFUSED[reason]()
        assert reason in obstacle(model, optimizer, 4)
        verdict = faster(model, optimizer, loss, BATCHES[0], RATES)
        assert not verdict.yes and verdict.updates == 0 and reason in verdict.reason
        with pytest.raises(InputError, match="cannot be stacked"):
            Members(model, optimizer, loss, RATES)

    @pytest.mark.parametrize("rates", [[], [1e-3, 0.0], [math.nan]])
    def test_rates_that_are_none(self, rates):
        model = net()
        with pytest.raises(InputError, match="rates"):
            Members(model, grouped(model), loss, rates)

    def test_a_single_member(self):
        model = net()
        assert faster(model, grouped(model), loss, BATCHES[0], [1e-3]).reason == "there is only one member"


def clock_of(stacked: float, single: float):
    """A clock by which two updates side by side and then three alone take as long as is said; it is read twice an update."""
    times = itertools.accumulate([0.0, stacked] * 2 + [0.0, single] * 3)
    return lambda: next(times)


def ask(model, optimizer, loss=loss, clock=None) -> Verdict:
    drive(optimizer, max(RATES), 10)
    return faster(model, optimizer, loss, BATCHES[0], RATES, clock=clock)


class TestTheProbe:
    def test_says_yes_where_the_values_are_equal_and_the_clock_says_so(self):
        model = net(nn.BatchNorm1d(8), nn.Dropout(0.2)).double()
        verdict = ask(model, grouped(model), clock=clock_of(1.0, 0.5))
        assert verdict.yes and verdict.gain == pytest.approx(2.0) and verdict.reason == "the same values, 2 times as fast"

    def test_says_no_where_it_is_hardly_faster(self):
        model = net()
        verdict = ask(model, grouped(model), clock=clock_of(1.0, 0.28))
        assert not verdict.yes and verdict.gain == pytest.approx(1.12) and "only 1.1 times" in verdict.reason

    def test_counts_what_it_costs(self):
        """Two updates of four members, and three of one; each call of the loss is one or four of them."""
        calls = []

        def counting(model, batch):
            calls.append(1)
            return loss(model, batch)

        model = net()
        assert ask(model, grouped(model), counting).updates == 2 * 4 + 3 and len(calls) == 2 + 3

    @pytest.mark.parametrize(("words", "part"), [
        ("Batching rule not implemented", lambda: Recurrent()),
        ("item()", lambda: Looking()),
        ("tensors of its own", lambda: Remembering()),
        ("shape", lambda: Growing()),
        ("performance drop", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))),
        ("same randomness", lambda: Tossing()),
    ])  # fmt: skip
    def test_says_no_to_nets_that_cannot_be_batched(self, words, part):
        model = net(part()).double()
        verdict = ask(model, grouped(model))
        assert not verdict.yes and words in verdict.reason and math.isnan(verdict.gain)

    def test_says_no_where_the_values_differ(self):
        calls = []

        def drifting(model, batch):
            calls.append(1)
            return (1 + 0.01 * len(calls)) * loss(model, batch)

        model = net()
        verdict = ask(model, grouped(model), drifting)
        assert not verdict.yes and "values differ" in verdict.reason

    def test_says_no_where_only_a_buffer_differs(self):
        class Counting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.calls = []
                self.register_buffer("sum", torch.zeros((), dtype=torch.float64))

            def forward(self, x):
                self.calls.append(1)
                self.sum += len(self.calls)
                return x

        model = net(Counting())
        assert "values differ" in ask(model, grouped(model)).reason

    def test_says_no_to_a_loss_that_fails_in_any_case(self):
        model = net()
        verdict = ask(model, grouped(model), lambda model, batch: 1 / 0)
        assert not verdict.yes and verdict.reason == "ZeroDivisionError: division by zero"

    def test_takes_attention_through_the_form_that_can_be_batched(self):
        model = net(Attention()).double()
        assert ask(model, grouped(model), clock=clock_of(1.0, 1.0)).yes

    def test_sees_a_member_diverge_at_once_in_both_ways(self):
        model = net()
        optimizer = grouped(model, OPTIMIZERS["SGD"])
        for group in optimizer.param_groups:
            group["lr"] = 1e300
        assert faster(model, optimizer, loss, BATCHES[0], RATES, clock=clock_of(1.0, 1.0)).yes


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8)

    def forward(self, x):
        return self.lstm(x)[0]


class Looking(nn.Module):
    def forward(self, x):
        return x if x.sum().item() > 0 else -x


class Tossing(nn.Module):
    def forward(self, x):
        return x * torch.bernoulli(torch.full_like(x, 0.9))


class Remembering(nn.Module):
    """Keeps its last output, as for hooks and pictures."""

    def forward(self, x):
        self.last = x
        return x


class Growing(nn.Module):
    """Keeps all it has seen in a buffer, so that a member's has another shape than the live one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, 8, dtype=torch.float64))

    def forward(self, x):
        if self.seen.shape[0] > 12:
            raise ValueError("the shape has grown")
        self.seen = torch.cat([self.seen, x.detach()])
        return x


def trace_of(model, optimizer) -> list[object]:
    """Every tensor, attribute, hyperparameter, hook and random state."""
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    entries = [v for entry in optimizer.state.values() for v in entry.values()]
    return [
        *(None if t is None else t.detach().numpy().tobytes() for t in tensors),
        *(v.clone().numpy().tobytes() if torch.is_tensor(v) else v for v in entries),
        [{k: str(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
        [(m.training, sorted(vars(m)), len(m._forward_hooks)) for m in model.modules()],
        (len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks), sorted(vars(optimizer))),
        (random.getstate(), str(np.random.get_state()), torch.get_rng_state().numpy().tobytes()),
    ]


class TestNothingIsLeft:
    @pytest.mark.parametrize("case", [
        nn.Identity, lambda: nn.BatchNorm1d(8), lambda: nn.Dropout(0.3), Noise, Recurrent, Looking, Remembering, Growing,
    ], ids=["yes", "batch norm", "dropout", "own noise", "LSTM", "item", "own tensors", "growing"])  # fmt: skip
    def test_after_a_probe_whatever_its_answer(self, case):
        model = net(case()).double()
        optimizer = grouped(model)
        if case is not Growing:
            alone(model, optimizer, 1e-3, BATCHES[:2])
        model.eval()
        drive(optimizer, max(RATES), 10)
        before, objects = trace_of(model, optimizer), [id(p) for p in (*model.parameters(), *model.buffers())]
        faster(model, optimizer, loss, BATCHES[0], RATES)
        assert trace_of(model, optimizer) == before
        assert [id(p) for p in (*model.parameters(), *model.buffers())] == objects

    def test_after_an_interrupt(self):
        calls = []

        def interrupted(model, batch):
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return loss(model, batch)

        model = net()
        optimizer = grouped(model)
        before = trace_of(model, optimizer)
        with pytest.raises(KeyboardInterrupt):
            faster(model, optimizer, interrupted, BATCHES[0], RATES)
        assert trace_of(model, optimizer) == before

    @pytest.mark.parametrize("name", ["AdamW", "lrkit AdamW"])
    def test_of_an_attached_schedule_neither_moves_nor_drives(self, name):
        model = net()
        optimizer = grouped(model, OPTIMIZERS[name])
        attachment = attach(optimizer, lr="warmup 5 > cosine 25")
        before = trace_of(model, optimizer)
        assert faster(model, optimizer, loss, BATCHES[0], RATES, clock=clock_of(1.0, 1.0)).yes
        assert trace_of(model, optimizer) == before and attachment.step == 0
