"""Thumbnail of an image with the outlines of its superpixels.

Coordinates are those of an SVG view box whose long side is `SIDE` units, whatever the image's size.
Shares are exact counts on the full-size masks; only the outlines are simplified.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..cache.stats import cover_and_overlap
from ..masks import rle
from ..records import Superpixels
from .colouring import colours, contacts
from .svg_outline import svg_path

SIDE = 1280  # view box units along the long side
THUMBNAIL = 640  # pixels along the long side of the stored photograph
SPECK = 4.0  # outlines of uncovered and overlap areas below this many mask pixels are left out
QUALITY = 82


@dataclass(frozen=True, slots=True)
class Shape:
    """One superpixel: `number` is its 1-based place in the filter's order, `share` of all pixels,
    `colour` one that no superpixel which touches or overlaps it has.
    """

    number: int
    level: int
    area: int
    share: float
    score: float
    stability: float
    point: tuple[int, int]  # the prompt, in view box units
    path: str
    colour: int


@dataclass(frozen=True, slots=True)
class Overlay:
    """Everything drawn over one photograph. `box` is (width, height) of the view box."""

    box: tuple[int, int]
    shapes: tuple[Shape, ...]
    uncovered: str
    overlap: str
    uncovered_share: float
    overlap_share: float


def draw(found: Superpixels) -> Overlay:
    """The overlay of one image's superpixels. DataError if an RLE is malformed."""
    height, width = found.height, found.width
    scale = SIDE / max(height, width)
    rows, columns = _sample(height, width)
    step = SIDE / max(len(rows), len(columns))
    small = np.zeros((len(rows), len(columns)), np.uint16)
    drawn = []
    for mask in found.masks():
        full = rle.decode(mask)
        part = full[np.ix_(rows, columns)]
        small += part
        # A mask so thin that sampling misses it is drawn with every cell it touches.
        drawn.append(part > 0 if part.any() else _touched(full, rows, columns))
    shapes = [
        _shape(found, index, svg_path(mask, step), scale, colour)
        for index, (mask, colour) in enumerate(zip(drawn, colours(contacts(drawn)), strict=True))
    ]
    covered, overlapped = cover_and_overlap(found)
    return Overlay(
        box=(round(width * scale), round(height * scale)),
        shapes=tuple(shapes),
        uncovered=svg_path(small == 0, step, SPECK),
        overlap=svg_path(small > 1, step, SPECK),
        uncovered_share=max(0.0, 1.0 - covered),
        overlap_share=overlapped,
    )


def thumbnail(image: NDArray[np.uint8], side: int = THUMBNAIL) -> tuple[bytes, tuple[int, int]]:
    """A WEBP of (H,W,3) `image` with a long side of at most `side`, and its (width, height)."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=QUALITY, method=4)
    return out.getvalue(), picture.size


def _sample(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns kept of a mask so that its long side is at most `THUMBNAIL`."""
    shrink = min(1.0, THUMBNAIL / max(height, width))

    def centres(size: int) -> NDArray[np.int64]:
        kept = max(1, round(size * shrink))
        return ((np.arange(kept) + 0.5) * size / kept).astype(np.int64)

    return centres(height), centres(width)


def _touched(
    mask: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Cells of the sampled grid in which the mask has any pixel."""
    touched = np.zeros((len(rows), len(columns)), bool)
    y, x = np.nonzero(mask)
    touched[y * len(rows) // mask.shape[0], x * len(columns) // mask.shape[1]] = True
    return touched


def _shape(found: Superpixels, index: int, path: str, scale: float, colour: int) -> Shape:
    x, y = (float(value) * scale for value in found.point[index])
    area = int(found.area[index])
    return Shape(
        number=index + 1,
        level=int(found.level[index]),
        area=area,
        share=area / (found.height * found.width),
        score=float(found.predicted_iou[index]),
        stability=float(found.stability[index]),
        point=(round(x), round(y)) if np.isfinite([x, y]).all() else (0, 0),
        path=path,
        colour=colour,
    )
