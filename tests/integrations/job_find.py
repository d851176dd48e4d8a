"""Programs for two processes: search and then train, and only train; each process writes down what came of it."""

import sys
from pathlib import Path

import torch

from together import leave


def with_accelerate():
    import integrations.job_accelerate as job
    import lrkit.integrations.accelerate as host
    from integrations.test_find_accelerate import Job

    def trained(search):
        mine = Job(job, each=2, data=4, max_norm=0.05, shuffle=True)
        found, untouched = None, True
        if search:
            before = mine.everything()
            found = mine.find(host)
            untouched = mine.untouched(before)
        mine.train()
        return found, untouched, mine.accelerator.unwrap_model(mine.model).state_dict()

    return trained


def with_transformers(folder):
    import integrations.job_transformers as job
    from integrations.instead import untouched
    from integrations.test_find_transformers import everything
    from lrkit.integrations.transformers import find

    def trained(search):
        torch.manual_seed(5)
        given = {"data": 4, "gradient_accumulation_steps": 2, "max_grad_norm": 0.05, "train_sampling_strategy": "random"}
        trainer = job.trainer(folder, job.Schedules(**job.GIVEN), **given)
        found, left_alone = None, True
        if search:
            before = everything(trainer)
            found = find(trainer, steps=120)
            left_alone = untouched(before, everything(trainer))
        trainer.train()
        return found, left_alone, trainer.model.net.state_dict()

    return trained


if __name__ == "__main__":
    place = Path(sys.argv[2])
    trained = with_accelerate() if sys.argv[1] == "accelerate" else with_transformers(place)
    found, untouched, weights = trained(True)
    _, _, others = trained(False)
    out = {"rate": found.lr, "processes": found.context["processes"], "untouched": untouched, "with": weights, "without": others}
    torch.save(out, place / f"rank{torch.distributed.get_rank()}.pt")
    leave()
