"""Threshold logits at image size into counts, boxes and column runs, touching few pixels.

On a CPU the window that can hold values above a limit is found on the low-resolution logits: an
up-scaled value lies between its low-resolution neighbours, so nothing outside can matter, and fused
up-sampling computes nothing else. On a GPU all masks are up-scaled and compared at once, and only
boxes, counts and run ends are copied to the host. Both give the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..masks import runs as rl
from ..masks.runs import Ints, Pieces
from . import upsample
from .upsample import UpsampleShape

Floats = NDArray[np.float32]
Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Outlines:
    """K masks: (K,) int64 pixels above +offset, above 0, above -offset; (K,4) box x1 y1 x2 y2 of those
    above 0, maxima inclusive, [0,0,0,0] if there are none.
    """

    high: Ints
    area: Ints
    low: Ints
    box: Ints


class Upscaled(Protocol):
    """K masks at image size."""

    def outlines(self, offset: float, shift: float = 0.0) -> Outlines:
        """Counts and boxes with all three thresholds raised by `shift`."""
        ...

    def pieces(self) -> Pieces:
        """Pieces of `logits > 0` of every mask."""
        ...


def upscaled(
    small: Tensor, shape: UpsampleShape, windows: Sequence[Window], *, fused: bool
) -> Upscaled:
    """Logits (K,h,w) fp32 at image size, where nothing outside the windows is looked at.

    fused  False: the published two steps, bit for bit
    """
    if not fused:
        large = upsample.two_step(small, shape)
    elif small.device.type == "cpu":
        return _OnHost(_fused_views(small, shape, windows), windows)
    else:
        sides = (axis.matrix.to(small.device) for axis in upsample.axes(shape, small))
        large = upsample.fused(small, *sides)
    if large.device.type != "cpu":
        return _OnDevice(large)
    masks = zip(large.numpy(), windows, strict=True)
    return _OnHost([mask[window] for mask, window in masks], windows)


class _OnHost:
    def __init__(self, views: Sequence[Floats], windows: Sequence[Window]) -> None:
        self._views, self._windows = views, windows

    def outlines(self, offset: float, shift: float = 0.0) -> Outlines:
        masks = zip(self._views, self._windows, strict=True)
        box = [_box(view > np.float32(shift), *window) for view, window in masks]
        high, area, low = (self._count(at + shift) for at in (offset, 0.0, -offset))
        return Outlines(high, area, low, np.array(box, np.int64).reshape(-1, 4))

    def pieces(self) -> Pieces:
        masks = zip(self._views, self._windows, strict=True)
        parts = [_pieces(view > 0, *window) for view, window in masks]
        none = np.zeros(0, np.int64)
        mask = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        return Pieces(mask, *map(np.concatenate, zip((none,) * 3, *parts, strict=True)))

    def _count(self, threshold: float) -> Ints:
        limit = np.float32(threshold)
        return np.array([np.count_nonzero(view > limit) for view in self._views], np.int64)


class _OnDevice:
    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def outlines(self, offset: float, shift: float = 0.0) -> Outlines:
        bits = [self._logits > at + shift for at in (offset, 0.0, -offset)]
        counts = [one.flatten(1).sum(1) for one in bits]
        sides = [side for axis in (1, 2) for side in _ends(bits[1].any(axis))]
        high, area, low, x1, x2, y1, y2 = torch.stack([*counts, *sides]).cpu().numpy()
        return Outlines(high, area, low, np.stack((x1, y1, x2, y2), axis=1))

    def pieces(self) -> Pieces:
        bits = self._logits > 0
        count, height, width = bits.shape
        padded = F.pad(bits.transpose(1, 2).flatten(1), (0, 1)).flatten()
        changes = (padded != F.pad(padded[:-1], (1, 0))).nonzero()[:, 0]
        return rl.pieces(rl.from_changes(changes.cpu().numpy(), count, height, width))


def find_windows(small: Tensor, shape: UpsampleShape, limit: float) -> list[Window]:
    """Rows and columns of the image outside which no mask (K,h,w) has a value above `limit`.

    The whole image on any device but a CPU, which waits for nothing.
    """
    if small.device.type != "cpu":
        return [(slice(0, shape.size[0]), slice(0, shape.size[1]))] * len(small)
    bits = (small > limit).numpy()
    any_of = np.logical_or.reduce
    spans = (_extents(any_of(bits, axis=axis)) for axis in (2, 1))  # of the rows, of the columns
    sides = zip(spans, bits.shape[1:], shape.resized, shape.size, strict=True)
    rows, columns = (
        [_reach(shape.image_size, first, stop, *side) for first, stop in span.tolist()]
        for span, *side in sides
    )
    return list(zip(rows, columns, strict=True))


def low_window(window: Window, shape: UpsampleShape, low: Tensor) -> Window:
    """Rows and columns of logits like `low` (..., h, w) that the window's pixels are made of."""
    sides = zip(upsample.axes(shape, low), window, strict=True)
    y, x = (
        slice(int(axis.first[side.start]), int(axis.last[side.stop - 1]) + 1)
        if side.start < side.stop
        else slice(0, 0)
        for axis, side in sides
    )
    return y, x


def _fused_views(small: Tensor, shape: UpsampleShape, windows: Sequence[Window]) -> list[Floats]:
    rows, columns = (axis.matrix for axis in upsample.axes(shape, small))
    views = []
    for mask, window in zip(small, windows, strict=True):
        used = low_window(window, shape, small)
        y, x = (side[w, u] for side, w, u in zip((rows, columns), window, used, strict=True))
        views.append(upsample.fused(mask[used], y, x).numpy())
    return views


def _extents(lines: NDArray[np.bool_]) -> Ints:
    """(K,n) -> (K,2) first true element and one past the last; 0 0 if there is none."""
    first, stop = lines.argmax(1), lines.shape[1] - lines[:, ::-1].argmax(1)
    return np.stack((first, np.where(lines.any(1), stop, 0)), axis=1)


def _reach(padded: int, first: int, stop: int, low: int, resized: int, size: int) -> slice:
    """Image pixels that two bilinear steps can make of low-res pixels, one to spare."""
    if first == stop:
        return slice(0, 0)
    ratio, scale = padded / low, size / resized
    start = math.floor((ratio * (first - 1) - 1) * scale) - 1
    end = math.ceil((ratio * (stop + 1) + 1) * scale) + 1
    return slice(min(max(start, 0), size), min(max(end, 0), size))


def _box(bits: NDArray[np.bool_], rows: slice, columns: slice) -> tuple[int, int, int, int]:
    """x1 y1 x2 y2, in the image, of the window's pixels `bits`; zeros if there are none."""
    line = np.flatnonzero(bits.any(axis=0))
    if not len(line):
        return 0, 0, 0, 0
    column = np.flatnonzero(bits[:, line[0] : line[-1] + 1].any(axis=1))
    x, y = columns.start, rows.start
    return x + int(line[0]), y + int(column[0]), x + int(line[-1]), y + int(column[-1])


def _ends(lines: Tensor) -> tuple[Tensor, Tensor]:
    """(K,n) -> (K,) first and (K,) last true element; 0 0 if there is none."""
    place = torch.arange(lines.shape[1], device=lines.device)
    last = torch.where(lines, place, -1).amax(1).clamp(min=0)
    return torch.where(lines, place, last[:, None]).amin(1), last


def _pieces(bits: NDArray[np.bool_], rows: slice, columns: slice) -> tuple[Ints, Ints, Ints]:
    """Column, top, bottom, in the image, of the column pieces of the window's pixels `bits`."""
    height, width = bits.shape
    stride = height + 1
    padded = np.zeros(width * stride + 1, np.bool_)  # one zero before each column and at the end
    padded[:-1].reshape(width, stride)[:, 1:] = bits.T
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    column = changes[0::2] // stride
    shift = rows.start - column * stride
    return column + columns.start, changes[0::2] + shift, changes[1::2] + shift
