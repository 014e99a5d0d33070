"""Photographs in object storage: an object of its own, or a member of a tar file there.

A root of photographs is a folder, or an address such as s3://photos/coco, which is kept as a `Path`
too; `pipeline.store` opens it in each process anew. A photograph is read with one request where its
size is known, its header with one request of `HEAD` bytes.

What the service refuses or fails to answer is a CacheError, never a fault of a photograph: no
photograph goes into quarantine because a server was down or credentials had expired.
"""

import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from ..display import counted
from ..errors import CacheError
from ..store import CutShortError, NoBucketError, Read, Stat, Store, is_url, open_store

HEAD = 1 << 16  # bytes of a photograph's first request: its header is nearly always in them
WINDOW = 1 << 14  # bytes of a request in a tar file, of which the headers are read
PIECE = 1 << 24  # bytes of a request where all are wanted
IN_FLIGHT = 32  # photographs read at once
CHUNK = 256  # photographs between two looks at the results
TELL_S = 15.0  # between two lines about the progress

_log = logging.getLogger("svp")
_T = TypeVar("_T")
_Result = TypeVar("_Result")


class EndsEarlyError(OSError):
    """A file or object ends before the photograph in it does."""


@lru_cache(maxsize=64)
def store_of(root: Path) -> Store:
    """The store at a root that is an address. Raises ConfigError for one that no store serves."""
    return open_store(root)


def root_name(root: Path) -> str:
    """A root of photographs as it is shown to people: `Path` writes one slash of an address' two."""
    return store_of(root).where() if is_url(root) else str(root)


def listing(root: Path) -> dict[str, Stat]:
    """Sizes and tags of the objects below an address, by name; empty for a folder, and unasked.

    Without what services keep for a folder itself: an object of its name and a slash, which stores
    list without the slash.
    """
    found: dict[str, Stat] = {}
    tell = Progress()
    for key, stat in store_of(root).stats() if is_url(root) else ():
        found[key] = stat
        tell(f"{root_name(root)}: {counted(len(found), 'object')} listed")
    found.pop("", None)
    if marks := {key for key, stat in found.items() if not stat.bytes}:
        for folder in marks & {key[:at] for key in found for at in _slashes(key)}:
            del found[folder]
    return found


def _slashes(key: str) -> Iterator[int]:
    at = key.find("/")
    while at >= 0:
        yield at
        at = key.find("/", at + 1)


class Progress:
    """Logs what it is called with, at most every `TELL_S` seconds and not at once."""

    def __init__(self) -> None:
        self._due = time.monotonic() + TELL_S

    def __call__(self, line: str) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + TELL_S
            _log.info(line)


def resolved(root: Path) -> Path:
    """A root of photographs without links and the working folder; an address as it is."""
    return root if is_url(root) else root.resolve()


class StoredPhoto:
    """The bytes of object `key`, or of its member `member`: `bytes` of them from `first`.

    bytes  None: as many as the object has, asked for when they are needed

    Its methods raise MissingError if there is no such object, EndsEarlyError if it is shorter,
    CacheError if the service fails. What was read is kept: an instance is for one use.
    """

    def __init__(
        self, store: Store, key: str, member: str = "", first: int = 0, bytes: int | None = None
    ) -> None:
        self.store, self.key, self.member, self.first = store, key, member, first
        self._bytes = bytes
        self._held = bytearray()

    def __str__(self) -> str:
        where = self.store.where(self.key)
        return f"{where}/{self.member}" if self.member else where

    @property
    def name(self) -> str:
        """Name of the object without the folders above it."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Suffix of the photograph's name, lower case."""
        return os.path.splitext(self.member or self.key)[1].lower()

    def part(self, member: str, first: int, bytes: int) -> "StoredPhoto":
        """A member of this archive."""
        return StoredPhoto(self.store, self.key, member, first, bytes)

    def examine(self) -> int:
        """Bytes of the photograph."""
        if self._bytes is None:
            self._bytes = _told(lambda: self.store.stat(self.key).bytes)
        return self._bytes

    def fetch(self) -> None:
        """Read all bytes with one request: nothing that follows asks for more."""
        self._hold(self.examine(), whole=True)

    def open(self) -> BinaryIO:
        """The bytes as a file: its head is read first, then all of it if more is wanted."""
        return cast(BinaryIO, _File(self.examine(), self._prefix))

    def open_sparse(self, window: int = WINDOW) -> BinaryIO:
        """The bytes as a file of which parts are read, `window` bytes with a request."""
        if self._held:
            return self.open()
        return cast(BinaryIO, _File(self.examine(), _Window(self, window).read))

    def read(self, first: int, size: int) -> bytearray:
        """`size` bytes from byte `first` of the photograph."""
        data = bytearray(size)
        read = Read(self.key, self.first + first, [memoryview(data)])
        if size:
            _told(lambda: self.store.read_many([read]))
        return data

    def _prefix(self, first: int, size: int) -> memoryview:
        self._hold(first + size, whole=bool(self._held))
        return memoryview(self._held)[first : first + size]

    def _hold(self, end: int, *, whole: bool) -> None:
        """Read on, if needed, until `end` bytes are held."""
        have, size = len(self._held), self.examine()
        if end > have and have < size:
            stop = size if whole else min(size, max(end, HEAD))
            # A new object: views of the one before may still be in use.
            self._held = self._held + self.read(have, stop - have)


class _Window:
    """The part of a file that was read last."""

    def __init__(self, photo: StoredPhoto, window: int) -> None:
        self._photo, self._window = photo, window
        self._first, self._data = 0, bytearray()

    def read(self, first: int, size: int) -> memoryview:
        if not self._first <= first <= first + size <= self._first + len(self._data):
            wanted = min(max(size, self._window), self._photo.examine() - first)
            self._first, self._data = first, self._photo.read(first, wanted)
        start = first - self._first
        return memoryview(self._data)[start : start + size]


class Section(io.RawIOBase):
    """`size` bytes as a file that can be read and sought; `_read_into` reads a part of them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size, self._at = size, 0

    def _read_into(self, view: memoryview, first: int) -> int:
        """Fill `view` with what starts at byte `first`; the number of bytes that were there."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("negative seek position")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        done = self._read_into(view, self._at) if view else 0
        self._at += done
        return done


class _File(Section):
    """`size` bytes as a file; `get(first, size)` gives a part of them."""

    def __init__(self, size: int, get: Callable[[int, int], memoryview]) -> None:
        super().__init__(size)
        self._get = get

    def _read_into(self, view: memoryview, first: int) -> int:
        view[:] = self._get(first, len(view))
        return len(view)

    def readall(self) -> bytes:  # at once, not in pieces
        data = bytes(self._get(self._at, rest)) if (rest := self._size - self._at) > 0 else b""
        self._at += len(data)
        return data


def in_flight(
    work: Callable[[_T], _Result], items: Iterable[_T], stop: Callable[[], None] = lambda: None
) -> Iterator[list[tuple[_T, _Result]]]:
    """`work` of all `items`, many at once; items with their results, in order, `CHUNK` at a time.

    stop  called again and again; raises to end the work
    """
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        for chunk in batches(items, CHUNK):
            results: list[tuple[_T, _Result]] = []
            for pair in zip(chunk, threads.map(work, chunk), strict=True):
                results.append(pair)
                stop()
            yield results


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """`items` in lists of `size`.

    >>> list(batches("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    waiting = iter(items)
    while part := list(islice(waiting, size)):
        yield part


def _told(call: Callable[[], _T]) -> _T:
    """The result of a request; its errors as the methods of `StoredPhoto` raise them."""
    try:
        return call()
    except NoBucketError as error:  # else it would pass for a photograph that is not there
        raise CacheError(f"{error}: was it deleted, or is the address wrong?") from None
    except CutShortError as error:
        raise EndsEarlyError(str(error)) from None
