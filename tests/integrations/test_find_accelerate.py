"""`find` with accelerate's objects: the updates are those of the loop, and then the loop trains as if nothing had been."""

import pytest
import torch
from torch import nn

from integrations.instead import Instead, attributes, drawn, learnable, untouched, watched
from integrations.plain import BATCH, EPOCH, TEXT, Told, dataset, loss_of, net, optimizer_of, same, world
from lrkit.errors import InputError

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def job():
    import integrations.job_accelerate as job

    return job


@pytest.fixture(scope="module")
def host():
    import lrkit.integrations.accelerate as host

    return host


@pytest.fixture
def instead(monkeypatch, host):
    """Three updates in place of a search."""
    made = Instead(3)
    monkeypatch.setattr(host, "search", made)
    return made


@pytest.fixture(autouse=True)
def forgotten(job):
    """accelerate's state is global: a test leaves none behind."""
    yield
    job.Accelerator(cpu=True).free_memory()
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Job:
    """Prepared objects, and the user's own loop."""

    def __init__(self, job, kind=Told, each=1, data=1, max_norm=None, shuffle=False, scaler=None, **given):
        self.accelerator = job.Accelerator(cpu=True, gradient_accumulation_steps=each, **given)
        self.accelerator.scaler = scaler
        self.max_norm = max_norm
        torch.manual_seed(5)
        model = net().insert(2, nn.Dropout(0.2))
        optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.05)
        loader = torch.utils.data.DataLoader(dataset(data), batch_size=BATCH, shuffle=shuffle)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)

    def find(self, host, **given):
        given = {"steps": 100, "max_norm": self.max_norm} | given
        return host.find(self.accelerator, self.model, self.optimizer, loss_of, self.loader, **given)

    def train(self, updates=3 * EPOCH):
        losses, done = [], 0
        while done < updates:
            for batch in self.loader:
                with self.accelerator.accumulate(self.model):
                    loss = loss_of(self.model, batch)
                    losses.append(float(loss.detach()))
                    self.accelerator.backward(loss)
                    if self.accelerator.sync_gradients and self.max_norm is not None:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_norm)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                done += self.accelerator.sync_gradients
                if done == updates:
                    return losses
        return losses

    def everything(self):
        """All that a search must leave as it was; DDP's wrapper says how far its reducer is, which nobody can rewind."""
        inner, model = self.optimizer.optimizer, self.accelerator.unwrap_model(self.model)
        things = [self.accelerator, self.accelerator.gradient_state, self.optimizer, self.loader, inner, *inner.param_groups]
        things += [] if self.accelerator.scaler is None else [self.accelerator.scaler]
        return attributes(*things, *model.modules()), drawn(), [value.clone() for value in model.state_dict().values()]

    def untouched(self, before):
        return untouched(before, self.everything())


KINDS = {
    "plain": {},
    "accumulating and clipping": {"each": 3, "data": 2, "max_norm": 0.05},
    "bf16": {"mixed_precision": "bf16"},
    "shuffled": {"shuffle": True},
}


class TestLoop:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("begun", [0, 5])
    def test_after_a_search_it_trains_the_same_to_the_bit(self, job, host, kind, begun):
        def trained(search):
            mine = Job(job, **KINDS[kind])
            mine.train(begun)
            if search:
                before = mine.everything()
                assert mine.find(host).steps > 10
                assert mine.untouched(before)
            mine.train()
            return mine

        with_search, without = trained(True), trained(False)
        assert with_search.optimizer.optimizer.told == without.optimizer.optimizer.told and same(with_search.model, without.model)

    @pytest.mark.parametrize("what", [ZeroDivisionError, KeyboardInterrupt])
    def test_what_goes_wrong_in_the_middle_leaves_nothing_behind(self, job, host, what):
        mine, calls = Job(job, each=2, data=2, shuffle=True), []
        before = mine.everything()

        def loss(model, batch):
            calls.append(batch)
            if len(calls) == 19:
                raise what
            return loss_of(model, batch)

        with pytest.raises(what):
            host.find(mine.accelerator, mine.model, mine.optimizer, loss, mine.loader, steps=100)
        assert mine.untouched(before)

    def test_a_loader_that_is_not_prepared_will_do(self, job, host):
        mine = Job(job)
        mine.loader = torch.utils.data.DataLoader(dataset(), batch_size=BATCH, shuffle=True)
        assert mine.find(host).steps > 10


class TestUpdates:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_search_makes_the_updates_that_the_loop_makes(self, job, host, instead, kind, monkeypatch):
        monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
        given = KINDS[kind] | {"shuffle": False}
        Job(job, **given).find(host)
        mine = Job(job, **given)
        losses, each = mine.train(3), mine.accelerator.gradient_accumulation_steps
        assert instead.made(mine.model.state_dict())
        windows = [losses[i : i + each] for i in range(0, len(losses), each)]  # 3, 3 and 2 of 8 batches
        assert instead.losses == pytest.approx([sum(one) / len(one) for one in windows], rel=1e-6) and len(windows) == 3
        assert instead.epoch == (3 if each == 3 else EPOCH)

    def test_every_update_is_clipped_and_takes_its_batches(self, job, host):
        norms, taken, ends = [], [], []

        def loss(model, batch):
            taken.append(len(batch[0]))
            ends.append(mine.accelerator.sync_gradients)
            assert mine.loader.device is None, "batches that are kept stay where they are"
            return loss_of(model, batch)

        mine = Job(job, kind=watched(Told, norms), each=2, data=2)
        given = {"steps": 100, "max_norm": 0.05}
        found = host.find(mine.accelerator, mine.model, mine.optimizer, loss, mine.loader, **given)
        assert len(norms) == found.steps > 10 and taken == [BATCH] * 2 * len(norms)
        assert max(norms) <= 0.05 * (1 + 1e-5) and found.context["batch_size"] == 2 * BATCH
        assert ends == [False, True] * len(norms) and mine.loader.device is not None

    def test_where_updates_go_over_the_end_of_an_epoch_what_is_left_of_it_is_left_out(self, job, host, instead):
        from accelerate.utils import GradientAccumulationPlugin

        plugin = GradientAccumulationPlugin(num_steps=3, sync_with_dataloader=False)
        accelerator = job.Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
        model = net()
        parts = accelerator.prepare(model, optimizer_of(model), torch.utils.data.DataLoader(dataset(2), batch_size=BATCH))
        host.find(accelerator, parts[0], parts[1], loss_of, parts[2], steps=100)
        assert instead.epoch == 2, "of 8 batches"


class TestProcesses:
    def test_two_agree_and_then_train_the_same_to_the_bit(self, tmp_path):
        world("job_find.py", tmp_path, 2, "accelerate", tmp_path)
        ranks = [torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2)]
        assert ranks[0]["rate"] == ranks[1]["rate"] and ranks[0]["processes"] == 2
        for rank in ranks:
            assert rank["untouched"] and rank["with"].keys() == rank["without"].keys()
            assert all(torch.equal(rank["with"][name], rank["without"][name]) for name in rank["with"])


class TestScaler:
    def test_every_run_begins_with_the_scale_that_was_there(self, job, host):
        scales = []

        class Seen(torch.amp.GradScaler):
            def scale(self, outputs):
                scales.append(self.get_scale())
                return super().scale(outputs)

        scaler = Seen("cpu", init_scale=2.0**60, growth_interval=4)
        mine = Job(job, kind=torch.optim.AdamW, scaler=scaler)
        before = mine.everything()
        found = mine.find(host)
        assert scales.count(2.0**60) >= len(found.trials) + 1, "the first scales of all runs are too high, and come down"
        assert mine.untouched(before)
        mine.train()

    def test_weights_that_overflow_end_a_run_instead_of_being_skipped_for_ever(self, job, host):
        calls = []

        def loss(model, batch):
            calls.append(1)
            value = loss_of(model, batch)
            return value * float("inf") if value > 50 else value

        mine = Job(job, kind=torch.optim.AdamW, scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
        found = host.find(mine.accelerator, mine.model, mine.optimizer, loss, mine.loader, steps=400)
        assert any(trial.loss != trial.loss for trial in found.trials) or found.context, "a run diverged, and was judged"
        assert len(calls) < found.steps + 50


class TestArguments:
    def test_the_attached_schedule_shapes_the_runs(self, job, host):
        mine = Job(job)
        attachment = host.attach(mine.accelerator, mine.optimizer, lr=TEXT, total=100)
        assert mine.find(host, steps=None).context["schedule"] == "warmup 25 > cosine 75"
        assert attachment.step == 0

    def test_a_validation_may_read_a_prepared_loader(self, job, host):
        mine = Job(job)
        rows = mine.accelerator.prepare(torch.utils.data.DataLoader(dataset(), batch_size=BATCH))

        def validate(model):
            return torch.stack([loss_of(model, batch) for batch in rows]).mean()

        before = mine.everything()
        assert mine.find(host, steps=400, validate=validate).context["validated"]
        assert mine.untouched(before)

    def test_the_answer_is_applied_to_the_optimizer_inside(self, job, host):
        accelerator = job.Accelerator(cpu=True)
        model = net()
        loader = torch.utils.data.DataLoader(learnable(), batch_size=16)
        model, optimizer, loader = accelerator.prepare(model, optimizer_of(model, torch.optim.AdamW), loader)
        suggestion = host.find(accelerator, model, optimizer, loss_of, loader, steps=300, budget=0.5)
        suggestion.apply(optimizer.optimizer)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([suggestion.lr, suggestion.lr / 10])


class TestRefusals:
    def test_what_is_no_accelerator(self, job, host):
        mine = Job(job)
        with pytest.raises(InputError, match=r"find\(Sequential, …\): the first must be the Accelerator, got a Sequential\."):
            host.find(mine.model, mine.accelerator, mine.optimizer, loss_of, mine.loader, steps=100)

    def test_an_optimizer_that_is_not_prepared(self, job, host):
        mine = Job(job)
        with pytest.raises(InputError, match=r"find\(accelerator, model, Told, …\): the optimizer must be prepared\."):
            host.find(mine.accelerator, mine.model, mine.optimizer.optimizer, loss_of, mine.loader, steps=100)

    def test_a_norm_that_clips_all_away(self, job, host):
        with pytest.raises(InputError, match=r"find\(max_norm=0\): max_norm must be a finite number above 0"):
            Job(job).find(host, max_norm=0)

    def test_batches_that_can_be_read_once(self, job, host):
        mine = Job(job)
        mine.loader = iter(mine.loader)
        with pytest.raises(InputError, match=r"an iterator can be read only once\. Pass what makes it"):
            mine.find(host)

    def test_a_model_that_no_process_has_the_whole_of(self, job, host, monkeypatch):
        from accelerate.utils import DistributedType

        mine = Job(job)
        monkeypatch.setattr(type(mine.accelerator), "distributed_type", DistributedType.FSDP)
        with pytest.raises(InputError, match=r"the model is split over processes \(FSDP\).*Find where one process holds it\."):
            mine.find(host)

    def test_nothing_to_train_on(self, job, host):
        mine = Job(job)
        mine.loader = []
        with pytest.raises(InputError, match="nothing to train on"):
            mine.find(host)
