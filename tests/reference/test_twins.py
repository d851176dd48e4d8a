"""The twins themselves: against torch, against optax, and against numbers worked out by hand where neither has the rule."""

import itertools
import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reference.optim import RULES, TWINS

UPDATES = 30
RATES = [0.1 * (1 + math.sin(t)) for t in range(UPDATES)]
FALLING = [0.2 * 0.9**t for t in range(UPDATES)]
MOMENTA = [0.95 - 0.1 * math.cos(t) ** 2 for t in range(UPDATES)]
BETAS = ([0.95 - 0.1 * math.cos(t) ** 2 for t in range(UPDATES)], [0.99 + 0.009 * math.sin(t) ** 2 for t in range(UPDATES)])


def problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    """A first θ and thirty gradients, each entry of its own size from 1e-4 to 100, one gradient zero."""
    generator = torch.Generator().manual_seed(0)
    theta, *gradients = torch.randn(UPDATES + 1, 3, 4, generator=generator, dtype=dtype)
    sizes = 10 ** torch.linspace(-4, 2, 12, dtype=dtype).reshape(3, 4)
    gradients = [g * sizes for g in gradients]
    gradients[7] = torch.zeros_like(theta)
    return theta, gradients


def scalar(*values: float) -> list[Tensor]:
    """Gradients of one number."""
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def steps(name: str, *gradients: float, theta: float = 0.0, lr: Any = 1.0, **options: Any) -> list[float]:
    """What each update took off a parameter that is one number."""
    path = [theta, *(float(theta_t) for theta_t in TWINS[name](*scalar(theta), scalar(*gradients), lr=lr, **options))]
    return [before - after for before, after in itertools.pairwise(path)]


def hand(*values: float) -> Any:
    """Numbers worked out by hand."""
    return pytest.approx(list(values), rel=1e-12, abs=1e-15)


class TestEveryTwin:
    @pytest.mark.parametrize("twin", RULES, ids=lambda twin: twin.__name__)
    def test_gives_one_theta_an_update_out_of_place_and_in_the_dtype_that_came(self, twin):
        theta, gradients = problem(torch.float32)
        before = [x.clone() for x in (theta, *gradients)]
        path = twin(theta, gradients, lr=0.1)
        assert len(path) == UPDATES
        assert all(x.dtype == torch.float32 and x.shape == theta.shape and x.isfinite().all() for x in path)
        assert all(torch.equal(x, y) for x, y in zip(before, (theta, *gradients), strict=True))

    @pytest.mark.parametrize("twin", RULES, ids=lambda twin: twin.__name__)
    def test_takes_the_same_steps_from_a_rate_told_once_and_told_each_time(self, twin):
        theta, gradients = problem()
        once, each = twin(theta, gradients, lr=0.1), twin(theta, gradients, lr=[0.1] * UPDATES)
        assert all(torch.equal(a, b) for a, b in zip(once, each, strict=True))

    @pytest.mark.parametrize("twin", RULES, ids=lambda twin: twin.__name__)
    def test_takes_each_rate_at_its_own_update(self, twin):
        """With no rate but at update 4, θ moves there and nowhere else; only the heavy ball goes on rolling."""
        theta, gradients = problem()
        path = [theta, *twin(theta, gradients, lr=[0.0, 0.0, 0.0, 0.1] + [0.0] * (UPDATES - 4))]
        moved = [t for t in range(1, UPDATES + 1) if not torch.equal(path[t - 1], path[t])]
        assert moved == (list(range(4, UPDATES + 1)) if twin.__name__ == "heavy_ball" else [4])

    def test_is_found_by_its_name(self):
        assert {name: twin.__name__ for name, twin in TWINS.items()} == {name: name for name in TWINS}
        assert len(TWINS) == len(RULES) + 3


def torch_path(kind: type[torch.optim.Optimizer], scheduled: dict[str, Sequence[Any]], **options: Any) -> list[Tensor]:
    """The path of torch's own for-loop over the problem, each scheduled option set before its update."""
    theta, gradients = problem()
    parameter = nn.Parameter(theta.clone())
    optimizer = kind([parameter], foreach=False, **options)
    path = []
    for t, gradient in enumerate(gradients):
        optimizer.param_groups[0].update({key: values[t] for key, values in scheduled.items()})
        parameter.grad = gradient.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return path


def assert_equal_paths(path: Sequence[Tensor], other: Sequence[Tensor], tolerance: float) -> None:
    assert len(path) == len(other) == UPDATES
    for t, (mine, theirs) in enumerate(zip(path, other, strict=True), start=1):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, msg=lambda text, t=t: f"update {t}: {text}")


T = torch.optim
MIRRORS: list[tuple[str, type[T.Optimizer], dict[str, Any], dict[str, Any]]] = [  # twin, torch's class, its options, torch's own
    ("sgd", T.SGD, {}, {}),
    ("sgd", T.SGD, {"weight_decay": 0.1}, {}),
    ("sgd", T.SGD, {"dampening": 0.5}, {}),
    ("sgd", T.SGD, {"momentum": 0.9}, {}),
    ("sgd", T.SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}, {}),
    ("sgd", T.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, {}),
    ("heavy_ball", T.SGD, {"momentum": 0.9}, {}),
    ("nesterov", T.SGD, {"momentum": 0.9}, {"nesterov": True}),
    ("adagrad", T.Adagrad, {}, {}),
    ("adagrad", T.Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-2}, {}),
    ("rmsprop", T.RMSprop, {}, {}),
    ("rmsprop", T.RMSprop, {"alpha": 0.9, "weight_decay": 0.1, "eps": 1e-2}, {}),
    ("rmsprop", T.RMSprop, {"momentum": 0.9}, {}),
    ("rmsprop", T.RMSprop, {"centered": True}, {}),
    ("rmsprop", T.RMSprop, {"centered": True, "momentum": 0.9, "weight_decay": 0.1, "eps": 1e-2}, {}),
    ("rmsprop_paper", T.RMSprop, {"alpha": 0.9}, {}),
    ("adadelta", T.Adadelta, {}, {}),
    ("adadelta", T.Adadelta, {"rho": 0.95, "eps": 1e-3, "weight_decay": 0.1}, {}),
    ("adam", T.Adam, {}, {}),
    ("adam", T.Adam, {"betas": (0.8, 0.99), "eps": 1e-2, "weight_decay": 0.1}, {}),
    ("adamw", T.AdamW, {}, {}),
    ("adamw", T.AdamW, {"betas": (0.8, 0.99), "eps": 1e-2, "weight_decay": 0.1}, {}),
    ("amsgrad", T.Adam, {}, {"amsgrad": True}),
    ("amsgrad", T.Adam, {"betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.1}, {"amsgrad": True}),
    ("nadam", T.NAdam, {}, {}),
    ("nadam", T.NAdam, {"betas": (0.8, 0.99), "eps": 1e-2, "weight_decay": 0.1, "momentum_decay": 0.1}, {}),
    ("nadam", T.NAdam, {"weight_decay": 0.1, "decoupled": True}, {"decoupled_weight_decay": True}),
    ("radam", T.RAdam, {}, {}),
    ("radam", T.RAdam, {"betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.1}, {}),
    ("radam", T.RAdam, {"weight_decay": 0.1, "decoupled": True}, {"decoupled_weight_decay": True}),
]
SCHEDULED: list[tuple[str, type[T.Optimizer], dict[str, Any], dict[str, Any]]] = [
    ("sgd", T.SGD, {"momentum": MOMENTA, "weight_decay": FALLING}, {}),
    ("nesterov", T.SGD, {"momentum": MOMENTA}, {"nesterov": True}),
    ("adagrad", T.Adagrad, {"weight_decay": FALLING}, {}),
    ("rmsprop", T.RMSprop, {"alpha": MOMENTA, "momentum": MOMENTA, "weight_decay": FALLING}, {}),
    ("adadelta", T.Adadelta, {"rho": MOMENTA, "weight_decay": FALLING}, {}),
    ("adam", T.Adam, {"betas": BETAS, "weight_decay": FALLING}, {}),
    ("adamw", T.AdamW, {"betas": BETAS, "weight_decay": FALLING}, {}),
    ("amsgrad", T.Adam, {"betas": BETAS}, {"amsgrad": True}),
    ("nadam", T.NAdam, {"betas": BETAS, "weight_decay": FALLING}, {}),
    ("radam", T.RAdam, {"betas": BETAS, "weight_decay": FALLING}, {}),
]


class TestAgainstTorch:
    @pytest.fixture(autouse=True)
    def float64_scalars(self) -> Iterator[None]:
        """Torch keeps NAdam's product of μ in the default dtype, which is float32 unless told otherwise."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(before)

    @pytest.mark.parametrize(("name", "kind", "options", "own"), MIRRORS)
    def test_the_path_is_torchs(self, name, kind, options, own):
        theirs = {key: value for key, value in options.items() if key != "decoupled"}
        mine = TWINS[name](*problem(), lr=0.1, **options)
        assert_equal_paths(mine, torch_path(kind, {}, lr=0.1, **theirs, **own), 1e-12)

    @pytest.mark.parametrize(("name", "kind", "options", "own"), SCHEDULED)
    def test_the_path_is_torchs_with_every_hyperparameter_scheduled(self, name, kind, options, own):
        scheduled = {key: list(zip(*values, strict=True)) if key == "betas" else values for key, values in options.items()}
        first = {key: values[0] for key, values in scheduled.items()}
        mine = TWINS[name](*problem(), lr=RATES, **options)
        assert_equal_paths(mine, torch_path(kind, {"lr": RATES, **scheduled}, lr=RATES[0], **first, **own), 1e-12)

    def test_radam_rectifies_within_the_thirty_updates_and_not_from_the_first(self):
        """ρ_t of β2 = 0.999 passes 5 at t = 6, so both branches were compared above."""
        rho = [1999 - 2 * t * 0.999**t / (1 - 0.999**t) for t in (5, 6)]
        assert rho[0] < 5 < rho[1]

    @pytest.mark.parametrize("limit", [1e-3, 1.0, 1e9])
    def test_clipping_by_norm_is_torchs(self, limit):
        gradients = problem()[1][:3]
        parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        nn.utils.clip_grad_norm_(parameters, limit, foreach=False)
        for mine, parameter in zip(TWINS["clip_norm"](gradients, limit, eps=1e-6), parameters, strict=True):
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-12, atol=0)

    def test_clipping_by_value_is_torchs(self):
        gradients = problem()[1][:3]
        parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        nn.utils.clip_grad_value_(parameters, 0.5, foreach=False)
        assert all(torch.equal(x, p.grad) for x, p in zip(TWINS["clip_value"](gradients, 0.5), parameters, strict=True))


class TestMomentumByHand:
    def test_the_heavy_ball_keeps_movements_and_sgd_keeps_gradients(self):
        """g = 1, 1; η = 0.1, 0.05; μ = 0.5. Ball: 0.1, then 0.05 + 0.5·0.1 = 0.1. Buffer: 0.1, then 0.05·(0.5 + 1) = 0.075."""
        assert steps("heavy_ball", 1, 1, lr=[0.1, 0.05], momentum=0.5) == hand(0.1, 0.1)
        assert steps("sgd", 1, 1, lr=[0.1, 0.05], momentum=0.5) == hand(0.1, 0.075)

    def test_nesterov_follows_the_points_at_which_sutskever_takes_his_gradients(self):
        """f(x) = ½·3·x², eqs. 3 and 4 word by word: v = μ·v − ε·∇f(θ + μ·v), θ = θ + v."""
        epsilon, mu, theta, v = 0.1, 0.8, 1.0, 0.0
        ahead, gradients = [], []
        for _ in range(10):
            gradients.append(3 * (theta + mu * v))
            v = mu * v - epsilon * gradients[-1]
            theta = theta + v
            ahead.append(theta + mu * v)
        path = TWINS["nesterov"](*scalar(1.0), scalar(*gradients), lr=epsilon, momentum=mu)
        assert [float(x) for x in path] == hand(*ahead)

    def test_lion_follows_the_sign_of_what_the_momentum_would_become(self):
        """g = 1, −0.095, −0.2; β = 0.5, 0.9; θ_0 = 1, η = λ = 0.1.

        c = 0.5; m = 0.1. c = 0.05 − 0.0475 = 0.0025, still +; m = 0.09 − 0.0095 = 0.0805. c = 0.04025 − 0.1, now −.
        θ = 1 − 0.1·(1 + 0.1) = 0.89; 0.89 − 0.1·(1 + 0.089) = 0.7811; 0.7811 − 0.1·(−1 + 0.07811) = 0.873289.
        """
        path = TWINS["lion"](*scalar(1.0), scalar(1, -0.095, -0.2), lr=0.1, betas=(0.5, 0.9), weight_decay=0.1)
        assert [float(x) for x in path] == hand(0.89, 0.7811, 0.873289)

    def test_lions_momentum_is_kept_with_its_second_beta(self):
        """g = 1, 0; β = 0.5, 0.9: m = 0.1, 0.09, so the third step turns round between g = −0.08 and g = −0.1."""
        assert steps("lion", 1, 0, -0.08, betas=(0.5, 0.9)) == hand(1, 1, 1)
        assert steps("lion", 1, 0, -0.1, betas=(0.5, 0.9)) == hand(1, 1, -1)


class TestTheMeanAndTheSumByHand:
    def test_rms_mean_divides_by_the_root_mean_square_of_all(self):
        """g = 1, 7, 5: means 1, 50/2 = 25, 75/3 = 25, so σ = 1, 5, 5."""
        assert steps("rms_mean", 1, 7, 5, eps=0.0) == hand(1, 7 / 5, 1)

    def test_rms_mean_has_its_epsilon_where_it_is_told(self):
        """ε = 24. Outside: σ + ε = 25, 29, 29. Inside: √25 = 5, √49 = 7, 7."""
        assert steps("rms_mean", 1, 7, 5, eps=24.0) == hand(1 / 25, 7 / 29, 5 / 29)
        assert steps("rms_mean", 1, 7, 5, eps=24.0, eps_place="inside") == hand(1 / 5, 1, 5 / 7)

    def test_rms_mean_decays_into_the_gradient(self):
        """θ_0 = 2, g = 0, 0; λ = 1, η = 1: g' = 2, σ = 2, θ = 1; g' = 1, σ = √(5/2), step 1/√2.5."""
        assert steps("rms_mean", 0, 0, theta=2.0, weight_decay=1.0, eps=0.0) == hand(1, 1 / math.sqrt(2.5))

    def test_adagrad_is_rms_mean_whose_rate_falls_as_the_root_of_time(self):
        theta, gradients = problem()
        falling = [0.1 / math.sqrt(t) for t in range(1, UPDATES + 1)]
        adagrad = TWINS["adagrad"](theta, gradients, lr=0.1, eps=0.0)
        assert_equal_paths(adagrad, TWINS["rms_mean"](theta, gradients, lr=falling, eps=0.0), 1e-12)

    def test_the_tutorials_adagrad_has_epsilon_inside_the_root(self):
        """g = 3, 4: sums 9, 25; with ε = 7: √16 = 4 and √32."""
        assert steps("adagrad_tutorial", 3, 4, eps=7.0) == hand(3 / 4, 4 / math.sqrt(32))

    @pytest.mark.parametrize("name", ["adagrad_keras", "adagrad_optax"])
    def test_keras_and_optax_start_adagrads_sum_above_zero(self, name):
        """The sum starts at 4, ε = 3: 4 + 9 + 3 = 16 and 4 + 25 + 3 = 32."""
        assert steps(name, 3, 4, initial_accumulator_value=4.0, eps=3.0) == hand(3 / 4, 4 / math.sqrt(32))
        assert steps(name, 3) == hand(3 / math.sqrt(0.1 + 9 + 1e-7))

    def test_optax_makes_no_step_where_the_sum_is_zero_even_without_epsilon(self):
        assert steps("adagrad_optax", 0, 2, initial_accumulator_value=0.0, eps=0.0) == hand(0, 1)


class TestTheRunningMeanByHand:
    def test_the_tutorials_rmsprop_starts_at_the_size_of_the_first_gradient(self):
        """α = 0.9, g = −2, 18, 26: σ² = 4, 3.6 + 32.4 = 36, 32.4 + 67.6 = 100."""
        assert steps("rmsprop_tutorial", -2, 18, 26, eps=0.0) == hand(-1, 3, 13 / 5)

    def test_the_tutorials_rmsprop_has_epsilon_inside_the_root_and_does_not_carry_it_on(self):
        """ε = 7: σ² + ε = 8, 16, 32."""
        assert steps("rmsprop_tutorial", 1, 9, 13, eps=7.0) == hand(1 / math.sqrt(8), 9 / 4, 13 / math.sqrt(32))

    def test_the_lectures_rmsprop_starts_at_zero_and_has_epsilon_outside(self):
        """α = 0.36, g = 1, 0.45: v = 0.64, then 0.2304 + 0.1296 = 0.36; roots 0.8, 0.6; with ε = 0.2: 1, 0.8."""
        assert steps("rmsprop_paper", 1, 0.45, alpha=0.36, eps=0.2) == hand(1, 0.5625)

    @pytest.mark.parametrize(("name", "alpha"), [("rmsprop_keras", "rho"), ("rmsprop_optax", "decay")])
    def test_keras_and_optax_have_epsilon_inside_the_root(self, name, alpha):
        """v = 0.64, 0.36 as above; with ε = 0.36: √1 and √0.72."""
        assert steps(name, 1, 0.45, **{alpha: 0.36}, eps=0.36) == hand(1, 0.45 / math.sqrt(0.72))

    @pytest.mark.parametrize(("name", "alpha"), [("rmsprop_keras", "rho"), ("rmsprop_optax", "decay")])
    def test_keras_and_optax_keep_the_rate_inside_the_momentum(self, name, alpha):
        """α = 0.36, ε = 0.36, g = 1, 0.8: v = 0.64 twice, roots 1. η = 0.1, 0.2; μ = 0.5: 0.1, then 0.5·0.1 + 0.2·0.8 = 0.21."""
        options = {alpha: 0.36, "eps": 0.36, "momentum": 0.5, "lr": [0.1, 0.2]}
        assert steps(name, 1, 0.8, **options) == hand(0.1, 0.21)

    def test_torch_keeps_the_rate_outside_the_momentum(self):
        """α = 0.36, ε = 0.2 outside: σ + ε = 1. η = 0.1, 0.2; μ = 0.5: 0.1·1, then 0.2·(0.5·1 + 0.8) = 0.26."""
        assert steps("rmsprop", 1, 0.8, alpha=0.36, eps=0.2, momentum=0.5, lr=[0.1, 0.2]) == hand(0.1, 0.26)

    @pytest.mark.parametrize(("name", "alpha"), [("rmsprop_keras", "rho"), ("rmsprop_optax", "decay")])
    def test_keras_and_optax_center_inside_the_root(self, name, alpha):
        """α = 0.5, g = 2, 4: v = 2, 9; means 1, 2.5; v − mean² = 1, 2.75; with ε = 1.25: roots 1.5, 2."""
        assert steps(name, 2, 4, **{alpha: 0.5}, eps=1.25, centered=True) == hand(2 / 1.5, 2)


class TestAdamAndItsKinByHand:
    """β = 0.5, 0.96 and g = 5, 2.5 unless said: m = 2.5, 2.5; v = 1, 0.96 + 0.25 = 1.21; √v = 1, 1.1.

    1 − β1^t = 0.5, 0.75; 1 − β2^t = 0.04, 0.0784 with the roots 0.2, 0.28. So m̂ = 5, 10/3 and √v̂ = 5, 55/14.
    """

    BETAS = (0.5, 0.96)

    def test_adam_has_epsilon_beside_the_corrected_root(self):
        """ε = 1: 5/6, and (10/3)/(69/14) = 140/207."""
        assert steps("adam", 5, 2.5, betas=self.BETAS, eps=1.0) == hand(5 / 6, 140 / 207)

    def test_keras_has_epsilon_beside_the_uncorrected_root(self):
        """α = 0.2/0.5, 0.28/0.75; with ε = 0.1: 0.4·2.5/1.1 = 10/11, (0.28/0.75)·2.5/1.2 = 7/9."""
        assert steps("adam_keras", 5, 2.5, betas=self.BETAS, eps=0.1) == hand(10 / 11, 7 / 9)

    def test_optax_has_one_epsilon_inside_and_one_outside(self):
        """Inside 11, outside 4: 5/(√36 + 4) = 1/2, and (10/3)/(√(1.21/0.0784 + 11) + 4)."""
        second = (10 / 3) / (math.sqrt(1.21 / 0.0784 + 11) + 4)
        assert steps("adam_optax", 5, 2.5, betas=self.BETAS, eps=4.0, eps_root=11.0) == hand(1 / 2, second)

    def test_the_tutorials_adam_has_epsilon_inside_the_corrected_root(self):
        """ε = 11: 5/√36, and (10/3)/√(1.21/0.0784 + 11)."""
        second = (10 / 3) / math.sqrt(1.21 / 0.0784 + 11)
        assert steps("adam_tutorial", 5, 2.5, betas=self.BETAS, eps=11.0) == hand(5 / 6, second)

    def test_the_tutorials_adam_without_correction_divides_the_raw_moments(self):
        """ε = 0.44: 2.5/√1.44, 2.5/√1.65."""
        raw = steps("adam_tutorial", 5, 2.5, betas=self.BETAS, eps=0.44, bias_correction=False)
        assert raw == hand(2.5 / 1.2, 2.5 / math.sqrt(1.65))

    def test_amsgrad_takes_torchs_maximum_before_and_optaxs_after_the_correction(self):
        """ε = 0. Torch: max v = 1, 1.21, so √v̂ = 5, 55/14. Optax: max v̂ = 25, 25, so 5, 5."""
        assert steps("amsgrad", 5, 2.5, betas=self.BETAS, eps=0.0) == hand(1, 28 / 33)
        assert steps("amsgrad_optax", 5, 2.5, betas=self.BETAS, eps=0.0) == hand(1, 2 / 3)

    def test_amsgrads_divisor_falls_after_one_large_gradient_in_torch_and_stays_in_optax(self):
        """β1 = 0, β2 = 0.96, ε = 0, g = 5, 1: v = 1, then 0.96 + 0.04 = 1. Torch: 1/√(1/0.0784) = 0.28. Optax: 1/5."""
        assert steps("amsgrad", 5, 1, betas=(0.0, 0.96), eps=0.0) == hand(1, 0.28)
        assert steps("amsgrad_optax", 5, 1, betas=(0.0, 0.96), eps=0.0) == hand(1, 0.2)

    def test_adabelief_adds_epsilon_to_its_variance_for_good_and_again_outside(self):
        """ε = 0.11, g = 5, 7.5: m = 2.5, 5; g − m = 2.5 twice; s = 0.25 + ε = 0.36, then 0.3456 + 0.25 + ε = 0.7056.

        √ŝ = 0.6/0.2 = 3, then 0.84/0.28 = 3; m̂ = 5, 20/3.
        """
        assert steps("adabelief", 5, 7.5, betas=self.BETAS, eps=0.11) == hand(5 / 3.11, 20 / 3 / 3.11)

    def test_radam_below_its_threshold_is_momentum_without_a_size(self):
        """m̂ = 5, 10/3. With β2 = 0.96, ρ_∞ = 49 and ρ_2 = 49 − 4·0.9216/0.0784 < 4."""
        assert steps("radam", 5, 2.5, betas=self.BETAS) == hand(5, 10 / 3)

    def test_radam_with_the_papers_threshold_rectifies_one_update_earlier(self):
        """ρ_5 = 4.99 for β2 = 0.999, between the paper's 4 and torch's 5."""
        torchs, papers = (steps("radam", *[1.0] * 7, threshold=threshold) for threshold in (5.0, 4.0))
        assert [t for t, (a, b) in enumerate(zip(torchs, papers, strict=True), start=1) if abs(a - b) > 1e-9] == [5]

    @pytest.mark.parametrize(
        ("decay", "path"),
        [
            ("rate", (0.85, 0.77875)),  # 1·(1 − 0.1·0.5) − 0.1, then 0.85·(1 − 0.05·0.5) − 0.05
            ("schedule", (0.4, 0.25)),  # 1·(1 − 0.5) − 0.1, then 0.4·(1 − 0.5·0.5) − 0.05
            ("constant", (0.4, 0.15)),  # 1·(1 − 0.5) − 0.1, then 0.4·(1 − 0.5) − 0.05
        ],
    )
    def test_adamw_multiplies_its_decay_with_the_rate_the_schedule_or_nothing(self, decay, path):
        """β = 0, ε = 0, so the step is η·sign(g). θ_0 = 1, λ = 0.5, η = 0.1, 0.05."""
        options = {"betas": (0.0, 0.0), "eps": 0.0, "weight_decay": 0.5, "lr": [0.1, 0.05], "decay": decay}
        assert [float(x) for x in TWINS["adamw"](*scalar(1.0), scalar(2, 2), **options)] == hand(*path)

    def test_adamw_may_be_told_the_base_rate_of_a_schedule_that_starts_below_it(self):
        """η_0 = 0.1, η = 0, 0.1: 1·(1 − 0) − 0, then 1·(1 − 0.5) − 0.1."""
        options = {"betas": (0.0, 0.0), "eps": 0.0, "weight_decay": 0.5, "lr": [0.0, 0.1], "decay": "schedule", "base_lr": 0.1}
        assert [float(x) for x in TWINS["adamw"](*scalar(1.0), scalar(2, 2), **options)] == hand(1, 0.4)


class TestClippingByHand:
    def test_agc_clips_each_row_to_its_share_of_the_rows_weight(self):
        """λ = ε = 0.1. Row 1: 1 > 0.1·5, times 0.5. Row 2: ‖W‖* = ε, 0.05 > 0.01, times 0.2. Row 3: 0.1 ≤ 0.1·5, untouched."""
        w = torch.tensor([[3.0, 4], [0, 0], [3, 4]], dtype=torch.float64)
        g = torch.tensor([[0.6, 0.8], [0.03, 0.04], [0.1, 0]], dtype=torch.float64)
        clipped = TWINS["agc"](w, g, limit=0.1, eps=0.1)
        assert clipped.flatten().tolist() == hand(0.3, 0.4, 0.006, 0.008, 0.1, 0)

    def test_agc_takes_a_filter_as_one_unit(self):
        w, g = torch.randn(2, 5, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        flat = TWINS["agc"](w.flatten(1), g.flatten(1), limit=0.1)
        torch.testing.assert_close(TWINS["agc"](w, g, limit=0.1), flat.reshape(w.shape), rtol=1e-12, atol=0)

    def test_agc_takes_vectors_and_scalars_as_one_unit(self):
        """‖w‖ = 5, ‖g‖ = 1, λ = 0.1: times 0.5; and |w| = 2, |g| = 1: times 0.2."""
        w, g = torch.tensor([3.0, 4], dtype=torch.float64), torch.tensor([0.8, 0.6], dtype=torch.float64)
        assert TWINS["agc"](w, g, limit=0.1).tolist() == hand(0.4, 0.3)
        assert float(TWINS["agc"](*scalar(2.0, -1.0), limit=0.1)) == pytest.approx(-0.2, rel=1e-12)

    def test_agc_leaves_zero_gradients_zero(self):
        assert TWINS["agc"](torch.zeros(2, 2), torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]

    def test_clipping_by_norm_scales_all_gradients_by_one_number(self):
        """‖(3, 4, 12)‖ = 13; to 6.5: halves. To 13: untouched."""
        assert [float(g) for g in TWINS["clip_norm"](scalar(3, 4, 12), 6.5)] == hand(1.5, 2, 6)
        assert [float(g) for g in TWINS["clip_norm"](scalar(3, 4, 12), 13.0)] == [3, 4, 12]

    def test_clipping_by_value_cuts_each_entry(self):
        assert [float(g) for g in TWINS["clip_value"](scalar(3, -4, 0.5), 1.0)] == [1, -1, 0.5]


OPTAX: list[tuple[str, str, dict[str, Any], dict[str, Any] | None]] = [  # twin, alias, its options, optax's own (None: the same)
    ("sgd", "sgd", {"momentum": 0.9}, {"momentum": 0.9}),
    ("sgd", "sgd", {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
    ("adagrad_optax", "adagrad", {}, {}),
    ("adagrad_optax", "adagrad", {"initial_accumulator_value": 0.0, "eps": 1e-2}, None),
    ("rmsprop_optax", "rmsprop", {}, {}),
    ("rmsprop_optax", "rmsprop", {"decay": 0.99, "eps": 1e-2}, None),
    ("rmsprop_optax", "rmsprop", {"momentum": 0.9}, None),
    ("rmsprop_optax", "rmsprop", {"centered": True}, None),
    ("rmsprop_optax", "rmsprop", {"centered": True, "momentum": 0.9, "eps": 1e-2}, None),
    ("rmsprop_keras", "rmsprop", {"centered": True, "momentum": 0.9, "eps": 1e-2}, None),
    ("adadelta", "adadelta", {}, {"rho": 0.9, "eps": 1e-6}),
    ("adam_optax", "adam", {}, {}),
    ("adam_optax", "adam", {"betas": (0.8, 0.99), "eps": 1e-2, "eps_root": 1e-3}, None),
    ("adam_tutorial", "adam", {"eps": 1e-3}, {"eps": 0.0, "eps_root": 1e-3}),
    ("adamw", "adamw", {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ("amsgrad_optax", "amsgrad", {}, {}),
    ("amsgrad_optax", "amsgrad", {"betas": (0.8, 0.9), "eps": 1e-2, "eps_root": 1e-3}, None),
    ("radam", "radam", {"eps": 0.0}, {"eps": 0.0}),
    ("adabelief", "adabelief", {}, {}),
    ("adabelief", "adabelief", {"betas": (0.8, 0.99), "eps": 1e-3}, {"b1": 0.8, "b2": 0.99, "eps": 1e-3, "eps_root": 1e-3}),
    ("lion", "lion", {}, {"weight_decay": 0.0}),
    ("lion", "lion", {"betas": (0.8, 0.9), "weight_decay": 0.1}, {"b1": 0.8, "b2": 0.9, "weight_decay": 0.1}),
]


@pytest.mark.hosts
@pytest.mark.filterwarnings("default")
class TestAgainstOptax:
    @pytest.fixture
    def optax(self) -> Iterator[ModuleType]:
        """Optax in float64, and jax as it was afterwards."""
        optax = pytest.importorskip("optax")
        import jax

        before = jax.config.jax_enable_x64
        jax.config.update("jax_enable_x64", True)
        yield optax
        jax.config.update("jax_enable_x64", before)

    def optax_path(self, optax: ModuleType, transform: Any) -> list[Tensor]:
        from jax import numpy as jnp

        theta, gradients = problem()
        weights = jnp.asarray(theta.numpy())
        state, path = transform.init(weights), []
        for gradient in gradients:
            updates, state = transform.update(gradient.numpy(), state, weights)
            weights = optax.apply_updates(weights, updates)
            path.append(torch.tensor(weights.tolist(), dtype=torch.float64))
        return path

    @pytest.mark.parametrize(("name", "alias", "options", "theirs"), OPTAX)
    @pytest.mark.parametrize("rates", [[0.1] * UPDATES, RATES], ids=["constant", "scheduled"])
    def test_the_path_is_optaxs(self, optax, name, alias, options, theirs, rates):
        if theirs is None:
            theirs = {key: value for key, value in options.items() if key != "betas"}
            theirs |= dict(zip(("b1", "b2"), options["betas"], strict=True)) if "betas" in options else {}
        from jax import numpy as jnp

        table = jnp.asarray(rates)
        transform = getattr(optax, alias)(learning_rate=lambda count: table[count], **theirs)
        assert_equal_paths(TWINS[name](*problem(), lr=rates, **options), self.optax_path(optax, transform), 1e-10)

    @pytest.mark.parametrize("limit", [1e-3, 1.0, 1e3])
    def test_clipping_by_norm_is_optaxs(self, optax, limit):
        gradients = problem()[1][:3]
        theirs, _ = optax.clip_by_global_norm(limit).update([g.numpy() for g in gradients], optax.EmptyState())
        for mine, other in zip(TWINS["clip_norm"](gradients, limit), theirs, strict=True):
            assert mine.flatten().tolist() == pytest.approx(other.flatten().tolist(), rel=1e-10)

    @pytest.mark.parametrize("limit", [1e-3, 0.1, 10.0])
    def test_agc_is_optaxs_with_torchs_layout(self, optax, limit):
        """Optax reads a matrix as (in, out) unless told the axis to sum over."""
        theta, gradients = problem()
        for w, g, axis in ((theta, gradients[0], 1), (theta[0], gradients[0][0], None)):
            theirs, _ = optax.adaptive_grad_clip(limit, axis=axis).update(g.numpy(), optax.EmptyState(), w.numpy())
            assert TWINS["agc"](w, g, limit).flatten().tolist() == pytest.approx(theirs.flatten().tolist(), rel=1e-10)
