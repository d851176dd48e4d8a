"""Does the demo's finder agree with a dense sweep? The found rate against a 13-point sweep of full trainings.

Each of the 13 rates, a quarter of a decade apart around the usable range, trains the demo's task to its end, `MEMBERS` times with
seeds that the finder has not seen. The regret of a rate is its mean final validation loss above the sweep's best, as a share of
the drop from the untrained net. The finder runs with three seeds at two budgets; its rate is trained on the same judging seeds.
Peers in the same run: the optimizer's default rate, and the range-test rules "minimum / 10" and "steepest" on our ramp.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch

from lrkit import find, range_test, train
from lrkit.demo.digits import task
from lrkit.demo.program import SCHEDULE
from lrkit.task import make, seed_everything, validation

RATES = 10.0 ** np.arange(-4, -0.99, 0.25)
MEMBERS, FINDER_SEEDS, BUDGETS = 2, (0, 1, 2), (0.25, 1.0)
JUDGING_SEED = 100


def judged(job, lr: float) -> float:
    """Mean final validation loss over the judging seeds; a diverged training counts as the untrained net."""
    losses = [train(job, lr, SCHEDULE, seed=JUDGING_SEED + member)["val_loss"][-1] for member in range(MEMBERS)]
    return float(np.mean([loss if np.isfinite(loss) else np.log(10) for loss in losses]))


def ramp_rules(job, seed: int) -> dict[str, float]:
    """What the usual rules read off a range test."""
    seed_everything(seed)
    model, optimizer, batches = make(job)
    run = range_test(model, optimizer, job.loss, batches, seed=seed)
    rates, loss = run["lr"][10:], run.smooth("loss", 5)[1][10:]
    return {"minimum / 10": rates[loss.argmin()] / 10, "steepest": rates[np.gradient(loss, np.log(rates)).argmin()]}


def main() -> None:
    """Print the sweep, then the table."""
    torch.set_num_threads(1)
    job = task()
    seed_everything(0)
    untrained = validation(job.validate, job.model())["val_loss"]
    began = time.perf_counter()
    sweep = {float(lr): judged(job, float(lr)) for lr in RATES}
    best = min(sweep.values())
    print(f"sweep of {len(RATES)} rates x {MEMBERS} seeds, {job.steps} updates each ({time.perf_counter() - began:.0f} s)")
    print(f"untrained {untrained:.4f}, best {best:.4f}")
    for lr, loss in sweep.items():
        print(f"  {lr:9.2e}  {loss:.4f}  regret {(loss - best) / (untrained - best):7.2%}")
    rows = []
    for seed in FINDER_SEEDS:
        for budget in BUDGETS:
            found = find(job, budget=budget, seed=seed)
            rows.append((f"lrkit find, budget {budget}", seed, found.lr, found.cost, found.status))
        rows += [(name, seed, lr, 100 / job.steps, "") for name, lr in ramp_rules(job, seed).items()]
    rows.append(("AdamW's default", 0, 1e-3, 0.0, ""))
    print(f"\n{'method':26s} {'seed':>4s} {'rate':>9s} {'cost in runs':>12s} {'regret':>8s}  status")
    results = []
    for name, seed, lr, cost, status in rows:
        regret = (judged(job, lr) - best) / (untrained - best)
        results.append({"method": name, "seed": seed, "lr": lr, "cost": cost, "regret": regret, "status": status})
        print(f"{name:26s} {seed:4d} {lr:9.2e} {cost:12.2f} {regret:8.2%}  {status}")
    ours = [r["regret"] for r in results if r["method"] == "lrkit find, budget 1.0"]
    print(f"\nthe demo's finder (budget 1.0): worst regret over {len(ours)} seeds {max(ours):.2%}; the bar is 5 %")
    place = Path("benchmarks/results")
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"untrained": untrained, "sweep": sweep, "rows": results}, indent=1)
    (place / "demo_sweep.json").write_text(text)


if __name__ == "__main__":
    main()
