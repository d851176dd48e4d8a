"""A training loop with accelerate for the tests; as a program, one that is killed, or one in several processes."""

import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator

from integrations.plain import BATCH, BETWEEN, EPOCH, TEXT, UPDATES, Told, dataset, loss_of, net, optimizer_of
from lrkit.integrations import as_torch
from lrkit.integrations.accelerate import attach
from together import leave

GIVEN = {"lr": TEXT, "weight_decay": BETWEEN, "total": UPDATES}
warnings.filterwarnings("ignore", module="torch.utils.data")


def prepared(accelerator, order="after", data=1, scheduler=False, kind=Told, **given):
    """Model, prepared optimizer, loader and attachment; `order` is that of attach and prepare."""
    model = net()
    optimizer = optimizer_of(model, kind)
    loader = torch.utils.data.DataLoader(dataset(data), batch_size=BATCH)
    given = given or GIVEN
    attachment = attach(accelerator, optimizer, **given) if order == "before" else None
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if attachment is None:
        attachment = attach(accelerator, optimizer, dataloader=loader, **given)
    passive = accelerator.prepare(as_torch(attachment)) if scheduler else None
    return model, optimizer, loader, attachment, passive


def train(accelerator, model, optimizer, loader, attachment, passive=None, stop=UPDATES, save=None, skip=0):
    """Go on from the attachment's own step up to `stop`; `save` is a folder for a checkpoint after each update.

    Args:
        skip: Batches of the first epoch that are done already.
    """
    while attachment.step < stop:
        for batch in accelerator.skip_first_batches(loader, skip) if skip else loader:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch))
                optimizer.step()
                if passive is not None:
                    passive.step()
                optimizer.zero_grad()
            if save is not None and accelerator.sync_gradients:
                accelerator.save_state(str(save / f"at{attachment.step}"))
            if attachment.step >= stop:
                return
        skip = 0


def killed(folder, update):
    accelerator = Accelerator(cpu=True)
    job = prepared(accelerator)
    train(accelerator, *job, stop=update, save=folder)
    loss_of(job[0], next(iter(job[2]))).backward()
    os.kill(os.getpid(), signal.SIGKILL)


def in_processes(folder, accumulate, update):
    """A whole run that saves, then one that resumes at `update`; and what accelerate does to torch's own scheduler."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    world = accelerator.num_processes
    job = prepared(accelerator, data=accumulate * world, scheduler=True)
    train(accelerator, *job, save=folder)
    told, weights = job[1].optimizer.told, [accelerator.unwrap_model(job[0]).state_dict()]
    accelerator.free_memory()  # else load_state would look for the first run's model too
    again = prepared(accelerator, data=accumulate * world, scheduler=True)
    accelerator.load_state(str(folder / f"at{update}"))
    started = again[3].step
    train(accelerator, *again, skip=(update % EPOCH) * accumulate)
    weights.append(accelerator.unwrap_model(again[0]).state_dict())
    counted = prepared(accelerator, data=accumulate * world, lr="warmup 1ep > cosine 2ep")[3].schedules["lr"][None]
    out = {
        "world": world,
        "counted": str(counted),
        "started": started,
        "told": told,
        "again": again[1].optimizer.told,
        "weights": weights,
    }
    torch.save(out | {"theirs": torchs_own(accelerator)}, folder / f"rank{accelerator.process_index}.pt")


def torchs_own(accelerator):
    """The rates of four updates with torch's LinearLR over 12 steps, prepared as accelerate says."""
    model = net()
    optimizer = optimizer_of(model)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=12)
    optimizer, scheduler = accelerator.prepare(optimizer, scheduler)
    accelerator.gradient_state._set_sync_gradients(True)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    return [groups[0][0] for groups in optimizer.optimizer.told]


if __name__ == "__main__":
    place = Path(sys.argv[2])
    if sys.argv[1] == "killed":
        killed(place, int(sys.argv[3]))
    else:
        in_processes(place, int(sys.argv[3]), int(sys.argv[4]))
    leave()
