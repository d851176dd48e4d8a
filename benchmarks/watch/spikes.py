"""How many spikes of the loss the doctor foresees, and how often it cries wolf, beside simple peers.

``python benchmarks/watch/spikes.py`` trains the plans of `spiking` anew, about three minutes on one core, prints the table and
writes ``runs/benchmarks/watch_spikes.json``; ``--scale 4`` trains four times as many. A run counts as a case where its loss alone
spikes: `lrkit.doctor.signal.spikes` finds three neighbouring rows far out of the noise, and the spike is tall. It is foreseen
when the rule speaks (likely: 0.6 and more) on the run cut 5 to 200 updates before that row, at a visit of the gauges. A healthy
run, ordinary or cured, that has no such spike counts as a false alarm when the rule speaks at any visit at all. What neither
spikes nor is meant to be healthy is left out. The thresholds were chosen on other seeds of all these tasks, those of half "tune"
first; the seeds here were not looked at.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from spiking import TASKS, Plan, cured, ill_plans, trained, well_plans

from lrkit import Run
from lrkit.doctor.curve import curve_of
from lrkit.doctor.signal import spikes
from lrkit.doctor.spike_due import foresee

RESULTS = Path("runs/benchmarks/watch_spikes.json")
LIKELY, AHEAD, REACH = 0.6, 5, 200
SETTLED = 0.1  # of the run, 50 rows at least: a spike before is the start's
HUGE = 1e30  # a loss beyond has exploded
Rule = Callable[[Run, int], bool]


@dataclass(frozen=True)
class Case:
    """A run, and where it spikes.

    Args:
        plan: How it was trained.
        run: What was seen.
        spike: The row; None where there is none.
        clean: Whether nothing in it looks like a spike.
    """

    plan: Plan
    run: Run
    spike: int | None
    clean: bool

    @property
    def visits(self) -> list[int]:
        """Rows at which the gauges were read, as far as they count."""
        rows = np.flatnonzero(np.isfinite(self.run["update_ratio"])).tolist()
        return rows if self.spike is None else [row for row in rows if self.spike - REACH <= row <= self.spike - AHEAD]


def case_of(plan: Plan, run: Run) -> Case:
    """Look for a spike in the loss."""
    loss = run["loss"]
    lost = np.flatnonzero(~(np.abs(loss) < HUGE))
    end = int(lost[0]) if len(lost) else len(loss)
    if end < 60:
        return Case(plan, run, None, False)
    curve = curve_of(run.slice(0, end))
    early = max(4 * int(np.clip(curve.points // 40, 5, 50)), SETTLED * curve.points, 50)
    found = [spike for spike in spikes(curve) if spike.first >= early]
    tall = [one for one in found if one.height > 0.05 * curve.drop or one.height > 3 * one.level
            or (one.height > 0.02 * curve.drop and one.height > 0.3 * one.level)]  # fmt: skip
    first = tall[0].first if tall else end if end < len(loss) else None
    return Case(plan, run, first, first is None)


# -- the rule and its peers ---------------------------------------------------------------------------------------------------


def ours(run: Run, stop: int) -> bool:
    return foresee(run, stop) >= LIKELY


def three_sigma(run: Run, stop: int) -> bool:
    """The last loss lies three standard deviations above the mean of the fifty before."""
    before = run["loss"][max(0, stop - 51) : stop - 1]
    return len(before) >= 20 and float(run["loss"][stop - 1]) > before.mean() + 3 * before.std()


def gradient_norm(run: Run, stop: int) -> bool:
    """The last gradient norm is three times the median of the thirty visits before."""
    seen = run["grad_norm"][:stop]
    seen = seen[np.isfinite(seen)][-31:]
    return len(seen) >= 12 and seen[-1] > 3 * np.median(seen[:-1])


def rms(run: Run, stop: int) -> bool:
    """StableAdamW's number at a single visit."""
    return "rms_t" in run and bool(run["rms_t"][stop - 1] > 2.3)


RULES: dict[str, Rule] = {
    "lrkit spike_due": ours, "loss: 3 sigma": three_sigma, "grad_norm: 3 x median": gradient_norm, "rms_t > 2.3": rms,
}  # fmt: skip


def leads(case: Case, rule: Rule) -> list[int]:
    """How many updates ahead of the spike (of the end) the rule speaks, at each visit at which it does."""
    until = len(case.run) if case.spike is None else case.spike
    return [until - row for row in case.visits if rule(case.run, row + 1)]


def figures(ill: Sequence[Case], well: Sequence[Case], rule: Rule) -> dict[str, float]:
    """Shares and the median lead."""
    ahead = [max(seen, default=0) for seen in (leads(case, rule) for case in ill)]
    known = [lead for lead in ahead if lead]
    alarms = sum(bool(leads(case, rule)) for case in well)
    return {
        "cases": len(ill), "foreseen": len(known), "lead": float(np.median(known)) if known else math.nan,
        "healthy": len(well), "alarms": alarms,
    }  # fmt: skip


def train_all(plans: Sequence[Plan]) -> list[Case]:
    return [case_of(plan, trained(plan)) for plan in plans]


def row(name: str, seen: dict[str, float]) -> str:
    share = seen["foreseen"] / max(seen["cases"], 1)
    wrong = seen["alarms"] / max(seen["healthy"], 1)
    return (
        f"{name:26s} {seen['foreseen']:4.0f} / {seen['cases']:3.0f} = {share:4.0%}   lead {seen['lead']:5.0f}"
        f"   alarms {seen['alarms']:3.0f} / {seen['healthy']:3.0f} = {wrong:5.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", type=int, default=1, help="how many times as many runs")
    scale = parser.parse_args().scale
    torch.set_num_threads(1)
    begin = time.monotonic()
    plans = ill_plans(scale)
    ill = [case for case in train_all(plans) if case.spike is not None]
    twins = [cured(plan, k) for k, plan in enumerate(plans) if k % 4 == 0]
    well = [case for case in train_all([*twins, *well_plans(scale)]) if case.clean]
    table: dict[str, dict[str, float]] = {}
    for mechanism in dict.fromkeys(case.plan.mechanism for case in ill):
        table[mechanism] = figures([case for case in ill if case.plan.mechanism == mechanism], [], ours)
    for half in ("tune", "judge"):
        some = [[case for case in cases if TASKS[case.plan.task].half == half] for cases in (ill, well)]
        table[f"tasks to {half}"] = figures(some[0], some[1], ours)
    for kind, cures in (("ordinary", False), ("cured", True)):
        table[f"healthy: {kind}"] = figures([], [case for case in well if bool(case.plan.cure) == cures], ours)
    table |= {name: figures(ill, well, rule) for name, rule in RULES.items()}
    for name, seen in table.items():
        print(row(name, seen))
    for case in well:
        if seen_at := leads(case, ours):
            print(f"  alarm at {len(seen_at)} of {len(case.visits)} visits: {case.plan}")
    print(f"{time.monotonic() - begin:.0f} s")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    cleaned = {name: {k: None if v != v else v for k, v in seen.items()} for name, seen in table.items()}
    RESULTS.write_text(json.dumps(cleaned, indent=1) + "\n")


if __name__ == "__main__":
    main()
