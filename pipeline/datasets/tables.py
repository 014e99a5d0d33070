"""Normalised tables (images, sentences, masks) and the `Source` that later code reads.

Readers (refer, hub, coco, jsonl, folder, convert) each give a `Dataset` with all its splits;
`assemble` picks a split and unites datasets. Order is always (dataset, image_id, ref_id, sent_id)
and never depends on hashing or on the order in a file.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..display import counted, quote, show
from ..errors import DataError
from ..io.json_files import Fingerprint
from ..masks.rle import area, check_side, encode, from_segmentation, parts, union
from ..masks.rle_codec import MAX_SIDE
from ..records import Expression, ImageRecord, Rle
from ..store import Stat
from .coordinates import require_placed
from .problems import Faults, Problems, merged


@dataclass(frozen=True, slots=True, order=True)
class ImageEntry:
    """Row of the images table. Height and width 0: the file could not be examined."""

    dataset: str
    image_id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """Row of the sentences table; (dataset, split_by, sent_id) is its key."""

    dataset: str
    split_by: str
    split: str
    image_id: int
    ann_id: int
    ref_id: int
    sent_id: int
    sent: str


class Drawing(Protocol):
    """Pixels of a target, drawn by the rule of the program that a data set was made for."""

    def target(self, height: int, width: int) -> NDArray[np.bool_]:
        """(H,W) pixels of the target."""
        ...

    def ignored(self, height: int, width: int) -> NDArray[np.bool_] | None:
        """(H,W) pixels that count neither for nor against a prediction; None: no such region."""
        ...


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object as the file gives it; `segmentation` is untrusted until `mask` has checked it.

    label  how messages name it, if not by its id
    crowd  whether it outlines a group that was not told apart (COCO's `iscrowd`)
    ignore  region that counts neither for nor against a prediction, or None; untrusted, too
    drawing  what makes its pixels, where that is not COCO's rule for polygons
    box    x1 y1 x2 y2 with exclusive maxima, where no more is known; the segmentation fills it
    """

    dataset: str
    ann_id: int
    image_id: int
    height: int
    width: int
    segmentation: object
    label: str = ""
    crowd: bool = field(default=False, repr=False)
    ignore: object = field(default=None, repr=False)
    drawing: Drawing | None = field(default=None, repr=False)
    box: tuple[float, float, float, float] | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """Name of the record in messages."""
        return self.label or f"{self.dataset} annotation {self.ann_id}"

    @property
    def readable(self) -> bool:
        """Whether its photograph has a size masks can have; else that is quarantined."""
        return 0 < min(self.height, self.width) <= max(self.height, self.width) <= MAX_SIDE

    def mask(self) -> Rle:
        """The union of its `parts` at (height, width). Raises as they do."""
        return union(self.parts(), self.height, self.width)

    def parts(self) -> list[Rle]:
        """One mask per polygon or RLE.

        DataError for a bad polygon or RLE, and for polygons that cannot lie on this photograph.
        """
        require_placed(self.segmentation, self.height, self.width, self.where)
        if self.drawing is not None:
            check_side(self.height, self.width, self.where)
            return [encode(self.drawing.target(self.height, self.width))]
        return parts(self.segmentation, self.height, self.width, self.where)

    def ignored(self) -> Rle | None:
        """The region that is left out of all counts, if there is one. Raises as `mask`."""
        if self.drawing is not None:
            region = self.drawing.ignored(self.height, self.width)
            return None if region is None else encode(region)
        if self.ignore is None:
            return None
        return from_segmentation(self.ignore, self.height, self.width, f"{self.where}: ignore")


@dataclass(frozen=True)
class Dataset:
    """One loaded set with all its splits. `root` is the folder images are looked for around.

    listed  sizes and tags of the photographs by name, where they lie in object storage
    holds   splits that hold sentences of several names: RefCLEF's testA those of testAB too
    """

    kind: str
    name: str
    split_by: str
    root: Path
    images: tuple[ImageEntry, ...] = field(repr=False)
    sentences: tuple[Sentence, ...] = field(default=(), repr=False)
    annotations: Mapping[int, Annotation] = field(default_factory=dict, repr=False)
    notices: tuple[str, ...] = ()
    files: Mapping[str, Fingerprint] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    hint: str = ""  # what to do if a split is asked for that it has not
    listed: Mapping[str, Stat] = field(default_factory=dict, repr=False)
    holds: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """`refcoco/unc`, or the name alone where there is one way to split."""
        return f"{self.name}/{self.split_by}" if self.split_by else self.name

    def splits(self) -> dict[str, list[Sentence]]:
        """Sentences by split, in table order."""
        found: dict[str, list[Sentence]] = {}
        for sentence in self.sentences:
            found.setdefault(sentence.split, []).append(sentence)
        return found


@dataclass(frozen=True)
class Source:
    """Input of all later code: the images of one split, each once, sorted by id, with expressions.

    An image that could not be examined is listed all the same, with height = width = 0 (unknown):
    reading it at precompute time raises the ImageError that quarantines it. It is never dropped.
    `sentences` and `annotations` are the normalised tables; `expressions` joins them. sent_id and
    ref_id are unique within one dataset only. `faults` are the records that were left out. `listed`
    are sizes and tags of the photographs by name, where they lie in object storage.
    """

    name: str
    kind: str
    split: str | None
    image_root: Path
    images: tuple[ImageRecord, ...] = field(repr=False)
    sentences: tuple[Sentence, ...] = field(default=(), repr=False)
    annotations: Mapping[tuple[str, int], Annotation] = field(default_factory=dict, repr=False)
    notices: list[str] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    listed: Mapping[str, Stat] = field(default_factory=dict, repr=False)

    @property
    def where(self) -> str:
        """Name of the source in messages: the sets, and the files they were read from."""
        files = ", ".join(show(name, 80) for name in self.sha256)
        return f"{show(self.name)} ({files})" if files else show(self.name)

    @cached_property
    def generated(self) -> bool:
        """Whether all images are scenes of `svp data synth`, the tiny weights' own world."""
        return bool(self.worlds)

    @cached_property
    def worlds(self) -> frozenset[int]:
        """Worlds of `svp data synth` whose scenes the images are; empty unless all are scenes."""
        from .scenes.generated import worlds_of

        return worlds_of(self.image_root / record.path for record in self.images)

    @property
    def masks(self) -> dict[tuple[str, int], Rle]:
        """Union mask per (dataset, ann_id), built on first use. DataError listing bad ones."""
        problems = Problems(self.where)
        for line in self.bad_masks.values():
            problems.add(line)
        problems.raise_if_any()
        return self.good_masks

    @property
    def good_masks(self) -> dict[tuple[str, int], Rle]:
        """`masks` without those of `bad_masks`."""
        return self._masks[0]

    @property
    def bad_masks(self) -> dict[tuple[str, int], str]:
        """Fault of each bad mask, by (dataset, ann_id). It matters only if the mask is used:
        the image may be in quarantine, or not requested."""
        return self._masks[1]

    @cached_property
    def _masks(self) -> tuple[dict[tuple[str, int], Rle], dict[tuple[str, int], str]]:
        known = [item for _, item in sorted(self.annotations.items()) if item.readable]
        made, bad = build_masks(known)
        if empty := sum(area(mask) == 0 for mask in made.values()):
            self.notices.append(
                f"{counted(empty, 'object')} with an empty mask: trained with model.rejection only"
            )
        if lost := len(self.annotations) - len(known):
            self.notices.append(
                f"{counted(lost, 'object')} without expression: their images cannot be read"
            )
        return made, bad

    def ignored(self, row: Sentence) -> Rle | None:
        """The region that counts neither for nor against a prediction for a sentence, or None."""
        return self.annotations[row.dataset, row.ann_id].ignored()

    def box(self, row: Sentence) -> tuple[float, float, float, float] | None:
        """The box that is all that is known of a sentence's target, or None."""
        return self.annotations[row.dataset, row.ann_id].box

    def require_masks(self) -> None:
        """Raise DataError if targets are known by their boxes alone: none is a mask to learn."""
        for row in self.sentences:
            if self.box(row) is not None:
                raise DataError(
                    f"{self.where}: sentence {row.sent_id} has a box and no mask: this data set can be "
                    "evaluated on, not trained on"
                )

    @cached_property
    def expressions(self) -> tuple[Expression, ...]:
        """Expressions in the order of `sentences`, less those of images of unknown size."""
        joined = ((row, self.masks.get((row.dataset, row.ann_id))) for row in self.sentences)
        return tuple(
            Expression(
                row.sent_id,
                row.ref_id,
                row.ann_id,
                row.image_id,
                row.sent,
                mask,
                self.ignored(row),
                self.box(row),
            )
            for row, mask in joined
            if mask is not None
        )


def build_masks(
    annotations: Iterable[Annotation],
) -> tuple[dict[tuple[str, int], Rle], dict[tuple[str, int], str]]:
    """Masks of the good annotations by (dataset, ann_id), and what is wrong with the others."""
    made: dict[tuple[str, int], Rle] = {}
    bad: dict[tuple[str, int], str] = {}
    for item in annotations:
        try:
            made[item.dataset, item.ann_id] = item.mask()
            item.ignored()
        except DataError as error:
            bad[item.dataset, item.ann_id] = str(error)
    return made, bad


def order_of(row: Sentence) -> tuple[str, int, int, int]:
    """The sort key of the sentences table."""
    return row.dataset, row.image_id, row.ref_id, row.sent_id


def assemble(datasets: Sequence[Dataset], split: str | None) -> Source:
    """The union of the datasets' images in `split` (None: all), each once, sorted by image id.

    `image_root` is not known yet: the first dataset's own folder stands in.
    DataError if no dataset has the split, or if two disagree about one image.
    """
    faults = merged(dataset.faults for dataset in datasets)
    notices = [notice for dataset in datasets for notice in dataset.notices] + faults.notices()
    chosen = [_choose(dataset, split, notices) for dataset in datasets]
    if split is not None and not any(sentences or images for sentences, images in chosen):
        hints = "".join(f"; {hint}" for hint in dict.fromkeys(d.hint for d in datasets) if hint)
        raise DataError(f"no split {quote(split)}: {_describe_splits(datasets)}{hints}")
    images = _unite(entry for _, entries in chosen for entry in entries)
    sentences = sorted((row for rows, _ in chosen for row in rows), key=order_of)
    used = {(row.dataset, row.ann_id) for row in sentences}
    annotations = {(d.name, a.ann_id): a for d in datasets for a in d.annotations.values()}
    return Source(
        name=",".join(dataset.title for dataset in datasets),
        kind=datasets[0].kind,
        split=split,
        image_root=datasets[0].root,
        images=images,
        sentences=tuple(sentences),
        annotations={key: annotations[key] for key in sorted(used)},
        notices=notices,
        sha256={name: file.sha256 for d in datasets for name, file in d.files.items()},
        faults=faults,
        listed=datasets[0].listed,
    )


def _choose(
    dataset: Dataset, split: str | None, notices: list[str]
) -> tuple[Sequence[Sentence], Sequence[ImageEntry]]:
    if not dataset.sentences:
        if split is not None and dataset.kind != "coco":  # there the file was chosen by split
            notices.append(f"{dataset.title} has no splits: all its images are used")
        return (), dataset.images
    names = dataset.holds.get(split or "", (split,))
    rows = [row for row in dataset.sentences if split is None or row.split in names]
    if not rows:
        notices.append(f"{dataset.title} has no split {show(split)}: it adds nothing")
    wanted = {row.image_id for row in rows}
    return rows, [entry for entry in dataset.images if entry.image_id in wanted]


def _describe_splits(datasets: Sequence[Dataset]) -> str:
    return "; ".join(f"{d.title} has {', '.join(sorted(d.splits())) or 'none'}" for d in datasets)


def _unite(entries: Iterable[ImageEntry]) -> tuple[ImageRecord, ...]:
    found: dict[int, ImageRecord] = {}
    for entry in entries:
        record = ImageRecord(entry.image_id, entry.file_name, entry.height, entry.width)
        other = found.setdefault(entry.image_id, record)
        if other != record:
            raise DataError(
                f"image {entry.image_id} is {show(other.path)} {other.height}x{other.width} in one "
                f"set and {show(record.path)} {record.height}x{record.width} in {entry.dataset}"
            )
    return tuple(found[image_id] for image_id in sorted(found))
