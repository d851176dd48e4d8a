"""Inside accelerate: the same rates in any world, and save_state and load_state resume exactly."""

import pytest
import torch

import lrkit
from integrations.plain import BATCH, EPOCH, TEXT, UPDATES, dataset, finish, net, optimizer_of, plain, same, start, world
from lrkit.errors import InputError, StateError

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def job():
    import integrations.job_accelerate as job

    return job


@pytest.fixture
def accelerator(job):
    yield job.Accelerator(cpu=True)
    job.Accelerator(cpu=True).free_memory()


@pytest.fixture(scope="module")
def reference():
    model, optimizer, _ = plain()
    return model, optimizer.told


def accumulating(job, accumulate):
    job.Accelerator(cpu=True).free_memory()
    return job.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)


class TestRates:
    @pytest.mark.parametrize("order", ["before", "after"])
    @pytest.mark.parametrize("scheduler", [False, True])
    def test_every_update_has_the_plain_runs_rates_and_the_weights_are_its_weights(
        self, job, accelerator, reference, order, scheduler
    ):
        model, told = reference
        run = job.prepared(accelerator, order, scheduler=scheduler)
        job.train(accelerator, *run)
        assert run[1].optimizer.told == told and same(run[0], model)

    def test_a_torch_optimizer_gives_the_same_weights(self, job, accelerator):
        model, _, _ = plain(kind=torch.optim.AdamW)
        run = job.prepared(accelerator, kind=torch.optim.AdamW)
        job.train(accelerator, *run)
        assert same(run[0], model)

    def test_accumulated_batches_are_one_update(self, job):
        accelerator = accumulating(job, 2)
        model, optimizer, _ = plain(accumulate=2)
        run = job.prepared(accelerator, data=2, scheduler=True)
        job.train(accelerator, *run)
        assert run[1].optimizer.told == optimizer.told and same(run[0], model)

    @pytest.mark.parametrize("accumulate", [1, 2, 3])
    def test_an_epoch_is_as_many_updates_as_the_loop_makes(self, job, accumulate):
        """8 batches: 8, 4, or 3 updates, for accelerate closes the last one at the end of the loader."""
        accelerator = accumulating(job, accumulate)
        run = job.prepared(accelerator, data=2, lr="warmup 1ep > cosine 2ep")
        updates = {1: 8, 2: 4, 3: 3}[accumulate]
        assert run[3].schedules["lr"][None] == lrkit.parse(f"warmup {updates} > cosine {2 * updates}")
        job.train(accelerator, *run, stop=updates)
        assert len(run[1].optimizer.told) == updates

    def test_an_epoch_that_is_no_whole_number_of_updates_has_to_be_said(self, job):
        from accelerate.utils import GradientAccumulationPlugin

        accumulating(job, 1)
        plugin = GradientAccumulationPlugin(num_steps=3, sync_with_dataloader=False)
        accelerator = job.Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
        with pytest.raises(InputError, match=r"8 batches an epoch are no whole number of updates of 3\. Say steps_per_epoch="):
            job.prepared(accelerator, data=2, lr="warmup 1ep > cosine 2ep")
        accumulating(job, 1)

    def test_an_update_that_overflows_does_not_count(self, job, accelerator):
        """As with fp16: the scaler skips it, and so does the prepared scheduler."""
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        model, optimizer, _, attachment, passive = job.prepared(accelerator, kind=torch.optim.AdamW, scheduler=True)
        for bad in (False, True, False):
            accelerator.scaler.scale(model(dataset()[:][0]).square().mean()).backward()
            if bad:
                model[0].weight.grad.fill_(float("inf"))
            optimizer.step()
            passive.step()
            assert optimizer.step_was_skipped == bad
            optimizer.zero_grad()
        accelerator.scaler = None
        assert attachment.step == 2


class TestResume:
    @pytest.mark.parametrize("order", ["before", "after"])
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_save_state_and_load_state_are_exact_at_every_update(self, job, order, accumulate, tmp_path):
        model, optimizer, _ = plain(accumulate=accumulate)
        accelerator = accumulating(job, accumulate)
        run = job.prepared(accelerator, order, data=accumulate, scheduler=True)
        job.train(accelerator, *run, save=tmp_path)
        assert run[1].optimizer.told == optimizer.told and same(run[0], model)
        for cut in range(1, UPDATES + 1):
            accelerator = accumulating(job, accumulate)
            again = job.prepared(accelerator, order, data=accumulate, scheduler=True)
            accelerator.load_state(str(tmp_path / f"at{cut}"))
            assert again[3].step == cut
            job.train(accelerator, *again, skip=(cut % EPOCH) * accumulate)
            assert again[1].optimizer.told == optimizer.told[cut:] and same(again[0], model)

    def test_load_state_before_attach_is_exact_too(self, job, accelerator, reference, tmp_path):
        model, told = reference
        job.train(accelerator, *job.prepared(accelerator), save=tmp_path)
        accelerator.free_memory()
        fresh = net()
        optimizer = optimizer_of(fresh)
        loader = torch.utils.data.DataLoader(dataset(), batch_size=BATCH)
        fresh, optimizer, loader = accelerator.prepare(fresh, optimizer, loader)
        accelerator.load_state(str(tmp_path / "at5"))
        attachment = job.attach(accelerator, optimizer, **job.GIVEN)
        job.train(accelerator, fresh, optimizer, loader, attachment, skip=5 % EPOCH)
        assert optimizer.optimizer.told == told[5:] and same(fresh, model)

    def test_killed_in_the_middle_of_an_update_it_resumes_from_the_last_state(self, job, accelerator, reference, tmp_path):
        model, told = reference
        finish(start("job_accelerate.py", tmp_path, "killed", tmp_path, 7), expect=-9)
        run = job.prepared(accelerator)
        accelerator.load_state(str(tmp_path / "at7"))
        job.train(accelerator, *run, skip=7 % EPOCH)
        assert run[1].optimizer.told == told[7:] and same(run[0], model)


class TestProcesses:
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_two_have_the_rates_of_one_while_torchs_own_scheduler_runs_twice_as_fast(self, reference, accumulate, tmp_path):
        world("job_accelerate.py", tmp_path, 2, "world", tmp_path, accumulate, 5)
        told = reference[1]
        ranks = [torch.load(tmp_path / f"rank{i}.pt", weights_only=True) for i in range(2)]
        whole = ranks[0]["weights"][0]
        for rank in ranks:
            assert rank["world"] == 2 and rank["started"] == 5 and rank["counted"] == "warmup 4 > cosine 8"
            assert rank["told"] == told and rank["again"] == told[5:]
            for weights in rank["weights"]:
                assert all(torch.equal(weights[key], whole[key]) for key in whole)
            assert rank["theirs"] == pytest.approx([0.1 * (1 - 2 * t / 12) for t in range(4)]), "two steps an update"


class TestRefusals:
    def test_the_prepared_optimizer_itself_names_what_is_inside(self, job, accelerator):
        optimizer = accelerator.prepare(optimizer_of(net()))
        with pytest.raises(InputError, match=r"attach\(AcceleratedOptimizer\): .*Attach to its \.optimizer\."):
            lrkit.attach(optimizer, lr="linear 10")

    def test_what_is_no_accelerator(self, job):
        optimizer = optimizer_of(net())
        with pytest.raises(
            InputError, match=r"the first must be the Accelerator, got a Told\. Say attach\(accelerator, optimizer\)"
        ):
            job.attach(optimizer, optimizer, lr="linear 10")

    def test_what_only_looks_like_an_optimizer(self, job, accelerator):
        class Duck:
            def step(self):
                """Quack."""

        with pytest.raises(InputError, match=r"attach\(accelerator, Duck\): this is no torch optimizer, nor a prepared one"):
            job.attach(accelerator, Duck(), lr="linear 10")

    def test_a_loader_that_is_not_prepared(self, job, accelerator):
        loader = torch.utils.data.DataLoader(dataset(), batch_size=BATCH)
        with pytest.raises(InputError, match=r"attach\(dataloader=DataLoader\): it must be prepared"):
            job.attach(accelerator, optimizer_of(net()), dataloader=loader, lr="warmup 1ep > cosine 2ep")

    def test_a_prepared_torch_scheduler_beside_it(self, job, accelerator):
        optimizer = optimizer_of(net())
        optimizer, _ = accelerator.prepare(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3))
        with pytest.raises(StateError, match="a torch scheduler has been made on it"):
            job.attach(accelerator, optimizer, lr="linear 10")

    def test_a_total_that_nobody_said(self, job, accelerator):
        with pytest.raises(InputError, match=r"Pass total="):
            job.attach(accelerator, optimizer_of(net()), lr=TEXT)
