"""Page of `svp eval`: pictures first, then metrics, published numbers, bounds and slices.

Expressions are other people's text: they reach the page through `display.shorten` and autoescape only.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....pipeline.browse import page_kit
from ....pipeline.browse.histograms import Histogram, histogram
from ....pipeline.display import counted, shorten
from ..breakdown import Slice
from ..results import Results, Row
from ..summary import NO_TARGET, SplitSummary, head_rows, summarise
from .gallery import Shelf, Targets, gallery, label
from .page_photos import Photographs
from .shown_data import nothing

HERE = Path(__file__).parent
BANDS = ("below 0.25", "0.25 to 0.5", "0.5 to 0.75", "0.75 or more")


@dataclass(frozen=True, slots=True)
class Section:
    """One split on the page.

    choices  slices that the filter names
    targets  whether a card has a target
    """

    name: str
    summary: SplitSummary
    groups: list[tuple[str, list[Slice]]]
    choices: list[str]
    histograms: list[Histogram]
    shelves: list[Shelf]
    targets: bool


def write_page(
    results: Results, out: Path, *, images: Path | None = None, targets: Targets | None = None
) -> Path:
    """Write the page of `results` into the folder `out`; returns its index.html.

    images   folder or address of the photographs; without it the samples are outlines only
    targets  the true mask of a sentence, for its outline

    An earlier page at `out` is replaced. ConfigError if `out` holds anything else.
    """

    def fill(folder: Path) -> dict[str, object]:
        photos = Photographs(folder, images)
        found = enumerate(summarise(results), 1)
        return _values(
            results, [_section(results, one, n, photos, targets or nothing) for n, one in found]
        )

    return page_kit.write_page(out, HERE / "eval.html.j2", fill, filtered=True)


def band(iou: float) -> str:
    """The one of `BANDS` that an IoU lies in."""
    return BANDS[min(3, int(4 * iou))]


def _section(
    results: Results, summary: SplitSummary, number: int, photos: Photographs, targets: Targets
) -> Section:
    size = summary.size
    rows = head_rows(results, size.dataset)
    shown = f"{size.dataset}/{size.split_by}" if size.split_by else size.dataset
    ious = Results(results.header, rows).counts.iou()
    shelves = gallery(rows, ious, number, photos, targets, results.header.seed)
    return Section(
        name=shorten(f"{shown} {size.split}".strip(), 80),
        summary=summary,
        groups=[(name, list(part)) for name, part in groupby(summary.slices, lambda s: s.group)],
        choices=[label(found.group, found.name) for found in summary.slices],
        histograms=[_ious(ious), _tokens(rows)],
        shelves=shelves,
        targets=any(card.target for shelf in shelves for card in shelf.cards),
    )


def _ious(ious: NDArray[np.float64]) -> Histogram:
    found = Counter(np.minimum(99, (100 * ious).astype(int)).tolist())
    half = float((ious >= 0.5).mean())
    return histogram(
        {value: found[value] for value in range(100)},
        title="IoU of the expressions",
        unit="IoU in percent",
        counted="Expressions",
        text=f"{100 * half:.1f} % of {counted(len(ious), 'expression', 'have')} an IoU of 50 % or more.",
        most=20,
    )


def _tokens(rows: Sequence[Row]) -> Histogram:
    found = Counter({(row.dataset, row.image_id): row.tokens for row in rows}.values())
    return histogram(
        found,
        title="Visual tokens per image",
        unit="visual tokens",
        counted="Images",
        text=f"From {min(found)} to {counted(max(found), 'visual token')} per image.",
    )


def _values(results: Results, sections: list[Section]) -> dict[str, object]:
    header = results.header
    kind = f"protocol {header.protocol}" + (", generated answers" if header.generate else "")
    return {
        "kind": kind,
        "generate": header.generate,
        "band": band,
        "bands": BANDS,
        "conventions": NO_TARGET,
        "title": shorten(", ".join(section.name for section in sections), 80),
        "sections": sections,
        "facts": [
            ("Seed", str(header.seed)),
            ("Repeats", str(header.repeats)),
            ("Superpixel order", shorten(header.order)),
            ("Commit", shorten(header.commit) or "not a checkout"),
        ],
        "digests": [
            (shorten(name), shorten(value)) for name, value in sorted(header.digests.items())
        ],
        "libraries": [(shorten(n), shorten(v)) for n, v in sorted(header.libraries.items())],
    }
