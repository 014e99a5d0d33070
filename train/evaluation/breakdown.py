"""Breakdown of the metrics by target size, word class and superpixel fit.

| group                         | slices                                                            |
|-------------------------------|-------------------------------------------------------------------|
| empty target                  | sentences that mean nothing in the picture; in no other slice but |
|                               | those of words                                                    |
| object size                   | COCO's small, medium, large, for a photograph of 640 x 480: 32^2  |
|                               | and 96^2 px there are 0.33 % and 3 % of the picture; an object's  |
|                               | share decides                                                     |
| words                         | attribute, size, position, relation, those that the set's file    |
|                               | names, plain; may be several                                      |
| IoU of the best union         | under-segmentation: where no union of superpixels fits the target |
|                               | they merge it with something else                                 |
| superpixels in the best union | over-segmentation                                                 |
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics import metrics
from .results import Results, Row
from .word_classes import PLAIN, named_classes

PHOTOGRAPH = 640 * 480  # pixels of the photograph that COCO's limits are meant for
SMALL, MEDIUM = 32**2 / PHOTOGRAPH, 96**2 / PHOTOGRAPH
_FITS = (("below 0.5", 0.0, 0.5), ("0.5 to 0.75", 0.5, 0.75), ("0.75 to 0.9", 0.75, 0.9),
         ("0.9 or more", 0.9, 2.0))  # fmt: skip
_PIECES = (("none", 0, 1), ("1", 1, 2), ("2 or 3", 2, 4), ("4 or more", 4, 1 << 62))

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Slice:
    """Metrics of the sentences of one slice; `values` as `metrics.NAMES`."""

    group: str
    name: str
    sentences: int
    values: dict[str, float]


def breakdown(results: Results) -> list[Slice]:
    """Every slice that holds a sentence. Slices by superpixels only where bounds are known."""
    return [
        Slice(group, name, int(inside.sum()), metrics(results.counts.take(inside)))
        for (group, name), inside in slices_of(results.rows).items()
    ]


def slices_of(rows: Sequence[Row]) -> dict[tuple[str, str], Bools]:
    """(group, name) -> which rows are in it, for every slice that holds one."""
    return {(group, name): inside for group, name, inside in _slices(rows) if inside.any()}


def size_of(row: Row) -> str:
    """`small`, `medium` or `large`, by the target's share of the photograph; "" without a target."""
    if row.target == 0:
        return ""
    share = row.target / (row.height * row.width)
    return "small" if share < SMALL else "medium" if share < MEDIUM else "large"


def _slices(rows: Sequence[Row]) -> Iterator[tuple[str, str, Bools]]:
    yield "empty target", "nothing to find", _where(row.target == 0 for row in rows)
    for size in ("small", "medium", "large"):
        yield "object size", size, _where(size_of(row) == size for row in rows)
    for word in named_classes(row.classes for row in rows):
        yield "words", word, _where(word in row.classes for row in rows)
    yield "words", PLAIN, _where(not row.classes for row in rows)
    if all(row.bounds is not None for row in rows):
        yield from _by_superpixels(rows)


def _by_superpixels(rows: Sequence[Row]) -> Iterator[tuple[str, str, Bools]]:
    bounds = [row.bounds for row in rows if row.bounds is not None]
    some = _where(row.target > 0 for row in rows)
    union = np.array([bound.union for bound in bounds])
    for name, low, high in _FITS:
        yield "IoU of the best union", name, some & (union >= low) & (union < high)
    pieces = np.array([bound.pieces for bound in bounds])
    for name, low, high in _PIECES:
        yield "superpixels in the best union", name, some & (pieces >= low) & (pieces < high)


def _where(answers: Iterator[bool]) -> Bools:
    return np.fromiter(answers, np.bool_)
