"""Result file: provenance, then one row per sentence, enough to recompute every metric.

JSON lines: a header with provenance, the number of rows and their xxh3 digest, then the rows,
sorted, with the predicted mask as RLE. The file appears whole (atomic write), and a copy that was
cut or changed is refused by file name and line. Counts and mask vouch for each other: a predicted
mask has union - target + intersection pixels.

What was computed is written whatever its size: bounds stand where a file is read, and a mask's
bound is its image (`rle_codec.check_runs`), not a number of characters.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NoReturn, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError, DataError, MissingError
from ...pipeline.io.atomic import make_folders, write_file
from ...pipeline.io.json_files import JsonFile, canonical
from ...pipeline.masks import rle
from ...pipeline.records import Rle
from ..metrics import Counts

SCHEMA = 1
MAX_BYTES = 64 << 30
MAX_LINE = 512 << 20  # more than the longest RLE of the largest image, 6 x (8192 x 8192 + 1)
Model = TypeVar("Model", bound=JsonFile)
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Iou = Annotated[float, Field(ge=0, le=1)]


class SplitSize(JsonFile):
    """One evaluated split and what of it was evaluated."""

    dataset: str
    split_by: str
    split: str
    images: Count
    sentences: Count


class Header(JsonFile):
    """Provenance of the rows; equal headers and weights give equal rows.

    order       superpixel order at inference: `area` (descending), and K shuffles beside it
    left_out    how much of the splits is not in the rows, by reason; empty: nothing
    digests     by name: recipe, checkpoint, cache, table, ...: what may not be mixed
    repeats     draws of protocol glamm, or orders tried
    """

    schema_version: int = SCHEMA
    svp: str
    commit: str
    protocol: Literal["full", "glamm"]
    generate: bool
    seed: int
    repeats: Annotated[int, Field(ge=1)]
    order: str
    splits: list[SplitSize]
    digests: dict[str, str]
    libraries: dict[str, str]
    left_out: dict[str, Count] = Field(default_factory=dict)


class Bounds(JsonFile):
    """Upper bounds (IoU) of the superpixels for one sentence's target.

    single   best single superpixel
    union    best union of superpixels, `pieces` of them
    point    SAM's decoder with a click inside the target, best of its three masks
    """

    single: Iou
    union: Iou
    pieces: Count
    point: Iou | None = None


class BoxResult(JsonFile):
    """A target known by its box alone.

    target  x1 y1 x2 y2, pixels, exclusive maxima
    iou     of it and the box around the predicted mask; 0 without one
    """

    target: tuple[float, float, float, float]
    iou: Iou


class Row(JsonFile):
    """One sentence in one repeat. `counts` is the predicted mask's COCO compressed RLE.

    has_seg    the answer has a [SEG]: the generated one, or by `rejection`
    box        where only the target's box is known; the counts are then those of the filled box
    rejection  chance that nothing is meant, teacher-forced: of [REJ] against [SEG], or by token answers; not
               in the file where nobody asked
    decoded    IoU of the mask of SAM's decoder, beside a union of superpixels; else not in the file
    recall     share of what superpixels cover of the target that is under those which the question
               keeps; not in the file where it keeps all
    """

    repeat: Count
    dataset: str
    image_id: Count
    ref_id: int
    sent_id: int
    text: str
    path: str
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    intersection: Count
    union: Count
    target: Count
    tokens: Count
    has_seg: bool
    counts: str
    classes: list[str]
    bounds: Bounds | None = None
    box: BoxResult | None = None
    rejection: Iou | None = None
    decoded: Iou | None = None
    recall: Iou | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        for name in ("rejection", "decoded", "recall"):
            if found[name] is None:
                del found[name]
        return found

    @property
    def key(self) -> tuple[int, str, int, int, int]:
        """Place in the file; unique."""
        return self.repeat, self.dataset, self.image_id, self.ref_id, self.sent_id

    @property
    def mask(self) -> Rle:
        """The predicted mask, at the photograph's size."""
        return Rle(self.height, self.width, self.counts.encode())

    @property
    def iou(self) -> float:
        """I/U; 1 where both are empty."""
        return self.intersection / self.union if self.union else 1.0


class _FirstLine(JsonFile):
    header: Header
    rows: Count
    xxh3: str


@dataclass(frozen=True)
class Results:
    """A header and its rows, sorted by `Row.key`."""

    header: Header
    rows: Sequence[Row]

    @cached_property
    def counts(self) -> Counts:
        """Counts of all rows, in their order; an answer without [SEG] rejects its target."""
        table = [(row.intersection, row.union, row.target) for row in self.rows]
        inter, union, target = np.array(table, np.int64).reshape(-1, 3).T
        asked = self.header.generate or any(row.rejection is not None for row in self.rows)
        if not asked:  # the answer with [SEG] was given
            return Counts(inter, union, target)
        return Counts(
            inter, union, target, np.array([not row.has_seg for row in self.rows], np.bool_)
        )

    @cached_property
    def repeats(self) -> NDArray[np.int64]:
        """(S,) repeat of each row."""
        return np.array([row.repeat for row in self.rows], np.int64)

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """(S,) image id of each row: what is drawn together in a bootstrap."""
        return np.array([row.image_id for row in self.rows], np.int64)


def collect(header: Header, rows: Iterable[Row]) -> Results:
    """Results with sorted rows. DataError if a sentence occurs twice in one repeat."""
    ordered = sorted(rows, key=lambda row: row.key)
    for before, row in pairwise(ordered):
        if before.key == row.key:
            raise DataError(f"{row.dataset} sentence {row.sent_id}: two results in one repeat")
    return Results(header, ordered)


def write_results(path: Path, results: Results) -> None:
    """Write a result file, atomic and durable. ConfigError if `path` exists."""
    if path.exists():
        raise ConfigError(f"{show(str(path), 300)} exists: results are never overwritten")
    make_folders(path.parent)
    body = b"".join(canonical(row.model_dump(mode="json")) for row in results.rows)
    digest = xxhash.xxh3_64_hexdigest(body)
    first = _FirstLine(header=results.header, rows=len(results.rows), xxh3=digest)
    write_file(path, canonical(first.model_dump(mode="json")) + body, label="results")


def read_results(path: Path) -> Results:
    """Read and check a result file, which may come from anyone.

    Raises MissingError if there is none; DataError naming the file and the line that is damaged,
    impossible or missing.
    """
    if not path.is_file():
        raise MissingError(f"{show(str(path), 300)}: no such result file")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{show(str(path), 300)}: over {MAX_BYTES} bytes: not a result file")
    digest = xxhash.xxh3_64()
    rows: list[Row] = []
    with path.open("rb") as file:
        first = _parse(_FirstLine, _line(file, path, 1), path, 1)
        if first.header.schema_version != SCHEMA:
            _fail(path, 1, f"schema {first.header.schema_version}, this svp reads {SCHEMA}")
        while line := _line(file, path, len(rows) + 2):
            digest.update(line)
            rows.append(_row(line, path, len(rows) + 2))
    if len(rows) != first.rows:
        _fail(
            path,
            len(rows) + 1,
            f"the file ends after {len(rows):,} of {counted(first.rows, 'sentence')}",
        )
    if digest.hexdigest() != first.xxh3:
        _fail(path, 1, "the rows are not those that were written: the file was changed")
    return collect(first.header, rows)


def _line(file: BinaryIO, path: Path, number: int) -> bytes:
    line = file.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE:
        _fail(path, number, f"longer than {MAX_LINE} bytes")
    return line


def read_header(path: Path) -> Header:
    """The header of a result file; its rows are not looked at. Raises as `read_results`."""
    with path.open("rb") as file:
        return _parse(_FirstLine, _line(file, path, 1), path, 1).header


def _row(line: bytes, path: Path, number: int) -> Row:
    row = _parse(Row, line, path, number)
    if not line.endswith(b"\n"):
        _fail(path, number, "the line is cut")
    if not row.intersection <= row.target <= row.union:
        _fail(path, number, "needs intersection <= target <= union")
    try:
        found = rle.area(row.mask)
    except DataError as error:
        _fail(path, number, str(error))
    if found != row.union - row.target + row.intersection:
        _fail(path, number, f"the mask has {found} pixels, which contradicts the counts")
    if found and not row.has_seg:
        _fail(path, number, "a mask without a [SEG]")
    return row


def _parse(model: type[Model], line: bytes, path: Path, number: int) -> Model:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in item["loc"])
        _fail(path, number, f"damaged: {show(name)} {show(item['msg'])}".replace("  ", " "))


def _fail(path: Path, number: int, what: str) -> NoReturn:
    raise DataError(f"{show(str(path), 300)} line {number}: {what}: evaluate again")
