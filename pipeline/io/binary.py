"""Complete vectored reads and writes, page-aligned buffers, crc32c, headers of zstd frames.

A system call may do only a part of what it was asked. `awscrt` (extra `fast`) folds 512-bit words
where the processor can: twice the speed of the `crc32c` package, which is the fallback. Both
release the GIL and give the same number.
"""

import os
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

IOV_MAX = 1024  # buffers that Linux and macOS take in one call
ONE_THREAD = 1 << 15  # values that torch converts without waking a second thread


def read_at(fd: int, views: Sequence[memoryview], offset: int) -> int:
    """Fill `views` one after another from `offset`; the bytes read, fewer only at the file's end.

    A signal or a network file system may cut a read.
    """
    size = sum(map(len, views))
    done = os.preadv(fd, views, offset)
    while done < size:
        more = os.preadv(fd, after(views, done), offset + done)
        if more == 0:
            break
        done += more
    return done


def write_all(fd: int, views: Sequence[memoryview]) -> None:
    """Write `views` (of bytes) one after another, in as few calls as can be.

    The page cache then holds the file in large folios. A row and its checksum written one by one
    made every later read a tenth slower (measured on ext4 under Linux 6.18).
    """
    for first in range(0, len(views), IOV_MAX):
        rest = list(views[first : first + IOV_MAX])
        while rest:
            rest = after(rest, os.writev(fd, rest))


def after(views: Sequence[memoryview], done: int) -> list[memoryview]:
    """Rest of `views`, taken as one run of bytes, after the first `done` bytes."""
    rest: list[memoryview] = []
    for view in views:
        if done < len(view):
            rest.append(view[done:])
        done = max(0, done - len(view))
    return rest


PAGE = 4096
START = 512  # 320 to 1,536 are the fastest


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An uninitialised C-contiguous array that starts 512 bytes into a page.

    Row i of a shard starts 4 i bytes into a page of its file, a large array from malloc 16. Reading
    into memory that starts 16 to 256 bytes into a page takes up to a third longer (measured; likely
    4 KiB aliasing: loads wait for stores that only seem to overlap). A small array is an ordinary
    one.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size < PAGE:
        return np.empty(shape, dtype)
    raw = np.empty(size + PAGE, np.uint8)
    first = (START - raw.ctypes.data) % PAGE
    return raw[first : first + size].view(dtype).reshape(shape)


def zstd_content_size(frame: bytes | bytearray) -> int | None:
    """Content size in a zstd frame's header (RFC 8878, 3.1.1.1); None unless it is as ours.

    Ours has the size, a checksum and no dictionary. Without this check a hostile frame with less
    content than the row would leave the rest of the caller's buffer as it was.
    """
    if len(frame) < 6 or frame[:4] != b"\x28\xb5\x2f\xfd" or frame[4] & 0b11111 != 0b00100:
        return None
    single = bool(frame[4] & 0b100000)
    code = frame[4] >> 6
    width = (1 if single else 0, 2, 4, 8)[code]
    start = 5 if single else 6
    field = frame[start : start + width]
    return int.from_bytes(field, "little") + (256 if code == 1 else 0) if width else None


try:
    from awscrt.checksums import crc32c
except ImportError:
    from crc32c import crc32c

__all__ = ["crc32c"]


def round_into(values: NDArray[np.float32], out: NDArray[np.float16]) -> None:
    """`values` rounded to float16 in `out`, both of one shape and C-contiguous.

    The same bits as `out[...] = values`. numpy rounds them one by one, torch as many as the
    processor can: 50 times as fast.
    """
    import torch  # here: who reads what is stored as float16 is spared its import

    whole, into = torch.from_numpy(values).view(-1), torch.from_numpy(out).view(-1)
    for start in range(0, len(into), ONE_THREAD):
        into[start : start + ONE_THREAD].copy_(whole[start : start + ONE_THREAD])
