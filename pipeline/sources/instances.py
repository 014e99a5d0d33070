"""COCO `instances*.json`: its images and annotations as checked rows."""

from collections.abc import Container, Iterator
from pathlib import Path

from ..errors import DataError
from ..paths import check_name
from ..text import quote, show
from .jsonfile import read_json
from .problems import Faults, Problems
from .tables import Annotation, ImageEntry

MAX_IMAGE_SIDE = 1 << 20  # beyond what images.py reads: such an image is quarantined, not an error


def read_instances(
    path: Path, dataset: str, wanted: Container[int] | None
) -> tuple[list[ImageEntry], dict[int, Annotation]]:
    """What `load_instances` gives if nothing is wrong with the file. Raises DataError."""
    images, annotations, _ = load_instances(path, dataset, wanted, 0)
    return images, annotations


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
    segmentation = record["segmentation"]
    return Annotation(image.dataset, ann_id, image_id, image.height, image.width, segmentation)


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
