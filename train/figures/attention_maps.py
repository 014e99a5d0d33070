"""Fig. 4 and 7: attention maps of SSA's superpixels and Q-Former's queries."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.display import shorten
from ..evaluation.results import Row
from . import canvas
from .attention_hooks import looks
from .canvas import Picture
from .inputs import Material, iou, one_per_image

IMAGES, QUERIES = 4, 3


def attention_maps(made: Material) -> Picture:
    """For SVP the superpixel that fits the target best; for Q-Former its most different queries."""
    kind = looks(made.trained.model.projector)
    title, paper = "Cross-attention maps", "Fig. 4 and 7"
    if not kind:
        name = made.trained.recipe.model.projector.name
        text = f"The projector {name} of this run has no attention to patches to show."
        return Picture("attention", title, paper, text)
    ranked = sorted(made.rows, key=lambda row: -row.iou)
    rows = one_per_image(ranked, IMAGES)
    draw = _superpixels if kind == "superpixels" else _queries
    figure, inside = draw(made, rows)
    return Picture("attention", title, paper, inside, canvas.png(figure))


def inside_share(weights: NDArray[np.float32], cover: NDArray[np.bool_]) -> float:
    """Share of a map (h,w) that falls on the patches a superpixel (H,W) touches at all."""
    h, w = weights.shape
    rows = np.arange(cover.shape[0]) * h // cover.shape[0]
    columns = np.arange(cover.shape[1]) * w // cover.shape[1]
    touched = np.zeros((h, w), np.bool_)
    y, x = np.nonzero(cover)
    touched[rows[y], columns[x]] = True
    return float(weights[touched].sum() / max(float(weights.sum()), 1e-12))


def _superpixels(made: Material, rows: list[Row]) -> tuple[Any, str]:
    blocks = made.attention(rows[0]).shape[0]
    figure, axes = canvas.grid(len(rows), 2 + blocks)
    shares = []
    for row, line in zip(rows, axes, strict=True):
        photo, target, masks = made.photo(row), made.target(row), made.superpixels(row)
        chosen = max(range(len(masks)), key=lambda k: iou(masks[k], target))
        maps = made.attention(row)[:, chosen]
        line[0].imshow(photo)
        canvas.outline(line[0], target, canvas.TARGET)
        canvas.label(line[0], shorten(row.text, 60))
        line[1].imshow(canvas.veil(photo, masks[chosen], canvas.PREDICTED))
        canvas.label(line[1], "its superpixel")
        for number, axis in enumerate(line[2:]):
            _heat(axis, photo, maps[number])
            canvas.outline(axis, masks[chosen], canvas.PREDICTED, 1.0)
            canvas.label(axis, f"block {number + 1}")
        shares.append(inside_share(maps[-1], masks[chosen]))
    text = (
        "Attention of the superpixel that fits the target best, mean over heads. In the last block "
        f"{np.mean(shares):.0%} of it falls on the superpixel's own patches."
    )
    return figure, text


def _queries(made: Material, rows: list[Row]) -> tuple[Any, str]:
    figure, axes = canvas.grid(len(rows), 1 + QUERIES)
    for row, line in zip(rows, axes, strict=True):
        photo, maps = made.photo(row), made.attention(row)[-1]
        line[0].imshow(photo)
        canvas.outline(line[0], made.target(row), canvas.TARGET)
        canvas.label(line[0], shorten(row.text, 60))
        for axis, query in zip(line[1:], apart(maps, QUERIES), strict=True):
            _heat(axis, photo, maps[query])
            canvas.label(axis, f"query {query}")
    return figure, (
        "Attention of the queries that differ most from each other in the last block, mean over "
        "heads: queries have no place of their own in the image."
    )


def apart(maps: NDArray[np.float32], count: int) -> list[int]:
    """Indices of `count` maps (Q,h,w): the most peaked one, then each the farthest from those."""
    flat = maps.reshape(len(maps), -1)
    chosen = [int(flat.max(1).argmax())]
    while len(chosen) < min(count, len(flat)):
        distance = np.stack([np.abs(flat - flat[k]).sum(1) for k in chosen]).min(0)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


def _heat(axis: Any, photo: NDArray[np.uint8], weights: NDArray[np.float32]) -> None:
    height, width = photo.shape[:2]
    axis.imshow(photo.mean(2), cmap="gray", vmin=0, vmax=255)
    axis.imshow(
        weights, cmap="inferno", alpha=0.65, interpolation="bilinear", vmin=0,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )  # fmt: skip
