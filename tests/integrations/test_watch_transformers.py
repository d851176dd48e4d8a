"""`Watch` inside transformers' Trainer: every update's loss, its evaluations; and the same weights as without."""

import gc
import logging

import pytest
import torch

import lrkit
from integrations.plain import EPOCH, UPDATES, batches, loss_of, net, optimizer_of, same
from lrkit.errors import FileError, InputError, StateError

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", autouse=True)
def _host():
    """Imported when the first test runs, not when tests are collected where the host is absent."""
    global job, Watch
    import integrations.job_transformers as job
    from lrkit.integrations.transformers import Watch


def trained(folder, watch, accumulate=1, resume=None, also=(), model=None, **given):
    settings = {"lr_scheduler_type": "constant", "gradient_accumulation_steps": accumulate, "learning_rate": 0.1} | given
    callbacks = [*also, *([] if watch is None else [watch])]
    made = job.trainer(folder, optimizer=torch.optim.AdamW, data=accumulate, callbacks=callbacks, model=model, **settings)
    made.train(resume_from_checkpoint=resume)
    return made


def losses(accumulate=1):
    """What a plain loop says of each update."""
    model, said, seen = net(), [], []
    optimizer = optimizer_of(model, torch.optim.AdamW)
    for i, batch in enumerate(batches(accumulate)):
        loss = loss_of(model, batch)
        (loss / accumulate).backward()
        seen.append(loss.item())
        if (i + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            said.append(sum(seen) / accumulate)
            seen = []
    return said


def llama(tokens=24):
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 32, (8,), generator=generator) for _ in range(tokens)]
    # Sequences of which different shares are padding: a mean over tokens is no mean over batches.
    labels = [torch.where(torch.arange(8) < 2 + i % 6, row, -100) for i, row in enumerate(rows)]
    rows = [{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)]
    return transformers.LlamaForCausalLM(config), rows


def logged(made):
    return [row["loss"] for row in made.state.log_history if "loss" in row]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_in_one_line_every_updates_loss_is_in_the_run(tmp_path, accumulate):
    watch = Watch(tmp_path / "run")
    made = trained(tmp_path, watch, accumulate)
    run = lrkit.Run.load(tmp_path / "run")
    assert run == watch.run and run.step.tolist() == list(range(UPDATES))
    assert run["loss"] == pytest.approx(losses(accumulate), rel=1e-5) and run["loss"] == pytest.approx(logged(made), rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_weights_are_the_same_to_the_bit_with_everything_on(tmp_path, accumulate):
    bare = trained(tmp_path, None, accumulate, max_grad_norm=0.05)
    watch = Watch(loss=True, every=1)
    made = trained(tmp_path, watch, accumulate, max_grad_norm=0.05)
    assert same(made.model, bare.model)
    assert {"gain", "gain_ratio", "half_product", "noise_scale", "grad_norm", "update_ratio", "rms_t"} <= set(watch.run.columns)
    assert logged(made) == logged(bare)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_transformers_loss_is_the_mean_over_all_tokens_of_the_update(tmp_path, accumulate):
    """The model is told how many there are, and gives each batch's share of the sum."""
    model, rows = llama()
    watch = Watch(loss=True, every=1)
    given = {"rows": rows, "label_names": ["labels"], "gradient_accumulation_steps": accumulate, "max_grad_norm": 1.0}
    made = job.trainer(tmp_path, optimizer=None, model=model, callbacks=[watch], **given)
    made.train()
    assert watch.run["loss"] == pytest.approx(logged(made), rel=1e-5)
    assert watch._trusted and "gain" in watch.run and "curvature_max" in watch.run
    again, _ = llama()
    bare = job.trainer(tmp_path, optimizer=None, model=again, **given)
    bare.train()
    assert same(made.model, bare.model)


def test_gain_is_that_of_the_update_on_its_own_batch(tmp_path):
    watch = Watch(loss=lambda model, batch: loss_of(model.net, (batch["x"], batch["y"])), every=1)
    trained(tmp_path, watch)
    model = net()
    optimizer, gains = optimizer_of(model, torch.optim.AdamW), []
    for batch in batches():
        before = loss_of(model, batch)
        before.backward()
        optimizer.step()
        optimizer.zero_grad()
        gains.append(before.item() - loss_of(model, batch).item())
    assert watch.run["gain"] == pytest.approx(gains, rel=1e-3, abs=1e-7)


def test_an_evaluation_belongs_to_the_update_before_it(tmp_path):
    watch = Watch()
    made = trained(tmp_path, watch, eval_strategy="epoch", eval_on_start=True)
    made.evaluate()
    steps, values = watch.run.observed("val_loss")
    there = [row["eval_loss"] for row in made.state.log_history if "eval_loss" in row]
    assert steps.tolist() == [3, 7, 11] and values.tolist() == there[1:4]
    assert [name for name in watch.run.columns if name.startswith(("val", "eval"))] == ["val_loss"]
    assert watch.run["loss"] == pytest.approx(losses(), rel=1e-5), "no loss of an evaluation is among the training's"


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_resumed_training_counts_on_and_writes_beside(tmp_path, scheduled):
    def run(resume=None):
        watch, schedules = Watch(tmp_path / "run"), job.Schedules(lr="linear 12 to 0.5")
        pair = {"optimizers": schedules.pair(optimizer_of((model := job.Net()).net, torch.optim.AdamW))} if scheduled else {}
        if not scheduled:
            return watch, trained(tmp_path, watch, resume=resume, **job.EACH_UPDATE)
        rows = job.Rows(job.dataset())
        settings = job.arguments(tmp_path, **job.EACH_UPDATE)
        made = job.Trainer(model, settings, train_dataset=rows, callbacks=[watch, schedules], **pair)
        made.train(resume_from_checkpoint=resume)
        return watch, made

    run()
    whole = lrkit.Run.load(tmp_path / "run")
    for number in (2, 3):
        watch, _ = run(str(tmp_path / "checkpoint-4"))
        part = lrkit.Run.load(tmp_path / f"run-{number}")
        assert part == watch.run and part.step.tolist() == list(range(EPOCH, UPDATES))
        assert part["loss"].tolist() == whole["loss"][EPOCH:].tolist() and part["lr"].tolist() == whole["lr"][EPOCH:].tolist()


def test_a_new_training_is_not_written_over_an_old_one(tmp_path):
    watch = Watch(tmp_path / "run")
    made = trained(tmp_path, watch)
    with pytest.raises(FileError, match="a run is never written over"):
        made.train()


class Breaks(torch.nn.Module):
    """Raises in its eighth forward pass."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = net(), 0

    def forward(self, x, y):
        self.calls += 1
        if self.calls == 7:
            raise RuntimeError("stop")
        return {"loss": loss_of(self.net, (x, y)), "logits": x}


def test_after_an_exception_the_rows_are_kept(tmp_path):
    """The Trainer tells nobody; asked for, the run is whole, and without the callback the file is, and no hook is left."""
    model = Breaks()
    watch = Watch(tmp_path / "run")
    made = None
    with pytest.raises(RuntimeError, match="stop"):
        made = trained(tmp_path, watch, model=model)
    assert watch.run.step.tolist() == list(range(6)) and lrkit.Run.load(tmp_path / "run")["loss"] == pytest.approx(losses()[:6])
    assert model._forward_hooks
    del watch, made
    gc.collect()
    assert not model._forward_hooks, "closed when it went"


def test_a_training_after_an_exception_closes_the_first(tmp_path):
    model, watch = Breaks(), Watch()
    made = job.trainer(tmp_path, optimizer=torch.optim.AdamW, model=model, callbacks=[watch])
    with pytest.raises(RuntimeError, match="stop"):
        made.train()
    made.train()
    assert len(watch.run) == UPDATES and watch.run["loss"][0] != pytest.approx(losses()[0])
    assert not model._forward_hooks and not made.optimizer.optimizer._optimizer_step_pre_hooks


def test_an_update_that_a_scaler_skips_is_no_row_and_its_loss_is_in_none(tmp_path):
    """As accelerate's optimizer does it: the Trainer's events come, the optimizer's step does not."""

    class Skips(job.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            plain = type(optimizer).step
            optimizer.step = (lambda: None) if state.global_step == 5 else plain.__get__(optimizer)

    watch = Watch(loss=True, every=1)
    made = trained(tmp_path, watch, also=[Skips()])
    mine, there = watch.run["loss"], logged(made)
    assert len(mine) == UPDATES - 1 and mine.tolist() == pytest.approx(there[:5] + there[6:], rel=1e-5)
    assert "half_product" in watch.run and watch.run.observed("gain")[0].tolist() == list(range(UPDATES - 1))


class TestAnotherLoss:
    """Than the model's: what is trained is recorded, or nothing that is not."""

    def test_one_that_the_model_does_not_give_is_the_logs(self, tmp_path):
        class Silent(job.Net):
            def forward(self, x, y):
                return {"logits": self.net(x), "y": y}

        watch = Watch()
        rows = job.Rows(job.dataset())

        class Own(job.Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                out = model(**inputs)
                loss = torch.nn.functional.l1_loss(out["logits"], out["y"])
                return (loss, out) if return_outputs else loss

        settings = job.arguments(tmp_path, logging_steps=3)
        made = Own(Silent(), settings, train_dataset=rows, callbacks=[watch])
        made.train()
        steps, values = watch.run.observed("loss")
        assert steps.tolist() == [2, 5, 8, 11] and values.tolist() == logged(made)

    def own(self, folder, watch, record=False, steps=2):
        class Own(job.Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                loss = 3 * model(**inputs)["loss"]
                if record:
                    watch.record(loss=loss)
                return loss

        rows = job.Rows(job.dataset())
        made = Own(job.Net(), job.arguments(folder, logging_steps=steps), train_dataset=rows, callbacks=[watch])
        made.train()
        return made

    def test_one_that_is_not_the_models_is_noticed_and_the_logs_taken(self, tmp_path, caplog):
        watch = Watch()
        with caplog.at_level(logging.WARNING, "lrkit"):
            made = self.own(tmp_path, watch)
        assert len([one for one in caplog.records if "is not what is trained" in one.message]) == 1
        steps, values = watch.run.observed("loss")
        assert steps.tolist() == [0, 1, 3, 5, 7, 9, 11] and values.tolist()[1:] == logged(made)

    def test_one_that_is_recorded_counts(self, tmp_path, caplog):
        watch = Watch()
        with caplog.at_level(logging.WARNING, "lrkit"):
            made = self.own(tmp_path, watch, record=True, steps=1)
        assert not caplog.records and watch.run["loss"] == pytest.approx(logged(made), rel=1e-6)

    def test_label_smoothing_is_the_logs(self, tmp_path):
        model, rows = llama()
        watch = Watch()
        made = job.trainer(
            tmp_path, optimizer=None, model=model, rows=rows, callbacks=[watch], label_names=["labels"],
            label_smoothing_factor=0.1, logging_steps=4,
        )  # fmt: skip
        made.train()
        assert watch.run.observed("loss")[1].tolist() == logged(made)


def test_in_two_processes_the_first_writes_and_its_loss_is_near_the_mean(tmp_path):
    from integrations.plain import world

    world("job_watch.py", tmp_path, 2, "transformers", tmp_path)
    said = [torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2)]
    assert [one["rows"] for one in said] == [UPDATES, UPDATES] and [one["handed"] for one in said] == [UPDATES, 0]
    weights = said[0]["weights"]
    assert all(torch.equal(one[which][key], weights[key]) for one in said for which in ("weights", "bare") for key in weights)
    both = [(a + b) / 2 for a, b in zip(said[0]["losses"], said[1]["losses"], strict=True)]
    assert both == pytest.approx(said[0]["logged"], rel=1e-4) and len(lrkit.Run.load(tmp_path / "run")) == UPDATES


def test_what_watch_would_refuse_is_refused_at_once():
    with pytest.raises(InputError, match="every"):
        Watch(every=0)
    with pytest.raises(StateError, match=r"Watch\.run: nothing has been trained yet"):
        Watch().run  # noqa: B018
    Watch().record(loss=1.0)  # from a compute_loss that evaluates before the training
