"""`find` answers, says when it does not know, keeps its budget, and leaves everything as it was."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from finder.regression import build, drawn, loss, same, state_of
from lrkit import Task, attach, find, range_test, train
from lrkit.errors import InputError, StateError

X, Y = drawn(512)
STEPS = 400


def validate(model) -> float:
    with torch.no_grad():
        return float(loss(model, (X[384:], Y[384:])))


def loader():
    return DataLoader(TensorDataset(X[:384], Y[:384]), batch_size=32, shuffle=True)


class TestAnswers:
    def test_a_rate_that_trains_as_well_as_the_best_of_a_sweep(self):
        """Regret below a tenth of the drop, judged on a training of its own."""
        task = Task(lambda: build()[0], loss, loader, lambda p: torch.optim.AdamW(p, lr=1e-3), STEPS, validate=validate)
        found = find(task, budget=1.0)
        sweep = {lr: train(task, lr, seed=1)["val_loss"][-1] for lr in 10.0 ** np.arange(-5, 0.1, 0.5)}
        best, untrained = min(sweep.values()), validate(build()[0])
        assert found.status in ("ok", "edge")
        assert train(task, found.lr, seed=1)["val_loss"][-1] - best < 0.1 * (untrained - best)

    def test_with_everything_that_belongs_to_it(self):
        model, optimizer = build()
        found = find(model, optimizer, loss, loader(), steps=STEPS, validate=validate, budget=1.0)
        assert found.low < found.lr < found.high and found.factor == pytest.approx(found.lr / 1e-3)
        assert found.base_lr == pytest.approx(found.max_lr / 4)
        assert found.context["schedule"] == "warmup 20 > cosine 380" and found.context["horizon"] == STEPS
        assert str(found).startswith(f"rate {found.lr:.3g} (interval") and found.seconds > 0
        assert len(found.trials) >= 6 and len({trial.steps for trial in found.trials}) == 2
        assert found.fit is not None and found.fit.steps == found.trials[-1].steps
        assert found.context["batch_size"] == 32 and found.context["optimizer"] == "AdamW"

    @pytest.mark.parametrize("budget", [0.1, 0.25, 1.0])
    def test_within_the_budget_counting_everything(self, budget):
        model, optimizer = build()
        calls = []
        handle = model.register_forward_hook(lambda *_: calls.append(model.training))
        found = find(model, optimizer, loss, loader(), steps=STEPS, validate=validate, budget=budget)
        handle.remove()
        cost = calls.count(True) + calls.count(False) / 3
        assert found.steps == calls.count(True)
        assert found.cost == pytest.approx(cost / STEPS) and found.cost <= 1.05 * budget

    def test_the_same_whatever_the_rate_was_before_and_whatever_the_losss_scale(self):
        rates = []
        for base in (1e-6, 1e-3, 1.0):
            model, optimizer = build(lr=base)
            rates.append(find(model, optimizer, loss, loader(), steps=STEPS, validate=validate, budget=1.0).lr)
        model, optimizer = build()
        scaled = find(
            model,
            optimizer,
            lambda m, b: 1024 * loss(m, b),
            loader(),
            STEPS,
            validate=lambda m: 1024 * validate(m),
            budget=1.0,
        )
        assert max(rates) / min(rates) < 10**0.3
        assert scaled.lr == pytest.approx(rates[1], rel=0.2), "all but Adam's epsilon is free of scale"

    def test_in_the_ratio_of_the_groups(self):
        model, _ = build()
        first, *rest = model.parameters()
        optimizer = torch.optim.AdamW([{"params": [first], "lr": 1e-2}, {"params": rest, "lr": 1e-3}])
        seen = set()

        def step(model, batch, optimizer):
            seen.add(round(optimizer.param_groups[0]["lr"] / optimizer.param_groups[1]["lr"], 6))
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            optimizer.step()
            return value

        found = find(model, optimizer, loss, loader(), steps=STEPS, step=step, budget=0.5)
        assert seen == {10.0}
        found.apply(optimizer)
        found.apply(optimizer)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([found.lr, found.lr / 10])

    def test_for_the_attached_schedule_and_changes_its_base(self):
        model, optimizer = build()
        attachment = attach(optimizer, lr="warmup 10 > hold 290 > 1-sqrt 100")
        found = find(model, optimizer, loss, loader(), validate=validate, budget=1.0)
        assert found.context["schedule"] == "warmup 10 > hold 290 > 1-sqrt 100" and found.context["horizon"] == 400
        assert attachment.step == 0
        found.apply(optimizer)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(found.lr / 10), "the first update of the warm-up"

    def test_with_a_picture(self):
        model, optimizer = build()
        found = find(model, optimizer, loss, loader(), steps=STEPS, budget=0.5)
        ax = found.plot()
        assert ax.get_xscale() == "log" and any("chosen" in text.get_text() for text in ax.get_legend().get_texts())
        assert found._repr_html_().startswith("<svg")


class TestDoesNotKnow:
    """The status says so, and the rate is the untouched one."""

    @pytest.mark.parametrize("check", [None, validate])
    @pytest.mark.parametrize(
        ("curve", "statuses"),
        [
            (lambda m, b: 0 * loss(m, b) + 1, ("flat",)),
            (lambda m, b: 0 * loss(m, b) + torch.randn(()), ("flat", "noisy")),
            (lambda m, b: loss(m, b) * math.nan, ("diverged",)),
            (lambda m, b: loss(m, b) * math.inf, ("diverged",)),
        ],
        ids=["constant", "noise", "nan", "inf"],
    )
    def test_from_a_loss_without_information(self, curve, statuses, check):
        model, optimizer = build()
        found = find(model, optimizer, curve, loader(), steps=STEPS, validate=check)
        assert found.status in statuses and not found.found
        assert (found.lr, found.factor, optimizer.param_groups[0]["lr"]) == (1e-3, 1.0, 1e-3)
        with pytest.raises(StateError, match="there is no rate to apply"):
            found.apply(optimizer)
        assert str(found).startswith("no rate found")
        found.plot()

    def test_with_too_small_a_budget(self):
        model, optimizer = build()
        found = find(model, optimizer, loss, loader(), steps=40, budget=0.25)
        assert found.status == "budget" and not found.found and found.cost <= 0.25


class Broken(Exception):
    """What a user's code raises."""


class TestLeavesEverythingAsItWas:
    @pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, lambda p, lr: torch.optim.Adam(p, lr=torch.tensor(lr))])
    @pytest.mark.parametrize("error", [None, Broken, KeyboardInterrupt])
    @pytest.mark.parametrize("where", ["loss", "validate"])
    def test_after_success_exception_and_interrupt(self, kind, error, where):
        model, optimizer = build(kind=kind)
        model[1].eval()
        attach(optimizer, lr="warmup 5% > cosine", total=STEPS)
        batches = loader()
        for batch in list(batches)[:3]:
            loss(model, batch).backward()
            optimizer.step()
        torch.manual_seed(3)
        before, calls = state_of(model, optimizer), []
        lr = optimizer.param_groups[0]["lr"]

        def breaking(function):
            def called(*args):
                calls.append(1)
                if error is not None and len(calls) > 20:
                    raise error("in the middle")
                return function(*args)

            return called

        watched = (
            {"loss": breaking(loss), "validate": validate} if where == "loss" else {"loss": loss, "validate": breaking(validate)}
        )
        if where == "validate" and error is not None:
            calls += [1] * 16
        try:
            find(model, optimizer, watched["loss"], batches, validate=watched["validate"], budget=1.0)
            assert error is None
        except (Broken, KeyboardInterrupt):
            assert error is not None
        assert same(state_of(model, optimizer), before)
        assert not torch.is_tensor(lr) or optimizer.param_groups[0]["lr"] is lr
        torch.manual_seed(3)
        upcoming = next(iter(batches))
        torch.manual_seed(3)
        assert torch.equal(upcoming[0], next(iter(loader()))[0])

    def test_so_training_afterwards_is_training_without(self):
        weights = []
        for searched in (False, True):
            model, optimizer = build()
            batches = loader()
            torch.manual_seed(1)
            if searched:
                find(model, optimizer, loss, batches, steps=STEPS, validate=validate)
            for batch in batches:
                optimizer.zero_grad()
                loss(model, batch).backward()
                optimizer.step()
            weights.append(model[0].weight.detach().clone())
        assert torch.equal(*weights)


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"steps": None}, r"find\(steps=None\): steps must be the number of updates of the real run"),
            ({"steps": 0}, r"find\(steps=0\)"),
            ({"budget": 0}, r"find\(budget=0\): budget must be a finite number above 0"),
            ({"budget": math.nan}, r"find\(budget=nan\)"),
            ({"batches": []}, "batches: it yielded nothing"),
            ({"batches": iter([1])}, "batches: an iterator can be read only once"),
            ({"max_steps": 0}, r"find\(max_steps=0\)"),
            ({"schedule": "cosin"}, "did you mean 'cosine'"),
            ({"loss": None}, "all of them are needed, or one Task"),
        ],
    )
    def test_what_cannot_be_searched(self, given, message):
        model, optimizer = build()
        with pytest.raises(InputError, match=message):
            find(**{"model": model, "optimizer": optimizer, "loss": loss, "batches": loader(), "steps": STEPS} | given)

    def test_a_rate_of_zero(self):
        with pytest.raises(InputError, match="the first group's rate is 0"):
            model, optimizer = build(lr=0.0)
            find(model, optimizer, loss, loader(), steps=STEPS)


class TestHardCases:
    def test_a_step_that_skips_its_first_update_is_searched_all_the_same(self):
        model, optimizer = build()
        calls = []

        def step(model, batch, optimizer):
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            calls.append(1)
            if len(calls) % 2 == 0:
                optimizer.step()
            return value

        assert find(model, optimizer, loss, loader(), steps=STEPS, step=step, budget=1.0).found

    def test_a_net_that_starts_at_zero_is_searched(self):
        model = nn.Linear(6, 1)
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        found = find(model, optimizer, loss, loader(), steps=STEPS, budget=1.0)
        assert found.found and 1e-3 < found.lr < 1

    @pytest.mark.parametrize("forwards", [1, 30, 150, 300, 1000])
    def test_an_expensive_validation_does_not_break_the_budget(self, forwards):
        model, optimizer = build()

        def expensive(model):
            return [validate(model) for _ in range(forwards)][-1]

        found = find(model, optimizer, loss, loader(), steps=STEPS, validate=expensive, budget=0.25)
        assert found.cost <= 0.25 * 1.05
        assert found.status != "diverged"

    def test_a_watch_does_not_see_the_search(self):
        from lrkit import watch

        model, optimizer = build()
        with watch(model, optimizer) as w:
            find(model, optimizer, loss, loader(), steps=STEPS)
            loss(model, (X[:8], Y[:8])).backward()
            optimizer.step()
        assert w.run.step.tolist() == [0]

    @pytest.mark.parametrize("driven", ["a", "b"])
    def test_apply_is_idempotent_where_only_one_group_is_driven(self, driven):
        model, _ = build()
        first, *rest = model.parameters()
        groups = [{"params": [first], "lr": 1e-4, "name": "a"}, {"params": rest, "lr": 1e-3, "name": "b"}]
        optimizer = torch.optim.AdamW(groups)
        attachment = attach(optimizer, lr={driven: "constant at 0.5"})
        found = find(model, optimizer, loss, loader(), steps=STEPS, budget=1.0)
        found.apply(optimizer)
        found.apply(optimizer)
        factors = {name: 0.5 if name == driven else 1.0 for name in "ab"}
        expected = [found.lr * factors["a"], 10 * found.lr * factors["b"]]
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(expected)
        assert attachment.step == 0

    def test_a_buffer_in_the_graph_does_not_keep_the_rest_from_being_restored(self):
        class Averaging(nn.Module):
            def __init__(self):
                super().__init__()
                self.f = nn.Linear(6, 1)
                self.register_buffer("e", torch.zeros(1))
                self.register_buffer("wide", torch.ones(1).expand(3))
                self.count = np.zeros(2)

            def forward(self, x):
                out = self.f(x)
                self.e = self.e.detach() * 0.9
                self.e.add_(0.1 * out.mean())
                self.count += 1
                return out

        model = Averaging()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = [t.detach().clone() for t in model.state_dict().values()]
        find(model, optimizer, loss, loader(), steps=STEPS)
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))
        assert model.count.tolist() == [0, 0] and optimizer.param_groups[0]["lr"] == 0.1

    def test_a_range_test_refuses_an_iterator_and_consumes_nothing(self):
        batches = iter([(X, Y)] * 5)
        with pytest.raises(InputError, match="an iterator can be read only once"):
            range_test(*build(), loss, batches)
        assert len(list(batches)) == 5

    @pytest.mark.parametrize("lr", [math.nan, math.inf, -1.0])
    def test_a_rate_that_is_none_is_named(self, lr):
        model, optimizer = build()
        optimizer.param_groups[0]["lr"] = lr
        with pytest.raises(InputError, match="lr of group 0 must be a finite number of at least 0"):
            find(model, optimizer, loss, loader(), steps=STEPS)

    def test_arguments_beside_a_task_are_refused(self):
        task = Task(lambda: build()[0], loss, loader, lambda p: torch.optim.AdamW(p, lr=1e-3), STEPS)
        with pytest.raises(InputError, match="the Task brings optimizer, loss"):
            find(task, build()[1])

    def test_what_was_found_before_the_budget_ended_is_not_thrown_away(self):
        model, optimizer = build()
        calls = []

        def growing(model):
            calls.append(1)
            return [validate(model) for _ in range(1 if len(calls) < 9 else 2000)][-1]

        found = find(model, optimizer, loss, loader(), steps=STEPS, validate=growing, budget=1.0)
        assert found.cost <= 1.05 and found.trials
        assert found.found == (found.factor != 1.0)

    def test_a_schedule_that_is_passed_wins_over_the_attached_one(self):
        model, optimizer = build()
        attach(optimizer, lr="constant")
        rates = []

        def seeing(model, batch):
            rates.append(optimizer.param_groups[0]["lr"])
            return loss(model, batch)

        found = find(model, optimizer, seeing, loader(), steps=STEPS, schedule="linear 400", budget=1.0)
        length = found.trials[-1].steps
        assert rates[-length:] == sorted(rates[-length:], reverse=True) and rates[-1] < 0.1 * rates[-length]

    def test_every_run_sees_the_same_batches_and_random_numbers(self):
        from lrkit.finder.bench import Bench
        from lrkit.schedules import Hold

        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        bench = Bench(model, optimizer, loss, loader(), Hold(), 40, None, None, 0, 1000)
        with bench.open():
            runs = [list(bench.run(lambda _: 0.01, length)) for length in (5, 30, 5, 30)]
        assert runs[0] == runs[2] == runs[1][:5] == runs[3][:5] and runs[1] == runs[3]

    def test_persistent_workers_go_on_where_they_were(self):
        def fresh():
            return DataLoader(TensorDataset(X, Y), 64, shuffle=True, num_workers=1, persistent_workers=True)

        orders = []
        for searched in (False, True):
            model, optimizer = build()
            torch.manual_seed(5)
            batches = fresh()
            list(batches)
            if searched:
                find(model, optimizer, loss, batches, steps=STEPS, budget=0.2)
            orders.append([float(x.sum()) for x, _ in batches])
        assert orders[0] == orders[1]
