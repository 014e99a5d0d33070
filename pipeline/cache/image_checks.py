"""Checks of an image list's columns, which may come from anyone; block by block, so that little of
them is in memory at a time.
"""

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..display import show
from ..errors import ConfigError

MAX_IMAGES = 1 << 31
MAX_SIDE = 1_000_000
MAX_PATH_BYTES = 16_384
CHECKED = 1 << 16  # images whose paths are checked at a time


def release(column: NDArray[Any]) -> None:
    """Let go of a mapped column's pages, which were read for a check; the system has them still."""
    base: Any = column
    while isinstance(base, np.ndarray):
        base = base.base
    owner = base.obj if isinstance(base, memoryview) else base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)


def check_columns(columns: Mapping[str, NDArray[Any]]) -> None:
    """Raise ConfigError unless ids are unique, sizes sensible, and paths relative and plain."""
    ids, count = columns["id"], len(columns["id"])
    if count > MAX_IMAGES:
        raise ConfigError(f"plan images: {count:,}, at most {MAX_IMAGES:,}")
    rising = count < 2 or bool((ids[1:] > ids[:-1]).all())
    if not rising and len(np.unique(ids)) != count:
        raise ConfigError("plan images: an image id occurs twice")
    for column, most in ((ids, None), (columns["bytes"], None), (columns["hw"], MAX_SIDE)):
        if count and (column.min() < 0 or (most is not None and column.max() > most)):
            raise ConfigError("plan images: ids, sizes and bytes must be >= 0")
        release(column)
    ends, paths = columns["ends"], columns["paths"]
    if int(ends[-1] if count else 0) != len(paths):
        raise ConfigError("plan images: paths are not as long as they say")
    start = 0
    for first in range(0, count, CHECKED):
        last = min(first + CHECKED, count)
        block = ends[first:last].astype(np.int64)
        sizes = np.diff(block, prepend=start)
        if sizes.min() < 1 or sizes.max() > MAX_PATH_BYTES or block[-1] > len(paths):
            raise ConfigError("plan images: paths must be 1 to 16,384 bytes each")
        _check_paths(paths[start : block[-1]], block - start)
        release(paths)
        release(ends)
        start = int(block[-1])


def _check_paths(paths: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
    """Check paths that lie one after another, each with a NUL at its end."""
    nul, dot = paths == 0, paths == ord(".")
    if paths[ends - 1].any() or np.count_nonzero(nul) != len(ends):
        raise ConfigError("plan image path: must be relative, without .., \\ or NUL")
    # One scan of all paths finds the rare suspect; only then is each looked at.
    before = np.concatenate([[True], nul[:-1]])  # a path begins here
    suspect = (
        (before & (nul | (paths == ord("/")))).any()
        or (dot[1:] & dot[:-1]).any()
        or (paths == ord("\\")).any()
        or (paths.max() > 127 and not _plain(paths.tobytes()))
    )
    if suspect:
        for raw in paths.tobytes()[:-1].split(b"\0"):
            _check_path(raw)


def _plain(every: bytes) -> bool:
    try:
        every.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _check_path(raw: bytes) -> None:
    try:
        path = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise ConfigError(f"plan image path {show(repr(raw))}: not UTF-8") from None
    if not path or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ConfigError(f"plan image path {show(path)}: must be relative, without .. or \\")
