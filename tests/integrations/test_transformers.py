"""Inside transformers' Trainer: every update has the plain run's rate, its log says so, and its checkpoints resume exactly."""

import pytest
import torch

import lrkit
from integrations.plain import (
    EPOCH,
    INPUTS,
    TARGETS,
    TEXT,
    UPDATES,
    Heard,
    batches,
    finish,
    loss_of,
    net,
    optimizer_of,
    plain,
    same,
    start,
    world,
)  # fmt: skip
from lrkit.binding.controllers import Plateau
from lrkit.errors import InputError, StateError

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def job():
    import integrations.job_transformers as job

    return job


@pytest.fixture(scope="module")
def reference():
    model, optimizer, _ = plain()
    return model, optimizer.told


def logged(made):
    return [row["learning_rate"] for row in made.state.log_history if "learning_rate" in row]


class TestRates:
    @pytest.mark.parametrize("at_once", [False, True])
    def test_every_update_has_the_plain_runs_rates_and_the_weights_are_its_weights(self, job, reference, at_once, tmp_path):
        model, told = reference
        schedules = job.Schedules(**job.GIVEN, **({"total": UPDATES} if at_once else {}))
        made = job.trainer(tmp_path, schedules)
        assert (schedules.attachment is not None) == at_once, "with a total the Trainer need not be asked"
        made.train()
        assert job.told(made) == told and same(made.model.net, model)
        assert schedules.attachment.step == UPDATES

    def test_the_log_has_the_rate_of_the_last_update(self, job, reference, tmp_path):
        made = job.trainer(tmp_path, job.Schedules(**job.GIVEN))
        made.train()
        assert logged(made) == [groups[0][0] for groups in reference[1]]

    def test_accumulated_batches_are_one_update(self, job, tmp_path):
        model, optimizer, _ = plain(accumulate=2)
        made = job.trainer(tmp_path, job.Schedules(**job.GIVEN), data=2, gradient_accumulation_steps=2)
        made.train()
        assert job.told(made) == optimizer.told and same(made.model.net, model)

    def test_clipped_gradients_change_no_rate(self, job, tmp_path):
        model, optimizer, _ = plain(clip=0.05)
        made = job.trainer(tmp_path, job.Schedules(**job.GIVEN), max_grad_norm=0.05)
        made.train()
        assert job.told(made) == optimizer.told and same(made.model.net, model)

    @pytest.mark.parametrize(
        ("given", "updates"),
        [({"max_steps": 6}, 6), ({"num_train_epochs": 1.5}, 6), ({"num_train_epochs": 2, "gradient_accumulation_steps": 3}, 4)],
    )
    def test_total_is_what_the_trainer_will_really_do(self, job, given, updates, tmp_path):
        made = job.trainer(tmp_path, job.Schedules(lr="linear"), **given)
        made.train()
        schedule = lrkit.parse(f"linear {updates}")
        assert [groups[0][0] for groups in job.told(made)] == [0.1 * schedule(t) for t in range(updates)]

    @pytest.mark.parametrize(("accumulate", "epoch"), [(1, 8), (3, 3)])
    def test_an_epoch_is_as_many_updates_as_the_trainer_makes(self, job, accumulate, epoch, tmp_path):
        schedules = job.Schedules(lr="warmup 1ep > cosine 2ep")
        made = job.trainer(tmp_path, schedules, data=2, gradient_accumulation_steps=accumulate)
        made.train()
        assert schedules.attachment.schedules["lr"][None] == lrkit.parse(f"warmup {epoch} > cosine {2 * epoch}")
        assert len(job.told(made)) == 3 * epoch

    def test_the_trainers_own_optimizer_keeps_its_groups(self, job, tmp_path):
        """AdamW with decay for weights and none for biases: the plain loop does the same, to the bit."""
        rates, schedules = job.Rates(), job.Schedules(lr=TEXT)
        made = job.trainer(tmp_path, schedules, optimizer=None, callbacks=[rates], weight_decay=0.05, optim="adamw_torch")
        made.train()
        model = net()
        weights = [p for name, p in model.named_parameters() if "bias" not in name]
        biases = [p for name, p in model.named_parameters() if "bias" in name]
        groups = [{"params": weights, "weight_decay": 0.05}, {"params": biases, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=0.1)
        lrkit.attach(optimizer, lr=TEXT, total=UPDATES)
        used = []
        for batch in batches():
            loss_of(model, batch).backward()
            used.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            optimizer.zero_grad()
        assert rates.told == used and logged(made) == [rate for rate, _ in used]
        assert same(made.model.net, model)

    def test_a_transformer_built_from_its_config_trains_and_resumes(self, job, tmp_path):
        import transformers

        class Tokens(torch.utils.data.Dataset):
            tokens = torch.randint(0, 32, (12, 8), generator=torch.Generator().manual_seed(0))

            def __len__(self):
                return 12

            def __getitem__(self, i):
                return {"input_ids": self.tokens[i], "labels": self.tokens[i]}

        def run(resume=None, **given):
            torch.manual_seed(0)
            config = transformers.LlamaConfig(
                vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
            )  # fmt: skip
            rates = job.Rates()
            made = job.trainer(
                tmp_path, job.Schedules(lr=TEXT), optimizer=None, model=transformers.LlamaForCausalLM(config),
                rows=Tokens(), callbacks=[rates], label_names=["labels"], **given,
            )  # fmt: skip
            made.train(resume_from_checkpoint=resume)
            return made.model, rates.told

        model, told = run(save_strategy="steps", save_steps=5)
        assert [rates[0] for rates in told] == [0.1 * lrkit.parse("warmup 3 > cosine 9")(t) for t in range(UPDATES)]
        again, rest = run(resume=str(tmp_path / "checkpoint-5"))
        assert rest == told[5:] and same(again, model)


class TestResume:
    @pytest.mark.parametrize("at_once", [False, True])
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_resume_from_checkpoint_is_exact_at_every_update(self, job, at_once, accumulate, tmp_path):
        model, optimizer, _ = plain(accumulate=accumulate)
        given = job.GIVEN | ({"total": UPDATES} if at_once else {})
        settings = {"data": accumulate, "gradient_accumulation_steps": accumulate}
        made = job.trainer(tmp_path, job.Schedules(**given), **settings, **job.EACH_UPDATE)
        made.train()
        assert job.told(made) == optimizer.told and same(made.model.net, model)
        for cut in range(1, UPDATES + 1):
            again = job.trainer(tmp_path, job.Schedules(**given), **settings)
            again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{cut}"))
            assert job.told(again) == optimizer.told[cut:] and same(again.model.net, model)
            assert logged(again) == [groups[0][0] for groups in optimizer.told], "its log goes on without a jump"

    def test_its_own_optimizer_resumes_too(self, job, tmp_path):
        whole = job.trainer(tmp_path, job.Schedules(lr=TEXT), optimizer=None, **job.EACH_UPDATE)
        whole.train()
        for cut in (1, 4, 7, 11):
            again = job.trainer(tmp_path, job.Schedules(lr=TEXT), optimizer=None)
            again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{cut}"))
            assert logged(again) == logged(whole) and same(again.model, whole.model)

    def test_killed_in_the_middle_of_an_update_it_resumes_from_the_last_checkpoint(self, job, reference, tmp_path):
        model, told = reference
        finish(start("job_transformers.py", tmp_path, "killed", tmp_path, 7), expect=-9)
        made = job.trainer(tmp_path, job.Schedules(**job.GIVEN), **job.EACH_UPDATE)
        made.train(resume_from_checkpoint=True)
        assert job.told(made) == told[7:] and same(made.model.net, model)

    def test_the_same_trainer_resumes_itself(self, job, reference, tmp_path):
        model, told = reference
        made = job.trainer(tmp_path, job.Schedules(**job.GIVEN), **job.EACH_UPDATE)
        made.train()
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
        assert job.told(made) == told + told[5:] and same(made.model.net, model)

    @pytest.mark.parametrize("at_once", [False, True])
    def test_training_again_from_the_start_starts_the_schedule_anew(self, job, at_once, reference, tmp_path):
        made = job.trainer(tmp_path, job.Schedules(**job.GIVEN, **({"total": UPDATES} if at_once else {})))
        made.train()
        made.train()
        assert job.told(made) == reference[1] * 2

    def test_step_adopts_a_checkpoint_without_a_record_and_does_not_disturb_one_with_it(self, job, tmp_path):
        plainly = job.trainer(tmp_path / "a", optimizer=None, lr_scheduler_type="constant", **job.EACH_UPDATE)
        plainly.train()
        schedule = lrkit.parse("linear 12")
        for cut in (4, 7):  # the same script: at 4 it adopts, at 7 it resumes its own checkpoint
            made = job.trainer(tmp_path / "a", job.Schedules(lr="linear 12", step=4), optimizer=None, **job.EACH_UPDATE)
            made.train(resume_from_checkpoint=str(tmp_path / f"a/checkpoint-{cut}"))
            rest = logged(made)[cut:]
            assert rest == [0.1 * schedule(t) for t in range(cut, UPDATES)]


class TestProcesses:
    def test_two_have_the_rates_of_one(self, reference, tmp_path):
        world("job_transformers.py", tmp_path, 2, "world", tmp_path)
        told = reference[1]
        ranks = [torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2)]
        weights = ranks[0]["whole"]["weights"]
        for rank in ranks:
            assert rank["whole"]["told"] == told and rank["resumed"]["told"] == told[5:]
            for run in rank.values():
                assert all(torch.equal(run["weights"][key], weights[key]) for key in weights)
        assert ranks[0]["whole"]["logged"] == [groups[0][0] for groups in told]


class TestRefusals:
    def test_the_trainers_own_scheduler_beside_the_callback(self, job, tmp_path):
        made = job.trainer(tmp_path, callbacks=[job.Schedules(lr="linear 12")], optimizer=None)
        with pytest.raises(
            StateError, match=r"the Trainer drives the rate by a LambdaLR of its own\. .*optimizers=schedules\.pair"
        ):
            made.train()

    def test_the_pair_without_the_callback(self, job, tmp_path):
        optimizer, scheduler = job.Schedules(lr="linear").pair()
        rows = job.Rows(torch.utils.data.TensorDataset(torch.zeros(6, 5), torch.zeros(6, 2)))
        made = job.Trainer(job.Net(), job.arguments(tmp_path), train_dataset=rows, optimizers=(optimizer, scheduler))
        with pytest.raises(StateError, match=r"Give the Trainer the callback too: callbacks=\[schedules\]"):
            made.train()

    def test_a_checkpoint_without_an_optimizer(self, job, tmp_path):
        """The Trainer would go on at update 5 with a fresh optimizer, and so with the first update's rate."""
        job.trainer(tmp_path, job.Schedules(lr=TEXT), save_only_model=True, **job.EACH_UPDATE).train()
        made = job.trainer(tmp_path, job.Schedules(lr=TEXT))
        with pytest.raises(StateError, match=r"at update 5, but .* holds no record of a schedule\. Say step=5"):
            made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
        made = job.trainer(tmp_path, job.Schedules(lr="linear 12", step=5))
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
        assert job.told(made)[0][0][0] == 0.1 * lrkit.parse("linear 12")(5)

    def test_the_trainers_own_scheduler_beside_an_attachment(self, job, tmp_path):
        """Without the callback: attached by hand, the scheduler that the Trainer makes is met at the first update."""
        model = job.Net()
        optimizer = optimizer_of(model.net)
        lrkit.attach(optimizer, lr="linear 12")
        rows = job.Rows(torch.utils.data.TensorDataset(torch.zeros(6, 5), torch.zeros(6, 2)))
        made = job.Trainer(model, job.arguments(tmp_path), train_dataset=rows, optimizers=(optimizer, None))
        with pytest.raises(StateError, match="a torch scheduler has been made on it"):
            made.train()

    def test_a_checkpoint_of_another_schedule(self, job, tmp_path):
        job.trainer(tmp_path, job.Schedules(lr="linear 12"), **job.EACH_UPDATE).train()
        with pytest.raises(StateError, match=r"linear 12.*, now it is"):
            job.trainer(tmp_path, job.Schedules(lr="linear 24")).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    def test_a_checkpoint_without_a_record(self, job, tmp_path):
        job.trainer(tmp_path, optimizer=torch.optim.AdamW, **job.EACH_UPDATE).train()
        with pytest.raises(StateError, match="updates were taken without lrkit's record"):
            made = job.trainer(tmp_path, job.Schedules(lr="linear 24"), optimizer=torch.optim.AdamW)
            made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    def test_a_run_that_has_become_longer_for_the_same_optimizer(self, job, tmp_path):
        made = job.trainer(tmp_path, job.Schedules(lr=TEXT), **job.EACH_UPDATE)
        made.train()
        made.args.num_train_epochs = 6
        with pytest.raises(StateError, match="the run's length has changed"):
            made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))

    def test_at_the_callbacks_own_line(self, job):
        with pytest.raises(InputError, match="Schedules: nothing to drive"):
            job.Schedules(total=3)
        with pytest.raises(InputError, match=r"Schedules\(lr=…\): "):
            job.Schedules(lr="warmop 5%")


class TestControllers:
    """They hear what the Trainer logs."""

    def test_every_logged_loss(self, job, tmp_path):
        ear = Heard()
        made = job.trainer(tmp_path, job.Schedules(lr=TEXT, controllers=ear))
        made.train()
        assert ear.values == [row["loss"] for row in made.state.log_history if "loss" in row] and len(ear.values) == UPDATES

    def test_a_name_that_the_evaluation_does_not_give_is_refused(self, job, tmp_path):
        made = job.trainer(tmp_path, job.Schedules(lr=TEXT, controllers=Heard(metric="eval_los")), eval_strategy="epoch")
        with pytest.raises(InputError, match=r"listens for 'eval_los', and the evaluation gave .*eval_loss"):
            made.train()

    def test_every_evaluation_of_the_training_and_none_after_it(self, job, tmp_path):
        ear = Heard(metric="eval_loss")
        made = job.trainer(tmp_path, job.Schedules(lr=TEXT, controllers=[ear]), eval_strategy="epoch")
        made.train()
        made.evaluate()
        assert len(ear.values) == UPDATES // EPOCH

    def test_a_plateau_resumes_where_it_was(self, job, tmp_path):
        """No evaluation improves by nine tenths, so that the rate is halved after each but the first."""

        def run(checkpoint=None):
            plateau = Plateau(metric="eval_loss", factor=0.5, patience=0, threshold=0.9)
            settings = {"eval_strategy": "steps", "eval_steps": 4} | job.EACH_UPDATE
            made = job.trainer(tmp_path, job.Schedules(lr=TEXT, controllers=plateau), **settings)
            made.train(resume_from_checkpoint=checkpoint)
            return made

        whole = run()
        schedule = lrkit.parse(TEXT).resolve(total=UPDATES)
        scales = [0.1] * 8 + [0.05] * 4
        assert [groups[0][0] for groups in job.told(whole)] == [s * schedule(t) for t, s in enumerate(scales)]
        for cut in (3, 4, 7, 8, 11):
            again = run(str(tmp_path / f"checkpoint-{cut}"))
            assert job.told(again) == job.told(whole)[cut:] and same(again.model, whole.model)
            assert logged(again) == logged(whole)


def test_where_the_trainer_takes_no_pair_create_scheduler_is_the_place(job, reference, tmp_path):
    """FSDP and model_init refuse optimizers=; attached there, it comes before the checkpoint is loaded."""
    from lrkit.integrations import as_torch

    class Scheduled(job.Trainer):
        def create_scheduler(self, num_training_steps, optimizer=None):
            inside = getattr(self.optimizer, "optimizer", self.optimizer)
            self.lr_scheduler = as_torch(lrkit.attach(inside, lr=TEXT, total=num_training_steps))
            return self.lr_scheduler

    def run(resume=None):
        rows = job.Rows(torch.utils.data.TensorDataset(*[one[: EPOCH * 3] for one in (INPUTS, TARGETS)]))
        made = Scheduled(args=job.arguments(tmp_path, **job.EACH_UPDATE), model_init=job.Net, train_dataset=rows)
        made.train(resume_from_checkpoint=resume)
        return made

    whole = run()
    assert logged(whole) == [groups[0][0] for groups in reference[1]]
    again = run(str(tmp_path / "checkpoint-5"))
    assert logged(again) == logged(whole) and same(again.model, whole.model)
