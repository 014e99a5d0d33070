"""Codec for COCO run lengths and their compressed string, with checks, in NumPy.

pycocotools 2.0.11 decodes runs that sum to less than H*W into uninitialised bytes, truncates float
counts and trusts the size, so every outside mask passes `check_runs` before its C code sees it.
Runs alternate 0, 1, 0, ... down the columns (column-major), and the first counts zeros. The string
holds each run in groups of five bits, low group first; from the fourth run on, its difference to
the run two before (cocodataset/cocoapi common/maskApi.c, `rleToString`).
"""

import numpy as np
from numpy.typing import NDArray

from ..display import counted, quote
from ..errors import DataError

MAX_SIDE = 8192  # pixels
MAX_GROUPS = 6  # 30 bits: more than MAX_SIDE**2 needs

Runs = NDArray[np.int64]  # (R,) run lengths


def check_runs(counts: object, height: int, width: int, where: str = "mask") -> Runs:
    """Runs (R,) int64 from a list of ints or a compressed string, or a DataError naming `where`.

    Rules: sides 1..8192; every run an int >= 0; at most H*W + 1 runs; sum exactly
    H*W. The runs come back as given: interior zero runs are legal (see `canonical`).
    """
    check_side(height, width, where)
    pixels = height * width
    runs = _as_runs(counts, pixels, where)
    if runs.size > pixels + 1:
        raise DataError(
            f"{where}: {counted(runs.size, 'run')} for {pixels} pixels; at most {pixels + 1}"
        )
    if runs.size and int(runs.min()) < 0:
        raise DataError(f"{where}: run {int(runs.argmin())} is negative ({int(runs.min())})")
    if int(runs.max(initial=0)) > pixels or int(runs.sum()) != pixels:
        total = sum(runs.tolist())
        raise DataError(f"{where}: runs sum to {total}, the image has {height}x{width} = {pixels}")
    return runs


def check_side(height: object, width: object, where: str) -> None:
    """DataError unless both are ints (not bools) in 1..8192."""
    for name, value in (("height", height), ("width", width)):
        if type(value) is not int:
            raise DataError(f"{where}: {name} {quote(value)} is not an integer in 1..{MAX_SIDE}")
        if not 1 <= value <= MAX_SIDE:
            raise DataError(f"{where}: {name} {value} is outside 1..{MAX_SIDE} pixels")


def from_string(counts: bytes | str, where: str = "mask") -> Runs:
    """Runs (R,) int64 of a compressed string. DataError for a character or a cut that is not ours.

    >>> from_string(b"52203").tolist()
    [5, 2, 2, 2, 5]
    """
    chars = _characters(counts, where)
    if chars.size == 0:
        return np.zeros(0, dtype=np.int64)
    ends = np.flatnonzero((chars & 32) == 0)
    if ends.size == 0 or int(ends[-1]) != chars.size - 1:
        raise DataError(f"{where}: the compressed string ends inside a run")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if int(lengths.max()) > MAX_GROUPS:
        raise DataError(f"{where}: the compressed string holds a run of over {5 * MAX_GROUPS} bits")
    shifts = 5 * (np.arange(chars.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((chars & 31) << shifts, starts)
    values -= ((chars[ends] & 16) != 0).astype(np.int64) << (5 * lengths)  # sign extension
    np.cumsum(values[1::2], out=values[1::2])
    np.cumsum(values[2::2], out=values[2::2])
    return values


def to_string(runs: Runs) -> bytes:
    """The compressed string of runs (R,), equal to pycocotools' for the same runs.

    >>> to_string(np.array([5, 2, 2, 2, 5]))
    b'52203'
    """
    values = np.array(runs, dtype=np.int64)
    values[3:] -= np.asarray(runs, dtype=np.int64)[1:-2]
    size = values ^ (values >> 63)  # the magnitude without the sign bit
    lengths = np.ones(values.size, dtype=np.int64)
    limit = 16
    while (larger := size >= limit).any():
        lengths += larger
        limit <<= 5
    column = np.arange(int(lengths.max(initial=1)))
    groups = (values[:, None] >> (5 * column)) & 31  # (R, longest)
    groups |= np.where(column < lengths[:, None] - 1, 32, 0)
    return (groups + 48).astype(np.uint8)[column < lengths[:, None]].tobytes()


def canonical(runs: Runs) -> Runs:
    """The shortest runs of the same pixels: no zero run but the first.

    >>> canonical(np.array([5, 0, 3, 2, 0])).tolist()
    [8, 2]
    """
    values, kept = np.arange(runs.size) & 1, np.flatnonzero(runs)
    runs, values = runs[kept], values[kept]
    if runs.size == 0:
        return runs
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    merged = np.add.reduceat(runs, starts)
    return np.concatenate(([0], merged)) if values[0] else merged


def _as_runs(counts: object, pixels: int, where: str) -> Runs:
    if isinstance(counts, bytes | str):
        if len(counts) > MAX_GROUPS * (pixels + 1):
            raise DataError(f"{where}: the compressed string is longer than its {pixels} pixels")
        return from_string(counts, where)
    if isinstance(counts, np.ndarray) and counts.ndim == 1 and counts.dtype.kind in "iu":
        return counts.astype(np.int64)
    if not isinstance(counts, list | tuple):
        raise DataError(f"{where}: counts {quote(counts)} is neither a list nor a string")
    if len(counts) > pixels + 1:
        raise DataError(
            f"{where}: {counted(len(counts), 'run')} for {pixels} pixels; at most {pixels + 1}"
        )
    for index, run in enumerate(counts):
        if type(run) is not int or not 0 <= run <= pixels:
            raise DataError(f"{where}: run {index} is {quote(run)}, not an integer in 0..{pixels}")
    return np.array(counts, dtype=np.int64)


def _characters(counts: bytes | str, where: str) -> Runs:
    raw = counts if isinstance(counts, bytes) else counts.encode("utf-8", "replace")
    chars = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    wrong = np.flatnonzero((chars < 0) | (chars > 63))
    if wrong.size:
        quoted = raw[:2] in (b"b'", b'b"')
        hint = ": it is Python's b'...' as text: write counts.decode()" if quoted else ""
        raise DataError(f"{where}: byte {int(wrong[0])} of the compressed string is not RLE{hint}")
    return chars
