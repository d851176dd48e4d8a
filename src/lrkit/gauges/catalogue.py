"""The gauges: which there are, what share of the time each may have, and what it costs before that has been measured."""

from collections.abc import Callable
from dataclasses import dataclass

from lrkit.gauges.adaptive import coherence, out_of_date, rates
from lrkit.gauges.curvature import edge
from lrkit.gauges.noise import parts
from lrkit.gauges.norms import Reading, gradient_cosine, gradient_norm, update_ratio
from lrkit.gauges.replay import gain
from lrkit.gauges.view import View


@dataclass(frozen=True)
class Gauge:
    """A quantity, or some that are read together.

    Args:
        read: The generator that reads it; its name is the gauge's.
        share: Of the budget; shares of gauges that are not available go to the others.
        guess: What a visit costs, in updates, until it has been measured.
        least: Updates from one visit to the next, at least.
    """

    read: Callable[[View], Reading]
    share: float
    guess: float
    least: int = 10

    @property
    def name(self) -> str:
        """The gauge's name: that of its function."""
        return self.read.__name__


GAUGES: tuple[Gauge, ...] = (
    Gauge(gradient_norm, 0.10, 0.1),
    Gauge(update_ratio, 0.10, 0.2),
    Gauge(gradient_cosine, 0.12, 0.2),
    Gauge(coherence, 0.06, 0.2),
    Gauge(out_of_date, 0.10, 0.3),
    Gauge(rates, 0.04, 0.2, least=20),
    Gauge(parts, 0.08, 0.3, least=20),
    Gauge(gain, 0.20, 2.0, least=20),
    Gauge(edge, 0.20, 16.0, least=50),
)
