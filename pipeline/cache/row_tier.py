"""Row tier: rows of caches in object storage, kept on a local disk once they were fetched.

A file of the tier is a sparse copy of one shard file, with the index and every row where they are
in the original. Nothing says which rows are there: a row's crc32c lies behind it and is compared at
every read, and a hole, which reads as zeros, has none. So no order of writes, no kill and no power
loss makes wrong bytes look right, and nothing is flushed. Files of compressed rows are kept whole,
with size and xxh3_64 behind.

    <folder>/rows-1/<layer's id>/<array>/<shard>-<check of the shard's manifest>

A manifest holds the digests of its files: a shard that was made again with other bytes is another
file here, and copies of a cache share theirs. No error of the disk ends a run: it is told once, and
the rows are fetched.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..display import counted, parse_size, show, size
from ..errors import ConfigError
from ..io.paths import expand
from ..store import Place, Store, is_url
from ..store.protocol import File
from .layers import FEATURES, POOLED, SAM, Layer
from .plan import Plan
from .tier_format import SEAL, Fault, erase, is_sound, read_end, read_row, read_whole, seal_of
from .tier_space import USED, TierSpace
from .tier_writer import CRC, TierWriter

_log = logging.getLogger("svp")

ROWS = "rows-1"  # its number changes with the layout
TOUCH, BEAT = 3600.0, 60.0  # seconds between two notes that a file, and a layer, is in use

_T = TypeVar("_T")


@dataclass(frozen=True)
class TierCounts:
    """Rows and whole files read from the tier, fetched, and found damaged in the tier."""

    served: int = 0
    fetched: int = 0
    damaged: int = 0


class RowTier:
    """A folder on a local disk that keeps rows of caches in object storage, up to `limit` bytes.

    limit  a number, or such as "500GB" or "1.5TiB"

    Any number of processes of a machine may use one folder at once; it may be deleted at any time.
    Methods may be called from many threads. The disk is first touched when a row is read.

    Raises ConfigError if `folder` is an address or lies below a file, or if `limit` is no size.
    """

    def __init__(self, folder: Path | str, limit: int | str) -> None:
        if is_url(folder):
            raise ConfigError(f"tier {show(str(folder), 300)}: give a folder of this machine")
        self.folder, self.limit = expand(folder).absolute(), _bytes_of(limit)
        above = next(p for p in (self.folder, *self.folder.parents) if os.path.lexists(p))
        if not above.is_dir():
            raise ConfigError(
                f"tier {show(str(folder), 300)}: {show(str(above), 300)} is no folder: give one on "
                "a local disk"
            )
        self.root = self.folder / ROWS
        self._layers: dict[str, list[TierLayer]] = {}
        self._counts, self._told = TierCounts(), set[str]()
        self._lock, self._beaten = Lock(), -BEAT
        self._writer = TierWriter(TierSpace(self.root, self.limit), self._mine, self._tell)
        self._keep = self._writer.put

    def __reduce__(self) -> tuple[Callable[[Path, int], "RowTier"], tuple[Path, int]]:
        return _of_process, (self.folder, self.limit)

    @property
    def counts(self) -> TierCounts:
        """Reads of this process so far."""
        return self._counts

    def add(self, layer: Layer, checks: Sequence[str]) -> "TierLayer":
        """Keep rows of a layer from now on.

        checks  of each shard's manifest, "" where there is none
        """
        numbers = np.array([int(check or "0", 16) for check in checks], np.uint64)
        added = TierLayer(self, layer.id[:32], numbers)
        with self._lock:
            self._layers.setdefault(added.name, []).append(added)
        return added

    def require_batch(self, plan: Plan, images: int) -> None:
        """Raise ConfigError unless the rows of so many images fit."""
        kinds = (FEATURES, POOLED, SAM)
        batch = images * sum(
            spec.row_bytes for layer in plan.layers if layer.kind in kinds for spec in layer.arrays
        )
        if batch > self.limit:
            raise ConfigError(
                f"--tier-size {size(self.limit)} holds less than a batch: {counted(images, 'image')} "
                f"of this cache are {size(batch)}; a tier is useful from a large part of what is "
                "read in an epoch"
            )

    def settle(self) -> None:
        """Wait until everything that was fetched so far is written."""
        self._writer.settle()

    def line(self) -> str:
        """The counts as a line for people."""
        counts = self._counts
        damaged = f"; {counts.damaged:,} damaged, fetched again" if counts.damaged else ""
        every = counts.served + counts.fetched
        return (
            f"tier {show(str(self.folder), 200)}: {counts.served:,} of {every:,} reads, the others "
            f"from object storage{damaged}"
        )

    def _read(self, path: Path, read: Callable[[int], _T | Fault], what: str) -> _T | Fault:
        """The result of `read` for the open file; a fault, which is noted, if it cannot be had."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return Fault.ABSENT
        except OSError as error:
            self._unreadable(error)
            return Fault.ABSENT
        try:
            found = read(fd)
        except OSError as error:
            self._unreadable(error)
            found = Fault.DAMAGED
        finally:
            os.close(fd)
        if found is Fault.DAMAGED:
            self._note(damaged=1)
            self._tell(
                "damaged",
                f"tier {show(str(path), 300)}: {what} fails its checksum: fetched again, as "
                "everything that is damaged; what more there is is counted",
            )
        return found

    def _note(self, *, served: int = 0, fetched: int = 0, damaged: int = 0) -> None:
        """Add to the counts, and say from time to time that the layers are in use."""
        with self._lock:
            was, now = self._counts, time.monotonic()
            self._counts = TierCounts(
                was.served + served, was.fetched + fetched, was.damaged + damaged
            )
            due = now - self._beaten >= BEAT
            if due:
                self._beaten = now
            layers = [*self._layers] if due else []
        for name in layers:
            touch(self.root / name / USED)

    def _tell(self, kind: str, line: str, level: int = logging.WARNING) -> None:
        """A line of the log, once for each kind."""
        with self._lock:
            known = kind in self._told
            self._told.add(kind)
        if not known:
            _log.log(level, line)

    def _unreadable(self, error: OSError) -> None:
        where = show(str(self.folder), 300)
        self._tell(
            f"read {error.errno}",
            f"tier {where}: {error.strerror}: what cannot be read is fetched from object storage",
        )

    def _mine(self, layer: str, name: str) -> bool:
        known = self._layers.get(layer)
        return known is None or any(one.holds(name) for one in known)


@dataclass(frozen=True, eq=False)
class TierLayer:
    """The files of one layer of a cache in a tier.

    name    its folder
    checks  (shards,) uint64 check of each shard's manifest, 0 where there is none
    """

    tier: RowTier
    name: str
    checks: NDArray[np.uint64]

    def file(self, array: str, shard: int, store: Store, key: str) -> "TierFile | None":
        """The file of a shard of an array, which is object `key` of the store."""
        check = int(self.checks[shard]) if shard < len(self.checks) else 0
        if not check:
            return None
        path = self.tier.root / self.name / array / f"{shard}-{check:016x}"
        return TierFile(self.tier, path, store, key)

    def holds(self, name: str) -> bool:
        """Whether a file's name is that of one of these shards as they are now."""
        shard, _, check = name.partition("-")
        try:
            return int(self.checks[int(shard)]) == int(check, 16)
        except (ValueError, IndexError):
            return False


class TierFile:
    """A shard file that is read from the tier where it is there, else from the store (`File`).

    A range of `read` is a row and its crc32c.
    """

    __slots__ = ("_end", "_key", "_remote", "_size", "_store", "_tier", "_touched", "path")

    def __init__(self, tier: RowTier, path: Path, store: Store, key: str) -> None:
        self._tier, self.path, self._store, self._key = tier, path, store, key
        self._remote: File = store.open(key)
        self._end, self._size, self._touched = b"", 0, -TOUCH

    def tail(self, n: int) -> tuple[bytes, int]:
        found = self._tier._read(self.path, partial(read_end, n), "the index")
        if isinstance(found, Fault):
            found = self._remote.tail(n)
            if is_sound(found[0]):
                self._tier._keep(self.path, found[1], found[0], 0, [])
        self._end, self._size = found
        return found

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        count = sum(map(len, views))
        if self.serve(views, offset):
            return count
        done = self._remote.read(views, offset)
        if done == count:
            self.keep(views, offset)
        return done

    def serve(self, views: Sequence[memoryview], offset: int) -> bool:
        """Fill `views` with a row and its crc32c, which is right; False if it is not there."""
        found = self._tier._read(self.path, partial(read_row, views, offset), "a row")
        if found is Fault.DAMAGED:
            erase(self.path, offset + sum(map(len, views)), CRC)
        if isinstance(found, Fault):
            return False
        self._served()
        return True

    def keep(self, views: Sequence[memoryview], offset: int) -> None:
        """Have a row that was fetched written, with its crc32c."""
        self._tier._note(fetched=1)
        self._tier._keep(self.path, self._size, self._end, offset, views)

    def whole(self, limit: int) -> bytes:
        """All bytes of a shard file of compressed rows. Raises as `Store.read`."""
        found = self._tier._read(self.path, read_whole, "a file")
        if isinstance(found, bytes):
            self._served()
            return found
        if found is Fault.DAMAGED:
            erase(self.path, None, SEAL)
        data = self._store.read(self._key, limit)
        self._tier._note(fetched=1)
        self._tier._keep(
            self.path, len(data) + SEAL, seal_of(data), 0, [memoryview(data)], whole=True
        )
        return data

    def _served(self) -> None:
        self._tier._note(served=1)
        now = time.monotonic()
        if now - self._touched >= TOUCH:
            self._touched = now
            touch(self.path)


def require_tier(tier: RowTier | None, caches: Sequence[Place], *, live: bool) -> None:
    """Raise ConfigError for a tier that none of the caches needs, or that lies in one of them."""
    if tier is None:
        return
    where = f"--tier {show(str(tier.folder), 200)}"
    if live:
        raise ConfigError(f"{where}: no stored row is read here: leave it out")
    folders = [place for place in caches if isinstance(place, Path)]
    for folder in folders:
        if Path(os.path.realpath(tier.folder)).is_relative_to(os.path.realpath(folder)):
            raise ConfigError(
                f"{where} lies in the cache {show(str(folder), 200)}: give another folder"
            )
    if len(folders) == len(caches):
        known = show(str(folders[0]), 200)
        raise ConfigError(
            f"{where} keeps what is read of caches in object storage, and {known} is a folder of "
            "this machine: leave --tier out"
        )


@cache
def _of_process(folder: Path, limit: int) -> RowTier:
    """The one tier of a folder in this process, for readers that arrive pickled."""
    return RowTier(folder, limit)


def _bytes_of(limit: int | str) -> int:
    try:
        found = parse_size(limit) if isinstance(limit, str) else limit
    except ValueError:
        found = 0
    if found < 1:
        raise ConfigError(f"tier size {show(str(limit))}: give bytes, such as 500GB, 2TB or 1.5TiB")
    return found


def touch(path: Path) -> None:
    """Give a file the current time, if it is there and may be changed."""
    try:
        os.utime(path)
    except OSError:
        pass
