"""Expressions with a box and no mask, as rows of parquet files: Ref-L4 and Ref-Adv.

They are for evaluation: the box around a predicted mask is compared with theirs. There is nothing to
train on, and the target mask is the filled box.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..display import quote
from ..errors import DataError
from ..io.json_files import fingerprint
from .coco import MAX_IMAGE_SIDE, integer
from .one_set import one_set
from .problems import Problems
from .table_rows import column_names
from .tables import Annotation, Dataset, ImageEntry, Sentence

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels, exclusive maxima


@dataclass
class BoxTables:
    """The rows under construction of a set of boxes; a sentence's number is its place in the set."""

    name: str
    problems: Problems
    images: dict[int, ImageEntry] = field(default_factory=dict)
    sentences: list[Sentence] = field(default_factory=list)
    annotations: dict[int, Annotation] = field(default_factory=dict)
    taken: int = 0

    def add(self, image: ImageEntry, split: str, text: object, box: Box, where: str) -> None:
        """One row. DataError if the text is none, the box is empty, or two sizes are told."""
        if not isinstance(text, str):
            raise DataError(f"{where}: expression {quote(text)} is not a string")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise DataError(f"{where}: box {quote(list(box))} is empty")
        other = self.images.setdefault(image.image_id, image)
        if other != image:
            raise DataError(
                f"{where}: {quote(image.file_name)} is {image.height}x{image.width}, before "
                f"{other.height}x{other.width}"
            )
        x1, y1, x2, y2 = box
        number, size = len(self.sentences), (image.height, image.width)
        self.annotations[number] = Annotation(
            self.name,
            number,
            image.image_id,
            *size,
            [[x1, y1, x2, y1, x2, y2, x1, y2]],
            f"{self.name} {where}",
            box=box,
        )
        ids = (image.image_id, number, number, number)
        self.sentences.append(Sentence(self.name, "", split, *ids, text.strip()))

    def dataset(self, root: Path, files: Sequence[Path], max_failures: int | None) -> list[Dataset]:
        """The data set of these rows. DataError if more are bad than accepted (`Problems.settle`)."""
        read = {file.name: fingerprint(file) for file in files}
        faults = self.problems.settle(self.taken, max_failures)
        images = self.images.values()
        return one_set(self.name, root, images, self.sentences, self.annotations, read, faults)


def four_numbers(value: object, name: str, where: str) -> Box:
    """A box as the file gives it, whatever its numbers mean. DataError if it is none."""
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"{where}: {name} {quote(value)} is not four numbers")
    if not all(type(n) in (int, float) and abs(n) <= MAX_IMAGE_SIDE for n in value):
        raise DataError(f"{where}: {name} {quote(value)} is not four numbers of pixels")
    return (float(value[0]), float(value[1]), float(value[2]), float(value[3]))


def size_of(record: dict[str, Any], where: str) -> tuple[int, int]:
    """(height, width) of a row's photograph."""
    height, width = (
        integer(record.get(side), side, where, low=1, high=MAX_IMAGE_SIDE)
        for side in ("height", "width")
    )
    return height, width


def files_with(path: Path, columns: Sequence[str]) -> list[Path]:
    """The parquet files of a folder (also below `data/`), if the first has these columns."""
    files = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if not files or not set(columns) <= set(column_names(files[0])):
        return []
    return files
