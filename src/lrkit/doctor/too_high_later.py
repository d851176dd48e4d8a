"""Too high later: the loss falls fast, then jitters on one level while the rate is still high (the purple curve)."""

from lrkit.doctor.curve import Curve, advised
from lrkit.doctor.finding import Finding


def too_high_later(curve: Curve) -> Finding | None:
    """Most of the drop in the first tenth, then no trend but much jitter, under a rate that does not decay.

    Under a decaying schedule a flat stretch at the high rate is by design (warmup–stable–decay), so nothing is said.
    """
    early = (curve.start - curve.at(0.12)) / max(curve.start - curve.end, 1e-3 * curve.drop)
    falls, t = curve.trend(since=2 / 3)
    fallen = curve.start - curve.end > max(6 * curve.noise, 4 * curve.spread)
    if not fallen or curve.decays or early < 0.8 or t > 5 or (falls > 0.01 and t > 4) or curve.noise < 0.012 * curve.drop:
        return None
    flat = next(i for i, loss in enumerate(curve.loss) if loss < curve.start - 0.8 * curve.drop)
    since = int(curve.steps[flat])
    return Finding(
        "too_high_later", "the loss falls fast, then jitters on one level: the rate is too high for what is left to learn", 0.8,
        (since, curve.last),
        (
            f"{early:.0%} of the drop is made in the first tenth, {max(falls, 0):.1%} of it in the last third",
            f"neighbouring blocks differ by {curve.noise / curve.drop:.1%} of the drop",
        ),
        ("a floor looks alike on the loss alone; a short branch at a tenth of the rate tells them apart",),
        f"{advised(curve, 1 / 3)} and go back to step {since}, or let the rate decay from there on",
        "the loss falls below its plateau within a tenth of the run", factor=1 / 3, restart=since,
    )  # fmt: skip
