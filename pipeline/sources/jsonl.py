"""Own data: one JSON object per line, one expression for one mask (data spec 13; docs/data.md).

Ids are derived, so that the rest of the pipeline sees a table like any other: `sent_id` is the
line number, `ann_id` = `ref_id` the line that first names the object, `image_id` a hash of the
path. A wrong line is left out, named and counted; all of a file are reported together.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError, MissingError
from ..masks.rle import area, from_segmentation
from ..paths import check_name
from ..text import escape, quote, show
from .folder import examine, path_id
from .instances import MAX_IMAGE_SIDE
from .jsonfile import Fingerprint, fingerprint, parse_line
from .problems import Faults, Problems
from .tables import Annotation, Dataset, ImageEntry, Sentence, order_of
from .wording import expression_problem

MAX_LINE = 16 << 20  # bytes
SPLITS = ("train", "val", "test")
FIELDS = ("image", "expression", "mask", "id", "object", "split", "dataset")


@dataclass(frozen=True, slots=True)
class Line:
    """One record whose own fields are good; the mask is not looked at yet."""

    number: int
    image: str
    expression: str
    mask: object
    key: str
    object: str | None
    split: str
    dataset: str

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"line {self.number}"


def read_jsonl(
    path: Path,
    images: Path | None,
    *,
    allow_empty: bool = False,
    max_failures: int | None = 0,
) -> list[Dataset]:
    """The datasets of a JSONL file, by name. Image paths are relative to `images` or the file.

    allow_empty   empty masks in val and test are meant: no notice about them
    max_failures  wrong lines that are left out (see `Problems.settle`)

    DataError lists every wrong line: syntax, fields, names, expressions, masks, ids used twice. An
    empty mask is none: in train it is left out later, elsewhere it says that nothing is meant.
    Unreadable images are listed with the size their RLE states, or 0; their masks are not looked at.
    """
    if not path.is_file():
        raise MissingError(f"no such file: {show(str(path), 300)}")
    problems = Problems(show(str(path), 300))
    notices: list[str] = []
    lines = list(_unique(_lines(path, problems, notices), problems))
    root = images if images is not None else path.parent
    sizes = _examine(lines, root, problems, notices)
    made = _build(lines, sizes, problems)
    # Every line is here or has a problem; a mask that is refused is both.
    faults = problems.settle(max(len(lines), problems.found), max_failures)
    if not made.sentences:
        problems.raise_if_any()
        raise DataError(f"{show(str(path), 300)}: holds no record")
    notices += [] if allow_empty else _about_empty(made.empty)
    files = {path.name: fingerprint(path)}
    return [made.dataset(name, path.parent, notices, files, faults) for name in made.names()]


def _about_empty(empty: Mapping[str, int]) -> list[str]:
    return [
        f"{count} sentences of {split} have an empty mask: "
        + ("they cannot be trained on and are left out" if split == "train" else
           "taken as meant, nothing is to be found (N-acc; --allow-empty: no notice)")
        for split, count in sorted(empty.items())
    ]  # fmt: skip


def _lines(path: Path, problems: Problems, notices: list[str]) -> Iterator[Line]:
    unknown: set[str] = set()
    with path.open("rb") as file:
        number = 0
        while data := file.readline(MAX_LINE + 1):
            number += 1
            if len(data) > MAX_LINE:
                problems.add(f"line {number}: longer than {MAX_LINE} bytes")
                while data and not data.endswith(b"\n"):
                    data = file.readline(MAX_LINE)
                continue
            if not data.strip():
                continue
            try:
                record = parse_line(data, f"line {number}")
                yield _line(record, number, path.stem)
            except DataError as error:
                problems.add(error)
                continue
            if isinstance(record, dict):
                unknown |= set(record) - set(FIELDS)
    if unknown:
        names = ", ".join(show(name, 40) for name in sorted(unknown)[:10])
        notices.append(f"{show(path.name)}: unknown fields are ignored: {names}")


def _line(record: object, number: int, stem: str) -> Line:
    where = f"line {number}"
    if not isinstance(record, dict):
        raise DataError(f"{where}: {show(record)} is not an object")
    if missing := [name for name in FIELDS[:3] if name not in record]:
        raise DataError(f"{where}: {', '.join(missing)} missing")
    texts = {name: _text(record, name, where) for name in FIELDS if name != "mask"}
    if problem := expression_problem(texts["expression"] or ""):
        raise DataError(f"{where}: expression {quote(texts['expression'])} {problem}")
    split = texts["split"] or "train"
    if split not in SPLITS:
        raise DataError(f"{where}: split {quote(split)} is not one of {', '.join(SPLITS)}")
    return Line(
        number=number,
        image=posixpath.normpath(check_name(texts["image"], where)),
        expression=(texts["expression"] or "").strip(),
        mask=record["mask"],
        key=texts["id"] or str(number),
        object=texts["object"],
        split=split,
        dataset=texts["dataset"] or stem,
    )


def _text(record: dict[str, object], name: str, where: str) -> str | None:
    value = record.get(name)
    if value is None and name not in record:
        return None
    if not isinstance(value, str) or (name != "expression" and (not value or len(value) > 4096)):
        raise DataError(f"{where}: {name} {quote(value)} is not a string of 1..4096 characters")
    if name in ("id", "object", "dataset") and escape(value) != value:
        raise DataError(f"{where}: {name} {quote(value)} holds a control character")
    return value


def _unique(lines: Iterator[Line], problems: Problems) -> Iterator[Line]:
    seen: dict[str, int] = {}
    for line in lines:
        first = seen.setdefault(line.key, line.number)
        if first != line.number:
            problems.add(f"{line.where}: id {quote(line.key)} is that of line {first}")
            continue
        yield line


def _examine(
    lines: list[Line], root: Path, problems: Problems, notices: list[str]
) -> dict[str, "Size"]:
    """Size of each image by name, and whether it was read: from the header, else an RLE, else 0."""
    stated = {line.image: _stated_size(line.mask) for line in lines}
    sizes: dict[str, Size] = {}
    for name in sorted(stated):
        entry = examine(root, name, "", problems, notices)
        read = entry.height > 0
        sizes[name] = Size(*((entry.height, entry.width) if read else stated[name]), read)
    return sizes


class Size(NamedTuple):
    """An image's size; `read` if its own file says it."""

    height: int
    width: int
    read: bool


def _stated_size(mask: object) -> tuple[int, int]:
    match mask:
        case {"size": [int(height), int(width)]} if 0 < min(height, width):
            if max(height, width) <= MAX_IMAGE_SIDE:
                return int(height), int(width)
    return 0, 0


class _Tables:
    """The rows under construction, by dataset name."""

    def __init__(self) -> None:
        self.images: dict[str, dict[int, ImageEntry]] = {}
        self.sentences: dict[str, list[Sentence]] = {}
        self.annotations: dict[str, dict[int, Annotation]] = {}
        self.empty: Counter[str] = Counter()  # sentences by split

    def names(self) -> list[str]:
        return sorted(self.sentences)

    def add(self, line: Line, entry: ImageEntry, annotation: Annotation) -> None:
        self.images.setdefault(line.dataset, {})[entry.image_id] = entry
        self.annotations.setdefault(line.dataset, {})[annotation.ann_id] = annotation
        ids = (entry.image_id, annotation.ann_id, annotation.ann_id, line.number)
        row = Sentence(line.dataset, "", line.split, *ids, line.expression)
        self.sentences.setdefault(line.dataset, []).append(row)

    def dataset(
        self,
        name: str,
        root: Path,
        notices: list[str],
        files: dict[str, Fingerprint],
        faults: Faults,
    ) -> Dataset:
        images, first = self.images[name], name == self.names()[0]
        return Dataset(
            kind="jsonl",
            name=name,
            split_by="",
            root=root,
            images=tuple(images[image_id] for image_id in sorted(images)),
            sentences=tuple(sorted(self.sentences[name], key=order_of)),
            annotations=self.annotations[name],
            notices=tuple(notices) if first else (),
            files=files,
            faults=faults if first else Faults(),
        )


def _build(lines: list[Line], sizes: dict[str, Size], problems: Problems) -> _Tables:
    made = _Tables()
    objects: dict[tuple[str, str, str], tuple[int, object]] = {}
    for line in lines:
        height, width, read = sizes[line.image]
        entry = ImageEntry(line.dataset, path_id(line.image), line.image, height, width)
        key = (line.dataset, line.image, line.object or f"\0{line.number}")
        first, mask = objects.setdefault(key, (line.number, line.mask))
        if mask != line.mask:
            problems.add(
                f"{line.where}: object {quote(line.object)} has another mask in line {first}"
            )
            continue
        segmentation = line.mask
        if read:  # else the image goes into quarantine, and its mask is never used
            try:
                found = from_segmentation(line.mask, height, width, f"{line.where}: mask")
            except DataError as error:
                problems.add(error)
                continue
            segmentation = found.coco()
            made.empty[line.split] += area(found) == 0
        label = f"{line.dataset} line {first}: mask"
        ids = (first, entry.image_id, height, width)
        made.add(line, entry, Annotation(line.dataset, *ids, segmentation, label))
    made.empty = +made.empty
    return made
