"""VLMEvalKit: one TSV per split, and the figures of answers to it.

Columns are those of its image data sets: `index`, `image` (base64, or the index of an earlier row
with the same photograph), `image_path`, `question`, `answer`; the others say what is asked and
scored here. A photograph is encoded in the frame of its targets.
"""

import base64
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from ..pipeline.datasets import Sentence, Source
from ..pipeline.datasets.images import image_header, read_record
from ..pipeline.datasets.photo_files import photo_file
from ..pipeline.display import Report, counted, show
from ..pipeline.errors import DataError
from ..pipeline.io.new_folder import new_folder
from ..pipeline.records import ImageRecord, Rle
from ..train.metrics import metrics, target_accuracy
from .mask_text import answer_text, count_pixels, counts_of, question, read_answer

COLUMNS = ("index", "image", "image_path", "question", "answer", "expression", "height", "width",
           "ignore", "dataset", "split", "sent_id")  # fmt: skip
KEPT = (".jpg", ".jpeg", ".png", ".webp")  # files that are written as they are


@dataclass(frozen=True)
class TsvReport(Report):
    """Report of `svp data tsv`: rows by file."""

    out: Path
    files: dict[str, int]
    left_out: int

    def lines(self) -> list[str]:
        named = [f"{show(name)}: {counted(rows, 'row')}" for name, rows in self.files.items()]
        bad = [f"left out: {counted(self.left_out, 'expression')} with a bad mask"]
        return [f"wrote {show(str(self.out), 300)}", *named, *(bad if self.left_out else [])]


def write_tsv(source: Source, out: Path) -> TsvReport:
    """Write the new folder `out` with a file NAME_SPLIT.tsv per data set and split.

    Raises DataError (`out` holds files, no expression), ImageError, CacheError.
    """
    if not source.sentences:
        raise DataError(f"{source.where}: photographs without expressions: there is nothing to ask")
    records = {record.image_id: record for record in source.images}
    splits = sorted(
        source.sentences, key=lambda row: (row.dataset, row.split, row.image_id, row.sent_id)
    )
    files: dict[str, int] = {}
    with new_folder(out) as folder:
        for (dataset, split), rows in groupby(splits, key=lambda row: (row.dataset, row.split)):
            name = "_".join(filter(None, (dataset, split))).replace("/", "-") + ".tsv"
            with (folder / name).open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
                table.writeheader()
                files[name] = 0
                for line in _lines(source, records, rows):
                    table.writerow(line)
                    files[name] += 1
    return TsvReport(out, files, len(source.sentences) - sum(files.values()))


def evaluate(rows: list[dict[str, Any]]) -> dict[str, float]:
    """gIoU, cIoU, P@k, N-acc and T-acc, in 0..1, of the rows of a TSV with a column `prediction`.

    Raises DataError for a row whose target is damaged.
    """
    counts = counts_of([_pixels(row) for row in rows])
    empty, full = target_accuracy(counts)
    found = metrics(counts) | {"N-acc": empty, "T-acc": full}
    return {name: float(value) for name, value in found.items()}


def _pixels(row: Mapping[str, Any]) -> tuple[int, int, int]:
    height, width = int(row["height"]), int(row["width"])
    target = read_answer(str(row["answer"]), height, width)
    if target is None:
        raise DataError(f"row {show(row['index'])}: the target in `answer` cannot be read")
    ignored = read_answer(str(row["ignore"]), height, width)
    return count_pixels(str(row["prediction"]), target, ignored)


def _lines(
    source: Source, records: Mapping[int, ImageRecord], rows: Iterator[Sentence]
) -> Iterator[dict[str, object]]:
    index = 0
    for image_id, about in groupby(rows, key=lambda row: row.image_id):
        first = ""
        for row in about:
            mask = source.good_masks.get((row.dataset, row.ann_id))
            if mask is None:
                continue
            photograph = first or _encoded(source.image_root, records[image_id], mask)
            ignored = source.ignored(row)
            yield {
                "index": index,
                "image": photograph,
                "image_path": f"{image_id}.png",
                "question": question(row.sent, mask.height, mask.width),
                "answer": answer_text(mask),
                "expression": row.sent,
                "height": mask.height,
                "width": mask.width,
                "ignore": answer_text(ignored) if ignored is not None else "none",
                "dataset": row.dataset,
                "split": row.split,
                "sent_id": row.sent_id,
            }
            first, index = first or str(index), index + 1


def _encoded(root: Path, record: ImageRecord, mask: Rle) -> str:
    """base64 of the photograph's file, or of a PNG where the file shows it turned or is of another kind."""
    photo = photo_file(root, record.path, f"image {record.image_id}")
    header = image_header(photo)
    if header.orientation == 1 and photo.suffix in KEPT:
        with photo.open() as file:
            return base64.b64encode(file.read()).decode("ascii")
    picture = io.BytesIO()
    Image.fromarray(
        read_record(root, ImageRecord(record.image_id, record.path, mask.height, mask.width))
    ).save(picture, "PNG")
    return base64.b64encode(picture.getvalue()).decode("ascii")
