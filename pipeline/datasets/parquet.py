"""Hub parquet reader: jxu124/refcoco, refcocoplus, refcocog.

One row per ref. Its `test` split is testA for refcoco and refcoco+ (refcocog has a real `test`),
its bbox is converted and ignored, and sizes and polygons are JSON strings. The tables are the same
as those of the REFER folder. Other mirrors flatten multi-polygon objects and cannot be used.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..display import quote, show
from ..errors import DataError
from ..io.json_files import fingerprint, parse_json
from ..io.paths import check_name
from .coco import MAX_IMAGE_SIDE, integer
from .problems import Problems
from .published_counts import SPLITS
from .refer import DEFAULT_SPLIT_BY, with_counts
from .table_rows import column_names, rows_of
from .tables import Annotation, Dataset, ImageEntry, Sentence, order_of

COLUMNS = ("ref_id", "ann_id", "image_id", "split", "sentences", "raw_anns", "raw_image_info")
_NAME = re.compile(r"refcoco(plus|\+|g)?(?![a-z])", re.IGNORECASE)


def parquet_files(root: Path) -> list[Path]:
    """The parquet files of a folder or of its `data` folder, sorted; a file gives itself."""
    if root.is_file():
        return [root]
    return sorted(root.glob("*.parquet")) or sorted((root / "data").glob("*.parquet"))


def dataset_name(path: Path) -> str:
    """refcoco, refcoco+ or refcocog, from the folder names. DataError if none says."""
    for part in reversed(path.resolve().parts):
        if match := _NAME.search(part):
            suffix = (match[1] or "").lower()
            return "refcoco" + ("+" if suffix == "plus" else suffix)
    raise DataError(
        f"{show(str(path), 300)}: which data set is this? Name its folder refcoco, refcocoplus or "
        "refcocog, as on the hub; photographs in parquet files are given with --images instead"
    )


def read_hub(root: Path, *, allow_counts: bool = False, max_failures: int | None = 0) -> Dataset:
    """One set from its parquet files, with all splits found.

    max_failures  bad rows that are left out (see `Problems.settle`)

    DataError lists wrong rows, unknown splits, wrong counts; MissingPackageError without pyarrow.
    """
    files = parquet_files(root)
    if not column_names(files[0]):  # damaged, or there is no pyarrow: reading it says which
        next(rows_of(files[0], COLUMNS), None)
    name = dataset_name(root)
    rows = _Rows(name, DEFAULT_SPLIT_BY[name], Problems(f"{show(str(root), 300)} ({name})"))
    for path in files:
        for index, record in _records(path):
            rows.take(record, f"{show(path.name)} row {index}")
    faults = rows.problems.settle(rows.taken, max_failures)
    made = Dataset(
        kind="hub",
        name=name,
        split_by=rows.split_by,
        root=root if root.is_dir() else root.parent,
        images=tuple(rows.images[image_id] for image_id in sorted(rows.images)),
        sentences=tuple(sorted(rows.sentences, key=order_of)),
        annotations=rows.annotations,
        files={f"{name}/{path.name}": fingerprint(path) for path in files},
        faults=faults,
    )
    return with_counts(made, [], allow_counts)


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    names = column_names(path)
    missing = [name for name in COLUMNS if name not in names]
    if names and missing:
        raise DataError(
            f"{show(str(path), 300)}: no column {', '.join(missing)}: not the jxu124 layout; mirrors "
            "that keep one polygon per object cannot be used"
        )
    return rows_of(path, COLUMNS)


@dataclass
class _Rows:
    """The tables under construction."""

    name: str
    split_by: str
    problems: Problems
    images: dict[int, ImageEntry] = field(default_factory=dict)
    annotations: dict[int, Annotation] = field(default_factory=dict)
    sentences: list[Sentence] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)
    taken: int = 0

    def take(self, record: dict[str, Any], where: str) -> None:
        """Add one ref, or note what is wrong with it."""
        self.taken += 1
        try:
            image = self._image(record, where)
            annotation = self._annotation(record, image, where)
            rows = list(self._sentences(record, image, annotation, where))
        except DataError as error:
            self.problems.add(error)
            return
        if self.images.setdefault(image.image_id, image) != image:
            self.problems.add(f"{where}: image {image.image_id} differs from an earlier row")
            return
        if self.annotations.setdefault(annotation.ann_id, annotation) != annotation:
            self.problems.add(
                f"{where}: annotation {annotation.ann_id} differs from an earlier row"
            )
            return
        self.sentences += rows

    def _image(self, record: dict[str, Any], where: str) -> ImageEntry:
        info = _json(record["raw_image_info"], "raw_image_info", where)
        image_id = integer(record["image_id"], "image_id", where)
        if info.get("id", image_id) != image_id:
            raise DataError(f"{where}: raw_image_info is of image {quote(info['id'])}")
        sides = [
            integer(info.get(side), side, where, low=1, high=MAX_IMAGE_SIDE)
            for side in ("height", "width")
        ]
        file_name = check_name(info.get("file_name"), where)
        return ImageEntry(self.name, image_id, file_name, *sides)

    def _annotation(self, record: dict[str, Any], image: ImageEntry, where: str) -> Annotation:
        raw = _json(record["raw_anns"], "raw_anns", where)
        ann_id = integer(record["ann_id"], "ann_id", where)
        if raw.get("id", ann_id) != ann_id or raw.get("image_id", image.image_id) != image.image_id:
            raise DataError(f"{where}: raw_anns is of another object")
        if "segmentation" not in raw:
            raise DataError(f"{where}: raw_anns has no segmentation")
        size = (image.height, image.width)
        return Annotation(self.name, ann_id, image.image_id, *size, raw["segmentation"])

    def _sentences(
        self, record: dict[str, Any], image: ImageEntry, annotation: Annotation, where: str
    ) -> Iterator[Sentence]:
        ref_id = integer(record["ref_id"], "ref_id", where)
        self._once("ref_id", ref_id, where)
        split = self._split(record["split"], where)
        if not isinstance(record["sentences"], list) or not record["sentences"]:
            raise DataError(f"{where}: has no sentence")
        for sentence in record["sentences"]:
            sent = sentence.get("sent") if isinstance(sentence, dict) else None
            if not isinstance(sent, str):
                raise DataError(f"{where}: sentence {quote(sentence)} has no text")
            sent_id = integer(sentence.get("sent_id"), "sent_id", where)
            self._once("sent_id", sent_id, where)
            ids = (image.image_id, annotation.ann_id, ref_id, sent_id)
            yield Sentence(self.name, self.split_by, split, *ids, sent.strip().lower())

    def _once(self, kind: str, value: int, where: str) -> None:
        if (kind, value) in self.seen:
            raise DataError(f"{where}: {kind} {value} is used twice")
        self.seen.add((kind, value))

    def _split(self, value: object, where: str) -> str:
        split = "testA" if value == "test" and self.name != "refcocog" else value
        allowed = SPLITS[self.name, self.split_by]
        if not isinstance(split, str) or split not in allowed:
            raise DataError(f"{where}: split {quote(value)} is not of {', '.join(sorted(allowed))}")
        return split


def _json(text: object, name: str, where: str) -> dict[str, Any]:
    if not isinstance(text, str):
        raise DataError(f"{where}: {name} is not a string")
    value = parse_json(text.encode("utf-8", "surrogatepass"), f"{where}: {name}")
    if not isinstance(value, dict):
        raise DataError(f"{where}: {name} {quote(json.dumps(value))} is not an object")
    return value
