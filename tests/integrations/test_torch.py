"""`as_torch`: a torch scheduler that changes nothing and says what was used."""

import copy
import pickle
import warnings

import pytest
import torch

import lrkit
from integrations.plain import TEXT, UPDATES, Told, batches, loss_of, net, optimizer_of, plain, same
from lrkit.errors import InputError, StateError
from lrkit.integrations import as_torch
from lrkit.integrations.torch import Passive


def built(**keys):
    model = net()
    optimizer = optimizer_of(model)
    attachment = lrkit.attach(optimizer, total=UPDATES, **(keys or {"lr": TEXT}))
    return model, optimizer, attachment, as_torch(attachment)


def update(model, optimizer, batch):
    loss_of(model, batch).backward()
    optimizer.step()
    optimizer.zero_grad()


class TestItChangesNothing:
    def test_a_run_with_it_is_a_run_without_it(self):
        alone, told, _ = plain(lr=TEXT)
        model, optimizer, _, scheduler = built()
        for batch in batches():
            update(model, optimizer, batch)
            scheduler.step()
        assert optimizer.told == told.told and same(model, alone)

    @pytest.mark.parametrize("arguments", [(), (3,), (0.5, "x")])
    def test_step_takes_anything_and_does_nothing(self, arguments):
        _, optimizer, _, scheduler = built()
        before = copy.deepcopy(optimizer.state_dict())
        scheduler.step(*arguments)
        scheduler.step(metrics=1.0)
        assert optimizer.state_dict() == before

    def test_no_initial_lr_appears_and_step_is_not_patched(self):
        _, optimizer, _, _ = built()
        assert all("initial_lr" not in group for group in optimizer.param_groups)
        assert "step" not in vars(optimizer)

    def test_stepping_it_before_the_optimizer_warns_of_nothing(self):
        model, optimizer, _, scheduler = built()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler.step()
            scheduler.step()
            update(model, optimizer, batches()[0])

    def test_its_state_is_nothing_and_loading_one_is_harmless(self):
        _, optimizer, _, scheduler = built()
        assert scheduler.state_dict() == {}
        foreign = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=9.0)
        scheduler.load_state_dict(torch.optim.lr_scheduler.StepLR(foreign, 3).state_dict())
        assert scheduler.state_dict() == {} and scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]


class TestItAnswers:
    def test_the_last_rates_are_those_of_the_last_update(self):
        model, optimizer, _, scheduler = built()
        first = scheduler.get_last_lr()
        for i, batch in enumerate(batches()):
            update(model, optimizer, batch)
            used = [rate for rate, _ in optimizer.told[-1]]
            assert scheduler.get_last_lr() == used
            assert i > 0 or used == first, "before the first update: the first's"

    def test_is_a_torch_scheduler_of_this_optimizer(self):
        model, optimizer, _, scheduler = built()
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler) and scheduler.optimizer is optimizer
        assert scheduler.base_lrs == [0.1, 0.01] and scheduler.last_epoch == 0
        for batch in batches()[:5]:
            update(model, optimizer, batch)
        assert scheduler.last_epoch == 5 and scheduler.base_lrs == [0.1, 0.01]
        assert scheduler.get_lr() == [group["lr"] for group in optimizer.param_groups]

    def test_a_rate_that_is_not_driven_is_the_groups_own(self):
        model, optimizer, _, scheduler = built(weight_decay="cosine", lr={"head": "linear"})
        update(model, optimizer, batches()[0])
        assert scheduler.get_last_lr() == [0.1, 0.01]
        update(model, optimizer, batches()[1])
        assert scheduler.get_last_lr() == [0.1, 0.01 * 11 / 12]

    def test_resuming_the_optimizer_resumes_it(self):
        model, optimizer, _, scheduler = built()
        for batch in batches()[:5]:
            update(model, optimizer, batch)
        _, other, _, again = built()
        other.load_state_dict(optimizer.state_dict())
        assert again.last_epoch == 5 and again.get_last_lr() == scheduler.get_last_lr()

    @pytest.mark.parametrize("how", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
    def test_a_copy_asks_its_own_optimizer(self, how):
        model, optimizer, _, scheduler = built()
        for batch in batches()[:5]:
            update(model, optimizer, batch)
        copied = how(scheduler)
        assert isinstance(copied, Passive) and copied.optimizer is not optimizer and copied.last_epoch == 5
        assert copied.get_last_lr() == [group["lr"] for group in optimizer.param_groups], "nothing is attached to the copy"
        lrkit.attach(copied.optimizer, lr=TEXT, total=UPDATES)
        assert copied.get_last_lr() == scheduler.get_last_lr()

    def test_after_detaching_it_says_what_the_groups_hold(self):
        _, _, attachment, scheduler = built()
        attachment.detach()
        assert scheduler.get_last_lr() == [0.1, 0.01] and scheduler.last_epoch == 0

    def test_without_an_optimizer_it_says_what_was_forgotten(self):
        empty = Passive()
        assert (empty.base_lrs, empty.last_epoch) == ([], 0)
        with pytest.raises(StateError, match=r"nothing is attached yet\. Give the Trainer the callback too"):
            empty.get_last_lr()

    def test_what_is_no_attachment_is_refused(self):
        with pytest.raises(InputError, match=r"as_torch\(Told\): must be an attachment, got a Told. Pass what lrkit.attach"):
            as_torch(Told([torch.nn.Parameter(torch.zeros(1))]))
