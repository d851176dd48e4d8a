"""`lrkit.controllers`: what scales a schedule by what is reported. They live in the binding room; here is the door."""

from lrkit.binding.controllers import Controller as Controller
from lrkit.binding.controllers import DivergenceGuard as DivergenceGuard
from lrkit.binding.controllers import Greedy as Greedy
from lrkit.binding.controllers import Plateau as Plateau

__all__ = ["Controller", "DivergenceGuard", "Greedy", "Plateau"]
