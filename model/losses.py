"""Losses as (sum, count) pairs: the global-batch loss does not depend on how the batch is split.

GLaMM averages its micro-batches equally, which makes a sentence's weight depend on how many share
its micro-batch. Here the caller divides by the counts of the whole global batch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-3  # pixels; GLaMM's dice divides all sums by 1000 and adds 1e-6


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the terms; GLaMM train.py:92-94, which has neither clicks nor token answers."""

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    click: float = 0.0
    answer: float = 1.0


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over a micro-batch (0-dim float32) and what they are sums of.

    ce      over supervised tokens, `tokens` of them
    bce     over masks, of the mean over pixels; dice over masks; `masks` of them
    click   over masks, the error of the prompt as a click (`mask_head.click_errors`); None: not asked for
    answer  over masks, of the mean over superpixels (`projectors.token_answer`); None: there is no head
    """

    ce: Tensor
    bce: Tensor
    dice: Tensor
    tokens: int
    masks: int
    click: Tensor | None = None
    answer: Tensor | None = None

    @property
    def more(self) -> dict[str, Tensor]:
        """The terms over masks that not every model has, by name."""
        both = {"click": self.click, "answer": self.answer}
        return {name: term for name, term in both.items() if term is not None}

    def total(
        self, weights: Weights, *, tokens: int | None = None, masks: int | None = None
    ) -> Tensor:
        """Weighted sum of the means; `tokens` and `masks` of the global batch, default our own."""
        words = self.words(weights, tokens or self.tokens)
        return words + self.shapes(weights, masks or self.masks)

    def words(self, weights: Weights, tokens: int) -> Tensor:
        """The share of the text in the total."""
        return self.ce * (weights.ce / max(1, tokens))

    def shapes(self, weights: Weights, masks: int) -> Tensor:
        """The share of the masks in the total."""
        per_mask = max(1, masks)
        found = self.bce * (weights.bce / per_mask) + self.dice * (weights.dice / per_mask)
        for name, term in self.more.items():
            found = found + term * (getattr(weights, name) / per_mask)
        return found


def mask_losses(
    logits: Tensor, targets: Tensor, beyond: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over masks of BCE and dice: logits (S,H,W) floating point, targets (S,H,W) bool.

    beyond  (S,H,W) bool, pixels that are not part of a mask's photograph; their targets are False

    Source: GLaMM model/GLaMM.py `calculate_dice_loss`, `compute_sigmoid_cross_entropy`.
    """
    bce, dice = _MaskLosses.apply(logits, targets, beyond)
    return bce.sum(), dice.sum()


class _MaskLosses(torch.autograd.Function):
    """BCE (S,), the mean over pixels, and dice (S,) of each mask.

    Both and their gradient come from one sigmoid; kept are the chances and the targets, 5 bytes per
    pixel.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, truth: Tensor, beyond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # Far below 0 a pixel outside of its target has no loss and no gradient.
        x = logits if beyond is None else logits.masked_fill(beyond, -1e4)
        pixels: Any = x.shape[1] * x.shape[2]
        if beyond is not None:
            pixels = pixels - beyond.sum((1, 2))
        bce = F.softplus(torch.where(truth, -x, x)).sum((1, 2)) / pixels
        chance = x.sigmoid()
        both = 2 * (chance * truth).sum((1, 2)) + EPS
        sizes = chance.sum((1, 2)) + truth.sum((1, 2)) + EPS
        score = both / sizes
        ctx.save_for_backward(chance, truth, sizes, score)
        ctx.pixels = pixels
        return bce, 1 - score

    @staticmethod
    def backward(ctx: Any, to_bce: Tensor, to_dice: Tensor) -> tuple[Tensor, None, None]:
        chance, truth, sizes, score = ctx.saved_tensors
        # d dice / d chance is (score - 2) / sizes where the target is 1, else score / sizes.
        share = to_dice / sizes
        outside = share * score
        inside = torch.sub(outside, share, alpha=2)
        slope = torch.addcmul(chance, chance, chance, value=-1)
        grad = torch.where(truth, inside[:, None, None], outside[:, None, None]) * slope
        error = chance - truth.view(torch.uint8)
        return grad.addcmul_(error, (to_bce / ctx.pixels)[:, None, None]), None, None
