"""Expression table: the sentences of each cached image and their target masks.

Made once from sources and caches (`build_table`), then only read: targets are stored as packed bits,
so that no RLE is decoded in training. The columns are mapped, not read: an open table holds next to
nothing of them, however many images it has. A table is a folder named after its digest:

    table.json         written last: sizes and checksums of the rest, notes
    index.safetensors  the columns of entries, sentences and targets
    targets-00000.bin  packed targets one after another, each with a crc32c in the index
    left_out.json      bad sentences by name, for reports: no part of the table

A checksum says that a file is the one that was written, not that it was written by us: a table may
come with a copied folder. One pass over whole columns at opening keeps every later read inside them
and replaces a check at every read.
"""

import os
from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from ...pipeline.display import counted, show
from ...pipeline.errors import CacheError
from ...pipeline.io.binary import crc32c, read_at
from ...pipeline.io.json_files import JsonFile, canonical, parse_model, read_bounded
from .mapped_columns import Columns, Mapped, pieces

ENTRY = ("dataset", "image_id", "cache", "row", "height", "width")
SENTENCE = ("sent_id", "ref_id", "ann_id", "target")
TARGET = ("part", "offset", "crc")
NAMES = frozenset({*ENTRY, *SENTENCE, *TARGET, "first", "text_end", "text"})
MAX_SIDE = 65_535
NOTHING = -1  # target of a sentence without one, in a table for training with rejections


def column_fault(
    columns: Mapping[str, NDArray[np.generic]], datasets: int, caches: int, parts: int
) -> str:
    """Fault of the columns of a table of so many data sets, caches and parts, or ''."""
    if columns.keys() != NAMES:
        return f"columns {sorted(columns.keys() ^ NAMES)}"
    kinds = {name: np.uint8 if name == "text" else np.int64 for name in NAMES}
    if odd := sorted(n for n, c in columns.items() if c.ndim != 1 or c.dtype != kinds[n]):
        return f"column {odd[0]} is {columns[odd[0]].dtype}{list(columns[odd[0]].shape)}"
    lengths = [len(columns[names[0]]) for names in (ENTRY, SENTENCE, TARGET)]
    for names, length in zip((ENTRY, SENTENCE, TARGET), lengths, strict=True):
        if odd := [name for name in names if len(columns[name]) != length]:
            return (
                f"column {odd[0]} has {counted(len(columns[odd[0]]), 'value')}, expected {length}"
            )
    entries, sentences, targets = lengths
    if not _splits(columns["first"], entries, sentences, least=1):
        return "column first does not share the sentences out among the entries"
    if not _splits(columns["text_end"], sentences, len(columns["text"]), least=0):
        return "column text_end does not cut the text"
    if fault := _text_fault(columns):
        return fault
    limits = {
        "dataset": (0, datasets), "cache": (0, caches), "target": (NOTHING, targets), "part": (0, parts),
        "height": (1, MAX_SIDE + 1), "width": (1, MAX_SIDE + 1), "crc": (0, 1 << 32),
        "offset": (0, 1 << 62), "row": (0, 1 << 62), "image_id": (0, None),
    }  # fmt: skip
    for name, (low, high) in limits.items():
        values = columns[name].astype(np.int64, copy=False)
        if len(values) and (values.min() < low or (high is not None and values.max() >= high)):
            return f"column {name} has values outside {low}..{'' if high is None else high - 1}"
    return ""


def _splits(ends: NDArray[np.generic], count: int, whole: int, least: int) -> bool:
    """Whether `ends` cuts 0..whole into `count` parts of at least `least`."""
    values = ends.astype(np.int64, copy=False)
    if not (len(values) == count + 1 and values[0] == 0 and values[-1] == whole):
        return False
    # Compared, not subtracted: differences of hostile numbers may wrap around.
    return all(
        bool(np.all(part[1:] >= part[:-1]) and np.all(np.diff(part) >= least))
        for part in pieces(values, overlap=1)
    )


def _text_fault(columns: Mapping[str, NDArray[np.generic]]) -> str:
    text = columns["text"].astype(np.uint8, copy=False)
    decoder = getincrementaldecoder("utf-8")()
    try:
        for part in pieces(text):
            decoder.decode(part.tobytes())
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "the text is not UTF-8"
    for cuts in pieces(columns["text_end"].astype(np.int64, copy=False)):
        if np.any((text[cuts[cuts < len(text)]] & 0xC0) == 0x80):
            return "a sentence is cut inside a character"
    return ""


SCHEMA = 1
TABLE, INDEX = "table.json", "index.safetensors"
MAX_TABLE_BYTES, MAX_INDEX_BYTES = 64 << 20, 4 << 30

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]


class TableFile(JsonFile):
    """table.json.

    digest   what the table was made from
    caches   ids of the caches, in the order `Entry.cache` counts them
    sizes    entries per data set, in the order of `datasets`
    parts    bytes of each targets file
    index    xxh3 of index.safetensors
    notes    leaks, images left out and why: for reports, checkpoints and result files
    check    xxh3 of this file with an empty check
    """

    schema_version: int
    digest: Hex
    caches: list[Hex]
    datasets: list[str]
    sizes: list[int]
    parts: list[int]
    index: Hex
    notes: list[str]
    check: str = ""

    def sealed(self) -> "TableFile":
        """The same with its `check` filled in."""
        blank = self.model_copy(update={"check": ""})
        return self.model_copy(update={"check": xxhash.xxh3_64_hexdigest(blank.data())})

    def data(self) -> bytes:
        """The bytes of the file."""
        return canonical(self.model_dump(mode="json"))


class Entry(NamedTuple):
    """One image of one data set; `cache` and `row` say where its features are."""

    dataset: str
    image_id: int
    cache: int
    row: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """Name of the entry in messages."""
        return f"{self.dataset}/{self.image_id}"

    @property
    def target_bytes(self) -> int:
        """Bytes of one packed target."""
        return -(-self.height * self.width // 8)


class Said(NamedTuple):
    """One sentence about one object of an entry; `target` is the number of its mask."""

    sent_id: int
    ref_id: int
    ann_id: int
    text: str
    target: int


class ExpressionTable:
    """Read access; may be shared by threads.

    datasets  names, sorted; `sizes` has the number of entries of each
    digest    of all it was made from
    caches    ids of its caches
    notes     lines for the user
    left_out  how many of what is not in it, by reason

    Entries are sorted by (dataset, image id), sentences by (ref_id, sent_id).
    Raises CacheError if a file is missing or is not what table.json says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = parse_model(TableFile, read_bounded(path / TABLE, MAX_TABLE_BYTES), path / TABLE)
        if file.schema_version != SCHEMA:
            raise self._damaged(TABLE, f"schema {file.schema_version}, this svp reads {SCHEMA}")
        if file.sealed() != file:
            raise self._damaged(TABLE, "its checksum is wrong")
        self.digest, self.caches, self.notes = file.digest, file.caches, file.notes
        self.datasets, self.sizes = file.datasets, file.sizes
        self.left_out: dict[str, int] = {}
        mapped = Mapped(path / INDEX, MAX_INDEX_BYTES)
        self._columns = self._load(mapped, file.index)
        fault = column_fault(self._columns, len(file.datasets), len(file.caches), len(file.parts))
        if fault:
            raise self._damaged(INDEX, fault)
        mapped.release()  # all of it was read once; what is resident is what is read from now on
        self._text = self._columns["text"].data
        self._fds = [self._open(part, size) for part, size in enumerate(file.parts)]

    def __del__(self) -> None:
        for fd in getattr(self, "_fds", []):
            os.close(fd)

    def __len__(self) -> int:
        return len(self._columns["image_id"])

    def entry(self, i: int) -> Entry:
        """Entry `i`."""
        c = self._columns
        numbers = (int(c[name][i]) for name in ("image_id", "cache", "row", "height", "width"))
        return Entry(self.datasets[int(c["dataset"][i])], *numbers)

    @property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,) cache and row of every entry."""
        c = self._columns
        return c["cache"].astype(np.int64, copy=False), c["row"].astype(np.int64, copy=False)

    def sentences(self, i: int) -> tuple[Said, ...]:
        """All sentences of entry `i`, at least one."""
        first, last = self._columns["first"][i : i + 2].tolist()
        return tuple(self._said(j) for j in range(first, last))

    def longer_than(self, size: int) -> dict[int, list[int]]:
        """Entry -> places of its sentences that have more than `size` bytes of text."""
        ends, first = self._columns["text_end"], self._columns["first"]
        found: dict[int, list[int]] = {}
        for j in np.flatnonzero(np.diff(ends) > size).tolist():
            entry = int(np.searchsorted(first, j, side="right")) - 1
            found.setdefault(entry, []).append(j - int(first[entry]))
        return found

    def target(self, said: Said, out: NDArray[np.uint8]) -> None:
        """The packed target of a sentence into `out`: row-major bits, high bit first.

        out  (Entry.target_bytes,) uint8, contiguous. Raises CacheError if its checksum fails.
        """
        if said.target == NOTHING:
            out[:] = 0
            return
        c, t = self._columns, said.target
        part, offset, crc = (int(c[name][t]) for name in ("part", "offset", "crc"))
        view = out.data.cast("B")
        if read_at(self._fds[part], [view], offset) != len(view) or crc32c(view) != crc:
            raise self._damaged(_part_name(part), f"the mask of sentence {said.sent_id} is wrong")

    @property
    def sentence_count(self) -> int:
        """Sentences of all entries."""
        return len(self._columns["sent_id"])

    def _said(self, j: int) -> Said:
        c = self._columns
        sent, ref, ann, target = (
            int(c[name][j]) for name in ("sent_id", "ref_id", "ann_id", "target")
        )
        begin, end = c["text_end"][j : j + 2].tolist()
        return Said(sent, ref, ann, bytes(self._text[begin:end]).decode(), target)

    def _load(self, mapped: Mapped, digest: str) -> Columns:
        if mapped.digest() != digest:
            raise self._damaged(INDEX, "its checksum is wrong")
        try:
            return mapped.columns()
        except ValueError as error:
            raise self._damaged(INDEX, str(error)) from None

    def _open(self, part: int, size: int) -> int:
        name = _part_name(part)
        try:
            fd = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self._damaged(name, str(error.strerror)) from None
        if os.fstat(fd).st_size != size:
            os.close(fd)
            raise self._damaged(name, f"it has not the {size} bytes it should have")
        return fd

    def _damaged(self, name: str, what: str) -> CacheError:
        return CacheError(
            f"{show(str(self.path / name), 300)}: {show(what, 200)}: delete the folder, the table "
            "is made again from the data"
        )


def _part_name(part: int) -> str:
    return f"targets-{part:05d}.bin"


def part_names(parts: Sequence[int]) -> list[str]:
    """Names of the targets files."""
    return [_part_name(part) for part in range(len(parts))]
