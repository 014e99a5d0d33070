"""`svp cache export` and `svp answers`: pictures in one of the formats, and a report about it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..pipeline.datasets import Source, open_dataset
from ..pipeline.display import Report, counted, show
from ..pipeline.errors import ConfigError
from ..train.evaluation.results import read_header
from .coco_results import RESULTS, write_coco
from .fiftyone_dataset import PREDICTIONS, write_fiftyone
from .pictures import Picture, Pictures, is_predicted


@dataclass(frozen=True)
class ExportReport(Report):
    """Report of an export.

    written  number of scored masks (COCO), of photographs (FiftyOne)
    """

    out: Path
    kind: str
    written: int
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        number = counted(self.written, "scored mask" if self.kind == "coco" else "photograph")
        return [*self.notes, f"wrote {number} to {show(str(self.out), 300)}"]


def export(given: Pictures, kind: str, out: Path) -> ExportReport:
    """Write `given` as coco or fiftyone into the new folder `out`. Raises what the writers raise."""
    asked = empty = 0

    def each() -> Iterator[Picture]:
        nonlocal asked, empty
        for picture in given.each():
            asked += bool(picture.expression)
            empty += bool(picture.expression and not picture.regions)
            yield picture

    counting = replace(given, each=each)
    written = write_coco(counting, out) if kind == "coco" else write_fiftyone(counting, out)
    notes = given.notes
    if empty:
        masks = "is an empty mask" if empty == 1 else "are empty masks"
        where = RESULTS if kind == "coco" else f"the field {PREDICTIONS}"
        notes += (f"{empty:,} of {counted(asked, 'answer')} {masks}: without an entry in {where}",)
    if kind == "fiftyone" and given.root is None:
        notes += ("the photographs' paths are relative: name their folder with --images",)
    return ExportReport(out, kind, written, notes)


def evaluated_source(path: Path, dataset: str | None, **options: Any) -> Source | None:
    """The data set that a result file was made on, if it is named: the splits of its header.

    Raises ConfigError for a file of several splits, and what `open_dataset` raises.
    """
    if dataset is None:
        if given := sorted(name for name, value in options.items() if value and name != "images"):
            raise ConfigError(f"--{given[0].replace('_', '-')} is read with --dataset alone")
        return None
    if is_predicted(path):
        raise ConfigError(
            f"{show(str(path), 300)}: answers of `svp predict` have no targets: leave out --dataset"
        )
    if not path.is_file():
        return None  # `answers_of` says what can be named
    splits = {size.split for size in read_header(path).splits}
    if len(splits) > 1:
        raise ConfigError(f"{show(str(path), 300)}: results of several splits: evaluate them apart")
    return open_dataset(dataset, split=next(iter(splits), None) or None, **options)
