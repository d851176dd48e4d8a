"""Clipping inside Lightning: as by hand before each step; an update with a gradient that is not finite does not happen."""

import pytest
import torch

import lrkit
from integrations.plain import UPDATES, plain
from lrkit import clip
from lrkit.errors import InputError, StateError

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def job():
    import integrations.job_lightning as job

    return job


def test_the_weights_are_those_of_clipping_by_hand(job, tmp_path):
    from lrkit.integrations.lightning import Clip

    model, _, _ = plain(clip=0.05)
    module, clipping = job.Module(), Clip(clip.norm(0.05))
    job.trainer(tmp_path, job.Schedules(**job.GIVEN), clipping).fit(module, job.loader())
    for mine, there in zip(module.net.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, there, rtol=1e-4, atol=1e-6)  # torch's coefficient is limit / (norm + 1e-6)
    assert clipping.tally.updates == UPDATES and clipping.tally.engaged > 0


def test_an_update_whose_gradient_is_not_finite_is_skipped_and_not_counted(job, tmp_path):
    from lrkit.integrations.lightning import Clip

    module, clipping = job.Module(), Clip(clip.norm(1.0))
    schedules = job.Schedules(**job.GIVEN)
    bad = [3]

    def poison(gradient):
        bad[0] -= 1
        return gradient * float("nan") if bad[0] == 0 else gradient

    next(module.net.parameters()).register_hook(poison)
    job.trainer(tmp_path, schedules, clipping).fit(module, job.loader())
    assert clipping.tally.skipped == 1 and schedules.attachments[0].step == UPDATES - 1
    assert all(p.isfinite().all() for p in module.net.parameters())


def test_what_is_no_clip_and_who_clips_himself_is_refused(job, tmp_path):
    from lrkit.integrations.lightning import Clip

    with pytest.raises(InputError, match="must be a clip"):
        Clip(1.0)
    module = job.Module(kind=lrkit.optim.AdamW)
    with pytest.raises(StateError, match="clips itself"):
        job.trainer(tmp_path, Clip(clip.norm(1.0))).fit(module, job.loader())
