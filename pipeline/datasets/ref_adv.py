"""Ref-Adv-s: parquet files with the photographs inside, boxes `[x1, y1, x2, y2]`.

Columns read: `normal_caption`, `file_name`, `height`, `width` and `solution` or `gt_bbox` (dddraxxx/Ref-Adv
run.py). The hub calls its one split train; it is for evaluation, so here it is `test`. Rows about one
file share the first row's photograph. With `--images` the photographs are files of their names.
"""

from pathlib import Path
from typing import Any

from ..display import show
from ..errors import DataError
from ..io.paths import check_name
from .box_rows import BoxTables, files_with, four_numbers, size_of
from .image_folder import path_id
from .options import Options
from .parquet_rows import read_rows
from .photo_files import PhotoFile
from .problems import Problems
from .table_rows import column_names, rows_of
from .tables import Dataset, ImageEntry

NAME = "ref-adv"
COLUMNS = ("normal_caption", "file_name", "height", "width")
BOXES = ("solution", "gt_bbox")  # of the hub's files, of the printed predictions


def read_ref_adv(path: Path, options: Options) -> list[Dataset] | None:
    """The data set in a folder of parquet files with its columns; None for another folder.

    Up to `max_failures` bad rows are left out (see `Problems.settle`).
    """
    files = files_with(path, COLUMNS)
    if not files:
        return None
    box = next((name for name in BOXES if name in column_names(files[0])), None)
    if box is None:
        raise DataError(f"{show(str(files[0]), 300)}: no column {' or '.join(BOXES)}")
    made = BoxTables(NAME, Problems(show(str(path), 300)))
    places: dict[str, str] = {}  # a photograph's own name -> where it lies
    for file in files:
        inside: list[str] = []
        if options.images is None:
            names, fault = read_rows(PhotoFile(file))
            if fault or not names:
                raise DataError(f"{show(str(file), 300)}: {fault or 'holds no photographs'}: give "
                                "their folder with --images")  # fmt: skip
            folder = file.parent.relative_to(path).as_posix()
            inside = names if folder == "." else [f"{folder}/{name}" for name in names]
        for index, record in rows_of(file, (*COLUMNS, box)):
            made.taken += 1
            try:
                _add(made, record, box, places, inside[index] if inside else "",
                     f"{file.name} row {index}")  # fmt: skip
            except DataError as error:
                made.problems.add(error)
    return made.dataset(path, files, options.max_failures)


def _add(
    made: BoxTables,
    record: dict[str, Any],
    box: str,
    places: dict[str, str],
    inside: str,
    where: str,
) -> None:
    name = check_name(record["file_name"], where)
    place = places.setdefault(name, inside) or name
    image = ImageEntry(NAME, path_id(name), place, *size_of(record, where))
    made.add(image, "test", record["normal_caption"], four_numbers(record[box], box, where), where)
