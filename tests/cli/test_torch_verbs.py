"""find and train: a task from a FILE.py, and one sentence for every way in which such a file can be wrong."""

from pathlib import Path

import pytest

from cli.test_light_verbs import lrkit, refused
from lrkit import Run

TASK = """
import torch, lrkit
X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
def loss(model, batch):
    return (model(batch).squeeze(1) - batch.sum(1)).square().mean()
def task():
    return lrkit.Task(model=lambda: torch.nn.Linear(3, 1), loss={loss}, batches=lambda: {batches},
                      optimizer=lambda p: torch.optim.SGD(p, lr=0.05), steps={steps})
"""


def task_file(tmp_path: Path, loss: str = "loss", batches: str = "list(X.split(10))", steps: str = "300") -> str:
    path = tmp_path / "job.py"
    path.write_text(TASK.format(loss=loss, batches=batches, steps=steps))
    return str(path)


def test_find_says_the_rate_and_writes_a_report(tmp_path):
    result = lrkit("find", task_file(tmp_path), "--budget", "1", "--out", str(tmp_path / "find.html"))
    assert result.returncode == 0, result
    assert result.stdout.startswith("rate ") and "updates at" in result.stdout
    assert "<svg" in (tmp_path / "find.html").read_text()


def test_train_prints_epoch_rate_and_loss_and_keeps_the_run(tmp_path):
    arguments = ["train", task_file(tmp_path), "--lr", "0.1", "--out", str(tmp_path / "first")]
    result = lrkit(*arguments)
    assert result.returncode == 0, result
    assert "epoch   1  step     6  rate 0.0" in result.stdout and "loss" in result.stdout
    run = Run.load(tmp_path / "first")
    assert len(run) == 300
    refused(lrkit(*arguments), "never written over")
    assert Run.load(tmp_path / "first") == run


def test_train_probes_where_the_doctor_is_in_doubt(tmp_path):
    """Far below the usual rate, which the curve alone does not show: a higher rate helps."""
    given = ("--lr", "0.003", "--schedule", "constant", "--budget", "0", "--probe")
    result = lrkit("train", task_file(tmp_path, steps="60"), *given)
    assert result.returncode == 0, result
    assert "settle:  lrkit.probe(" in result.stdout and "probe at step 44: raise the rate to 0.009" in result.stdout


@pytest.mark.parametrize("verb", ["find", "train"])
class TestBadInput:
    def test_a_loss_that_is_nan_at_once(self, verb, tmp_path):
        result = lrkit(verb, task_file(tmp_path, loss="lambda m, b: loss(m, b) * float('nan')"))
        refused(result, "not finite" if verb == "find" else "which no rate can mend")

    def test_an_empty_loader(self, verb, tmp_path):
        refused(lrkit(verb, task_file(tmp_path, batches="[]")), "yielded nothing", "Is the data set empty?")

    def test_a_schedule_of_zero_steps(self, verb, tmp_path):
        refused(lrkit(verb, task_file(tmp_path), "--schedule", "warmup 0 > cosine"), "at least 1 step")

    def test_a_task_of_zero_steps(self, verb, tmp_path):
        refused(lrkit(verb, task_file(tmp_path, steps="0")), "steps must be a whole number of updates, at least 1")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, ["is not a file", "def task()"]),
            ("x = 1", ["defines no `task`"]),
            ("def task(): return 5", ["task() must return an lrkit.Task, got int"]),
            ("def task(:", ["job.py:1 raised SyntaxError"]),
            ("\n\nraise KeyError('gone')", ["job.py:3 raised KeyError"]),
            ("import no_such_package", ["job.py:1 raised ModuleNotFoundError: No module named 'no_such_package'"]),
            ("import sys\nsys.exit(0)", ["job.py called sys.exit"]),
        ],
    )
    def test_a_file_without_a_task(self, verb, tmp_path, content, words):
        if content is not None:
            (tmp_path / "job.py").write_text(content)
        refused(lrkit(verb, str(tmp_path / "job.py")), *words)

    def test_an_exception_in_the_users_loss_names_its_line(self, verb, tmp_path):
        refused(lrkit(verb, task_file(tmp_path, loss="lambda m, b: m(b, b)")), "job.py", "raised TypeError")

    def test_a_place_where_nothing_can_be_written(self, verb, tmp_path):
        (tmp_path / "file").write_text("kept")
        refused(lrkit(verb, task_file(tmp_path), "--out", str(tmp_path / "file" / "x.html")), "cannot be written")
        assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("example", ["digits", "tabular"])
def test_the_examples_run(example, tmp_path):
    """With few updates: the file is the shipped one."""
    shipped = Path(__file__).parents[2] / "examples" / f"{example}.py"
    (tmp_path / "short.py").write_text(
        "import dataclasses, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('shipped', {str(shipped)!r})\n"
        "shipped = importlib.util.module_from_spec(spec); spec.loader.exec_module(shipped)\n"
        "def task(): return dataclasses.replace(shipped.task(), steps=30)\n"
    )
    result = lrkit("train", str(tmp_path / "short.py"), "--lr", "0.01")
    assert result.returncode == 0 and "val_loss" in result.stdout, result
