"""Drawn figure with its PNG and caption: headless matplotlib, colour-blind safe."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.display import shorten
from ...pipeline.errors import MissingPackageError

PREDICTED, TARGET = "#0072b2", "#e69f00"
Mask = NDArray[np.bool_]


def grid(rows: int, columns: int, width: float = 2.4) -> tuple[Any, list[list[Any]]]:
    """A figure and its axes without ticks, `width` inches per column. MissingPackageError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "figures", "figures") from error
    figure = Figure(figsize=(width * columns, width * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
    return figure, [list(row) for row in axes]


def label(axis: Any, text: str) -> None:
    """A title that stays in its column, whatever its letters; `$` in it begins no formula."""
    title = axis.set_title(text, fontsize=8, parse_math=False)
    available = axis.figure.bbox.width / axis.get_gridspec().ncols - 4  # pixels
    renderer, limit = axis.figure.canvas.get_renderer(), len(text)
    while limit > 8 and title.get_window_extent(renderer).width > available:
        limit -= 2
        title.set_text(shorten(text, limit))


def outline(axis: Any, mask: Mask, colour: str, width: float = 1.5) -> None:
    """The border of a mask over what is drawn already; nothing for an empty or full one."""
    padded = np.pad(mask, 1).astype(np.float32)
    height, wide = padded.shape
    if mask.any():
        axis.contour(
            np.arange(wide) - 1, np.arange(height) - 1, padded, levels=[0.5], colors=[colour],
            linewidths=width,
        )  # fmt: skip
    axis.set_xlim(-0.5, mask.shape[1] - 0.5)
    axis.set_ylim(mask.shape[0] - 0.5, -0.5)


def veil(pixels: NDArray[np.uint8], mask: Mask, colour: str) -> NDArray[np.uint8]:
    """The photograph with a half-transparent colour over the mask."""
    drawn = pixels.astype(np.float32)
    rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)], np.float32)
    drawn[mask] = 0.5 * drawn[mask] + 0.5 * rgb
    return drawn.astype(np.uint8)


def mosaic(pixels: NDArray[np.uint8], masks: Sequence[Mask]) -> NDArray[np.uint8]:
    """Superpixels as their mean colours, small ones on top; stripes where there is none."""
    y, x = np.indices(pixels.shape[:2])
    stripes = 255 * ((x + y) // max(2, pixels.shape[1] // 60) % 2)
    drawn = np.repeat(stripes[..., None].astype(np.uint8), 3, axis=2)
    for mask in sorted(masks, key=lambda one: -int(one.sum())):
        if mask.any():
            drawn[mask] = pixels[mask].mean(0).astype(np.uint8)
    return drawn


def borders(masks: Sequence[Mask]) -> Mask:
    """(H,W) pixels where a superpixel ends."""
    found = np.zeros(masks[0].shape, np.bool_)
    for mask in masks:
        found[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        found[1:] |= mask[1:] != mask[:-1]
    return found


def png(figure: Any) -> bytes:
    """The figure as a PNG file."""
    out = BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Picture:
    """`name` is the file's, without ending; `png` is None where there was nothing to draw.

    paper  which figure of the paper it stands for
    text   what is to be seen, or why nothing is
    head, table  of a chart: its numbers, and the names of their columns
    """

    name: str
    title: str
    paper: str
    text: str
    png: bytes | None = None
    head: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()


def numbered(pictures: Sequence[Picture]) -> list[Picture]:
    """Pictures of one kind with names of their own: `sspe`, `sspe-2`, ..."""
    seen: Counter[str] = Counter()
    found = []
    for picture in pictures:
        seen[picture.name] += 1
        count = seen[picture.name]
        found.append(picture if count == 1 else replace(picture, name=f"{picture.name}-{count}"))
    return found
