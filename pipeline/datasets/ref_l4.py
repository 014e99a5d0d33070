"""Ref-L4: parquet files of `val` and `test` with boxes, the photographs beside them.

Columns read: `file_name`, `caption`, `bbox` (x, y, width, height), `height`, `width`, and `split`, without which the file's name
says it (JierunChen/Ref-L4 ref_l4/dataloader.py, evaluation.py). `images.tar.gz` is compressed, so that
nothing in it can be read in place.
"""

from pathlib import Path
from typing import Any

from ..display import quote, show
from ..errors import DataError
from ..io.paths import check_name
from .box_rows import Box, BoxTables, files_with, four_numbers, size_of
from .image_folder import path_id
from .options import Options
from .problems import Problems
from .table_rows import rows_of
from .tables import Dataset, ImageEntry

NAME = "ref-l4"
COLUMNS = ("file_name", "caption", "bbox", "height", "width")
SPLITS = ("val", "test")


def read_ref_l4(path: Path, options: Options) -> list[Dataset] | None:
    """The data set in a folder of parquet files with its columns; None for another folder.

    Up to `max_failures` bad rows are left out (see `Problems.settle`).
    """
    files = files_with(path, COLUMNS)
    if not files:
        return None
    made = BoxTables(NAME, Problems(show(str(path), 300)))
    for file in files:
        named = next((split for split in SPLITS if split in file.stem.lower()), None)
        for index, record in rows_of(file, (*COLUMNS, "split")):
            made.taken += 1
            try:
                _add(made, record, named, f"{file.name} row {index}")
            except DataError as error:
                made.problems.add(error)
    return made.dataset(path, files, options.max_failures)


def _add(made: BoxTables, record: dict[str, Any], named: str | None, where: str) -> None:
    split = record.get("split", named)
    if split not in SPLITS:
        raise DataError(f"{where}: split {quote(split)} is not one of {', '.join(SPLITS)}")
    name = check_name(record["file_name"], where)
    x, y, width, height = four_numbers(record["bbox"], "bbox", where)
    box: Box = (x, y, x + width, y + height)
    image = ImageEntry(NAME, path_id(name), name, *size_of(record, where))
    made.add(image, split, record["caption"], box, where)
