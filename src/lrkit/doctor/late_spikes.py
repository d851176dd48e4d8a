"""Late spikes: far into the run the loss jumps out of its own noise, and recovers or not.

Seen: at least three neighbouring rows (two where the log is sparse) after a fifth of the run, far above the level before them on
the logarithm of the loss, by the yardstick of the run's own noise. Sources: PaLM (arXiv:2204.02311) rewinds 100 steps and skips
data; StableAdamW (arXiv:2304.13013) finds Adam's second moment out of date 1 to 8 updates before; arXiv:2506.04805 finds it
decaying by itself; OPT-175B and BigScience's 104B were helped by a lower rate, the latter not by another beta2.
"""

from __future__ import annotations

import numpy as np

from lrkit.doctor.curve import Curve
from lrkit.doctor.finding import Finding
from lrkit.doctor.signal import Spike, edges, spikes

_LATE = 0.2  # of the run: before it, a rise is the business of the rules about its start
_TALL = 0.05  # of the drop: smaller spikes cost nothing
_RATIO = 1.3  # times the level: or so much, where the loss is positive


def late_spikes(curve: Curve) -> Finding | None:
    """Spikes after a fifth of the run that matter: how many, whether it recovered, and whether the data's order makes them."""
    sparse = curve.points < 2000 and float(np.median(np.diff(curve.rows))) >= 10
    found = spikes(curve, persistence=2 if sparse else 3, since=_LATE / 2)
    found = [spike for spike in found if _matters(spike, curve) and not _rate_rose(curve, spike)]
    if not found or curve.end > curve.start:
        return None
    back = _recovered(curve, found[-1])
    if _at_edges(curve, found):
        return _of_the_data(curve, found)
    first = int(curve.rows[found[0].first])
    restart = max(curve.first, first - max(1, min(100, (curve.last - curve.first) // 20)))
    longest = max(spike.last - spike.first + 1 for spike in found)
    tallest = max(spike.height for spike in found)
    came_back = "the last does not recover" if not back else "it recovers" if len(found) == 1 else "each recovers"
    seen = f"{_times(len(found))} from step {first} on, the tallest {tallest:.3g} above {found[0].level:.3g}"
    return Finding(
        "late_spikes",
        f"after a fifth of the run or later the loss jumps far out of its noise{'' if back else ', and does not come back'}",
        _sure(found, back), (first, int(curve.rows[found[-1].last])),
        (seen, f"the longest lasts {longest} rows; {came_back}"),
        () if "epoch" in curve.run else ("no epoch in the log: the order of the data could do it too",),
        f"go back to step {restart} and {_halved(curve, found[0])}; if they come again: clip the gradient norm at its usual "
        f"size, and under Adam try a larger eps, or beta2 {_beta2(curve)}, which has helped some runs and not others",
        "the new run passes these steps without a spike", factor=0.5, restart=restart,
    )  # fmt: skip


def _matters(spike: Spike, curve: Curve) -> bool:
    late = curve.rows[spike.first] - curve.first > _LATE * (curve.last - curve.first)
    tall = spike.height > _TALL * curve.drop or (spike.level > 0 and spike.height > (_RATIO - 1) * spike.level)
    return bool(late and tall and spike.height > 0.02 * curve.drop)


def _rate_rose(curve: Curve, spike: Spike) -> bool:
    """Whether the rate was just raised, as by a warm restart: then the loss rises by design."""
    if curve.rates is None:
        return False
    before = curve.rates[max(0, spike.first - max(10, curve.points // 40)) : spike.first + 1]
    return float(curve.rates[spike.first]) > 1.3 * float(np.min(before))


def _recovered(curve: Curve, last: Spike) -> bool:
    """Whether the rows after the last spike come back to within a third of its height."""
    after = curve.values[last.last + 1 :]
    return len(after) >= 3 and float(np.median(after[-max(3, len(after) // 4) :])) < last.level + last.height / 3


def _sure(found: list[Spike], back: bool) -> float:
    """Runs of AlgoPerf that met one spike or two and recovered reached their target all the same (6 of 6)."""
    return 0.9 if not back else 0.8 if len(found) > 2 else 0.5


def _at_edges(curve: Curve, found: list[Spike]) -> bool:
    """Whether nearly all begin where an epoch does, beyond chance: within a fiftieth of an epoch."""
    turns = edges(curve)
    if len(turns) < 2 or len(found) < 2:
        return False
    near = max(2, int(np.median(np.diff(turns))) // 50)
    distance = np.array([np.min(np.abs(turns - spike.first)) for spike in found])
    return bool(np.mean(distance <= near) >= 0.8)


def _of_the_data(curve: Curve, found: list[Spike]) -> Finding:
    first = int(curve.rows[found[0].first])
    return Finding(
        "late_spikes", "the loss jumps where epochs begin: the order of the data does it, not the rate", 0.75,
        (first, int(curve.rows[found[-1].last])),
        (f"{_times(len(found))} from step {first} on, each at the edge of an epoch",), (),
        "leave the rate; shuffle anew each epoch, and look at what the loader gives first",
        "the spikes go, or move away from the edges of the epochs",
    )  # fmt: skip


def _halved(curve: Curve, spike: Spike) -> str:
    if curve.rates is None:
        return "divide the rate by 2"
    rate = float(curve.rates[spike.first])
    return f"change the rate from {rate:.3g} to {rate / 2:.3g}"


def _beta2(curve: Curve) -> str:
    betas = curve.run.meta.get("betas")
    known = curve.run.meta.get("beta2", betas[1] if isinstance(betas, list | tuple) and len(betas) == 2 else None)
    return f"from {known} to 0.95" if isinstance(known, float) and known > 0.95 else "of 0.95 to 0.99"


def _times(count: int) -> str:
    return "one spike" if count == 1 else f"{count} spikes"
