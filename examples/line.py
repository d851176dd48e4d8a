"""A line, y = wx + b, fitted to fifty points: by least squares, one formula; and by gradient descent with all points, with ten or
with one an update, at a fixed and at a decaying rate.

``python examples/line.py`` prints epoch, rate and loss of one training, and then where each way ends.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import lrkit

WAYS = {"full batch": (50, 0.4), "mini-batch": (10, 0.1), "stochastic": (1, 0.1)}  # points an update, rate: fewer are noisier
FIXED, DECAYING = "constant", "inverse 0.05"  # 1; 1/(1 + 0.05·t) at update t


def points(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Fifty points beside y = 2x + 1: x from −2 to 2, noise of standard deviation ½; each of shape (50, 1)."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(50, 1, generator=generator) - 2
    return x, 2 * x + 1 + 0.5 * torch.randn(50, 1, generator=generator)


def least_squares(x: Tensor, y: Tensor) -> Tensor:
    """(w, b) with the smallest mean square error: the solution of XᵀXθ = Xᵀy."""
    rows = torch.cat([x, torch.ones_like(x)], dim=1)
    solution: Tensor = torch.linalg.solve(rows.T @ rows, rows.T @ y)
    return solution.flatten()


def fit(
    x: Tensor, y: Tensor, batch: int, lr: float, schedule: str, epochs: int = 40, seed: int = 0,
    echo: Callable[[str], None] | None = None,
) -> list[Tensor]:  # fmt: skip
    """(w, b) after each epoch of gradient descent, from (0, 0).

    Args:
        x: (n, 1).
        y: (n, 1).
        batch: Points an update.
        lr: η, what the schedule multiplies.
        schedule: Of the rate, as text.
        epochs: How often every point is seen, in another order each time.
        seed: Of the order.
        echo: What is told epoch, rate and loss.
    """
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = lrkit.optim.SGD(model.parameters(), lr=lr)
    attachment = lrkit.attach(optimizer, lr=schedule)
    generator = torch.Generator().manual_seed(seed)
    line = []
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), batch):
            some = order[start : start + batch]
            optimizer.zero_grad()
            mse_loss(model(x[some]), y[some]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        line.append(torch.cat([model.weight.detach().flatten(), model.bias.detach()]))
        if echo and (epoch < 3 or (epoch + 1) % 10 == 0):
            rate = attachment.values(step=attachment.step - 1)[0]["lr"]
            echo(f"epoch {epoch + 1:3}   rate {rate:.5f}   loss {mse_loss(model(x), y).item():.6f}")
    return line


def main() -> None:
    """One training, epoch by epoch; then all of them."""
    x, y = points()
    best = least_squares(x, y)
    print("mini-batch, decaying rate")
    fit(x, y, *WAYS["mini-batch"], DECAYING, echo=print)
    print(f"\n{'':28}{'w':>8}{'b':>8}   distance from least squares")
    print(f"{'least squares':28}{best[0]:8.4f}{best[1]:8.4f}")
    for way, (batch, lr) in WAYS.items():
        for kind, schedule in (("fixed", FIXED), ("decaying", DECAYING)):
            end = fit(x, y, batch, lr, schedule)[-1]
            print(f"{f'{way}, {kind} rate':28}{end[0]:8.4f}{end[1]:8.4f}   {(end - best).norm():.1e}")


if __name__ == "__main__":
    main()
