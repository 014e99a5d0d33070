"""Throughput and memory of a run, for its log and trackers only."""

import resource
import sys
import time
from collections.abc import Sequence

import torch

from ...model.batch import Batch
from ...model.projectors import Projector

GIB = 1 << 30


class Watch:
    """Images and tokens since the last reading; tokens are positions of the language model.

    steps, images  of the whole run, and of one step
    """

    def __init__(self, steps: int, images: int, ranks: int, device: torch.device) -> None:
        self._steps, self._images, self._ranks, self._device = steps, images, ranks, device
        self._tokens = self._done = self._seen = 0
        self._began = self._last = time.monotonic()

    def step(self, batches: Sequence[Batch], projector: Projector) -> None:
        """One step of this rank's micro-batches is done; ranks have about equally many tokens."""
        self._tokens += self._ranks * sum(positions(batch, projector) for batch in batches)
        self._done += 1

    def read(self, step: int) -> tuple[str, dict[str, float]]:
        """A phrase for people and numbers for trackers, since the last call."""
        now = time.monotonic()
        took = max(now - self._last, 1e-9)
        images, tokens = (self._done - self._seen) * self._images / took, self._tokens / took
        each = (now - self._began) / max(self._done, 1)
        left = (self._steps - step) * each / 60
        memory = peak_memory(self._device) / GIB
        self._last, self._seen, self._tokens = now, self._done, 0
        line = (
            f"{images:.1f} images/s, {tokens:,.0f} tokens/s, {memory:.1f} GiB, {left:.1f} min left"
        )
        return line, {"rate/images": images, "rate/tokens": tokens, "memory/GiB": memory}


def positions(batch: Batch, projector: Projector) -> int:
    """Positions of the language model: text ids, and visual tokens in place of <image>."""
    fixed = projector.num_tokens(batch.visual.grid)
    text = int(batch.lengths.sum()) - len(batch.lengths)
    if fixed is not None:
        return text + fixed * len(batch.lengths)
    assert batch.visual.valid is not None
    return text + int(batch.visual.valid.sum())


def peak_memory(device: torch.device) -> int:
    """Most bytes in use until now: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
