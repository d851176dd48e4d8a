"""`Watch` inside Lightning: every update's loss, the batch before it, the validations; and the same weights as without."""

import pytest
import torch

import lrkit
from integrations.plain import EPOCH, UPDATES, batches, loss_of, net, optimizer_of, plain, same
from lrkit.errors import FileError, InputError, StateError

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", autouse=True)
def _host():
    """Imported when the first test runs, not when tests are collected where the host is absent."""
    global job, Clip, Watch
    import integrations.job_lightning as job
    from lrkit.integrations.lightning import Clip, Watch


def again(module, batch):
    return loss_of(module.net, batch)


def losses(accumulate=1, clip=None, kind=torch.optim.AdamW):
    """What a plain loop says of each update."""
    model, said, seen = net(), [], []
    optimizer = optimizer_of(model, kind)
    for i, batch in enumerate(batches(accumulate)):
        loss = loss_of(model, batch)
        (loss / accumulate).backward()
        seen.append(loss.item())
        if (i + 1) % accumulate == 0:
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            said.append(sum(seen) / accumulate)
            seen = []
    return said


def fitted(folder, watch, accumulate=1, module=None, checkpoint=None, also=(), **given):
    module = module or job.Module(kind=torch.optim.AdamW)
    fit = job.trainer(folder, watch, *also, accumulate_grad_batches=accumulate, **given)
    fit.fit(module, job.loader(accumulate), job.loader(), ckpt_path=checkpoint)
    return module, fit


@pytest.mark.parametrize("accumulate", [1, 2])
def test_in_one_line_every_updates_loss_is_in_the_run(tmp_path, accumulate):
    watch = Watch(tmp_path / "run")
    fitted(tmp_path, watch, accumulate)
    run = lrkit.Run.load(tmp_path / "run")
    assert run == watch.run and run.step.tolist() == list(range(UPDATES))
    assert run["loss"] == pytest.approx(losses(accumulate), rel=1e-5)
    assert run["lr"].tolist() == [0.1] * UPDATES


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_weights_are_the_same_to_the_bit_with_everything_on(tmp_path, accumulate):
    fit = {"gradient_clip_val": 0.05}
    bare = job.Module(kind=torch.optim.AdamW)
    job.trainer(tmp_path, accumulate_grad_batches=accumulate, **fit).fit(bare, job.loader(accumulate), job.loader())
    watch = Watch(loss=again, every=1)
    module, _ = fitted(tmp_path, watch, accumulate, **fit)
    assert same(module, bare)
    assert {"gain", "gain_ratio", "half_product", "noise_scale", "grad_norm", "update_ratio", "rms_t"} <= set(watch.run.columns)
    assert watch.run["loss"] == pytest.approx(losses(accumulate, clip=0.05), rel=1e-4)


def test_gain_is_that_of_the_update_on_its_own_batch(tmp_path):
    """The batch is known before the update, though its loss is only computed inside of the optimizer's step."""
    watch = Watch(loss=again, every=1)
    fitted(tmp_path, watch)
    model = net()
    optimizer, gains = optimizer_of(model, torch.optim.AdamW), []
    for batch in batches():
        before = loss_of(model, batch)
        before.backward()
        optimizer.step()
        optimizer.zero_grad()
        gains.append(before.item() - loss_of(model, batch).item())
    assert watch.run["gain"] == pytest.approx(gains, rel=1e-3, abs=1e-7)


def test_what_a_validation_logs_belongs_to_the_update_before_it(tmp_path):
    class Two(job.Module):
        def validation_step(self, batch, index):
            self.log_dict({"val/loss": loss_of(self.net, batch), "accuracy": float(self.current_epoch)})

    watch = Watch()
    fit = fitted(tmp_path, watch, module=Two(kind=torch.optim.AdamW), num_sanity_val_steps=2)[1]
    steps, values = watch.run.observed("val_loss")
    assert steps.tolist() == [3, 7, 11] and values[-1] == float(fit.callback_metrics["val/loss"])
    assert watch.run.observed("val_accuracy")[1].tolist() == [0, 1, 2]
    assert "val_train_loss" not in watch.run and "accuracy" not in watch.run


def test_sinks_and_meta_are_passed_on(tmp_path):
    rows = []
    watch = Watch(sinks=lambda step, values: rows.append((step, values)), meta={"who": "me"}, budget=0)
    fitted(tmp_path, watch)
    assert [step for step, values in rows if "loss" in values][:UPDATES] == list(range(UPDATES))
    assert watch.run.meta["who"] == "me"


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_resumed_fit_counts_on_and_writes_beside(tmp_path, scheduled):
    schedules = [job.Schedules(lr="linear 12 to 0.5")] if scheduled else []
    fitted(tmp_path, Watch(tmp_path / "run"), also=[*schedules, job.each_epoch(tmp_path)], enable_checkpointing=True)
    whole = lrkit.Run.load(tmp_path / "run")
    for number in (2, 3):
        watch = Watch(tmp_path / "run")
        schedules = [job.Schedules(lr="linear 12 to 0.5")] if scheduled else []
        fitted(tmp_path, watch, checkpoint=tmp_path / "epoch=0.ckpt", also=schedules)
        part = lrkit.Run.load(tmp_path / f"run-{number}")
        assert part == watch.run and part.step.tolist() == list(range(EPOCH, UPDATES))
        assert part["loss"].tolist() == whole["loss"][EPOCH:].tolist()


def test_a_second_fit_counts_on_too(tmp_path):
    watch = Watch(tmp_path / "run")
    module, fit = fitted(tmp_path, watch, max_epochs=1)
    first = watch.run
    fit.fit_loop.max_epochs = 2
    fit.fit(module, job.loader())
    assert first.step.tolist() == [0, 1, 2, 3] and watch.run.step.tolist() == [4, 5, 6, 7]
    assert (tmp_path / "run-2" / "run.jsonl").exists()


def test_a_new_fit_is_not_written_over_an_old_one(tmp_path):
    fitted(tmp_path, Watch(tmp_path / "run"), max_epochs=1)
    with pytest.raises(FileError, match="a run is never written over"):
        fitted(tmp_path, Watch(tmp_path / "run"), max_epochs=1)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_the_rows_are_kept_and_no_hook_is_left(tmp_path, kind):
    class Breaks(job.Module):
        def training_step(self, batch, index):
            if self.trainer.global_step == 6:
                raise kind("stop")
            return super().training_step(batch, index)

    watch, module = Watch(tmp_path / "run"), Breaks(kind=torch.optim.AdamW)
    with pytest.raises((RuntimeError, SystemExit)):
        fitted(tmp_path, watch, module=module)
    run = lrkit.Run.load(tmp_path / "run")
    assert run == watch.run and run.step.tolist() == list(range(6))
    assert not module.optimizer._optimizer_step_pre_hooks and not module.optimizer._optimizer_step_post_hooks


def test_an_update_that_a_scaler_skips_is_no_row_and_its_loss_is_in_none(tmp_path):
    class Overflows(job.Module):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            return loss * float("inf") if self.trainer.global_step == 5 else loss

    from lightning.pytorch.plugins import MixedPrecision

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))
    watch, schedules = Watch(loss=again, every=1), job.Schedules(lr="linear 12 to 0.5")
    module = Overflows(kind=torch.optim.AdamW)
    fitted(tmp_path, watch, module=module, plugins=[plugin], also=[schedules])
    run = watch.run
    assert run.step.tolist() == list(range(UPDATES - 1)) and schedules.attachments[0].step == UPDATES - 1
    assert torch.isfinite(torch.tensor(run["loss"])).all() and run["loss"][0] == pytest.approx(losses()[0], rel=1e-2)


def test_an_update_that_clip_skips_is_no_row(tmp_path):
    module, watch, bad = job.Module(kind=torch.optim.AdamW), Watch(), [3]

    def poison(gradient):
        bad[0] -= 1
        return gradient * float("nan") if bad[0] == 0 else gradient

    next(module.net.parameters()).register_hook(poison)
    fitted(tmp_path, watch, module=module, also=[Clip(lrkit.clip.norm(1.0))])
    assert len(watch.run) == UPDATES - 1


def test_of_an_optimizer_that_evaluates_again_the_first_loss_counts(tmp_path):
    class Line(job.Module):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.net.parameters(), lr=0.1, max_iter=4)

    watch = Watch()
    fitted(tmp_path, watch, module=Line(), max_epochs=1)
    assert len(watch.run) == EPOCH and watch.run["loss"][0] == pytest.approx(loss_of(net(), batches()[0]).item(), rel=1e-6)


class TestManualOptimization:
    def test_each_optimizer_has_its_own_run_with_its_own_losses(self, tmp_path):
        watch = Watch(tmp_path / "run")
        job.trainer(tmp_path, watch).fit(job.Gan(), job.loader())
        first, second = watch.runs
        assert len(first) == 12 and len(second) == 6
        assert lrkit.Run.load(tmp_path / "run" / "0") == first and lrkit.Run.load(tmp_path / "run" / "1") == second
        assert first["loss"] == pytest.approx(losses(kind=job.Told), rel=1e-6)
        with pytest.raises(StateError, match=r"Watch\.run: there are several\. Ask for \.runs"):
            watch.run  # noqa: B018

    def test_a_loss_of_which_nobody_knows_whose_it_is_is_left_out(self, tmp_path):
        class Both(job.Gan):
            def training_step(self, batch, index):
                for optimizer in self.optimizers():
                    optimizer.zero_grad()
                for model in (self.a, self.b):
                    self.manual_backward(loss_of(model, batch))
                for optimizer in self.optimizers():
                    optimizer.step()

        watch = Watch()
        job.trainer(tmp_path, watch).fit(Both(), job.loader())
        assert [len(run) for run in watch.runs] == [12, 12] and not any("loss" in run for run in watch.runs)

    def test_one_accumulates_as_it_likes(self, tmp_path):
        class One(job.Module):
            def __init__(self):
                super().__init__(kind=torch.optim.AdamW)
                self.automatic_optimization = False

            def training_step(self, batch, index):
                optimizer = self.optimizers()
                self.manual_backward(loss_of(self.net, batch) / 2)
                if index % 2:
                    optimizer.step()
                    optimizer.zero_grad()

        watch = Watch(loss=again, every=1)
        job.trainer(tmp_path, watch).fit(One(), job.loader(2))
        assert watch.run["loss"] * 2 == pytest.approx(losses(2), rel=1e-4)
        assert "half_product" in watch.run


def test_in_two_processes_the_first_writes(tmp_path):
    from integrations.plain import finish, start

    finish(start("job_watch.py", tmp_path, "lightning", tmp_path))
    said = [torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2)]
    assert [one["rows"] for one in said] == [UPDATES, UPDATES] and [one["handed"] for one in said] == [UPDATES, 0]
    model, _, _ = plain(lr="hold 12")
    weights = said[0]["weights"]
    assert weights.keys() == model.state_dict().keys() and len(lrkit.Run.load(tmp_path / "run")) == UPDATES
    assert all(
        torch.equal(said[1]["weights"][key], weights[key]) and torch.equal(said[1]["bare"][key], weights[key]) for key in weights
    )


def test_what_watch_would_refuse_is_refused_at_once():
    with pytest.raises(InputError, match="budget=3"):
        Watch(budget=3)
    with pytest.raises(InputError, match="loss takes the model and a batch"):
        Watch(loss="training_step")
    with pytest.raises(StateError, match=r"Watch\.run: nothing has been trained yet"):
        Watch().run  # noqa: B018
