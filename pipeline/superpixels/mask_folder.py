"""Read superpixels from a folder of masks, one file per image.

`DIR/a/b.json`, `.png` or `.npz` belongs to the photograph `a/b.jpg`. What each format holds stands at
its reader below; whatever is wrong in a file is an ImageError that names it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..display import shorten, show
from ..errors import DataError, ImageError, MissingError
from ..masks import rle
from .external import BAD, Given, each

SUFFIXES = (".json", ".png", ".npz")
MAX_FILE = 256 << 20  # bytes of a file of masks
NONE = "no-masks"


def folder_digest(folder: Path) -> str:
    """sha256 over names and bytes of all files of masks in `folder`. Raises MissingError."""
    if not folder.is_dir():
        raise MissingError(f"--masks {show(str(folder), 300)}: is not a folder")
    total, count = hashlib.sha256(), 0
    for path in sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file()):
        with path.open("rb") as file:
            own = hashlib.file_digest(file, "sha256").digest()
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + own)
        count += 1
    if not count:
        raise MissingError(
            f"--masks {show(str(folder), 300)}: no {', '.join(SUFFIXES)} in it: want one file per "
            "photograph, named as it is (a/b.jpg: a/b.json)"
        )
    return f"sha256:{total.hexdigest()}"


def from_folder(folder: Path) -> Callable[..., Given]:
    """Reader of `OwnSource` for a folder of masks. Raises ImageError for a faulty file."""

    def make(image: NDArray[np.uint8], path: str) -> Given:
        file = _file_of(folder, path)
        height, width = image.shape[:2]
        if file.stat().st_size > MAX_FILE:
            raise ImageError(BAD, f"{path}: {file.name}: over {MAX_FILE >> 20} MB of masks")
        where = f"{path}: {show(file.name)}"
        with _named(where):
            given = READERS[file.suffix](file, height, width)
        return replace(given, masks=_guarded(given.masks, where))

    return make


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Whatever is wrong in a file of masks, as an ImageError that names it."""
    try:
        yield
    except ImageError:
        raise
    except (DataError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageError(BAD, f"{where}: {shorten(str(error), 200)}") from None


def _guarded(masks: Iterator[NDArray[np.bool_]], where: str) -> Iterator[NDArray[np.bool_]]:
    with _named(where):
        yield from masks


def _file_of(folder: Path, path: str) -> Path:
    """The file of a photograph's masks: named as it is, its suffix replaced, or added to."""
    stems = [path, os.path.splitext(path)[0]]
    for stem in stems:
        for suffix in SUFFIXES:
            file = folder / f"{stem}{suffix}"
            if path and ".." not in Path(path).parts and file.is_file():
                return file
    raise ImageError(
        NONE, f"{path or 'a photograph outside of the data set'}: no masks: {stems[1]}"
        f"{{{','.join(SUFFIXES)}}} is not in the folder of --masks"
    )  # fmt: skip


def _json(file: Path, height: int, width: int) -> Given:
    """A list of COCO RLEs (or polygons), or of records with `segmentation` as SAM's own tool writes."""
    raw = json.loads(file.read_bytes())
    items = raw.get("masks") if isinstance(raw, dict) and "masks" in raw else raw
    if not isinstance(items, list):
        raise DataError('want a list of masks, or {"masks": [..]}')
    records = [
        i if isinstance(i, dict) and "segmentation" in i else {"segmentation": i} for i in items
    ]

    def mask(number: int, segmentation: object) -> NDArray[np.bool_]:
        found = rle.from_segmentation(segmentation, height, width, f"mask {number}")
        return rle.decode(found).astype(np.bool_)

    def column(name: str, low: float, high: float) -> list[float] | None:
        values: list[Any] = [record.get(name) for record in records]
        if all(value is None for value in values):
            return None
        for number, value in enumerate(values):
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not low <= value <= high
            ):
                raise ValueError(f"mask {number}: {name}={show(value)}: want {low:g} to {high:g}")
        return values

    levels = column("level", 0, 2)
    return Given(
        (mask(number, record["segmentation"]) for number, record in enumerate(records)),
        None if levels is None else [int(level) for level in levels],
        column("predicted_iou", 0, 2),
        column("stability_score", 0, 1),
    )


def _png(file: Path, height: int, width: int) -> Given:
    """A label map: one grey channel of 8 or 16 bits, or a palette; 0 belongs to no superpixel."""
    from PIL import Image

    with Image.open(file, formats=("PNG",)) as image:
        if image.size != (width, height):
            raise ValueError(f"{image.size[1]}x{image.size[0]} pixels, want {height}x{width}")
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise ValueError(f"mode {image.mode}: want one channel of labels")
        labels = np.array(image).astype(np.int64)
    return Given(each(labels, file.name))


def _npz(file: Path, height: int, width: int) -> Given:
    """Array `masks` (N,H,W) bool, or `labels` (H,W) of integers; `level` (N,) beside, if given."""
    with np.load(file, allow_pickle=False) as arrays:
        name = next((n for n in ("masks", "labels") if n in arrays), None)
        if name is None:
            raise ValueError("want an array `masks` (N,H,W) or `labels` (H,W)")
        masks = arrays[name]
        level = [int(value) for value in arrays["level"]] if "level" in arrays else None
    want = (height, width)
    if masks.shape[-2:] != want or masks.ndim != (3 if name == "masks" else 2):
        raise ValueError(f"{name} is {masks.shape}, want {'(N,)+' * (name == 'masks')}{want}")
    if level is not None and (len(level) != len(masks) or not set(level) <= {0, 1, 2}):
        raise ValueError("level: want one of 0, 1, 2 for each mask")
    return Given(each(masks, file.name), level)


READERS: dict[str, Callable[[Path, int, int], Given]] = {
    ".json": _json,
    ".png": _png,
    ".npz": _npz,
}
