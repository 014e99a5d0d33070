"""Fig. 8 and 14: good and failed answers, each beside its superpixels."""

from collections.abc import Sequence

from ...pipeline.display import shorten
from ..evaluation.breakdown import size_of
from ..evaluation.results import Row
from . import canvas
from .canvas import Picture
from .inputs import Material, as_mask, one_per_image

COLUMNS = 4


def good(made: Material) -> Picture:
    """Answers around the upper quartile: typical successes, not the luckiest."""
    ranked = sorted(made.rows, key=lambda row: -row.iou)
    rows = one_per_image(ranked[len(ranked) // 8 :], 2 * COLUMNS)
    text = "Answers with an IoU from the upper eighth of the sentences downwards."
    return Picture("qualitative", "Typical answers", "Fig. 8", text, _grid(made, rows))


def small_targets(made: Material) -> Picture:
    """The best answers about small objects; the smallest there are if none counts as small."""
    small = [row for row in made.rows if size_of(row) == "small"]
    few = sorted(made.rows, key=lambda r: r.target / (r.height * r.width))
    pool = small or few[: max(1, len(few) // 4)]
    rows = one_per_image(sorted(pool, key=lambda row: -row.iou), COLUMNS)
    text = "Answers about the smallest objects of the split."
    return Picture("small", "Small targets", "Fig. 14", text, _grid(made, rows))


def failures(made: Material) -> Picture:
    """The worst answers, one per image."""
    rows = one_per_image(sorted(made.rows, key=lambda row: row.iou), 2 * COLUMNS)
    text = "The lowest IoU of the split. Blue: the answer; orange: the target."
    return Picture("failures", "Failures", "Fig. 8, lower right", text, _grid(made, rows))


def _grid(made: Material, rows: Sequence[Row]) -> bytes:
    """Two pictures per sentence: superpixels, and the answer with the target's outline."""
    lines = -(-len(rows) // COLUMNS)
    figure, axes = canvas.grid(2 * lines, COLUMNS)
    for axis in (axis for line in axes for axis in line):
        axis.axis("off")
    for number, row in enumerate(rows):
        line, column = divmod(number, COLUMNS)
        above, below = axes[2 * line][column], axes[2 * line + 1][column]
        photo = made.photo(row)
        above.imshow(canvas.mosaic(photo, made.superpixels(row)))
        canvas.label(above, shorten(row.text, 60))
        below.imshow(canvas.veil(photo, as_mask(row.mask), canvas.PREDICTED))
        canvas.outline(below, made.target(row), canvas.TARGET)
        canvas.label(below, f"IoU {100 * row.iou:.0f} %")
    return canvas.png(figure)
