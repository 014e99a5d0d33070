"""Curves over the number of visual tokens, and the area under them (AUBC) with paired intervals.

The points of a curve answer the same sentences, and so do other curves: a draw takes images with
replacement, the same for all points and both curves, and seeds for each curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....pipeline.errors import PlanMismatchError
from ...evaluation.significance import DRAWS, Floats, Sums
from ...metrics import Interval

LOW, HIGH = 4, 64  # tokens between which the area is taken


@dataclass(frozen=True)
class Curve:
    """Points by rising tokens.

    tokens  mean visual tokens per image of each point
    sums    of each point by split
    """

    name: str
    tokens: tuple[float, ...]
    sums: tuple[Sequence[Sums], ...]

    @classmethod
    def of(cls, name: str, points: Sequence[tuple[float, Sequence[Sums]]]) -> "Curve":
        """Of (tokens, sums by split) in any order."""
        placed = sorted(points, key=lambda point: point[0])
        return cls(name, tuple(t for t, _ in placed), tuple(s for _, s in placed))


def area(tokens: Sequence[float], values: Floats) -> Floats:
    """Mean of the curve over log2(tokens) from `LOW` to `HIGH`.

    tokens (n,) rising; values (..., n) -> (...). Lines between the points, to 0 at one token before
    the first, the last value after the last; several points at one count are their mean.
    """
    places = np.log2(np.maximum(tokens, 1.0))
    known, number = np.unique(places, return_inverse=True)
    shares = (number == np.arange(len(known))[:, None]).astype(np.float64)
    values = values @ (shares / shares.sum(1, keepdims=True)).T
    known, values = _from_zero(known, values)
    low, high = np.log2(LOW), np.log2(HIGH)
    inside = known[(known > low) & (known < high)]
    grid = np.concatenate([[low], inside, [high]])
    flat = values.reshape(-1, values.shape[-1])
    heights = np.stack([np.interp(grid, known, row) for row in flat])
    found = np.trapezoid(heights, grid, axis=1) / (high - low)
    return np.asarray(found.reshape(values.shape[:-1]))


def _from_zero(places: Floats, values: Floats) -> tuple[Floats, Floats]:
    if places[0] <= 0:
        return places, values
    nothing = np.zeros((*values.shape[:-1], 1))
    return np.concatenate([[0.0], places]), np.concatenate([nothing, values], axis=-1)


def area_of(curve: Curve) -> Interval:
    """Area under a curve with its 95 % interval."""
    return _interval(_areas(curve, None, None)[0], _drawn([curve])[0])


def gain(better: Curve, worse: Curve) -> Interval:
    """Area of one curve minus that of another. PlanMismatchError if the sentences differ."""
    a, b = _drawn([better, worse])
    value = _areas(better, None, None)[0] - _areas(worse, None, None)[0]
    return _interval(value, a - b)


def _interval(value: float, drawn: Floats) -> Interval:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _drawn(curves: Sequence[Curve], seed: int = 0, draws: int = DRAWS) -> list[Floats]:
    """Areas (draws,) of each curve, of the same images."""
    first = curves[0].sums[0]
    for curve in curves:
        for point in curve.sums:
            if any(a.key != b.key for a, b in zip(point, first, strict=True)):
                raise PlanMismatchError(
                    f"{curve.name}: results of other sentences: rows must be evaluated on the same"
                )
    rng = np.random.default_rng(seed)
    weights = []
    for one in first:
        n = one.above.shape[1]
        weights.append(
            np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(draws)])
        )
    found = []
    for curve in curves:
        # A nested method is one model per seed at all of its points.
        seeds = min(len(one.above) for point in curve.sums for one in point)
        found.append(_areas(curve, weights, rng.integers(0, seeds, (draws, seeds))))
    return found


def _areas(
    curve: Curve, weights: Sequence[NDArray[np.int64]] | None, seeds: NDArray[np.int64] | None
) -> Floats:
    """(draws,) areas; without weights one, of all images and seeds."""
    return area(curve.tokens, np.stack([_metric(p, weights, seeds) for p in curve.sums], axis=-1))


def _metric(
    point: Sequence[Sums],
    weights: Sequence[NDArray[np.int64]] | None,
    seeds: NDArray[np.int64] | None,
) -> Floats:
    """(draws,) the metric of a point, mean over seeds and splits."""
    splits = []
    for k, one in enumerate(point):
        w = np.ones((1, one.above.shape[1])) if weights is None else weights[k]
        ratios = (w @ one.above.T) / np.maximum(w @ one.below.T, 1e-12)  # (draws, seeds)
        chosen = ratios if seeds is None else np.take_along_axis(ratios, seeds, axis=1)
        splits.append(chosen.mean(1))
    return np.asarray(np.mean(splits, axis=0))
