"""Make an expression table: join sources with caches, pack the targets, write it once.

The folder's name is the digest of everything that decides its content, so a table is never
rewritten: other data make another folder, and two processes that make the same one write the same
bytes. Nothing is left out in silence: every reason is counted in the notes.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors.numpy import save

from ...pipeline.errors import DataError
from ...pipeline.masks.rle import area, decode
from ...pipeline.records import Rle
from ...pipeline.sources.problems import Problems
from ...pipeline.sources.tables import Sentence, Source
from ...pipeline.sources.wording import expression_problem
from ...pipeline.store.atomic import sync_folder, write_file, write_temp
from ...pipeline.store.checksum import crc32c
from ...pipeline.store.jsonfile import canonical
from ...pipeline.store.reader import CacheReader
from ...pipeline.text import quote, show
from .table import INDEX, SCHEMA, TABLE, ExpressionTable, TableFile, part_names

PART_BYTES = 128 << 20
Said = tuple[Sentence, Rle]


def open_table(
    root: Path,
    sources: Sequence[Source],
    caches: Sequence[CacheReader],
    *,
    training: bool,
    datasets: Collection[str] = (),
    partial: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> ExpressionTable:
    """The table of `sources` joined with `caches`, made under `root` if it is not there yet.

    training  leave out sentences whose mask is empty
    datasets  take only these (names as the sources write them); empty: all
    partial   accept images that are not in the caches; they are left out and counted

    Raises DataError (a bad sentence or mask, an image the caches lack or hold in another size).
    """
    joined = _Join(caches, frozenset(datasets), training, partial)
    for source in sources:
        joined.add(source)
    joined.check()
    path = root / joined.digest(sources)[:16]
    if not (path / TABLE).exists():
        joined.check_text()
        say(f"packing the masks of {len(joined.rows)} sentences (once)")
        _write(path, joined, sources)
    return ExpressionTable(path)


@dataclass
class _Join:
    """Sentences whose image is in a cache, each with its place there."""

    caches: Sequence[CacheReader]
    datasets: frozenset[str]
    training: bool
    partial: bool
    rows: list[tuple[Sentence, int, int, Source]] = field(default_factory=list)
    absent: set[int] = field(default_factory=set)
    quarantined: set[int] = field(default_factory=set)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, source: Source) -> None:
        """Join one source; its sentences may be of several data sets."""
        sizes = {image.image_id: (image.height, image.width) for image in source.images}
        for sentence in source.sentences:
            self.seen[sentence.dataset] += 1
            if self.datasets and sentence.dataset not in self.datasets:
                continue
            place = self._find(sentence.image_id, sizes[sentence.image_id])
            if place is not None:
                self.rows.append((sentence, *place, source))

    def _find(self, image_id: int, size: tuple[int, int]) -> tuple[int, int] | None:
        """(cache, row) of an image, or None after counting why not."""
        left_out = self.absent
        for number, cache in enumerate(self.caches):
            row = cache.index_of.get(image_id)
            if row is None or cache.status(row) == "missing":
                continue
            if cache.status(row) == "quarantined":
                left_out = self.quarantined
                continue
            image = cache.plan.images[row]
            if (image.height, image.width) != size:
                raise DataError(
                    f"image {image_id} is {size[0]}x{size[1]} in the data and {image.height}x"
                    f"{image.width} ({quote(image.path)}) in the cache {show(str(cache.path), 200)}: "
                    "they do not belong together"
                )
            return number, row
        left_out.add(image_id)
        return None

    def digest(self, sources: Sequence[Source]) -> str:
        """sha256 of all that decides the table."""
        asked = {
            "schema": SCHEMA,
            "caches": [cache.plan.id for cache in self.caches],
            "training": self.training,
            "sources": [_source_digest(source) for source in sources],
        }
        rows = hashlib.sha256(canonical(asked))
        for s, cache, row, _ in self.rows:
            place = (s.dataset, s.image_id, s.ann_id, s.ref_id, s.sent_id, s.sent, cache, row)
            rows.update(repr(place).encode())
        return rows.hexdigest()

    def check(self) -> None:
        """Raise DataError if the data cannot be used as asked."""
        if unknown := sorted(self.datasets - self.seen.keys()):
            raise DataError(f"no data set {quote(unknown[0])}: there are {', '.join(self.seen)}")
        if self.absent and not self.partial:
            raise DataError(
                f"{len(self.absent)} images with expressions are not in the cache (the first is "
                f"{min(self.absent)}): run `svp precompute` on the whole split, or allow a part of "
                "it with --partial"
            )

    def check_text(self) -> None:
        """Raise DataError listing the sentences that would break a prompt."""
        problems = Problems("expressions")
        for s, *_ in self.rows:
            if problem := expression_problem(s.sent):
                problems.add(f"{s.dataset} sentence {s.sent_id}: {quote(s.sent)} {problem}")
        problems.raise_if_any()

    def notes(self, sources: Sequence[Source], empty: int) -> list[str]:
        """What the user should know: the sources' own notices (leaks), and what was left out."""
        lines = [notice for source in sources for notice in source.notices]
        for images, why in ((self.absent, "not in the cache"), (self.quarantined, "quarantined")):
            if images:
                lines.append(f"{len(images)} images left out: {why} (the first is {min(images)})")
        if empty:
            lines.append(f"{empty} sentences left out: their mask is empty")
        return list(dict.fromkeys(lines))


def _source_digest(source: Source) -> list[object]:
    """The files of a source; without files, its annotations themselves."""
    if source.sha256:
        return [source.name, sorted(source.sha256.items())]
    content = repr(sorted(source.annotations.items())).encode()
    return [source.name, hashlib.sha256(content).hexdigest()]


def _write(path: Path, joined: _Join, sources: Sequence[Source]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    rows, empty = _with_masks(joined)
    packer = _Packer(path)
    targets = [packer.add(mask) for *_, mask in rows]
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
        notes=joined.notes(sources, empty),
    )
    sync_folder(path)
    write_file(path / TABLE, file.sealed().data(), label="table")


Row = tuple[Sentence, int, int, Rle]


def _with_masks(joined: _Join) -> tuple[list[Row], int]:
    """Rows in table order with their masks, and how many were dropped for an empty one."""
    rows = [
        (s, cache, row, source.masks[s.dataset, s.ann_id]) for s, cache, row, source in joined.rows
    ]
    void = {mask for *_, mask in rows if area(mask) == 0} if joined.training else set()
    kept = [row for row in rows if row[3] not in void]
    if not kept:
        raise DataError("there is no sentence whose image is in the cache")
    kept.sort(key=lambda r: (r[0].dataset, r[0].image_id, r[0].ref_id, r[0].sent_id))
    return kept, len(rows) - len(kept)


class _Packer:
    """Packed masks in files of bounded size; equal masks are stored once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: list[int] = []
        self.place: list[tuple[int, int, int]] = []  # part, offset, crc32c by target
        self._known: dict[Rle, int] = {}
        self._buffers: list[bytes] = []
        self._size = 0

    def add(self, mask: Rle) -> int:
        """The target number of `mask`."""
        if mask not in self._known:
            data = np.packbits(np.ascontiguousarray(decode(mask)).reshape(-1)).tobytes()
            if self._size + len(data) > PART_BYTES:
                self.flush()
            self._known[mask] = len(self.place)
            self.place.append((len(self.parts), self._size, crc32c(data)))
            self._buffers.append(data)
            self._size += len(data)
        return self._known[mask]

    def flush(self) -> None:
        """Write the masks gathered so far as one file."""
        if self._buffers:
            self.parts.append(self._size)
            name = part_names(self.parts)[-1]
            write_temp(self.path / name, self._buffers, label="targets").commit()
            self._buffers, self._size = [], 0


def _columns(
    rows: list[Row], targets: list[int], packer: _Packer
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
        "cache": ints(rows[i][1] for i in firsts),
        "row": ints(rows[i][2] for i in firsts),
        "height": ints(rows[i][3].height for i in firsts),
        "width": ints(rows[i][3].width for i in firsts),
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
