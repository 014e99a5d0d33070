"""Losses as (sum, count) pairs: the global-batch loss does not depend on how the batch is split.

GLaMM averages its micro-batches equally, which makes a sentence's weight depend on how many share
its micro-batch. Here the caller divides by the counts of the whole global batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SCALE, EPS = 1000.0, 1e-6  # GLaMM's dice: p/1000, so that eps is a thousandth of a pixel


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the terms; GLaMM train.py:92-94."""

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over a micro-batch (0-dim float32) and what they are sums of.

    ce      over supervised tokens, `tokens` of them
    bce     over masks, of the mean over pixels; dice over masks; `masks` of them
    """

    ce: Tensor
    bce: Tensor
    dice: Tensor
    tokens: int
    masks: int

    def total(
        self, weights: Weights, *, tokens: int | None = None, masks: int | None = None
    ) -> Tensor:
        """Weighted sum of the means; `tokens` and `masks` of the global batch, default our own."""
        per_token, per_mask = max(1, tokens or self.tokens), max(1, masks or self.masks)
        shapes = weights.bce * self.bce + weights.dice * self.dice
        return weights.ce * self.ce / per_token + shapes / per_mask


def mask_losses(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums over masks of BCE and dice; logits (n,H,W) float32 and targets (n,H,W) in {0,1} per group.

    Source: GLaMM model/GLaMM.py `calculate_dice_loss`, `compute_sigmoid_cross_entropy`.
    """
    bce, dice = [], []
    for x, target in zip(logits, targets, strict=True):
        g = target.to(x.dtype)
        bce.append(F.binary_cross_entropy_with_logits(x, g, reduction="none").flatten(1).mean(1))
        chance, truth = x.sigmoid().flatten(1), g.flatten(1)
        both = 2 * (chance / SCALE * truth).sum(1)
        sizes = (chance / SCALE).sum(1) + (truth / SCALE).sum(1)
        dice.append(1 - (both + EPS) / (sizes + EPS))
    return torch.cat(bce).sum(), torch.cat(dice).sum()
