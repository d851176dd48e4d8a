"""Other libraries' own numbers. `LRKIT_VECTORS` names another file of the same form to read instead.

The vectors are sequences from those libraries' tests, with their source, or printed by running the named release.
"""

import ast
import importlib
import inspect
import json
import math
import operator
import os
from pathlib import Path

import numpy as np
import pytest

from lrkit.schedules import Schedule, compat, from_json, parse

OURS = [Path(__file__).parents[2] / "data" / "vectors" / name for name in ("schedules.json", "executed.json")]
FILES = [Path(os.environ["LRKIT_VECTORS"])] if os.environ.get("LRKIT_VECTORS") else OURS
ALL = [vector for file in FILES for vector in json.loads(file.read_text())]
KEPT = [vector for file in OURS for vector in json.loads(file.read_text())]  # what else is asked of every constructor
MODULES = {
    "torch.optim.lr_scheduler": "torch", "pytorch-ignite": "ignite", "megatron-core": "megatron", "olmo-core": "olmo",
    "lm-engine": "lm_engine", "llm-foundry": "llm_foundry",
}  # fmt: skip
EXACT = {"torch.optim.lr_scheduler": 1e-9, "pytorch-ignite": 1e-9, "keras": 1e-9}  # relative, whatever the file's tolerance
# Classes that consume step 0 in their constructor: what they give after the (i+1)-th step() is the value of update i + 1.
SILENT = ("note", "last_epoch", "verbose", "name", "t_in_epochs")  # arguments that do not shape a curve
LATE = ("REXScheduler", "get_wsd_schedule", "get_chebyshev_schedule")
FRACTION = 720_720  # updates of a run of which a vector asks for fractions only: divisible by 1 to 14


def module_of(library: str):
    """The constructors of a library."""
    return importlib.import_module(f"lrkit.schedules.compat.{MODULES.get(library, library.replace('-', '_'))}")


def constructor(module, name: str):
    """A constructor by its name, also ``Class.method``; a torch scheduler's where the library wraps one."""
    if not hasattr(module, name.partition(".")[0]):
        module = module_of("torch")
    found = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def function_of(text: str):
    """A function of t from its formula: numbers, t, + − * / ** // %, min and max."""
    signs = {
        ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow,
        ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    }  # fmt: skip
    body = ast.parse(text.partition(":")[2].strip() if text.startswith("lambda") else text, mode="eval").body

    def value(node, t):
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return t
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand, t)
        if isinstance(node, ast.BinOp):
            return signs[type(node.op)](value(node.left, t), value(node.right, t))
        return {"min": min, "max": max}[node.func.id](*(value(one, t) for one in node.args))

    return lambda t: value(body, t)


def accepted(make, given: dict) -> dict:
    """What of `given` the constructor takes."""
    return {key: value for key, value in given.items() if key in inspect.signature(make).parameters}


def nested(module, value, given: dict):
    """``["LinearLR", {…}]`` as the schedule that it means, lists and dicts through and through; anything else as it is."""
    if isinstance(value, dict):
        asked = {key: one for key, one in value.items() if key not in SILENT}
        return {
            key: function_of(one) if key in ("lr_lambda", "scale_fn", "lambda_obj") and isinstance(one, str)
            else nested(module, one, given)
            for key, one in asked.items()
        }  # fmt: skip
    if not isinstance(value, list):
        return value
    if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict | list):
        make, arguments = constructor(module, value[0]), nested(module, value[1], given)
        own = accepted(make, given)
        return make(**(own | arguments)) if isinstance(arguments, dict) else make(arguments, **own)
    return [nested(module, one, given) for one in value]


def built(vector: dict):
    """What the vector's constructor gives for its arguments."""
    module = module_of(vector["library"])
    base = vector["base_lr"] if vector["base_lr"] is not None else vector.get("base_momentum")
    given = {} if base is None else {"base_lr": base}
    if "fractions" in vector["convention"]:
        given["steps"] = FRACTION
    if "metrics" in vector:
        given["metrics"] = vector["metrics"]
    make, args = constructor(module, vector["name"]), vector["args"]
    args = nested(module, args, given) if isinstance(args, dict) else [nested(module, one, given) for one in args]
    if vector["quantity"] in ("momentum", "weight_decay"):
        given |= accepted(make, {"quantity": vector["quantity"]})
    given = accepted(make, given)
    if isinstance(args, list):
        return make(args, **given)
    return make(**(given | args))


def values(vector: dict) -> list[float]:
    """The values at the vector's steps, by its convention."""
    schedule = built(vector)
    if not isinstance(schedule, Schedule):
        return [schedule[step] for step in vector["steps"]]  # indices and multipliers that the library gives as a list
    assert schedule.base is not None
    late = "after the (i+1)-th" in vector["convention"] and vector["name"] in LATE
    return [schedule(place(step, vector) + late) for step in vector["steps"]]


def place(step: float, vector: dict) -> float:
    """The update that a step, or a fraction of training, stands for."""
    if "fractions" not in vector["convention"]:
        return step
    exact = step * FRACTION
    return round(exact) if abs(exact - round(exact)) < 1e-6 else exact


@pytest.mark.parametrize("vector", [v for v in ALL if v["adopt"]], ids=lambda v: v["id"])
def test_gives_the_librarys_numbers(vector):
    found = values(vector)
    for step, value, expected in zip(vector["steps"], found, vector["expected"], strict=True):
        assert value == pytest.approx(expected, rel=1e-12, abs=vector["tol"] + 1e-15), f"step {step}"
        # Sequences that a library's test gives in rounded digits can be met no closer than that.
        if vector["library"] in EXACT and vector["kind"] != "literal":
            assert value == pytest.approx(expected, rel=EXACT[vector["library"]], abs=1e-15), f"step {step}"


@pytest.mark.parametrize("vector", [v for v in KEPT if v["adopt"] and v["library"] in EXACT], ids=lambda v: v["id"])
def test_meets_torch_ignite_and_keras_to_a_billionth_literals_included(vector):
    """None of those kept here was rounded; one in a file that is named may be."""
    assert values(vector) == pytest.approx(vector["expected"], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("vector", [v for v in ALL if not v["adopt"]], ids=lambda v: v["id"])
def test_a_pinned_defect_is_not_reproduced(vector):
    assert values(vector) != pytest.approx(vector["expected"], rel=1e-9)


SCHEDULES = [v for v in KEPT if v["quantity"] != "permutation"]


@pytest.mark.parametrize("vector", SCHEDULES, ids=lambda v: v["id"])
def test_holds_its_end_stays_within_its_bounds_and_has_a_text(vector):
    schedule = built(vector)
    if not isinstance(schedule, Schedule):
        return
    low, high = schedule.bounds
    slack = 1e-12 * max(abs(low), abs(high) if math.isfinite(high) else 1.0)
    steps = np.arange(min(schedule.steps or 300, 3000))
    curve = schedule(steps)
    assert (curve >= low - slack).all() and (curve <= high + slack).all()
    assert curve.tolist() == [schedule(t) for t in steps.tolist()]
    if schedule.steps is not None:
        assert schedule(schedule.steps) == schedule(schedule.steps + 10**6) == schedule.end_value
    if "custom" not in str(schedule):
        assert parse(str(schedule)) == schedule == from_json(schedule.to_json())


def test_there_is_a_file_for_every_library():
    found = {MODULES.get(v["library"], v["library"].replace("-", "_")) for v in ALL}
    assert found <= set(compat.LIBRARIES)
