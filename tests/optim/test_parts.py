"""Parts: numbers that are checked and placed into groups, compositions that are computed naively here, and what reads them."""

import contextlib
import copy
import math
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lrkit import optim
from lrkit.errors import InputError
from lrkit.optim import Optimizer, decay, direction, factor, scale
from lrkit.optim.rule import Rule

BACKENDS = [None, "fused", "reference"]


def weight(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values or (1.0, -2.0, 3.0), dtype=torch.float64))


# -- the naive composition ---------------------------------------------------------------------------------------------------


class Naive:
    """θ ← θ − (η/σ)·m as the parts' docstrings say it, a line a part, written without their code."""

    def __init__(self, lr: float, m: Any, sigma: Any, pull: Any, eps: scale.Epsilon, factors: list[Any]) -> None:
        self.lr, self.direction, self.scale, self.decay, self.eps, self.factors = lr, m, sigma, pull, eps, factors
        self.m = self.v = self.mean = self.largest = 0.0
        self.squares: list[Tensor] = []
        self.product = 1.0

    def step(self, theta: Tensor, g: Tensor, t: int) -> Tensor:
        rate, scaled = self.lr, True
        for one in self.factors:
            if isinstance(one, factor.Rectified):
                r = rectification(one.beta, t)
                scaled, rate = r is not None, rate * (1.0 if r is None else r)
            elif isinstance(one, factor.InverseTime):
                rate = rate / (1 + (t - 1) * one.decay)
            else:
                rate = rate * one(t)
        if isinstance(self.decay, decay.Coupled):
            g = g + self.decay.weight_decay * theta
        if isinstance(self.decay, decay.Decoupled):
            share = {"rate": self.lr, "schedule": 1.0, "constant": 1.0}[self.decay.by]
            theta = theta - share * self.decay.weight_decay * theta
        return theta - self.moved(g, rate, t, scaled)

    def moved(self, g: Tensor, rate: float, t: int, scaled: bool) -> Tensor:
        kind = self.direction
        if isinstance(kind, direction.HeavyBall) and kind.of == "update":
            return self.ball(g / self.sigma(g, t, scaled), rate, t)
        if isinstance(kind, direction.HeavyBall):
            return self.ball(g, rate, t, lambda: self.sigma(g, t, scaled))
        if isinstance(kind, direction.Sign):
            step = rate * (kind.beta * self.m + (1 - kind.beta) * g).sign()
            self.m = kind.memory * self.m + (1 - kind.memory) * g
            return step
        if isinstance(kind, direction.MovingAverage):
            self.m = kind.beta * self.m + (1 - kind.beta) * g
            ahead = self.m / (1 - kind.beta**t) if kind.corrected else self.m
        elif isinstance(kind, direction.NesterovAverage):
            mu, after = (kind.beta * (1 - 0.5 * 0.96 ** (i * kind.decay)) for i in (t, t + 1))
            self.product *= mu
            self.m = kind.beta * self.m + (1 - kind.beta) * g
            ahead = after * self.m / (1 - self.product * after) + (1 - mu) * g / (1 - self.product)
        else:
            ahead = g
        return rate * ahead / self.sigma(g, t, scaled)

    def ball(self, g: Tensor, rate: float, t: int, sigma: Any = lambda: 1.0) -> Tensor:
        kind = self.direction
        inside = rate if kind.rate == "inside" else 1.0
        if t == 1 and kind.seeded:
            self.m = inside * g
        else:
            self.m = kind.momentum * self.m + (1 - kind.dampening) * inside * g
        ahead = kind.momentum * self.m + inside * g if isinstance(kind, direction.Nesterov) else self.m
        return (1.0 if kind.rate == "inside" else rate) * ahead / sigma()

    def sigma(self, g: Tensor, t: int, scaled: bool) -> Any:
        kind, corrects = self.scale, 1.0
        if kind is None:
            return 1.0
        if isinstance(kind, scale.Mean):
            self.squares.append(g**2)
            v = torch.stack(self.squares).mean(0)
        elif isinstance(kind, scale.Sum):
            self.v = (kind.initial if t == 1 else self.v) + g**2
            v = self.v
        else:
            new = (g - self.m) ** 2 if isinstance(kind, scale.Belief) else g**2
            start = new if kind.seeded else kind.initial
            self.v = new if kind.seeded and t == 1 else kind.beta * (start if t == 1 else self.v) + (1 - kind.beta) * new
            if isinstance(kind, scale.Belief):
                self.v = self.v + self.eps.value
            corrects = 1 - kind.beta**t if kind.corrected else 1.0
            v = self.v
            if kind.centered:
                self.mean = kind.beta * self.mean + (1 - kind.beta) * g
                v = (v - self.mean**2).clamp(min=0)
            v = v / corrects
            if isinstance(kind, scale.Maximum):
                one = v if kind.of == "corrected" else self.v
                self.largest = torch.maximum(torch.as_tensor(self.largest, dtype=one.dtype), one)
                v = self.largest if kind.of == "corrected" else self.largest / corrects
        if not scaled:
            return 1.0
        if self.eps.place == "inside":
            return (v + self.eps.value).sqrt()
        return v.sqrt() + self.eps.value / (math.sqrt(corrects) if self.eps.place == "uncorrected" else 1.0)


def rectification(beta: float, t: int) -> float | None:
    """Liu et al. 2019, algorithm 2; None while the variance is not finite."""
    longest = 2 / (1 - beta) - 1
    length = longest - 2 * t * beta**t / (1 - beta**t)
    if length <= 5:
        return None
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


def halving(t: int) -> float:
    return 0.5 ** (t // 3)


numbers = st.sampled_from([0.0, 0.3, 0.9])
betas = st.sampled_from([0.5, 0.9, 0.999])
balls: dict[str, Any] = {
    "momentum": numbers,
    "dampening": st.sampled_from([0.0, 0.3]),
    "rate": st.sampled_from(["outside", "inside"]),
    "seeded": st.booleans(),
}
directions = st.one_of(
    st.none(),
    st.builds(direction.HeavyBall, **balls),
    st.builds(direction.Nesterov, **balls),
    st.builds(direction.MovingAverage, beta=numbers, corrected=st.booleans()),
    st.builds(direction.NesterovAverage, beta=numbers, decay=st.sampled_from([0.0, 4e-3, 0.1])),
)
averages = {"beta": betas, "corrected": st.booleans()}
scales = st.one_of(
    st.none(),
    st.builds(scale.Mean),
    st.builds(scale.Sum, initial=st.sampled_from([0.0, 0.1])),
    st.builds(scale.Average, **averages, seeded=st.booleans(), initial=st.sampled_from([0.0, 1.0])),
    st.builds(scale.Average, **averages, centered=st.just(True), initial=st.sampled_from([0.0, 1.0])),
    st.builds(scale.Maximum, **averages, of=st.sampled_from(["raw", "corrected"])),
)
decays = st.one_of(
    st.none(),
    st.builds(decay.Coupled, st.sampled_from([0.0, 0.1])),
    st.builds(decay.Decoupled, st.sampled_from([0.0, 0.1]), st.sampled_from(["rate", "schedule", "constant"])),
)
epsilons = st.builds(scale.Epsilon, st.sampled_from([1e-8, 1e-2]), st.sampled_from(["outside", "inside", "uncorrected"]))
factors = st.lists(st.sampled_from([factor.InverseTime(0.5), halving]), max_size=2, unique_by=type)


@contextlib.contextmanager
def numbers_in_float64() -> Iterator[None]:
    """NAdam's product of μ is kept, as torch keeps it, in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@numbers_in_float64()
def check_composition(one: Any, two: Any, three: Any, eps: Any, rest: Any, backend: str | None, updates: int = 12) -> None:
    theta, generator = weight().detach().clone(), torch.Generator().manual_seed(0)
    parameter = nn.Parameter(theta.clone())
    parts = {"direction": one, "scale": two, "decay": three, "eps": eps, "factor": rest}
    optimizer = Optimizer([parameter], 0.05, backend=backend, **parts)
    naive = Naive(0.05, one, two, three, eps, rest)
    for t in range(1, updates + 1):
        g = torch.randn(3, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
        theta = naive.step(theta, g, t)
        parameter.grad = g
        optimizer.step()
        size = float(theta.abs().max())
        torch.testing.assert_close(
            parameter.detach(), theta, rtol=1e-11, atol=1e-12 * max(1.0, size), msg=lambda m, t=t: f"{t}: {m}"
        )


class TestAnyComposition:
    """In float64, so that only a wrong formula can differ."""

    @pytest.mark.parametrize("backend", BACKENDS, ids=str)
    @given(directions, scales, decays, epsilons, factors)
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    def test_is_what_its_parts_say(self, backend, one, two, three, eps, rest):
        if isinstance(two, scale.Average) and two.centered and eps.value < 1e-3:
            eps = scale.Epsilon(1e-2, eps.place)  # a variance near 0 magnifies rounding
        check_composition(one, two, three, eps, rest, backend)

    @pytest.mark.prove
    @pytest.mark.parametrize("backend", BACKENDS, ids=str)
    @given(directions, scales, decays, epsilons, factors)
    @settings(max_examples=5000, deadline=None, derandomize=True, database=None)
    def test_is_what_its_parts_say_in_thousands_of_examples(self, backend, one, two, three, eps, rest):
        if isinstance(two, scale.Average) and two.centered and eps.value < 1e-3:
            eps = scale.Epsilon(1e-2, eps.place)
        check_composition(one, two, three, eps, rest, backend)

    @pytest.mark.parametrize("backend", BACKENDS, ids=str)
    @given(
        st.builds(direction.HeavyBall, **balls, of=st.just("update"))
        | st.builds(direction.Nesterov, **balls, of=st.just("update")),
        scales.filter(lambda one: one is not None and not getattr(one, "centered", False)),
        decays,
        epsilons,
    )
    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    def test_is_what_its_parts_say_where_the_ball_is_of_scaled_gradients(self, backend, one, two, three, eps):
        check_composition(one, two, three, eps, [], backend)

    @pytest.mark.parametrize("backend", BACKENDS, ids=str)
    @pytest.mark.parametrize(
        ("one", "two", "rest"),
        [
            (direction.Sign(0.9, 0.99), None, [halving]),
            (direction.Sign(0.5, 0.5), None, []),
            (direction.MovingAverage(0.9), scale.Belief(0.99), []),
            (direction.NesterovAverage(0.9), scale.Belief(0.99, corrected=False), [halving]),
            (direction.HeavyBall(0.9), scale.Belief(0.9), []),
            (direction.MovingAverage(0.9), scale.Average(0.999, corrected=True), [factor.Rectified(0.999)]),
            (direction.HeavyBall(0.9), scale.Average(0.9), [factor.Rectified(0.9), factor.InverseTime(0.1)]),
            (direction.NesterovAverage(0.9), scale.Maximum(0.99), [factor.Rectified(0.99)]),
            (None, scale.Mean(), [factor.Rectified(0.9)]),
            (None, None, [factor.Rectified(0.9), halving]),
        ],
        ids=lambda one: type(one).__name__ if not isinstance(one, list) else str(len(one)),
    )
    @pytest.mark.parametrize("three", [None, decay.Coupled(0.1), decay.Decoupled(0.1)], ids=lambda one: type(one).__name__)
    def test_is_what_its_parts_say_with_the_rarer_ones(self, one, two, rest, three, backend):
        check_composition(one, two, three, scale.Epsilon(1e-3), rest, backend)


class TestContradictions:
    @pytest.mark.parametrize(
        ("parts", "words"),
        [
            ({"direction": direction.Sign(), "scale": scale.Mean()}, "a sign has no size to be scaled. Drop one."),
            ({"scale": scale.Belief()}, "deviation from a mean of gradients. Give direction=MovingAverage"),
            ({"scale": scale.Belief(), "direction": direction.HeavyBall(of="update")}, "deviation from a mean of gradients"),
            ({"scale": scale.Maximum(centered=True)}, "scale=Maximum): it cannot be centered, too"),
            (
                {"scale": scale.Belief(centered=True), "direction": direction.MovingAverage()},
                "scale=Belief): it cannot be centered, too",
            ),
            ({"scale": scale.Steps(), "direction": direction.MovingAverage()}, "takes the gradient itself. Leave direction out."),
            ({"direction": direction.HeavyBall(of="update")}, "there is no scale. Give one, or of='gradient'"),
            (
                {"direction": direction.Sign(memory=0.99), "factor": factor.Rectified(0.9)},
                "two parts want another beta2, 0.99 and 0.9. Give both the same",
            ),
        ],
    )
    def test_are_refused_in_a_sentence(self, parts, words):
        with pytest.raises(InputError, match=re.escape(words)) as caught:
            Optimizer([weight()], **parts)
        message = str(caught.value)
        assert message.startswith("Optimizer(") and message.endswith(".") and "\n" not in message

    def test_a_variance_that_begins_with_one_gradient_is_refused_or_no_reason_to_leap(self):
        """Centered and seeded: both means begin at g, their difference is 0, and g/ε is no step."""
        p = weight()
        with contextlib.suppress(InputError):
            optimizer = Optimizer([p], 0.1, scale=scale.Average(0.9, centered=True, seeded=True))
            p.grad = torch.ones_like(p)
            optimizer.step()
        assert (p.detach() - weight().detach()).abs().max() < 10

    @pytest.mark.parametrize("name", ["direction", "scale", "decay"])
    @pytest.mark.parametrize(
        "part",
        ["adam", 0.9, scale.Epsilon(), direction.Sign, factor.Given(halving)],
        ids=["text", "number", "epsilon", "class", "factor"],
    )
    def test_a_part_of_another_kind_is_refused(self, name, part):
        with pytest.raises(InputError, match=rf"Optimizer\({name}=.*must be a part of lrkit.optim.{name}"):
            Optimizer([weight()], **{name: part})

    @pytest.mark.parametrize("eps", ["outside", -1e-8, math.nan, None])
    def test_an_epsilon_that_is_no_number_is_refused(self, eps):
        with pytest.raises(InputError, match=r"must be a finite number of at least 0|reads 'outside', which groups do not have"):
            Optimizer([weight()], eps=eps)

    @pytest.mark.parametrize("given_", [3.0, "cosine"])
    def test_a_factor_that_is_no_function_is_refused(self, given_):
        with pytest.raises(InputError, match="factor"):
            Optimizer([weight()], factor=given_)


class TestNumbers:
    @pytest.mark.parametrize(
        ("make", "field", "value"),
        [
            (direction.HeavyBall, "momentum", -0.1),
            (direction.HeavyBall, "dampening", -0.1),
            (direction.MovingAverage, "beta", 1.0),
            (direction.MovingAverage, "beta", -0.1),
            (direction.NesterovAverage, "decay", -1.0),
            (direction.Sign, "memory", 1.0),
            (scale.Sum, "initial", -1.0),
            (scale.Average, "beta", math.inf),
            (scale.Average, "beta", -0.5),
            (scale.Average, "beta", 1.5),
            (scale.Average, "initial", -1.0),
            (scale.Maximum, "beta", 1.5),
            (scale.Steps, "rho", 1.5),
            (decay.Coupled, "weight_decay", -0.1),
            (decay.Decoupled, "weight_decay", math.nan),
            (factor.Rectified, "beta", 1.0),
            (factor.InverseTime, "decay", -1.0),
            (scale.Epsilon, "value", -1e-9),
        ],
    )
    def test_out_of_range_are_refused_with_the_parts_name_or_the_groups_key(self, make, field, value):
        name = {direction: "direction", scale: "scale", decay: "decay", factor: "factor"}
        room = next(word for module, word in name.items() if getattr(module, make.__name__, None) is make)
        with pytest.raises(InputError, match=rf"{make.__name__}\({field}=|Optimizer\(\w+=…\): Invalid"):
            Optimizer([weight()], **{"eps" if make is scale.Epsilon else room: make(**{field: value})})

    @pytest.mark.parametrize(
        ("make", "field", "known"),
        [
            (direction.HeavyBall, "of", "gradient, update"),
            (direction.HeavyBall, "rate", "outside, inside"),
            (scale.Maximum, "of", "raw, corrected"),
            (scale.Epsilon, "place", "outside, inside, uncorrected"),
            (decay.Decoupled, "by", "rate, schedule, constant"),
        ],
    )
    def test_words_that_there_are_not_are_refused_with_those_that_there_are(self, make, field, known):
        with pytest.raises(InputError, match=rf"{make.__name__}\({field}='both'\): {field} must be one of {known}\."):
            make(**{field: "both"})

    def test_are_placed_into_every_group_where_they_can_be_changed(self):
        parts = {
            "direction": direction.HeavyBall(0.8, 0.1),
            "scale": scale.Average(0.95),
            "decay": decay.Decoupled(0.2),
            "eps": scale.Epsilon(1e-4, "inside"),
            "factor": factor.InverseTime(0.3),
        }
        optimizer = Optimizer([{"params": [weight()]}, {"params": [weight()], "beta2": 0.5}], 0.1, **parts)
        expected = {
            "lr": 0.1,
            "momentum": 0.8,
            "dampening": 0.1,
            "beta2": 0.95,
            "weight_decay": 0.2,
            "eps": 1e-4,
            "lr_decay": 0.3,
        }
        first, second = optimizer.param_groups
        assert {key: first[key] for key in expected} == expected
        assert {key: second[key] for key in expected} == expected | {"beta2": 0.5}
        second["momentum"] = 0.25
        assert (optimizer.scalars(3).bm, optimizer.scalars(3, group=1).bm) == (0.8, 0.25)

    def test_that_two_parts_share_are_one_number(self):
        optimizer = Optimizer([weight()], scale=scale.Average(0.99), factor=factor.Rectified(0.99))
        optimizer.param_groups[0]["beta2"] = 0.9
        assert optimizer.scalars(20).bv == 0.9
        r = rectification(0.9, 20)
        assert r is not None and optimizer.scalars(20).cg == pytest.approx(1e-3 * r, rel=1e-12)

    def test_that_are_misspelt_in_a_group_are_refused_with_the_right_name(self):
        with pytest.raises(InputError, match=r"groups have no 'momentun'\. Did you mean 'momentum'"):
            Optimizer([{"params": [weight()], "momentun": 0.1}], direction=direction.HeavyBall())

    def test_can_be_the_name_of_a_number_that_is_there(self):
        """As the presets have it: betas[1]."""
        rule = Rule(direction.MovingAverage("betas[0]"), scale.Average("betas[1]", corrected=True))
        s = rule.scalars(2, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.0})
        assert (s.bm, s.bv) == (0.5, 0.75)


class TestTheTenScalars:
    """Research §0: the numbers of each rule at update t; η = 0.1."""

    @pytest.mark.parametrize("t", [1, 2, 7, 1000])
    def test_are_those_of_the_table(self, t):
        eta, b1, b2, lam, eps = 0.1, 0.9, 0.999, 0.01, 1e-8
        first = t == 1
        table: dict[Any, dict[str, float]] = {
            optim.SGD([weight()], eta, weight_decay=lam): {"wd": lam, "cg": eta, "cm": 0, "rho": 1},
            optim.Momentum([weight()], eta): {"bm": 0 if first else 0.9, "am": 1, "cm": eta, "cg": 0},
            optim.Nesterov([weight()], eta): {"bm": 0 if first else 0.9, "am": 1, "cm": eta * 0.9, "cg": eta},
            optim.RMSprop([weight()], eta): {"bv": 0.99, "av": 1 - 0.99, "cg": eta, "e": eps, "d": 1, "cm": 0},
            optim.Adagrad([weight()], eta): {"bv": 1, "av": 1, "cg": eta, "e": 1e-10, "d": 1},
            optim.RMS([weight()], eta): {"bv": (t - 1) / t, "av": 1 / t, "cg": eta, "d": 1},
            optim.Adam([weight()], eta): {
                "bm": b1, "am": 1 - b1, "bv": b2, "av": 1 - b2, "cm": eta / (1 - b1**t), "cg": 0, "d": 1 / (1 - b2**t), "e": eps
            },
            optim.AdamW([weight()], eta, weight_decay=lam): {"wd": 0, "rho": 1 - eta * lam, "cm": eta / (1 - b1**t)},
            optim.Lion([weight()], eta): {"bm": 0.99, "am": 1 - 0.99, "cm": eta * 0.9, "cg": eta * (1 - 0.9)},
        }  # fmt: skip
        for optimizer, expected in table.items():
            s = optimizer.scalars(t)
            assert {key: getattr(s, key) for key in expected} == pytest.approx(expected, rel=1e-12, abs=1e-300)

    @pytest.mark.parametrize("t", [1, 5, 6, 7, 1000])
    def test_of_radam_are_adams_with_the_rate_rectified(self, t):
        adam, radam, r = optim.Adam([weight()], 0.1).scalars(t), optim.RAdam([weight()], 0.1).scalars(t), rectification(0.999, t)
        assert (r is None) == (t <= 5)
        assert radam[:6] == adam[:6] and radam.cg == 0
        if r is None:
            assert (radam.cm, radam.d, radam.e) == (adam.cm, 0, 1)
        else:
            expected = (adam.cm * r, adam.d, 1e-8 / math.sqrt(1 - 0.999**t))
            assert (radam.cm, radam.d, radam.e) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("t", [1, 2, 50])
    def test_of_nadam_come_from_the_product_of_mu(self, t):
        mu = [0.9 * (1 - 0.5 * 0.96 ** (i * 4e-3)) for i in range(t + 2)]
        s = optim.NAdam([weight()], 0.1).scalars(t)
        product = math.prod(mu[1 : t + 1])
        assert (s.cm, s.cg) == pytest.approx(
            (0.1 * mu[t + 1] / (1 - product * mu[t + 1]), 0.1 * (1 - mu[t]) / (1 - product)), rel=1e-12
        )

    def test_follow_the_group_at_once(self):
        optimizer = optim.Adam([weight()], 0.1)
        optimizer.param_groups[0].update(lr=0.2, betas=(0.5, 0.75), eps=1e-3, weight_decay=0.1)
        s = optimizer.scalars(1)
        assert (s.cm, s.bm, s.bv, s.e, s.wd) == pytest.approx((0.4, 0.5, 0.75, 1e-3, 0.1))


def paths(*optimizers: tuple[nn.Parameter, Optimizer], updates: int = 30) -> list[Tensor]:
    for t in range(updates):
        for p, optimizer in optimizers:
            p.grad = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64) * math.sin(t + 1)
            optimizer.step()
    return [p.detach() for p, _ in optimizers]


def inverse_root(t: int) -> float:
    return 1 / math.sqrt(t)


class TestIdentities:
    @pytest.mark.parametrize("backend", BACKENDS, ids=str)
    def test_adagrad_is_the_mean_of_all_with_a_rate_that_falls_as_one_over_root_t(self, backend):
        a, b = weight(), weight()
        one = optim.Adagrad([a], 0.1, eps=0.0, backend=backend)
        two = Optimizer([b], 0.1, scale=scale.Mean(), eps=0.0, factor=inverse_root, backend=backend)
        torch.testing.assert_close(*paths((a, one), (b, two)), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("backend", BACKENDS, ids=str)
    def test_radam_is_adam_with_a_rectified_factor(self, backend):
        a, b = weight(), weight()
        parts = {"direction": direction.MovingAverage(0.9), "scale": scale.Average(0.999, corrected=True)}
        two = Optimizer(
            [b], 0.1, **parts, eps=scale.Epsilon(1e-8, "uncorrected"), factor=factor.Rectified(0.999), backend=backend
        )
        torch.testing.assert_close(*paths((a, optim.RAdam([a], 0.1, backend=backend)), (b, two)), rtol=1e-12, atol=0)

    @pytest.mark.parametrize(
        ("preset", "parts"),
        [
            (lambda p: optim.SGD(p, 0.1), {}),
            (lambda p: optim.Momentum(p, 0.1), {"direction": direction.HeavyBall(0.9)}),
            (lambda p: optim.Nesterov(p, 0.1), {"direction": direction.Nesterov(0.9)}),
            (lambda p: optim.Lion(p, 0.1), {"direction": direction.Sign()}),
            (lambda p: optim.RMS(p, 0.1), {"scale": scale.Mean()}),
            (lambda p: optim.Adagrad(p, 0.1), {"scale": scale.Sum(), "eps": 1e-10}),
            (lambda p: optim.RMSprop(p, 0.1), {"scale": scale.Average(0.99)}),
            (
                lambda p: optim.RMSprop(p, 0.1, momentum=0.9),
                {"scale": scale.Average(0.99), "direction": direction.HeavyBall(0.9, of="update")},
            ),
            (lambda p: optim.Adadelta(p, 0.1), {"scale": scale.Steps(0.9), "eps": 1e-6}),
            (lambda p: optim.AMSGrad(p, 0.1), {"direction": direction.MovingAverage(), "scale": scale.Maximum()}),
            (
                lambda p: optim.NAdam(p, 0.1),
                {"direction": direction.NesterovAverage(), "scale": scale.Average(0.999, corrected=True)},
            ),
            (lambda p: optim.AdaBelief(p, 0.1), {"direction": direction.MovingAverage(), "scale": scale.Belief(), "eps": 1e-16}),
        ],
    )
    def test_each_preset_is_its_parts(self, preset, parts):
        a, b = weight(), weight()
        mine, theirs = paths((a, preset([a])), (b, Optimizer([b], 0.1, **parts)))
        assert torch.equal(mine, theirs)


class TestFormulas:
    @pytest.mark.parametrize(
        ("optimizer", "lines"),
        [
            (optim.SGD([weight()], 0.1), ["θ ← θ − η·g"]),
            (optim.Nesterov([weight()], 0.1), ["θ ← θ − η·(g + μ·m)", "m ← μ·m + g"]),
            (optim.RMS([weight()]), ["θ ← θ − η·g / (√v + ε)", "v ← mean of all g²", "ε = 1e-08, outside"]),
            (optim.Adagrad([weight()], like="keras"), ["/ √(v + ε)", "ε = 1e-07, inside"]),
            (optim.Adam([weight()]), ["θ ← θ − η·m̂ / (√v̂ + ε)", "betas[0] = 0.9", "betas[1] = 0.999"]),
            (optim.Adam([weight()], bias_correction=False), ["θ ← θ − η·m / (√v + ε)"]),
            (optim.AdamW([weight()], weight_decay=0.05), ["θ ← (1 − η·λ)·θ − η·m̂", "weight_decay = 0.05, decoupled by rate"]),
            (optim.AdamW([weight()], decay="constant"), ["θ ← (1 − λ)·θ"]),
            (optim.AdamW([weight()], decay="schedule"), ["θ ← (1 − λ·η/η₀)·θ"]),
            (optim.RAdam([weight()]), ["θ ← θ − η·rₜ·m̂ / (√v̂ + ε/√(1 − β₂ᵗ))", "ε = 1e-08, uncorrected"]),
            (optim.Adadelta([weight()]), ["η·√(u + ε)/√(v + ε)·g"]),
            (optim.Lion([weight()]), ["θ ← θ − η·sign(β₁·m + (1 − β₁)·g)"]),
            (optim.RMSprop([weight()], momentum=0.9), ["θ ← θ − η·m,   σ = (√v + ε)", "m ← μ·m + g/σ"]),
            (optim.RMSprop([weight()], momentum=0.9, like="keras"), ["θ ← θ − m,   σ = √(v + ε)", "m ← μ·m + η·g/σ"]),
            (optim.AMSGrad([weight()], like="optax"), ["θ ← θ − η·m̂ / (√max(v̂) + ε)"]),
            (optim.SGD([weight()], weight_decay=0.1), ["g ← g + λ·θ    weight_decay = 0.1"]),
            (
                Optimizer([weight()], factor=[inverse_root, factor.InverseTime(0.1)]),
                ["η·inverse_root(t)·1/(1 + (t − 1)·lr_decay)·g"],
            ),
        ],
        ids=lambda one: one[0] if isinstance(one, list) else type(one).__name__,
    )
    def test_say_the_rule_with_its_numbers(self, optimizer, lines):
        for line in lines:
            assert line in repr(optimizer)

    def test_say_what_groups_there_are(self):
        optimizer = optim.Adam([{"params": [weight()], "name": "body"}, {"params": [weight(), weight()], "lr": 0.5}], 0.1)
        text = repr(optimizer)
        assert "group body: 1 tensors, 3 values, lr = 0.1" in text and "group 1: 2 tensors, 6 values, lr = 0.5" in text

    def test_can_be_said_of_every_composition(self):
        for one in (None, direction.HeavyBall(rate="inside"), direction.NesterovAverage()):
            for two in (
                None,
                scale.Mean(),
                scale.Sum(),
                scale.Average(seeded=True),
                scale.Maximum(of="corrected"),
            ):
                for place in ("outside", "inside", "uncorrected"):
                    text = repr(Optimizer([weight()], direction=one, scale=two, eps=scale.Epsilon(1e-3, place)))
                    assert text.splitlines()[1].startswith("    θ ← ") and ("0.001, " + place in text) == (two is not None)


class TestPartsAreValues:
    def test_equal_ones_are_equal_and_none_can_be_changed(self):
        assert direction.HeavyBall(0.9) == direction.HeavyBall(0.9) != direction.Nesterov(0.9)
        with pytest.raises(AttributeError):
            scale.Mean().buffer = "other"  # type: ignore[misc]

    @pytest.mark.parametrize("how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
    def test_an_optimizer_of_parts_is_copied_with_them(self, how):
        p = weight()
        optimizer = Optimizer([p], 0.1, direction=direction.Nesterov(0.8), scale=scale.Mean(), factor=inverse_root)
        paths((p, optimizer), updates=5)
        again = how(optimizer)
        (q,) = again.param_groups[0]["params"]
        mine, theirs = paths((p, optimizer), (q, again), updates=5)
        assert torch.equal(mine, theirs) and repr(again) == repr(optimizer)

    def test_a_part_can_be_used_by_two_optimizers(self):
        ball, a, b = direction.HeavyBall(0.9), weight(), weight()
        mine, theirs = paths((a, Optimizer([a], 0.1, direction=ball)), (b, Optimizer([b], 0.1, direction=ball)))
        assert torch.equal(mine, theirs)
