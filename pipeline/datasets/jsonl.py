"""JSONL reader for custom data: one expression and one mask per line (docs/data.md).

Ids are derived, so that the rest of the pipeline sees a table like any other: `sent_id` is the
line number, `ann_id` = `ref_id` the line that first names the object, `image_id` a hash of the
path. A wrong line is left out, named and counted; all are reported together, in the file's order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..display import counted, quote, show
from ..errors import DataError, MissingError
from ..io.json_files import Fingerprint, fingerprint
from ..masks.rle import area, from_segmentation
from .coordinates import Placement, misplaced_problem, systematic
from .image_folder import path_id
from .images import Header
from .jsonl_lines import Line, Part, read_lines, split_of
from .mask_files import MaskFiles
from .photo_headers import Photos
from .problems import LIMIT, Faults, Problems
from .stored_photos import listing
from .tables import Annotation, Dataset, ImageEntry, Sentence, order_of


class Size(NamedTuple):
    """An image's size; `read` if its own file says it."""

    height: int
    width: int
    read: bool


def read_jsonl(
    path: Path,
    images: Path | None,
    *,
    allow_empty: bool = False,
    raw: bool = False,
    max_failures: int | None = 0,
) -> list[Dataset]:
    """The datasets of a JSONL file, by name. Image paths are relative to `images` or the file.

    allow_empty   empty masks in val and test are meant: no notice about them
    raw           keep polygons as they are, for a report on them, instead of their RLE
    max_failures  wrong lines that are left out (see `Problems.settle`)

    A line without `split` has the one the file is named after (val.jsonl), else train.

    DataError lists every wrong line: syntax, fields, names, expressions, masks, ids used twice,
    polygons that cannot lie on their photograph. An empty mask is none: in train it is left out
    later, elsewhere it says that nothing is meant. Unreadable images are listed with the size their
    mask states, or 0; their masks are not looked at.
    """
    if not path.is_file():
        raise MissingError(f"no such file: {show(str(path), 300)}")
    part = Part(path, path.stem, split_of(path.stem)[1] or "train")
    return read_parts([part], path, images, allow_empty=allow_empty, raw=raw,
                      max_failures=max_failures)  # fmt: skip


def read_parts(
    parts: Sequence[Part],
    where: Path,
    images: Path | None,
    *,
    allow_empty: bool = False,
    raw: bool = False,
    max_failures: int | None = 0,
) -> list[Dataset]:
    """`read_jsonl` of several files in one folder that make one data set; `where` names them."""
    folder = parts[0].path.parent
    reading = _Reading(Problems(show(str(where), 300)), raw, MaskFiles(folder, images))
    lines = [line for p in parts for line in read_lines(p, reading.problems, reading.notices)]
    reading.unread = reading.problems.found
    listed = listing(images) if images is not None else {}
    photos = Photos(images if images is not None else folder, listed)
    made = reading.build(lines, reading.sizes(lines, photos))
    try:
        faults = reading.settle(lines, max_failures)
        if not made.sentences:
            reading.problems.raise_if_any()
            raise DataError(f"{show(str(where), 300)}: holds no record")
    except DataError as error:
        _add_photos(error, lines, photos, show(str(where), 300))
        raise
    notices = [*reading.notices, *photos.notices(), *reading.placement.notices()]
    notices += [] if allow_empty else _about_empty(+reading.empty)
    notices += _by_name(parts, lines)
    files = {part.path.name: fingerprint(part.path) for part in parts} | reading.masks.files()
    made_of = made.datasets(folder, notices, files, faults, _hint(parts, lines))
    return [replace(dataset, listed=listed) for dataset in made_of]


def _add_photos(error: DataError, lines: list[Line], photos: Photos, where: str) -> None:
    """Name the unreadable photographs too, which alone would only go to quarantine."""
    bad = [
        f"{where}: {line.where}: {photos.bad[name][1]}"
        for name, line in _first_lines(lines).items()
        if name in photos.bad
    ]
    if error.problems and bad:
        error.problems = (*error.problems, *bad)[: max(LIMIT, len(error.problems))]
        error.found += len(bad)


def _about_empty(empty: Mapping[str, int]) -> list[str]:
    return [
        f"{counted(count, 'sentence')} of {split} with an empty mask: "
        + ("left out in training, unless its recipe sets model.rejection" if split == "train" else
           "kept as expressions without a target (N-acc); --allow-empty omits this notice")
        for split, count in sorted(empty.items())
    ]  # fmt: skip


def _first_lines(lines: list[Line]) -> dict[str, Line]:
    found: dict[str, Line] = {}
    for line in lines:
        found.setdefault(line.image, line)
    return found


def _by_name(parts: Sequence[Part], lines: list[Line]) -> list[str]:
    """Notices about lines whose split is that of their file's name."""
    return [
        f"{show(part.path.name)}: {count} lines without `split` are {part.split}, by the file's name"
        for part in parts
        if (count := sum(line.splitless and line.part == part for line in lines))
        and split_of(part.path.stem)[1]
    ]


def _hint(parts: Sequence[Part], lines: list[Line]) -> str:
    """Remedy for a split that no line has."""
    if not all(line.splitless for line in lines):
        return ""
    names = ", ".join(show(part.path.name, 40) for part in parts)
    return (
        f"no line of {names} names a split, so the file's name decides (val.jsonl is val, "
        "test.jsonl test, any other train): rename it, or give the lines a `split`"
    )


@dataclass
class _Tables:
    """The rows under construction, by dataset name."""

    images: dict[str, dict[int, ImageEntry]] = field(default_factory=dict)
    sentences: dict[str, list[Sentence]] = field(default_factory=dict)
    annotations: dict[str, dict[int, Annotation]] = field(default_factory=dict)

    def add(self, line: Line, entry: ImageEntry, annotation: Annotation) -> None:
        self.images.setdefault(line.dataset, {})[entry.image_id] = entry
        self.annotations.setdefault(line.dataset, {})[annotation.ann_id] = annotation
        ids = (entry.image_id, annotation.ann_id, annotation.ann_id, line.number)
        row = Sentence(line.dataset, "", line.split, *ids, line.expression)
        self.sentences.setdefault(line.dataset, []).append(row)

    def datasets(
        self,
        root: Path,
        notices: list[str],
        files: dict[str, Fingerprint],
        faults: Faults,
        hint: str,
    ) -> list[Dataset]:
        return [
            Dataset(
                kind="jsonl",
                name=name,
                split_by="",
                root=root,
                images=tuple(self.images[name][key] for key in sorted(self.images[name])),
                sentences=tuple(sorted(self.sentences[name], key=order_of)),
                annotations=self.annotations[name],
                notices=tuple(notices) if number == 0 else (),
                files=files,
                faults=faults if number == 0 else Faults(),
                hint=hint,
            )
            for number, name in enumerate(sorted(self.sentences))
        ]


@dataclass
class _Reading:
    """One reading of a data set's lines: what was found on the way.

    unread    lines that are no record: syntax, fields, names, expressions, ids
    empty     sentences with an empty mask by split
    misplaced objects whose polygons cannot lie on their photograph
    """

    problems: Problems
    raw: bool
    masks: MaskFiles
    unread: int = 0
    notices: list[str] = field(default_factory=list)
    placement: Placement = field(default_factory=Placement)
    empty: Counter[str] = field(default_factory=Counter)
    misplaced: int = 0

    def settle(self, lines: list[Line], allowed: int | None) -> Faults:
        """The lines left out. DataError if there are more than allowed, or if they have a system."""
        polygons = self.misplaced + self.placement.polygons
        system = systematic(self.misplaced, polygons)
        why = ": coordinates that do not fit the images" if system else ""
        return self.problems.settle(len(lines) + self.unread, allowed, why)

    def sizes(self, lines: list[Line], photos: Photos) -> dict[str, Size]:
        """Size of each image by name: the upright one, unless its masks state the stored one.

        That of an unreadable image is what its masks state, or 0.
        """
        stated: dict[str, list[tuple[int, int]]] = {}
        for line in lines:
            stated.setdefault(line.image, []).append(self.masks.stated_size(line.mask))
        names = sorted(stated)
        headers = zip(names, photos.look_all(names), strict=True)
        return {name: _size(name, stated[name], header, photos) for name, header in headers}

    def build(self, lines: list[Line], sizes: dict[str, Size]) -> _Tables:
        made = _Tables()
        objects: dict[tuple[str, str, str], tuple[Line, object]] = {}
        for line in lines:
            height, width, _ = size = sizes[line.image]
            entry = ImageEntry(line.dataset, path_id(line.image), line.image, height, width)
            key = (line.dataset, line.image, line.object or f"\0{line.number}")
            first, mask = objects.setdefault(key, (line, line.mask))
            if mask != line.mask:
                self.problems.add(
                    f"{line.where}: object {quote(line.object)} has another mask in {first.where}",
                    line.number,
                )
                continue
            try:
                segmentation = self._checked(line, size, new=first is line)
            except DataError as error:
                self.problems.add(error, line.number)
                continue
            label = f"{line.dataset} {first.where}: mask"
            ids = (first.number, entry.image_id, height, width)
            made.add(line, entry, Annotation(line.dataset, *ids, segmentation, label))
        return made

    def _checked(self, line: Line, size: Size, *, new: bool) -> object:
        if not size.read:  # the image goes into quarantine, and its mask is never used
            return line.mask
        height, width, where = size.height, size.width, f"{line.where}: mask"
        if isinstance(line.mask, str):
            mask = self.masks.read(line.mask, height, width, where)
        else:
            if problem := misplaced_problem(line.mask, height, width):
                self.misplaced += new
                raise DataError(f"{where}: {problem}")
            mask = from_segmentation(line.mask, height, width, where)
            if new:
                self.placement.add(line.mask, height, width, line.where)
        self.empty[line.split] += area(mask) == 0
        polygons = isinstance(line.mask, list) and not any(isinstance(p, dict) for p in line.mask)
        return line.mask if self.raw and polygons else mask.coco()


def _size(name: str, stated: list[tuple[int, int]], header: Header | None, photos: Photos) -> Size:
    if header is None:
        return Size(*next((size for size in stated if size[0]), (0, 0)), read=False)
    size = header.upright
    if size not in stated and header.stored in stated:
        size = header.stored
    photos.settle(name, size, header)
    return Size(*size, read=True)
