"""One small log of every format, as bytes: what the tests read, and what the fuzzer damages."""

import json
import struct
from pathlib import Path

from lrkit.logs.source import Source

N = 12
LOSS = [round(2.5 - 0.05 * t, 3) for t in range(N)]
LR = 0.001


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def record(payload: bytes) -> bytes:
    """A record of an event file; nobody looks at its checksums."""
    return struct.pack("<Q", len(payload)) + b"\0" * 4 + payload + b"\0" * 4


def event(step: int, *values: bytes, time: float = 1.7e9) -> bytes:
    summary = field(5, b"".join(field(1, value) for value in values))
    return record(struct.pack("<Bd", 9, time) + (b"\x10" + varint(step) if step else b"") + summary)


def simple(tag: str, value: float) -> bytes:
    """A scalar as TensorFlow 1 and PyTorch write it."""
    return field(1, tag.encode()) + struct.pack("<Bf", 0x15, value)


def tensor(tag: str, value: float, kind: str = "content") -> bytes:
    """A scalar as TensorFlow 2 writes it; `kind` is where the number stands."""
    inner = {
        "content": b"\x08\x01" + field(4, struct.pack("<f", value)),
        "double_content": b"\x08\x02" + field(4, struct.pack("<d", value)),
        "float": b"\x08\x01" + field(5, struct.pack("<f", value)),
        "float_alone": b"\x08\x01" + struct.pack("<Bf", 0x2D, value),
        "double": b"\x08\x02" + field(6, struct.pack("<d", value)),
        "two": b"\x08\x01" + field(5, struct.pack("<ff", value, value)),
    }[kind]
    return field(1, tag.encode()) + field(8, inner)


VERSION = record(struct.pack("<Bd", 9, 1.7e9) + field(3, b"brain.Event:2"))


def events() -> bytes:
    body = b"".join(event(t, simple("train/loss", LOSS[t])) + event(t, simple("train/learning_rate", LR)) for t in range(N))
    return VERSION + body + event(N - 1, tensor("eval/loss", 2.0, "double"), simple("x", 1))


def rows() -> list[dict[str, float]]:
    return [{"step": t, "loss": LOSS[t], "lr": LR} | ({"val_loss": 2.0} if t % 5 == 4 else {}) for t in range(N)]


def lines(header: str, row: str) -> bytes:
    return "\n".join([header, *(row.format(t=t, loss=LOSS[t], lr=LR) for t in range(N)), ""]).encode()


def text(row: str) -> bytes:
    return "".join(row.format(t=t, loss=LOSS[t], lr=LR) + "\n" for t in range(N)).encode()


HISTORY = [{"step": 10 * t, "epoch": t / 10, "loss": LOSS[t], "learning_rate": LR, "grad_norm": 1.0} for t in range(N)]
STATE = {
    "global_step": 200,
    "max_steps": 400,
    "log_history": [
        *HISTORY,
        {"step": 10 * N - 10, "epoch": 1.9, "eval_loss": 1.9},
        {"step": 10 * N - 10, "train_runtime": 1.0, "train_loss": 2.0, "total_flos": 1.0},
    ],
}
DEEPOBS = {
    "minibatch_train_losses": LOSS,
    "train_losses": [2.5, 2.0],
    "test_losses": [2.6, 2.1],
    "optimizer": "MomentumOptimizer",
    "testproblem": "mnist_mlp",
    "learning_rate": LR,
    "batch_size": 128,
}
THINNED = {
    "first200": LOSS[:4],
    "block_mean": LOSS[4:8],
    "n_steps": 400,
    "lr": 0.1,
    "optimizer": "Adam",
    "problem": "p",
    "label": "good",
}

# name of the file, its bytes
SAMPLES: dict[str, tuple[str, bytes]] = {
    "lrkit": (
        "run.jsonl",
        "".join(
            json.dumps(row) + "\n"
            for row in [{"lrkit_run": 1, "columns": ["step", "loss", "lr"], "meta": {"optimizer": "Adam"}}, *rows()]
        ).encode(),
    ),
    "tensorboard": ("events.out.tfevents.1700000000.host", events()),
    "huggingface": ("trainer_state.json", json.dumps(STATE, indent=1).encode()),
    "lightning": ("metrics.csv", lines("epoch,lr-Adam,step,train_loss_step,val_loss", "0,{lr},{t},,\n0,,{t},{loss},")),
    "keras": ("log.csv", lines("epoch,accuracy,loss,lr,val_loss", "{t},0.5,{loss},{lr},2.0")),
    "ultralytics": (
        "results.csv",
        lines(
            "  epoch,  train/box_loss,  train/cls_loss,  val/box_loss,  val/cls_loss,  lr/pg0,  lr/pg1",
            "  {t},  {loss},  1.0,  2.0,  1.5,  0.1,  {lr}",
        ),
    ),
    "wandb": (
        "wandb.csv",
        lines('"Step","a b - train/loss","a b - train/loss__MIN","c - train/loss"', '"{t}","{loss}","{loss}","2.0"'),
    ),
    "long": ("long.csv", lines("run,step,metric,value", "a,{t},loss,{loss}\nb,{t},loss,2.0")),
    "sweep": ("sweep.csv", lines("learning_rate_0.005,learning_rate_0.01", "{loss},2.0")),
    "algoperf": ("measurements.csv", lines("global_step,grad_norm,loss,lr,train/loss,validation/loss", "{t},1.0,{loss},{lr},,")),
    "jsonl": ("log.jsonl", "".join(json.dumps(row) + "\n" for row in rows()).encode()),
    "runs": ("runs.jsonl", (json.dumps(THINNED) + "\n" + json.dumps({"steps": [0, 1], "loss": [2.0, 1.0]}) + "\n").encode()),
    "deepobs": ("deepobs.json", json.dumps(DEEPOBS).encode()),
    "columns": ("history.json", json.dumps({"loss": LOSS, "val_loss": LOSS, "optimizer": "SGD"}).encode()),
    "nanogpt": ("out.log", b"step 0: train loss 2.6, val loss 2.6\n" + text("iter {t}: loss {loss}, time 193.7ms, mfu -100.00%")),
    "modded": ("log.txt", b"import os\nlearning_rate : float = 0.0018\n" + text("step:{t}/100 train_loss:{loss} train_time:1ms")),
    "short": ("log.log", b"s:0 tel:2.7\n" + text("s:{t} trl:{loss}")),
    "megatron": ("megatron.log", text(" iteration {t}/ 100 | elapsed time (ms): 1.5 | learning rate: {lr} | lm loss: {loss} |")),
    "dicts": ("stdout.txt", text(" 10%|#  | 1/10\r\x1b[32m{{'loss': {loss}, 'learning_rate': {lr}, 'epoch': 0.1}}\x1b[0m")),
    "tqdm": ("tqdm.txt", text("Epoch 0:  10%|#  | {t}/12 [00:10<00:12, 4.5it/s, loss={loss}, lr={lr}]").replace(b"\n", b"\r")),
}  # fmt: skip

MLFLOW = {
    "metrics/train/loss": "".join(f"1700000000000 {LOSS[t]} {t}\n" for t in range(N)).encode(),
    "metrics/lr": b"1700000000000 0.001 0\n",
    "params/optimizer": b"Adam",
    "tags/mlflow.runName": b"bold-fish",
}


def source(name: str, data: bytes | None = None) -> Source:
    """A sample, or other bytes under its name, as it comes from a disk."""
    if name == "mlflow":
        folder = Path("mlruns/0/a")
        members = dict(MLFLOW) if data is None else {**MLFLOW, "metrics/train/loss": data}
        return Source(folder, b"", tuple(Source(folder / place, content) for place, content in members.items()))
    file, own = SAMPLES[name]
    return Source.of(Path(file), own if data is None else data)
