"""From logits at image size to pixel counts and runs, touching as few pixels as possible.

On a CPU each mask is compared once in full, to find the window above -offset; everything else looks
inside that window, a few per cent of the image for most masks. On a GPU the comparisons run on all
masks at once and only run ends are copied to the host. Both give the same numbers.
"""

from itertools import starmap
from typing import Protocol

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from . import runs as rl
from .runs import Ints, Pieces, Runs


class Thresholded(Protocol):
    """K masks; high, low (K,) int64 pixels above +offset and above -offset."""

    high: Ints
    low: Ints

    def runs(self, good: Ints) -> Runs:
        """Runs of `logits > 0` of the masks `good`, in that order."""
        ...


def thresholded(logits: Tensor, offset: float) -> Thresholded:
    """`logits` (K,H,W) fp32 on any device, looked at through three thresholds."""
    return _OnDevice(logits, offset) if logits.is_cuda else _OnHost(logits.numpy(), offset)


class _OnHost:
    def __init__(self, logits: NDArray[np.float32], offset: float) -> None:
        self._logits = logits
        self._windows = [_window(mask > np.float32(-offset)) for mask in logits]
        views = [mask[window] for mask, window in zip(logits, self._windows, strict=True)]
        self.low = np.array([np.count_nonzero(v > np.float32(-offset)) for v in views], np.int64)
        self.high = np.array([np.count_nonzero(v > np.float32(offset)) for v in views], np.int64)

    def runs(self, good: Ints) -> Runs:
        chosen = [(self._logits[i][self._windows[i]] > 0, self._windows[i]) for i in good]
        parts = list(starmap(_pieces, chosen))
        none = np.zeros(0, np.int64)
        mask = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        column, top, bottom = (np.concatenate(row) for row in zip((none,) * 3, *parts, strict=True))
        height, width = self._logits.shape[1:]
        return rl.join(Pieces(mask, column, top, bottom), len(parts), height, width)


class _OnDevice:
    def __init__(self, logits: Tensor, offset: float) -> None:
        self._logits = logits
        self.high = (logits > offset).flatten(1).sum(1).cpu().numpy()
        self.low = (logits > -offset).flatten(1).sum(1).cpu().numpy()

    def runs(self, good: Ints) -> Runs:
        bits = self._logits[good.tolist()] > 0
        count, height, width = bits.shape
        padded = F.pad(bits.transpose(1, 2).flatten(1), (0, 1)).flatten()
        changes = (padded != F.pad(padded[:-1], (1, 0))).nonzero()[:, 0]
        return rl.from_changes(changes.cpu().numpy(), count, height, width)


def _window(bits: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the bounding box of `bits` (H,W); empty slices if there is none."""
    any_of = np.logical_or.reduce
    return _extent(any_of(bits, axis=1)), _extent(any_of(bits, axis=0))


def _extent(line: NDArray[np.bool_]) -> slice:
    first = int(line.argmax())
    return slice(first, len(line) - int(line[::-1].argmax())) if line[first] else slice(0, 0)


def _pieces(bits: NDArray[np.bool_], window: tuple[slice, slice]) -> tuple[Ints, Ints, Ints]:
    """Column, top, bottom, in the image, of the column pieces of the window's pixels `bits`."""
    height, width = bits.shape
    stride = height + 1
    padded = np.zeros(width * stride + 1, np.bool_)  # one zero before each column and at the end
    padded[:-1].reshape(width, stride)[:, 1:] = bits.T
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    column = changes[0::2] // stride
    shift = window[0].start - column * stride
    return column + window[1].start, changes[0::2] + shift, changes[1::2] + shift
