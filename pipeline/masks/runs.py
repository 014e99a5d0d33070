"""Column-major runs of many masks, for fast exact selection.

A run [start, end) counts pixels down the columns of an H x W mask (pixel = column * H + row), the
order of COCO RLE. All masks of an image share three flat arrays, so one NumPy call works on all.
Invariant: runs are sorted by (mask, start), never empty, and two runs of a mask never touch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """N masks of height x width pixels; `mask`, `start`, `end` are (R,) int64, one per run."""

    count: int
    height: int
    width: int
    mask: Ints
    start: Ints
    end: Ints

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class Pieces:
    """Runs cut at column ends: rows [top, bottom) of `column`; (Q,) int64 each, in run order."""

    mask: Ints
    column: Ints
    top: Ints
    bottom: Ints


def from_masks(masks: NDArray[np.bool_]) -> Runs:
    """Runs of dense masks (N,H,W) bool, in any memory order (column-major is fastest)."""
    count, height, width = masks.shape
    stride = height * width + 1
    padded = np.zeros(count * stride + 1, np.bool_)  # one spare zero before and after each mask
    columns = padded[1:].reshape(count, stride)[:, :-1]
    columns.reshape(count, width, height)[:] = masks.transpose(0, 2, 1)
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    return from_changes(changes, count, height, width)


def from_changes(changes: Ints, count: int, height: int, width: int) -> Runs:
    """Runs from the positions at which the pixel value changes.

    changes  sorted positions in the masks laid end to end, column-major, with one zero pixel after
             each mask; they alternate between the start and the end of a run
    """
    assert len(changes) % 2 == 0, "the spare zero closes every run"
    stride = height * width + 1
    mask, start = np.divmod(changes[0::2], stride)
    return Runs(count, height, width, mask, start, changes[1::2] - mask * stride)


def from_labels(labels: NDArray[np.integer]) -> Runs:
    """Runs of a label map (H,W): mask k is the k-th smallest label; together they tile the map."""
    height, width = labels.shape
    flat = labels.T.ravel()
    start = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    names, mask = np.unique(flat[start], return_inverse=True)
    end = np.append(start[1:], flat.size)
    order = np.argsort(mask, kind="stable")
    return Runs(len(names), height, width, mask[order], start[order], end[order])


def merged(count: int, height: int, width: int, mask: Ints, start: Ints, end: Ints) -> Runs:
    """Runs from disjoint spans in any order; spans of a mask that touch become one run."""
    stride = height * width + 1
    order = np.argsort(mask * stride + start, kind="stable")
    mask, start, end = mask[order], start[order], end[order]
    touches = (mask[1:] == mask[:-1]) & (start[1:] == end[:-1])
    first = np.flatnonzero(np.concatenate(([True], ~touches))[: len(mask)])
    last = np.append(first[1:], len(mask))[: len(first)] - 1
    return Runs(count, height, width, mask[first], start[first], end[last])


def complement(runs: Runs) -> Runs:
    """The background of every mask."""
    size = runs.height * runs.width
    base = np.arange(runs.count) * (size + 1)
    start = np.sort(np.concatenate((base, runs.mask * (size + 1) + runs.end)))
    end = np.sort(np.concatenate((base + size, runs.mask * (size + 1) + runs.start)))
    start, end = start[start < end], end[start < end]
    mask = start // (size + 1)
    offset = mask * (size + 1)
    return Runs(runs.count, runs.height, runs.width, mask, start - offset, end - offset)


def pieces(runs: Runs) -> Pieces:
    """Every run cut at the column ends it crosses, sorted by (mask, column, top)."""
    first = runs.start // runs.height
    last = (runs.end - 1) // runs.height
    columns = last - first + 1
    run, within = ragged(columns)
    top = np.where(within == 0, (runs.start - first * runs.height)[run], 0)
    at_end = within == columns[run] - 1
    bottom = np.where(at_end, (runs.end - last * runs.height)[run], runs.height)
    return Pieces(runs.mask[run], first[run] + within, top, bottom)


def join(parts: Pieces, count: int, height: int, width: int) -> Runs:
    """Runs from disjoint pieces: the inverse of `pieces`."""
    offset = parts.column * height
    return merged(count, height, width, parts.mask, offset + parts.top, offset + parts.bottom)


def moved(parts: Pieces, *, mask: int = 0, x: int = 0, y: int = 0) -> Pieces:
    """The pieces `x` columns and `y` rows further, their mask numbers raised by `mask`."""
    return Pieces(parts.mask + mask, parts.column + x, parts.top + y, parts.bottom + y)


def concat_pieces(parts: Sequence[Pieces]) -> Pieces:
    """All pieces of `parts` (at least one), in order."""
    rows = ([p.mask, p.column, p.top, p.bottom] for p in parts)
    return Pieces(*map(np.concatenate, zip(*rows, strict=True)))


def areas(runs: Runs) -> Ints:
    """(N,) pixels per mask."""
    total = np.zeros(runs.count, np.int64)
    np.add.at(total, runs.mask, runs.end - runs.start)
    return total


def boxes(runs: Runs) -> Ints:
    """(N,4) x1 y1 x2 y2, maxima INCLUSIVE; an empty mask has [0,0,0,0].

    Source: `batched_mask_to_box` of facebookresearch/segment-anything utils/amg.py.
    """
    last = runs.end - 1
    x1, x2 = runs.start // runs.height, last // runs.height
    wraps = x1 != x2  # such a run holds the bottom of one column and the top of the next
    y1 = np.where(wraps, 0, runs.start - x1 * runs.height)
    y2 = np.where(wraps, runs.height - 1, last - x2 * runs.height)
    far = np.iinfo(np.int64).max
    low = np.full((runs.count, 2), far)
    high = np.full((runs.count, 2), -1)
    np.minimum.at(low, runs.mask, np.stack((x1, y1), axis=1))
    np.maximum.at(high, runs.mask, np.stack((x2, y2), axis=1))
    box = np.concatenate((low, high), axis=1)
    box[high[:, 0] < 0] = 0
    return box


def select(runs: Runs, indices: Ints) -> Runs:
    """The masks `indices` (K,), in that order; an index may repeat."""
    bounds = np.searchsorted(runs.mask, np.arange(runs.count + 1))
    new, within = ragged((bounds[1:] - bounds[:-1])[indices])
    old = bounds[indices][new] + within
    return Runs(len(indices), runs.height, runs.width, new, runs.start[old], runs.end[old])


def concat(parts: Sequence[Runs]) -> Runs:
    """All masks of `parts` (at least one, equal sizes), in order."""
    shift = np.cumsum([0] + [part.count for part in parts])
    mask = np.concatenate([p.mask + s for p, s in zip(parts, shift[:-1], strict=True)])
    start = np.concatenate([p.start for p in parts])
    end = np.concatenate([p.end for p in parts])
    return Runs(int(shift[-1]), parts[0].height, parts[0].width, mask, start, end)


def empty(height: int, width: int) -> Runs:
    """No masks."""
    none = np.zeros(0, np.int64)
    return Runs(0, height, width, none, none, none)


def encode(runs: Runs) -> tuple[bytes, ...]:
    """COCO compressed counts of every mask, the bytes pycocotools makes of the dense mask."""
    if not runs.count:
        return ()
    size = [runs.height, runs.width]
    counts = [{"size": size, "counts": row} for row in _counts(runs)]
    return tuple(rle["counts"] for rle in coco.frPyObjects(counts, *size))


def no_pieces() -> Pieces:
    """None at all."""
    none = np.zeros(0, np.int64)
    return Pieces(none, none, none, none)


def ragged(lengths: Ints) -> tuple[Ints, Ints]:
    """Row and position in the row of every element of rows of the given lengths.

    >>> [part.tolist() for part in ragged(np.array([2, 0, 1]))]
    [[0, 0, 2], [0, 1, 0]]
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    first = np.cumsum(lengths) - lengths
    return row, np.arange(len(row)) - first[row]


def _counts(runs: Runs) -> list[Ints]:
    size = runs.height * runs.width
    bounds = 2 * np.searchsorted(runs.mask, np.arange(runs.count + 1))
    flat = np.stack((runs.start, runs.end), axis=1).ravel()
    rows = (flat[a:b] for a, b in pairwise(bounds.tolist()))
    counts = (np.diff(row, prepend=0, append=size) for row in rows)
    # No trailing zero run: COCO omits it when the mask holds the last pixel.
    return [row[:-1] if row[-1] == 0 and len(row) > 1 else row for row in counts]
