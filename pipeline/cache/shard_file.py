"""Shard file of a Zarr v3 array: encode it, and read one row by offset.

Layout: the rows' encoded bytes in order, then 64 pairs (offset, nbytes) of u64 and their crc32c. A
row that has no image (quarantined, or past the end) has the pair (2^64-1, 2^64-1). The encoder is
byte-identical to zarr-python's (a test holds that), without its per-row cost; a good image always
has a chunk, even if all its values are zero. Arrays that someone recompressed are read through
zarr-python, after `zarr_metadata.check_document` accepted their codecs.

At most 128 shard files of a folder are open, shared by all threads of a process: a cache of 1,849
shards and a dozen arrays has more files than a process may open, and opening per read costs 6 %. Of
an object store small files are kept in memory instead, up to 2 GiB. An evicted file is closed by its
last reader.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray

from ..display import show
from ..errors import CacheError, MissingError
from ..io.binary import crc32c, zstd_content_size
from ..store import FolderStore, Store, WholeFile
from .row_tier import TierFile
from .schema import ArraySpec

Array = NDArray[Any]
EMPTY = (1 << 64) - 1
CRC_BYTES = 4
MAX_FILE_BYTES = 4 << 30
MOST_OPEN = 128
HELD_BYTES = 2 << 30  # of files in memory: all small arrays of COCO's training images
INDEX_BYTES = 200  # of a row in the index of an open file
# A zstd frame never grows its content by more than a header and 3 bytes per 128 kB block.
FRAME_SLACK = 1024


def encode_shard(
    spec: ArraySpec, rows: Sequence[Array | None], shard_size: int
) -> list[bytes | memoryview]:
    """The buffers of one shard file, to be written one after another.

    rows: at most `shard_size` arrays of shape (n, *spec.row[1:]), n <= spec.row[0] (compressed
    rows are padded here with zeros), or None where there is no image. Raises CacheError on another type or shape.
    """
    buffers: list[bytes | memoryview] = []
    index = np.full((shard_size, 2), EMPTY, "<u8")
    scratch = np.zeros(spec.row, spec.numpy)
    offset = 0
    for i, row in enumerate(rows):
        if row is not None:
            parts = _encode_row(spec, row, scratch)
            size = sum(map(len, parts))
            index[i] = offset, size
            offset += size
            buffers += parts
    table = index.tobytes()
    return [*buffers, table, crc32c(table).to_bytes(CRC_BYTES, "little")]


class ShardFile:
    """An open shard file. Reads are positional: safe from many threads and after a fork.

    It is closed when the last user lets go of the object, so an eviction from a cache of open files
    can never close it under a reader. On an object store a file of small compressed rows is read whole:
    one request for 64 images. `kept` is its file in a row tier, which keeps larger ones whole as well.
    """

    __slots__ = ("file", "index", "key", "path", "spec", "weight")

    def __init__(
        self,
        cache: Store,
        key: str,
        spec: ArraySpec,
        shard_size: int,
        kept: TierFile | None = None,
    ) -> None:
        self.key, self.path, self.spec = key, cache.where(key), spec
        try:
            if isinstance(cache, FolderStore):
                self.file, self.weight = cache.open(key), HELD_BYTES // MOST_OPEN
            elif spec.level is None or not (spec.small or kept):
                self.file, self.weight = kept or cache.open(key), INDEX_BYTES * shard_size
            else:
                data = kept.whole(MAX_FILE_BYTES) if kept else cache.read(key, MAX_FILE_BYTES)
                self.file, self.weight = WholeFile(data), len(data)
            self.index = self._read_index(shard_size)
        except MissingError:
            raise self.error("missing") from None

    def place(self, slot: int) -> tuple[int, int]:
        """Offset and length of the stored row `slot`. Raises CacheError if it holds none."""
        place = self.index[slot]
        if place is None:
            raise self.error(f"holds no row {slot}")
        return place

    def has(self, slot: int) -> bool:
        """Whether row `slot` of this shard holds an image."""
        return self.index[slot] is not None

    def read(self, slot: int, out: Array, *, verify: bool) -> None:
        """Decode row `slot` into `out`: C-contiguous, `spec.row`, `spec.dtype`.

        `verify` checks the crc32c of an uncompressed row; a zstd row's checksum always is.
        Raises CacheError naming the file; `out` then holds no usable value.
        """
        offset, size = self.place(slot)
        target = out.data.cast("B")
        if self.spec.level is None:
            tail = bytearray(CRC_BYTES)
            self._fill([target, memoryview(tail)], offset, size)
            if verify and crc32c(target) != int.from_bytes(tail, "little"):
                raise self.error(f"row {slot} fails its checksum")
            return
        frame = bytearray(size)
        self._fill([memoryview(frame)], offset, size)
        self.decode(slot, frame, out)

    def decode(self, slot: int, frame: bytearray, out: Array) -> None:
        """A compressed row, fetched by others, into `out`. Raises CacheError as `read`."""
        target = out.data.cast("B")
        if zstd_content_size(frame) != self.spec.row_bytes:
            raise self.error(f"row {slot} is not a zstd frame of {self.spec.row_bytes} bytes")
        try:
            zstd.decompress(frame, target)
        except (RuntimeError, ValueError) as error:
            raise self.error(f"row {slot} cannot be decompressed: {error}") from None

    def accept(self, slot: int, row: Array, crc: bytes | bytearray) -> None:
        """Raise CacheError unless the crc32c of an uncompressed row, fetched by others, is `crc`."""
        if crc32c(row.data.cast("B")) != int.from_bytes(crc, "little"):
            raise self.error(f"row {slot} fails its checksum")

    def error(self, what: str) -> CacheError:
        """A CacheError that names this file and what to do."""
        return CacheError(
            f"{show(self.path, 300)}: {what}: run `svp cache repair`, then the same "
            "`svp precompute` again: only damaged shards are computed again"
        )

    def _read_index(self, shard_size: int) -> list[tuple[int, int] | None]:
        length = 16 * shard_size + CRC_BYTES
        raw, size = self.file.tail(length)
        body = size - length
        if len(raw) < length:
            raise self.error(f"{size} bytes: not a shard file or cut short")
        if crc32c(raw[:-CRC_BYTES]) != int.from_bytes(raw[-CRC_BYTES:], "little"):
            raise self.error("the shard index fails its checksum")
        pairs = np.frombuffer(raw, "<u8", 2 * shard_size).reshape(-1, 2).tolist()
        return [self._checked(offset, size, body) for offset, size in pairs]

    def _checked(self, offset: int, size: int, body: int) -> tuple[int, int] | None:
        if offset == size == EMPTY:
            return None
        spec = self.spec
        exact = size == spec.row_bytes + CRC_BYTES
        fits = exact if spec.level is None else 0 < size <= 2 * spec.row_bytes + FRAME_SLACK
        if not fits or offset + size > body:
            raise self.error(f"the shard index points outside: {size} bytes at {offset}")
        return offset, size

    def _fill(self, views: list[memoryview], offset: int, size: int) -> None:
        done = self.file.read(views, offset)
        if done < size:
            raise self.error(f"cut short: {done} of {size} bytes at {offset}")


def _encode_row(spec: ArraySpec, row: Array, scratch: Array) -> list[bytes | memoryview]:
    n = len(row)
    fits = n == spec.row[0] if spec.level is None else n <= spec.row[0]
    if row.dtype != spec.numpy or row.shape[1:] != spec.row[1:] or not fits:
        raise CacheError(
            f"array {spec.name}: a row is {row.dtype}{list(row.shape)}, "
            f"the plan says {spec.dtype}{list(spec.row)}"
        )
    if spec.level is not None:
        scratch[:n], scratch[n:] = row, 0
        return [zstd.compress(scratch, spec.level, checksum=True)]
    view = np.ascontiguousarray(row).data.cast("B")
    return [view, crc32c(view).to_bytes(CRC_BYTES, "little")]


Key = tuple[str, int]


class OpenFiles:
    """Least-recently-used map of open shard files; thread-safe, and safe after a fork."""

    def __init__(self, limit: int = HELD_BYTES) -> None:
        self._limit = limit  # of the sum of their weights
        self._reset()

    def __contains__(self, key: Key) -> bool:
        return key in self._files

    def get(self, key: Key, open_file: Callable[[], ShardFile]) -> ShardFile:
        """The open file `key`; `open_file` runs outside the lock and may raise."""
        found = self._files.get(key)
        if found is not None:
            # No lock: each call is one step for other threads, and a whole row takes 90 us.
            try:
                self._files.move_to_end(key)
            except KeyError:  # evicted just now; it stays open while it is used
                pass
            return found
        if self._pid != os.getpid():
            self._reset()  # the parent's lock may stay locked in this child
        opened = open_file()
        with self._lock:
            if key not in self._files:  # another thread may have opened it too
                self._held += opened.weight
            self._files[key] = opened
            while self._held > self._limit and len(self._files) > 1:
                self._held -= self._files.popitem(last=False)[1].weight
        return opened

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._files: OrderedDict[Key, ShardFile] = OrderedDict()
        self._held = 0


def read_with_zarr(cache: Store, array: str, i: int, out: NDArray[Any]) -> None:
    """Row `i` of the Zarr array `array` into `out`. Raises CacheError if it cannot be decoded."""
    where = cache.where(array)
    if not isinstance(cache, FolderStore):
        raise CacheError(
            f"{show(where, 300)}: was recompressed, and such arrays are read from folders only: "
            "copy the cache to one with `svp cache copy`"
        )
    try:
        out[...] = np.asarray(_open(cache.root / array)[i])
    # zarr-python lets each codec's own exception through; all mean that the bytes are not usable.
    except (ValueError, RuntimeError, OSError, TypeError, KeyError) as error:
        raise CacheError(f"{show(where, 300)}: cannot be read: {show(str(error))}") from None


@lru_cache(maxsize=64)
def _open(array: Path) -> Any:
    from zarr import open_array

    return open_array(array, mode="r")
