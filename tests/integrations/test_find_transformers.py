"""`find` on a Trainer: the updates are the Trainer's, the shape is its schedule's, and then it trains as if nothing had been."""

from functools import partial

import pytest
import torch

import lrkit
from integrations.instead import Instead, attributes, drawn, learnable, untouched, watched
from integrations.plain import EPOCH, TEXT, Told, dataset, net, optimizer_of, same, world
from lrkit.errors import InputError, StateError
from lrkit.schedules import compat

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def job():
    import integrations.job_transformers as job

    return job


@pytest.fixture(scope="module")
def find():
    from lrkit.integrations.transformers import find

    return find


@pytest.fixture
def instead(monkeypatch):
    """Three updates in place of a search."""
    import lrkit.integrations.transformers as host

    made = Instead(3)
    monkeypatch.setattr(host, "search", made)
    return made


def everything(trainer):
    """All that a search must leave as it was."""
    model, accelerator = trainer.model, trainer.accelerator
    things = [trainer, trainer.callback_handler, trainer.control, accelerator, accelerator.gradient_state, *model.modules()]
    things += [] if trainer.optimizer is None else [trainer.optimizer, *trainer.optimizer.param_groups]
    things += [model.config] if hasattr(model, "config") else []
    weights = [value.clone() for value in model.state_dict().values()]
    return attributes(*things), drawn(), weights


KINDS = {
    "its own optimizer": {"optimizer": None, "lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.05},
    "yours": {},
    "accumulating and clipping": {"data": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.05},
    "bf16": {"bf16": True},
    "shuffled": {"train_sampling_strategy": "random", "optimizer": None, "weight_decay": 0.05},
}


class TestTraining:
    @pytest.mark.parametrize(
        ("kind", "scheduled"), [*((kind, False) for kind in KINDS), ("its own optimizer", True), ("yours", True)]
    )
    def test_after_a_search_it_trains_the_same_to_the_bit(self, job, find, kind, scheduled, tmp_path):
        def trained(search):
            torch.manual_seed(5)
            trainer = job.trainer(tmp_path, job.Schedules(**job.GIVEN) if scheduled else None, **KINDS[kind])
            if search:
                before = everything(trainer)
                assert find(trainer, steps=120).steps > 10
                assert untouched(before, everything(trainer))
            trainer.train()
            return trainer

        with_search, without = trained(True), trained(False)
        assert same(with_search.model, without.model)
        assert with_search.state.log_history[:-1] == without.state.log_history[:-1], "the last row has the time it took"

    def test_a_transformer_with_checkpointed_gradients_and_noise_trains_the_same(self, job, find, tmp_path):
        import transformers

        class Tokens(torch.utils.data.Dataset):
            tokens = torch.randint(0, 32, (12, 8), generator=torch.Generator().manual_seed(0))

            def __len__(self):
                return 12

            def __getitem__(self, i):
                return {"input_ids": self.tokens[i], "labels": self.tokens[i]}

        def trained(search):
            torch.manual_seed(0)
            config = transformers.LlamaConfig(
                vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                max_position_embeddings=8, bos_token_id=0, eos_token_id=1, attention_dropout=0.1,
            )  # fmt: skip
            trainer = job.trainer(
                tmp_path, optimizer=None, model=transformers.LlamaForCausalLM(config), rows=Tokens(), label_names=["labels"],
                gradient_checkpointing=True, neftune_noise_alpha=5.0, learning_rate=1e-3,
            )  # fmt: skip
            if search:
                before = everything(trainer)
                assert find(trainer, steps=120).context["validated"]
                assert untouched(before, everything(trainer))
            trainer.train()
            return trainer.model

        assert same(trained(True), trained(False))

    def test_a_model_that_is_made_anew_for_each_training_is_made_the_same(self, job, find, tmp_path):
        def trained(search):
            trainer = job.Trainer(
                None,
                job.arguments(tmp_path),
                train_dataset=job.Rows(dataset()),
                eval_dataset=job.Rows(dataset()),
                model_init=job.Net,
            )
            if search:
                before = everything(trainer)
                assert find(trainer, steps=120).steps > 10
                assert untouched(before, everything(trainer))
            trainer.train()
            return trainer.model

        assert same(trained(True), trained(False))

    @pytest.mark.parametrize("what", [ZeroDivisionError, KeyboardInterrupt])
    def test_what_goes_wrong_in_the_middle_leaves_nothing_behind(self, job, find, what, tmp_path):
        class Breaking(job.Net):
            calls = 0

            def forward(self, x, y):
                Breaking.calls += 1
                if Breaking.calls == 20:
                    raise what
                return super().forward(x, y)

        trainer = job.trainer(tmp_path, job.Schedules(**job.GIVEN), model=Breaking(), data=2, gradient_accumulation_steps=2)
        before = everything(trainer)
        with pytest.raises(what):
            find(trainer, steps=120)
        assert Breaking.calls == 20 and untouched(before, everything(trainer))
        trainer.train()
        plain = job.trainer(tmp_path, job.Schedules(**job.GIVEN), data=2, gradient_accumulation_steps=2)
        plain.train()
        assert same(trainer.model, plain.model)


class TestUpdates:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_search_makes_the_updates_that_the_trainer_makes(self, job, find, instead, kind, tmp_path):
        def trainer(**given):
            torch.manual_seed(5)
            return job.trainer(tmp_path, **(KINDS[kind] | {"lr_scheduler_type": "constant", "warmup_steps": 0} | given))

        find(trainer(), validate=False)
        own = trainer(max_steps=3)
        own.train()
        assert instead.made(own.model.state_dict())
        logged = [row["loss"] for row in own.state.log_history if "loss" in row]
        assert instead.losses == pytest.approx(logged, abs=1e-4), "the Trainer logs four digits"

    def test_the_last_update_of_an_epoch_takes_what_is_left(self, job, find, instead, tmp_path):
        given = {"data": 2, "gradient_accumulation_steps": 3, "lr_scheduler_type": "constant"}  # 3, 3 and 2 of 8 batches
        find(job.trainer(tmp_path, **given))
        assert instead.epoch == 3 and instead.steps == 9
        own = job.trainer(tmp_path, max_steps=3, **given)
        own.train()
        assert instead.made(own.model.state_dict())

    def test_every_update_is_clipped_and_takes_its_batches(self, job, find, tmp_path):
        norms, seen = [], []

        class Seeing(job.Net):
            def forward(self, x, y):
                seen.append(len(x)) if self.training else None
                return super().forward(x, y)

        given = {"data": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.05}
        trainer = job.trainer(tmp_path, model=Seeing(), optimizer=watched(Told, norms), **given)
        found = find(trainer, steps=120)
        assert len(norms) == found.steps > 10 and len(seen) == 2 * len(norms)
        assert max(norms) <= 0.05 * (1 + 1e-5)


class TestProcesses:
    def test_two_agree_and_then_train_the_same_to_the_bit(self, tmp_path):
        world("job_find.py", tmp_path, 2, "transformers", tmp_path)
        ranks = [torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2)]
        assert ranks[0]["rate"] == ranks[1]["rate"] and ranks[0]["processes"] == 2
        for rank in ranks:
            assert rank["untouched"] and rank["with"].keys() == rank["without"].keys()
            assert all(torch.equal(rank["with"][name], rank["without"][name]) for name in rank["with"])


class TestShape:
    @pytest.mark.parametrize(
        ("given", "shape"),
        [
            ({}, partial(compat.transformers.get_linear_schedule_with_warmup, 0.1, 0)),
            ({"warmup_steps": 4}, partial(compat.transformers.get_linear_schedule_with_warmup, 0.1, 4)),
            (
                {"lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 0.25, "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
                partial(compat.transformers.get_cosine_with_min_lr_schedule_with_warmup, 0.1, 3, min_lr_rate=0.1),
            ),
        ],
    )
    @pytest.mark.parametrize("optimizer", [None, Told])
    def test_it_is_that_of_the_arguments(self, job, find, instead, given, shape, optimizer, tmp_path):
        find(job.trainer(tmp_path, optimizer=optimizer, **given))
        assert str(instead.schedule) == str(shape(num_training_steps=3 * EPOCH).schedule) and instead.steps == 3 * EPOCH

    def test_what_follows_a_metric_counts_as_constant(self, job, find, instead, tmp_path):
        given = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch", "metric_for_best_model": "loss"}
        find(job.trainer(tmp_path, **given))
        assert instead.schedule == lrkit.schedules.Hold()

    @pytest.mark.parametrize("at_once", [False, True])
    def test_it_is_that_of_schedules(self, job, find, at_once, tmp_path):
        schedules = job.Schedules(**job.GIVEN, **({"total": 3 * EPOCH} if at_once else {}))
        trainer = job.trainer(tmp_path, schedules)
        attachment = schedules.attachment
        assert find(trainer, steps=120).context["schedule"] == str(lrkit.parse(TEXT).resolve(total=3 * EPOCH))
        assert schedules.attachment is attachment

    def test_schedules_that_leave_the_rate_alone_leave_it_constant(self, job, find, instead, tmp_path):
        find(job.trainer(tmp_path, job.Schedules(weight_decay="linear")))
        assert instead.schedule == lrkit.schedules.Hold()

    def test_yours_may_be_said(self, job, find, tmp_path):
        trainer = job.trainer(tmp_path, job.Schedules(**job.GIVEN))
        assert find(trainer, schedule="linear", steps=120).context["schedule"] == "linear 120"

    def test_a_scheduler_of_your_own_has_to_be_described(self, job, find, tmp_path):
        model = job.Net()
        optimizer = optimizer_of(model.net)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 4))
        trainer = job.Trainer(
            model, job.arguments(tmp_path), train_dataset=job.Rows(dataset()), optimizers=(optimizer, scheduler)
        )
        before = everything(trainer)
        with pytest.raises(InputError, match=r"driven by a LambdaLR of yours, whose shape cannot be told\. Say schedule="):
            find(trainer)
        assert untouched(before, everything(trainer))
        found = find(trainer, schedule="warmup 4 > constant", steps=120)
        assert found.context["bases"] == [0.1, 0.01], "not the zeros of its first update"
        assert untouched(before, everything(trainer)) and optimizer.param_groups[0]["lr"] == 0.0

    def test_one_that_a_subclass_makes_is_looked_at(self, job, find, instead, tmp_path):
        from lrkit.integrations import as_torch

        class Attaching(job.Trainer):
            def create_scheduler(self, num_training_steps, optimizer=None):
                inner = getattr(self.optimizer, "optimizer", self.optimizer)
                self.lr_scheduler = as_torch(lrkit.attach(inner, lr="cosine", total=num_training_steps))
                return self.lr_scheduler

        class Stepping(job.Trainer):
            def create_scheduler(self, num_training_steps, optimizer=None):
                self.lr_scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3)
                return self.lr_scheduler

        rows = job.Rows(dataset())
        find(Attaching(job.Net(), job.arguments(tmp_path), train_dataset=rows))
        assert instead.schedule is None, "what is attached"
        with pytest.raises(InputError, match="driven by a StepLR of yours"):
            find(Stepping(job.Net(), job.arguments(tmp_path), train_dataset=rows))


class TestValidation:
    def evaluations(self, job, find, tmp_path, rows=None, **given):
        """How often the model is evaluated, and the Suggestion."""
        seen = []

        class Seeing(job.Net):
            def forward(self, x, y):
                seen.append(len(x)) if not self.training else None
                return super().forward(x, y)

        trainer = job.trainer(tmp_path, model=Seeing())
        if rows is not None:
            trainer.eval_dataset = rows
        return seen, find(trainer, **({"steps": 120} | given))

    def test_the_evaluation_set_ranks_and_costs_about_a_fifth(self, job, find, tmp_path):
        rows = job.Rows(torch.utils.data.TensorDataset(torch.randn(300, 5), torch.randn(300, 2)))
        seen, found = self.evaluations(job, find, tmp_path, rows, steps=400)
        assert found.context["validated"] and len(seen) > 5 and len(seen) % 5 == 0, "a dozen times 5/3 is a fifth of 100"

    @pytest.mark.parametrize("without", [{"validate": False}, {"rows": ()}])
    def test_without_it_the_training_loss_does(self, job, find, without, tmp_path):
        if "rows" in without:
            trainer = job.trainer(tmp_path)
            trainer.eval_dataset = None
            assert not find(trainer, steps=120).context["validated"]
        else:
            seen, found = self.evaluations(job, find, tmp_path, **without)
            assert seen == [] and not found.context["validated"]

    def test_the_first_of_several_sets_ranks(self, job, find, tmp_path):
        wide = job.Rows(torch.utils.data.TensorDataset(torch.randn(2, 5), torch.randn(2, 2)))
        seen, _ = self.evaluations(job, find, tmp_path, {"wide": wide, "other": job.Rows(dataset())})
        assert set(seen) == {2}

    def test_a_function_of_your_own_does(self, job, find, tmp_path):
        asked = []
        found = find(job.trainer(tmp_path), steps=120, validate=lambda model: asked.append(model) or 1.0)
        assert asked and found.context["validated"]

    def test_one_without_labels_is_refused(self, job, find, tmp_path):
        with pytest.raises(InputError, match=r"the evaluation gives no loss: .*say validate=False"):
            find(job.trainer(tmp_path, label_names=["labels"]), steps=120)


class TestAnswer:
    def test_it_serves_a_trainer_that_began_a_thousandfold_too_low(self, job, find, tmp_path):
        def trainer(rate):
            given = {"num_train_epochs": 100, "per_device_train_batch_size": 16, "optim": "adamw_torch"}
            return job.trainer(tmp_path, optimizer=None, rows=job.Rows(learnable()), learning_rate=rate, **given)

        slow = trainer(1e-5)
        suggestion = find(slow, budget=0.5)
        assert suggestion.found and suggestion.lr > 1e-3
        slow.args.learning_rate = suggestion.lr
        slow.train()
        left = trainer(1e-5)
        left.train()
        assert slow.evaluate()["eval_loss"] < 0.5 * left.evaluate()["eval_loss"]

    def test_it_is_applied_to_your_own_optimizer(self, job, find, tmp_path):
        schedules = job.Schedules(lr=TEXT, total=300)
        trainer = job.trainer(tmp_path, schedules, rows=job.Rows(learnable()), per_device_train_batch_size=16)
        suggestion = find(trainer, steps=300, budget=0.5)
        suggestion.apply(trainer.optimizer)
        assert [group["lrkit_base_lr"] for group in trainer.optimizer.param_groups] == pytest.approx(
            [suggestion.lr, suggestion.lr / 10]
        )


class TestRefusals:
    def test_what_is_no_trainer(self, find):
        with pytest.raises(InputError, match=r"find\(Sequential\): needs the Trainer\."):
            find(net())

    def test_one_that_has_been_trained(self, job, find, tmp_path):
        trainer = job.trainer(tmp_path)
        trainer.train()
        with pytest.raises(StateError, match=r"it has made 12 updates\. Find before train\(\)\."):
            find(trainer)

    def test_schedules_without_their_pair(self, job, find, tmp_path):
        model = job.Net()
        trainer = job.Trainer(
            model, job.arguments(tmp_path), train_dataset=job.Rows(dataset()), callbacks=[job.Schedules(**job.GIVEN)]
        )
        with pytest.raises(StateError, match=r"of its own\. Build it with Trainer\(…, optimizers=schedules\.pair\(\)"):
            find(trainer)
