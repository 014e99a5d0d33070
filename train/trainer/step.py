"""One optimizer step over a global batch, for any split into micro-batches and ranks.

The loss has ONE definition: cross-entropy is the mean over all supervised tokens of the global
batch, BCE and dice are means over all its masks. Every micro-batch is therefore divided by the
counts of the whole global batch, which are agreed on before the first forward pass. (GLaMM averages
micro-batches equally: there the weight of a sentence depends on how many share its micro-batch.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...model.batch import IGNORE, Batch
from ...model.losses import Weights
from .strategies.base import Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, slots=True)
class Counts:
    """Loss denominators of a global batch, equal on all ranks; `signal` if a rank received one,
    `failed` if one has no batch.
    """

    tokens: int
    masks: int
    signal: int = 0
    failed: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """Losses of one global batch, means; `norm` is the gradient's before clipping.

    bad  indices of this rank's micro-batches whose own loss is not finite
    """

    loss: float
    ce: float
    bce: float
    dice: float
    norm: float
    tokens: int
    masks: int
    bad: tuple[int, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether the step was taken."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)

    def values(self) -> dict[str, float | int]:
        """For metrics.jsonl."""
        names = ("loss", "ce", "bce", "dice", "norm", "tokens", "masks")
        return {name: getattr(self, name) for name in names}


def sync_counts(accelerator: "Accelerator", batches: Sequence[Batch] | None, signal: int) -> Counts:
    """Counts of the global batch, and a signal if any rank received one; one small collective.

    batches  this rank's, None if they could not be read
    """
    # A launcher sends all ranks the same signal, but not at once: the mean of those that came.
    own = [sum(int((b.labels != IGNORE).sum()) for b in batches or ()),
           sum(len(b.seg_row) for b in batches or ())]  # fmt: skip
    told = [*own, signal, int(signal > 0), int(batches is None)]
    counts = torch.tensor(told, device=accelerator.device)
    tokens, masks, signals, ranks, failed = _sum(accelerator, counts).tolist()
    return Counts(tokens, masks, signals // ranks if ranks else 0, failed > 0)


def optimizer_step(
    strategy: Strategy,
    batches: Sequence[Batch],
    counts: Counts,
    weights: Weights,
    lr: float,
    clip: float,
) -> StepResult:
    """Forward and backward of this rank's micro-batches, and the step unless a number is not finite.

    `batches` are on the CPU. The result is the same on every rank; no gradient is left.
    """
    # Every micro-batch is divided by the counts of the whole global batch, so gradients add up.
    accelerator, sums = strategy.accelerator, []
    for number, batch in enumerate(batches, 1):
        with strategy.micro_batch(number == len(batches)):
            losses = strategy.losses(batch.to(accelerator.device, torch.float32))
            strategy.backward(losses.total(weights, tokens=counts.tokens, masks=counts.masks))
        sums.append(torch.stack([losses.ce, losses.bce, losses.dice]).detach().double())

    # Summed over ranks before the step: all take it or none does.
    own = torch.stack(sums)
    bad = (~own.isfinite().all(1)).nonzero().flatten().tolist()
    total = _sum(accelerator, own.sum(0))
    norm = strategy.update(lr, clip, allowed=bool(total.isfinite().all()))

    # A batch without any mask or token has no loss of that kind, not a division by zero.
    numbers = (counts.tokens, counts.masks, counts.masks)
    ce, bce, dice = (s / max(1, n) for s, n in zip(total.tolist(), numbers, strict=True))
    loss = weights.ce * ce + weights.bce * bce + weights.dice * dice
    return StepResult(loss, ce, bce, dice, norm, counts.tokens, counts.masks, tuple(bad))


def _sum(accelerator: "Accelerator", value: Tensor) -> Tensor:
    total: Tensor = accelerator.reduce(value, "sum")
    return total
