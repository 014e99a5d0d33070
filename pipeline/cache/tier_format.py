"""Content of a file of the row tier, and whether it is whole.

A sparse copy of a shard file has each row with its crc32c behind it, and the index at its end with
its own; a hole reads as zeros. A file that is kept whole has size and xxh3_64 behind.
"""

import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import xxhash

from ..io.binary import crc32c, read_at
from .tier_writer import CRC

SEAL = 16  # bytes of size and xxh3_64 behind a whole file
NO_CRC = bytes(CRC)


class Fault(Enum):
    """Reasons why the tier does not serve something."""

    ABSENT, DAMAGED = range(2)


def read_row(views: Sequence[memoryview], offset: int, fd: int) -> bool | Fault:
    """Fill `views`, a row and its checksum, from `offset`."""
    # The size first: a file that is just being made gets its size between two looks.
    length, count = os.fstat(fd).st_size, sum(map(len, views))
    if not length or os.pread(fd, CRC, offset + count - CRC) == NO_CRC:
        return Fault.ABSENT
    row, crc = views
    if read_at(fd, views, offset) < count or crc32c(row) != int.from_bytes(crc, "little"):
        return Fault.DAMAGED
    return True


def read_end(n: int, fd: int) -> tuple[bytes, int] | Fault:
    """The last `n` bytes of a sparse copy, where the index of a shard file lies, and its length."""
    length = os.fstat(fd).st_size
    end = os.pread(fd, n, max(0, length - n))
    if not length or end[-CRC:] == NO_CRC:
        return Fault.ABSENT
    return (end, length) if len(end) == n and is_sound(end) else Fault.DAMAGED


def read_whole(fd: int) -> bytes | Fault:
    """The content of a file that is kept whole."""
    length = os.fstat(fd).st_size
    data = bytearray(length)
    done = read_at(fd, [memoryview(data)], 0) if length else 0
    seal = bytes(data[-SEAL:])
    if not length or not any(seal[SEAL // 2 :]):
        return Fault.ABSENT
    body = bytes(memoryview(data)[:-SEAL])
    return body if done == length and seal == seal_of(body) else Fault.DAMAGED


def seal_of(data: bytes) -> bytes:
    """Size and xxh3_64, `SEAL` bytes that stand behind a whole file."""
    return len(data).to_bytes(8, "little") + xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")


def is_sound(index: bytes) -> bool:
    """Whether the index of a shard file has the crc32c at its end."""
    found: int = crc32c(index[:-CRC])
    return found == int.from_bytes(index[-CRC:], "little")


def erase(path: Path, end: int | None, count: int) -> None:
    """Overwrite a checksum that ends at `end` (None: of the file) with zeros: nothing is there."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        length = os.fstat(fd).st_size
        end = length if end is None else end
        if count <= end <= length:
            os.pwrite(fd, bytes(count), end - count)
    except OSError:
        pass
    finally:
        os.close(fd)
