"""Memory that rows are read into."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

PAGE = 4096
START = PAGE // 2


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An uninitialised C-contiguous array that starts in the middle of a page.

    Rows start near the start of a page of their file, and so does a large array from malloc. Where
    source and target lie alike within their pages, loads wait for stores that only seem to overlap
    (4 KiB aliasing): reading takes up to a fifth longer. A small array is an ordinary one.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size < PAGE:
        return np.empty(shape, dtype)
    raw = np.empty(size + PAGE, np.uint8)
    first = (START - raw.ctypes.data) % PAGE
    return raw[first : first + size].view(dtype).reshape(shape)
