"""Page of `svp eval`: metrics with intervals, published numbers, bounds, slices, samples.

Expressions are other people's text: they reach the page through `display.shorten` and autoescape only.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ....pipeline.browse import page_kit
from ....pipeline.browse.histograms import BASE, HEIGHT, Bar, Tick, place
from ....pipeline.display import counted, shorten
from ....pipeline.records import Rle
from ..breakdown import Slice
from ..results import Results, Row
from ..summary import SplitSummary, head_rows, summarise
from .gallery import Shelf, Targets, gallery

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of the page; `unit` is what the numbers under it count."""

    title: str
    unit: str
    text: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    height: float = HEIGHT
    base: float = BASE


@dataclass(frozen=True, slots=True)
class Section:
    """One split on the page."""

    name: str
    summary: SplitSummary
    groups: list[tuple[str, list[Slice]]]
    histograms: list[Histogram]
    shelves: list[Shelf]


def write_page(
    results: Results, out: Path, *, images: Path | None = None, targets: Targets | None = None
) -> Path:
    """Write the page of `results` into the folder `out`; returns its index.html.

    images   folder of the photographs; without it the samples are outlines only
    targets  the true mask of a sentence, for its outline

    An earlier page at `out` is replaced. ConfigError if `out` holds anything else.
    """

    def fill(folder: Path) -> dict[str, object]:
        shown = (folder, images, targets or _unknown)
        return _values(results, [_section(results, one, *shown) for one in summarise(results)])

    return page_kit.write_page(out, HERE / "eval.html.j2", fill)


def _section(
    results: Results, summary: SplitSummary, folder: Path, images: Path | None, targets: Targets
) -> Section:
    size = summary.size
    rows = head_rows(results, size.dataset)
    shown = f"{size.dataset}/{size.split_by}" if size.split_by else size.dataset
    return Section(
        name=shorten(f"{shown} {size.split}".strip(), 80),
        summary=summary,
        groups=[(name, list(part)) for name, part in groupby(summary.slices, lambda s: s.group)],
        histograms=[_ious(rows), _tokens(rows)],
        shelves=gallery(rows, folder, images, targets, results.header.seed),
    )


def _ious(rows: Sequence[Row]) -> Histogram:
    found = Counter(min(99, int(100 * row.iou)) for row in rows)
    bars, ticks = place({value: found[value] for value in range(100)})
    half = sum(row.iou >= 0.5 for row in rows) / len(rows)
    text = f"{100 * half:.1f} % of {counted(len(rows), 'sentence', 'have')} an IoU of 50 % or more."
    return Histogram("IoU of the sentences", "IoU in percent", text, bars, ticks)


def _tokens(rows: Sequence[Row]) -> Histogram:
    found = Counter({row.image_id: row.tokens for row in rows}.values())
    bars, ticks = place(found)
    text = f"From {min(found)} to {counted(max(found), 'visual token')} per image."
    return Histogram("Visual tokens per image", "visual tokens", text, bars, ticks)


def _values(results: Results, sections: list[Section]) -> dict[str, object]:
    header = results.header
    kind = f"protocol {header.protocol}" + (", generated answers" if header.generate else "")
    return {
        "kind": kind,
        "generate": header.generate,
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


def _unknown(row: Row) -> Rle | None:
    return None
