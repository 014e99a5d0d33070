"""Memory for batches that is used again once nobody holds it.

Fresh memory costs more than filling it: the kernel hands out 4 kB at a time, and clears each. So
blocks are kept, and a block is free again exactly when the last tensor on it is gone (also a view,
or one that autograd saved): nobody has to say when he is done with a batch.

Pinned memory comes from torch's own caching allocator, which also waits for copies in flight.
"""

import weakref
from collections import deque
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...pipeline.store.buffers import empty

LEAST = 1 << 16  # bytes; smaller tensors are not worth it


class Memory:
    """Uninitialised tensors; safe to share by threads."""

    def __init__(self, *, pinned: bool = False) -> None:
        self.pinned = pinned
        self._free: dict[int, deque[NDArray[np.uint8]]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor whose values are arbitrary."""
        size = prod(shape) * dtype.itemsize
        if self.pinned or size < LEAST:
            return torch.empty(shape, dtype=dtype, pin_memory=self.pinned)
        whole = 1 << (size - 1).bit_length()
        free = self._free.setdefault(whole, deque())
        try:
            block = free.pop()
        except IndexError:
            block = empty((whole,), np.uint8)
        # The tensor's storage owns `lease`, and nobody else does: when it goes, the block is free.
        lease = block[:size]
        weakref.finalize(lease, free.append, block).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)
