"""SSPE ablations of Table 4: alternative encodings of position and shape.

All take masks (n,h,w) and give (n,C), like `SSPE`; `none` is no module at all.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....pipeline.errors import ConfigError
from .sspe import SSPE

VARIANTS: Final = ("none", "bbox_mlp", "mask_mlp", "mask_att", "bbox_mlp+mask_att")
MASK_SIDE: Final = 24  # Mask-MLP's grid; the paper does not state it


def build_sspe(
    variant: str,
    *,
    out_dim: int,
    queries: int,
    dim: int,
    heads: int,
    blocks: int,
    ffn: int,
    mask_side: int = MASK_SIDE,
) -> nn.Module | None:
    """One of `VARIANTS`; None for `none`. The sizes are those of `SSPE`, `mask_side` is that of
    `MaskMLP`. Raises ConfigError.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"sspe_variant {variant!r}: need one of {', '.join(VARIANTS)}")
    attention = {"queries": queries, "dim": dim, "heads": heads, "blocks": blocks, "ffn": ffn}
    parts: list[nn.Module] = []
    for name in variant.split("+"):
        if name == "bbox_mlp":
            parts.append(BoxMLP(out_dim=out_dim))
        elif name == "mask_mlp":
            parts.append(MaskMLP(out_dim=out_dim, side=mask_side))
        elif name == "mask_att":
            parts.append(SSPE(out_dim=out_dim, **attention))
    return SumOf(parts) if len(parts) > 1 else next(iter(parts), None)


class BoxMLP(nn.Module):
    """BBox-MLP: the tight box (x1,y1,x2,y2), right and bottom exclusive, as shares of the view."""

    def __init__(self, *, out_dim: int) -> None:
        super().__init__()
        self.mlp = _mlp(4, out_dim)

    def forward(self, masks: Tensor) -> Tensor:
        """masks (n,h,w), pixels above 0 count -> (n,C)."""
        boxes = tight_boxes(masks).to(next(self.parameters()).dtype)
        out: Tensor = self.mlp(boxes)
        return out


class MaskMLP(nn.Module):
    """Mask-MLP: the mask's coverage of a fixed grid of `side` x `side` cells, as one vector."""

    def __init__(self, *, out_dim: int, side: int = MASK_SIDE) -> None:
        super().__init__()
        if side < 1:
            raise ConfigError(f"mask_side={side}: need >= 1")
        self.side = side
        self.mlp = _mlp(side**2, out_dim)

    def forward(self, masks: Tensor) -> Tensor:
        """masks (n,h,w) in [0,1] -> (n,C)."""
        small = F.adaptive_avg_pool2d(masks.float(), (self.side, self.side)).flatten(1)
        out: Tensor = self.mlp(small.to(next(self.parameters()).dtype))
        return out


class SumOf(nn.Module):
    """The sum of several encoders' outputs."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, masks: Tensor) -> Tensor:
        """masks (n,h,w) -> (n,C)."""
        return torch.stack([part(masks) for part in self.parts]).sum(0)


def tight_boxes(masks: Tensor) -> Tensor:
    """masks (n,h,w) -> (n,4) float32 in [0,1]; zeros for an empty mask."""
    some = masks > 0
    x1, x2 = _extent(some.any(dim=1))
    y1, y2 = _extent(some.any(dim=2))
    return torch.stack([x1, y1, x2, y2], dim=1)


def _extent(hit: Tensor) -> tuple[Tensor, Tensor]:
    """First and past-the-last hit of each row (n,L), as shares of L."""
    length = hit.shape[1]
    first = hit.to(torch.uint8).argmax(1)
    last = length - hit.flip(1).to(torch.uint8).argmax(1)
    some = hit.any(1)
    return first * some / length, last * some / length


def _mlp(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
