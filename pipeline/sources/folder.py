"""A plain folder of photographs, subfolders included.

An image's id is a hash of its relative path, not its place in a list: adding a photograph leaves
the ids of all others, and so their cache rows, as they were.
"""

import hashlib
import os
from pathlib import Path

from ..errors import DataError, ImageError, MissingError
from ..images import IMAGE_SUFFIXES, image_size
from ..paths import check_name, safe_join
from ..text import show
from .problems import Problems
from .tables import Dataset, ImageEntry


def read_folder(root: Path) -> Dataset:
    """Every .jpg, .jpeg, .png and .webp file under `root` (hidden ones aside), sorted by path.

    Files that cannot be examined are listed with size 0 and a notice. MissingError if there is
    none; DataError for names that are unsafe and for links that lead outside.
    """
    names = image_names(root)
    if not names:
        raise MissingError(
            f"{show(str(root), 300)}: no image ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    problems = Problems(show(str(root), 300))
    notices: list[str] = []
    images = [examine(root, name, root.name, problems, notices) for name in names]
    problems.raise_if_any()
    found = {entry.image_id: entry for entry in images}
    if len(found) != len(images):
        raise DataError(f"{show(str(root), 300)}: two file names share an id: rename one")
    return Dataset(
        kind="folder",
        name=root.resolve().name,
        split_by="",
        root=root,
        images=tuple(found[image_id] for image_id in sorted(found)),
        notices=tuple(notices),
    )


def examine(
    root: Path, name: str, dataset: str, problems: Problems, notices: list[str]
) -> ImageEntry:
    """The table row of one file: its size from the header, or 0 and a notice if unreadable."""
    height = width = 0
    try:
        height, width = image_size(safe_join(root, check_name(name, "image"), "image"))
    except ImageError as error:
        notices.append(f"will be quarantined: {error}")
    except DataError as error:
        problems.add(error)
    return ImageEntry(dataset, path_id(name), name, height, width)


def path_id(name: str) -> int:
    """Image id of a relative path: 53 bits of sha256, so that JSON readers keep it exact.

    >>> path_id("a.jpg") == path_id("a.jpg") != path_id("b.jpg")
    True
    """
    return (
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
        >> 11
    )


def image_names(root: Path) -> list[str]:
    """Relative POSIX paths of the image files under `root`, sorted; links to folders not walked."""
    names: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(folder).relative_to(root)
        names += [(base / name).as_posix() for name in files if is_image_name(name)]
    return sorted(names)


def is_image_name(name: str) -> bool:
    """Whether the extension is one we read and the file is not hidden."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
