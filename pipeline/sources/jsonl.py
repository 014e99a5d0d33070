"""Own data: one JSON object per line, one expression for one mask (data spec 13; docs/data.md).

Ids are derived, so that the rest of the pipeline sees a table like any other: `sent_id` is the
line number, `ann_id` = `ref_id` the line that first names the object, `image_id` a hash of the
path. All wrong lines of a file are reported together.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, MissingError
from ..masks.rle import area, from_segmentation
from ..paths import check_name
from ..records import Rle
from ..text import escape, quote, show
from .folder import examine, path_id
from .jsonfile import Fingerprint, fingerprint, parse_line
from .problems import Problems
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


def read_jsonl(path: Path, images: Path | None, *, allow_empty: bool = False) -> list[Dataset]:
    """The datasets of a JSONL file, by name. Image paths are relative to `images` or the file.

    DataError lists every wrong line: syntax, fields, names, expressions, masks, empty masks (in
    `train` always, elsewhere unless `allow_empty`), ids used twice. Unreadable images are listed
    with the size their RLE states, or 0.
    """
    if not path.is_file():
        raise MissingError(f"no such file: {show(str(path), 300)}")
    problems = Problems(show(str(path), 300))
    notices: list[str] = []
    lines = list(_unique(_lines(path, problems, notices), problems))
    root = images if images is not None else path.parent
    sizes = _examine(lines, root, problems, notices)
    made = _build(lines, sizes, problems, notices, allow_empty)
    problems.raise_if_any()
    if not lines:
        raise DataError(f"{show(str(path), 300)}: holds no record")
    files = {path.name: fingerprint(path)}
    return [made.dataset(name, path.parent, notices, files) for name in made.names()]


def _lines(path: Path, problems: Problems, notices: list[str]) -> Iterator[Line]:
    unknown: set[str] = set()
    with path.open("rb") as file:
        number = 0
        while data := file.readline(MAX_LINE + 1):
            number += 1
            if len(data) > MAX_LINE:
                problems.add(f"line {number}: longer than {MAX_LINE} bytes; reading stops here")
                return
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
        yield line


def _examine(
    lines: list[Line], root: Path, problems: Problems, notices: list[str]
) -> dict[str, tuple[int, int]]:
    """Size of each image by name: from its header, else from an RLE that states it, else 0."""
    stated = {line.image: _stated_size(line.mask) for line in lines}
    sizes: dict[str, tuple[int, int]] = {}
    for name in sorted(stated):
        entry = examine(root, name, "", problems, notices)
        sizes[name] = (entry.height, entry.width) if entry.height else stated[name]
    return sizes


def _stated_size(mask: object) -> tuple[int, int]:
    match mask:
        case {"size": [int(height), int(width)]} if height > 0 and width > 0:
            return height, width
    return 0, 0


class _Tables:
    """The rows under construction, by dataset name."""

    def __init__(self) -> None:
        self.images: dict[str, dict[int, ImageEntry]] = {}
        self.sentences: dict[str, list[Sentence]] = {}
        self.annotations: dict[str, dict[int, Annotation]] = {}

    def names(self) -> list[str]:
        return sorted(self.sentences)

    def add(self, line: Line, entry: ImageEntry, annotation: Annotation) -> None:
        self.images.setdefault(line.dataset, {})[entry.image_id] = entry
        self.annotations.setdefault(line.dataset, {})[annotation.ann_id] = annotation
        ids = (entry.image_id, annotation.ann_id, annotation.ann_id, line.number)
        row = Sentence(line.dataset, "", line.split, *ids, line.expression)
        self.sentences.setdefault(line.dataset, []).append(row)

    def dataset(
        self, name: str, root: Path, notices: list[str], files: dict[str, Fingerprint]
    ) -> Dataset:
        images = self.images[name]
        return Dataset(
            kind="jsonl",
            name=name,
            split_by="",
            root=root,
            images=tuple(images[image_id] for image_id in sorted(images)),
            sentences=tuple(sorted(self.sentences[name], key=order_of)),
            annotations=self.annotations[name],
            notices=tuple(notices) if name == self.names()[0] else (),
            files=files,
        )


def _build(
    lines: list[Line],
    sizes: dict[str, tuple[int, int]],
    problems: Problems,
    notices: list[str],
    allow_empty: bool,
) -> _Tables:
    made = _Tables()
    objects: dict[tuple[str, str, str], tuple[int, object]] = {}
    for line in lines:
        entry = ImageEntry(line.dataset, path_id(line.image), line.image, *sizes[line.image])
        key = (line.dataset, line.image, line.object or f"\0{line.number}")
        first, mask = objects.setdefault(key, (line.number, line.mask))
        if mask != line.mask:
            problems.add(
                f"{line.where}: object {quote(line.object)} has another mask in line {first}"
            )
            continue
        try:
            segmentation = _checked_mask(line, entry, allow_empty)
        except DataError as error:
            problems.add(error)
            continue
        made.add(
            line,
            entry,
            Annotation(
                line.dataset, first, entry.image_id, entry.height, entry.width, segmentation
            ),
        )
    return made


def _checked_mask(line: Line, entry: ImageEntry, allow_empty: bool) -> object:
    if not entry.height:  # polygons on an image that cannot be read: no size to check them with
        return line.mask
    mask: Rle = from_segmentation(line.mask, entry.height, entry.width, f"{line.where}: mask")
    if area(mask) == 0 and (line.split == "train" or not allow_empty):
        hint = "" if line.split == "train" else " (allowed in val and test with --allow-empty)"
        raise DataError(f"{line.where}: mask is empty{hint}")
    return mask.coco()
