"""`find` in Lightning: the updates are those of a fit, its schedule gives the shape, and then it fits as if nothing had been."""

import contextlib
import logging

import pytest
import torch
from torch import nn

import lrkit
from integrations.instead import Instead, attributes, drawn, learnable, untouched, watched
from integrations.plain import BATCH, EPOCH, TEXT, Told, dataset, loss_of, net, optimizer_of, same
from lrkit import clip
from lrkit.errors import InputError, StateError

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def job():
    import integrations.job_lightning as job

    return job


@pytest.fixture(scope="module")
def find():
    from lrkit.integrations.lightning import find

    return find


@pytest.fixture
def instead(monkeypatch):
    """Three updates in place of a search."""
    import lrkit.integrations.lightning_find as host

    made = Instead(3)
    monkeypatch.setattr(host, "search", made)
    return made


def everything(trainer, module, *things):
    """All that a search must leave as it was."""
    weights = [value.clone() for value in module.state_dict().values()]
    modes = [one.training for one in module.modules()]
    held = attributes(trainer, trainer.strategy, trainer.fit_loop, *module.modules(), *things)
    return held, drawn(), weights, modes, logging.getLogger("lightning.pytorch").level


def shuffled():
    """A loader with a generator of its own."""
    return torch.utils.data.DataLoader(dataset(), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(7))


def dropping(job, **given):
    """A module whose batches and dropout are drawn at random."""

    class Dropping(job.Module):
        def __init__(self):
            super().__init__(**given)
            self.net.insert(2, nn.Dropout(0.2))

        def configure_optimizers(self):
            self.optimizer = given.get("kind", Told)(self.net.parameters(), lr=0.1, weight_decay=0.05)
            return self.optimizer if self.given is None else job.scheduled(self, self.optimizer, **self.given)

    return Dropping()


def clip_of(rule):
    from lrkit.integrations.lightning import Clip

    return Clip(rule)


KINDS = {
    "plain": {},
    "accumulating and clipping": {"accumulate_grad_batches": 3, "gradient_clip_val": 0.05},
    "clipping values": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "bf16 mixed": {"precision": "bf16-mixed"},
    "bf16 weights": {"precision": "bf16-true"},
    "few batches": {"limit_train_batches": 2},
}


class TestFit:
    @pytest.mark.parametrize(
        ("kind", "how"),
        [*((kind, "alone") for kind in KINDS), *((kind, how) for kind in list(KINDS)[:2] for how in ("callback", "scheduled"))],
    )
    def test_after_a_search_it_fits_the_same_to_the_bit(self, job, find, kind, how, tmp_path):
        def fitted(search):
            torch.manual_seed(5)
            module = dropping(job, given=job.GIVEN if how == "scheduled" else None)
            trainer = job.trainer(tmp_path, *([job.Schedules(**job.GIVEN)] if how == "callback" else []), **KINDS[kind])
            loader = shuffled()
            if search:
                before = everything(trainer, module, *trainer.callbacks, loader)
                assert find(trainer, module, loader, steps=100).steps > 10
                assert untouched(before, everything(trainer, module, *trainer.callbacks, loader))
            trainer.fit(module, loader)
            return module

        with_search, without = fitted(True), fitted(False)
        assert with_search.optimizer.told == without.optimizer.told and same(with_search, without)

    def test_a_scaler_of_half_precision_starts_where_it_would(self, job, find, tmp_path):
        from lightning.pytorch.plugins import MixedPrecision

        def fitted(search):
            torch.manual_seed(5)
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
            trainer = job.trainer(tmp_path, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
            module = dropping(job)
            if search:
                before = dict(vars(scaler))
                find(trainer, module, job.loader(), steps=100)
                assert vars(scaler) == before
            trainer.fit(module, job.loader())
            return module

        assert same(fitted(True), fitted(False))

    @pytest.mark.parametrize("holder", ["module", "datamodule"])
    def test_a_loader_that_is_kept_goes_on_where_it_was(self, job, find, holder, tmp_path):
        import lightning.pytorch as pl

        class Data(pl.LightningDataModule):
            def setup(self, stage):
                self.loader = getattr(self, "loader", None) or shuffled()

            def train_dataloader(self):
                return self.loader

        class Owning(job.Module):
            def __init__(self):
                super().__init__()
                self.loader = shuffled()

            def train_dataloader(self):
                return self.loader

        def fitted(search):
            torch.manual_seed(5)
            module, data = (Owning(), None) if holder == "module" else (job.Module(), Data())
            if data is not None:
                data.loader = shuffled()
            trainer = job.trainer(tmp_path)
            if search:
                before = everything(trainer, module, *([] if data is None else [data]))
                find(trainer, module, datamodule=data, steps=100)
                assert untouched(before, everything(trainer, module, *([] if data is None else [data])))
            trainer.fit(module, datamodule=data)
            return module

        assert same(fitted(True), fitted(False))

    @pytest.mark.parametrize("who", ["module", "callbacks"])
    def test_an_optimizer_that_the_module_keeps_is_left_alone(self, job, find, who, tmp_path):
        class Keeping(job.Module):
            def __init__(self):
                super().__init__()
                self.kept = optimizer_of(self.net)
                if who == "module":
                    lrkit.attach(self.kept, lr=TEXT, total=12)

            def configure_optimizers(self):
                return self.kept

        def fitted(search):
            callbacks = [job.Schedules(lr=TEXT), clip_of(clip.norm(0.05))] if who == "callbacks" else []
            module, trainer = Keeping(), job.trainer(tmp_path, *callbacks)
            if search:
                before = everything(trainer, module, module.kept, *module.kept.param_groups)
                assert find(trainer, module, job.loader(), steps=100).context["schedule"] == "warmup 3 > cosine 9"
                assert untouched(before, everything(trainer, module, module.kept, *module.kept.param_groups))
            trainer.fit(module, job.loader())
            return module

        with_search, without = fitted(True), fitted(False)
        assert with_search.kept.told == without.kept.told and same(with_search, without)

    @pytest.mark.parametrize("what", [ZeroDivisionError, KeyboardInterrupt])
    def test_what_goes_wrong_in_the_middle_leaves_nothing_behind(self, job, find, what, tmp_path):
        class Breaking(job.Module):
            calls = 0

            def training_step(self, batch, index):
                Breaking.calls += 1
                if Breaking.calls == 20:
                    raise what
                return super().training_step(batch, index)

        trainer, module = job.trainer(tmp_path, job.Schedules(**job.GIVEN)), Breaking()
        before = everything(trainer, module, *trainer.callbacks)
        with pytest.raises(what):
            find(trainer, module, job.loader(), steps=100)
        assert Breaking.calls == 20 and untouched(before, everything(trainer, module, *trainer.callbacks))
        trainer.fit(module, job.loader())
        plain = job.Module()
        job.trainer(tmp_path, job.Schedules(**job.GIVEN)).fit(plain, job.loader())
        assert module.optimizer.told == plain.optimizer.told and same(module, plain)

    def test_it_writes_no_file_and_says_nothing(self, job, find, tmp_path, monkeypatch, capfd, caplog):
        monkeypatch.chdir(tmp_path)
        trainer = job.trainer(tmp_path)
        capfd.readouterr()
        with caplog.at_level(logging.INFO):
            find(trainer, job.Module(), job.loader(), steps=100)
        assert list(tmp_path.iterdir()) == [] and "".join(capfd.readouterr()) == "" and caplog.text == ""


class TestUpdates:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_search_makes_the_updates_that_a_fit_makes(self, job, find, instead, kind, tmp_path):
        given = KINDS[kind]
        find(job.trainer(tmp_path, **given), job.Module(), job.loader())
        module = job.Module()
        job.trainer(tmp_path, max_steps=3, **given).fit(module, job.loader())
        assert instead.made(module.state_dict())
        first = loss_of(net(), next(iter(job.loader()))) if kind == "plain" else instead.losses[0]
        assert instead.losses[0] == float(first)

    def test_what_is_left_at_the_end_of_an_epoch_is_an_update(self, job, find, instead, tmp_path):
        given = {"accumulate_grad_batches": 3}  # 3, 3 and 2 of 8 batches
        find(job.trainer(tmp_path, **given), job.Module(), job.loader(2))
        assert instead.epoch == 3 and instead.steps == 9
        module = job.Module()
        job.trainer(tmp_path, max_steps=3, **given).fit(module, job.loader(2))
        assert instead.made(module.state_dict())

    def test_the_modules_hooks_are_called(self, job, find, instead, tmp_path):
        class Hooked(job.Module):
            def __init__(self):
                super().__init__()
                self.heard = []
                self.teacher = net()

            def on_train_start(self):
                self.heard.append("start")

            def on_after_batch_transfer(self, batch, dataloader_idx):
                return [2 * batch[0], batch[1]]

            def on_train_batch_start(self, batch, batch_idx):
                self.heard.append(batch_idx)

            def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
                self.clip_gradients(optimizer, gradient_clip_val=0.02, gradient_clip_algorithm="norm")

            def on_train_batch_end(self, outputs, batch, batch_idx):
                with torch.no_grad():
                    for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                        slow.lerp_(fast, 0.1)

        module = Hooked()
        find(job.trainer(tmp_path, accumulate_grad_batches=2), module, job.loader())
        assert module.heard == []
        fitted = Hooked()
        job.trainer(tmp_path, accumulate_grad_batches=2, max_steps=3).fit(fitted, job.loader())
        assert instead.made(fitted.state_dict()) and fitted.heard == ["start", 0, 1, 2, 3, 0, 1]

    def test_a_step_may_take_the_batch_alone_and_give_a_dict(self, job, find, instead, tmp_path):
        class Plain(job.Module):
            def training_step(self, batch):
                return {"loss": loss_of(self.net, batch), "more": 1}

        find(job.trainer(tmp_path), Plain(), job.loader())
        module = job.Module()
        job.trainer(tmp_path, max_steps=3).fit(module, job.loader())
        assert instead.made(module.state_dict())

    def test_everything_that_is_logged_goes_nowhere(self, job, find, tmp_path):
        class Talking(job.Module):
            def training_step(self, batch, index):
                loss = loss_of(self.net, batch)
                self.log("both", loss, on_step=True, on_epoch=True, prog_bar=True)
                self.log_dict({"one": 1.0, "two": torch.tensor(2.0)})
                self.logger.experiment.add_scalar("loss", loss, index)
                assert self.trainer.max_epochs == 3
                return loss

        trainer = job.trainer(tmp_path)
        find(trainer, Talking(), job.loader(), steps=100)
        assert trainer.callback_metrics == {}

    def test_every_update_is_clipped_and_takes_its_batches(self, job, find, tmp_path):
        norms, taken = [], []

        class Seeing(job.Module):
            def training_step(self, batch, index):
                taken.append(len(batch[0]))
                return super().training_step(batch, index)

        module = Seeing(kind=watched(Told, norms))
        trainer = job.trainer(tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.05)
        found = find(trainer, module, job.loader(), steps=100)
        assert len(norms) == found.steps > 10 and taken == [BATCH] * 2 * len(norms)
        assert max(norms) <= 0.05 * (1 + 1e-5) and found.context["batch_size"] == 2 * BATCH

    def test_our_clip_clips(self, job, find, tmp_path):
        norms = []
        mine = clip_of(clip.norm(0.05))
        find(job.trainer(tmp_path, mine), job.Module(kind=watched(Told, norms)), job.loader(), steps=100)
        assert max(norms) <= 0.05 * (1 + 1e-5) and mine.tally.updates == 0


class TestShape:
    @pytest.mark.parametrize("how", ["callback", "scheduled"])
    def test_it_is_what_is_attached(self, job, find, how, tmp_path):
        module = job.Module(job.GIVEN if how == "scheduled" else None)
        trainer = job.trainer(tmp_path, *([job.Schedules(**job.GIVEN)] if how == "callback" else []))
        shape = str(lrkit.parse(TEXT).resolve(total=3 * EPOCH))
        assert find(trainer, module, job.loader(), steps=100).context["schedule"] == shape

    def test_without_any_the_rate_is_constant(self, job, find, instead, tmp_path):
        find(job.trainer(tmp_path), job.Module(), job.loader())
        assert instead.schedule == lrkit.schedules.Hold() and instead.steps == 3 * EPOCH

    def test_yours_may_be_said(self, job, find, tmp_path):
        found = find(job.trainer(tmp_path), job.Module(), job.loader(), steps=100, schedule="cosine")
        assert found.context["schedule"] == "cosine 100"

    def test_that_of_a_torch_scheduler_has_to_be(self, job, find, tmp_path):
        class Theirs(job.Module):
            def configure_optimizers(self):
                self.optimizer = optimizer_of(self.net)
                total = self.trainer.estimated_stepping_batches
                return [self.optimizer], [torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.2, total, cycle_momentum=False)]

        trainer, module = job.trainer(tmp_path), Theirs()
        with pytest.raises(InputError, match=r"returns a OneCycleLR, whose shape cannot be told\. Say schedule="):
            find(trainer, module, job.loader())
        found = find(trainer, module, job.loader(), steps=100, schedule="warmup 30% > cosine")
        assert found.context["bases"] == pytest.approx([0.2 / 25, 0.2 / 25])

    @pytest.mark.parametrize(
        ("given", "steps"), [({"max_steps": 7}, 7), ({"limit_train_batches": 0.5}, 6), ({"max_epochs": 1}, 4)]
    )
    def test_the_steps_are_those_of_the_fit(self, job, find, instead, given, steps, tmp_path):
        find(job.trainer(tmp_path, **given), job.Module(), job.loader())
        assert instead.steps == steps

    def test_a_fit_without_an_end_has_to_be_given_one(self, job, find, instead, tmp_path):
        trainer = job.trainer(tmp_path, max_epochs=-1)
        with pytest.raises(InputError, match=r"nobody knows how many updates the fit will make\. Say steps=…\."):
            find(trainer, job.Module(), job.loader())
        find(trainer, job.Module(), job.loader(), steps=50)
        assert instead.steps == 50


class TestValidation:
    @pytest.mark.parametrize("when", ["in each step", "at the end"])
    def test_what_the_module_logs_ranks_and_costs_about_a_fifth(self, job, find, when, tmp_path):
        seen = []

        class Validating(job.Module):
            def validation_step(self, batch, index):
                seen.append(loss_of(self.net, batch))
                assert not self.training and not torch.is_grad_enabled()
                if when == "in each step":
                    self.log("val/loss", seen[-1])

            def on_validation_epoch_end(self):
                if when == "at the end":
                    self.log("val/loss", torch.stack(seen[-5:]).mean())

        rows = torch.utils.data.DataLoader(learnable(), batch_size=1)
        found = find(job.trainer(tmp_path), Validating(), job.loader(), rows, steps=400, validate="val/loss")
        assert found.context["validated"] and len(seen) > 5 and len(seen) % 5 == 0, "a dozen times 5/3 is a fifth of 100"
        assert float(torch.stack(seen[:5]).mean()) == pytest.approx(found.untrained)

    def test_a_function_of_your_own_ranks(self, job, find, tmp_path):
        asked = []
        found = find(
            job.trainer(tmp_path), job.Module(), job.loader(), steps=100, validate=lambda module: asked.append(module) or 1.0
        )
        assert asked and found.context["validated"]

    def test_a_name_that_nobody_logs_is_refused(self, job, find, tmp_path):
        with pytest.raises(InputError, match=r"find\(validate='loss'\): the validation logs .*val_loss"):
            find(job.trainer(tmp_path), job.Module(), job.loader(), job.loader(), steps=100, validate="loss")

    def test_else_nothing_is_validated(self, job, find, tmp_path):
        class Never(job.Module):
            def validation_step(self, batch, index):
                raise AssertionError

            def val_dataloader(self):
                raise AssertionError

        assert not find(job.trainer(tmp_path), Never(), job.loader(), steps=100).context["validated"]


class TestAnswer:
    def test_it_serves_a_module_that_began_a_thousandfold_too_low(self, job, find, tmp_path):
        class Small(job.Module):
            lr = 1e-5

            def configure_optimizers(self):
                return torch.optim.AdamW(self.net.parameters(), lr=self.lr)

        loader = torch.utils.data.DataLoader(learnable(), batch_size=16)
        suggestion = find(job.trainer(tmp_path, max_steps=100, max_epochs=-1), Small(), loader, budget=0.8)
        assert suggestion.found and suggestion.lr > 1e-3
        module = Small()
        before = float(loss_of(module.net, learnable()[:]))
        module.lr = suggestion.lr
        job.trainer(tmp_path, max_steps=100, max_epochs=-1).fit(module, loader)
        assert float(loss_of(module.net, learnable()[:])) < 0.3 * before


class TestRefusals:
    def test_what_is_no_trainer_or_no_module(self, job, find, tmp_path):
        with pytest.raises(
            InputError, match=r"find\(Module, Trainer\): needs the Trainer and the LightningModule, in this order"
        ):
            find(job.Module(), job.trainer(tmp_path))
        with pytest.raises(InputError, match=r"find\(Trainer, Sequential\): .*; before torch\.compile\."):
            find(job.trainer(tmp_path), net())

    def test_manual_optimization(self, job, find, tmp_path):
        with pytest.raises(InputError, match=r"optimization is manual, so its steps are its own\. Call lrkit\.find with step="):
            find(job.trainer(tmp_path), job.Gan(), job.loader())

    def test_several_optimizers(self, job, find, tmp_path):
        class Both(job.Module):
            def configure_optimizers(self):
                return [optimizer_of(self.net), optimizer_of(self.net)]

        # Lightning itself refuses them first in automatic optimization; where it will not, we do.
        with pytest.raises((InputError, RuntimeError), match=r"optimizer"):
            find(job.trainer(tmp_path), Both(), job.loader())

    def test_several_loaders(self, job, find, tmp_path):
        with pytest.raises(InputError, match=r"there are several training loaders\. Pass one that gives what they give\."):
            find(job.trainer(tmp_path), job.Module(), {"a": job.loader(), "b": job.loader()})

    def test_several_processes(self, job, find, tmp_path):
        trainer = job.trainer(tmp_path, strategy="ddp", devices=2)
        with pytest.raises(InputError, match=r"searches in one process, and the Trainer has a DDPStrategy over 2\."):
            find(trainer, job.Module(), job.loader())

    def test_one_that_has_been_fitted(self, job, find, tmp_path):
        trainer = job.trainer(tmp_path)
        module = job.Module()
        trainer.fit(module, job.loader())
        with pytest.raises(StateError, match=r"it has made 12 updates\. Find before fit\."):
            find(trainer, module, job.loader())

    def test_a_step_without_a_loss(self, job, find, tmp_path):
        class Mute(job.Module):
            def training_step(self, batch, index):
                loss_of(self.net, batch)

        with pytest.raises(InputError, match=r"training_step gave no loss\. It must return a tensor, or a dict with 'loss'\."):
            find(job.trainer(tmp_path), Mute(), job.loader(), steps=100)

    def test_a_fit_without_batches(self, job, find, tmp_path):
        with contextlib.suppress(TypeError), pytest.raises(InputError, match=r"its fit has no batch to train on"):
            find(job.trainer(tmp_path, limit_train_batches=0), job.Module(), job.loader(), steps=100)
