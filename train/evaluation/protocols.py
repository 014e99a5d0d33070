"""What is asked in an evaluation: every sentence once, or the published imitation.

| protocol | sentences                     | dialogue                                               |
|----------|-------------------------------|--------------------------------------------------------|
| full     | all                           | one turn each, fixed question and answer; no seed      |
| glamm    | up to 3 of an image, by chance| one, random wordings, earlier true answers in context  |

Masks are teacher-forced: the answer with [SEG] is given. With `generate` the last answer of a
dialogue is left open, so each sentence is a dialogue of its own and earlier answers stay true.

Chance in `glamm` is a function of (seed, repeat, dataset, image_id) alone: order, batches and ranks
do not matter (GLaMM's own evaluator is unseeded: its numbers move by one to two points).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from ...pipeline.errors import DataError
from ...pipeline.records import Expression
from ...pipeline.sources import Source
from ...pipeline.store.reader import CacheReader
from ...pipeline.text import show
from ..feed.table import Entry
from ..hashing import Choices, key_of
from ..text.prompts import GLAMM, Turn, Wording, choose_turns, fixed_turn

Protocol = Literal["full", "glamm"]
PER_IMAGE = 3  # GLaMM's num_classes_per_sample


@dataclass(frozen=True, slots=True)
class Example:
    """One image of one data set with all its sentences; `path` is relative to the image root."""

    entry: Entry
    path: str
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """One dialogue about one image.

    asked   the sentences whose masks are measured, in the order of their turns
    turns   the dialogue; with generation the last answer is None and `asked` is its sentence
    order   key that shuffles the superpixels, or None for the recorded order
    """

    example: Example
    repeat: int
    asked: tuple[Expression, ...]
    turns: tuple[Turn, ...]
    order: int | None = None

    @property
    def look(self) -> tuple[Entry, int | None]:
        """The visual input: units of one look see the same tokens."""
        return self.example.entry, self.order


def examples(
    source: Source, caches: Sequence[CacheReader], limit: int | None = None
) -> list[Example]:
    """The images of a source that have sentences, sorted by data set and image id.

    limit  only the first so many images. Raises DataError if there is no sentence, or an image is
    in no cache; CacheError if its row cannot be read.
    """
    paths = {record.image_id: record.path for record in source.images}
    found: list[Example] = []
    for (dataset, image_id), rows in groupby(
        source.sentences, key=lambda row: (row.dataset, row.image_id)
    ):
        said = tuple(
            Expression(row.sent_id, row.ref_id, row.ann_id, image_id, row.sent, mask)
            for row in rows
            if (mask := source.masks.get((dataset, row.ann_id))) is not None
        )
        if said and (limit is None or len(found) < limit):
            entry = locate(caches, dataset, image_id, (said[0].mask.height, said[0].mask.width))
            found.append(Example(entry, paths[image_id], said))
    if not found:
        raise DataError(f"{source.name} split {source.split or 'all'}: no sentence to evaluate")
    return found


def locate(
    caches: Sequence[CacheReader], dataset: str, image_id: int, size: tuple[int, int]
) -> Entry:
    """Where the features of an image are. DataError if it is in no cache or of another size.

    An image that a cache holds but could not compute is refused too: results without it would
    be results of another set.
    """
    for number, cache in enumerate(caches):
        row = cache.index_of.get(image_id)
        if row is None:
            continue
        image = cache.plan.images[row]
        if cache.status(row) != "ok":
            cache.superpixels(row)  # raises the CacheError that says why, and what to do
        if (image.height, image.width) != size:
            raise DataError(
                f"image {dataset}/{image_id} is {size[0]}x{size[1]} in the data set, "
                f"{image.height}x{image.width} in {show(str(cache.path), 200)}: not the same images"
            )
        return Entry(dataset, image_id, number, row, *size)
    where = ", ".join(show(str(cache.path), 200) for cache in caches)
    raise DataError(
        f"image {dataset}/{image_id} is not in {where}: give the cache of this split with "
        "--from-cache, or make it with svp precompute"
    )


def plan(
    items: Sequence[Example],
    protocol: Protocol,
    *,
    generate: bool = False,
    seed: int = 0,
    repeats: int = 1,
    shuffle: bool = False,
    wording: Wording = GLAMM,
) -> list[Unit]:
    """The dialogues of an evaluation, in a fixed order. DataError for text that cannot be asked.

    repeats  how often all is asked; in `glamm` with new draws
    shuffle  every repeat but the first sees the superpixels in another order
    wording  of the weights that are asked: `Vocabulary.wording`
    """
    full = protocol == "full"
    return [
        unit
        for repeat in range(repeats)
        for item in items
        for whole in (_full(item, repeat, wording) if full else _drawn(item, repeat, seed, wording))
        for unit in (_opened(whole) if generate else (whole,))
        for unit in (replace(unit, order=_order(unit, seed) if shuffle and repeat else None),)
    ]


def _full(item: Example, repeat: int, wording: Wording) -> Iterator[Unit]:
    for expression in item.expressions:
        yield Unit(item, repeat, (expression,), (fixed_turn(expression.text, wording),))


def _drawn(item: Example, repeat: int, seed: int, wording: Wording) -> Iterator[Unit]:
    key = key_of(seed, repeat, item.entry.dataset, item.entry.image_id)
    asked = Choices(key).sample(item.expressions, PER_IMAGE)
    turns = choose_turns([e.text for e in asked], key_of(key, "wordings"), wording)
    yield Unit(item, repeat, tuple(asked), turns)


def _order(unit: Unit, seed: int) -> int:
    entry = unit.example.entry
    return key_of(seed, "order", unit.repeat, entry.dataset, entry.image_id)


def _opened(unit: Unit) -> Iterator[Unit]:
    """One dialogue per turn of `unit`, ending with its question."""
    for last, (expression, turn) in enumerate(zip(unit.asked, unit.turns, strict=True)):
        turns = (*unit.turns[:last], Turn(turn.question, None))
        yield Unit(unit.example, unit.repeat, (expression,), turns)
