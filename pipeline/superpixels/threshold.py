"""Threshold logits at image size into areas and column runs, touching few pixels.

On a CPU the window that can hold values above -offset is found on the low-resolution logits: an
up-scaled value lies between its low-resolution neighbours, so nothing outside can matter. On a GPU
the comparisons run on all masks at once and only run ends are copied to the host. Both give the
same numbers.
"""

import math
from collections.abc import Sequence
from itertools import starmap
from typing import Protocol

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..masks import runs as rl
from ..masks.runs import Ints, Pieces
from .upsample import UpsampleShape

Floats = NDArray[np.float32]
Window = tuple[slice, slice]


class Thresholded(Protocol):
    """K masks; high, low (K,) int64 pixels above +offset and above -offset."""

    high: Ints
    low: Ints

    def pieces(self, good: Ints) -> Pieces:
        """Pieces of `logits > 0` of the masks `good`, numbered in that order."""
        ...


def thresholded(logits: Tensor, small: Tensor, shape: UpsampleShape, offset: float) -> Thresholded:
    """`logits` (K,H,W) fp32, up-scaled from `small` (K,h,w), looked at through three thresholds."""
    if logits.is_cuda:
        return _OnDevice(logits, offset)
    return _OnHost(logits.numpy(), _windows(small.numpy(), shape, offset), offset)


class _OnHost:
    def __init__(self, logits: Floats, windows: Sequence[Window], offset: float) -> None:
        self._windows = windows
        self._views = [mask[window] for mask, window in zip(logits, windows, strict=True)]
        self.low = self._count(-offset)
        self.high = self._count(offset)

    def pieces(self, good: Ints) -> Pieces:
        parts = list(starmap(_pieces, ((self._views[i] > 0, self._windows[i]) for i in good)))
        none = np.zeros(0, np.int64)
        mask = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        return Pieces(mask, *map(np.concatenate, zip((none,) * 3, *parts, strict=True)))

    def _count(self, threshold: float) -> Ints:
        limit = np.float32(threshold)
        return np.array([np.count_nonzero(view > limit) for view in self._views], np.int64)


class _OnDevice:
    def __init__(self, logits: Tensor, offset: float) -> None:
        self._logits = logits
        self.high = (logits > offset).flatten(1).sum(1).cpu().numpy()
        self.low = (logits > -offset).flatten(1).sum(1).cpu().numpy()

    def pieces(self, good: Ints) -> Pieces:
        bits = self._logits[good.tolist()] > 0
        count, height, width = bits.shape
        padded = F.pad(bits.transpose(1, 2).flatten(1), (0, 1)).flatten()
        changes = (padded != F.pad(padded[:-1], (1, 0))).nonzero()[:, 0]
        return rl.pieces(rl.from_changes(changes.cpu().numpy(), count, height, width))


def _windows(small: Floats, shape: UpsampleShape, offset: float) -> list[Window]:
    """Rows and columns of the image outside which no value is above -offset."""
    limit = np.float32(-offset * 1.001)  # far more than the rounding of an interpolation
    any_of = np.logical_or.reduce
    windows = []
    for mask in small:
        bits = mask > limit
        rows, columns = _extent(any_of(bits, axis=1)), _extent(any_of(bits, axis=0))
        sides = zip((rows, columns), mask.shape, shape.resized, shape.size, strict=True)
        y, x = (_reach(shape.image_size, *side) for side in sides)
        windows.append((y, x))
    return windows


def _extent(line: NDArray[np.bool_]) -> tuple[int, int]:
    """First true element and one past the last; (0, 0) if there is none."""
    first = int(line.argmax())
    return (first, len(line) - int(line[::-1].argmax())) if line[first] else (0, 0)


def _reach(padded: int, span: tuple[int, int], low: int, resized: int, size: int) -> slice:
    """Image pixels that two bilinear steps can make of the low-res pixels `span`, one to spare."""
    first, last = span
    if first == last:
        return slice(0, 0)
    ratio, scale = padded / low, size / resized
    start = math.floor((ratio * (first - 1) - 1) * scale) - 1
    stop = math.ceil((ratio * (last + 1) + 1) * scale) + 1
    return slice(min(max(start, 0), size), min(max(stop, 0), size))


def _pieces(bits: NDArray[np.bool_], window: Window) -> tuple[Ints, Ints, Ints]:
    """Column, top, bottom, in the image, of the column pieces of the window's pixels `bits`."""
    height, width = bits.shape
    stride = height + 1
    padded = np.zeros(width * stride + 1, np.bool_)  # one zero before each column and at the end
    padded[:-1].reshape(width, stride)[:, 1:] = bits.T
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    column = changes[0::2] // stride
    shift = window[0].start - column * stride
    return column + window[1].start, changes[0::2] + shift, changes[1::2] + shift
