"""Cosine similarity of patches, exact enough to be compared: the same choices on every device.

Greedy selections compare similarities, and one comparison that rounding turns changes all that
follow. Products are float64 (nothing makes TF32 of them) and rounded to multiples of 2^-30, so that
patches with the same features have equal similarities whatever the order of the sums.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ONE = 1 << 30  # similarity 1


@torch.no_grad()
def similarities(x: Tensor) -> Tensor:
    """(B,P,C) -> (B,P,P) int64: cosine similarity in units of 2^-30, exactly `ONE` with itself.

    A patch of zeros is similar to itself alone.
    """
    unit = F.normalize(x.double(), dim=-1)
    with torch.autocast(x.device.type, enabled=False):
        found = (unit @ unit.transpose(1, 2) * ONE).round().to(torch.int64)
    found.diagonal(dim1=1, dim2=2).fill_(ONE)
    return found


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B,n) of (B,P,C) -> (B,n,C)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def one_hot(index: Tensor, count: int) -> Tensor:
    """(B,P) int64 -> (B,count,P) float32 in {0,1}: 1 where `index` is that row, nowhere for -1."""
    return (index[:, None] == torch.arange(count, device=index.device)[:, None]).float()
