"""Image roots: the known folder layouts, tried in a fixed order.

COCO file names carry no folder, so the root is found by trying: given folders first, then the
layouts of COCO itself, GLaMM and LISA beside the annotations.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ..display import counted, show
from ..errors import DataError, MissingError
from ..records import ImageRecord
from ..store import Stat, is_url
from .photo_files import row_of
from .stored_photos import listing, root_name
from .tables import Dataset

LAYOUTS = {
    ".": "directly in the folder",
    "images": "images/",
    "train2014": "COCO train2014/",
    "train2017": "COCO train2017/",
    "val2014": "COCO val2014/",
    "val2017": "COCO val2017/",
    "images/train2014": "ReLA images/train2014/",
    "trainval2014": "Ref-ZOM trainval2014/",
    "unlabeled2017": "COCO unlabeled2017/",
    "saiapr_tc-12": "RefCLEF saiapr_tc-12/",
    "images/saiapr_tc-12": "REFER images/saiapr_tc-12/",
    "coco_2014/train2014": "GLaMM coco_2014/train2014/",
    "coco_2017/train2017": "GLaMM coco_2017/train2017/",
    "images/mscoco/images/train2014": "LISA images/mscoco/images/train2014/",
    "refer_seg/images/mscoco/images/train2014": "LISA refer_seg/images/mscoco/images/train2014/",
}
_PROBES = 50
_OLD = re.compile(r"COCO_(?:train|val)2014_(\d{12}\.jpg)")
_NEW = re.compile(r"\d{12}\.jpg")


@dataclass(frozen=True, slots=True)
class Found:
    """An image root, the layout that matched, and whether files bear COCO's other name there.

    listed  sizes and tags of its files by name, where it is an address of object storage
    """

    root: Path
    layout: str
    renamed: bool = False
    listed: Mapping[str, Stat] = field(default_factory=dict, repr=False)

    def rename(self, records: Sequence[ImageRecord]) -> tuple[ImageRecord, ...]:
        """The records with the names their files have here."""
        if not self.renamed:
            return tuple(records)
        return tuple(replace(record, path=other_name(record.path)) for record in records)


def find_images(names: Sequence[str], images: Path | None, near: Iterable[Path]) -> Found:
    """The folder that holds the files `names` (relative, checked).

    `images` alone is searched if given, else `near` (the annotations' folder and those above).
    `images` may be an address, which is listed once. The folder with most of a spread of 50 names wins; ties go to the first in `LAYOUTS`' order.
    COCO gave its photographs of 2014 new names in 2017: where not one has its own, the other is
    tried. MissingError lists where it looked when not one file of `names` was found.
    """
    bases = [images] if images is not None else list(dict.fromkeys(near))
    places = _Places(images if images is not None and is_url(images) else None)
    if images is not None and not places.is_folder(images):
        raise MissingError(
            f"no object below {show(root_name(images), 300)}: is the prefix right?"
            if is_url(images)
            else f"no image folder {show(str(images), 300)}"
        )
    step = max(1, len(names) // _PROBES)
    others = [other_name(name) for name in names]
    tries = [(names[::step], False), (names, False)]
    if others != list(names):
        tries += [(others[::step], True), (others, True)]
    for probe, renamed in tries:
        here = [Found(b / folder, label) for b in bases for folder, label in LAYOUTS.items()]
        here = [found for found in here if places.is_folder(found.root)]
        best = max(here, key=lambda found: places.hits(found.root, probe), default=None)
        if best is not None and places.hits(best.root, probe):
            return replace(best, renamed=renamed, listed=places.listed(best.root))
    looked = ", ".join(show(root_name(base), 200) for base in bases)
    example = show(names[0]) if names else "none"
    also = f", also as {show(others[0])}" if others != list(names) else ""
    raise MissingError(
        f"none of {counted(len(names), 'image')} (such as {example}{also}) found in {looked}, "
        f"nor in its folders {', '.join(list(LAYOUTS)[1:])}: give the folder with --images"
    )


def other_name(name: str) -> str:
    """The name of a COCO photograph in the other of the releases of 2014 and 2017.

    Its number is its id in both. Other names stay; which part of 2014 a name of 2017 was in is not
    to be seen, but every RefCOCO image is of train2014.

    >>> other_name("COCO_train2014_000000000009.jpg"), other_name("000000000009.jpg")
    ('000000000009.jpg', 'COCO_train2014_000000000009.jpg')
    >>> other_name("a.jpg")
    'a.jpg'
    """
    if match := _OLD.fullmatch(name):
        return match[1]
    return f"COCO_train2014_{name}" if _NEW.fullmatch(name) else name


def image_root(datasets: Sequence[Dataset], images: Path | None, names: Sequence[str]) -> Found:
    """Find the image root of loaded data sets; JSONL files and folders define their own."""
    first = datasets[0]
    if first.kind in ("folder", "jsonl"):
        root = images if images is not None and first.kind == "jsonl" else first.root
        return Found(root, "own", listed=first.listed)
    if names and row_of(names[0]):  # rows of the data set's own parquet files
        return Found(first.root, "own rows")
    if not names:
        titles = ", ".join(dataset.title for dataset in datasets)
        raise DataError(f"{show(titles)}: holds no image")
    return find_images(names, images, (a for d in datasets for a in _around(d.root)))


def _around(folder: Path) -> tuple[Path, ...]:
    here = folder.resolve()
    return (here, here.parent, here.parent.parent)


class _Places:
    """Folders and files of this machine, or those listed below an address."""

    def __init__(self, address: Path | None) -> None:
        self._address = address
        self._stats = listing(address) if address is not None else {}
        above = {parent for key in self._stats for parent in PurePosixPath(key).parents}
        self._folders = {str(folder) for folder in above}

    def is_folder(self, path: Path) -> bool:
        if self._address is None:
            return path.is_dir()
        return path.relative_to(self._address).as_posix() in self._folders

    def hits(self, root: Path, names: Sequence[str]) -> int:
        if self._address is None:
            # os.path: a name too long for the disk is no file, not an OSError
            return sum(os.path.isfile(root / name) for name in names)
        before = self._before(root)
        return sum(before + name in self._stats for name in names)

    def listed(self, root: Path) -> dict[str, Stat]:
        """Sizes and tags by name below `root`."""
        if self._address is None:
            return {}
        before = self._before(root)
        return {
            key.removeprefix(before): stat
            for key, stat in self._stats.items()
            if key.startswith(before)
        }

    def _before(self, root: Path) -> str:
        below = root.relative_to(self._address or root).as_posix()
        return "" if below == "." else f"{below}/"
