"""Read the images of a plan: files, members of archives, objects; changed ones are refused."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..cache.plan import PlanImage
from ..datasets.images import MAX_BYTES, read_image
from ..datasets.photo_files import Photo, photo_file
from ..datasets.stored_photos import PIECE, EndsEarlyError, StoredPhoto
from ..errors import DataError, ImageError
from ..records import ImageRecord
from ..store import is_url

FETCHED_AT_ONCE = 16  # photographs of a batch that are read from object storage together

Pixels = NDArray[np.uint8]


def read_verified(root: Path, image: PlanImage, photo: Photo | None = None) -> Pixels:
    """The pixels of a plan's image, if its file is still the one that was planned.

    photo  of `fetch`, whose bytes may be there already

    Raises ImageError: `changed`, or a reason of `images.read_image`. CacheError if the service that
    holds it fails, which is no fault of the image.
    """
    record = ImageRecord(image.image_id, image.path, image.height, image.width)
    photo = photo or _find(root, image)
    pixels = None
    if not image.xxh3:  # the planner could not read it: say why, or that this has changed
        pixels = read_image(photo, record)
    try:
        same = pixels is None and _hash(photo, image.path) == (image.bytes, image.xxh3)
    except EndsEarlyError:  # a shorter object has its name
        same = False
    if not same:
        raise ImageError(
            "changed",
            "the file is not the one that was planned: if that is on purpose, "
            "run again with --retry-quarantined",
        )
    return read_image(photo, record)


def fetch(root: Path, images: Mapping[int, PlanImage]) -> dict[int, Photo]:
    """The photographs of a batch that lie in object storage, read together; none of a folder.

    Raises CacheError if the service fails. What is wrong with a photograph is told by
    `read_verified`.
    """
    if not is_url(root):
        return {}
    found: dict[int, Photo] = {}
    for row, image in images.items():
        with suppress(ImageError):
            found[row] = _find(root, image)
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as threads:
        for _ in threads.map(_fetch, found.values()):
            pass
    return found


def _fetch(photo: Photo) -> None:
    # A photograph that is not there, or no longer in full, is judged when its turn comes.
    with suppress(FileNotFoundError, EndsEarlyError):
        if isinstance(photo, StoredPhoto) and photo.examine() <= MAX_BYTES:
            photo.fetch()


def hash_image(
    root: Path, image: PlanImage | ImageRecord, bytes: int | None = None
) -> tuple[int, str]:
    """(bytes, xxh3_64 hex) of an image's file. Raises ImageError if it cannot be read.

    bytes  its size in object storage, which is then not asked for
    """
    try:
        return _hash(_find(root, image, bytes), image.path)
    except EndsEarlyError:
        raise ImageError("truncated", f"{image.path}: ends early") from None


def photo_size(root: Path, record: ImageRecord) -> int:
    """Bytes of the image's file, 0 if it cannot be had."""
    try:
        return photo_file(root, record.path, "image").examine()
    except (OSError, DataError):
        return 0


def _find(root: Path, image: PlanImage | ImageRecord, bytes: int | None = None) -> Photo:
    size = bytes or getattr(image, "bytes", 0) or None
    try:
        return photo_file(root, image.path, f"image {image.image_id}", size)
    except DataError as error:
        raise ImageError("unsafe-path", str(error)) from None


def _hash(photo: Photo, path: str) -> tuple[int, str]:
    digest, size = xxhash.xxh3_64(), 0
    try:
        with photo.open_sparse(PIECE) as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except FileNotFoundError:
        raise ImageError("missing", f"{path}: no such file") from None
    except EndsEarlyError:
        raise
    except OSError as error:
        raise ImageError("unreadable", f"{path}: {error.strerror}") from None
    return size, digest.hexdigest()
