"""Linear probes on things of world 2: what can be told of a thing from which description of it.

Two questions, each about things that nothing else tells apart. *Parts*: of a thing that has another
beside it with the same paints exchanged, which paint is first. *Outline*: which silhouette, turned
how, fills a box. The descriptions are what a visual token may be made of:

    mean      the mean feature over the thing
    box       its box: place and side
    cells     its mask in a 6x6 grid over the image
    patches   its features where they are, in a 3x3 grid over its box
    mask      its mask in an 18x18 grid over its box

A probe is ridge regression onto the answers, closed form; the penalty is the one that is best on a
quarter of the training things.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..datasets.world2 import MadeScene
from ..datasets.world2.sampling import Thing
from ..datasets.world2.vocabulary import PAINTS, SILHOUETTES

DESCRIPTIONS: Final = ("mean", "box", "cells", "patches", "mask")
_CELLS, _PLACES, _FINE = 6, 3, 18
_FEWEST = 12  # things a probe is fitted to, at least
_PENALTIES: Final = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing: the question asked about it, the right answer, and a row per description."""

    question: str
    answer: int
    rows: dict[str, Rows]


def samples(scenes: Iterable[tuple[MadeScene, Rows]]) -> list[Sample]:
    """Things of binding and outline groups; of each scene its features (h,w,C) on a patch grid."""
    found = []
    for made, features in scenes:
        for number, thing in enumerate(made.scene.things):
            if asked := _asked(thing):
                label = len(made.scene.regions) + 1 + number
                rows = _describe(thing, made.labels.whole == label, features)
                found.append(Sample(*asked, rows))
    return found


def accuracies(train: list[Sample], test: list[Sample]) -> dict[str, dict[str, float]]:
    """Share of right answers by slice (`parts`, `outline`) and description.

    `parts` is the mean over arrangements: a probe knows which one a thing has.
    """
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for question in sorted({sample.question for sample in train}):
        known = [s for s in train if s.question == question]
        asked = [s for s in test if s.question == question]
        if len(known) < _FEWEST or not asked:
            continue
        for name in DESCRIPTIONS:
            said = _fit_and_answer(
                np.stack([s.rows[name] for s in known]), np.array([s.answer for s in known]),
                np.stack([s.rows[name] for s in asked]),
            )  # fmt: skip
            slice_ = "outline" if question == "outline" else "parts"
            right[slice_][name] += [bool(a == s.answer) for a, s in zip(said, asked, strict=True)]
    return {
        slice_: {name: float(np.mean(values)) for name, values in by_name.items()}
        for slice_, by_name in right.items()
    }


def _asked(thing: Thing) -> tuple[str, int] | None:
    """(question, answer) about a thing, None where nothing is asked."""
    if thing.kind == "outline":
        return "outline", 4 * SILHOUETTES.index(thing.silhouette) + thing.turn
    paints = [coat.paint for coat in thing.coats]
    if thing.kind != "binding" or len(set(paints)) == 1:
        return None
    return thing.arrangement, list(PAINTS).index(paints[0])


def _describe(thing: Thing, shown: NDArray[np.bool_], features: Rows) -> dict[str, Rows]:
    height, width = shown.shape
    box = slice(thing.y, thing.y + thing.side), slice(thing.x, thing.x + thing.side)
    grid = features.shape[:2]
    cover = _pooled(shown, grid)
    mean = np.tensordot(cover, features, 2) / cover.sum()
    # Features at the middles of the cells of the box's own grid, where the thing shows.
    steps = (np.arange(_PLACES) + 0.5) * thing.side / _PLACES
    y, x = (
        ((start + steps) * n / size).astype(int)
        for start, n, size in zip((thing.y, thing.x), grid, (height, width), strict=True)
    )
    inside = _pooled(shown[box], (_PLACES, _PLACES))
    return {
        "mean": mean,
        "box": np.array(
            [thing.x / width, thing.y / height, thing.side / width, thing.side / height]
        ),
        "cells": _pooled(shown, (_CELLS, _CELLS)).ravel(),
        "patches": (features[np.ix_(y, x)] * (inside > 0.5)[..., None]).ravel(),
        "mask": _pooled(shown[box], (_FINE, _FINE)).ravel(),
    }


def _pooled(mask: NDArray[np.bool_], grid: tuple[int, ...]) -> Rows:
    """(h,w) share of each cell that the mask covers; cells of whole pixels, nearest ones."""
    ends = [
        np.round(np.arange(n + 1) * size / n).astype(int)
        for n, size in zip(grid, mask.shape, strict=True)
    ]
    total = np.add.reduceat(np.add.reduceat(mask.astype(float), ends[0][:-1], 0), ends[1][:-1], 1)
    return np.asarray(total / np.outer(np.diff(ends[0]), np.diff(ends[1])))


def _fit_and_answer(rows: Rows, answers: NDArray[np.int64], asked: Rows) -> NDArray[np.int64]:
    mean, spread = rows.mean(0), rows.std(0)
    keep = spread > 1e-9
    known, new = ((r[:, keep] - mean[keep]) / spread[keep] for r in (rows, asked))
    wanted = np.eye(answers.max() + 1)[answers]
    fit, tried = np.arange(len(known)) % 4 != 3, np.arange(len(known)) % 4 == 3
    scores = {
        penalty: (_answers(known[fit], wanted[fit], known[tried], penalty) == answers[tried]).mean()
        for penalty in _PENALTIES
    }
    best = max(scores, key=lambda penalty: scores[penalty])
    return _answers(known, wanted, new, best)


def _answers(known: Rows, wanted: Rows, asked: Rows, penalty: float) -> NDArray[np.int64]:
    """Ridge regression in its dual form where there are more columns than rows."""
    middle = wanted.mean(0)
    n, width = known.shape
    scale = penalty * n
    if width > n:
        weights = np.linalg.solve(known @ known.T + scale * np.eye(n), wanted - middle)
        return np.asarray((asked @ known.T @ weights + middle).argmax(1))
    weights = np.linalg.solve(known.T @ known + scale * np.eye(width), known.T @ (wanted - middle))
    return np.asarray((asked @ weights + middle).argmax(1))
