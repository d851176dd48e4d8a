"""`lrkit.groups`: builders of param groups. They live in the binding room; here is the door."""

from lrkit.binding.groups import Groups as Groups
from lrkit.binding.groups import by_pattern as by_pattern
from lrkit.binding.groups import head_and_backbone as head_and_backbone
from lrkit.binding.groups import layerwise as layerwise
from lrkit.binding.groups import modalities as modalities
from lrkit.binding.groups import no_decay as no_decay
from lrkit.binding.groups import refine as refine

__all__ = ["Groups", "by_pattern", "head_and_backbone", "layerwise", "modalities", "no_decay", "refine"]
