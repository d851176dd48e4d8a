"""A training in two processes that is watched; each writes down what it saw, and the weights with and without."""

import sys
from pathlib import Path

import torch

from together import leave

FOLDER = Path(sys.argv[2])


def in_lightning():
    import integrations.job_lightning as job
    from lrkit.integrations.lightning import Watch

    handed, kept = [], {}
    for watched in (True, False):
        module = job.Module()
        watch = Watch(FOLDER / "run", every=3, sinks=lambda step, values: handed.append(step))
        fit = job.trainer(FOLDER, *[watch] * watched, strategy="ddp", devices=2)
        fit.fit(module, job.loader(2))
        kept["weights" if watched else "bare"] = module.net.state_dict()
        kept["rows"] = kept.get("rows") or len(watch.run)
        fit.strategy.barrier()
    torch.save({**kept, "handed": len(set(handed))}, FOLDER / f"rank{fit.global_rank}.pt")


def in_transformers():
    import integrations.job_transformers as job
    from lrkit.integrations.transformers import Watch

    handed, kept = [], {}
    for watched in (True, False):
        watch = Watch(FOLDER / "run", every=3, sinks=lambda step, values: handed.append(step))
        made = job.trainer(FOLDER, data=2, callbacks=[watch] * watched)
        made.train()
        kept["weights" if watched else "bare"] = made.model.net.state_dict()
        kept["rows"] = kept.get("rows") or len(watch.run)
        logged = [row["loss"] for row in made.state.log_history if "loss" in row]
        kept["losses"] = kept.get("losses") or watch.run["loss"].tolist()
    torch.save({**kept, "logged": logged, "handed": len(set(handed))}, FOLDER / f"rank{made.args.process_index}.pt")


if __name__ == "__main__":
    in_lightning() if sys.argv[1] == "lightning" else in_transformers()
    leave()
