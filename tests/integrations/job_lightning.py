"""A module and a trainer for the tests; as a program, a training that is killed, or one in two processes."""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch

from integrations.plain import BATCH, BETWEEN, TEXT, Told, dataset, loss_of, net, optimizer_of
from lrkit.integrations.lightning import Schedules, scheduled
from together import leave

GIVEN = {"lr": TEXT, "weight_decay": BETWEEN}
warnings.filterwarnings("ignore", module="lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(pl.LightningModule):
    """The plain net; `given` makes configure_optimizers return `scheduled(…)`."""

    def __init__(self, given=None, die_at=None, kind=Told, logged="val_loss"):
        super().__init__()
        self.net, self.given, self.die_at, self.kind, self.logged = net(), given, die_at, kind, logged

    def training_step(self, batch, index):
        if self.trainer.global_step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = loss_of(self.net, batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log(self.logged, loss_of(self.net, batch))

    def configure_optimizers(self):
        self.optimizer = optimizer_of(self.net, self.kind)
        return self.optimizer if self.given is None else scheduled(self, self.optimizer, **self.given)


class Gan(pl.LightningModule):
    """Two nets, two optimizers, manual optimization; the second steps every other batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.a, self.b = net(), net()

    def training_step(self, batch, index):
        for i, (model, optimizer) in enumerate(zip((self.a, self.b), self.optimizers(), strict=True)):
            if i == 0 or index % 2 == 1:
                optimizer.zero_grad()
                self.manual_backward(loss_of(model, batch))
                optimizer.step()

    def configure_optimizers(self):
        self.both = [optimizer_of(self.a), optimizer_of(self.b)]
        return self.both


class Resumable(torch.utils.data.DataLoader):
    """A loader that knows where it is, as torchdata's does: with it Lightning resumes within an epoch."""

    done = skip = 0

    def __iter__(self):
        skip, self.skip = self.skip, 0
        for i, batch in enumerate(super().__iter__()):
            if i >= skip:
                self.done = i + 1
                yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.skip = state["done"] % len(self)


def loader(accumulate=1, kind=torch.utils.data.DataLoader):
    return kind(dataset(accumulate), batch_size=BATCH)


def trainer(folder, *callbacks, **given):
    quiet = {
        "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
        "accelerator": "cpu", "devices": 1, "max_epochs": 3, "default_root_dir": folder,
    }  # fmt: skip
    return pl.Trainer(callbacks=list(callbacks), **(quiet | given))


def each_update(folder):
    """A checkpoint after every update."""
    return pl.callbacks.ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


def each_epoch(folder):
    return pl.callbacks.ModelCheckpoint(dirpath=folder, filename="{epoch}", every_n_epochs=1, save_top_k=-1)


def killed(folder, update):
    """Checkpoint every update, and be killed in the middle of one."""
    pair = Schedules(**GIVEN), each_update(folder)
    trainer(folder, *pair, enable_checkpointing=True).fit(Module(die_at=update), loader(kind=Resumable))


def in_two_processes(folder):
    """A whole run, and one that is resumed after its first epoch; each process writes down what it did."""
    out = {}
    for name in ("whole", "resumed"):
        module = Module()
        given = {"strategy": "ddp", "devices": 2, "enable_checkpointing": True}
        fit = trainer(folder, Schedules(**GIVEN), each_epoch(folder), **given)
        fit.fit(module, loader(2), ckpt_path=folder / "epoch=0.ckpt" if name == "resumed" else None)
        out[name] = {"told": module.optimizer.told, "weights": module.net.state_dict()}
        fit.strategy.barrier()
    torch.save(out, folder / f"rank{fit.global_rank}.pt")


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    in_two_processes(folder) if sys.argv[1] == "ddp" else killed(folder, int(sys.argv[1]))
    leave()
