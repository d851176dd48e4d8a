"""`watch` sees every update, measures right, and changes nothing."""

import copy

import pytest
import torch
from torch import nn

from lrkit import Run, attach, watch
from lrkit.errors import FileError, InputError, StateError

DATA = torch.randn(30, 8, 4, generator=torch.Generator().manual_seed(0))


def build(optimizer=torch.optim.AdamW):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, optimizer(model.parameters(), lr=0.01)


def one(model, optimizer, x):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    return loss


class TestWhatIsSeen:
    def test_norms_equal_their_naive_twins(self):
        """Recomputed by plain sums over parameters at every update."""
        model, optimizer = build()
        norms, ratios, losses = [], [], []
        with watch(model, optimizer, every=1) as w:
            for x in DATA[:10]:
                loss = one(model, optimizer, x)
                w.record(loss=loss)
                before = [p.detach().clone() for p in model.parameters()]
                norms.append(sum(float(p.grad.double().square().sum()) for p in model.parameters()) ** 0.5)
                optimizer.step()
                moved = (
                    sum(float((p.detach() - b).double().square().sum()) for p, b in zip(model.parameters(), before, strict=True))
                    ** 0.5
                )
                ratios.append(moved / sum(float(b.double().square().sum()) for b in before) ** 0.5)
                losses.append(loss.item())
        assert w.run["grad_norm"] == pytest.approx(norms, rel=1e-5)
        assert w.run["update_ratio"] == pytest.approx(ratios, rel=1e-4)
        assert w.run["loss"] == pytest.approx(losses, rel=1e-7)

    def test_norms_are_sampled_and_rows_between_lack_them(self):
        model, optimizer = build()
        with watch(model, optimizer, every=4) as w:
            for x in DATA[:9]:
                w.record(loss=one(model, optimizer, x))
                optimizer.step()
        assert w.run.observed("grad_norm")[0].tolist() == [0, 4, 8]

    def test_the_rate_is_the_one_in_force_and_named_groups_have_theirs(self):
        head, body = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        groups = [{"params": [head], "name": "head"}, {"params": [body], "lr": 0.1, "name": "body"}]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        attach(optimizer, lr="linear 4")
        head.grad = body.grad = torch.ones(2)
        with watch(nn.Module(), optimizer) as w:
            for _ in range(4):
                optimizer.step()
        assert w.run["lr"].tolist() == w.run["lr/head"].tolist() == [1.0, 0.75, 0.5, 0.25]
        assert w.run["lr/body"] == pytest.approx([0.1, 0.075, 0.05, 0.025])

    def test_several_records_before_one_update_are_averaged(self):
        model, optimizer = build()
        with watch(model, optimizer) as w:
            for value in (1.0, 2.0, 6.0):
                w.record(loss=torch.tensor(value))
            one(model, optimizer, DATA[0])
            optimizer.step()
        assert w.run["loss"].tolist() == [3.0]

    def test_amend_belongs_to_the_update_just_made_also_after_a_flush(self):
        model, optimizer = build()
        with watch(model, optimizer) as w:
            one(model, optimizer, DATA[0])
            optimizer.step()
            w.amend(val_loss=0.5)
            assert len(w.run) == 1  # flushes
            w.amend(epoch=3)
        assert w.run["val_loss"].tolist() == [0.5] and w.run["epoch"].tolist() == [3.0]

    def test_a_skipped_update_is_no_row(self):
        model, optimizer = build(lambda p, lr: torch.optim.AdamW(p, lr=lr, fused=True))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        with watch(model, optimizer, every=1) as w:
            for bad in (False, True, False):
                optimizer.zero_grad()
                scaler.scale(model(DATA[0]).square().mean()).backward()
                if bad:
                    model[0].weight.grad.fill_(float("inf"))
                scaler.step(optimizer)
                scaler.update()
        assert w.run.step.tolist() == [0, 1]

    @pytest.mark.parametrize("before_backward", [False, True])
    def test_an_update_that_a_scaler_skipped_without_a_hook_leaves_nothing_behind(self, before_backward):
        """An unfused optimizer's step is not even called; its loss and batch are not those of the next update."""
        model, optimizer = build(torch.optim.SGD)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        with watch(model, optimizer, loss=lambda model, x: model(x).square().mean(), every=1) as w:
            for turn, x in enumerate(DATA[:4]):
                optimizer.zero_grad()
                value = model(x).square().mean()
                if before_backward and turn == 1:
                    w.record(loss=50.0, batch=x)  # with gradients of an earlier pass still to come
                scaler.scale(value).backward()
                if turn == 1:
                    model[0].weight.grad.fill_(float("inf"))
                w.record(loss=50.0 if turn == 1 else 1.0, batch=x)
                scaler.step(optimizer)
                scaler.update()
        assert w.run.step.tolist() == [0, 1, 2] and w.run["loss"].tolist() == [1.0, 1.0, 1.0]
        assert "gain_ratio" in w.run and len(w.run.observed("gain_ratio")[0]) == 3

    def test_losses_of_an_accumulation_are_averaged_whatever_the_gradients_do(self):
        model, optimizer = build(torch.optim.SGD)
        with watch(model, optimizer) as w:
            for _ in range(2):
                optimizer.zero_grad()
                for k, x in enumerate(DATA[:3]):
                    w.record(loss=float(k))
                    model(x).square().mean().backward()
                optimizer.step()
        assert w.run["loss"].tolist() == [1.0, 1.0]

    def test_what_a_closure_records_of_gradients_that_it_makes_joins_what_was_said_before(self):
        model, optimizer = build(torch.optim.SGD)
        with watch(model, optimizer, loss=lambda model, x: model(x).square().mean(), every=1) as w:
            for x in DATA[:4]:

                def closure(x=x):
                    optimizer.zero_grad()
                    value = model(x).square().mean()
                    value.backward()
                    w.record(loss=value)
                    return value

                w.record(batch=x)
                optimizer.step(closure)
        assert len(w.run.observed("gain")[0]) == len(w.run.observed("loss")[0]) == 4

    def test_the_first_step_can_be_said(self):
        model, optimizer = build()
        with watch(model, optimizer, step=70) as w:
            one(model, optimizer, DATA[0])
            optimizer.step()
        assert w.run.step.tolist() == [70]

    def test_a_resumed_run_goes_on_where_its_schedule_is(self):
        model, optimizer = build()
        attach(optimizer, lr="linear 10")
        for x in DATA[:3]:
            one(model, optimizer, x)
            optimizer.step()
        with watch(model, optimizer) as w:
            one(model, optimizer, DATA[3])
            optimizer.step()
        assert w.run.step.tolist() == [3]


def test_the_training_is_the_same_with_and_without():
    """Weights and random state are equal to the bit."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    weights = []
    for watched in (False, True):
        model = copy.deepcopy(net)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        torch.manual_seed(1)
        w = watch(model, optimizer, every=2)
        if watched:
            w.__enter__()
        for x in DATA:
            loss = one(model, optimizer, x)
            if watched:
                w.record(loss=loss)
            optimizer.step()
        if watched:
            w.__exit__()
        weights.append((model[0].weight.detach(), torch.rand(1)))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


class TestOnDisk:
    def test_the_file_holds_the_run(self, tmp_path):
        model, optimizer = build()
        with watch(model, optimizer, tmp_path / "first", meta={"seed": 3}) as w:
            for x in DATA:
                w.record(loss=one(model, optimizer, x))
                optimizer.step()
        assert Run.load(tmp_path / "first") == w.run
        about = {name: value for name, value in w.run.meta.items() if name != "gauges"}
        assert about == {"optimizer": "AdamW", "parameters": 58, "betas": [0.9, 0.999], "seed": 3}

    def test_an_older_run_there_is_not_touched(self, tmp_path):
        Run({"loss": [1.0]}).save(tmp_path / "first")
        with pytest.raises(FileError, match="never written over"):
            watch(*build(), tmp_path / "first")
        assert Run.load(tmp_path / "first")["loss"].tolist() == [1.0]

    def test_an_exception_inside_loses_nothing(self, tmp_path):
        model, optimizer = build()
        with pytest.raises(RuntimeError, match="power cut"), watch(model, optimizer, tmp_path / "first") as w:
            w.record(loss=one(model, optimizer, DATA[0]))
            optimizer.step()
            raise RuntimeError("power cut")
        assert len(Run.load(tmp_path / "first")) == 1
        one(model, optimizer, DATA[1])
        optimizer.step()
        assert len(w.run) == 1, "the hooks are gone"


class TestRefusals:
    def test_a_value_of_several_numbers(self):
        with watch(*build()) as w, pytest.raises(InputError, match="loss must be one number, got a tensor of shape"):
            w.record(loss=torch.ones(3))

    def test_recording_outside(self):
        with pytest.raises(StateError, match="nothing is watched outside"):
            watch(*build()).record(loss=1.0)

    def test_amending_before_an_update(self):
        with watch(*build()) as w, pytest.raises(StateError, match="no update has been made yet"):
            w.amend(val_loss=1.0)

    def test_an_interval_below_one(self):
        with pytest.raises(InputError, match=r"watch\(every=0\)"):
            watch(*build(), every=0)


class TestRatesOfZero:
    """An update at rate 0 is an update; only a distributed checkpoint's dry step, which has no gradient, is none."""

    @pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
    @pytest.mark.parametrize(
        "text", ["hold 3 at 0 > constant at 1", "linear 5 > constant", "constant at 0", "warmup 2 > hold 4 at 0"]
    )
    def test_are_counted_by_watch_and_attachment_alike(self, kind, text):
        model, optimizer = build(kind)
        attachment = attach(optimizer, lr=text)
        with watch(model, optimizer) as w:
            for x in DATA[:10]:
                w.record(loss=one(model, optimizer, x))
                optimizer.step()
        assert attachment.step == len(w.run) == 10
        assert w.run["lr"].tolist() == [attachment.values(step=t)[0]["lr"] for t in range(10)]

    def test_a_dry_step_is_no_row(self):
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        model, optimizer = build()
        with watch(model, optimizer) as w:
            get_optimizer_state_dict(model, optimizer)
            one(model, optimizer, DATA[0])
            optimizer.step()
        assert len(w.run) == 1


def test_norms_of_mixed_and_half_precision_do_not_overflow():
    from lrkit.gauges.quantities import total_norm

    half = torch.full((300,), 3e4, dtype=torch.float16)
    assert float(total_norm([half])) == pytest.approx(3e4 * 300**0.5, rel=1e-3)
    assert float(total_norm([half.bfloat16(), torch.ones(4, dtype=torch.float64)])) == pytest.approx(3e4 * 300**0.5, rel=1e-2)
