"""Store in the memory of this process, for tests: the promises of the others without a disk."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Lock

import xxhash

from .protocol import (
    Created,
    File,
    OtherBytesError,
    Parts,
    Read,
    Stat,
    WholeFile,
    bad_size,
    changed,
    check_key,
    cut_short,
    missing,
)

_File = tuple[bytes, str, str, float]  # bytes, tag, maker, seconds since 1970


@dataclass
class _Files:
    """Key -> file of one memory://<name>."""

    lock: Lock = field(default_factory=Lock)
    serial: Iterator[int] = field(default_factory=count)
    found: dict[str, _File] = field(default_factory=dict)


_named: dict[str, _Files] = {}


@dataclass(frozen=True)
class MemoryStore:
    """`memory://<name>`: the same files for every store of that name in this process.

    A copy that another process unpickles starts empty.
    """

    name: str
    prefix: str = ""

    def __str__(self) -> str:
        return self.where()

    def where(self, key: str = "") -> str:
        return "memory://" + "/".join(filter(None, [self.name, self.prefix, key]))

    def sub(self, prefix: str) -> "MemoryStore":
        return MemoryStore(self.name, self._key(prefix))

    def stat(self, key: str) -> Stat:
        data, tag, maker, made = self._get(key)
        return Stat(len(data), tag, maker, made)

    def read(self, key: str, limit: int) -> bytes:
        return self.read_tagged(key, limit)[0]

    def read_tagged(self, key: str, limit: int) -> tuple[bytes, str]:
        data, tag, *_ = self._get(key)
        if not 1 <= len(data) <= limit:
            raise bad_size(self.where(key), len(data), limit)
        return data, tag

    def tail(self, key: str, n: int) -> tuple[bytes, int]:
        data = self._get(key)[0]
        return data[max(0, len(data) - n) :], len(data)

    def open(self, key: str) -> File:
        return WholeFile(self._get(key)[0])

    def digest(self, key: str) -> tuple[int, str]:
        data = self._get(key)[0]
        return len(data), xxhash.xxh3_64_hexdigest(data)

    def read_many(self, reads: Sequence[Read]) -> None:
        for read in reads:
            data = memoryview(self._get(read.key)[0])[read.offset : read.offset + read.bytes]
            if len(data) < read.bytes:
                raise cut_short(self.where(read.key), read, len(data))
            done = 0
            for view in read.views:
                view[:] = data[done : done + len(view)]
                done += len(view)

    def create(
        self, key: str, parts: Parts, *, who: str = "", label: str = "", shard: int | None = None
    ) -> Created:
        data = b"".join(parts)
        digest = xxhash.xxh3_64_hexdigest(data)
        files = self._files()
        with files.lock:
            there = files.found.get(self._key(key))
            if there is None:
                files.found[self._key(key)] = data, str(next(files.serial)), who, time.time()
                return Created(True, len(data), digest)
        if there[0] != data:
            theirs = xxhash.xxh3_64_hexdigest(there[0])
            raise OtherBytesError(self.where(key), digest, theirs, who, there[2])
        return Created(False, len(data), digest)

    def replace(
        self,
        key: str,
        data: bytes,
        if_match: str | None = None,
        *,
        label: str = "",
        shard: int | None = None,
    ) -> str:
        files = self._files()
        with files.lock:
            self._check(key, if_match)
            tag = str(next(files.serial))
            files.found[self._key(key)] = data, tag, "", time.time()
        return tag

    def delete(self, key: str, if_match: str | None = None) -> bool:
        files = self._files()
        with files.lock:
            if self._key(key) not in files.found:
                return False
            self._check(key, if_match)
            del files.found[self._key(key)]
        return True

    def sizes(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return ((key, found.bytes) for key, found in self.stats(prefix))

    def stats(self, prefix: str = "") -> Iterator[tuple[str, Stat]]:
        above = f"{self.prefix}/" if self.prefix else ""
        wanted = f"{self._key(prefix)}/" if prefix else above
        for key, (data, tag, _, made) in list(self._files().found.items()):
            if key.startswith(wanted):
                yield key.removeprefix(above), Stat(len(data), tag, "", made)

    def sizes_of(self, keys: Sequence[str]) -> dict[str, int]:
        found = self._files().found
        return {key: len(found[at][0]) for key in keys if (at := self._key(key)) in found}

    def delete_below(self, prefix: str) -> None:
        for key, _ in list(self.sizes(prefix)):
            self.delete(key)

    def require_create(self) -> None:
        pass

    def tidy(self) -> int:
        return 0

    def _files(self) -> _Files:
        return _named.setdefault(self.name, _Files())

    def _key(self, key: str) -> str:
        check_key(key, self.where())
        return f"{self.prefix}/{key}" if self.prefix else key

    def _get(self, key: str) -> _File:
        try:
            return self._files().found[self._key(key)]
        except KeyError:
            raise missing(self.where(key)) from None

    def _check(self, key: str, if_match: str | None) -> None:
        there = self._files().found.get(self._key(key))
        if if_match is not None and (there is None or there[1] != if_match):
            raise changed(self.where(key))
