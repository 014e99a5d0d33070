"""Memory that rows are read into."""

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
