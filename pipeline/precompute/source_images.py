"""Read the images of a plan from disk, files or members of archives; changed ones are refused."""

from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..cache.plan import PlanImage
from ..datasets.images import read_record
from ..datasets.photo_files import photo_file
from ..errors import DataError, ImageError
from ..records import ImageRecord

Pixels = NDArray[np.uint8]


def read_verified(root: Path, image: PlanImage) -> Pixels:
    """The pixels of a plan's image, if its file is still the one that was planned.

    Raises ImageError: `changed`, or a reason of `images.read_image`.
    """
    record = ImageRecord(image.image_id, image.path, image.height, image.width)
    pixels = None
    if not image.xxh3:  # the planner could not read it: say why, or that this has changed
        pixels = read_record(root, record)
    if pixels is not None or hash_image(root, image) != (image.bytes, image.xxh3):
        raise ImageError(
            "changed",
            "the file is not the one that was planned: if that is on purpose, "
            "run again with --retry-quarantined",
        )
    return read_record(root, record)


def hash_image(root: Path, image: PlanImage | ImageRecord) -> tuple[int, str]:
    """(bytes, xxh3_64 hex) of an image's file. Raises ImageError if it cannot be read."""
    try:
        photo = photo_file(root, image.path, f"image {image.image_id}")
    except DataError as error:
        raise ImageError("unsafe-path", str(error)) from None
    digest, size = xxhash.xxh3_64(), 0
    try:
        with photo.open() as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except FileNotFoundError:
        raise ImageError("missing", f"{image.path}: no such file") from None
    except OSError as error:
        raise ImageError("unreadable", f"{image.path}: {error.strerror}") from None
    return size, digest.hexdigest()


def photo_size(root: Path, record: ImageRecord) -> int:
    """Bytes of the image's file, 0 if it cannot be had."""
    try:
        photo = photo_file(root, record.path, "image")
        return photo.size(photo.status())
    except (OSError, DataError):
        return 0
