"""Random patches: the control of every selection rule.

No published code: a control that toolkits have too (LightCompress, token_reduction/random).
"""

import torch
from torch import Tensor

from .kept_patches import KeptPatches

_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # splitmix64's factors as int64
_GOLDEN = -0x61C8864680B583EB


class RandomPatches(KeptPatches):
    """The same patches of an image whenever it is read, others for another `draw`.

    The key is the signs of the image's own features: they are the same in every floating-point
    type, on every device and wherever the photograph lies. Fewer `tokens` keep a subset of more.
    """

    adjustable = frozenset({"tokens", "draw"})

    def __init__(self, *, in_dim: int, llm_dim: int, tokens: int = 36, draw: int = 0) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim, tokens=tokens)
        self.number = draw

    def chosen(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B,P,C) -> (B,tokens), in the order of selection."""
        p, device = patches.shape[1], patches.device
        places = torch.arange(p * patches.shape[2], device=device).view(p, -1)
        key = (_mixed(places) * (patches > 0)).sum((1, 2)) + _mixed(
            torch.tensor(self.number, device=device)
        )
        order = _mixed(_mixed(key)[:, None] + torch.arange(p, device=device))
        return order.argsort(dim=1)[:, : self.tokens]


def _mixed(words: Tensor) -> Tensor:
    """splitmix64 of int64 words, whose sums and products wrap around."""
    z = words + _GOLDEN
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """Right shift that fills in zeros."""
    return (z >> by) & ((1 << (64 - by)) - 1)
