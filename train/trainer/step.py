"""One optimizer step over a global batch, for any split into micro-batches and ranks.

The loss has ONE definition: cross-entropy is the mean over all supervised tokens of the global
batch, BCE and dice are means over all its masks. Every micro-batch is therefore divided by the
counts of the whole global batch, which are agreed on before the first forward pass. (GLaMM averages
micro-batches equally: there the weight of a sentence depends on how many share its micro-batch.)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

    bad   indices of this rank's micro-batches whose own loss is not finite
    more  terms that not every model has, by name (`Losses.more`)
    """

    loss: float
    ce: float
    bce: float
    dice: float
    norm: float
    tokens: int
    masks: int
    bad: tuple[int, ...] = ()
    more: dict[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether the step was taken."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)

    def values(self) -> dict[str, float | int]:
        """For metrics.jsonl."""
        names = ("loss", "ce", "bce", "dice", "norm", "tokens", "masks")
        return {name: getattr(self, name) for name in names} | self.more


def sync_counts(accelerator: "Accelerator", batches: Sequence[Batch] | None, signal: int) -> Counts:
    """Counts of the global batch, and a signal if any rank received one; one small collective.

    batches  this rank's, None if they could not be read
    """
    own = (sum(int((b.labels != IGNORE).sum()) for b in batches or ()),
           sum(len(b.seg_row) for b in batches or ()))  # fmt: skip
    if accelerator.num_processes == 1:  # nothing is asked of the device
        return Counts(own[0], own[1], signal, failed=batches is None)
    # A launcher sends all ranks the same signal, but not at once: the mean of those that came.
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
    for number, batch in enumerate(copied(batches, accelerator.device), 1):
        with strategy.micro_batch(number == len(batches)):
            losses = strategy.losses(batch)
            strategy.backward(losses.total(weights, tokens=counts.tokens, masks=counts.masks))
        kinds = {"ce": losses.ce, "bce": losses.bce, "dice": losses.dice} | losses.more
        sums.append(torch.stack([*kinds.values()]).detach())

    # Summed over ranks before the step: all take it or none does. A sum with a number that is not
    # finite is not finite either, so ranks agree about their own, too.
    own = torch.stack(sums)
    own = own if own.device.type == "mps" else own.double()  # which has no float64
    total = _sum(accelerator, own.sum(0))
    found, norm = strategy.update(lr, clip, torch.cat([own.flatten(), total]))
    *each, whole = (found[k : k + len(kinds)] for k in range(0, len(found), len(kinds)))
    bad = (k for k, values in enumerate(each) if not all(map(math.isfinite, values)))

    # A batch without any mask or token has no loss of that kind, not a division by zero.
    numbers = (counts.tokens, *(counts.masks,) * (len(kinds) - 1))
    means = {k: s / max(1, n) for k, s, n in zip(kinds, whole, numbers, strict=True)}
    loss = float(sum(getattr(weights, name) * mean for name, mean in means.items()))
    ce, bce, dice = (means.pop(name) for name in ("ce", "bce", "dice"))
    return StepResult(loss, ce, bce, dice, norm, counts.tokens, counts.masks, tuple(bad), means)


def copied(batches: Sequence[Batch], device: torch.device) -> Iterator[Batch]:
    """The micro-batches on `device`, float32.

    On CUDA each is copied and cast on a stream of its own, while the one before is computed.
    """
    if device.type != "cuda":
        yield from (batch.to(device, torch.float32) for batch in batches)
        return
    computes, copies = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def kept(x: Tensor) -> Tensor:
        # Else the allocator may give its memory to the next copy while this one is still read.
        x.record_stream(computes)
        return x

    ready: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            later = batch.to(device, torch.float32)
        if ready is not None:
            yield ready
        computes.wait_stream(copies)
        ready = later.map(kept)
    if ready is not None:
        yield ready


def _sum(accelerator: "Accelerator", value: Tensor) -> Tensor:
    total: Tensor = accelerator.reduce(value, "sum")
    return total
