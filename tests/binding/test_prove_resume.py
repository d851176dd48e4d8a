"""The resume matrix over every shape of the gallery: three optimizers, both orders, every interruption point of 12 updates."""

import importlib.util
from pathlib import Path

import pytest
import torch

from binding.test_attach import STEPS, build, through_a_file, train
from lrkit import attach
from lrkit.schedules.template import resolved

_SPEC = importlib.util.spec_from_file_location("gallery", Path(__file__).parents[2] / "docs" / "gallery.py")
_GALLERY = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_GALLERY)
SHAPES = {
    name: _GALLERY.schedule_of(recipe, text) for shapes in _GALLERY.CHAPTERS.values() for name, recipe, text, _, _ in shapes
}


def test_the_gallery_has_shapes():
    assert len(SHAPES) > 40


@pytest.mark.prove
@pytest.mark.parametrize("name", ["momentum", "adam", "adamw_fused"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_resumed_exactly_wherever_it_was_cut(shape, name):
    """Scaled to twelve updates where it is longer, so that each cut lies in a part of its own."""
    schedule = resolved(SHAPES[shape], total=STEPS, steps_per_epoch=3)
    every = max(1, (schedule.steps or STEPS) // STEPS)
    for start in {0, every * STEPS // 2}:
        _check(schedule[start:] if start and schedule.steps is not None and start < schedule.steps else schedule, name)


def _check(schedule, name):
    whole, optimizer = build(name)
    attach(optimizer, lr=schedule)
    reference = train(whole, optimizer, 0, STEPS)
    first, before = build(name)
    attach(before, lr=schedule)
    for cut in range(1, STEPS):
        assert train(first, before, cut - 1, cut) == reference[cut - 1 : cut]
        for attach_first in (True, False):
            saved = through_a_file({"model": first.state_dict(), "optimizer": before.state_dict()})
            model, resumed = build(name)
            model.load_state_dict(saved["model"])
            if attach_first:
                attach(resumed, lr=schedule)
            resumed.load_state_dict(saved["optimizer"])
            if not attach_first:
                attach(resumed, lr=schedule)
            assert train(model, resumed, cut, STEPS) == reference[cut:]
            assert torch.equal(model.weight, whole.weight)
