"""The room's front door: a host is imported when it is asked for, and one that is missing is named with the command."""

import subprocess
import sys

import pytest

import lrkit.integrations
from lrkit.errors import InputError, MissingExtra

HOSTS = ("lightning", "transformers", "accelerate")
WALL = """
import sys, importlib, lrkit.integrations
from lrkit.errors import MissingExtra
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {absent!r}: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Wall())
def ask(way):
    try: print(way())
    except MissingExtra as error: print(error)
"""


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_room_imports_no_host_and_no_torch():
    code = (
        "import sys, lrkit.integrations; print([m for m in ('torch', 'jax', 'optax', 'lightning', 'transformers', 'accelerate')"
    )
    assert run(code + " if m in sys.modules])") == "[]"


def test_a_missing_host_is_named_with_its_command():
    """However it is asked for."""
    pytest.importorskip("torch")
    said = run(
        WALL.format(absent=HOSTS) + f"for host in {HOSTS!r}:\n"
        "    ask(lambda: getattr(lrkit.integrations, host))\n"
        "    ask(lambda: importlib.import_module(f'lrkit.integrations.{host}'))"
    )
    expected = "lrkit.integrations.{0} needs {0}, which is not installed. Install it: pip install 'lrkit[{0}]'"
    assert said.splitlines() == [expected.format(host) for host in HOSTS for _ in range(2)]


def test_without_torch_its_extra_is_named_and_optax_still_works():
    said = run(
        WALL.format(absent=("torch",)) + "ask(lambda: lrkit.integrations.to_optax('linear 10')(5))\n"
        "ask(lambda: lrkit.integrations.as_torch)"
    )
    assert said.splitlines() == [
        "0.5",
        "lrkit.integrations.as_torch needs torch, which is not installed. Install it: pip install 'lrkit[torch]'",
    ]


def test_an_unknown_host_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'keras'; it has accelerate, as_torch, lightning"):
        lrkit.integrations.keras  # noqa: B018
    assert "transformers" in dir(lrkit.integrations)


def test_a_missing_extra_is_an_import_error():
    assert issubclass(MissingExtra, ImportError)


def asked(*arguments):
    from lrkit.integrations.keywords import missing

    return missing(*arguments)


class TestWhatATextNeeds:
    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")

    @pytest.mark.parametrize(
        ("given", "needed"),
        [
            ({"lr": "warmup 3 > cosine 9"}, set()),
            ({"lr": "warmup 5% > cosine"}, {"total"}),
            ({"lr": "warmup 5% > cosine", "total": 100}, set()),
            ({"lr": "warmup 5% > cosine", "total": None}, {"total"}),
            ({"lr": "warmup 5% > cosine", "total": "3ep"}, {"steps_per_epoch"}),
            ({"lr": "warmup 2ep > hold 3ep"}, {"steps_per_epoch"}),
            ({"lr": {"head": "linear 10", "body": "warmup 1ep > cosine"}, "steps_per_epoch": 4}, {"total"}),
            ({"lr": "linear 10", "weight_decay": "cosine"}, {"total"}),
        ],
    )
    def test_is_what_nobody_gave(self, given, needed):
        assert asked("Schedules", given) == needed

    @pytest.mark.parametrize("given", [{}, {"total": 100}])
    def test_nothing_to_drive_is_refused(self, given):
        with pytest.raises(InputError, match=r"Schedules: nothing to drive\. Say which key"):
            asked("Schedules", given)

    def test_a_text_that_cannot_be_read_is_refused_under_its_key(self):
        with pytest.raises(InputError, match=r"Schedules\(lr=…\): "):
            asked("Schedules", {"lr": "warmop 5%"})


class TestWhatControllersListenFor:
    def test_is_found_among_what_was_measured_whatever_stands_between_its_words(self):
        pytest.importorskip("torch")
        from lrkit.binding.controllers import Plateau
        from lrkit.integrations.keywords import heard

        both = [Plateau(metric="val_loss"), Plateau(metric="accuracy", mode="max", name="second")]
        assert heard({"controllers": both}, {"val/loss": 2, "accuracy": 0.5, "loss": 1.0}) == {"val_loss": 2.0, "accuracy": 0.5}
        assert heard({"controllers": both[0]}, {"val-loss": 2}) == {"val_loss": 2.0}
        assert heard({}, {"loss": "not even looked at"}) == {}
