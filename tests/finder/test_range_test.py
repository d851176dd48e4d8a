"""`range_test` raises the rate for a batch or an epoch each, measures what it is asked to, and stops where it blew up."""

import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from finder import regression
from finder.regression import drawn, loss
from lrkit import range_test
from lrkit.errors import InputError
from lrkit.finder.ramp import blown_up

X, Y = drawn(128)
BATCHES = 8  # of an epoch
build = partial(regression.build, kind=torch.optim.SGD)


def loader():
    return DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)


def goodness(model) -> float:
    return -float(loss(model, (X, Y)))


def told(rates):
    """A step that notes the rate of each update."""

    def step(model, batch, optimizer):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        return value

    return step


class Weight(nn.Module):
    """One number."""

    def __init__(self, value=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value))


class TestOneUpdateARate:
    def test_raises_the_rate_geometrically_and_finds_the_edge(self):
        model, optimizer = build()
        run = range_test(model, optimizer, loss, loader(), start=1e-5, end=1e4, steps=60)
        ratios = run["lr"][1:] / run["lr"][:-1]
        assert ratios == pytest.approx(np.full(len(run) - 1, 1e9 ** (1 / 59)), rel=1e-9)
        assert run["lr"][0] == 1e-5 and len(run) < 60
        assert 1e-2 < run.meta["edge"] < run["lr"][-1]
        assert optimizer.param_groups[0]["lr"] == 1e-3

    def test_is_a_plain_training_at_these_rates(self):
        """The twin: a loop over the batches, with the loss before each update."""
        batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 128, 16)]
        model, optimizer = build(kind=torch.optim.AdamW)
        run = range_test(model, optimizer, loss, batches, start=1e-4, end=1e-1, steps=20, seed=3)
        random.seed(3)
        torch.manual_seed(3)
        losses = []
        for t in range(20):
            optimizer.param_groups[0]["lr"] = 1e-4 * (1e3 ** (1 / 19)) ** t
            optimizer.zero_grad()
            value = loss(model, batches[t % 8])
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        assert run["loss"].tolist() == losses and run.step.tolist() == list(range(20))

    def test_says_in_its_meta_what_it_was(self):
        run = range_test(*build(), loss, loader(), start=1e-6, end=1e-3, steps=10)
        assert run.meta == {"kind": "range_test", "edge": None, "start": 1e-6, "end": 1e-3, "per": "batch"}
        assert run.columns == ("step", "loss", "lr")

    def test_is_repeatable(self):
        model, optimizer = build(kind=torch.optim.AdamW)
        runs = [range_test(model, optimizer, loss, loader(), seed=1, metric=goodness) for _ in range(2)]
        assert runs[0] == runs[1]

    def test_a_steps_own_skipped_updates_cost_no_rate(self):
        calls, rates = [], []
        plain = told(rates)

        def every_other(model, batch, optimizer):
            calls.append(1)
            return plain(model, batch, optimizer) if len(calls) % 2 else loss(model, batch)

        run = range_test(*build(), loss, loader(), start=1e-6, end=1e-3, steps=10, step=every_other)
        assert len(calls) == 19 and rates == run["lr"].tolist()


class TestMetric:
    @pytest.mark.parametrize("per", ["batch", "epoch"])
    def test_is_measured_after_the_last_update_at_each_rate(self, per):
        """One weight that every update lowers by the rate, and a metric that reads it."""
        model = Weight()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        held = 1 if per == "batch" else 4
        run = range_test(
            model, optimizer, lambda m, b: m.w * 1, [0] * 4, 1e-6, 1e-3, 10, metric=lambda m: float(m.w.detach()), per=per
        )
        assert run["metric"] == pytest.approx(1 - held * np.cumsum(run["lr"]), rel=1e-6)

    def test_is_taken_in_eval_mode_without_gradients_and_modes_are_put_back(self):
        model, optimizer = build()
        model[1].eval()
        seen, trained = [], []

        def metric(model):
            seen.append(([m.training for m in model.modules()], torch.is_grad_enabled()))
            return 1.0

        def noting(model, batch):
            trained.append([m.training for m in model.modules()])
            return loss(model, batch)

        range_test(model, optimizer, noting, loader(), steps=10, metric=metric)
        assert all(not any(modes) and not grads for modes, grads in seen) and len(seen) == 10
        assert trained == [[True, True, False, True, True, True]] * 10

    def test_changes_nothing_of_the_training_even_if_it_draws_random_numbers(self):
        def drawing(model):
            return goodness(model) + random.random() + float(torch.rand(()))

        runs = [range_test(*build(), loss, loader(), steps=30, metric=metric) for metric in (None, drawing)]
        assert np.array_equal(runs[0]["loss"], runs[1]["loss"])

    def test_need_not_be_finite(self):
        run = range_test(*build(), loss, loader(), end=1e-3, steps=10, metric=lambda model: math.nan)
        assert np.isnan(run["metric"]).all() and len(run) == 10

    def test_that_breaks_leaves_everything_as_it_was(self):
        model, optimizer = build()
        before = [t.clone() for t in model.state_dict().values()]
        calls = []

        def breaking(model):
            calls.append(1)
            if len(calls) > 3:
                raise KeyboardInterrupt
            return 0.0

        with pytest.raises(KeyboardInterrupt):
            range_test(model, optimizer, loss, loader(), start=1e-2, metric=breaking, per="epoch", steps=10)
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))
        assert optimizer.param_groups[0]["lr"] == 1e-3 and not optimizer.state
        assert all(m.training for m in model.modules())


class TestOneEpochARate:
    def test_holds_the_rate_for_every_batch_and_takes_their_mean_loss(self):
        rates, losses = [], []
        plain = told(rates)

        def step(model, batch, optimizer):
            value = plain(model, batch, optimizer)
            losses.append(float(value.detach()))
            return value

        run = range_test(*build(), loss, loader(), start=1e-4, end=1e-1, steps=4, step=step, per="epoch")
        assert rates == [lr for lr in run["lr"] for _ in range(BATCHES)]
        assert run["loss"] == pytest.approx(np.reshape(losses, (4, BATCHES)).mean(axis=1))
        assert run.step.tolist() == [7, 15, 23, 31] and run["epoch"].tolist() == [0, 1, 2, 3]
        assert run.meta["per"] == "epoch" and run["lr"] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])

    def test_is_the_same_with_a_step_of_ones_own(self):
        runs = [
            range_test(*build(), loss, loader(), start=1e-4, end=1e-1, steps=4, step=step, per="epoch")
            for step in (None, told([]))
        ]
        assert runs[0] == runs[1]

    def test_an_epoch_is_of_batches_also_where_several_make_an_update(self):
        """Three batches an update: an epoch of eight ends within the third."""
        calls, rates = [], []
        plain = told(rates)

        def accumulating(model, batch, optimizer):
            calls.append(1)
            return plain(model, batch, optimizer) if len(calls) % 3 == 0 else loss(model, batch)

        run = range_test(*build(), loss, loader(), start=1e-4, end=1e-2, steps=3, step=accumulating, per="epoch")
        assert [rates.count(lr) for lr in run["lr"]] == [3, 3, 2] and run.step.tolist() == [2, 5, 7]

    def test_each_epoch_sees_all_the_data(self):
        seen = []

        def noting(model, batch):
            seen.append(batch[0].sum())
            return loss(model, batch)

        range_test(*build(), noting, loader(), start=1e-5, end=1e-3, steps=3, per="epoch")
        sums = torch.stack(seen).reshape(3, BATCHES).sum(dim=1)
        assert torch.allclose(sums, X.sum().expand(3), atol=1e-4)

    def test_stops_within_an_epoch_where_the_loss_is_not_finite(self):
        """SGD on w²: from a rate of 1 on, each update makes it larger, until float32 ends."""
        model = Weight()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = range_test(model, optimizer, lambda m, b: m.w.square(), [0] * 200, 1e-3, 1e3, 7, per="epoch")
        assert not math.isfinite(run["loss"][-1]) and run.meta["edge"] == run["lr"][-1] == pytest.approx(10)
        assert run.step[-1] < 200 * len(run) - 1

    def test_stops_after_an_epoch_that_left_the_range_for_good(self):
        """The rate makes the loss: 1 until the rate is 0.1, then a million."""
        model = Weight(0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def stepping(model, batch, optimizer):
            optimizer.zero_grad()
            value = 1.0 + 1e6 * (model.w > 0.09) + 0 * model.w
            (0 * model.w).backward()
            optimizer.step()
            with torch.no_grad():
                model.w.fill_(optimizer.param_groups[0]["lr"])
            return value

        run = range_test(model, optimizer, lambda m, b: m.w, [0] * 9, 1e-4, 10, 6, per="epoch", step=stepping)
        assert run.meta["edge"] == run["lr"][-1] == pytest.approx(0.1) and len(run) == 4


class TestEdge:
    """The first rate whose update spoils the loss, which is seen a row later."""

    @pytest.mark.parametrize("spoiled", [math.nan, math.inf, 100.0])
    def test_is_the_rate_of_the_update_that_spoiled_it(self, spoiled):
        model = Weight(0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(model, batch, optimizer):
            optimizer.zero_grad()
            (0 * model.w).backward()
            value = torch.tensor(spoiled if float(model.w.detach()) > 0.0099 else 1.0)
            optimizer.step()
            with torch.no_grad():
                model.w.fill_(optimizer.param_groups[0]["lr"])
            return value

        run = range_test(model, optimizer, lambda m, b: m.w, [0], 1e-5, 1.0, 51, step=step)
        assert run.meta["edge"] == min(lr for lr in run["lr"] if lr > 0.0099)

    def test_is_the_first_rate_where_the_loss_is_not_finite_from_the_start(self):
        run = range_test(*build(), lambda m, b: loss(m, b) * math.nan, loader())
        assert len(run) == 1 and run.meta["edge"] == 1e-7 and math.isnan(run["loss"][0])

    @pytest.mark.parametrize("steps", [25, 50, 200])
    def test_is_where_gradient_descent_on_a_parabola_grows(self, steps):
        """It grows from 2 over the curvature on, and has a long way up from where it came to."""
        model = Weight()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = range_test(model, optimizer, lambda m, b: 2.0 * m.w.square(), [0], 1e-6, 100.0, steps)
        assert 0.5 < run.meta["edge"] < 5

    def test_there_is_none_where_nothing_blows_up(self):
        assert range_test(*build(), loss, loader(), start=1e-6, end=1e-3).meta["edge"] is None


curves = st.lists(st.integers(-2000, 2000), min_size=1, max_size=60).map(lambda tens: [n / 1024 for n in tens])


class TestStopRule:
    @settings(max_examples=200, deadline=None)
    @given(curves, st.integers(-40, 40), st.integers(-500, 500))
    def test_neither_scale_nor_offset_matters(self, losses, power, offset):
        """Exactly: what is added and multiplied is exact in floats."""
        answer = blown_up(losses)
        assert blown_up([2.0**power * loss for loss in losses]) == answer
        away = [abs(losses[0]), abs(losses[0] + offset)]
        if max(np.abs(np.array(losses) - losses[0])) > 2**-14 * max(away):  # else float32 could not hold the differences
            risen = [loss + offset for loss in losses]
            assert blown_up(risen) == answer or 2**-19 * max(away) > np.std(losses[: max(5, len(losses) // 3)])

    def test_what_is_not_finite_is_the_end(self):
        assert blown_up([1.0, 2.0, math.nan, 1.0]) == 2 and blown_up([math.inf]) == 0

    def test_three_in_a_row_are_needed(self):
        assert blown_up([1.0] * 20 + [9.0, 9.0]) is None
        assert blown_up([1.0] * 20 + [9.0, 9.0, 9.0]) == 20
        assert blown_up([1.0] * 20 + [9.0, 9.0, 1.0, 9.0]) is None

    def test_what_float32_rounds_is_no_rise(self):
        one = float(np.float32(300))
        above = float(np.nextafter(np.float32(300), np.float32(301)))
        assert blown_up([one] * 20 + [above] * 3) is None

    def test_a_fall_must_be_made_up_for_with_a_quarter(self):
        fall = [8.0] * 12 + [float(n) for n in range(7, -1, -1)]
        assert blown_up([*fall, 9.5, 9.5, 9.5]) is None and blown_up([*fall, 11.0, 11.0, 11.0]) == 20

    @pytest.mark.parametrize(
        "draw",
        [
            lambda rng: rng.normal(size=100),
            lambda rng: rng.exponential(size=100),
            lambda rng: rng.standard_t(3, size=100),
            lambda rng: (rng.random(100) < 0.1).astype(float),  # a rare class, in one batch of ten
        ],
        ids=["even", "skewed", "heavy tails", "rare"],
    )
    def test_noise_is_no_rise(self, draw):
        """Of 40 ramps at most two may stop by chance."""
        rng = np.random.default_rng(0)
        ramps = [draw(rng).tolist() for _ in range(40)]
        assert sum(any(blown_up(ramp[:n]) is not None for n in range(8, 101)) for ramp in ramps) <= 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"start": 0.0}, "start must be a finite number above 0"),
            ({"start": 1.0, "end": 0.1}, "needs 0 < start < end"),
            ({"steps": 5}, "at least 10"),
            ({"steps": 2, "per": "epoch"}, "at least 3"),
            ({"per": "step"}, r"range_test\(per='step'\): a rate is held for one 'batch' or for one 'epoch'"),
            ({"per": ["batch"]}, "Say one of the two"),
            ({"metric": 0.5}, r"range_test\(metric=float\): must be a function"),
            ({"metric": lambda model: "good"}, r"metric\(model\): must return one number, got str"),
            ({"metric": lambda model: torch.zeros(2)}, r"metric\(model\): must return one number, got Tensor"),
        ],
    )
    def test_what_cannot_be_tested(self, given, message):
        with pytest.raises(InputError, match=message):
            range_test(*build(), loss, loader(), **given)

    @pytest.mark.parametrize(
        "batches", [iter([(X, Y)]), iter(loader()), (b for b in [(X, Y)])], ids=["list", "loader", "generator"]
    )
    @pytest.mark.parametrize("per", ["batch", "epoch"])
    def test_what_can_be_read_only_once(self, batches, per):
        with pytest.raises(InputError, match=r"only once|no len"):
            range_test(*build(), loss, batches, per=per)

    def test_an_epoch_without_an_end(self):
        class Stream:
            def __iter__(self):
                while True:
                    yield X, Y

        with pytest.raises(InputError, match=r"range_test\(per='epoch'\): the batches have no len\(\)"):
            range_test(*build(), loss, Stream(), per="epoch")
        assert len(range_test(*build(), loss, Stream(), end=1e-3, steps=10)) == 10

    @pytest.mark.parametrize("per", ["batch", "epoch"])
    def test_an_empty_loader(self, per):
        with pytest.raises(InputError, match="yielded nothing"):
            range_test(*build(), loss, [], per=per)
