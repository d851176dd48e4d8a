"""What the tutorials say of gradient descent, of σ, of momentum and of the first steps, in worlds of two numbers.

What is stated on docs/optimizers.md is held here; where the tutorials say more than is so, the test says how far it is so.
"""

import importlib.util
import itertools
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

import lrkit
from lrkit import optim

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "optimizers.md").read_text()
STEEP = 200.0
RAVINE = torch.tensor([1.0, STEEP], dtype=torch.float64)  # f = ½(x² + 200·y²)


def slope(place):
    """The ravine's gradient."""
    return RAVINE * place


def saddle(place):
    """The gradient of f = ½·200·x² + ¼y⁴ − ½y²: a ridge at y = 0, minima at y = ±1."""
    x, y = place[..., 0], place[..., 1]
    return torch.stack([STEEP * x, y**3 - y], -1)


def descend(make, start, steps, gradient=slope, schedule=None, noise=0.0, seed=0):
    """The places (steps + 1, …), and η/σ after each update (steps, …). Leading dimensions of `start` are trials."""
    place = torch.nn.Parameter(torch.as_tensor(start, dtype=torch.float64).clone())
    optimizer = make([place])
    if schedule is not None:
        lrkit.attach(optimizer, lr=schedule, total=steps)
    rates = lrkit.effective_lr(optimizer)
    generator = torch.Generator().manual_seed(seed)
    places, effective = [place.detach().clone()], []
    for _ in range(steps):
        place.grad = gradient(place.detach()) + noise * torch.randn(place.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        places.append(place.detach().clone())
        effective.append(rates[place].detach().clone())
    return torch.stack(places), torch.stack(effective)


def sigmas(make, gradients):
    """σ after each of these gradients, of one entry."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer, out = make([weight]), []
    for g in gradients:
        weight.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        out.append(optimizer.param_groups[0]["lr"] / lrkit.effective_lr(optimizer)[weight].item())
    return out


@pytest.fixture(scope="module")
def example():
    """examples/line.py."""
    spec = importlib.util.spec_from_file_location("line", ROOT / "examples" / "line.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=range(3))
def far(example, request):
    """(way, schedule) → the distance from the least squares after each of twenty epochs."""
    x, y = example.points(request.param)
    best = example.least_squares(x, y)
    return {
        (way, schedule): [
            float((line - best).norm()) for line in example.fit(x, y, batch, lr, schedule, epochs=20, seed=request.param)
        ]
        for way, (batch, lr) in example.WAYS.items()
        for schedule in (example.FIXED, example.DECAYING)
    }


class TestALine:
    """y = wx + b: examples/line.py."""

    def test_least_squares_is_where_the_gradient_vanishes(self, example):
        x, y = example.points()
        w, b = example.least_squares(x, y)
        error = w * x + b - y
        assert abs(float((error * x).mean())) < 1e-6 and abs(float(error.mean())) < 1e-6

    def test_the_full_batch_arrives_at_the_least_squares(self, far, example):
        assert far["full batch", example.FIXED][-1] < 2e-6

    @pytest.mark.parametrize(("way", "least"), [("mini-batch", 0.01), ("stochastic", 0.05)])
    def test_fewer_points_an_update_keep_jittering_at_a_fixed_rate(self, far, example, way, least):
        last = far[way, example.FIXED][-10:]
        assert sum(last) / len(last) > least
        assert any(later > earlier for earlier, later in itertools.pairwise(last)), "it does not merely come slowly"

    def test_the_fewer_points_the_wider_the_jitter(self, far, example):
        mini, single = (sum(far[way, example.FIXED][-10:]) for way in ("mini-batch", "stochastic"))
        assert single > 3 * mini

    @pytest.mark.parametrize("way", ["mini-batch", "stochastic"])
    def test_with_a_decaying_rate_they_arrive(self, far, example, way):
        fixed, decaying = (far[way, schedule][-10:] for schedule in (example.FIXED, example.DECAYING))
        assert decaying[-1] < 5e-3
        assert decaying[-1] < sum(fixed) / len(fixed) / 4


class TestARavine:
    """One rate for two directions, 1 and 200 steep."""

    def test_at_the_lectures_larger_rate_it_bounces_for_ever(self):
        places, _ = descend(lambda p: optim.SGD(p, lr=1e-2), [1.0, 1.0], 200)
        assert torch.allclose(places[1:, 1], -places[:-1, 1])  # 1 − 0.01·200 = −1

    def test_at_the_lectures_smaller_rate_it_gets_into_the_valley_and_stays_far(self):
        places, _ = descend(lambda p: optim.SGD(p, lr=1e-3), [1.0, 1.0], 100)
        assert abs(places[-1, 1]) < 1e-9 and places[-1, 0] > 0.9
        # Of a hundred thousand updates at 1e-7 the product is the whole path: no need to walk it.
        assert math.isclose((1 - 1e-7 * STEEP) ** 100_000, 0.135, rel_tol=0.01) and (1 - 1e-7) ** 100_000 > 0.989

    @pytest.mark.parametrize(
        ("make", "near"),
        [
            (lambda p: optim.RMS(p, lr=0.05), 1e-5),
            (lambda p: optim.Adagrad(p, lr=0.5), 1e-5),
            (lambda p: optim.RMSprop(p, lr=0.01, like="tutorial"), 0.2),
            (lambda p: optim.Adam(p, lr=0.05), 0.01),
        ],
    )
    def test_a_scale_lets_both_directions_move_alike(self, make, near):
        places, _ = descend(make, [1.0, 1.0], 100)
        assert torch.allclose(places[:, 0], places[:, 1], atol=1e-6), "each entry is scaled by its own steepness"
        assert float(places[-1].abs().max()) < near

    def test_steep_is_slow_and_flat_is_fast(self):
        _, effective = descend(lambda p: optim.RMS(p, lr=0.05), [1.0, 1.0], 20)
        assert torch.allclose(effective[:, 0] / effective[:, 1], torch.tensor(STEEP, dtype=torch.float64), rtol=1e-4)

    def test_a_ravine_across_the_axes_is_not_mended_by_a_scale(self):
        turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
        curvature = turn @ torch.diag(RAVINE) @ turn.T
        along, _ = descend(lambda p: optim.RMS(p, lr=0.05), [1.0, 0.1], 100)
        start = turn @ torch.tensor([1.0, 0.1], dtype=torch.float64)
        across, _ = descend(lambda p: optim.RMS(p, lr=0.05), start, 100, gradient=lambda p: curvature @ p)
        assert along[-1, 0].abs() < 1e-5 and (across[-1] @ turn)[0] > 0.1


class TestScales:
    @pytest.mark.parametrize(("before", "after"), [(1.0, 0.1), (0.1, 1.0)])
    def test_rmsprop_follows_a_change_of_steepness(self, before, after):
        """After fifty updates it is there to a quarter; the mean of all and the sum are not."""
        gradients = [before] * 100 + [after] * 50
        ends = {make: sigmas(make, gradients)[-1] / after for make in (optim.RMS, optim.Adagrad)}
        assert sigmas(lambda p: optim.RMSprop(p, alpha=0.9), gradients)[-1] / after == pytest.approx(1.0, rel=0.25)
        assert not 0.65 < ends[optim.RMS] < 1.5 and ends[optim.Adagrad] > 7

    def test_the_rate_of_adagrad_only_falls(self):
        _, effective = descend(lambda p: optim.Adagrad(p, lr=0.5), [1.0, 1.0], 100, noise=1.0)
        assert bool((effective[1:] <= effective[:-1]).all())
        still = sigmas(lambda p: optim.RMSprop(p), [1.0] * 10 + [0.0] * 10)
        assert still[-1] < still[9], "where RMSprop forgets"

    def test_adagrad_is_the_mean_of_all_at_a_rate_of_one_over_root_t(self):
        gradients = torch.linspace(-3, 2, 50).tolist()
        for t, (mean, total) in enumerate(zip(sigmas(optim.RMS, gradients), sigmas(optim.Adagrad, gradients), strict=True), 1):
            assert total == pytest.approx(mean * math.sqrt(t), rel=1e-6)

    def test_an_entry_that_is_rarely_used_keeps_a_high_rate_under_adagrad(self):
        weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = optim.Adagrad([weight], lr=0.1)
        for t in range(100):
            weight.grad = torch.tensor([1.0, float(t % 50 == 0)], dtype=torch.float64)
            optimizer.step()
        often, rarely = lrkit.effective_lr(optimizer)[weight].tolist()
        assert rarely / often == pytest.approx(math.sqrt(100 / 2), rel=1e-6)

    def test_direction_and_scale_do_not_cancel(self):
        """Gradients +1, −1, +1 … and +1, +1, +1 … have the same σ; Adam's step differs by 1/19, (1 − β₁)/(1 + β₁)."""
        steps = {}
        for sign in (1.0, -1.0):
            weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
            optimizer = optim.Adam([weight], lr=1.0)
            for t in range(200):
                weight.grad = torch.tensor([sign**t], dtype=torch.float64)
                before = weight.item()
                optimizer.step()
            steps[sign] = abs(weight.item() - before)
            assert lrkit.effective_lr(optimizer)[weight].item() == pytest.approx(1.0)
        assert steps[-1.0] / steps[1.0] == pytest.approx(0.1 / 1.9, rel=1e-3)


class TestTheBlowUp:
    """Along the valley's floor y's gradients are tiny, so σ shrinks; once η/σ > 2/200, y grows at each update, until σ does."""

    STARTS = torch.stack([torch.full((6,), -1.0), torch.linspace(0.05, 0.15, 6)], 1)
    SETTLED, JUMP = 2e-3, 0.05

    def walks(self, schedule, updates=500):
        """|y| (updates + 1, 6), η/σ of y, and when each walk had settled on the floor."""
        places, effective = descend(lambda p: optim.RMS(p, lr=0.05), self.STARTS, updates, schedule=schedule)
        y = places[..., 1].abs()
        settled = (y < self.SETTLED).int()
        assert bool(settled.any(0).all())
        return y, effective[..., 1], settled.argmax(0).tolist()

    def jumps(self, schedule, updates=500):
        """When each walk first jumped off the floor; None where it never did."""
        y, _, settled = self.walks(schedule, updates)
        offs = [(y[s:, i] > self.JUMP).nonzero() for i, s in enumerate(settled)]
        return [int(off[0]) + s if len(off) else None for off, s in zip(offs, settled, strict=True)]

    def test_at_a_fixed_rate_every_walk_jumps_and_settles_again(self):
        y, effective, settled = self.walks(None)
        for i, (jump, floor) in enumerate(zip(self.jumps(None), settled, strict=True)):
            assert jump is not None
            assert float(y[jump : jump + 60, i].min()) < self.JUMP / 5
            crossed = int((effective[floor:, i] > 2 / STEEP).nonzero()[0]) + floor
            assert crossed < jump, "effective_lr says it before it is to be seen"

    def test_a_decay_that_is_fast_enough_cures_it(self):
        assert self.jumps("inverse 0.05") == [None] * 6

    def test_a_decay_that_is_too_slow_does_not(self):
        assert sum(jump is not None for jump in self.jumps("cosine")) == 5

    def test_a_warm_up_alone_only_puts_it_off(self):
        later = [(warm, cold) for warm, cold in zip(self.jumps("warmup 50"), self.jumps(None), strict=True) if warm is not None]
        assert len(later) == 4 and all(warm > cold for warm, cold in later)
        assert None not in self.jumps("warmup 50", 1500)

    def test_a_warm_up_and_a_decay_cure_it(self):
        assert self.jumps("warmup 50 > inverse 0.05") == [None] * 6

    @pytest.mark.parametrize(("make", "first"), [(optim.RMSprop, 0.5), (optim.Adam, 0.05)])
    def test_a_warm_up_cures_the_jump_at_the_start(self, make, first):
        """Begun on the floor, with next to no gradient along y: the first step is η all the same, of RMSprop ten times η."""
        walks = (descend(lambda p: make(p, lr=0.05), [-10.0, 1e-6], 50, schedule=s) for s in (None, "warmup 50"))
        cold, warm = (places[:, 1].abs() for places, _ in walks)
        assert float(cold.max()) == pytest.approx(first, rel=0.01) and int(cold.argmax()) == 1
        assert float(warm.max()) < first / 8


class TestASaddle:
    TRIALS = torch.tensor([[1.0, 0.0]] * 40)

    def left(self, make, seed, steps=1500):
        """When each of forty walks with noise has left the ridge; `steps` where it has not."""
        places, _ = descend(make, self.TRIALS, steps, gradient=saddle, noise=1e-3, seed=seed)
        away = (places[..., 1].abs() > 0.5).int()
        return torch.where(away.any(0), away.argmax(0), steps)

    @pytest.mark.parametrize("seed", range(1, 4))
    def test_momentum_leaves_while_sgd_stays(self, seed):
        """Both at nearly the largest rate that SGD can take, 2/200."""
        plain, heavy = (
            self.left(make, seed) for make in (lambda p: optim.SGD(p, lr=0.0095), lambda p: optim.Momentum(p, lr=0.0095))
        )
        assert bool((heavy < 300).all()) and not bool((plain < 300).any())
        assert plain.median() > 5 * heavy.median()

    @pytest.mark.parametrize(
        ("make", "lr", "updates"),
        [
            (optim.SGD, 0.0095, (876, 995, 1272)),
            (optim.Momentum, 0.0095, (125, 149, 219)),
            (optim.Momentum, 0.00095, (955, 1089, 1351)),
            (optim.Adam, 0.0095, (46, 46, 46)),
        ],
    )
    def test_momentum_is_a_matter_of_the_rate_that_it_can_take(self, make, lr, updates):
        """The page's table, first, median and last: at a tenth of the rate momentum is no sooner than SGD."""
        left = self.left(lambda p: make(p, lr=lr), 0, steps=300 if updates[-1] < 300 else 1500)
        assert [int(left.min()), int(left.median()), int(left.max())] == pytest.approx(updates, rel=0.05)

    def test_sgd_cannot_take_that_rate(self):
        places, _ = descend(lambda p: optim.SGD(p, lr=0.0105), self.TRIALS, 100, gradient=saddle)
        assert float(places[-1, :, 0].abs().min()) > 1e3

    @pytest.mark.parametrize("make", [optim.SGD, optim.Momentum, optim.Adam])
    def test_without_noise_nothing_leaves_the_ridge_itself(self, make):
        places, _ = descend(lambda p: make(p, lr=0.005), [1.0, 0.0], 300, gradient=saddle)
        assert bool((places[:, 1] == 0).all())


class TestTheFirstSteps:
    def test_adams_first_step_is_the_rate_whatever_the_gradient(self):
        weight = torch.nn.Parameter(torch.zeros(9, dtype=torch.float64))
        optimizer = optim.Adam([weight], lr=1e-3)
        weight.grad = torch.tensor([s * 10.0**k for s in (1, -1) for k in (-5, -2, 0, 4)] + [0.0], dtype=torch.float64)
        optimizer.step()
        assert torch.allclose(weight[:8].abs(), torch.tensor(1e-3, dtype=torch.float64), rtol=2e-3) and weight[8] == 0

    def test_the_effective_rate_is_poor_at_first(self):
        """Of 10,000 entries with gradients of the same law, the spread of log η/σ falls as 1/√(2t), and more at first."""
        generator = torch.Generator().manual_seed(0)
        weight = torch.nn.Parameter(torch.zeros(10_000))
        optimizer, spread = optim.Adam([weight], lr=1e-3), {}
        for t in range(1, 301):
            weight.grad = torch.randn(10_000, generator=generator)
            optimizer.step()
            if t in (1, 2, 5, 10, 100, 300):
                spread[t] = float(lrkit.effective_lr(optimizer)[weight].log().std())
        assert spread[1] > 1 and spread[1] > spread[2] > spread[5] > spread[10] > spread[100] > spread[300]
        assert spread[10] > 3 * spread[100]
        assert spread[100] == pytest.approx(1 / math.sqrt(200), rel=0.05)

    def test_radam_is_adam_times_a_schedule(self):
        """Of the same gradients, from its sixth update on, each step is rₜ times Adam's; rₜ is `radam_warmup` of t − 5."""
        generator = torch.Generator().manual_seed(0)
        mine, other = (torch.nn.Parameter(torch.zeros(50, dtype=torch.float64)) for _ in range(2))
        rectified, plain = optim.RAdam([mine], lr=0.1), optim.Adam([other], lr=0.1)
        schedule = lrkit.schedules.radam_warmup(0.999)
        for t in range(1, 201):
            before = mine.detach().clone(), other.detach().clone()
            mine.grad = torch.randn(50, generator=generator).double()
            other.grad = mine.grad.clone()
            rectified.step()
            plain.step()
            if t > 5:
                r = rectified.scalars(t).cm / plain.scalars(t).cm
                assert r == pytest.approx(schedule(t - 5), rel=1e-9) and r < 1
                assert torch.allclose(mine.detach() - before[0], r * (other.detach() - before[1]), rtol=1e-4)
            else:
                assert rectified.scalars(t).d == 0, "at first nothing is scaled"


class TestThePage:
    def test_shows_what_is_printed(self):
        model = torch.nn.Linear(4, 2)
        own = optim.Optimizer(
            model.parameters(), lr=0.01, direction=optim.direction.Nesterov(0.9), scale=optim.scale.Mean(),
            decay=optim.decay.Decoupled(0.01, by="schedule"), eps=optim.scale.Epsilon(1e-7, "inside"),
            factor=optim.factor.Rectified(0.999), clip=lrkit.clip.norm(1.0),
        )  # fmt: skip
        assert str(optim.AdamW(model.parameters(), lr=1e-3)) in PAGE and str(own) in PAGE

    def test_shows_what_the_example_prints(self, example, capsys):
        example.main()
        said = capsys.readouterr().out
        assert "epoch   1   rate 0.08333   loss 0." in said
        shown = re.findall(r"^(\w.*rate|least squares) +(\d\.\d{4}) +(\d\.\d{4})", PAGE, re.MULTILINE)
        printed = re.findall(r"^(\w.*rate|least squares) +(\d\.\d{4}) +(\d\.\d{4})", said, re.MULTILINE)
        assert [row[0] for row in shown] == [row[0] for row in printed] and len(shown) == 7
        for (_, *mine), (_, *there) in zip(shown, printed, strict=True):
            assert [float(one) for one in mine] == pytest.approx([float(one) for one in there], abs=2e-3)

    @pytest.mark.parametrize("name", optim.__all__)
    def test_names_everything_that_is_in_the_room(self, name):
        assert f"`{name}`" in PAGE or f"`optim.{name}`" in PAGE

    @pytest.mark.parametrize("name", ["line", "ravine", "radam"])
    def test_has_pictures_for_light_and_dark(self, name):
        text = (ROOT / "docs" / "img" / "optimizers" / f"{name}.svg").read_text()
        assert f"img/optimizers/{name}.svg" in PAGE
        assert ET.fromstring(text).tag.endswith("svg") and "prefers-color-scheme:dark" in text  # noqa: S314  (ours)
