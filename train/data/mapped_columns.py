"""Mapped columns: the tensors of a safetensors file as arrays over the file itself.

Nothing is copied: the pages belong to the file, the processes of a machine share them, and the
system takes them back when memory is short. Only what is read is ever resident.
"""

import json
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ...pipeline.display import show
from ...pipeline.errors import CacheError

Columns = dict[str, NDArray[np.generic]]

MAX_HEADER = 1 << 20
STEP = 1 << 20  # values looked at together
# The types of the columns that there are, and those of numpy that a damaged file may name.
TYPES = {
    "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F32": np.float32, "F64": np.float64,
}  # fmt: skip


class Mapped:
    """A regular file of 1 to `limit` bytes, mapped read-only; links are refused.

    Raises CacheError naming the file.
    """

    def __init__(self, path: Path, limit: int) -> None:
        where = show(str(path), 300)
        try:
            # O_NONBLOCK: a named pipe must be refused, not waited for.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise CacheError(f"{where}: cannot be read: {error.strerror}") from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise CacheError(f"{where}: not a regular file")
            if not 0 < found.st_size <= limit:
                raise CacheError(f"{where}: {found.st_size} bytes, expected 1 to {limit}")
            self._map = mmap.mmap(fd, found.st_size, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)

    def digest(self) -> str:
        """xxh3_64 of the file."""
        return xxhash.xxh3_64_hexdigest(self._map)

    def columns(self) -> Columns:
        """The tensors by name, all of one dimension. Raises ValueError for another file."""
        size = int.from_bytes(self._map[:8], "little")
        begin = 8 + size
        if not 0 < size <= MAX_HEADER or begin > len(self._map):
            raise ValueError("the header is cut off")
        try:
            header = json.loads(self._map[8:begin])
        except (ValueError, RecursionError):
            raise ValueError("the header is not JSON") from None
        if not isinstance(header, dict):
            raise ValueError("the header is no object")  # noqa: TRY004
        header.pop("__metadata__", None)
        return {name: self._column(begin, name, entry) for name, entry in header.items()}

    def release(self) -> None:
        """Give back the pages that were read; they are read again when they are needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _column(self, begin: int, name: str, entry: Any) -> NDArray[np.generic]:
        match entry:
            case {"dtype": str(kind), "shape": [int(count)], "data_offsets": [int(low), int(high)]}:
                pass
            case _:
                raise ValueError(f"column {show(name)} is not of one dimension")
        if kind not in TYPES:
            raise ValueError(f"column {show(name)} is {show(kind)}")
        dtype = np.dtype(TYPES[kind])
        fits = 0 <= low <= high <= len(self._map) - begin and high - low == count * dtype.itemsize
        if not fits:
            raise ValueError(f"column {show(name)} lies outside the file")
        return np.frombuffer(self._map, dtype, count, begin + low)


def pieces(values: NDArray[np.generic], overlap: int = 0) -> Iterator[NDArray[Any]]:
    """`values` in parts of bounded size, each with the first `overlap` values of the next."""
    for first in range(0, len(values), STEP):
        yield values[first : first + STEP + overlap]
