"""Result file of a table: `<out>/<table>-<size>.json`, rewritten after every row.

Fractions are 0..1, the paper's numbers percent as printed. Everything in it can be made again from
the cells' folders, whose names and digests it holds.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ...pipeline.display import show
from ...pipeline.errors import DataError, MissingError
from ...pipeline.io.atomic import make_folders, write_file
from ...pipeline.io.json_files import JsonFile
from .trials import Trial

SCHEMA = 1
MAX_BYTES = 64 << 20
Number = Annotated[float, Field(allow_inf_nan=False)]


class Score(JsonFile):
    """A metric of a row on a split: mean over seeds, 95 % interval over images, spread over seeds.

    sd  standard deviation over seeds, as a sample; None with one seed
    """

    value: Number
    low: Number
    high: Number
    sd: Number | None = None


class RowResult(JsonFile):
    """One line of the table.

    not_run     why there is no cell, or ""
    paper       the paper's eight numbers, and their mean if it has all
    scores      split -> metric -> score
    mean        of the table's metric over the splits, by seed
    tokens      visual tokens per image, mean over splits; `tokens_p95` and `tokens_most` over images
    parameters  of the projector here, `warm` of them from the shipped projector; `full` at 1024 -> 4096 with the paper size's options
    seconds     training and evaluation of all seeds; `caches` of making what they read, which
                other rows may share
    """

    name: str
    not_run: str = ""
    paper: list[Number | None] | None = None
    paper_mean: Number | None = None
    changes: dict[str, list[str]]
    cells: list[Trial] = Field(default_factory=list)
    scores: dict[str, dict[str, Score]] = Field(default_factory=dict)
    mean: dict[str, Number] = Field(default_factory=dict)
    tokens: Number | None = None
    tokens_p95: Number | None = None
    tokens_most: Number | None = None
    parameters: int | None = None
    warm: int | None = None
    full: int | None = None
    seconds: Number = 0.0
    caches: Number = 0.0

    @property
    def value(self) -> float | None:
        """The table's metric, mean over seeds and splits."""
        return sum(self.mean.values()) / len(self.mean) if self.mean else None


class ClaimResult(JsonFile):
    """One ordering of the paper; `paper` in percent points, None where it has no numbers."""

    better: str
    worse: str
    paper: Number | None
    value: Number
    low: Number
    high: Number
    verdict: Literal["holds", "leans", "leans against", "reversed"]


class CurveResult(JsonFile):
    """A curve over visual tokens and the area under it (`curves.area`), with 95 % intervals.

    rows   its points that were run, by rising tokens
    value, low, high  the area; `over`: by how much that of the table's own curve is larger, None for
                      that curve and where it is not there
    """

    name: str
    rows: list[str]
    value: Number
    low: Number
    high: Number
    over: ClaimResult | None = None


class Bench(JsonFile):
    """Time and memory of Table 6: ratios MLP / SVP of our bench and of the paper, and the bench."""

    ratios: dict[str, Number]
    paper: dict[str, Number]
    train: dict[str, object]
    infer: dict[str, object]


class TableResult(JsonFile):
    """A table at one size.

    protocol how our numbers were asked for; the paper's own is `paper.PROTOCOL`
    changes  `--set` assignments given for all rows
    agree    pairs of rows ordered as in the paper, of how many
    seconds  caches, training and evaluation of everything in it, all attempts together
    """

    schema_version: int = SCHEMA
    svp: str
    commit: str
    table: str
    size: str
    title: str
    metric: str
    protocol: str = "full"
    seeds: int
    changes: list[str]
    columns: list[str]
    rows: list[RowResult]
    claims: list[ClaimResult]
    agree: tuple[int, int]
    curves: list[CurveResult] = Field(default_factory=list)
    notes: list[str]
    seconds: dict[str, Number]
    libraries: dict[str, str]
    bench: Bench | None = None


def write_table(path: Path, result: TableResult) -> None:
    """Write a result file in place of the earlier one, atomic and durable."""
    make_folders(path.parent)
    text = json.dumps(result.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    write_file(path, text.encode(), label="table")


def read_table(path: Path) -> TableResult:
    """Read and check a result file. Raises MissingError, DataError."""
    if not path.is_file():
        raise MissingError(f"{show(str(path), 300)}: no such table: `svp reproduce` writes it")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{show(str(path), 300)}: over {MAX_BYTES} bytes: not a table")
    try:
        found = TableResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in item["loc"])
        where = show(str(path), 300)
        raise DataError(f"{where}: damaged: {show(name)} {show(item['msg'])}") from None
    if found.schema_version != SCHEMA:
        raise DataError(
            f"{show(str(path), 300)}: schema {found.schema_version}, this svp reads {SCHEMA}"
        )
    return found
