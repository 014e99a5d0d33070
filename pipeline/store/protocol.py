"""Interface of a store: named files that are made once, read by ranges and never half written.

A cache needs few operations of the place it lies in, and the same guarantees of each: a folder of a
file system, a bucket, and the memory of a test process. `create` is the one that matters: no writer
can replace what another has made, so files of two writers are never mixed. Two writers with equal
bytes agree; with unequal bytes the second is told so, by name.
"""

import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ..display import show
from ..errors import CacheError, DataError, MissingError
from ..io.atomic import PARTIAL, may_live, writer_id
from ..io.paths import check_name

MAX_KEY_BYTES = 1024  # of S3, the shortest of the three services
PIECE = 16 << 20  # bytes of one request of a whole file
TOGETHER = 8  # such requests at once: 128 MB in memory
MAX_MAKER = 300  # characters; object metadata are HTTP headers, of 2 kB together

Parts = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Read:
    """One range: `views` (writable, of bytes) are filled one after another from `offset`."""

    key: str
    offset: int
    views: Sequence[memoryview]

    @property
    def bytes(self) -> int:
        """Length of the range."""
        return sum(map(len, self.views))


@dataclass(frozen=True, slots=True)
class Stat:
    """A file: its size, the tag of this version, who made it and when.

    tag    "" where the place gives none: nothing can be compared with it then
    maker  "" where it is not known
    made   seconds since 1970 by the clock of the place
    """

    bytes: int
    tag: str
    maker: str = ""
    made: float = 0.0


@dataclass(frozen=True, slots=True)
class Created:
    """The outcome of `create`: size and xxh3_64 (hex) of the file.

    made  False: another writer, or an earlier attempt, has made it with the same bytes
    """

    made: bool
    bytes: int
    xxh3: str


class OtherBytesError(CacheError):
    """A file to create exists with other bytes: two writers have computed different values.

    ours, theirs  xxh3_64 (hex) of what was to be written and of what is there
    who, maker    this writer, and the one that made the file
    """

    def __init__(self, where: str, ours: str, theirs: str, who: str, maker: str) -> None:
        self.where, self.ours, self.theirs, self.who, self.maker = where, ours, theirs, who, maker
        super().__init__(
            f"{show(where, 300)}: exists with other bytes: {show(theirs)} by "
            f"{show(maker, MAX_MAKER) or 'a writer that left no name'}, now {show(ours)} by "
            f"{show(who, MAX_MAKER) or 'this process'}: compute one cache on one kind of device, "
            "with the same libraries; of what no manifest names a cache is freed by `svp cache repair`"
        )

    def __reduce__(self) -> tuple[type["OtherBytesError"], tuple[str, str, str, str, str]]:
        return type(self), (self.where, self.ours, self.theirs, self.who, self.maker)


class CutShortError(CacheError):
    """A file ends before a range of it does."""


class NoBucketError(MissingError):
    """There is no such bucket: nothing in it is missing."""


class ChangedError(CacheError):
    """A file to replace or delete is not the version that was read: another process was first."""


class File(Protocol):
    """A file opened for ranges, by many threads at once. It may be read while it is deleted."""

    def tail(self, n: int) -> tuple[bytes, int]:
        """The last `n` bytes (all, if there are fewer) and the size."""
        ...

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill `views` one after another from `offset`; the number of bytes that were there."""
        ...


@dataclass(frozen=True)
class WholeFile:
    """A file whose bytes are in memory."""

    data: bytes

    def tail(self, n: int) -> tuple[bytes, int]:
        return self.data[max(0, len(self.data) - n) :], len(self.data)

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        done = 0
        for view in views:
            part = self.data[offset + done : offset + done + len(view)]
            view[: len(part)] = part
            done += len(part)
        return done


class Store(Protocol):
    """Files by key: `/`-separated relative names. All methods may be called from many threads.

    A store can be pickled. Every method raises DataError for a key that is no safe name, and
    CacheError where the place refuses or does not answer; messages name the file.
    """

    def where(self, key: str = "") -> str:
        """Path or address of a file, as it is shown to people."""
        ...

    def sub(self, prefix: str) -> "Store":
        """The store of what lies below `prefix`."""
        ...

    def stat(self, key: str) -> Stat:
        """Size, tag and maker. Raises MissingError."""
        ...

    def read(self, key: str, limit: int) -> bytes:
        """The whole file. Raises MissingError; CacheError if it has not 1 to `limit` bytes."""
        ...

    def read_tagged(self, key: str, limit: int) -> tuple[bytes, str]:
        """`read`, and the tag of the version that was read."""
        ...

    def tail(self, key: str, n: int) -> tuple[bytes, int]:
        """The last `n` bytes (all, if there are fewer) and the size. Raises MissingError."""
        ...

    def open(self, key: str) -> File:
        """The file, for reading ranges. Raises MissingError, from here or from its first read."""
        ...

    def digest(self, key: str) -> tuple[int, str]:
        """Size and xxh3_64 (hex), from every byte, in bounded memory. Raises MissingError."""
        ...

    def read_many(self, reads: Sequence[Read]) -> None:
        """Fill the views of all `reads`, on an object store with all requests in flight.

        Raises MissingError, or CacheError if a file ends before a range does; the views then hold
        no usable value.
        """
        ...

    def create(
        self, key: str, parts: Parts, *, who: str = "", label: str = "", shard: int | None = None
    ) -> Created:
        """Make a file that holds `parts`, one after another; durable on return.

        A file that is there stays as it is: with the same bytes this is a success, with others
        OtherBytesError. At no time does the key name a part of the bytes.

        who    this writer, recorded beside the bytes and shown to one that computes other bytes
        label, shard  names of crash points (folders only, for tests)
        """
        ...

    def replace(
        self,
        key: str,
        data: bytes,
        if_match: str | None = None,
        *,
        label: str = "",
        shard: int | None = None,
    ) -> str:
        """Write a file over an older version, whole and durable; the tag of the new version.

        if_match  the older version must have this tag (ChangedError); None: whatever is there
        label, shard  names of crash points (folders only, for tests)
        """
        ...

    def delete(self, key: str, if_match: str | None = None) -> bool:
        """Delete a file, durably; False if there is none.

        if_match  it must have this tag (ChangedError)
        """
        ...

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Key and size of each file below `prefix`, in no order."""
        ...

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        """Key, size, tag and time of each file below `prefix`, in no order.

        A bucket's listing knows less of a version than `stat`: compare tags with its own only.
        """
        ...

    def sizes_of(self, keys: Sequence[str]) -> dict[str, int]:
        """Size of each of the files `keys` that is there, all of one folder and below."""
        ...

    def delete_below(self, prefix: str) -> None:
        """Delete every file below `prefix`, and on a file system its folders."""
        ...

    def require_create(self) -> None:
        """Raise CacheError if the place cannot keep the promise of `create`; leaves nothing."""
        ...

    def tidy(self) -> int:
        """Remove leftovers of writers that died, not those of living ones; their number."""
        ...


@lru_cache(maxsize=1 << 14)
def check_key(key: str, where: str = "store") -> str:
    """`key` if it is a safe relative name of a file in any store. Raises DataError."""
    check_name(key, where)
    parts = key.split("/")
    for broken, rule in (
        ("" in parts or "." in parts, "has an empty or a . component"),
        (
            PARTIAL in key and any(part.endswith(PARTIAL) for part in parts),
            f"has a component that ends in {PARTIAL}",
        ),
        (len(key.encode()) > MAX_KEY_BYTES, f"is longer than {MAX_KEY_BYTES} bytes"),
    ):
        if broken:
            raise DataError(f"{where}: key {show(key)} is refused: it {rule}")
    return key


def pieces(store: Store, key: str, size: int) -> Iterator[memoryview]:
    """The first `size` bytes of a file in order, `PIECE` at a time, `TOGETHER` in flight.

    Raises as `read_many`. A piece is the caller's until it asks for the next.
    """
    step = PIECE * TOGETHER
    for first in range(0, size, step):
        starts = range(first, min(size, first + step), PIECE)
        parts = [memoryview(bytearray(min(PIECE, size - start))) for start in starts]
        store.read_many(
            [Read(key, start, [part]) for start, part in zip(starts, parts, strict=True)]
        )
        yield from parts


def this_writer(device: str = "") -> str:
    """`who` of this process: host, process and, where it computes on one, the device's name."""
    name = f"{platform.node() or 'unknown host'}, process {writer_id()}"
    return f"{name}, {device}" if device else name


def writer_is_gone(who: str) -> bool:
    """Whether the process that called itself so ran on this machine and has ended."""
    found = re.search(r", process ([0-9a-f]{8}-[0-9]+)(?:,|$)", who)
    return found is not None and not may_live(found[1])


def missing(where: str) -> MissingError:
    """The error for a file that is not there."""
    return MissingError(f"{show(where, 300)}: no such file")


def bad_size(where: str, size: int, limit: int) -> CacheError:
    """The error for a whole file of another size than its reader can use."""
    return CacheError(
        f"{show(where, 300)}: {size} bytes, expected 1 to {limit}: the file is damaged"
    )


def cut_short(where: str, read: Read, found: int) -> CutShortError:
    """The error for a range that the file has not in full."""
    return CutShortError(
        f"{show(where, 300)}: cut short: {found} of {read.bytes} bytes at {read.offset}"
    )


def changed(where: str) -> ChangedError:
    """The error for a version that is no longer the one that was read."""
    return ChangedError(
        f"{show(where, 300)}: another process has changed it in the meantime: "
        "run the same command again"
    )
