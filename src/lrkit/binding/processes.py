"""Several processes: whether there are any, and what they agree upon."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def parallel() -> bool:
    """Whether this process is one of several."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def agreed(numbers: Sequence[float]) -> list[float]:
    """The mean over all processes, the same bits in each; every process must ask. Alone: the numbers themselves."""
    if not parallel():
        return list(numbers)
    device = "cuda" if "nccl" in torch.distributed.get_backend() else "cpu"
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return (total / torch.distributed.get_world_size()).tolist()


def world_size() -> int:
    """How many processes there are."""
    return int(torch.distributed.get_world_size()) if parallel() else 1
