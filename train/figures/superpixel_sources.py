"""Fig. 13: superpixels of the same images from each source."""

from collections.abc import Sequence
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from ...pipeline.cache.reader import CacheReader
from ...pipeline.display import quote, show
from ...pipeline.errors import DataError, MissingPackageError
from ...pipeline.masks.rle import decode
from ...pipeline.superpixels.slic import calibrate, slic_superpixels
from ..evaluation.results import Row
from . import canvas
from .canvas import Picture
from .inputs import Material, one_per_image

IMAGES = 4
Mask = NDArray[np.bool_]


def sources(made: Material, beside: Sequence[CacheReader]) -> Picture:
    """The run's cache, SLIC with about as many superpixels, and other caches of the same images."""
    title, paper = "Superpixel sources", "Fig. 13"
    rows = one_per_image(made.rows, IMAGES)
    own = made.reader.plan.recipe.superpixels
    columns: list[tuple[str, list[list[Mask]]]] = [
        (own.source, [made.superpixels(row) for row in rows])
    ]
    text = "Mean colour of each superpixel, stripes where there is none; the number is above."
    if own.source != "slic":
        try:
            columns.append(("SLIC", _slic(made, rows, mean(len(masks) for masks in columns[0][1]))))
        except MissingPackageError as error:
            text += f" SLIC is not shown: {error}."
    for reader in beside:
        _require_same(made.reader, reader, rows)
        columns.append((reader.plan.recipe.superpixels.preset, _of(reader, rows)))
    figure, axes = canvas.grid(len(rows), 1 + len(columns))
    for number, (row, line) in enumerate(zip(rows, axes, strict=True)):
        photo = made.photo(row)
        line[0].imshow(photo)
        for axis, (name, masks) in zip(line[1:], columns, strict=True):
            axis.imshow(canvas.mosaic(photo, masks[number]))
            canvas.label(axis, f"{name}: {len(masks[number])}")
    return Picture("sources", title, paper, text, canvas.png(figure))


def _slic(made: Material, rows: Sequence[Row], target: float) -> list[list[Mask]]:
    photos = [made.photo(row) for row in rows]
    config, _ = calibrate(photos, target=target)
    return [
        [decode(m).view(np.bool_) for m in slic_superpixels(photo, config).masks()]
        for photo in photos
    ]


def _require_same(own: CacheReader, other: CacheReader, rows: Sequence[Row]) -> None:
    """Refuse a cache of other photographs than the run's. Raises DataError naming the first."""
    for row in rows:
        ours = own.plan.images[own.index_of[row.image_id]]
        place = other.index_of.get(row.image_id)
        theirs = other.plan.images[place] if place is not None else None
        if theirs is None or theirs.xxh3 != ours.xxh3:
            what = "is not in it" if theirs is None else f"is {quote(theirs.path)} there"
            raise DataError(
                f"--beside {show(str(other.path), 300)} holds other photographs: image "
                f"{row.image_id} ({quote(ours.path)}) {what}: give caches of the same images"
            )


def _of(reader: CacheReader, rows: Sequence[Row]) -> list[list[Mask]]:
    found = (reader.superpixels(reader.index_of[row.image_id]).masks() for row in rows)
    return [[decode(mask).view(np.bool_) for mask in masks] for masks in found]
