"""Every rule and every form of it equals its slow twin, with numbers that stay and with numbers that change at each update."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrkit import optim
from lrkit.optim import decay, direction, scale
from reference.optim import TWINS

UPDATES = 40
BARS = {torch.float32: 1e-6, torch.float64: 1e-12}
BACKENDS = ["compiled", "fused", "reference"]
RATES = [0.02 * (1.2 + math.sin(t)) for t in range(UPDATES)]
FALLING = [0.2 * 0.9**t for t in range(UPDATES)]
MOMENTA = [0.95 - 0.1 * math.cos(t) ** 2 for t in range(UPDATES)]
SECOND = [0.99 + 0.009 * math.sin(t) ** 2 for t in range(UPDATES)]
EPSILONS = 1e-3  # large enough to show where it stands
RATE, LAMBDA = 1 / 64, 1 / 8  # 1 − ηλ has no rounding in float32: torch's θ·(1 − ηλ) and a paper's θ − ηλθ then agree there

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", BARS, ids=lambda dtype: str(dtype)[6:])


@pytest.fixture(autouse=True)
def numbers_in_float64():
    """NAdam's product of μ is kept, as torch keeps it, in the default dtype; the twins have it in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def build(kind: Any, **kwargs: Any) -> Any:
    return lambda params, backend, lr: kind(params, lr=lr, backend=backend, **kwargs)


def parts(**kwargs: Any) -> Any:
    return build(optim.Optimizer, **kwargs)


Case = tuple[str, Any, dict[str, Any]]  # twin, ours, the twin's options
CASES: dict[str, Case] = {
    "SGD": ("sgd", build(optim.SGD), {}),
    "SGD with everything": (
        "sgd",
        build(optim.SGD, momentum=0.9, dampening=0.3, weight_decay=0.1),
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    ),
    "Momentum": ("sgd", build(optim.Momentum, weight_decay=0.1), {"momentum": 0.9, "weight_decay": 0.1}),
    "Momentum, Polyak's": ("heavy_ball", build(optim.Momentum, momentum=0.8), {"momentum": 0.8}),
    "Nesterov": ("nesterov", build(optim.Nesterov), {"momentum": 0.9}),
    "Nesterov with decay": (
        "sgd",
        build(optim.Nesterov, momentum=0.8, weight_decay=0.1),
        {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
    ),
    "Lion": ("lion", build(optim.Lion), {}),
    "Lion with decay": ("lion", build(optim.Lion, weight_decay=LAMBDA), {"weight_decay": LAMBDA}),
    "Lion with other betas": ("lion", build(optim.Lion, betas=(0.95, 0.98)), {"betas": (0.95, 0.98)}),
    "RMS": ("rms_mean", build(optim.RMS), {}),
    "RMS with decay": ("rms_mean", build(optim.RMS, eps=EPSILONS, weight_decay=0.1), {"eps": EPSILONS, "weight_decay": 0.1}),
    "RMS, ε inside": (
        "rms_mean",
        parts(scale=scale.Mean(), eps=scale.Epsilon(EPSILONS, "inside")),
        {"eps": EPSILONS, "eps_place": "inside"},
    ),
    "Adagrad": ("adagrad", build(optim.Adagrad), {}),
    "Adagrad with everything": (
        "adagrad",
        build(optim.Adagrad, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.3, eps=EPSILONS),
        {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.3, "eps": EPSILONS},
    ),
    "Adagrad like keras": ("adagrad_keras", build(optim.Adagrad, like="keras"), {}),
    "Adagrad like keras, large ε": ("adagrad_keras", build(optim.Adagrad, like="keras", eps=EPSILONS), {"eps": EPSILONS}),
    "Adagrad like optax": ("adagrad_optax", build(optim.Adagrad, like="optax"), {}),
    "Adagrad like the paper": ("adagrad", build(optim.Adagrad, like="paper"), {}),
    "Adagrad like the tutorials": ("adagrad_tutorial", build(optim.Adagrad, like="tutorial"), {}),
    "RMSprop": ("rmsprop", build(optim.RMSprop), {}),
    "RMSprop with everything": (
        "rmsprop",
        build(optim.RMSprop, alpha=0.95, eps=EPSILONS, weight_decay=0.1, momentum=0.8, centered=True),
        {"alpha": 0.95, "eps": EPSILONS, "weight_decay": 0.1, "momentum": 0.8, "centered": True},
    ),
    **{
        f"RMSprop like {like}{', large ε' * bool(eps)}{', momentum' * bool(momentum)}{', centered' * centered}": (
            f"rmsprop_{like}",
            build(optim.RMSprop, like=like, momentum=momentum, centered=centered, **eps),
            {"momentum": momentum, "centered": centered, **eps},
        )
        for like in ("keras", "optax")
        for momentum, centered, eps in (
            (0.0, False, {}), (0.8, False, {}), (0.0, True, {"eps": EPSILONS}), (0.8, True, {"eps": EPSILONS})
        )
    },
    "RMSprop like the paper": ("rmsprop_paper", build(optim.RMSprop, like="paper"), {}),
    "RMSprop like the tutorials": ("rmsprop_tutorial", build(optim.RMSprop, like="tutorial"), {}),
    "RMSprop like the tutorials, large ε": (
        "rmsprop_tutorial",
        build(optim.RMSprop, like="tutorial", eps=EPSILONS),
        {"eps": EPSILONS},
    ),
    "Adadelta": ("adadelta", build(optim.Adadelta), {}),
    "Adadelta with decay": (
        "adadelta",
        build(optim.Adadelta, rho=0.95, eps=EPSILONS, weight_decay=0.1),
        {"rho": 0.95, "eps": EPSILONS, "weight_decay": 0.1},
    ),
    "Adam": ("adam", build(optim.Adam), {}),
    "Adam with everything": (
        "adam",
        build(optim.Adam, betas=(0.8, 0.99), eps=EPSILONS, weight_decay=0.1),
        {"betas": (0.8, 0.99), "eps": EPSILONS, "weight_decay": 0.1},
    ),
    "Adam like the paper": ("adam", build(optim.Adam, like="paper"), {}),
    "Adam like keras": ("adam_keras", build(optim.Adam, like="keras"), {}),
    "Adam like keras, large ε": ("adam_keras", build(optim.Adam, like="keras", eps=EPSILONS), {"eps": EPSILONS}),
    "Adam like optax": ("adam_optax", build(optim.Adam, like="optax", eps=EPSILONS), {"eps": EPSILONS}),
    "Adam like the tutorials": ("adam_tutorial", build(optim.Adam, like="tutorial", eps=EPSILONS), {"eps": EPSILONS}),
    "Adam like the tutorials, uncorrected": (
        "adam_tutorial",
        build(optim.Adam, like="tutorial", bias_correction=False),
        {"bias_correction": False},
    ),
    **{
        f"AdamW, decay by {by}": ("adamw", build(optim.AdamW, weight_decay=0.03, decay=by), {"weight_decay": 0.03, "decay": by})
        for by in ("rate", "schedule", "constant")
    },
    "Adam with decoupled decay": (
        "adamw",
        build(optim.Adam, decoupled_weight_decay=True, weight_decay=0.1),
        {"weight_decay": 0.1, "decay": "rate"},
    ),
    "AMSGrad": ("amsgrad", build(optim.AMSGrad, betas=(0.8, 0.9), weight_decay=0.1), {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    "AMSGrad like optax": (
        "amsgrad_optax",
        build(optim.AMSGrad, like="optax", betas=(0.8, 0.9), eps=EPSILONS),
        {"betas": (0.8, 0.9), "eps": EPSILONS},
    ),
    "NAdam": ("nadam", build(optim.NAdam), {}),
    "NAdam with everything": (
        "nadam",
        build(optim.NAdam, betas=(0.8, 0.99), eps=EPSILONS, weight_decay=0.1, momentum_decay=0.1),
        {"betas": (0.8, 0.99), "eps": EPSILONS, "weight_decay": 0.1, "momentum_decay": 0.1},
    ),
    "NAdam, decoupled": (
        "nadam",
        build(optim.NAdam, weight_decay=LAMBDA, decoupled_weight_decay=True),
        {"weight_decay": LAMBDA, "decoupled": True},
    ),
    "RAdam": ("radam", build(optim.RAdam), {}),
    "RAdam with everything": (
        "radam",
        build(optim.RAdam, betas=(0.8, 0.9), eps=EPSILONS, weight_decay=0.1),
        {"betas": (0.8, 0.9), "eps": EPSILONS, "weight_decay": 0.1},
    ),
    "RAdam, decoupled": (
        "radam",
        build(optim.RAdam, weight_decay=LAMBDA, decoupled_weight_decay=True),
        {"weight_decay": LAMBDA, "decoupled": True},
    ),
    "RAdam that is never rectified": ("radam", build(optim.RAdam, betas=(0.9, 0.6)), {"betas": (0.9, 0.6)}),
    "AdaBelief": ("adabelief", build(optim.AdaBelief), {}),
    "AdaBelief, large ε": (
        "adabelief",
        build(optim.AdaBelief, eps=EPSILONS, betas=(0.8, 0.99)),
        {"eps": EPSILONS, "betas": (0.8, 0.99)},
    ),
}  # fmt: skip

BETAS = {"betas": (MOMENTA, SECOND)}
CHANGING: dict[str, Case] = {  # twin, ours, the numbers of each update; the rate changes in all of them
    "SGD": ("sgd", build(optim.SGD), {"weight_decay": FALLING}),
    "SGD, everything": (
        "sgd",
        build(optim.SGD, momentum=0.9),
        {"momentum": MOMENTA, "dampening": FALLING, "weight_decay": FALLING},
    ),
    "SGD whose momentum comes and goes": (
        "sgd",
        build(optim.SGD, momentum=0.9),
        {"momentum": [0.9 * (t // 5 % 2) for t in range(UPDATES)]},
    ),
    "Polyak's ball, the rate inside": (
        "heavy_ball",
        parts(direction=direction.HeavyBall(0.9, rate="inside")),
        {"momentum": MOMENTA},
    ),
    "Nesterov": ("nesterov", build(optim.Nesterov), {"momentum": MOMENTA}),
    "Lion": ("lion", build(optim.Lion), {**BETAS, "weight_decay": FALLING}),
    "RMS": ("rms_mean", build(optim.RMS), {"weight_decay": FALLING}),
    "Adagrad": ("adagrad", build(optim.Adagrad, lr_decay=0.1), {"weight_decay": FALLING}),
    "Adagrad like keras": ("adagrad_keras", build(optim.Adagrad, like="keras"), {}),
    "RMSprop": ("rmsprop", build(optim.RMSprop), {"alpha": MOMENTA, "weight_decay": FALLING}),
    "RMSprop, everything": (
        "rmsprop",
        build(optim.RMSprop, momentum=0.9),
        {"alpha": MOMENTA, "momentum": MOMENTA, "weight_decay": FALLING},
    ),
    "RMSprop like keras": (
        "rmsprop_keras",
        build(optim.RMSprop, like="keras", momentum=0.9),
        {"rho": MOMENTA, "momentum": MOMENTA},
    ),
    "RMSprop like optax": (
        "rmsprop_optax",
        build(optim.RMSprop, like="optax", momentum=0.9),
        {"decay": MOMENTA, "momentum": MOMENTA},
    ),
    "RMSprop like the paper": ("rmsprop_paper", build(optim.RMSprop, like="paper"), {"alpha": MOMENTA}),
    "RMSprop like the tutorials": ("rmsprop_tutorial", build(optim.RMSprop, like="tutorial"), {"alpha": MOMENTA}),
    "Adadelta": ("adadelta", build(optim.Adadelta), {"rho": MOMENTA, "weight_decay": FALLING}),
    "Adam": ("adam", build(optim.Adam), {**BETAS, "weight_decay": FALLING}),
    "Adam like keras": ("adam_keras", build(optim.Adam, like="keras"), BETAS),
    "Adam like the tutorials": ("adam_tutorial", build(optim.Adam, like="tutorial"), BETAS),
    **{
        f"AdamW, decay by {by}": ("adamw", build(optim.AdamW, decay=by), {**BETAS, "weight_decay": FALLING})
        for by in ("rate", "schedule", "constant")
    },
    "AMSGrad": ("amsgrad", build(optim.AMSGrad), {**BETAS, "weight_decay": FALLING}),
    "AMSGrad like optax": ("amsgrad_optax", build(optim.AMSGrad, like="optax"), BETAS),
    "NAdam": ("nadam", build(optim.NAdam), {**BETAS, "weight_decay": FALLING}),
    "NAdam, decoupled": ("nadam", build(optim.NAdam, decoupled_weight_decay=True), {"weight_decay": FALLING}),
    "RAdam": ("radam", build(optim.RAdam), {**BETAS, "weight_decay": FALLING}),
    "AdaBelief": ("adabelief", build(optim.AdaBelief), BETAS),
}  # fmt: skip
KEYS = {"rho": ("rho", "alpha"), "decay": ("alpha",)}  # a twin's name → where a group has it


def problem(dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """A first θ and its gradients, each entry of its own size from 1e-3 to 10; one gradient is zero."""
    generator = torch.Generator().manual_seed(0)
    theta, *gradients = torch.randn(UPDATES + 1, 3, 11, generator=generator, dtype=torch.float64).to(dtype)
    sizes = 10 ** torch.linspace(-3, 1, 33, dtype=dtype).reshape(3, 11)
    gradients = [g * sizes for g in gradients]
    gradients[7] = torch.zeros_like(theta)
    return theta, gradients


def path(make: Any, backend: str, dtype: torch.dtype, rates: Any, changing: dict[str, Any]) -> list[Tensor]:
    """Where our optimizer goes; what changes is written into its group before each update."""
    theta, gradients = problem(dtype)
    parameter = nn.Parameter(theta.clone())
    optimizer = make([parameter], backend, rates if isinstance(rates, float) else rates[0])
    out = []
    for t, gradient in enumerate(gradients):
        group = optimizer.param_groups[0]
        group["lr"] = rates if isinstance(rates, float) else rates[t]
        for name, values in changing.items():
            key = next(key for key in (*KEYS.get(name, ()), name) if key in group)
            group[key] = tuple(each[t] for each in values) if name == "betas" else values[t]
        parameter.grad = gradient
        optimizer.step()
        out.append(parameter.detach().clone())
    return out


def gap(twin: Sequence[Tensor], mine: Sequence[Tensor]) -> float:
    """The largest ‖a − b‖/‖a‖ along the path."""
    assert all(one.isfinite().all() for one in (*twin, *mine))
    return max(float((a - b).norm() / a.norm()) for a, b in zip(twin, mine, strict=True))


def off(twin: str, dtype: torch.dtype, mine: list[Tensor], **options: Any) -> float:
    """The gap to the twin; in float32, where the twin rounds as well, to it or to the same in float64, whichever is nearer."""
    theta, gradients = problem(dtype)
    to_twin = gap(TWINS[twin](theta, gradients, **options), mine)
    to_truth = gap(TWINS[twin](theta.double(), [g.double() for g in gradients], **options), [one.double() for one in mine])
    return min(to_twin, to_truth)


@each_backend
@each_dtype
class TestEqualsItsTwin:
    @pytest.mark.parametrize("case", CASES)
    def test_with_numbers_that_stay(self, case, dtype, backend):
        twin, make, options = CASES[case]
        assert off(twin, dtype, path(make, backend, dtype, RATE, {}), lr=RATE, **options) <= BARS[dtype]

    @pytest.mark.parametrize("case", CHANGING)
    def test_with_numbers_that_change_at_each_update(self, case, dtype, backend):
        twin, make, changing = CHANGING[case]
        fixed = {"Adagrad": {"lr_decay": 0.1}, "NAdam, decoupled": {"decoupled": True}}.get(case, {})
        if case.startswith("AdamW"):
            fixed = {"decay": case.split()[-1]}
        assert off(twin, dtype, path(make, backend, dtype, RATES, changing), lr=RATES, **changing, **fixed) <= BARS[dtype]


@each_backend
class TestByHand:
    """What no twin has."""

    def test_adam_without_hats_is_m_over_root_v(self, backend):
        theta, gradients = problem(torch.float64)
        m, v, expected = torch.zeros_like(theta), torch.zeros_like(theta), []
        for g in gradients:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            theta = theta - 0.02 * m / (v.sqrt() + EPSILONS)
            expected.append(theta)
        make = build(optim.Adam, bias_correction=False, eps=EPSILONS)
        assert gap(expected, path(make, backend, torch.float64, 0.02, {})) <= 1e-12

    def test_the_first_step_of_uncorrected_adam_is_longer_by_one_minus_beta_over_root(self, backend):
        def first(corrected: bool) -> float:
            weight = nn.Parameter(torch.zeros(1))
            optimizer = optim.Adam([weight], lr=1.0, eps=0.0, bias_correction=corrected, backend=backend)
            weight.grad = torch.ones(1)
            optimizer.step()
            return -weight.item()

        assert first(True) == pytest.approx(1.0, rel=1e-12)
        assert first(False) == pytest.approx(0.1 / math.sqrt(0.001), rel=1e-12)

    def test_the_tutorials_rmsprop_moves_by_the_rate_at_first(self, backend):
        """σ⁰ = |g⁰|, whatever its size."""
        weight = nn.Parameter(torch.zeros(3))
        optimizer = optim.RMSprop([weight], lr=0.1, like="tutorial", eps=0.0, backend=backend)
        weight.grad = torch.tensor([1e-3, -1.0, 1e3])
        optimizer.step()
        assert weight.tolist() == pytest.approx([-0.1, 0.1, -0.1], rel=1e-12)

    def test_adadelta_moves_by_the_root_of_epsilons_ratio_at_first(self, backend):
        weight = nn.Parameter(torch.zeros(1))
        optimizer = optim.Adadelta([weight], eps=1e-6, backend=backend)
        weight.grad = torch.ones(1)
        optimizer.step()
        assert weight.item() == pytest.approx(-math.sqrt(1e-6 / (0.1 + 1e-6)), rel=1e-12)

    def test_optaxs_amsgrad_never_raises_its_rate_and_torchs_does(self, backend):
        """After one large gradient: research §4.3."""

        def moved(like: str) -> list[float]:
            weight = nn.Parameter(torch.zeros(1))
            optimizer = optim.AMSGrad([weight], lr=1.0, betas=(0.0, 0.999), eps=0.0, like=like, backend=backend)
            out = []
            for t in range(30):
                weight.grad = torch.full((1,), 10.0 if t == 0 else 1.0)
                before = weight.item()
                optimizer.step()
                out.append(before - weight.item())
            return out

        assert max(moved("optax")[1:]) == pytest.approx(0.1, rel=1e-12)
        assert moved("torch")[-1] > 0.15

    def test_the_paper_decays_by_the_schedule_alone(self, backend):
        """λ·η/η₀, η₀ the group's first rate; constant: λ; by rate: λ·η."""
        for by, expected in {"rate": 0.1 * 0.05, "schedule": 0.1 * 0.5, "constant": 0.1}.items():
            weight = nn.Parameter(torch.ones(1))
            optimizer = optim.AdamW([weight], lr=0.1, weight_decay=0.1, decay=by, backend=backend)
            optimizer.param_groups[0]["lr"] = 0.05
            weight.grad = torch.zeros(1)
            optimizer.step()
            assert 1 - weight.item() == pytest.approx(expected, rel=1e-12)

    def test_maximize_goes_the_way_of_the_negated_gradient(self, backend):
        for kind in ("SGD", "Momentum", "Nesterov", "Lion", "RMS", "AMSGrad", "AdaBelief", "NAdam"):
            theta, gradients = problem(torch.float64)
            up, down = nn.Parameter(theta.clone()), nn.Parameter(theta.clone())
            a = getattr(optim, kind)([up], lr=0.02, maximize=True, backend=backend)
            b = getattr(optim, kind)([down], lr=0.02, backend=backend)
            for g in gradients[:10]:
                up.grad, down.grad = g, -g
                a.step()
                b.step()
            assert gap([down.detach()], [up.detach()]) <= 1e-14


def test_every_rule_of_the_room_is_held_against_a_twin():
    kinds = {name for name in optim.__all__ if isinstance(getattr(optim, name), type)} - {"Optimizer"}
    assert {case.split()[0].rstrip(",") for case in CASES} >= kinds


@pytest.mark.parametrize("by", ["rate", "schedule", "constant"])
def test_decays_as_a_part_and_as_a_preset_are_one(by):
    from_parts = parts(
        direction=direction.MovingAverage(), scale=scale.Average(0.999, corrected=True), decay=decay.Decoupled(0.03, by)
    )
    mine = path(from_parts, "reference", torch.float64, RATES, {})
    preset = path(build(optim.AdamW, weight_decay=0.03, decay=by), "reference", torch.float64, RATES, {})
    assert all(torch.equal(a, b) for a, b in zip(mine, preset, strict=True))
