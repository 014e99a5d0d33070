"""`svp data check --page`: every expression of a data set over its photograph, before training.

Untrusted text (expressions, file names) is made safe as page_kit.py says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cache.reader import spread_over
from ..datasets import Source
from ..datasets.images import read_record
from ..datasets.tables import Sentence
from ..display import counted, share, shorten
from ..errors import ConfigError, DataError, ImageError
from ..masks import rle
from ..records import ImageRecord, Rle
from .overlay import SIDE, thumbnail
from .page_kit import ASSETS, HERE, check_replaceable, write_page
from .svg_outline import svg_path


@dataclass(frozen=True, slots=True)
class Card:
    """One expression. All text is printable but not yet HTML; `photo` is an address or "".

    share   of the photograph that its mask covers
    target  outline of the mask, "" if it is empty
    """

    anchor: str
    sentence: str
    split: str
    share: float
    facts: str
    box: tuple[int, int]
    target: str
    photo: str
    size: tuple[int, int]


def write_expressions(source: Source, out: Path, *, limit: int) -> Path:
    """Write the page of a data set into the folder `out`; returns its index.html.

    limit  how many photographs to show, with all of their expressions, spread evenly over the set

    An earlier page at `out` is replaced. ConfigError if `out` holds anything else or the data set has
    no expressions, CacheError if it cannot be written.
    """
    check_replaceable(out)
    of_image: dict[int, list[Sentence]] = {}
    for sentence in source.sentences:
        of_image.setdefault(sentence.image_id, []).append(sentence)
    if not of_image:
        raise ConfigError(
            "`svp data check --page` shows expressions over their photographs, and these have none: `svp "
            "cache browse` shows photographs with their superpixels"
        )
    asked = [record for record in source.images if record.image_id in of_image]
    asked.sort(key=lambda record: record.path)
    records = [asked[place] for place in spread_over(range(len(asked)), limit)]

    def fill(folder: Path) -> dict[str, object]:
        cards = [
            card
            for number, record in enumerate(records, 1)
            for card in _cards(source, record, of_image[record.image_id], folder, number)
        ]
        return _values(source, cards, len(records), len(asked))

    return write_page(out, HERE / "expressions.html.j2", fill, filtered=True)


def _values(source: Source, cards: Sequence[Card], shown: int, images: int) -> dict[str, object]:
    every = shown == images
    said = (
        counted(images, "photograph") if every else f"{shown:,} of {counted(images, 'photograph')}"
    )
    splits = sorted({card.split for card in cards})
    return {
        "title": shorten(source.name, 80),
        "shown": f"{said}, {counted(len(cards), 'expression')}",
        "more": "" if every else "--limit N shows more, spread evenly over the data set.",
        "sentences": f"{len(source.sentences):,}",
        "images": f"{images:,}",
        "empty": f"{sum(not card.target for card in cards):,}",
        "left_out": f"{source.faults.found:,}",
        "splits": splits,
        "cards": cards,
    }


def _cards(
    source: Source, record: ImageRecord, sentences: Sequence[Sentence], folder: Path, number: int
) -> list[Card]:
    """The expressions of one photograph; those with a bad mask, which is left out of a run, are not there."""
    photo, size = _photo(source, record, folder, f"{ASSETS}/{number:05d}.webp")
    found: list[Card] = []
    for sentence in sentences:
        item = source.annotations.get((sentence.dataset, sentence.ann_id))
        if item is None or not item.readable:
            continue
        try:
            mask = item.mask()
        except DataError:
            continue
        found.append(_card(sentence, record, mask, f"e{number}-{len(found) + 1}", photo, size))
    return found


def _card(
    sentence: Sentence,
    record: ImageRecord,
    mask: Rle,
    anchor: str,
    photo: str,
    size: tuple[int, int],
) -> Card:
    covered = rle.area(mask) / (mask.height * mask.width)
    scale = SIDE / max(mask.height, mask.width)
    parts = [shorten(record.path.rpartition("/")[2], 60)]
    parts.append(f"target {share(covered)}" if covered else "no target: the mask is empty")
    if sentence.split:
        parts.insert(0, shorten(sentence.split, 30))
    return Card(
        anchor=anchor,
        sentence=shorten(sentence.sent, 200),
        split=shorten(sentence.split or "all", 30),
        share=covered,
        facts=" · ".join(parts) + ("" if photo else " · no photograph"),
        box=(round(mask.width * scale), round(mask.height * scale)),
        target=svg_path(rle.decode(mask).view(np.bool_), scale),
        photo=photo,
        size=size,
    )


def _photo(
    source: Source, record: ImageRecord, folder: Path, name: str
) -> tuple[str, tuple[int, int]]:
    """Address and (width, height) of a photograph; "" where it cannot be read, which is quarantined."""
    try:
        data, size = thumbnail(read_record(source.image_root, record))
    except ImageError:
        return "", (0, 0)
    (folder / name).write_bytes(data)
    return name, size
