"""Write the targets of an expression table: packed bits in files of bounded size."""

from pathlib import Path

import numpy as np

from ...pipeline.io.atomic import write_temp
from ...pipeline.io.binary import crc32c
from ...pipeline.masks.rle import decode
from ...pipeline.records import Rle
from .expression_table import part_names

PART_BYTES = 128 << 20


class Packer:
    """Packed masks in files of bounded size; equal masks are stored once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: list[int] = []
        self.place: list[tuple[int, int, int]] = []  # part, offset, crc32c by target
        self._known: dict[Rle, int] = {}
        self._buffers: list[bytes] = []
        self._size = 0

    def add(self, mask: Rle) -> int:
        """The target number of `mask`."""
        if mask not in self._known:
            data = np.packbits(np.ascontiguousarray(decode(mask)).reshape(-1)).tobytes()
            if self._size + len(data) > PART_BYTES:
                self.flush()
            self._known[mask] = len(self.place)
            self.place.append((len(self.parts), self._size, crc32c(data)))
            self._buffers.append(data)
            self._size += len(data)
        return self._known[mask]

    def flush(self) -> None:
        """Write the masks gathered so far as one file."""
        if self._buffers:
            self.parts.append(self._size)
            name = part_names(self.parts)[-1]
            write_temp(self.path / name, self._buffers, label="targets").commit()
            self._buffers, self._size = [], 0
