"""Photographs with masks, of a cache or of answers, as they are exported to data viewers.

A superpixel's label is its level; an answer's is its expression. Every expression is a picture of
its own, so that an answer is compared with its own target alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pipeline.cache.places import image_root_of
from ..pipeline.cache.reader import CacheReader
from ..pipeline.datasets import Source
from ..pipeline.display import counted, show
from ..pipeline.errors import DataError, MissingError
from ..pipeline.io.json_files import parse_line, read_json
from ..pipeline.masks.rle import area, decode, encode, from_segmentation
from ..pipeline.records import PART, SUB_PART, WHOLE, Rle
from ..pipeline.store import Place
from ..train.evaluation.results import Results, Row, read_results

LEVELS = {WHOLE: "whole", PART: "part", SUB_PART: "sub-part"}
PREDICTIONS = "predictions.jsonl"
MAX_RECORD = 512 << 20


@dataclass(frozen=True)
class Region:
    """A mask of a picture.

    score  confidence in [0,1], or None
    more   further fields by name
    """

    mask: Rle
    label: str
    score: float | None = None
    more: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A photograph with masks.

    name     as the data set calls it
    regions  superpixels, or the answer to `expression`; none if that is an empty mask
    targets  the true mask of `expression`; none if it is empty or not known
    """

    name: str
    image_id: int
    height: int
    width: int
    regions: tuple[Region, ...]
    expression: str = ""
    targets: tuple[Region, ...] = ()
    more: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """Pictures to export.

    each  the pictures, made when they are asked for
    root  where photographs have their names, if that is known
    notes  lines for the user
    """

    each: Callable[[], Iterator[Picture]]
    labels: tuple[str, ...]
    root: Path | None
    notes: tuple[str, ...] = ()


def superpixels_of(cache: Place, images: Path | None = None) -> Pictures:
    """The superpixels of every image of a cache that has some, in its order.

    images  folder of the photographs; default: where the cache was made from

    Raises MissingError, CacheError as `CacheReader`.
    """
    reader = CacheReader(cache)
    good = [row for row in range(len(reader)) if reader.status(row) == "ok"]

    def each() -> Iterator[Picture]:
        for row in good:
            image, found = reader.plan.images[row], reader.superpixels(row)
            regions = tuple(
                Region(
                    mask,
                    LEVELS[int(level)],
                    float(iou),
                    {"level": int(level), "stability": float(stability)},
                )
                for mask, level, iou, stability in zip(
                    found.masks(), found.level, found.predicted_iou, found.stability, strict=True
                )
            )
            yield Picture(image.path, image.image_id, image.height, image.width, regions)

    left = len(reader) - len(good)
    notes = (f"left out: {counted(left, 'image')} without superpixels",) if left else ()
    return Pictures(each, tuple(LEVELS.values()), images or image_root_of(cache), notes)


def answers_of(path: Path, source: Source | None = None, images: Path | None = None) -> Pictures:
    """The answers in a result file of `svp eval`, or in what `svp predict` wrote.

    path    result file, record NAME.json, predictions.jsonl, or a folder of records: a later call of
            `svp predict` may have answered some of them anew
    source  data set of the result file, for the targets
    images  folder of the photographs; default: that of `source`

    Raises MissingError, DataError (a file that is none of these, or damaged).
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise MissingError(
            f"{show(str(path), 300)}: no answers there: name a result file of `svp eval`, or a record, "
            f"the {PREDICTIONS} or the folder of `svp predict`"
        )
    if is_predicted(path):
        found = list(_predicted(files))
        return Pictures(lambda: iter(found), ("referent",), images or Path.cwd())
    results = read_results(path)
    targets = {} if source is None else _targets(source, results)
    root = images or (source.image_root if source is not None else None)
    notes = (
        () if source is not None else ("no targets: name the data set with --dataset to add them",)
    )
    return Pictures(lambda: _evaluated(results, targets), ("referent",), root, notes)


def is_predicted(path: Path) -> bool:
    """Whether `path` is named as `svp predict` names its records, and the folder of them."""
    return path.is_dir() or path.suffix == ".json" or path.name == PREDICTIONS


def pixels(mask: Rle) -> tuple[NDArray[np.bool_], tuple[int, int, int, int]] | None:
    """The part (h,w) of a mask in its box x y w h; None for an empty mask. DataError if it is bad."""
    found = decode(mask).view(np.bool_)
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    part = found[top : rows[-1] + 1, left : columns[-1] + 1]
    return part, (left, top, part.shape[1], part.shape[0])


def _evaluated(results: Results, targets: Mapping[tuple[str, int], Rle]) -> Iterator[Picture]:
    # Sets that share a photograph are one behind the other in the file, it is one picture to a viewer.
    for row in sorted(results.rows, key=lambda row: (row.path, row.key)):
        if row.repeat:
            continue
        more = {"sent_id": row.sent_id, "ref_id": row.ref_id}
        score = 1.0 if row.rejection is None else 1 - row.rejection
        said = Region(row.mask, row.text, score, {"iou": row.iou, "tokens": row.tokens, **more})
        known = targets.get((row.dataset, row.sent_id))
        wanted = () if known is None or not area(known) else (Region(known, row.text, None, more),)
        yield Picture(
            row.path,
            row.image_id,
            row.height,
            row.width,
            (said,) if area(row.mask) else (),
            row.text,
            wanted,
            {**more, "dataset": row.dataset},
        )


def _targets(source: Source, results: Results) -> dict[tuple[str, int], Rle]:
    """True masks by data set and sentence, without ignored regions. DataError if one is missing."""
    wanted = {(row.dataset, row.sent_id): row for row in results.rows}
    found = {}
    for sentence in source.sentences:
        key = sentence.dataset, sentence.sent_id
        mask = source.good_masks.get((sentence.dataset, sentence.ann_id))
        if key not in wanted or mask is None:
            continue
        ignored = source.ignored(sentence)
        if ignored is not None:
            mask = encode(decode(mask).view(np.bool_) & ~decode(ignored).view(np.bool_))
        _require_same(wanted[key], mask, source)
        found[key] = mask
    if lost := [row for key, row in wanted.items() if key not in found]:
        raise DataError(
            f"{source.where}: has no {lost[0].dataset} sentence {lost[0].sent_id}, which was "
            "evaluated: name the data set and split of the result file"
        )
    return found


def _require_same(row: Row, mask: Rle, source: Source) -> None:
    if (mask.height, mask.width) != (row.height, row.width) or area(mask) != row.target:
        raise DataError(
            f"{source.where}: {row.dataset} sentence {row.sent_id} has another target than the one "
            "that was evaluated: name the data set of the result file"
        )


def _predicted(files: Sequence[Path]) -> Iterator[Picture]:
    records = (record for path in files for record in _records(path))
    for number, (where, record) in enumerate(records, 1):
        try:
            (height, width), name = record["size"], record["image"]
            for one in record["predictions"]:
                mask = from_segmentation(one["mask"], height, width, where)
                more = {"tokens": int(record["tokens"])}
                said = Region(mask, str(one["expression"]), float(one["score"]), more)
                yield Picture(
                    str(name), number, height, width, (said,) if area(mask) else (), said.label
                )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where}: no record of `svp predict` ({show(str(error))})") from None


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix == ".json":
        found = [(show(str(path), 300), read_json(path, MAX_RECORD))]
    else:
        lines = path.read_bytes().splitlines()
        places = [f"{show(str(path), 300)} line {n}" for n in range(1, len(lines) + 1)]
        found = [
            (where, parse_line(line, where)) for where, line in zip(places, lines, strict=True)
        ]
    for where, record in found:
        if not isinstance(record, dict):
            raise DataError(f"{where}: no record of `svp predict`")
        yield where, record
