"""Significance of the paper's orderings: paired bootstrap over images and seeds.

The rows of a table answer the same sentences, so a difference is taken image by image: a draw takes
images with replacement, the same for both rows, and seeds with replacement, for each row its own.
The spread over seeds is then in the interval, which with three seeds is what usually decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...pipeline.errors import PlanMismatchError
from ..metrics import Interval
from .results import Results

DRAWS = 1000
Floats = NDArray[np.float64]
Verdict = Literal["holds", "leans", "leans against", "reversed"]


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators (seeds, images) of a metric of one row and split.

    key  the sentences that were asked: rows can be compared only if it is equal
    """

    above: Floats
    below: Floats
    key: tuple[tuple[int, ...], ...]

    @property
    def value(self) -> float:
        """The metric, averaged over seeds."""
        return _value(self)


def sums_of(results: Sequence[Results], metric: str) -> Sums:
    """Sums of a row's seeds on one split, for gIoU (IoU, sentences) or cIoU (I, U)."""
    first = results[0]
    key = tuple((row.image_id, row.ref_id, row.sent_id) for row in first.rows)
    _, number = np.unique(first.images, return_inverse=True)
    tables = []
    for one in results:
        if tuple((row.image_id, row.ref_id, row.sent_id) for row in one.rows) != key:
            raise PlanMismatchError("other sentences in one seed's results than in another's")
        tables.append(_columns(one, metric))
    above, below = (
        np.stack([np.bincount(number, table[part]) for table in tables]).astype(np.float64)
        for part in (0, 1)
    )
    return Sums(above, below, key)


def difference(
    better: Sequence[Sums], worse: Sequence[Sums], *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Metric of one row minus that of another with its 95 % interval, both averaged over splits.

    One element per split, in the same order. PlanMismatchError if the sentences differ.
    """
    for a, b in zip(better, worse, strict=True):
        if a.key != b.key:
            raise PlanMismatchError(
                "results of other sentences: rows must be evaluated on the same"
            )
    rng = np.random.default_rng(seed)
    drawn = np.zeros(draws)
    for k in range(draws):
        drawn[k] = np.mean([_drawn(a, b, rng) for a, b in zip(better, worse, strict=True)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    value = np.mean([a.value - b.value for a, b in zip(better, worse, strict=True)])
    return Interval(float(value), float(low), float(high))


def verdict(found: Interval) -> Verdict:
    """Whether `better - worse` is above zero: surely, likely, likely not, surely not."""
    if found.low > 0:
        return "holds"
    if found.high < 0:
        return "reversed"
    return "leans" if found.value > 0 else "leans against"


def agreement(ours: Mapping[str, float], paper: Mapping[str, float]) -> tuple[int, int]:
    """(pairs of rows that we order as the paper does, pairs it orders at all)."""
    pairs = [
        (ours[a] - ours[b], paper[a] - paper[b])
        for a, b in combinations([name for name in ours if name in paper], 2)
        if paper[a] != paper[b]
    ]
    return sum((mine > 0) == (theirs > 0) for mine, theirs in pairs), len(pairs)


def _columns(results: Results, metric: str) -> tuple[Floats, Floats]:
    counts = results.counts
    if metric == "cIoU":
        return counts.intersection.astype(np.float64), counts.union.astype(np.float64)
    return counts.iou(), np.ones(len(counts))


def _value(
    sums: Sums, images: Floats | None = None, seeds: NDArray[np.int64] | None = None
) -> float:
    weights = np.ones(sums.above.shape[1]) if images is None else images
    chosen = slice(None) if seeds is None else seeds
    ratios = (sums.above[chosen] @ weights) / np.maximum(sums.below[chosen] @ weights, 1e-12)
    return float(ratios.mean())


def _drawn(a: Sums, b: Sums, rng: np.random.Generator) -> float:
    n = a.above.shape[1]
    images = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
    draws = [rng.integers(0, len(s.above), len(s.above)) for s in (a, b)]
    return _value(a, images, draws[0]) - _value(b, images, draws[1])
