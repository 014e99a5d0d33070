"""Memory that rows are read into and written from."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

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


def after(views: Sequence[memoryview], done: int) -> list[memoryview]:
    """What is left of `views`, taken as one run of bytes, after its first `done` bytes."""
    rest: list[memoryview] = []
    for view in views:
        if done < len(view):
            rest.append(view[done:])
        done = max(0, done - len(view))
    return rest
