"""PhraseCut: `refer_{train,val,test,miniv}.json` and `image_data_split3000.json`.

A task is a phrase and its instances: `{"task_id": str, "image_id", "phrase", "Polygons":
[instance][polygon][[x, y], ...]}`; the target is the union of all. Polygons are lists of points, not of
numbers, and are drawn by Pillow with their outline, the points cut to integers (ChenyunWu/PhraseCutDataset
utils/data_transfer.py). Photographs are Visual Genome's `<image_id>.jpg`. `val` is without `miniv`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..display import quote, show
from ..errors import DataError
from ..io.json_files import fingerprint, read_list
from ..masks.rle import MAX_COORDINATE
from .coco import MAX_IMAGE_SIDE, integer
from .one_set import one_set
from .options import Options
from .problems import Faults, Problems, merged
from .tables import Annotation, Dataset, ImageEntry, Sentence

NAME = "phrasecut"
IMAGES = "image_data_split3000.json"
SPLITS = ("train", "val", "test", "miniv")


@dataclass(frozen=True, slots=True)
class _Outlined:
    """The `Drawing` of flat polygons: inside and outline, as Pillow draws them."""

    polygons: list[list[float]]

    def target(self, height: int, width: int) -> NDArray[np.bool_]:
        canvas = Image.new("1", (width, height))
        pen = ImageDraw.Draw(canvas)
        for numbers in self.polygons:
            points = [int(number) for number in numbers]
            pen.polygon(list(zip(points[0::2], points[1::2], strict=True)), fill=1, outline=1)
        return np.asarray(canvas, np.bool_)

    def ignored(self, height: int, width: int) -> None:
        return None


def read_phrasecut(path: Path, options: Options) -> list[Dataset] | None:
    """The data set in a folder with `image_data_split3000.json`; None for another folder.

    Up to `max_failures` bad records of each file are left out (see `Problems.settle`).
    """
    if not (path / IMAGES).is_file():
        return None
    allowed = options.max_failures
    images, faults = _images(path / IMAGES, allowed)
    files = {split: path / f"refer_{split}.json" for split in SPLITS}
    here = {split: file for split, file in files.items() if file.is_file()}
    if not here:
        raise DataError(
            f"{show(str(path), 300)}: no refer_{{{','.join(SPLITS)}}}.json beside {IMAGES}"
        )
    sentences: list[Sentence] = []
    targets: dict[int, Annotation] = {}
    found = [faults]
    for split, file in here.items():
        problems = Problems(show(str(file), 300))
        tasks = read_list(file)
        for index, task in enumerate(tasks):
            try:
                row, target = _task(task, f"task {index}", split, images)
                if row.sent_id in targets:
                    raise DataError(f"task {index}: task_id is that of an earlier task")
            except DataError as error:
                problems.add(error)
                continue
            sentences.append(row)
            targets[row.sent_id] = target
        found.append(problems.settle(len(tasks), allowed))
    read = {file.name: fingerprint(file) for file in (path / IMAGES, *here.values())}
    return one_set(NAME, path, images.values(), sentences, targets, read, merged(found))


def _images(file: Path, allowed: int | None) -> tuple[dict[int, ImageEntry], Faults]:
    problems, found, rows = Problems(show(str(file), 300)), dict[int, ImageEntry](), read_list(file)
    for index, row in enumerate(rows):
        try:
            if not isinstance(row, dict):
                raise DataError(f"image {index}: {quote(row)} is not an object")
            image_id = integer(row.get("image_id"), "image_id", f"image {index}")
            size = (
                integer(row.get(side), side, f"image {image_id}", low=1, high=MAX_IMAGE_SIDE)
                for side in ("height", "width")
            )
            found[image_id] = ImageEntry(NAME, image_id, f"{image_id}.jpg", *size)
        except DataError as error:
            problems.add(error)
    return found, problems.settle(len(rows), allowed)


def _task(
    task: object, where: str, split: str, images: dict[int, ImageEntry]
) -> tuple[Sentence, Annotation]:
    if not isinstance(task, dict):
        raise DataError(f"{where}: {quote(task)} is not an object")
    image_id = integer(task.get("image_id"), "image_id", where)
    image = images.get(image_id)
    if image is None:
        raise DataError(f"{where}: image_id {image_id} is not in {IMAGES}")
    number = _number(task.get("task_id"), where)
    if not isinstance(phrase := task.get("phrase"), str):
        raise DataError(f"{where}: phrase {quote(phrase)} is not a string")
    polygons = _polygons(task.get("Polygons"), where)
    label = f"{NAME} task {show(task['task_id'])}"
    size = image.height, image.width
    drawing = _Outlined(polygons)
    target = Annotation(NAME, number, image_id, *size, polygons, label, drawing=drawing)
    return Sentence(NAME, "", split, image_id, number, number, number, phrase), target


def _number(task_id: object, where: str) -> int:
    """`<image>__<number>` as one id.

    >>> _number("2325602__7", "task 0") == _number("2325602__8", "task 1") - 1
    True
    """
    image, _, place = task_id.partition("__") if isinstance(task_id, str) else ("", "", "")
    if not (image.isdecimal() and place.isdecimal() and len(image) < 12 and len(place) < 6):
        raise DataError(f"{where}: task_id {quote(task_id)} is not IMAGE__NUMBER")
    return int(image) * 100_000 + int(place)


def _polygons(value: object, where: str) -> list[list[float]]:
    """All polygons of all instances as flat lists; those without two points enclose nothing."""
    if not isinstance(value, list):
        raise DataError(f"{where}: Polygons {quote(value)} is not a list")
    found = [
        _flat(polygon, where)
        for instance in value
        for polygon in (instance if isinstance(instance, list) else [instance])
    ]
    return [polygon for polygon in found if len(polygon) > 2]


def _flat(polygon: object, where: str) -> list[float]:
    flat: list[float] = []
    for point in polygon if isinstance(polygon, list) else [polygon]:
        if not (
            isinstance(point, list)
            and len(point) == 2
            and all(type(n) in (int, float) and abs(n) <= MAX_COORDINATE for n in point)
        ):
            raise DataError(f"{where}: polygon {quote(polygon)} is not a list of [x, y]")
        flat += point
    return flat
