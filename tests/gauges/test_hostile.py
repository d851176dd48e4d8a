"""Unusual parameters, optimizers and loops: nothing crashes the training, and what is read is right."""

import logging
import math

import pytest
import torch
from torch import nn

from lrkit import attach, watch
from lrkit.gauges.batches import copied, halves, rows_of
from lrkit.gauges.sinks import tensorboard

X = torch.randn(10, 8, 4, generator=torch.Generator().manual_seed(0))


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def loss(model, batch):
    return model(batch).square().mean()


def go(model, optimizer, evaluate=loss, batches=X, before=None, **options):
    with watch(model, optimizer, loss=evaluate, **({"every": 1} | options)) as w:
        for i, x in enumerate(batches):
            if before is not None:
                before(i, w)
            optimizer.zero_grad()
            value = evaluate(model, x)
            value.backward()
            w.record(loss=value, batch=x)
            optimizer.step()
    return w


def norm(tensors):
    return math.sqrt(sum(float(one.detach().double().square().sum()) for one in tensors))


def reasons(w):
    return {gauge: told for gauge, told in w.run.meta["gauges"].items() if isinstance(told, str)}


class TestParameters:
    @pytest.mark.filterwarnings("ignore:Sparse invariant checks")
    @pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adagrad])
    def test_sparse_gradients(self, make):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 1))
        optimizer = make(model.parameters(), lr=0.1)
        w = go(model, optimizer, batches=torch.randint(10, (6, 8, 3), generator=torch.Generator().manual_seed(0)))
        assert w.run["grad_norm"][-1] == pytest.approx(norm(p.grad.to_dense() for p in model.parameters()), rel=1e-5)
        told = reasons(w)
        assert told["gradient_cosine"] == told["parts"] == "gradients are sparse"
        assert not {"gain", "edge", "update_ratio"} & told.keys() and w.run.observed("gain_ratio")[0].size > 3

    def test_frozen_unused_and_tied_ones(self):
        model = build()
        model.add_module("unused", nn.Linear(2, 2))
        model.forward = lambda x: model[2](model[1](model[0](x)))
        model[0].weight.requires_grad_(False)
        model[2].bias = nn.Parameter(model[0].bias[:2].detach().clone())
        model.twice = model[2]
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        w = go(model, optimizer)
        moved = [p for p in model.parameters() if p.grad is not None]
        assert len(moved) == 3 and w.run["grad_norm"][-1] == pytest.approx(norm(p.grad for p in moved), rel=1e-5)
        assert {"grad_norm/0", "grad_norm/2", "update_ratio/unused", "coherence/0"} <= set(w.run)
        assert "grad_norm/unused" not in w.run and reasons(w).keys() <= {"parts"}

    def test_without_any_gradient(self):
        model = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        with watch(model, optimizer, loss=loss, every=1) as w:
            for _ in range(3):
                w.record(batch=X[0])
                optimizer.step()
        assert len(w.run) == 3 and "grad_norm" not in w.run and w.run["update_ratio"].tolist() == [0.0] * 3

    def test_that_come_and_go(self):
        model, late = build(), nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(model[0].parameters(), lr=0.01)

        def before(i, w):
            if i == 3:
                optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.1})
            if i == 5:
                optimizer.add_param_group({"params": late.parameters()})
            model[0].weight.requires_grad_(i != 7)

        w = go(model, optimizer, before=before)
        assert len(w.run) == 10 and reasons(w).keys() <= {"parts"}
        assert w.run.observed("grad_norm/2")[0].tolist() == list(range(3, 10))
        assert {0, 1, 2, 4, 5, 6, 8, 9} <= {*w.run.observed("update_ratio")[0].tolist()}

    def test_that_the_model_does_not_name_are_layers_by_their_groups(self):
        a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
        optimizer = torch.optim.SGD([{"params": [a, b], "name": "head"}, {"params": []}, {"params": [c]}], lr=0.1)
        with watch(nn.Module(), optimizer, every=1) as w:
            for one in (a, b, c):
                one.grad = torch.ones(2)
            optimizer.step()
        assert w.run["grad_norm/head"][0] == pytest.approx(2.0) and w.run["grad_norm/group2"][0] == pytest.approx(2**0.5)

    def test_of_mixed_kinds(self):
        model = build()
        model[2].double()
        model.forward = lambda x: model[2](model[1](model[0](x)).double())
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        w = go(model, optimizer)
        assert w.run["grad_norm"][-1] == pytest.approx(norm(p.grad for p in model.parameters()), rel=1e-5)
        assert reasons(w).keys() <= {"parts"}

    def test_weights_and_gradients_that_share_memory(self):
        """Autograd hands out one tensor for the gradients of both, and one entry for all of a vector's."""
        a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        model = nn.Module()
        model.a, model.b = a, b
        w = go(model, torch.optim.SGD([a, b], lr=0.1), lambda m, x: (m.a + m.b).sum() * x.mean().detach() + x.mean())
        expected = [float(x[:4].mean() * x[4:].mean()) * 6 for x in X]
        assert w.run["half_product"] == pytest.approx(expected, rel=1e-4)


class TestOptimizers:
    def test_a_subclass_whose_step_calls_its_parents(self):
        class Mine(torch.optim.AdamW):
            def step(self, closure=None):
                return super().step(closure)

        torch.optim.AdamW([nn.Parameter(torch.ones(1))])  # wraps the parent's step
        model = build()
        w = go(model, Mine(model.parameters(), lr=0.01))
        assert w.run.step.tolist() == list(range(10)) and w.run.observed("gain")[0].tolist() == list(range(10))
        assert w.run["gain_ratio"] == pytest.approx(1.0, abs=0.3)

    def test_an_update_that_fails_is_none(self):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        failing = []

        def closure():
            if failing:
                raise MemoryError
            return None

        with watch(model, optimizer, every=1) as w:
            for i, x in enumerate(X):
                optimizer.zero_grad()
                loss(model, x).backward()
                w.record(loss=float(i))
                failing[:] = [1] if i == 4 else []
                if i == 4:
                    with pytest.raises(MemoryError):
                        optimizer.step(closure)
                    for p in model.parameters():
                        p.data.mul_(2.0)
                else:
                    optimizer.step(closure)
        assert len(w.run) == 9 and w.run.observed("update_ratio")[1].max() < 0.3, (
            "what was copied before the failure is not compared with"
        )
        assert w.run["loss"][4] == 4.5, "what was recorded of both attempts belongs to the one that was made"

    def test_one_that_is_paused(self):
        model = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

        def before(i, w):
            if i == 5:
                with w.paused():
                    for _ in range(3):
                        optimizer.zero_grad()
                        loss(model, X[0]).backward()
                        optimizer.step()

        w = go(model, optimizer, before=before)
        assert len(w.run) == 10 and "grad_cosine" in w.run and 5 not in w.run.observed("grad_cosine")[0]

    def test_one_whose_rate_begins_at_zero(self):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        attach(optimizer, lr="hold 3 at 0 > constant at 1")
        w = go(model, optimizer)
        assert len(w.run) == 10 and w.run["lr"][0] == 0.0 and w.run["edge"][-1] == pytest.approx(w.run["curvature_max"][-1] / 20)


class TestBatches:
    def test_a_batch_that_is_only_given_now_and_then(self):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, optimizer, loss=loss, every=1) as w:
            for i, x in enumerate(X):
                optimizer.zero_grad()
                loss(model, x).backward()
                if i % 3 == 1:
                    w.record(batch=x)
                optimizer.step()
        assert w.run.observed("gain")[0].tolist() == w.run.observed("edge")[0].tolist() == [1, 4, 7]
        assert isinstance(w.run.meta["gauges"]["gain"], dict)

    def test_none_at_all(self):
        model = build()
        with watch(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=loss, every=1) as w:
            w.record(loss=1.0)
            w._optimizer.step()
        assert w.run.meta["gauges"]["gain"] == "no batch= was recorded"

    @pytest.mark.parametrize(
        "batch", [torch.ones(1, 2), torch.ones(()), (torch.ones(4), torch.ones(3)), (torch.ones(4), ["a", "b", "c", "d"]),
                  (torch.ones(4), [1, 2, 3, 4]), (torch.ones(4), torch.ones(4).numpy()), "text", None, (), object()]
    )  # fmt: skip
    def test_that_cannot_be_halved(self, batch):
        assert halves(batch) is None

    def test_are_copied_with_their_wish_for_gradients(self):
        batch = {"x": torch.ones(4, requires_grad=True), "y": [torch.zeros(4, dtype=torch.int64), None, "text", 3]}
        mine = copied(batch)
        assert mine["x"].requires_grad and mine["x"] is not batch["x"] and mine["y"][1:] == [None, "text", 3]
        mine["y"][0].add_(1)
        assert batch["y"][0].sum() == 0 and rows_of({"x": batch["x"], "n": 3, "on": True}) == 4

    def test_whose_gradient_the_loss_needs(self):
        """A penalty on the slope, as in physics-informed nets."""

        def penalised(model, x):
            x = x.requires_grad_()
            (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            return slope.square().mean() + loss(model, x)

        model = build()
        w = go(model, torch.optim.SGD(model.parameters(), lr=0.01), penalised, batches=[x.clone() for x in X])
        assert w.run["gain_ratio"] == pytest.approx(1.0, abs=0.2) and reasons(w).keys() <= {
            "parts",
            "coherence",
            "out_of_date",
            "rates",
        }


class TestSinks:
    def test_get_each_row_as_it_is_flushed(self):
        rows = {}
        model = build()
        w = go(model, torch.optim.SGD(model.parameters(), lr=0.1), sinks=[lambda step, values: rows.setdefault(step, values)])
        assert list(rows) == list(range(10)) and rows[9]["grad_norm"] == w.run["grad_norm"][9] and "step" not in rows[9]

    def test_one_that_fails_is_left_out(self, caplog):
        kept, model = [], build()

        def failing(step, values):
            raise ConnectionError("no network")

        with caplog.at_level(logging.WARNING, "lrkit"):
            w = go(model, torch.optim.SGD(model.parameters(), lr=0.1), sinks=[failing, lambda step, _: kept.append(step)])
        assert kept == list(range(10)) == w.run.step.tolist()
        assert [one.message for one in caplog.records] == [
            "watch: the sink failing is left out from now on: ConnectionError: no network"
        ]

    def test_tensorboard(self):
        class Writer:
            def __init__(self):
                self.seen = []

            def add_scalar(self, name, value, step):
                self.seen.append((name, value, step))

        writer, model = Writer(), build()
        w = go(model, torch.optim.SGD(model.parameters(), lr=0.1), batches=X[:2], sinks=tensorboard(writer))
        assert ("loss", w.run["loss"][1], 1) in writer.seen and ("grad_norm", w.run["grad_norm"][0], 0) in writer.seen


def test_a_full_disk_does_not_end_the_training(tmp_path, caplog, monkeypatch):
    from lrkit.journal import Writer

    model = build()
    monkeypatch.setattr(Writer, "flush", lambda self: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with caplog.at_level(logging.WARNING, "lrkit"):
        w = go(model, torch.optim.SGD(model.parameters(), lr=0.1), path=tmp_path / "run", sinks=[])
    assert len(w.run) == 10 and "nothing is written" in caplog.text
