"""The house rules that a machine can hold: stairs, torch-free floors, no cycle, small files, the public names."""

import ast
import contextlib
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lrkit

SRC = Path(lrkit.__file__).parent
TESTS = Path(__file__).parent

# The stairs of the design. Two floors are refined, so that imports still only go down: errors and figures lie under run (a Run
# refuses, and draws itself), gauges under task (what is trained is watched).
FLOORS = {
    "errors": -3, "figures": -2, "columns": -1.6, "journal": -1.5, "run": -1, "schedules": 0, "logs": 0, "doctor": 0,
    "apart": 0.5, "tally": 0.9, "snapshot": 1, "clip": 1, "binding": 2, "optim": 2,
    "groups": 2.5, "controllers": 2.5, "gauges": 3, "task": 3.5, "finder": 4, "scale": 4.5, "reporting": 5,
    "integrations": 6, "demo": 6, "cli": 7, "__init__": 9, "__main__": 9,
}  # fmt: skip
MODULES = {"schedules", "groups", "clip", "optim", "controllers", "integrations", "scale"}  # public names that stand for a module
TORCH_FREE = ["errors", "columns", "journal", "run", "figures", "schedules", "logs", "doctor", "reporting"]

FILES = sorted(SRC.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room a file belongs to."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module of lrkit that a file imports, lazily or not."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
            if node.module == "lrkit":  # a public name stands for the room where it lives
                names |= {lrkit._HOMES[alias.name][0] for alias in node.names if alias.name in lrkit._HOMES}
    return {name for name in names if name.split(".")[0] == "lrkit"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
class TestEachFile:
    def test_imports_only_go_down_the_stairs(self, path: Path):
        room = room_of(path)
        for name in imports_of(path):
            other = name.split(".")[1] if "." in name else None
            if other in FLOORS and other != room:
                assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[other]})"

    def test_is_small_and_says_what_it_is(self, path: Path):
        text = path.read_text()
        assert len(text.splitlines()) <= 400
        assert ast.get_docstring(ast.parse(text)), "a module says what it knows"

    def test_functions_are_short(self, path: Path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert length <= 40, f"{node.name} has {length} lines"

    def test_what_is_public_is_documented_and_annotated(self, path: Path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if isinstance(node, ast.FunctionDef):
                    arguments = [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")]
                    assert node.returns is not None and all(a.annotation for a in arguments), f"{node.name} is not annotated"
                    overloaded = any(getattr(d, "id", "") == "overload" for d in node.decorator_list)
                    nested = isinstance(node.body[0], ast.Pass) or overloaded
                    if nested or node.name in _inner_functions(path):
                        continue
                assert ast.get_docstring(node), f"{node.name} has no docstring"


def _inner_functions(path: Path) -> set[str]:
    outer = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    return {inner.name for n in outer for inner in ast.walk(n) if isinstance(inner, ast.FunctionDef) and inner is not n}


def test_every_room_has_its_floor():
    """A new room is given its place on the stairs before it is moved into."""
    assert {room_of(path) for path in FILES} == set(FLOORS)


def test_there_is_no_import_cycle():
    """Among all modules, also those within one room."""
    modules = {".".join(("lrkit", *p.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES}
    graph = {
        name: {other for other in imports_of(path) if other in modules and other not in (name, "lrkit")}
        for name, path in modules.items()
        if name not in ("lrkit", "lrkit.__main__")
    }
    # A room's __init__ stands for re-exports: it may import its own modules, which do not import it.
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a cycle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_public_names_are_what_is_exported():
    """`__all__`, the table of homes and the imports for type checkers are one list."""
    tree = ast.parse((SRC / "__init__.py").read_text())
    checked = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {alias.asname for node in checked.body for alias in node.names}
    assert set(lrkit.__all__) == set(lrkit._HOMES) | {"LrkitError"} == typed | {"LrkitError"}
    assert lrkit.__all__ == sorted(lrkit.__all__)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'scheduler'; it has"):
        lrkit.scheduler  # noqa: B018


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the upper rooms need torch")
def test_each_name_keeps_its_type_after_importing_every_module():
    """No room, once imported, hides a public function of the same name."""
    for module in pkgutil.walk_packages(lrkit.__path__, "lrkit."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(lrkit.errors.MissingExtra):  # a host framework that is not here
                importlib.import_module(module.name)
    for name in lrkit.__all__:
        assert isinstance(getattr(lrkit, name), ModuleType) == (name in MODULES), name


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_importing_lrkit_imports_neither_torch_nor_matplotlib_nor_numpy():
    code = "import sys, lrkit, lrkit.cli; print([m for m in ('torch', 'matplotlib', 'numpy') if m in sys.modules])"
    assert run_python(code).stdout.strip() == "[]"


def test_the_lower_floors_work_where_importing_torch_raises():
    """Every module of the torch-free rooms, in a process in which torch cannot be imported."""
    names = [".".join(("lrkit", *p.relative_to(SRC).with_suffix("").parts)) for p in FILES if room_of(p) in TORCH_FREE]
    code = (
        "import sys, importlib\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError('no torch here', name='torch')\n"
        "sys.meta_path.insert(0, Wall())\n"
        f"for name in {names!r}: importlib.import_module(name.removesuffix('.__init__'))\n"
        "import lrkit\n"
        "run = lrkit.Run({'loss': [3 / (1 + i) for i in range(60)], 'lr': [0.1] * 60})\n"
        "print(lrkit.diagnose(run).rate, lrkit.parse('warmup 4 > cosine 4')(3))\n"
        "try: lrkit.attach\n"
        "except lrkit.LrkitError as error: print(error)\n"
    )
    result = run_python(code)
    assert result.stderr == ""
    assert result.stdout.splitlines()[0].endswith("1.0")
    assert result.stdout.splitlines()[1].startswith("lrkit.attach needs torch, which is not installed. Install it: pip install")


def test_every_module_has_a_test_file():
    """tests/ mirrors src/: a file for a file, or one for a room."""
    for path in FILES:
        place = path.relative_to(SRC)
        if path.name.startswith("__"):
            continue
        here = TESTS / place.parent
        assert (here / f"test_{place.name}").exists() or list(here.glob("test_*.py")), f"nothing tests {place}"
