"""The quantities, each a function of lists of tensors that stays on the device: no copy to the host, no wait for it.

Sums are taken in float32 at least, so that squares of half-precision numbers do not overflow.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_LOW = (torch.float16, torch.bfloat16)


def wide(value: Tensor) -> Tensor:
    """A quantity in float64, where its device has that."""
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """(n,) Σ|x|² of each tensor, in float64 so that sums over tensors lose nothing; one kernel a list.

    Args:
        tensors: Any shapes; complex ones count |x|².
    """
    return _powers(tensors, 2.0).square()


def sizes(tensors: Sequence[Tensor]) -> Tensor:
    """(n,) Σ|x| of each tensor, likewise."""
    return _powers(tensors, 1.0)


def _powers(tensors: Sequence[Tensor], p: float) -> Tensor:
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    home, norms = tensors[0].device, list[Tensor]()
    if len({(one.dtype, one.device) for one in tensors}) == 1:
        norms = list(torch._foreach_norm(list(tensors), p, dtype=torch.float32 if tensors[0].dtype in _LOW else None))
    else:  # a list of several kinds is gone through kind by kind
        norms = [torch._foreach_norm([one], p, dtype=torch.float32 if one.dtype in _LOW else None)[0].to(home) for one in tensors]
    alike = len({norm.dtype for norm in norms}) == 1
    return wide(torch.stack(norms)) if alike else torch.stack([wide(norm) for norm in norms])


def dots(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """(n,) Σ x·y of each pair, real parts, in float64.

    Args:
        left: Dense tensors.
        right: As many, of the same shapes and places.
    """
    if not left:
        return torch.zeros(0, dtype=torch.float64)
    home = left[0].device
    return torch.stack([wide(_dot(x, y).to(home)) for x, y in zip(left, right, strict=True)])


def _dot(x: Tensor, y: Tensor) -> Tensor:
    if x.is_complex():
        x, y = torch.view_as_real(x), torch.view_as_real(y)
    if x.dtype in _LOW:
        x, y = x.float(), y.float()
    return torch.dot(x.reshape(-1), y.reshape(-1))


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """√(Σ ‖x‖²) over all tensors.

    Returns:
        A 0-d tensor; 0 where there are none.
    """
    return squares(tensors).sum().sqrt()


def cosine(dot: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """dot / √(left · right), of a dot product and two sums of squares; 0 where one of them is 0."""
    size = (left * right).sqrt()
    return torch.where(size > 0, dot / size, torch.zeros_like(dot))
