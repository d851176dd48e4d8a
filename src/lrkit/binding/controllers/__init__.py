"""Controllers: what is reported scales the rate, on top of any schedule: ``attach(optimizer, lr=…, controllers=[Plateau()])``."""

from lrkit.binding.controllers.base import Controller as Controller
from lrkit.binding.controllers.guard import DivergenceGuard as DivergenceGuard
from lrkit.binding.controllers.plateau import Greedy as Greedy
from lrkit.binding.controllers.plateau import Plateau as Plateau

__all__ = ["Controller", "DivergenceGuard", "Greedy", "Plateau"]
