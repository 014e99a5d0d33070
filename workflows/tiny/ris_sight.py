"""What of a scene the language model is shown: patches, or pieces of the scene, each as one token.

Superpixels will be its visual words later, and other projectors give other ones. So it learns on
all patches, on a random share of them, and on pieces that stand for superpixels: the scene's
regions and things, some of them cut in two, in any order.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CUT = 0.4  # share of pieces that are cut in two


class Sight(NamedTuple):
    """The pieces shown of each image, the real ones first.

    share  (B,K,P) how much each patch counts in each piece; sums to 1 over the patches
    valid  (B,K) bool
    """

    share: Tensor
    valid: Tensor


def patches(images: int, count: int, rng: np.random.Generator, *, kept: float) -> Sight:
    """A share of the patches of each image, ascending; each is a piece."""
    rows = [np.sort(rng.permutation(count)[: round(count * kept)]) for _ in range(images)]
    share = F.one_hot(torch.from_numpy(np.stack(rows)), count).float()
    return Sight(share, torch.ones(share.shape[:2], dtype=torch.bool))


def pieces(labels: Tensor, grid: tuple[int, int], rng: np.random.Generator) -> Sight:
    """The parts of the label map (B,H,W), some of them cut in two, shuffled."""
    found = [_pieces(one, grid, rng) for one in labels]
    count = max(len(share) for share in found)
    share = torch.stack([F.pad(one, (0, 0, 0, count - len(one))) for one in found])
    valid = torch.stack([torch.arange(count) < len(one) for one in found])
    return Sight(share, valid)


def _pieces(labels: Tensor, grid: tuple[int, int], rng: np.random.Generator) -> Tensor:
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
    cover = cover[cover.sum(1) > 0][
        torch.from_numpy(rng.permutation(int((cover.sum(1) > 0).sum())))
    ]
    return cover / cover.sum(1, keepdim=True)
