"""Gallery of sentences: the best, the worst and a random sample, outlined over the image.

Coordinates are those of an SVG view box whose long side is `SIDE` units. Outlines are simplified by
less than a pixel; every figure is counted on the full-size masks.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....pipeline.browse.overlay import SIDE, thumbnail
from ....pipeline.browse.page_kit import ASSETS
from ....pipeline.browse.svg_outline import svg_path
from ....pipeline.datasets.images import read_record
from ....pipeline.display import counted, share, shorten
from ....pipeline.errors import ImageError, SvpError
from ....pipeline.masks import rle
from ....pipeline.records import ImageRecord, Rle
from ...data.keyed_rng import key_of, permutation
from ..results import Row

log = logging.getLogger(__name__)

SHOWN = 6  # of each kind
Targets = Callable[[Row], Rle | None]


@dataclass(frozen=True, slots=True)
class Card:
    """One sentence. All text is printable but not yet HTML; `photo` is an address or ""."""

    sentence: str
    iou: str
    facts: str
    box: tuple[int, int]
    predicted: str
    target: str
    photo: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Cards under one title."""

    title: str
    cards: tuple[Card, ...]


def gallery(
    rows: Sequence[Row], folder: Path, images: Path | None, targets: Targets, seed: int
) -> list[Shelf]:
    """The shelves of a page in `folder`; photographs are written beside it.

    images   folder of the photographs; a missing one leaves its card without
    targets  the true mask of a sentence, None where it is not known
    """
    order = sorted(range(len(rows)), key=lambda k: rows[k].iou)
    middle = permutation(key_of(seed, "gallery"), len(rows)).tolist()
    picks = (("Best", order[::-1]), ("Worst", order), ("Random sample", middle))
    photos = _Photos(folder, images)
    return [
        Shelf(title, tuple(_card(row, photos, targets(row)) for row in _few(rows, chosen)))
        for title, chosen in picks
    ]


def _few(rows: Sequence[Row], order: Sequence[int]) -> list[Row]:
    """The first `SHOWN` of an order, one per image."""
    found: dict[int, Row] = {}
    for k in order:
        if len(found) == SHOWN:
            break
        found.setdefault(rows[k].image_id, rows[k])
    return list(found.values())


class _Photos:
    """Photographs as files of the page, each written once."""

    def __init__(self, folder: Path, images: Path | None) -> None:
        self._folder, self._images = folder, images
        self._known: dict[tuple[str, int], tuple[str, tuple[int, int]]] = {}

    def get(self, row: Row) -> tuple[str, tuple[int, int]]:
        """Address, or "", and (width, height) of a row's photograph."""
        key = row.dataset, row.image_id
        if key not in self._known:
            self._known[key] = self._write(row, f"{ASSETS}/{len(self._known) + 1:04d}.webp")
        return self._known[key]

    def _write(self, row: Row, name: str) -> tuple[str, tuple[int, int]]:
        if self._images is None:
            return "", (0, 0)
        record = ImageRecord(row.image_id, row.path, row.height, row.width)
        try:
            data, size = thumbnail(read_record(self._images, record))
        except ImageError:
            return "", (0, 0)  # moved since: the outlines still say much
        except SvpError as error:  # the service that holds them: it would fail for each
            log.warning(f"the page is without photographs: {error}")
            self._images = None
            return "", (0, 0)
        (self._folder / name).write_bytes(data)
        return name, size


def _card(row: Row, photos: _Photos, target: Rle | None) -> Card:
    scale = SIDE / max(row.height, row.width)
    photo, size = photos.get(row)
    return Card(
        sentence=shorten(row.text, 200),
        iou=f"{100 * row.iou:.1f}",
        facts=_facts(row),
        box=(round(row.width * scale), round(row.height * scale)),
        predicted=_path(row.mask, scale),
        target=_path(target, scale) if target is not None else "",
        photo=photo,
        size=size,
    )


def _path(mask: Rle, scale: float) -> str:
    return svg_path(rle.decode(mask).view(np.bool_), scale)


def _facts(row: Row) -> str:
    parts = [
        counted(row.tokens, "token"),
        f"object {share(row.target / (row.height * row.width))}",
    ]
    if row.bounds is not None:
        parts.append(
            f"best union {100 * row.bounds.union:.1f} of {counted(row.bounds.pieces, 'superpixel')}"
        )
    if not row.has_seg:
        parts.append("no [SEG] in the answer")
    return f"{shorten(row.dataset, 30)} image {row.image_id} · " + " · ".join(parts)
