"""Inside Lightning: every update has the plain run's rate, and a checkpoint of Lightning's own resumes it exactly."""

import pytest
import torch

import lrkit
from integrations.plain import (
    BETWEEN,
    EPOCH,
    TEXT,
    UPDATES,
    Heard,
    Told,
    batches,
    finish,
    loss_of,
    net,
    optimizer_of,
    plain,
    same,
    start,
)  # fmt: skip
from lrkit.binding.controllers import DivergenceGuard, Plateau
from lrkit.errors import InputError, StateError

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def job():
    import integrations.job_lightning as job

    return job


@pytest.fixture(scope="module")
def reference():
    model, optimizer, _ = plain()
    return model, optimizer.told


def set_up(job, how, given=None, **module):
    """A module and the callbacks that drive it, in either way."""
    given = given or job.GIVEN
    if how == "callback":
        return job.Module(**module), [job.Schedules(**given)]
    return job.Module(given, **module), []


@pytest.mark.parametrize("how", ["callback", "scheduled"])
class TestBothWays:
    def test_every_update_has_the_plain_runs_rates_and_the_weights_are_its_weights(self, job, reference, how, tmp_path):
        model, told = reference
        module, callbacks = set_up(job, how)
        job.trainer(tmp_path, *callbacks).fit(module, job.loader())
        assert module.optimizer.told == told and same(module.net, model)

    @pytest.mark.parametrize("accumulate", [2, 3])
    def test_accumulated_batches_are_one_update(self, job, how, accumulate, tmp_path):
        whole = 2 * EPOCH // accumulate if accumulate == 2 else 3  # 8 batches an epoch; Lightning closes 3 + 3 + 2
        module, callbacks = set_up(job, how)
        job.trainer(tmp_path, *callbacks, accumulate_grad_batches=accumulate).fit(module, job.loader(2))
        schedule = lrkit.parse(TEXT).resolve(total=3 * whole)
        assert [groups[0][0] for groups in module.optimizer.told] == [0.1 * schedule(t) for t in range(3 * whole)]
        if accumulate == 2:
            model, optimizer, _ = plain(accumulate=2)
            assert module.optimizer.told == optimizer.told and same(module.net, model)

    def test_clipped_gradients_change_no_rate(self, job, how, tmp_path):
        model, optimizer, _ = plain(clip=0.05)
        module, callbacks = set_up(job, how)
        job.trainer(tmp_path, *callbacks, gradient_clip_val=0.05).fit(module, job.loader())
        assert module.optimizer.told == optimizer.told and same(module.net, model)

    def test_a_torch_optimizer_gives_the_same_weights(self, job, how, tmp_path):
        model, _, _ = plain(kind=torch.optim.AdamW)
        module, callbacks = set_up(job, how, kind=torch.optim.AdamW)
        job.trainer(tmp_path, *callbacks).fit(module, job.loader())
        assert same(module.net, model)

    @pytest.mark.parametrize("loader", ["plain", "resumable"])
    def test_its_checkpoint_resumes_at_every_update(self, job, reference, how, loader, tmp_path):
        """Lightning starts an epoch anew in a loader that cannot tell where it was: then the rates alone are comparable. One that
        can is not restored if configure_optimizers asked for its length, so `scheduled` is told the total.
        """
        model, told = reference
        kind = torch.utils.data.DataLoader if loader == "plain" else job.Resumable
        given = job.GIVEN | ({"total": UPDATES} if (how, loader) == ("scheduled", "resumable") else {})
        module, callbacks = set_up(job, how, given)
        saved = [*callbacks, job.each_update(tmp_path)]
        job.trainer(tmp_path, *saved, enable_checkpointing=True).fit(module, job.loader(kind=kind))
        assert module.optimizer.told == told and same(module.net, model)
        for cut in range(1, UPDATES + 1):
            again, callbacks = set_up(job, how, given)
            job.trainer(tmp_path, *callbacks).fit(again, job.loader(kind=kind), ckpt_path=tmp_path / f"step={cut}.ckpt")
            assert again.optimizer.told == told[cut:]
            if loader == "resumable" or cut % EPOCH == 0:
                assert same(again.net, model), cut

    def test_an_epochs_checkpoint_resumes_to_the_bit(self, job, reference, how, tmp_path):
        model, told = reference
        module, callbacks = set_up(job, how)
        job.trainer(tmp_path, *callbacks, job.each_epoch(tmp_path), enable_checkpointing=True).fit(module, job.loader())
        for epoch in range(3):
            again, callbacks = set_up(job, how)
            job.trainer(tmp_path, *callbacks).fit(again, job.loader(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
            assert again.optimizer.told == told[(epoch + 1) * EPOCH :] and same(again.net, model)

    def test_a_checkpoint_saved_after_the_fit_holds_the_position(self, job, how, tmp_path):
        module, callbacks = set_up(job, how)
        fit = job.trainer(tmp_path, *callbacks)
        fit.fit(module, job.loader())
        fit.save_checkpoint(tmp_path / "last.ckpt")
        groups = torch.load(tmp_path / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
        assert [int(group["lrkit_step"]) for group in groups] == [UPDATES] * 2

    def test_a_second_fit_of_the_same_trainer_goes_on(self, job, how, tmp_path):
        """Lightning builds the optimizer anew for it, and counts on."""
        given = {"lr": "linear 12"}
        module, callbacks = set_up(job, how, given)
        fit = job.trainer(tmp_path, *callbacks, max_epochs=1)
        fit.fit(module, job.loader())
        first = module.optimizer.told
        fit.fit_loop.max_epochs = 3
        fit.fit(module, job.loader())
        rates = [groups[0][0] for groups in first + module.optimizer.told]
        assert rates == [0.1 * lrkit.parse("linear 12")(t) for t in range(UPDATES)]

    def test_epochs_and_steps_are_the_trainers(self, job, how, tmp_path):
        module, callbacks = set_up(job, how, {"lr": "warmup 1ep > cosine 2ep"})
        job.trainer(tmp_path, *callbacks).fit(module, job.loader())
        schedule = lrkit.parse("warmup 4 > cosine 8")
        assert [groups[0][0] for groups in module.optimizer.told] == [0.1 * schedule(t) for t in range(UPDATES)]

    @pytest.mark.parametrize("limit", [{"max_steps": 6, "max_epochs": -1}, {"max_steps": 6}, {"limit_train_batches": 2}])
    def test_total_is_what_the_trainer_will_really_do(self, job, how, limit, tmp_path):
        module, callbacks = set_up(job, how, {"lr": "linear"})
        job.trainer(tmp_path, *callbacks, **limit).fit(module, job.loader())
        assert [groups[0][0] for groups in module.optimizer.told] == [0.1 * lrkit.parse("linear 6")(t) for t in range(6)]

    def test_an_endless_run_has_no_total_and_is_refused(self, job, how, tmp_path):
        module, callbacks = set_up(job, how)
        with pytest.raises(InputError, match=r"attach\(lr=…\): .* Pass total="):
            job.trainer(tmp_path, *callbacks, max_epochs=-1, max_time="00:00:00:05").fit(module, job.loader())


class TestLogs:
    @pytest.mark.parametrize("how", ["callback", "scheduled"])
    def test_the_monitor_logs_the_rates_that_are_used(self, job, how, tmp_path):
        from lightning.pytorch.callbacks import LearningRateMonitor
        from lightning.pytorch.loggers import CSVLogger

        module, callbacks = set_up(job, how)
        logger = CSVLogger(tmp_path)
        monitor = LearningRateMonitor(logging_interval="step")
        job.trainer(tmp_path, *callbacks, monitor, logger=logger, log_every_n_steps=1).fit(module, job.loader())
        column = [row["lr-Told/body"] for row in logger.experiment.metrics if "lr-Told/body" in row] or monitor.lrs[
            "lr-Told/body"
        ]
        assert [float(rate) for rate in monitor.lrs["lr-Told/body"]] == [groups[0][0] for groups in module.optimizer.told]
        assert len(column) > 0

    def test_the_scheduler_in_the_trainer_is_only_looked_at(self, job, tmp_path):
        module, _ = set_up(job, "scheduled")
        fit = job.trainer(tmp_path)
        fit.fit(module, job.loader())
        (config,) = fit.lr_scheduler_configs
        assert config.interval == "step" and config.scheduler.state_dict() == {}
        assert config.scheduler.get_last_lr() == [rate for rate, _ in module.optimizer.told[-1]]


class TestManualOptimization:
    def alone(self, updates, every, **keys):
        model = net()
        optimizer = optimizer_of(model)
        lrkit.attach(optimizer, **keys)
        for batch in batches()[every - 1 :: every][:updates]:
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model, optimizer.told

    def test_each_optimizer_has_its_own_schedule_and_its_own_count(self, job, tmp_path):
        ours = {"lr": TEXT, "total": 12}, {"lr": "cosine", "total": 6, "weight_decay": "linear"}
        gan = job.Gan()
        callback = job.Schedules(*ours)
        job.trainer(tmp_path, callback).fit(gan, job.loader())
        for i, (model, every) in enumerate([(gan.a, 1), (gan.b, 2)]):
            alone, told = self.alone(12 // every, every, **ours[i])
            assert gan.both[i].told == told and same(model, alone)
        assert [one.step for one in callback.attachments] == [12, 6]

    def test_its_checkpoint_resumes_at_every_batch(self, job, tmp_path):
        ours = {"lr": TEXT, "total": 12}, {"lr": "cosine", "total": 6}
        whole = job.Gan()
        saved = job.each_update(tmp_path)
        job.trainer(tmp_path, job.Schedules(*ours), saved, enable_checkpointing=True).fit(whole, job.loader(kind=job.Resumable))
        cuts = sorted(tmp_path.glob("*.ckpt"))
        assert len(cuts) == 12
        for cut in cuts:
            again = job.Gan()
            job.trainer(tmp_path, job.Schedules(*ours)).fit(again, job.loader(kind=job.Resumable), ckpt_path=cut)
            for before, after in zip(whole.both, again.both, strict=True):
                assert after.told == before.told[len(before.told) - len(after.told) :]
            assert same(again.a, whole.a) and same(again.b, whole.b)

    def test_one_for_all(self, job, tmp_path):
        gan = job.Gan()
        job.trainer(tmp_path, job.Schedules(lr="linear", total=12)).fit(gan, job.loader())
        expected = [0.1 * lrkit.parse("linear 12")(t) for t in range(12)]
        assert [[groups[0][0] for groups in one.told] for one in gan.both] == [expected, expected[:6]]

    def test_a_second_fit_goes_on_with_each_ones_own_count(self, job, tmp_path):
        gan = job.Gan()
        fit = job.trainer(tmp_path, job.Schedules(lr="linear 12"), max_epochs=1)
        fit.fit(gan, job.loader())
        fit.fit_loop.max_epochs = 2
        fit.fit(gan, job.loader())
        assert [one.told[0][0][0] for one in gan.both] == [0.1 * lrkit.parse("linear 12")(t) for t in (4, 2)]

    def test_a_total_is_only_the_users_to_say(self, job, tmp_path):
        with pytest.raises(InputError, match=r"Pass total="):
            job.trainer(tmp_path, job.Schedules(lr=TEXT)).fit(job.Gan(), job.loader())

    def test_the_number_of_mappings_is_the_number_of_optimizers(self, job, tmp_path):
        with pytest.raises(InputError, match="got 1 mappings for 2 optimizers"):
            job.trainer(tmp_path, job.Schedules({"lr": "linear 10"})).fit(job.Gan(), job.loader())


class TestProcesses:
    def test_killed_in_the_middle_of_an_update_it_resumes_from_the_last_checkpoint(self, job, reference, tmp_path):
        model, told = reference
        finish(start("job_lightning.py", tmp_path, 7, tmp_path), expect=-9)
        assert len(list(tmp_path.glob("*.ckpt"))) == 7
        module = job.Module()
        fit = job.trainer(tmp_path, job.Schedules(**job.GIVEN))
        fit.fit(module, job.loader(kind=job.Resumable), ckpt_path=tmp_path / "step=7.ckpt")
        assert module.optimizer.told == told[7:] and same(module.net, model)

    def test_two_processes_have_the_rates_of_one(self, job, reference, tmp_path):
        finish(start("job_lightning.py", tmp_path, "ddp", tmp_path))
        ranks = [torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2)]
        whole = ranks[0]["whole"]["weights"]
        for rank in ranks:
            assert rank["whole"]["told"] == reference[1] and rank["resumed"]["told"] == reference[1][EPOCH:]
            for run in rank.values():
                assert all(torch.equal(run["weights"][key], whole[key]) for key in whole)


class TestRefusals:
    def test_a_scheduler_beside_the_callback(self, job, tmp_path):
        class Both(job.Module):
            def configure_optimizers(self):
                optimizer = super().configure_optimizers()
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 3)]

        with pytest.raises(
            StateError, match=r"configure_optimizers returns a scheduler as well \(StepLR\), and two cannot drive"
        ):
            job.trainer(tmp_path, job.Schedules(lr="linear 12")).fit(Both(), job.loader())

    def test_both_ways_at_once(self, job, tmp_path):
        with pytest.raises(StateError, match=r"a scheduler as well \(Passive\)"):
            job.trainer(tmp_path, job.Schedules(lr="linear 12")).fit(job.Module(job.GIVEN), job.loader())

    def test_a_checkpoint_of_another_schedule(self, job, tmp_path):
        fit = job.trainer(tmp_path, job.Schedules(lr="linear 12"), max_epochs=1)
        fit.fit(job.Module(), job.loader())
        fit.save_checkpoint(tmp_path / "a.ckpt")
        with pytest.raises(StateError, match=r"linear 12.*, now it is"):
            job.trainer(tmp_path, job.Schedules(lr="linear 24")).fit(job.Module(), job.loader(), ckpt_path=tmp_path / "a.ckpt")

    def test_a_checkpoint_without_a_record(self, job, tmp_path):
        fit = job.trainer(tmp_path, max_epochs=1)
        fit.fit(job.Module(kind=torch.optim.AdamW), job.loader())
        fit.save_checkpoint(tmp_path / "a.ckpt")
        with pytest.raises(StateError, match="updates were taken without lrkit's record"):
            module = job.Module(kind=torch.optim.AdamW)
            job.trainer(tmp_path, job.Schedules(lr="linear 24")).fit(module, job.loader(), ckpt_path=tmp_path / "a.ckpt")

    def test_a_checkpoint_without_a_record_or_any_state(self, job, tmp_path):
        """Plain SGD keeps nothing, so that only Lightning's count tells that updates were taken."""
        fit = job.trainer(tmp_path, max_epochs=1)
        fit.fit(job.Module(kind=torch.optim.SGD), job.loader())
        fit.save_checkpoint(tmp_path / "a.ckpt")
        with pytest.raises(StateError, match=r"at update 4, but .* holds no record of a schedule\. Say step=4"):
            module = job.Module(kind=torch.optim.SGD)
            job.trainer(tmp_path, job.Schedules(lr="linear")).fit(module, job.loader(), ckpt_path=tmp_path / "a.ckpt")

    def test_a_callback_that_serves_two_trainers_begins_anew(self, job, reference, tmp_path):
        callback = job.Schedules(**job.GIVEN)
        for _ in range(2):
            module = job.Module()
            job.trainer(tmp_path, callback).fit(module, job.loader())
            assert module.optimizer.told == reference[1]

    def test_at_the_callbacks_own_line(self, job):
        with pytest.raises(InputError, match="Schedules: nothing to drive"):
            job.Schedules()
        with pytest.raises(InputError, match=r"Schedules\(lr=…\): "):
            job.Schedules(lr="warmop 5%")
        with pytest.raises(InputError, match="either a mapping for each optimizer or keywords for all"):
            job.Schedules({"lr": "cosine"}, lr="cosine")


class TestControllers:
    """They hear what is measured, without being told by hand."""

    def test_the_loss_of_each_update(self, job, tmp_path):
        ear = Heard()
        job.trainer(tmp_path, job.Schedules(lr=TEXT, controllers=ear)).fit(job.Module(), job.loader())
        model, losses = net(), []
        optimizer = optimizer_of(model)
        lrkit.attach(optimizer, lr=TEXT, total=UPDATES)
        for batch in batches():
            loss = loss_of(model, batch)
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert ear.values == losses

    def test_accumulated_batches_give_one_loss_their_mean(self, job, tmp_path):
        ear = Heard()
        callback = job.Schedules(lr="linear 12", controllers=ear)
        job.trainer(tmp_path, callback, accumulate_grad_batches=2, max_epochs=1).fit(job.Module(), job.loader(2))
        with torch.no_grad():
            first = sum(loss_of(net(), batch).item() for batch in batches(2)[:2]) / 2
        assert len(ear.values) == EPOCH and ear.values[0] == pytest.approx(first, rel=1e-6)

    def test_a_name_that_the_validation_does_not_log_is_refused(self, job, tmp_path):
        class Validated(job.Module):
            def validation_step(self, batch, index):
                self.log("val_loss", loss_of(self.net, batch))

        callback = job.Schedules(lr=TEXT, controllers=Heard(metric="vall_loss"))
        with pytest.raises(InputError, match=r"listens for 'vall_loss', and the evaluation gave val_loss"):
            job.trainer(tmp_path, callback).fit(Validated(), job.loader(), job.loader())

    def test_first_guesses_are_refused_in_a_sentence(self, job):
        with pytest.raises(InputError, match=r"Schedules\('cosine'\): say what it drives, e.g. lr='cosine'"):
            job.Schedules("cosine")

    @pytest.mark.parametrize("name", ["val_loss", "val/loss"])
    def test_a_metric_at_the_end_of_each_validation_and_none_of_the_sanity_check(self, job, name, tmp_path):
        ear = Heard(metric="val_loss")
        module, callback = job.Module(logged=name), job.Schedules(lr=TEXT, controllers=[ear])
        fit = job.trainer(tmp_path, callback, num_sanity_val_steps=2)
        fit.fit(module, job.loader(), job.loader())
        assert len(ear.values) == 3 and ear.values[-1] == float(fit.callback_metrics[name])
        fit.validate(module, job.loader(), verbose=False)
        assert len(ear.values) == 3, "validating by hand is no part of the training"

    def test_of_several_optimizers_each_has_its_own(self, job, tmp_path):
        ear = Heard(metric="anything")
        ours = {"lr": "linear 12", "controllers": ear}, {"lr": "linear 12"}
        job.trainer(tmp_path, job.Schedules(*ours)).fit(job.Gan(), job.loader())
        assert ear.values == [], "nobody logs it, and nothing is reported to the other"

    def test_a_plateau_resumes_where_it_was(self, job, tmp_path):
        """No epoch improves by nine tenths, so that the rate is halved after each but the first."""

        def run(checkpoint=None):
            plateau = Plateau(metric="val_loss", factor=0.5, patience=0, threshold=0.9)
            module = job.Module()
            given = [job.Schedules(lr=TEXT, controllers=plateau), job.each_epoch(tmp_path)]
            fit = job.trainer(tmp_path, *given, enable_checkpointing=True)
            fit.fit(module, job.loader(), job.loader(), ckpt_path=checkpoint)
            return module

        whole = run()
        schedule = lrkit.parse(TEXT).resolve(total=UPDATES)
        scales = [0.1] * 8 + [0.05] * 4
        assert [groups[0][0] for groups in whole.optimizer.told] == [s * schedule(t) for t, s in enumerate(scales)]
        for epoch in range(2):
            again = run(tmp_path / f"epoch={epoch}.ckpt")
            assert again.optimizer.told == whole.optimizer.told[(epoch + 1) * EPOCH :] and same(again.net, whole.net)

    def test_a_guard_goes_back_and_every_update_counts(self, job, tmp_path):
        class Broken(job.Module):
            def training_step(self, batch, index):
                bad = float("nan") if self.trainer.global_step == 6 else 1.0
                return super().training_step(batch, index) * bad

        module = Broken()
        callback = job.Schedules(lr="linear 12", controllers=DivergenceGuard(module.net, every=2))
        job.trainer(tmp_path, callback).fit(module, job.loader())
        (event,) = callback.attachments[0].events
        assert all(bool(p.isfinite().all()) for p in module.parameters())
        assert callback.attachments[0].step == UPDATES - (event["from"] - event["back_to"])

    def test_nobody_would_report_to_those_of_configure_optimizers(self, job, tmp_path):
        with pytest.raises(InputError, match=r"scheduled\(controllers=…\): nobody would report to them\. Use the callback"):
            job.trainer(tmp_path).fit(job.Module({"lr": TEXT, "controllers": Heard()}), job.loader())


def test_weight_decay_between_is_what_the_plain_run_has(reference):
    """The reference is not empty: both keys move, over twelve updates, in two groups."""
    told = reference[1]
    assert len(told) == UPDATES and told[0][0][0] != told[1][0][0] and lrkit.parse(BETWEEN)(6) * 0.05 == told[6][0][1]
    assert isinstance(Told, type) and told[3][1][0] == pytest.approx(told[3][0][0] / 10)
