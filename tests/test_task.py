"""`train` is the package's only loop: exact in its updates, deterministic for a seed, and honest when the loss is not finite."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from lrkit import Run, Task, attach, parse, train
from lrkit.errors import FileError, InputError

X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


def loss(model, batch):
    return (model(batch).squeeze(1) - batch.sum(1)).square().mean()


def make(**changes) -> Task:
    given = {
        "model": lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.1), nn.Linear(8, 1)),
        "loss": loss,
        "batches": lambda: list(X.split(10)),
        "optimizer": lambda params: torch.optim.SGD(params, lr=0.05),
        "steps": 12,
    }
    return Task(**(given | changes))


class TestTrain:
    def test_makes_exactly_its_updates_with_the_schedules_rates(self):
        run = train(make(), lr=0.2, schedule="warmup 3 > cosine")
        expected = 0.2 * parse("warmup 3 > cosine 9")(np.arange(12))
        assert run["lr"] == pytest.approx(expected, rel=1e-12)
        assert run["epoch"].tolist() == [0] * 5 + [1] * 5 + [2] * 2
        assert np.isfinite(run["loss"]).all()
        assert run.meta["base_lr"] == 0.2 and run.meta["schedule"] == "warmup 3 > cosine 9"

    def test_is_deterministic_for_a_seed_and_leaves_the_random_state(self):
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        expected = random.random(), np.random.rand(), float(torch.rand(()))
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        first = train(make(), seed=1)
        assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
        assert train(make(), seed=1) == first
        assert not np.array_equal(train(make(), seed=2)["loss"], first["loss"])

    def test_is_what_a_loop_by_hand_makes(self):
        torch.manual_seed(0)
        model = make().model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        attach(optimizer, lr="warmup 5% > cosine", total=12)
        losses = []
        for t in range(12):
            optimizer.zero_grad()
            value = loss(model, X.split(10)[t % 5])
            value.backward()
            optimizer.step()
            losses.append(value.item())
        assert train(make())["loss"].tolist() == losses

    def test_validates_after_each_epoch_and_at_the_end_in_eval_mode(self):
        modes = []

        def validate(model):
            modes.append((model.training, torch.is_grad_enabled()))
            return {"loss": 1.0, "accuracy": 0.5}

        run = train(make(validate=validate))
        assert run.observed("val_loss")[0].tolist() == [4, 9, 11]
        assert run.observed("val_accuracy")[1].tolist() == [0.5] * 3
        assert modes == [(False, False)] * 3

    def test_says_epoch_rate_and_loss(self):
        lines, shares = [], []
        train(make(), echo=lines.append, progress=lambda done, of: shares.append(done / of))
        assert len(lines) == 3 and lines[0].startswith("epoch   1  step     5  rate 0.0")
        assert shares[-1] == 1 and len(shares) == 12

    def test_a_step_of_ones_own_replaces_forward_backward_and_update(self):
        norms = []

        def step(model, batch, optimizer):
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
            optimizer.step()
            return value

        run = train(make(step=step), budget=1.0)
        assert len(norms) == 12 and len(run) == 12

    def test_the_file_holds_the_run(self, tmp_path):
        run = train(make(), out=tmp_path / "first")
        assert Run.load(tmp_path / "first") == run
        with pytest.raises(FileError, match="never written over"):
            train(make(), out=tmp_path / "first")

    def test_groups_keep_their_ratio(self):
        def two(params):
            first, *rest = params
            return torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest, "lr": 0.01}])

        run = train(make(optimizer=two), lr=0.05, schedule="constant")
        assert run["lr/1"] == pytest.approx(np.full(12, 0.005))


class TestLossesThatAreNotFinite:
    def test_at_once_is_refused_because_no_rate_can_mend_it(self):
        with pytest.raises(InputError, match="the loss of the untrained model is nan, which no rate can mend"):
            train(make(loss=lambda model, batch: loss(model, batch) * math.nan))

    def test_later_stops_the_run_and_keeps_what_was(self, tmp_path):
        run = train(make(steps=400), lr=50.0, schedule="constant", out=tmp_path / "first")
        assert len(run) < 400 and not math.isfinite(run["loss"][-1])
        assert run.meta["stopped"].startswith("the loss was")
        assert Run.load(tmp_path / "first") == run


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": 0}, r"Task\(steps=0\): steps must be a whole number of updates, at least 1"),
            ({"steps": 1.5}, r"Task\(steps=1.5\)"),
            ({"model": nn.Linear(3, 1), "batches": None}, r"Task\(batches=…\): batches must be a function"),
            ({"batches": [X]}, r"Task\(batches=…\): batches must be a function, got list. Pass lambda: batches."),
            ({"validate": 0.5}, r"Task\(validate=…\): validate must be a function"),
        ],
    )
    def test_a_task_that_cannot_be_one(self, change, message):
        with pytest.raises(InputError, match=message):
            make(**change)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batches": list}, "batches: it yielded nothing"),
            ({"batches": lambda: iter(X.split(10))}, "batches: an iterator can be read only once"),
            ({"loss": lambda model, batch: model(batch)}, r"loss\(model, batch\): must return a tensor of one number"),
            (
                {"loss": lambda model, batch: 1.0},
                r"loss\(model, batch\): must return a tensor of one number, got float",
            ),
            ({"validate": lambda model: "good"}, r"validate\(model\): must return the validation loss as a number, got str"),
            ({"validate": lambda model: {"accuracy": 1.0}}, r"validate\(model\): the mapping must hold 'loss'"),
        ],
    )
    def test_a_task_that_does_not_work(self, change, message):
        with pytest.raises(InputError, match=message):
            train(make(**change))

    @pytest.mark.parametrize("lr", [0.0, -0.1, math.nan, math.inf, True, "0.1"])
    def test_a_rate_that_is_none(self, lr):
        with pytest.raises(InputError, match=r"train\(lr=.*: lr must be a finite number above 0"):
            train(make(), lr=lr)

    def test_a_schedule_longer_than_the_run(self):
        with pytest.raises(InputError, match="needs 20 steps and one more"):
            train(make(), schedule="warmup 20 > cosine")


class TestUpdatesThatReallyHappen:
    """A `step` of one's own may skip an update, or need several calls for one."""

    @staticmethod
    def stepping(skip=lambda call: False):
        calls = []

        def step(model, batch, optimizer):
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            calls.append(value.item())
            if not skip(len(calls) - 1):
                optimizer.step()
            return value

        return step, calls

    @pytest.mark.parametrize("skipped", [{0}, {3, 4}, {11}])
    def test_a_skipped_one_is_not_counted(self, skipped):
        step, calls = self.stepping(lambda call: call in skipped)
        run = train(make(step=step))
        assert len(run) == 12 and len(calls) == 12 + len(skipped)
        assert run["lr"] == pytest.approx(train(make())["lr"])

    def test_accumulation_is_one_update_with_the_mean_loss(self):
        step, calls = self.stepping(lambda call: call % 3 != 2)
        run = train(make(step=step))
        assert len(calls) == 36
        assert run["loss"] == pytest.approx(np.array(calls).reshape(12, 3).mean(axis=1), rel=1e-5)

    def test_never_is_refused(self):
        step, _ = self.stepping(lambda call: True)
        with pytest.raises(InputError, match="no update in 1000 calls"):
            train(make(step=step))

    def test_twice_in_a_call_is_refused(self):
        def step(model, batch, optimizer):
            value = loss(model, batch)
            value.backward()
            optimizer.step()
            optimizer.step()
            return value

        with pytest.raises(InputError, match="made 2 updates in one call"):
            train(make(step=step))


class TestLoaders:
    @pytest.mark.parametrize("per_epoch", [1, 5, 10, 25, 49, 50, 51])
    def test_a_flush_at_an_epochs_end_loses_nothing(self, per_epoch):
        """The watch hands its rows on every 50 updates; what is amended then still belongs to its row."""
        lines = []
        run = train(make(batches=lambda: [X] * per_epoch, steps=110, validate=lambda model: 1.0), echo=lines.append)
        assert np.isfinite(run["loss"]).all() and len(run) == 110
        assert len(run.observed("val_loss")[0]) == len(lines) == math.ceil(110 / per_epoch)

    def test_a_stream_has_no_length_and_trains_all_the_same(self):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(X)

        run = train(make(batches=lambda: torch.utils.data.DataLoader(Stream(), batch_size=10)))
        assert run["epoch"].tolist() == [0] * 5 + [1] * 5 + [2] * 2

    def test_with_a_length_no_batch_is_drawn_ahead(self):
        drawn = []

        class Counting(list):
            def __iter__(self):
                for batch in super().__iter__():
                    drawn.append(1)
                    yield batch

        train(make(batches=lambda: Counting(X.split(10)), steps=3))
        assert len(drawn) == 3


def test_numpys_numbers_are_numbers():
    run = train(make(steps=np.int64(3)), lr=np.float32(0.5), seed=np.int64(1), schedule="constant")
    assert len(run) == 3 and run["lr"][0] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": lambda: None}, r"model\(\) must return a torch module, got NoneType"),
        ({"optimizer": lambda p: "adam"}, r"optimizer\(params\) must return a torch optimizer, got str"),
        ({"batches": lambda: None}, r"batches\(\) must return what can be iterated, got NoneType"),
        ({"loss": lambda model, batch: loss(model, batch).detach()}, "no trained weight leads to it"),
    ],
)
def test_factories_that_make_something_else_are_named(change, message):
    with pytest.raises(InputError, match=message):
        train(make(**change))


def test_a_run_that_never_began_leaves_no_file(tmp_path):
    with pytest.raises(InputError, match="yielded nothing"):
        train(make(batches=list), out=tmp_path / "first")
    assert not list(tmp_path.rglob("*.jsonl"))
    train(make(), out=tmp_path / "first")


def test_a_schedule_that_begins_or_ends_at_zero_loses_no_row():
    for text in ("linear 5 > constant", "hold 3 at 0 > constant at 1", "constant at 0"):
        run = train(make(), schedule=text)
        assert len(run) == 12 and np.isfinite(run["loss"]).all()


def test_epochs_are_named_rightly_where_their_last_call_makes_no_update():
    lines, calls = [], []

    def step(model, batch, optimizer):
        value = loss(model, batch)
        value.backward()
        calls.append(1)
        if len(calls) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return value

    train(make(step=step, batches=lambda: list(X[:40].split(10)), steps=8), echo=lines.append)
    assert [line.split()[1] for line in lines] == ["1", "2", "3", "4", "5", "6"]


def test_an_optimizer_whose_step_calls_its_parents_takes_one_update_a_call():
    class Careful(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    def step(model, batch, optimizer):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        optimizer.step()
        return value

    assert len(train(make(step=step, optimizer=lambda p: Careful(p, lr=0.05)))) == 12


def test_a_loss_module_is_refused_with_an_example():
    with pytest.raises(InputError, match=r"Task\(loss=MSELoss\): loss takes the model and a batch"):
        make(loss=nn.MSELoss())
