"""Image identity check: compare an image with the cached one by content, not by name.

Ids and names collide: every export of an annotation tool counts from 1, every recording has a
frame 000001.jpg, and an edited picture keeps both. The plan holds the size and hash of each file,
so they decide; a path may differ (a moved folder, `train2014/` before the name). A file is hashed
once: what was found is remembered in the cache's logs by path, size and time of change, which are
no part of the cache.
"""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ...pipeline.cache.layout import LOGS
from ...pipeline.cache.plan import PlanImage
from ...pipeline.datasets.image_roots import other_name
from ...pipeline.datasets.photo_files import PhotoFile, photo_file, place_of
from ...pipeline.errors import CacheError, DataError, ImageError, MissingError
from ...pipeline.precompute.source_images import hash_image
from ...pipeline.records import ImageRecord
from ...pipeline.store import Place, Store, open_store

log = logging.getLogger(__name__)

SEEN = "photos.json"
MAX_BYTES = 1 << 30
TOLD = 2000  # files hashed before the first word about it

Known = dict[str, tuple[int, int, str]]  # absolute path -> bytes, mtime_ns, xxh3
Verdict = Literal["same", "other", "unseen"]


class Photos:
    """Compares the photographs under `root` with plans.

    cache  whose logs remember the hashes; a cache that cannot be written forgets them

    `save` writes what was learnt.
    """

    def __init__(self, root: Path, cache: Place) -> None:
        self.root, self._logs = root, open_store(cache).sub(LOGS)
        self._known = _read(self._logs)
        self._hashed = 0

    def compare(self, record: ImageRecord, image: PlanImage) -> Verdict:
        """Whether `record`'s file is the one that was planned as `image`.

        same    equal content; or a file that the planner could not read either, of the same name
        other   another content; or no file here to compare, and another name
        unseen  no file here to compare, but the same name
        """
        found = self._stat(record)
        if found is None or not image.xxh3:
            names = (record.path, other_name(record.path))
            alike = any(same_name(name, image.path) for name in names)
            return "other" if not alike else "unseen" if found is None else "same"
        path, size, changed = found
        if size != image.bytes:
            return "other"
        return "same" if self._hash(record, path, size, changed) == image.xxh3 else "other"

    def key(self, record: ImageRecord, sizes: frozenset[int]) -> tuple[int, str] | None:
        """(bytes, xxh3) of a file whose size is one of `sizes`, else None."""
        found = self._stat(record)
        if found is None or found[1] not in sizes:
            return None
        return found[1], self._hash(record, *found)

    def save(self) -> None:
        """Remember the hashes, if the cache can be written."""
        if self._hashed:
            with suppress(CacheError, OSError):
                self._logs.replace(SEEN, json.dumps(self._known).encode(), label="photos")
            self._hashed = 0

    def _stat(self, record: ImageRecord) -> tuple[str, int, int] | None:
        try:
            photo = photo_file(self.root, record.path, "image")
            if not isinstance(photo, PhotoFile):  # to read all of a bucket would take hours
                return None
            info = photo.status()
        except (OSError, DataError):
            return None
        # The position is a part of the name: an archive may hold a name twice.
        name = f"{photo}#{photo.first}" if photo.member else str(photo)
        return name, photo.size(info), info.st_mtime_ns

    def _hash(self, record: ImageRecord, path: str, size: int, changed: int) -> str:
        known = self._known.get(path)
        if known is not None and tuple(known[:2]) == (size, changed):
            return known[2]
        self._hashed += 1
        if self._hashed == TOLD:
            log.info("comparing the photographs with those of the cache (remembered afterwards)")
        try:
            _, digest = hash_image(self.root, record)
        except ImageError:
            return ""
        self._known[path] = (size, changed, digest)
        return digest


def same_name(a: str, b: str) -> bool:
    """Whether one path is the end of the other: `x.jpg`, `train2014/x.jpg`.

    >>> same_name("x.jpg", "train2014/x.jpg"), same_name("a1.png", "b/ba1.png")
    (True, False)
    """
    ours, theirs = place_of(a).split("/")[::-1], place_of(b).split("/")[::-1]
    return all(x == y for x, y in zip(ours, theirs, strict=False))


def _read(logs: Store) -> Known:
    """Remembered results; empty if the file is missing or malformed."""
    try:
        raw = json.loads(logs.read(SEEN, MAX_BYTES))
        return {
            str(name): (int(size), int(changed), str(digest))
            for name, (size, changed, digest) in raw.items()
        }
    except (CacheError, MissingError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
