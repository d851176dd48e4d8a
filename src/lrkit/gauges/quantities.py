"""The quantities, each a function of lists of tensors that stays on the device: no copy to the host, no loop over tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """√(Σ ‖x‖²) over all tensors, one kernel a list.

    Args:
        tensors: Any shapes, one device; complex ones count |x|².

    Returns:
        A 0-d float32 tensor (float64 where the tensors are); 0 where there are none.
    """
    if not tensors:
        return torch.zeros(())
    # Squares of half-precision numbers overflow: they are summed in float32.
    wide = any(t.dtype == torch.float64 for t in tensors)
    low = any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors)
    norms = torch._foreach_norm(list(tensors), 2.0, dtype=torch.float32 if low and not wide else None)
    kind = torch.float64 if any(norm.dtype == torch.float64 for norm in norms) else torch.float32
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, kind) for norm in norms]))
    return total


def update_ratio(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """‖θ_after − θ_before‖ / ‖θ_before‖: how far one update moved the weights. Around 1e-3 in many healthy runs.

    Args:
        before: Copies of the parameters before the update.
        after: The parameters after it.
    """
    return total_norm(torch._foreach_sub(list(after), list(before))) / total_norm(before)
