"""Page of `svp compare`: two models side by side, the expressions that differ most first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....pipeline.browse import page_kit
from ....pipeline.browse.histograms import Histogram, histogram
from ....pipeline.browse.line_charts import LineChart
from ....pipeline.display import counted
from ...metrics import Interval, metrics
from ..breakdown import slices_of
from ..results import Results
from .gallery import Card, card_of, label, outline
from .learning_curves import Record, of_several
from .page_photos import Photographs
from .shown_data import ShownData

HERE = Path(__file__).parent
SHOWN = 24  # expressions for either model
WHO = ("the first is better", "the second is better")


@dataclass(frozen=True, slots=True)
class PairCard:
    """One expression with both answers; `first` is the card of the first model's.

    second  outline of the other answer; `ious` of both, `gap` the first minus the second
    """

    first: Card
    second: str
    ious: tuple[float, float]
    gap: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two result files of the same expressions.

    values       metric -> both models, fractions
    differences  metric -> first minus second with its interval
    tokens       visual tokens of an image, mean
    asked        of both what was asked of the answers otherwise than usual, or ""
    """

    name: str
    ours: Results
    theirs: Results
    values: Mapping[str, tuple[float, float]]
    differences: Mapping[str, Interval]
    tokens: tuple[float, float]
    asked: tuple[str, str]
    shown: ShownData


@dataclass(frozen=True, slots=True)
class Section:
    """One pair on the page. `slices` is (group: name, expressions, gIoU of both, difference)."""

    pair: Pair
    histogram: Histogram
    slices: list[tuple[str, str, str, str, str]]
    choices: list[str]
    shelves: list[tuple[str, list[PairCard]]]
    targets: bool


def write_page(
    names: tuple[str, str],
    pairs: Sequence[Pair],
    out: Path,
    records: Mapping[str, Sequence[Record]],
) -> Path:
    """Write the page of a comparison into the folder `out`; returns its index.html.

    names    of both models
    records  learning curves of those that are runs, by name

    An earlier page at `out` is replaced. ConfigError if `out` holds anything else.
    """

    def fill(folder: Path) -> dict[str, object]:
        charts: list[LineChart] = of_several(records) if len(records) > 1 else []
        return {
            "names": names,
            "sections": [_section(pair, n, folder) for n, pair in enumerate(pairs, 1)],
            "charts": charts,
            "who": WHO,
            "verdict": _verdict,
        }

    return page_kit.write_page(out, HERE / "comparison.html.j2", fill, filtered=True)


def most_changed(gap: np.ndarray, most: int = SHOWN) -> tuple[list[int], list[int]]:
    """Places where the first is better, the largest difference first, and where the second is.

    gap  (S,) IoU of the first minus that of the second
    """
    rising = np.argsort(gap, kind="stable")
    return (
        [int(k) for k in rising[::-1][:most] if gap[k] > 0],
        [int(k) for k in rising[:most] if gap[k] < 0],
    )


def _section(pair: Pair, number: int, folder: Path) -> Section:
    ious = np.stack([pair.ours.counts.iou(), pair.theirs.counts.iou()])
    gap = ious[0] - ious[1]
    photos = Photographs(folder, pair.shown.images, f"{number}-")
    groups = slices_of(pair.ours.rows)
    shelves = []
    for title, chosen in zip(WHO, most_changed(gap), strict=True):
        cards = []
        for k in chosen:
            one, two = pair.ours.rows[k], pair.theirs.rows[k]
            names = tuple(label(*key) for key, inside in groups.items() if inside[k])
            card = card_of(one, float(ious[0, k]), number, photos, pair.shown.targets(one), names)
            both = float(ious[0, k]), float(ious[1, k])
            cards.append(PairCard(card, outline(two, two.mask), both, float(gap[k])))
        if cards:
            shelves.append((title, cards))
    slices = []
    for key, inside in groups.items():
        a, b = (metrics(one.counts.take(inside))["gIoU"] for one in (pair.ours, pair.theirs))
        slices.append(
            (
                label(*key),
                f"{inside.sum():,}",
                f"{100 * a:.2f}",
                f"{100 * b:.2f}",
                f"{100 * (a - b):+.2f}",
            )
        )
    return Section(
        pair,
        _differences(gap),
        slices,
        [label(*key) for key in groups],
        shelves,
        any(card.first.target for _, cards in shelves for card in cards),
    )


def _differences(gap: np.ndarray) -> Histogram:
    points = np.clip(np.rint(100 * gap).astype(int), -100, 99).tolist()
    equal = sum(value == 0 for value in points)
    return histogram(
        {value: points.count(value) for value in range(-100, 100)},
        title="Difference of IoU",
        unit="first minus second, percentage points",
        counted="Expressions",
        text=f"{counted(equal, 'expression', 'differ')} by less than half a point.",
    )


def _verdict(found: Interval) -> tuple[str, str]:
    """(text, tone of its badge) of a difference."""
    if found.low > 0:
        return WHO[0], "good"
    if found.high < 0:
        return WHO[1], "good"
    return "not told apart", "none"
