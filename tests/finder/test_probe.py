"""`probe` says whether another rate helps now, says so only where all runs agree, and leaves everything as it was."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from finder.regression import build, drawn, loss, same, state_of
from lrkit import attach, watch
from lrkit.errors import InputError
from lrkit.finder.probe import probe

X, Y = drawn(256)


def validate(model) -> float:
    with torch.no_grad():
        return float(loss(model, (X[192:], Y[192:])))


def loader():
    return DataLoader(TensorDataset(X[:192], Y[:192]), batch_size=32, shuffle=True)


class River(nn.Module):
    """Twenty steep walls, shaken by every batch, and a bed that falls slowly. Each wall's curvature is 1/20."""

    def __init__(self):
        super().__init__()
        self.walls, self.bed = nn.Parameter(torch.zeros(20)), nn.Parameter(torch.zeros(()))


def river(lr, slope, seed=0, scale=1.0):
    """(model, optimizer, loss, batches) of a river that has been trained at this rate for a while."""
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(20, generator=generator) for _ in range(240)]

    def down(model, batch):
        return scale * ((model.walls - batch).square().mean() / 2 - slope * model.bed)

    model = River()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for batch in batches[:60]:
        optimizer.zero_grad()
        down(model, batch).backward()
        optimizer.step()
    return model, optimizer, down, batches[60:]


def trained_on(model, optimizer, rate, steps):
    """The model, trained with these rates."""
    for t, batch in zip(range(steps), (batch for _ in range(steps) for batch in loader()), strict=False):
        optimizer.param_groups[0]["lr"] = rate(t)
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    return model


def arms_of(found):
    return {arm.factor: arm for arm in found.arms}


class TestAdvises:
    @pytest.mark.parametrize("seed", range(2))
    def test_a_lower_rate_where_the_loss_is_tossed_about_and_has_nowhere_to_go(self, seed):
        found = probe(*river(lr=35, slope=0, seed=seed), steps=30, seed=seed)
        assert (found.advice, found.factor, found.lr) == ("lower", 0.1, 3.5)
        assert str(found).startswith("lower the rate to 3.5: 0.1 × ends -")

    @pytest.mark.parametrize("seed", range(2))
    def test_a_higher_rate_where_the_way_is_long(self, seed):
        found = probe(*river(lr=0.5, slope=0.1, seed=seed), steps=30, seed=seed)
        assert (found.advice, found.factor, found.lr) == ("raise", 3, 1.5)
        assert arms_of(found)[3].high < 0 < arms_of(found)[0.1].low

    @pytest.mark.parametrize("seed", range(2))
    def test_to_keep_a_rate_that_gets_further_though_a_lower_one_gains_at_once(self, seed):
        """The gain of the lower one is less noise, which a cool-down takes from either."""
        found = probe(*river(lr=35, slope=0.03, seed=seed), steps=30, seed=seed)
        assert (found.advice, found.factor, found.lr) == ("keep", 1, 35)
        lower = arms_of(found)[0.1]
        assert lower.at_once < 0 < lower.low
        assert str(found).endswith("; what a lower rate gains at once, a later decay gains too")

    @pytest.mark.parametrize("seed", range(2))
    def test_a_higher_rate_that_costs_at_once_and_gets_further(self, seed):
        found = probe(*river(lr=5, slope=0.02, seed=seed), steps=50, seed=seed)
        higher = arms_of(found)[3]
        assert found.advice == "raise" and higher.high < 0 < higher.at_once

    @pytest.mark.parametrize("seed", range(2))
    def test_a_lower_rate_where_the_present_one_diverges_and_a_lower_one_does_not(self, seed):
        model, optimizer, down, batches = river(lr=1, slope=0, seed=seed)
        optimizer.param_groups[0]["lr"] = 1e9
        found = probe(model, optimizer, down, batches, factor=(1e-3, 1e-8, 3), steps=20, seed=seed)
        assert (found.advice, found.factor) == ("lower", 1e-8) and found.lr == pytest.approx(10)
        assert [arm.diverged for arm in found.arms] == [False, True, True, True]
        assert f"1e-08 × ends at {found.arms[0].loss:.3g}; 0.001 × diverges; 1 × diverges" in str(found)

    def test_to_keep_a_rate_that_another_beats_by_a_trifle(self):
        model = River()
        nn.init.ones_(model.walls)
        optimizer = torch.optim.SGD(model.parameters(), lr=5)
        found = probe(model, optimizer, lambda m, b: m.walls.square().mean(), [None], factor=1.1, steps=10)
        assert found.advice == "keep" and arms_of(found)[1.1].high < 0

    def test_the_best_of_several(self):
        found = probe(*river(lr=0.1, slope=0.1), factor=[3, 30, 10], steps=20)
        assert (found.advice, found.factor) == ("raise", 30)
        assert [arm.factor for arm in found.arms] == [1, 3, 10, 30]

    def test_by_validate_where_there_is_one(self):
        """The training loss alone would raise the rate."""
        model, optimizer, down, batches = river(lr=0.5, slope=0.1)
        found = probe(model, optimizer, down, batches, steps=20, validate=lambda model: float(model.bed))
        assert found.advice == "lower"
        assert arms_of(found)[1].loss == pytest.approx(found.arms[0].loss - found.arms[0].difference)

    @pytest.mark.parametrize(("lr", "right"), [(1e-4, "raise"), (1e-2, "raise"), (0.1, "keep, cannot tell"), (0.7, "lower")])
    def test_a_net_what_helps_it_in_a_training_of_its_own(self, lr, right):
        """Trained on with what is advised, on other batches, it is better off than with what it had; nothing else is advised."""
        model, optimizer = build(lr=lr, kind=torch.optim.SGD)
        trained_on(model, optimizer, lambda t: lr, 60)
        found = probe(model, optimizer, loss, loader(), steps=30, validate=validate)
        assert found.advice in right
        losses = []
        for rate in (lr, found.lr):
            own, its = copy.deepcopy((model, optimizer))
            torch.manual_seed(7)
            losses.append(validate(trained_on(own, its, lambda t, rate=rate: rate * min(1, (60 - t) / 12), 60).eval()))
        assert losses[1] < losses[0] or found.factor == 1


class TestCannotTell:
    @pytest.mark.parametrize("check", [None, validate], ids=["batches", "validate"])
    @pytest.mark.parametrize(
        ("curve", "difference"),
        [
            (lambda m, b: 0 * loss(m, b) + 1, 0),
            (lambda m, b: 0 * loss(m, b) + torch.randn(()), 0),
            (lambda m, b: loss(m, b) * math.nan, math.nan),
            (lambda m, b: loss(m, b) * math.inf, math.nan),
        ],
        ids=["constant", "noise", "nan", "inf"],
    )
    def test_from_a_loss_without_information(self, curve, difference, check):
        model, optimizer = build(lr=0.1, kind=torch.optim.SGD)
        model[1].eval()  # its running mean would tell one run of the untrained net from the other
        found = probe(model, optimizer, curve, loader(), steps=10, validate=check)
        assert (found.advice, found.factor, found.lr) == ("cannot tell", 1, 0.1)
        nothing = "the loss is not finite at any" if math.isnan(difference) else "5 runs of 10 updates show no clear difference"
        assert str(found).startswith(f"cannot tell: {nothing}")
        for arm in found.arms:
            assert [arm.difference, arm.low, arm.high] == pytest.approx([difference] * 3, nan_ok=True)
            assert arm.diverged == math.isnan(difference)

    def test_where_the_runs_do_not_agree(self):
        """Walls alone, at a rate so small that a run's end is the luck of its batches."""
        advice = [probe(*river(lr=0.05, slope=0, seed=seed), steps=20, seed=seed).advice for seed in range(4)]
        assert advice.count("cannot tell") >= 3 and "raise" not in advice


class TestMeasures:
    @pytest.mark.parametrize("given", [None, validate], ids=["batches", "validate"])
    def test_what_plain_loops_measure(self, given):
        """The twin: a copy of everything a run and a rate, trained by hand, then judged."""
        batches = list(zip(X.split(3), Y.split(3), strict=True))  # 86 of them, for 5 · (14 + 3) or 5 · 14
        torch.manual_seed(0)
        model = nn.Linear(6, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        loss(model, batches[0]).backward()
        optimizer.step()
        ends = {0.2: [], 1.0: [], 2.0: []}
        for run in range(5):
            first = run * (14 if given else 17)
            for factor in ends:
                own, its = copy.deepcopy((model, optimizer))
                for t in range(14):
                    its.param_groups[0]["lr"] = factor * 0.05 * min(1, (14 - t) / 3)
                    its.zero_grad()
                    loss(own, batches[first + t]).backward()
                    its.step()
                judged = [loss(own, batch).item() for batch in batches[first + 14 : first + 17]]
                ends[factor].append(given(own) if given else sum(judged) / 3)
        found = arms_of(probe(model, optimizer, loss, batches, factor=(2, 0.2), steps=14, validate=given))
        for factor, its in ends.items():
            pairs = sorted(a - b for a, b in zip(its, ends[1.0], strict=True))
            arm = found[factor]
            assert (arm.loss, arm.low, arm.difference, arm.high) == (sorted(its)[2], pairs[0], pairs[2], pairs[4])

    def test_every_run_on_other_batches_and_every_rate_on_the_same(self):
        model, optimizer, down, _ = river(lr=1, slope=0)
        seen = []

        def noting(model, batch):
            if torch.is_grad_enabled():
                seen.append((batch[0], torch.rand(()).item()))
            return down(model, batch[1])

        numbered = [(i, torch.randn(20)) for i in range(60)]
        probe(model, optimizer, noting, numbered, factor=3, steps=10)
        runs = [seen[i : i + 20] for i in range(0, 100, 20)]
        assert all(run[:10] == run[10:] for run in runs)
        assert [[i for i, _ in run[:10]] for run in runs] == [[*range(a, a + 10)] for a in (0, 12, 24, 36, 48)]
        assert len({run[0][1] for run in runs}) == 5

    def test_the_same_whatever_the_losss_scale(self):
        """Exactly, for a power of 2 and the rate that makes up for it."""
        found = probe(*river(lr=4, slope=0.02), steps=30)
        scaled = probe(*river(lr=4 / 1024, slope=0.02, scale=1024), steps=30)
        assert (scaled.advice, scaled.lr) == (found.advice, found.lr / 1024)
        for a, b in zip(found.arms, scaled.arms, strict=True):
            assert (b.loss, b.low, b.difference, b.high) == (1024 * a.loss, 1024 * a.low, 1024 * a.difference, 1024 * a.high)

    def test_the_same_again(self):
        model, optimizer = build()
        first, again = (probe(model, optimizer, loss, loader(), steps=10, seed=4) for _ in range(2))
        assert first == again

    @pytest.mark.parametrize("check", [None, validate], ids=["batches", "validate"])
    def test_its_cost_in_updates_counting_everything(self, check):
        model, optimizer = build()
        calls = []
        handle = model.register_forward_hook(lambda *_: calls.append(model.training))
        found = probe(model, optimizer, loss, loader(), steps=15, validate=check)
        handle.remove()
        assert calls.count(True) == 5 * 3 * 15 and calls.count(False) == 5 * 4 * (3 if check is None else 1)
        assert found.cost == pytest.approx(calls.count(True) + calls.count(False) / 3)

    def test_with_a_step_of_ones_own(self):
        model, optimizer, down, batches = river(lr=0.5, slope=0.1)
        calls = []

        def step(model, batch, optimizer):
            calls.append(1)
            value = down(model, batch)
            value.backward()
            if len(calls) % 2 == 0:  # two batches an update
                optimizer.step()
                optimizer.zero_grad()
            return value

        assert probe(model, optimizer, down, batches, steps=10, step=step).advice == "raise"
        assert len(calls) == 2 * 5 * 3 * 10

    def test_its_progress_also_where_a_rate_diverges(self):
        model, optimizer = build(lr=0.1, kind=torch.optim.SGD)
        told = []
        probe(model, optimizer, loss, loader(), factor=(0.5, 1e30), steps=10, progress=lambda *args: told.append(args))
        assert all(a[0] < b[0] for a, b in pairwise(told)) and {total for _, total in told} == {150}

    def test_with_a_picture(self):
        found = probe(*river(lr=0.5, slope=0.1), steps=20)
        ax = found.plot()
        assert [line.get_label() for line in ax.get_lines()] == ["0.1 ×", "1 ×", "3 ×"]
        low, present, high = (line.get_ydata() for line in ax.get_lines())
        assert low[0] == high[0] == 0 and (present == 0).all() and low[-1] > 0 > high[-1]


class TestThePresentRate:
    def seen(self, optimizer, model, **given):
        """Every group's rates, in the order of the updates."""
        rates = []

        def noting(model, batch):
            if torch.is_grad_enabled():
                rates.append([float(group["lr"]) for group in optimizer.param_groups])
            return loss(model, batch)

        found = probe(model, optimizer, noting, loader(), **given)
        return found, np.array(rates).reshape(5, len(found.arms), found.steps, -1)

    def test_is_held_and_cooled_down(self):
        model, optimizer = build(lr=1e-2)
        _, rates = self.seen(optimizer, model, factor=0.5, steps=10)
        shape = [1.0] * 9 + [0.5]  # departs at update 8, and no update has rate 0
        assert rates[:, 0, :, 0] == pytest.approx(np.tile(np.array(shape) * 5e-3, (5, 1)))
        assert rates[:, 1, :, 0] == pytest.approx(np.tile(np.array(shape) * 1e-2, (5, 1)))

    def test_is_that_of_the_attached_schedule_which_stays_where_it_is(self):
        model, optimizer = build(lr=1e-2)
        attachment = attach(optimizer, lr="warmup 4 > cosine 40", weight_decay="linear 40")
        for batch in list(loader())[:2]:
            loss(model, batch).backward()
            optimizer.step()
        groups = [dict(group) for group in optimizer.param_groups]
        found, rates = self.seen(optimizer, model, factor=3, steps=10)
        assert rates[0, :, 0, 0] == pytest.approx([7.5e-3, 22.5e-3]), "the third of four updates of the warm-up"
        assert found.lr == pytest.approx(7.5e-3 * found.factor)
        assert attachment.step == 2 and same([dict(group) for group in optimizer.param_groups], groups)

    def test_keeps_the_groups_present_ratio_not_that_of_their_bases(self):
        model, _ = build()
        first, *rest = model.parameters()
        optimizer = torch.optim.AdamW([{"params": [first], "lr": 1e-2, "name": "a"}, {"params": rest, "lr": 1e-3, "name": "b"}])
        attach(optimizer, lr={"a": "constant at 0.5", "b": "constant at 0.25"})
        _, rates = self.seen(optimizer, model, factor=2, steps=10)
        assert rates[0, :, 0] == pytest.approx(np.array([[5e-3, 2.5e-4], [1e-2, 5e-4]]))

    def test_is_what_the_schedule_will_write_where_somebody_else_wrote(self):
        model, optimizer = build(lr=1e-2)
        attach(optimizer, lr="constant at 0.5")
        optimizer.param_groups[0]["lr"] = 7.0
        _, rates = self.seen(optimizer, model, factor=2, steps=10)
        assert rates[0, 0, 0, 0] == pytest.approx(5e-3) and optimizer.param_groups[0]["lr"] == 7.0


KINDS = (torch.optim.AdamW, torch.optim.SGD, lambda p, lr: torch.optim.Adam(p, lr=torch.tensor(lr)))


class Broken(Exception):
    """What a user's code raises."""


class Data:
    """Batches that keep count of where they are, and may break."""

    def __init__(self, data, breaking):
        self.data, self.breaking, self.at = data, breaking, 0

    def __iter__(self):
        for batch in self.data:
            self.at += 1
            self.breaking()
            yield batch


class TestLeavesEverythingAsItWas:
    @pytest.mark.parametrize(
        ("kind", "error", "where"),
        [
            *((kind, error, "loss") for kind in KINDS for error in (None, Broken, KeyboardInterrupt)),
            *(
                (torch.optim.AdamW, error, where)
                for error in (Broken, KeyboardInterrupt)
                for where in ("validate", "batches", "progress")
            ),
        ],
    )
    def test_after_success_exception_and_interrupt(self, kind, error, where):
        model, optimizer = build(kind=kind)
        model[1].eval()
        attach(optimizer, lr="warmup 5 > cosine 95")
        for batch in list(loader())[:3]:
            loss(model, batch).backward()
            optimizer.step()
        torch.manual_seed(3)
        calls = []

        def passed(place, function):
            def called(*args):
                calls.append(place)
                if error is not None and calls.count(where) > 14:
                    raise error("in the middle")
                return function(*args)

            return called

        data = Data(loader(), passed("batches", lambda: None))
        lr, before = optimizer.param_groups[0]["lr"], state_of(model, optimizer)
        given = {"validate": passed("validate", validate), "progress": passed("progress", lambda *_: None)}
        try:
            probe(model, optimizer, passed("loss", loss), data, steps=10, **given)
            assert error is None
        except (Broken, KeyboardInterrupt):
            assert error is not None
        assert same(state_of(model, optimizer), before)
        assert data.at == 0
        assert not torch.is_tensor(lr) or optimizer.param_groups[0]["lr"] is lr

    def test_so_training_afterwards_is_training_without(self):
        weights = []
        for probed in (False, True):
            model, optimizer = build()
            attach(optimizer, lr="warmup 3 > cosine 10")
            batches = loader()
            torch.manual_seed(1)
            for i, batch in enumerate([*batches, *batches]):
                optimizer.zero_grad()
                loss(model, batch).backward()
                optimizer.step()
                if probed and i in (0, 7):
                    probe(model, optimizer, loss, batches, steps=10)
            weights.append(model[0].weight.detach().clone())
        assert torch.equal(*weights)

    def test_a_watch_does_not_see_it(self):
        model, optimizer = build()
        with watch(model, optimizer) as w:
            probe(model, optimizer, loss, loader(), steps=10)
            loss(model, (X[:8], Y[:8])).backward()
            optimizer.step()
        assert w.run.step.tolist() == [0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"model": None}, r"probe\(NoneType, AdamW, …\): needs a torch module and its optimizer"),
            ({"loss": nn.MSELoss()}, r"probe\(loss=MSELoss\): loss takes the model and a batch"),
            ({"loss": lambda m, b: (m(b[0]) - b[1]).square()}, "must return a tensor of one number"),
            ({"loss": lambda m, b: 1.0}, "must return a tensor of one number"),
            ({"batches": iter([(X, Y)])}, r"probe\(batches=list_iterator\): needs what can be iterated again and again"),
            ({"batches": 3}, r"probe\(batches=int\): needs what can be iterated again and again"),
            ({"batches": []}, "probe: the batches yielded nothing"),
            ({"factor": 1}, r"probe\(factor=1\): needs different factors other than 1"),
            ({"factor": (0.1, 0.1)}, r"probe\(factor=\(0.1, 0.1\)\): needs different factors"),
            ({"factor": ()}, r"probe\(factor=\(\)\): needs different factors"),
            ({"factor": (0.1, -3)}, r"probe\(factor=-3\): factor must be a finite number above 0"),
            ({"factor": "0.1"}, r"probe\(factor='0.1'\): factor must be a finite number above 0"),
            ({"factor": math.nan}, r"probe\(factor=nan\)"),
            ({"factor": True}, r"probe\(factor=True\)"),
            ({"steps": 9}, r"probe\(steps=9\): steps must be a whole number, at least 10"),
            ({"steps": 20.0}, r"probe\(steps=20.0\)"),
            ({"seed": -1}, r"probe\(seed=-1\)"),
        ],
    )
    def test_what_cannot_be_probed(self, given, message):
        model, optimizer = build()
        before = state_of(model, optimizer)
        with pytest.raises(InputError, match=message):
            probe(**{"model": model, "optimizer": optimizer, "loss": loss, "batches": loader(), "steps": 10} | given)
        assert same(state_of(model, optimizer), before)

    def test_a_present_rate_of_zero(self):
        model, optimizer = build()
        attach(optimizer, lr="constant at 0")
        with pytest.raises(InputError, match="the first group's rate is 0 now"):
            probe(model, optimizer, loss, loader())
