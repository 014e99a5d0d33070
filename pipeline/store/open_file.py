"""An open file of a file system, and what tells one version of it from another."""

import os
from collections.abc import Sequence
from pathlib import Path

import xxhash

from ..display import show
from ..errors import CacheError
from ..io.binary import read_at

MAKER = "user.svp.maker"
BLOCK = 1 << 20


class OpenFile:
    """`File` of an open descriptor, which is closed when the last user lets go of the object."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: Path) -> None:
        self.fd, self.path = fd, path

    def __del__(self) -> None:
        os.close(self.fd)

    def tail(self, n: int) -> tuple[bytes, int]:
        try:
            size = os.fstat(self.fd).st_size
            data = bytearray(min(n, size))
            done = read_at(self.fd, [memoryview(data)], size - len(data)) if data else 0
        except OSError as error:
            raise unreadable(self.path, error) from None
        return bytes(data[:done]), size

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        try:
            return read_at(self.fd, views, offset)
        except OSError as error:
            raise unreadable(self.path, error) from None


def unreadable(path: Path, error: OSError) -> CacheError:
    return CacheError(f"{show(str(path), 300)}: cannot be read: {error.strerror}")


def digest_of(fd: int) -> tuple[int, str]:
    digest, buffer, size = xxhash.xxh3_64(), bytearray(BLOCK), 0
    while done := os.preadv(fd, [buffer], size):
        digest.update(memoryview(buffer)[:done])
        size += done
    return size, digest.hexdigest()


def tag_of(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def maker_of(fd: int) -> str:
    try:
        return os.getxattr(fd, MAKER).decode(errors="replace")
    except (OSError, AttributeError):
        return ""
