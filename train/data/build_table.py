"""Build an expression table: join sources with caches, pack the targets, write the files.

The folder's name is the digest of everything that decides its content, so a table is never
rewritten: other data make another folder, and two processes that make the same one write the same
bytes. Nothing is left out in silence: every reason is counted in the notes. `left_out.json` beside
the table remembers its bad sentences, for reports: it is no part of the table.
"""

import hashlib
import json
import logging
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors.numpy import save

from ...pipeline.cache.row_reader import RowReader
from ...pipeline.datasets.problems import NAMED, Faults, Problems, merged
from ...pipeline.datasets.tables import Sentence, Source
from ...pipeline.display import counted, quote
from ...pipeline.errors import DataError
from ...pipeline.io.atomic import make_folders, sync_folder, write_file
from ...pipeline.io.json_files import canonical
from ...pipeline.masks.rle import area, encode
from ...pipeline.records import Rle
from .cache_lookup import BEYOND, Finder, Masks, Place
from .expression_table import INDEX, NOTHING, SCHEMA, TABLE, ExpressionTable, TableFile
from .target_packer import Packer

log = logging.getLogger(__name__)

LEFT = "left_out.json"


def open_table(
    root: Path,
    sources: Sequence[Source],
    caches: Sequence[RowReader],
    *,
    training: bool,
    rejection: bool = False,
    captions: bool = False,
    datasets: Collection[str] = (),
    partial: bool = False,
    max_failures: int | None = None,
) -> ExpressionTable:
    """The table of `sources` joined with `caches`, made under `root` if it is not there yet.

    training  leave out sentences whose mask is empty
    rejection  take them, as sentences without a target, in a table for training
    captions  the sentences describe whole images: no mask is read, none has a target
    datasets  take only these (names as the sources write them); empty: all
    partial   accept images that are not in the caches; they are left out and counted
    max_failures  bad sentences and masks that are left out; None: half of them (see `settle`); if it
              is a number, quarantined images and the sources' own bad records count too

    Raises DataError: more bad sentences or masks than that, an image the caches lack, or hold as
    another photograph (see `finding`).
    """
    joined = _Join(caches, frozenset(datasets), training, rejection, captions, partial)
    for source in sources:
        joined.add(source)
    joined.check()
    path = root / joined.digest(sources)[:16]
    if not (path / TABLE).exists():
        log.info(f"packing the masks of {counted(len(joined), 'sentence')} (once)")
        _write(path, joined, sources)
    bad = merged((*(s.faults for s in sources), joined.text.faults(), _read_bad(path)))
    table = ExpressionTable(path)
    # The sources' notices name folders and files of today: no part of a table, which is made once.
    told = (notice for source in sources for notice in source.notices)
    table.notes = list(dict.fromkeys([*told, *table.notes, *joined.told_anew(), *bad.notices()]))
    table.left_out = {
        "bad records": bad.found,
        "images in quarantine": len(joined.quarantined),
        "images not in the cache": len(joined.absent),
    } | joined.beyond()
    check_left_out(bad, len(joined.quarantined), max_failures)
    return table


def check_left_out(bad: Faults, images: int, allowed: int | None) -> None:
    """Raise DataError if so many bad records and quarantined images are not accepted."""
    if allowed is not None and bad.found + images > allowed:
        named = "; ".join(bad.lines[:NAMED])
        raise DataError(
            f"{counted(bad.found, 'bad record')} and {counted(images, 'image')} in quarantine, "
            f"more than --max-failures {allowed}{': ' if named else ''}{named}"
        )


@dataclass
class _Join:
    """Sentences whose image is in a cache, each with its place there.

    Kept of each are its numbers alone, 12 bytes: the sentence is its source's, the place its finder's.
    """

    caches: Sequence[RowReader]
    datasets: frozenset[str]
    training: bool
    rejection: bool
    captions: bool
    partial: bool
    sources: list[Source] = field(default_factory=list)
    finders: list[Finder] = field(default_factory=list)
    masks: list[Masks] = field(default_factory=list)
    _source: "array[int]" = field(default_factory=lambda: array("i"))
    _number: "array[int]" = field(default_factory=lambda: array("q"))
    text: Problems = field(default_factory=lambda: Problems("expressions"))
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, source: Source) -> None:
        """Join one source; its sentences may be of several data sets."""
        finder, masks = Finder(self.caches, source), Masks(source, self.text)
        if self.training and not self.captions:
            source.require_masks()
        self.sources.append(source)
        self.finders.append(finder)
        self.masks.append(masks)
        for number, sentence in enumerate(source.sentences):
            self.seen[sentence.dataset] += 1
            if self.datasets and sentence.dataset not in self.datasets:
                continue
            place = finder.find(sentence.image_id)
            if place is not None and masks.speakable(sentence):
                self._source.append(len(self.sources) - 1)
                self._number.append(number)
        finder.set_limited_aside(source.images)

    def __len__(self) -> int:
        return len(self._number)

    def rows(self) -> Iterator[tuple[Sentence, Place, Masks]]:
        """The sentences in the order of the sources, with places and masks."""
        for source, number in zip(self._source, self._number, strict=True):
            sentence = self.sources[source].sentences[number]
            place = self.finders[source].find(sentence.image_id)
            assert place is not None
            yield sentence, place, self.masks[source]

    @property
    def absent(self) -> set[int]:
        """Ids of images that no cache holds."""
        return {image_id for finder in self.finders for image_id in finder.absent}

    @property
    def quarantined(self) -> dict[int, str]:
        """Ids of images that their cache could not compute, and why."""
        return {k: why for finder in self.finders for k, why in finder.quarantined.items()}

    def beyond(self) -> dict[str, int]:
        """Number of images left out by the limit of a cache, by reason; empty: none."""
        count = sum(len(finder.beyond) for finder in self.finders)
        return {BEYOND: count} if count else {}

    def digest(self, sources: Sequence[Source]) -> str:
        """sha256 of all that decides the table."""
        asked: dict[str, object] = {
            "schema": SCHEMA,
            "caches": [cache.plan.id for cache in self.caches],
            "training": self.training,
            "sources": [_source_digest(source) for source in sources],
        }
        asked |= {"rejection": True} if self.rejection else {}
        asked |= {"captions": True} if self.captions else {}
        rows = hashlib.sha256(canonical(asked))
        for s, at, _ in self.rows():
            place = (s.dataset, s.image_id, s.ann_id, s.ref_id, s.sent_id, s.sent, at.cache, at.row)
            rows.update(repr(place).encode())
        return rows.hexdigest()

    def check(self) -> None:
        """Raise DataError if the data cannot be used as requested."""
        if unknown := sorted(self.datasets - self.seen.keys()):
            raise DataError(f"no data set {quote(unknown[0])}: there are {', '.join(self.seen)}")
        for finder in self.finders:
            finder.check()
        if self.absent and not self.partial:
            raise DataError(
                f"{counted(len(self.absent), 'image')} with expressions not in the cache (the "
                "first is "
                f"{min(self.absent)}): run `svp precompute` on the whole split, or allow a part of "
                "it with --partial"
            )
        self.text.settle(max(1, len(self) + self.text.found), None)

    def notes(self, empty: int) -> list[str]:
        """Notices about the table: what was left out."""
        lines: list[str] = []
        for images, why in ((self.absent, "not in the cache"), (self.quarantined, "quarantined")):
            if images:
                lines.append(
                    f"{counted(len(images), 'image')} left out: {why} (the first is {min(images)})"
                )
        if other := sorted(self.seen.keys() - self.datasets) if self.datasets else []:
            count = sum(self.seen[name] for name in other)
            lines.append(
                f"{counted(count, 'sentence')} of other data sets left out: {', '.join(other)}"
            )
        if self.captions:
            return lines
        if self.rejection:
            lines.append(f"{counted(empty, 'sentence')} without a target: the answer is [REJ]")
        elif empty:
            lines.append(
                f"{counted(empty, 'sentence')} left out for an empty mask: --set model.rejection=true "
                "trains the answer that there is no such object"
            )
        return lines

    def told_anew(self) -> list[str]:
        """Notices outside the table: images beyond a limit, or used without their file."""
        return [
            line
            for finder in self.finders
            for line in (*finder.rehearsal_notes(), *finder.limit_notes(), *finder.unseen_notes())
        ]


def _source_digest(source: Source) -> list[object]:
    """The files of a source; without files, its annotations themselves."""
    if source.sha256:
        return [source.name, sorted(source.sha256.items())]
    content = repr(sorted(source.annotations.items())).encode()
    return [source.name, hashlib.sha256(content).hexdigest()]


def _write(path: Path, joined: _Join, sources: Sequence[Source]) -> None:
    make_folders(path)
    problems = Problems("masks")
    rows, empty = _with_masks(joined, problems)
    write_file(path / LEFT, canonical(asdict(problems.faults())), label="left out")
    packer = Packer(path)
    aside = joined.captions or (joined.training and joined.rejection)
    targets = [NOTHING if aside and not area(mask) else packer.add(mask) for *_, mask in rows]
    packer.flush()
    columns, datasets, sizes = _columns(rows, targets, packer)
    index = save(columns)
    write_file(path / INDEX, index, label="index")
    file = TableFile(
        schema_version=SCHEMA,
        digest=joined.digest(sources),
        caches=[cache.plan.id for cache in joined.caches],
        datasets=datasets,
        sizes=sizes,
        parts=packer.parts,
        index=xxhash.xxh3_64_hexdigest(index),
        notes=joined.notes(empty),
    )
    sync_folder(path)
    write_file(path / TABLE, file.sealed().data(), label="table")


def _read_bad(path: Path) -> Faults:
    """Bad masks of the table at `path`, as it was made; none are known of an older one."""
    try:
        raw = json.loads((path / LEFT).read_bytes())
        return Faults(int(raw["found"]), tuple(str(line) for line in raw["lines"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Faults()


Row = tuple[Sentence, Place, Rle]


def _with_masks(joined: _Join, problems: Problems) -> tuple[list[Row], int]:
    """Rows in table order with their masks, and how many have an empty one: in training these are
    dropped, unless they are answered with a rejection.

    Those with a bad mask go to `problems`. Raises DataError if that is more than half of them.
    """
    rows: list[Row] = []
    for sentence, place, masks in joined.rows():
        mask = _nothing(place) if joined.captions else masks.of(sentence, place, problems)
        if mask is not None:
            rows.append((sentence, place, mask))
    problems.settle(len(joined), None)
    void = {mask for *_, mask in rows if area(mask) == 0} if joined.training else set()
    empty = sum(row[2] in void for row in rows)
    kept = (
        rows if joined.rejection or joined.captions else [row for row in rows if row[2] not in void]
    )
    if not kept:
        raise DataError(
            "there is no sentence to train on: "
            + (f"{len(rows)} have an empty mask" if rows else "no image with one is in the cache")
        )
    kept.sort(key=lambda r: (r[0].dataset, r[0].image_id, r[0].ref_id, r[0].sent_id))
    return kept, empty


def _nothing(place: Place) -> Rle:
    """An empty mask of an image's size."""
    return encode(np.zeros((place.height, place.width), np.uint8))


def _columns(
    rows: list[Row], targets: list[int], packer: Packer
) -> tuple[dict[str, NDArray[np.generic]], list[str], list[int]]:
    """Columns of the index, names of the data sets, entries of each."""
    datasets = sorted({row[0].dataset for row in rows})
    firsts = list(_firsts(rows))
    texts = [row[0].sent.strip().lower().encode() for row in rows]

    def ints(values: Iterator[int]) -> NDArray[np.int64]:
        return np.fromiter(values, np.int64)

    columns: dict[str, NDArray[np.generic]] = {
        "dataset": ints(datasets.index(rows[i][0].dataset) for i in firsts),
        "image_id": ints(rows[i][0].image_id for i in firsts),
        "cache": ints(rows[i][1].cache for i in firsts),
        "row": ints(rows[i][1].row for i in firsts),
        "height": ints(rows[i][2].height for i in firsts),
        "width": ints(rows[i][2].width for i in firsts),
        "first": np.array([*firsts, len(rows)], np.int64),
        "sent_id": ints(row[0].sent_id for row in rows),
        "ref_id": ints(row[0].ref_id for row in rows),
        "ann_id": ints(row[0].ann_id for row in rows),
        "target": np.array(targets, np.int64),
        "text_end": np.cumsum([0, *map(len, texts)]),
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "part": ints(part for part, _, _ in packer.place),
        "offset": ints(offset for _, offset, _ in packer.place),
        "crc": ints(crc for _, _, crc in packer.place),
    }
    sizes = np.bincount(columns["dataset"].astype(np.int64), minlength=len(datasets))
    return columns, datasets, sizes.tolist()


def _firsts(rows: list[Row]) -> Iterator[int]:
    """Index of the first sentence of each (dataset, image)."""
    last: tuple[str, int] | None = None
    for i, (sentence, *_) in enumerate(rows):
        key = sentence.dataset, sentence.image_id
        if key != last:
            yield i
        last = key
