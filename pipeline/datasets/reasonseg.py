"""ReasonSeg: one LabelMe-like JSON file beside each photograph, in `train`, `val` and `test`.

    {"text": [str, ...], "is_sentence": bool, "shapes": [{"label": str, "points": [[x, y], ...]}]}

As LISA's `utils/data_processing.py` reads it: shapes are drawn largest first, inside and outline, with
OpenCV; a label with `ignore` in it is a region that counts neither for nor against a prediction, `flag`
is no shape; files that are not UTF-8 are cp1252. `val` and `test` ask the first text only
(`utils/dataset.py`). Files of SESAME have `false_premise_QA` too: texts that describe nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..display import quote, show
from ..errors import DataError, MissingError
from ..io.json_files import fingerprint_of, parse_json, read_data
from ..masks.outline_fill import fill_outlined
from ..masks.rle import MAX_COORDINATE, MAX_PERIMETER, area, decode, encode, perimeter
from .image_folder import path_id
from .one_set import one_set
from .options import Options
from .photo_headers import Photos
from .problems import Problems
from .tables import Annotation, Dataset, ImageEntry, Sentence

NAME = "reasonseg"
SPLITS = ("train", "val", "test")
MAX_FILE = 64 << 20  # bytes
MAX_SHAPES = 1000  # of one file
_TEXTS = 1000  # sentence ids of a file: its number times this, plus the text's


@dataclass(frozen=True, slots=True)
class _Shape:
    """One outline; `ignored` if its region is left out of the counts."""

    points: list[list[float]]
    ignored: bool


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The `Drawing` of one file: of two shapes the smaller lies on top."""

    shapes: tuple[_Shape, ...]

    def target(self, height: int, width: int) -> NDArray[np.bool_]:
        return np.asarray(self._values(height, width) == 1, np.bool_)

    def ignored(self, height: int, width: int) -> NDArray[np.bool_] | None:
        if not any(shape.ignored for shape in self.shapes):
            return None
        return np.asarray(self._values(height, width) == 2, np.bool_)

    def _values(self, height: int, width: int) -> NDArray[np.uint8]:
        # As runs: a thousand shapes of a large photograph are gigabytes of pixels.
        drawn = [encode(fill_outlined(shape.points, height, width)) for shape in self.shapes]
        value = np.zeros((height, width), np.uint8)
        for index in np.argsort([area(mask) for mask in drawn])[::-1].tolist():
            value[decode(drawn[index]) != 0] = 2 if self.shapes[index].ignored else 1
        return value


@dataclass(frozen=True, slots=True)
class _Record:
    """One file. `texts` have the target of its shapes, `false` texts have none."""

    texts: list[str]
    false: list[str]
    shapes: tuple[_Shape, ...]


def read_reasonseg(path: Path, options: Options) -> list[Dataset] | None:
    """The data set in a folder of `train`, `val`, `test`; None if no JSON file has its photograph.

    Up to `max_failures` bad files are left out (see `Problems.settle`). A photograph that cannot be
    read is listed with size 0 and quarantined later.
    """
    files = [(split, file) for split in SPLITS for file in _files(path / split)]
    if not files:
        return None
    problems = Problems(show(str(path), 300))
    images = options.images or path
    photos = Photos(images)
    made = _Tables()
    for number, (split, file) in enumerate(files):
        name = f"{split}/{file.stem}.jpg"
        where = f"{split}/{file.name}"
        try:
            record = _record(_read(file, where), where)
            header = photos.look(name)
            made.add(record, number, split, name, header.upright if header else (0, 0))
        except DataError as error:
            problems.add(error)
    faults = problems.settle(len(files), options.max_failures)
    read = {NAME: fingerprint_of([file for _, file in files if file.is_file()])}
    return one_set(NAME, path, made.images, made.sentences, made.annotations, read, faults)


def _files(folder: Path) -> list[Path]:
    """The JSON files of one split whose photographs lie beside them."""
    found = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return found if any(file.with_suffix(".jpg").is_file() for file in found) else []


class _Tables:
    """The rows under construction."""

    def __init__(self) -> None:
        self.images: list[ImageEntry] = []
        self.sentences: list[Sentence] = []
        self.annotations: dict[int, Annotation] = {}

    def add(
        self, record: _Record, number: int, split: str, name: str, size: tuple[int, int]
    ) -> None:
        """One file: a target for its texts, an empty one for its false ones."""
        image = ImageEntry(NAME, path_id(name), name, *size)
        self.images.append(image)
        texts = record.texts if split == "train" else record.texts[:1]
        for place, (text, ann_id) in enumerate(
            chain(((t, 2 * number) for t in texts), ((t, 2 * number + 1) for t in record.false))
        ):
            ids = (image.image_id, ann_id, number, number * _TEXTS + place)
            self.sentences.append(Sentence(NAME, "", split, *ids, text))
        outlines = [_flat(shape) for shape in record.shapes]
        ignored = tuple(shape for shape in record.shapes if shape.ignored)
        targets = [(2 * number, outlines, record.shapes)]
        targets += [(2 * number + 1, [], ignored)] if record.false else []
        for ann_id, segmentation, shapes in targets:
            self.annotations[ann_id] = Annotation(
                NAME,
                ann_id,
                image.image_id,
                *size,
                segmentation,
                f"{NAME} {name}",
                drawing=_Shapes(shapes),
            )


def _read(file: Path, where: str) -> bytes:
    try:
        return read_data(file, MAX_FILE)
    except MissingError:  # a link that leads nowhere
        raise DataError(f"{where}: cannot be read") from None


def _record(data: bytes, where: str) -> _Record:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        try:
            data = data.decode("cp1252").encode()
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: byte {error.start} is neither UTF-8 nor cp1252") from None
    value = parse_json(data, where)
    if not isinstance(value, dict):
        raise DataError(f"{where}: not an object")
    texts = [_text(text, where) for text in _list(value, "text", where)]
    if not texts:
        raise DataError(f"{where}: text is empty")
    untrue = (
        [] if value.get("false_premise_QA") is None else _list(value, "false_premise_QA", where)
    )
    false = [_false(item, where) for item in untrue]
    shapes = tuple(
        shape
        for index, item in enumerate(_list(value, "shapes", where))
        for shape in _shape(item, f"{where}: shapes[{index}]")
    )
    if len(shapes) > MAX_SHAPES:
        raise DataError(f"{where}: {len(shapes)} shapes; at most {MAX_SHAPES}")
    if sum(perimeter(_flat(shape)) for shape in shapes) > MAX_PERIMETER:
        raise DataError(f"{where}: outlines of over {MAX_PERIMETER:.0f} pixels")
    if len(texts) + len(false) > _TEXTS:
        raise DataError(f"{where}: {len(texts) + len(false)} texts; at most {_TEXTS}")
    return _Record(texts, false, shapes)


def _flat(shape: _Shape) -> list[float]:
    return [number for point in shape.points for number in point]


def _shape(item: object, where: str) -> Iterator[_Shape]:
    if not isinstance(item, dict) or not isinstance(item.get("label"), str):
        raise DataError(f"{where}: needs an object with a `label`")
    label = item["label"].lower()
    if label == "flag":
        return
    points = item.get("points")
    if not isinstance(points, list) or len(points) < 3 or not all(map(_is_point, points)):
        raise DataError(f"{where}: points {quote(points)} are not three or more of [x, y]")
    yield _Shape(points, "ignore" in label)


def _is_point(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(n) in (int, float) and abs(n) <= MAX_COORDINATE for n in value)
    )


def _false(item: object, where: str) -> str:
    if not isinstance(item, list) or not item:
        raise DataError(f"{where}: false_premise_QA {quote(item)} is not [text, ...]")
    return _text(item[0], where)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: text {quote(value)} is not a string")
    return value.strip()


def _list(record: dict[str, object], key: str, where: str) -> list[object]:
    value = record.get(key)
    if not isinstance(value, list):
        raise DataError(f"{where}: {key} {quote(value)} is not a list")
    return value
