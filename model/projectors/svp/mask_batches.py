"""Resize masks to a pixel budget for SSPE.

`per_mask`   each mask at most `budget` pixels (4,096): what the cache stores already
`per_image`  all masks of one image together (163,840 = 40 x 64 x 64): many superpixels, coarse masks
Aspect is kept and nothing is enlarged. Resized masks are area-averaged and binarised at one half;
a mask left empty keeps its best-covered pixel.
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ....pipeline.errors import ConfigError

FEW: Final = 10  # superpixels of a plain photograph
BUDGET: Final = {"per_mask": 4096, "per_image": 163_840}


def check_budget(mode: str, budget: int | None) -> int:
    """The budget in pixels, by default the mode's. Raises ConfigError."""
    if mode not in BUDGET:
        raise ConfigError(f"mask_budget_mode {mode!r}: need one of {', '.join(BUDGET)}")
    if budget is not None and budget < 1:
        raise ConfigError(f"mask_budget={budget}: need >= 1 pixel")
    return BUDGET[mode] if budget is None else budget


def require_stored(mode: str, budget: int | None, stored: int) -> None:
    """ConfigError where a cache's masks are too coarse for `per_image` to differ from a cap.

    stored  pixels of a mask in the cache (`sspe.budget` of its recipe). Nothing is enlarged, so
            images of few superpixels would not get the pixels that are shared among them
    """
    total = check_budget(mode, budget)
    wanted = min(total // FEW, 65_536)  # the most that a cache stores
    if mode == "per_image" and stored < wanted:
        raise ConfigError(
            f"mask_budget_mode=per_image shares {total:,} pixels among an image's superpixels: "
            f"{FEW} of them want {wanted:,} each, but the cache stores masks of {stored:,}: make the "
            f"cache again with `svp precompute --set sspe.budget={wanted}`, or share fewer with "
            f"--set model.projector.options.mask_budget={stored * FEW}"
        )


def split_by_size(
    masks: Tensor, counts: list[int], *, mode: str, budget: int
) -> list[tuple[Tensor, Tensor]]:
    """Packed masks (n,h,w) of images with `counts` superpixels -> [(rows, resized masks)].

    One entry per size: in `per_mask` mode a single one, and `masks` themselves if they fit.
    """
    h, w = masks.shape[1:]
    shares = [1] * len(counts) if mode == "per_mask" else counts
    sizes = [within(h, w, budget / share) for share in shares]
    if len(set(sizes)) == 1:
        rows = torch.arange(len(masks), device=masks.device)
        return [(rows, shrink(masks, sizes[0]))]
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    groups = []
    for size in sorted(set(sizes)):
        members = torch.tensor([i for i, mine in enumerate(sizes) if mine == size])
        rows = torch.isin(owner, members).nonzero().flatten().to(masks.device)
        groups.append((rows, shrink(masks[rows], size)))
    return groups


def within(h: int, w: int, budget: float) -> tuple[int, int]:
    """The largest size of this aspect with about `budget` pixels, never above (h,w)."""
    scale = min(1.0, math.sqrt(budget / (h * w)))
    return max(1, round(scale * h)), max(1, round(scale * w))


def shrink(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(n,h,w) -> (n,*size) uint8, or `masks` if they have that size."""
    if tuple(masks.shape[1:]) == size:
        return masks
    area = F.adaptive_avg_pool2d(masks.float(), size).flatten(1)
    best = F.one_hot(area.argmax(1), area.shape[1]).bool()
    kept = area >= 0.5
    lost = ~kept.any(1, keepdim=True) & (area > 0)
    return (kept | lost & best).to(torch.uint8).view(-1, *size)
