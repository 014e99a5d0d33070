"""Photographs of a page, each written once beside it."""

import logging
from pathlib import Path

from ....pipeline.browse.overlay import thumbnail
from ....pipeline.browse.page_kit import ASSETS
from ....pipeline.datasets.images import read_record
from ....pipeline.errors import ImageError, SvpError
from ....pipeline.records import ImageRecord
from ..results import Row

log = logging.getLogger(__name__)


class Photographs:
    """Photographs of `images`, a folder or an address, as files of the page in `folder`.

    A missing one, and every one without `images`, has the address "". `prefix` begins the names of
    the files, where a page has photographs of several places.
    """

    def __init__(self, folder: Path, images: Path | None, prefix: str = "") -> None:
        self._folder, self._images, self._prefix = folder, images, prefix
        self._known: dict[tuple[str, int], tuple[str, tuple[int, int]]] = {}

    def get(self, row: Row) -> tuple[str, tuple[int, int]]:
        """Address, or "", and (width, height) of a row's photograph."""
        key = row.dataset, row.image_id
        if key not in self._known:
            self._known[key] = self._write(
                row, f"{ASSETS}/{self._prefix}{len(self._known) + 1:04d}.webp"
            )
        return self._known[key]

    def _write(self, row: Row, name: str) -> tuple[str, tuple[int, int]]:
        if self._images is None:
            return "", (0, 0)
        record = ImageRecord(row.image_id, row.path, row.height, row.width)
        try:
            data, size = thumbnail(read_record(self._images, record))
        except ImageError:
            return "", (0, 0)  # moved since: the outlines still say much
        except SvpError as error:  # the service that holds them: it would fail for each
            log.warning(f"the page is without photographs: {error}")
            self._images = None
            return "", (0, 0)
        (self._folder / name).write_bytes(data)
        return name, size
