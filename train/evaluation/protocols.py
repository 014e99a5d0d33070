"""Evaluation protocols: all expressions, or GLaMM's sampling.

| protocol | sentences                     | dialogue                                               |
|----------|-------------------------------|--------------------------------------------------------|
| full     | all                           | one turn each, fixed question and answer; no seed      |
| glamm    | random sample, <= 3 per image | one, random wordings, earlier true answers in context  |

Masks are teacher-forced: the answer with [SEG] is given. With `generate` the last answer of a
dialogue is left open, so each sentence is a dialogue of its own and earlier answers stay true.

The random choices of `glamm` are a function of (seed, repeat, dataset, image_id) alone: order, batches and ranks
do not matter (GLaMM's own evaluator is unseeded: its numbers move by one to two points).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from ...pipeline.cache.row_reader import RowReader
from ...pipeline.datasets import Source
from ...pipeline.datasets.problems import NAMED, Faults, Problems, merged
from ...pipeline.display import counted, show
from ...pipeline.errors import DataError
from ...pipeline.records import Expression
from ..data.build_table import check_left_out
from ..data.cache_lookup import BEYOND, Finder, Masks
from ..data.expression_table import Entry
from ..data.keyed_rng import Choices, key_of
from ..data.length_check import SPARE, TokenBudget, describe, longest
from ..data.prompts import GLAMM, Turn, Wording, choose_turns, fixed_turn, phrase
from ..data.tokenizer import Vocabulary

log = logging.getLogger(__name__)

Protocol = Literal["full", "glamm"]
Fits = Callable[["Example", Sequence[Turn]], bool]
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
    source: Source,
    caches: Sequence[RowReader],
    limit: int | None = None,
    *,
    max_failures: int | None = None,
) -> list[Example]:
    """The images of a source that have sentences, sorted by data set and image id.

    limit         only the first so many images
    max_failures  bad sentences, masks and quarantined images that are left out; None: any number of
                  images, half of the sentences

    What is left out is logged. Raises DataError if nothing is left, an image is in no cache, or is
    another photograph there (see `data.cache_lookup`); CacheError if its row is not computed yet.
    """
    return gather(source, caches, limit, max_failures=max_failures).items


@dataclass(frozen=True)
class Gathered:
    """The images of an evaluation; `bad` sentences, `quarantined` images and those
    `beyond` the limit of a cache are not among them.
    """

    items: list[Example]
    bad: Faults
    quarantined: dict[int, str]
    beyond: int  # images
    notes: list[str]

    @property
    def left_out(self) -> dict[str, int]:
        """Number of sentences left out, by reason; empty: none."""
        counts = {
            "bad records": self.bad.found,
            "images in quarantine": len(self.quarantined),
            BEYOND: self.beyond,
        }
        return {reason: count for reason, count in counts.items() if count}


def gather(
    source: Source,
    caches: Sequence[RowReader],
    limit: int | None = None,
    *,
    max_failures: int | None = None,
) -> Gathered:
    """`examples` with what is not among them. Raises as it does."""
    finder, problems = Finder(caches, source), Problems(source.name)
    masks = Masks(source, problems)
    found: list[Example] = []
    asked = 0
    for (dataset, image_id), rows in groupby(
        source.sentences, key=lambda row: (row.dataset, row.image_id)
    ):
        if limit is not None and len(found) == limit:
            break
        place = finder.find(image_id)
        if place is None:
            continue
        said: list[Expression] = []
        for row in rows:
            asked += 1
            mask = masks.of(row, place, problems) if masks.speakable(row) else None
            if mask is not None:
                ids = (row.sent_id, row.ref_id, row.ann_id, image_id)
                said.append(
                    Expression(*ids, row.sent, mask, masks.ignored(row, place), source.box(row))
                )
        if said:
            found.append(
                Example(Entry(dataset, image_id, *place), finder.record(image_id).path, tuple(said))
            )
    finder.check()
    finder.set_limited_aside(source.images)
    _check_absent(finder, source)
    bad = merged((source.faults, problems.settle(asked, None)))
    check_left_out(bad, len(finder.quarantined), max_failures)
    notes = _notes(finder, bad)
    for line in notes:
        log.info(line)
    if not found:
        raise DataError(
            f"{source.name} split {source.split or 'all'}: no sentence to evaluate"
            + "".join(f"; {line}" for line in notes)
        )
    return Gathered(found, bad, finder.quarantined, len(finder.beyond), notes)


def _check_absent(finder: Finder, source: Source) -> None:
    """Raise DataError naming an image that no cache holds: results would be of another set."""
    if not finder.absent:
        return
    first = min(finder.absent)
    if first in finder.pending:
        cache, row = finder.pending[first]
        cache.superpixels(row)  # raises the CacheError that says what to do
    name = next(row.dataset for row in source.sentences if row.image_id == first)
    where = ", ".join(show(str(cache.path), 200) for cache in finder.caches)
    more = f" (nor {counted(len(finder.absent) - 1, 'other')})" if len(finder.absent) > 1 else ""
    raise DataError(
        f"image {name}/{first} is not in {where}{more}: give the cache of this split with "
        "--from-cache, or make it with svp precompute"
    )


def _notes(finder: Finder, bad: Faults) -> list[str]:
    lines = [
        f"image {image_id} left out, and its sentences: in quarantine ({why})"
        for image_id, why in sorted(finder.quarantined.items())[:NAMED]
    ]
    if (more := len(finder.quarantined) - len(lines)) > 0:
        lines.append(f"... and {counted(more, 'more image')} in quarantine")
    return [
        *lines,
        *bad.notices(),
        *finder.rehearsal_notes(),
        *finder.limit_notes(),
        *finder.unseen_notes(),
    ]


def that_fit(
    items: Sequence[Example], vocab: Vocabulary, budget: TokenBudget
) -> tuple[list[Example], Problems]:
    """The images with the sentences that are not too long for the model; the others by name."""
    problems = Problems("expressions")
    spare = budget.least - longest(vocab, "") - SPARE
    kept: list[Example] = []
    for item in items:
        said = []
        for one in item.expressions:
            ids = 0
            if len(one.text.encode()) > spare:
                ids = longest(vocab, phrase(one.text))
            if ids > budget.of(item.entry):
                problems.add(describe(item.entry.name, one.sent_id, ids, budget, item.entry))
            else:
                said.append(one)
        if said:
            kept.append(replace(item, expressions=tuple(said)))
    if not kept:
        problems.raise_if_any()
    return kept, problems


def plan(
    items: Sequence[Example],
    protocol: Protocol,
    *,
    generate: bool = False,
    seed: int = 0,
    repeats: int = 1,
    shuffle: bool = False,
    wording: Wording = GLAMM,
    fits: Fits = lambda item, turns: True,
) -> list[Unit]:
    """Dialogues of an evaluation, in a fixed order. Raises DataError for unusable text.

    repeats  how often all is asked; in `glamm` with new draws
    fits     whether a dialogue of several turns is short enough; it loses its last ones else
    shuffle  every repeat but the first sees the superpixels in another order
    wording  of the weights that are asked: `Vocabulary.wording`
    """
    found: list[Unit] = []
    for repeat in range(repeats):
        for item in items:
            # Every sentence alone, in one wording; or a few of the image's drawn into one dialogue.
            if protocol == "full":
                units = [
                    Unit(item, repeat, (said,), (fixed_turn(said.text, wording),))
                    for said in item.expressions
                ]
            else:
                units = [_drawn(item, repeat, seed, wording, fits)]

            # A model that answers by itself is asked one question at a time.
            if generate:
                units = [part for unit in units for part in _opened(unit)]

            # The first repeat has the usual order, by area.
            if shuffle and repeat:
                key = key_of(seed, "order", repeat, item.entry.dataset, item.entry.image_id)
                units = [replace(unit, order=key) for unit in units]
            found += units
    return found


def _drawn(item: Example, repeat: int, seed: int, wording: Wording, fits: Fits) -> Unit:
    key = key_of(seed, repeat, item.entry.dataset, item.entry.image_id)
    asked = Choices(key).sample(item.expressions, PER_IMAGE)
    turns = choose_turns([e.text for e in asked], key_of(key, "wordings"), wording)
    while len(turns) > 1 and not fits(item, turns):
        turns = turns[:-1]
    return Unit(item, repeat, tuple(asked[: len(turns)]), turns)


def _opened(unit: Unit) -> Iterator[Unit]:
    """One dialogue per turn of `unit`, ending with its question."""
    for last, (expression, turn) in enumerate(zip(unit.asked, unit.turns, strict=True)):
        turns = (*unit.turns[:last], Turn(turn.question, None))
        yield Unit(unit.example, unit.repeat, (expression,), turns)
