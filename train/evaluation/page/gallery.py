"""Gallery of sentences: the worst, the best, a random sample, and some of every slice.

A sentence stands on a page once, with an anchor of its own, on the first shelf that takes it.
Coordinates are those of an SVG view box whose long side is `SIDE` units. Outlines are simplified by
less than a pixel; every figure is counted on the full-size masks.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....pipeline.browse.overlay import SIDE
from ....pipeline.browse.svg_outline import svg_path
from ....pipeline.display import counted, share, shorten
from ....pipeline.masks import rle
from ....pipeline.records import Rle
from ...data.keyed_rng import key_of, permutation
from ..breakdown import slices_of
from ..results import Row
from .page_photos import Photographs

SHOWN = 8  # on each shelf of the whole split
OF_SLICE = 2  # the worst of a slice, and as many of its best
Floats = NDArray[np.float64]
Targets = Callable[[Row], Rle | None]


@dataclass(frozen=True, slots=True)
class Card:
    """One sentence. All text is printable but not yet HTML; `photo` is an address or "".

    slices  names of the slices it is in
    """

    anchor: str
    sentence: str
    iou: float
    tokens: int
    facts: str
    slices: tuple[str, ...]
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
    rows: Sequence[Row],
    ious: Floats,
    section: int,
    photos: Photographs,
    targets: Targets,
    seed: int,
) -> list[Shelf]:
    """The shelves of a split, none of them empty.

    ious     (S,) of the rows, 0 to 1, as the metrics count them
    section  number of the split on the page, part of the anchors
    targets  the true mask of a sentence, None where it is not known
    """
    rising = np.argsort(ious, kind="stable")
    middle = permutation(key_of(seed, "gallery"), len(rows))
    groups = slices_of(rows)
    picks = [
        ("Worst", rising, SHOWN),
        ("Best", rising[::-1], SHOWN),
        ("Random sample", middle, SHOWN),
    ]
    for (group, name), inside in groups.items():
        own = rising[inside[rising]]
        mixed = np.concatenate([few(rows, own, OF_SLICE), few(rows, own[::-1], OF_SLICE)])
        picks.append((f"{group}: {name}".capitalize(), mixed, 2 * OF_SLICE))
    taken: set[int] = set()
    shelves = []
    for title, order, most in picks:
        chosen = [k for k in few(rows, order, most) if k not in taken]
        taken |= set(chosen)
        cards = tuple(
            card_of(
                rows[k], float(ious[k]), section, photos, targets(rows[k]),
                tuple(label(*key) for key, inside in groups.items() if inside[k]),
            )
            for k in chosen
        )  # fmt: skip
        if cards:
            shelves.append(Shelf(shorten(title, 80), cards))
    return shelves


def label(group: str, name: str) -> str:
    """A slice as filters name it."""
    return f"{group}: {name}"


def few(rows: Sequence[Row], order: Iterable[int], most: int) -> list[int]:
    """The first `most` of an order: from its first fifth one per photograph, then the others.

    The best sentences of two photographs are thus good ones, though there may be more of one.
    """
    places = [int(k) for k in order]
    seen: set[tuple[str, int]] = set()
    first: list[int] = []
    others: list[int] = []
    for k in places[: max(most, len(places) // 5)]:
        key = rows[k].dataset, rows[k].image_id
        (others if key in seen else first).append(k)
        seen.add(key)
    return [*first, *others][:most]


def card_of(
    row: Row, iou: float, section: int, photos: Photographs, target: Rle | None,
    slices: tuple[str, ...],
) -> Card:  # fmt: skip
    """The card of one row and its IoU; `slices` are the names of those it is in."""
    photo, size = photos.get(row)
    return Card(
        anchor=f"s{section}-{row.image_id}-{row.ref_id}-{row.sent_id}-{row.repeat}",
        sentence=shorten(row.text, 200),
        iou=iou,
        tokens=row.tokens,
        facts=_facts(row),
        slices=slices,
        box=view_box(row),
        predicted=outline(row, row.mask),
        target=outline(row, target) if target is not None else "",
        photo=photo,
        size=size,
    )


def view_box(row: Row) -> tuple[int, int]:
    """(width, height) of a row's photograph in view box units."""
    scale = SIDE / max(row.height, row.width)
    return round(row.width * scale), round(row.height * scale)


def outline(row: Row, mask: Rle) -> str:
    """Path data of a mask over a row's photograph; "" if it is empty."""
    return svg_path(rle.decode(mask).view(np.bool_), SIDE / max(row.height, row.width))


def _facts(row: Row) -> str:
    parts = [counted(row.tokens, "token")]
    parts.append(
        f"object {share(row.target / (row.height * row.width))}" if row.target else "no target"
    )
    if row.bounds is not None:
        parts.append(
            f"best union {100 * row.bounds.union:.1f} of {counted(row.bounds.pieces, 'superpixel')}"
        )
    if not row.has_seg:
        parts.append("no [SEG] in the answer")
    return f"{shorten(row.dataset, 30)} image {row.image_id} · " + " · ".join(parts)
