"""Fig. 9: answers where superpixels are larger than the target, or split it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...pipeline.display import counted, shorten
from ..evaluation.results import Row
from ..evaluation.upper_bounds import Atoms
from . import canvas
from .canvas import Picture
from .inputs import Material, as_mask, one_per_image

COLUMNS = 4
LOOSE, CUT = 0.6, 0.15
Fit = Literal["under", "over", ""]


@dataclass(frozen=True, slots=True)
class Case:
    """A sentence, how its superpixels fail it, and the bounds that say so."""

    row: Row
    kind: Fit
    single: float
    union: float


def kind_of(single: float, union: float, pieces: int) -> Fit:
    """Under-segmented: no union reaches 0.6. Over-segmented: several pieces are far better than one.

    >>> kind_of(0.4, 0.5, 1), kind_of(0.5, 0.95, 3), kind_of(0.92, 0.95, 2)
    ('under', 'over', '')
    """
    if union < LOOSE:
        return "under"
    return "over" if pieces > 1 and union - single > CUT else ""


def cases(made: Material, rows: Sequence[Row]) -> list[Case]:
    """Rows with a kind; bounds are taken from the result file or computed."""
    found = []
    for row in rows:
        if row.bounds is not None:
            single, union, pieces = row.bounds.single, row.bounds.union, row.bounds.pieces
        else:
            number = made.reader.index_of[row.image_id]
            bound = Atoms(made.reader.superpixels(number).masks()).bound(made.target(row))
            single, union, pieces = bound.single, bound.union, len(bound.chosen)
        if kind := kind_of(single, union, pieces):
            found.append(Case(row, kind, single, union))
    return found


def fit(made: Material, limit: int = 400) -> Picture:
    """Of the first `limit` sentences, the best answers of each kind."""
    title, paper = "Under- and over-segmentation", "Fig. 9"
    every = cases(made, made.rows[:limit])
    shown: list[Case] = []
    counts = {}
    for kind in ("under", "over"):
        members = {id(c.row): c for c in every if c.kind == kind}
        counts[kind] = len(members)
        ranked = sorted((c.row for c in members.values()), key=lambda row: -row.iou)
        shown += [members[id(row)] for row in one_per_image(ranked, COLUMNS)]
    text = (
        f"Of {counted(min(limit, len(made.rows)), 'sentence')} {counts['under']} have superpixels "
        "that no union "
        f"of them fits (best union below {LOOSE}), {counts['over']} are cut to pieces. The best "
        "answers of both kinds."
    )
    if not shown:
        return Picture("fit", title, paper, text)
    return Picture("fit", title, paper, text, _draw(made, shown))


def _draw(made: Material, shown: Sequence[Case]) -> bytes:
    figure, axes = canvas.grid(len(shown), 3)
    for case, line in zip(shown, axes, strict=True):
        row, photo = case.row, made.photo(case.row)
        masks = made.superpixels(row)
        line[0].imshow(canvas.mosaic(photo, masks))
        canvas.outline(line[0], made.target(row), canvas.TARGET)
        canvas.label(line[0], shorten(row.text, 60))
        line[1].imshow(photo)
        line[1].imshow(canvas.borders(masks), cmap="gray", alpha=0.4)
        bounds = f"best superpixel {case.single:.2f}, union {case.union:.2f}"
        canvas.label(line[1], f"{case.kind}: {bounds}")
        line[2].imshow(canvas.veil(photo, as_mask(row.mask), canvas.PREDICTED))
        canvas.outline(line[2], made.target(row), canvas.TARGET)
        canvas.label(line[2], f"answer: IoU {100 * row.iou:.0f} %")
    return canvas.png(figure)
