"""Models and a Trainer for the tests; as a program, a training that is killed, or one in two processes."""

import os
import signal
import sys
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from integrations.plain import BATCH, BETWEEN, TEXT, Told, dataset, net, optimizer_of
from lrkit.integrations.transformers import Schedules
from together import leave

GIVEN = {"lr": TEXT, "weight_decay": BETWEEN}
transformers.logging.set_verbosity_error()


class Net(nn.Module):
    """The plain net as the Trainer wants it: it gives its loss."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, y):
        logits = self.net(x)
        return {"loss": nn.functional.mse_loss(logits, y), "logits": logits}


class Rows(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return dict(zip("xy", self.data[i], strict=True))


class Die(TrainerCallback):
    """Kills the process in the middle of an update."""

    def __init__(self, at):
        self.at = at

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class Rates(TrainerCallback):
    """Notes each update's rates just before it: for optimizers that do not tell."""

    def __init__(self):
        self.told = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.told.append([group["lr"] for group in optimizer.param_groups])


class Arguments(TrainingArguments):
    """Two CPU processes call their devices cpu:0 and cpu:1, and torch.load then finds no such place for the optimizer's state."""

    @property
    def device(self):
        return torch.device(super().device.type)


def arguments(folder, **given):
    quiet = {
        "use_cpu": True, "report_to": [], "disable_tqdm": True, "max_grad_norm": 0.0, "num_train_epochs": 3,
        "per_device_train_batch_size": BATCH, "per_device_eval_batch_size": BATCH, "label_names": ["y"],
        "train_sampling_strategy": "sequential", "logging_steps": 1, "save_strategy": "no", "learning_rate": 0.1,
    }  # fmt: skip
    return Arguments(output_dir=str(folder), **(quiet | given))


def trainer(folder, schedules=None, optimizer=Told, data=1, model=None, callbacks=(), rows=None, **given):
    """A Trainer whose optimizer is ours, or with None its own; without schedules, one that is left alone."""
    model = Net() if model is None else model
    built = None if optimizer is None else optimizer_of(model.net, optimizer)
    pair = (built, None) if schedules is None else schedules.pair(built)
    rows = Rows(dataset(data)) if rows is None else rows
    callbacks = [*callbacks, *([] if schedules is None else [schedules])]
    made = Trainer(model, arguments(folder, **given), train_dataset=rows, eval_dataset=rows, optimizers=pair, callbacks=callbacks)
    made.remove_callback(transformers.PrinterCallback)
    return made


def told(made):
    """What the torch optimizer inside a Trainer tells."""
    return getattr(made.optimizer, "optimizer", made.optimizer).told


EACH_UPDATE = {"save_strategy": "steps", "save_steps": 1}


def killed(folder, update):
    trainer(folder, Schedules(**GIVEN), callbacks=[Die(update)], **EACH_UPDATE).train()


def in_two_processes(folder):
    """A whole run that saves, and one that resumes at its fifth update."""
    out = {}
    for name in ("whole", "resumed"):
        made = trainer(folder, Schedules(**GIVEN), data=2, **EACH_UPDATE)
        made.train(resume_from_checkpoint=None if name == "whole" else str(folder / "checkpoint-5"))
        logged = [row["learning_rate"] for row in made.state.log_history if "learning_rate" in row]
        out[name] = {"told": told(made), "logged": logged, "weights": made.model.net.state_dict()}
    torch.save(out, folder / f"rank{made.args.process_index}.pt")


if __name__ == "__main__":
    place = Path(sys.argv[2])
    in_two_processes(place) if sys.argv[1] == "world" else killed(place, int(sys.argv[3]))
    leave()
