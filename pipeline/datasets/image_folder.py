"""Plain folder of images, subfolders and tar files included.

An image's id is a hash of its relative path, not its place in a list: adding a photograph leaves
the ids of all others, and so their cache rows, as they were.
"""

import hashlib
import os
from pathlib import Path

from ..display import show
from ..errors import DataError, MissingError
from ..store import is_url
from .listing import Listing, list_images
from .parquet_rows import MAX_ROWS
from .photo_files import place_of, row_of
from .photo_headers import Photos
from .stored_listing import list_stored
from .stored_photos import root_name
from .tables import Dataset, ImageEntry


def read_folder(root: Path, found: Listing | None = None, *, limit: int | None = None) -> Dataset:
    """Every JPEG, PNG and WEBP file under `root` and in its tar files, sorted by path.

    Files that cannot be examined are listed with size 0 and a notice. Where links lead elsewhere,
    the dataset's root is the folder above all photographs; ids stay those of the paths in `root`.
    An address of object storage is read as a folder is. MissingError if there is none.

    limit  only the first so many, by id, are examined and listed
    """
    found = found or (list_stored(root) if is_url(root) else list_images(root))
    if not found.names:
        passed = "".join(f"; {line}" for line in found.notices())
        raise MissingError(
            f"{show(root_name(root), 300)}: no image in a format that svp reads{passed}"
        )
    name = root.name if is_url(root) else root.resolve().name
    base, paths = _behind_links(found)
    ids = {photo_id(place): place for place in found.names}
    if len(ids) != len(found.names):
        raise DataError(f"{show(root_name(root), 300)}: two file names share an id: rename one")
    chosen = {ids[image_id]: image_id for image_id in sorted(ids)[:limit]}
    places = [place for place in found.names if place in chosen]
    photos, images = Photos(base, found.stats), {}
    headers = photos.look_all([paths.get(place, place) for place in places])
    for place, header in zip(places, headers, strict=True):
        size = header.upright if header else (0, 0)
        image_id = chosen[place]
        images[image_id] = ImageEntry(name, image_id, paths.get(place, place), *size)
    return Dataset(
        kind="folder",
        name=name,
        split_by="",
        root=base,
        images=tuple(images[image_id] for image_id in sorted(images)),
        notices=(*found.notices(), *photos.notices()),
        listed=found.stats,
    )


def photo_id(name: str) -> int:
    """Image id of a photograph of a folder: of its path without its position in an archive.

    The ids of a parquet file's rows follow each other, as rows are read in order: 31 bits of the
    file's path, then the row.
    """
    if (row := row_of(name)) is None:
        return path_id(place_of(name))
    return path_id(row[0]) // MAX_ROWS * MAX_ROWS + row[1]


def path_id(name: str) -> int:
    """Image id of a relative path: 53 bits of sha256, so that JSON readers keep it exact.

    >>> path_id("a.jpg") == path_id("a.jpg") != path_id("b.jpg")
    True
    """
    return (
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
        >> 11
    )


def _behind_links(found: Listing) -> tuple[Path, dict[str, str]]:
    """The folder of all images, and the paths in it of those whose names differ."""
    if not found.targets:
        return found.root, {}
    real = os.path.realpath(found.root)
    base = os.path.commonpath((real, *map(os.path.dirname, found.targets.values())))
    paths = {name: os.path.join(real, name) for name in found.names} | found.targets
    return Path(base), {
        name: Path(path).relative_to(base).as_posix() for name, path in paths.items()
    }
