"""Visual inputs of the language model: patches, or pieces of a scene, one token each.

Superpixels will be its visual words later, and other projectors give other ones. So it learns on
all patches, on a random share of them, on windows of patches, all in raster order, and on pieces
that stand for superpixels: the scene's regions and things, some of them cut in two, in any order.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from svp.model.projectors.grid import cells

CUT = 0.4  # share of pieces that are cut in two


class Sight(NamedTuple):
    """The pieces shown of each image, the real ones first.

    share  (B,K,P) how much each patch counts in each piece; sums to 1 over the patches
    area   (B,K) share of the image
    valid  (B,K) bool
    """

    share: Tensor
    area: Tensor
    valid: Tensor


def patches(images: int, count: int, rng: np.random.Generator, *, kept: float) -> Sight:
    """A share of the patches of each image, ascending; each is a piece."""
    rows = [np.sort(rng.permutation(count)[: round(count * kept)]) for _ in range(images)]
    share = F.one_hot(torch.from_numpy(np.stack(rows)), count).float()
    area = torch.full(share.shape[:2], 1 / count)
    return Sight(share, area, torch.ones(share.shape[:2], dtype=torch.bool))


def windows(images: int, grid: tuple[int, int], side: int) -> Sight:
    """Windows of `side` x `side` patches, in raster order."""
    count = grid[0] * grid[1]
    share = cells(count // side**2, grid).expand(images, -1, -1) / side**2
    area = torch.full(share.shape[:2], side**2 / count)
    return Sight(share, area, torch.ones(share.shape[:2], dtype=torch.bool))


def pieces(labels: Tensor, grid: tuple[int, int], rng: np.random.Generator) -> Sight:
    """The parts of the label map (B,H,W), some of them cut in two, shuffled."""
    found = [_pieces(one, grid, rng) for one in labels]
    count = max(len(cover) for cover in found)
    cover = torch.stack([F.pad(one, (0, 0, 0, count - len(one))) for one in found])
    valid = torch.stack([torch.arange(count) < len(one) for one in found])
    total = cover.sum(2)
    return Sight(cover / total.clamp(min=1e-6)[..., None], total / cover.shape[2], valid)


def _pieces(labels: Tensor, grid: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """(K,P) share of each patch that each piece covers."""
    height, width = labels.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    masks = []
    for label in labels.unique():
        mask = labels == label
        if rng.random() >= CUT:
            masks.append(mask)
            continue
        angle = rng.random() * 2 * np.pi
        along = x * np.cos(angle) + y * np.sin(angle)
        side = along > along[mask].mean()
        masks += [mask & side, mask & ~side]
    cover = F.adaptive_avg_pool2d(torch.stack(masks)[:, None].float(), grid).flatten(1)
    cover = cover[cover.sum(1) > 0]
    return cover[torch.from_numpy(rng.permutation(len(cover)))]
