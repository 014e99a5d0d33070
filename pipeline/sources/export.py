"""`svp data export`: expressions of one split as JSONL with compressed RLE, for local use.

Read back with the same image folder it gives equal masks and sentences; ids are the lines' own.
The result derives from its source and carries that source's licence: it is not for redistribution.
"""

import json
import os
from pathlib import Path

from ..errors import DataError
from ..store.atomic import make_folders, writing
from ..text import show
from .jsonfile import fingerprint
from .tables import Source

_JSONL_SPLIT = {"testA": "test", "testB": "test"}


def export_jsonl(source: Source, out: Path) -> int:
    """Write the source's expressions to `out`, whole or not at all; returns the number of lines.

    DataError if `out` is a folder, a device, or a file that the source was read from.
    """
    _require_free(out, source)
    paths = {record.image_id: record.path for record in source.images}
    partial = out.with_name(f".{out.name}.partial")
    written = 0
    make_folders(out.parent)
    try:
        with writing(out), partial.open("w", encoding="utf-8", newline="\n") as file:
            for row in source.sentences:
                mask = source.good_masks.get((row.dataset, row.ann_id))
                if mask is None:
                    continue
                rle = {"size": [mask.height, mask.width], "counts": mask.counts.decode("ascii")}
                record = {
                    "image": paths[row.image_id],
                    "expression": row.sent,
                    "mask": rle,
                    "id": f"{row.dataset}/{row.split_by}/{row.sent_id}",
                    "object": str(row.ann_id),
                    "split": _JSONL_SPLIT.get(row.split, row.split),
                    "dataset": row.dataset,
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                written += 1
            file.flush()
            os.fsync(file.fileno())
        with writing(out):
            partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return written


def _require_free(out: Path, source: Source) -> None:
    where = show(str(out), 300)
    if out.exists() and not out.is_file():
        what = "a folder" if out.is_dir() else "no regular file"
        raise DataError(f"{where} is {what}: give the name of the JSONL file to write")
    # By content, as the source knows its files' names only.
    if out.is_file() and fingerprint(out).sha256 in source.sha256.values():
        raise DataError(f"{where} is a file of the data set itself: choose another name")
