"""COCO reader: validated records of an instances file, 2014 and 2017 image layouts.

No expressions: every image of the file is listed. `--split train` picks
`annotations/instances_train2017.json` or `..._train2014.json`.
"""

import re
from collections.abc import Container, Iterator
from pathlib import Path

from ..display import quote, show
from ..errors import DataError, MissingError
from ..io.json_files import fingerprint, read_json
from ..io.paths import check_name
from .problems import Faults, Problems
from .tables import Annotation, Dataset, ImageEntry

MAX_IMAGE_SIDE = 1 << 20  # beyond what images.py reads: such an image is quarantined, not an error


def load_instances(
    path: Path, dataset: str, wanted: Container[int] | None, max_failures: int | None
) -> tuple[list[ImageEntry], dict[int, Annotation], Faults]:
    """Images sorted by id, the annotations whose id is in `wanted` (None: all) by id, the faults.

    DataError with every wrong record, if there are more than `max_failures` (see `settle`): ids that are no integers or given twice, unsafe file names,
    sizes, annotations of unknown images. Polygons are not looked at here.
    """
    where = show(str(path), 300)
    raw = read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("images"), list):
        raise DataError(f"{where}: not COCO instances: needs an object with a list `images`")
    problems = Problems(where)
    images = {entry.image_id: entry for entry in _images(raw["images"], dataset, problems)}
    found = raw.get("annotations", [])
    if not isinstance(found, list):
        raise DataError(f"{where}: `annotations` is not a list")
    annotations = {item.ann_id: item for item in _annotations(found, images, wanted, problems)}
    faults = problems.settle(len(raw["images"]) + len(found), max_failures)
    return [images[image_id] for image_id in sorted(images)], annotations, faults


def _images(rows: list[object], dataset: str, problems: Problems) -> Iterator[ImageEntry]:
    seen: set[int] = set()
    for index, row in enumerate(rows):
        try:
            entry = _image(row, dataset, f"images[{index}]")
        except DataError as error:
            problems.add(error)
            continue
        if entry.image_id in seen:
            problems.add(f"images[{index}]: id {entry.image_id} is given twice")
            continue
        seen.add(entry.image_id)
        yield entry


def _image(row: object, dataset: str, where: str) -> ImageEntry:
    record = _record(row, where)
    image_id = integer(record.get("id"), "id", where)
    where = f"{where} (id {image_id})"
    name = check_name(record.get("file_name"), where)
    height = integer(record.get("height"), "height", where, low=1, high=MAX_IMAGE_SIDE)
    width = integer(record.get("width"), "width", where, low=1, high=MAX_IMAGE_SIDE)
    return ImageEntry(dataset, image_id, name, height, width)


def _annotations(
    rows: list[object],
    images: dict[int, ImageEntry],
    wanted: Container[int] | None,
    problems: Problems,
) -> Iterator[Annotation]:
    seen: set[int] = set()
    for index, row in enumerate(rows):
        try:
            record = _record(row, f"annotations[{index}]")
            ann_id = integer(record.get("id"), "id", f"annotations[{index}]")
            if wanted is not None and ann_id not in wanted:
                continue
            made = _annotation(record, ann_id, images)
        except DataError as error:
            problems.add(error)
            continue
        if ann_id in seen:
            problems.add(f"annotation {ann_id} is given twice")
            continue
        seen.add(ann_id)
        yield made


def _annotation(
    record: dict[str, object], ann_id: int, images: dict[int, ImageEntry]
) -> Annotation:
    where = f"annotation {ann_id}"
    image_id = integer(record.get("image_id"), "image_id", where)
    image = images.get(image_id)
    if image is None:
        raise DataError(f"{where}: image_id {image_id} is not among the images")
    if "segmentation" not in record:
        raise DataError(f"{where}: segmentation is missing")
    size = image.height, image.width
    return Annotation(
        image.dataset,
        ann_id,
        image_id,
        *size,
        record["segmentation"],
        crowd=record.get("iscrowd") in (1, True),
    )


def _record(row: object, where: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: {quote(row)} is not an object")
    return row


def integer(value: object, name: str, where: str, *, low: int = 0, high: int = 2**63 - 1) -> int:
    """`value` if it is an int (not a bool) in low..high, else a DataError."""
    if type(value) is not int or not low <= value <= high:
        limits = f"of at least {low}" if high == 2**63 - 1 else f"in {low}..{high}"
        hint = ""
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            hint = f": write {int(value)}"
        raise DataError(f"{where}: {name} {quote(value)} is not an integer {limits}{hint}")
    return value


_FILE = re.compile(r"instances(?:_([A-Za-z0-9_-]{1,64}))?\.json")


def instance_files(root: Path) -> dict[str, Path]:
    """`instances_<split>.json` files in root/annotations or root, by split ('' if unnamed)."""
    found: dict[str, Path] = {}
    for folder in (root / "annotations", root):
        for child in sorted(folder.iterdir()) if folder.is_dir() else []:
            if match := _FILE.fullmatch(child.name):
                found.setdefault(match[1] or "", child)
    return found


def choose_file(root: Path, split: str | None) -> Path:
    """The instances file for a split: its exact name (train2017) or the name less the year.

    MissingError if there is none, DataError if several fit.
    """
    files = instance_files(root)
    fitting = {k: v for k, v in files.items() if split is None or _fits(k, split)}
    exact = files.get(split or "")
    if exact is not None:
        return exact
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    have = ", ".join(path.name for path in files.values()) or "none"
    if not fitting:
        raise MissingError(f"{show(str(root), 300)}: no instances file for {split}; found: {have}")
    raise DataError(
        f"{show(str(root), 300)}: several instances files fit split {split or 'none given'} "
        f"({', '.join(sorted(fitting))}): name one with --split"
    )


def read_coco(path: Path, *, annotations: bool = False, max_failures: int | None = 0) -> Dataset:
    """All images of an instances file; with `annotations` all its objects too (for checks)."""
    match = _FILE.fullmatch(path.name)
    name = match[1] if match and match[1] else path.stem
    wanted = None if annotations else frozenset[int]()
    images, objects, faults = load_instances(path, name, wanted, max_failures)
    return Dataset(
        kind="coco",
        name=name,
        split_by="",
        root=path.parent,
        images=tuple(images),
        annotations=objects,
        files={path.name: fingerprint(path)},
        faults=faults,
    )


def _fits(name: str, split: str) -> bool:
    return name in ("", split) or re.fullmatch(re.escape(split) + r"\d{4}", name) is not None
