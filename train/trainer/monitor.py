"""Throughput and memory of a run, for its log and trackers only.

MFU is the share of the GPUs' peak that the language model's operations make, by formula, in all the
time that passes: whole global batches with their optimizer steps, not passes alone. It counts the
positions that are real; beside it stands what a GPU computes, padding included.
"""

import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ...model.batch import Batch
from ...model.projectors import Projector

GIB = 1 << 30


class Utilisation(Protocol):
    """See `train.estimates.utilisation`."""

    peak: float

    def enter(self, lm: Any) -> None:
        """A stage begins."""
        ...

    def flops(self, lengths: Sequence[int], answers: int) -> float:
        """Operations of a micro-batch, forward and backward."""
        ...


class Watch:
    """Images, tokens, padding and MFU since the last reading; tokens are positions of the language
    model.

    steps, images  of the whole run, and of one step
    utilisation    None: the device's peak is not known, so there is no MFU
    left           seconds to the end of the run, and between two readings; empty before the first
    """

    def __init__(
        self,
        steps: int,
        images: int,
        ranks: int,
        device: torch.device,
        utilisation: Utilisation | None = None,
    ) -> None:
        self._steps, self._images, self._ranks, self._device = steps, images, ranks, device
        self._utilisation = utilisation
        self._tokens = self._padded = self._done = self._seen = 0
        self._flops = self._padded_flops = 0.0  # of this rank
        self._began = self._last = time.monotonic()
        self.left: dict[str, float] = {}

    def enter(self, lm: Any) -> None:
        """A stage begins that trains `lm` as it is now, its weights not yet split over ranks."""
        if self._utilisation is not None:
            self._utilisation.enter(lm)

    def step(self, batches: Sequence[Batch], projector: Projector) -> None:
        """One step of this rank's micro-batches is done; ranks have about equally many tokens."""
        for batch in batches:
            real = positions(batch, projector)
            count, longest = len(real), int(real.max())
            self._tokens += self._ranks * int(real.sum())
            self._padded += self._ranks * count * longest
            if self._utilisation is not None:
                answers = len(batch.layout.label_row)
                self._flops += self._utilisation.flops(real.tolist(), answers)
                self._padded_flops += self._utilisation.flops([longest] * count, answers)
        self._done += 1

    def read(self, step: int) -> tuple[str, dict[str, float]]:
        """A phrase for people and numbers for trackers, since the last call."""
        now = time.monotonic()
        took = max(now - self._last, 1e-9)
        images, tokens = (self._done - self._seen) * self._images / took, self._tokens / took
        each = (now - self._began) / max(self._done, 1)
        left = (self._steps - step) * each / 60
        memory, busy = peak_memory(self._device) / GIB, busy_share(self._device)
        padding = 1 - self._tokens / self._padded if self._padded else 0.0
        line = f"{images:.1f} images/s, {tokens:,.0f} tokens/s, {100 * padding:.1f} % padding, "
        numbers = {"rate/images": images, "rate/tokens": tokens, "rate/padding": padding}
        if self._utilisation is not None:
            most = took * self._utilisation.peak  # ranks have about equally many operations
            mfu, padded = self._flops / most, self._padded_flops / most
            line += f"MFU {100 * mfu:.1f} % ({100 * padded:.1f} % with padding), "
            numbers |= {"rate/mfu": mfu, "rate/mfu-padded": padded}
        line += f"{memory:.1f} GiB, {left:.1f} min left"
        self._last, self._seen, self._tokens, self._padded = now, self._done, 0, 0
        self._flops = self._padded_flops = 0.0
        numbers["memory/GiB"] = memory
        if busy is not None:
            line += f", GPU {busy:.0%} busy"
            numbers["gpu/busy"] = busy
        self.left = {"eta_s": 60 * left, "next_s": took}
        return line, numbers


def positions(batch: Batch, projector: Projector) -> Tensor:
    """(B,) positions of the language model: text ids, and visual tokens in place of <image>.

    Where the projector finds their number in the features, of text alone: it is not searched twice.
    """
    text, fixed = batch.lengths - 1, projector.num_tokens(batch.visual.grid)
    if fixed is not None:
        return text + fixed
    if "masks" not in projector.needs:
        return text
    assert batch.visual.valid is not None
    return text + batch.visual.valid.sum(1)


def busy_share(device: torch.device) -> float | None:
    """Share of the last moments in which the GPU computed, by its driver; None where it cannot be told."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # noqa: BLE001  NVIDIA's Python package is not there, or the driver refuses
        return None


def peak_memory(device: torch.device) -> int:
    """Most bytes in use until now: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
