"""The slow path: one row through zarr-python, for an array someone recompressed.

Only called after `metadata.check_array` accepted the zarr.json, so every codec is of the allow-list.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CacheError
from ..text import show


def read_with_zarr(array: Path, i: int, out: NDArray[Any]) -> None:
    """Row `i` of the Zarr array at `array` into `out`. Raises CacheError if it cannot be decoded."""
    try:
        out[...] = np.asarray(_open(array)[i])
    # zarr-python lets each codec's own exception through; all mean that the bytes are not usable.
    except (ValueError, RuntimeError, OSError, TypeError, KeyError) as error:
        raise CacheError(f"{show(str(array), 300)}: cannot be read: {show(str(error))}") from None


@lru_cache(maxsize=64)
def _open(array: Path) -> Any:
    from zarr import open_array

    return open_array(array, mode="r")
