"""`svp data convert` and `svp data export`: normalised tables, and JSONL.

A folder of `images.jsonl`, `sentences.jsonl`, `masks.jsonl` (one row per line, sorted keys, sorted
rows: equal data gives equal bytes) and `tables.json` with the sha256 of the three and of the files
they came from. The folder appears complete or not at all.

An export holds the expressions of one split with compressed RLE. Read back with the same image
folder it gives equal masks and sentences; ids are the lines' own. It derives from its source and
carries that source's licence: it is not for redistribution.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..display import Report, counted, escape, show
from ..errors import DataError
from ..io.atomic import make_folders, writing
from ..io.json_files import Fingerprint, fingerprint, parse_line, read_json
from ..io.new_folder import new_folder, require_new
from ..io.paths import check_name
from ..masks.rle import area
from .problems import Faults, Problems, merged
from .published_counts import Count, count
from .tables import Annotation, Dataset, ImageEntry, Sentence, Source, build_masks, order_of

FORMAT, VERSION = "svp-tables", 1
META = "tables.json"
FILES = ("images", "masks", "sentences")


@dataclass(frozen=True, slots=True)
class ConvertReport(Report):
    """Report of a conversion: rows per table, objects with an empty mask, sizes per set and split.

    left_out  bad records; the notices name them
    """

    out: Path
    rows: dict[str, int]
    empty_masks: int
    counts: dict[str, dict[str, Count]]
    notices: tuple[str, ...]
    left_out: int = 0

    def lines(self) -> list[str]:
        rows = ", ".join(f"{number} {name}" for name, number in self.rows.items())
        first = (
            f"wrote {show(str(self.out), 300)}: {rows}; {counted(self.empty_masks, 'empty mask')}"
        )
        return [first, *map(escape, self.notices)]


def write_tables(
    datasets: Sequence[Dataset], out: Path, max_failures: int | None = 0
) -> ConvertReport:
    """Write the tables of the datasets to the new folder `out`.

    max_failures  bad masks that are left out with their sentences (see `Problems.settle`)

    DataError lists every annotation whose mask is bad, or says that `out` is not empty.
    """
    require_new(out)
    rows, empty, bad = _rows(datasets, max_failures)
    faults = merged((*(dataset.faults for dataset in datasets), bad))
    with new_folder(out) as partial:
        for name in FILES:
            _write_lines(partial / f"{name}.jsonl", rows[name])
        _write_lines(partial / META, [_meta(datasets, partial, rows)])
    return ConvertReport(
        out=out,
        rows={name: len(rows[name]) for name in FILES},
        empty_masks=empty,
        counts={dataset.title: count(dataset) for dataset in datasets},
        notices=(*(n for dataset in datasets for n in dataset.notices), *faults.notices()),
        left_out=faults.found,
    )


def is_tables(folder: Path) -> bool:
    """Whether the folder was written by `write_tables`."""
    return (folder / META).is_file()


def read_tables(folder: Path) -> list[Dataset]:
    """The datasets of a converted folder. DataError if a file was changed since."""
    where = show(str(folder / META), 300)
    meta = read_json(folder / META, max_bytes=64 << 20)
    if not isinstance(meta, dict) or (meta.get("format"), meta.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{where}: not tables of version {VERSION}: convert the source again")
    try:
        _check_digests(folder, meta["files"])
        sources = {name: Fingerprint(**file) for name, file in meta["sources"].items()}
        tables = {name: _read_lines(folder / f"{name}.jsonl") for name in FILES}
        return [_dataset(folder, head, tables, sources) for head in meta["datasets"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: a field is missing or wrong ({show(str(error))})") from None


def _rows(
    datasets: Sequence[Dataset], max_failures: int | None
) -> tuple[dict[str, list[dict[str, Any]]], int, Faults]:
    files = ", ".join(name for dataset in datasets for name in dataset.files)
    problems = Problems(f"{', '.join(dataset.title for dataset in datasets)} ({files})")
    annotations = {(a.dataset, a.ann_id): a for d in datasets for a in d.annotations.values()}
    masks, bad = build_masks(a for a in annotations.values() if a.height)
    for line in bad.values():
        problems.add(line)
    faults = problems.settle(len(annotations), max_failures)
    sentences = sorted(
        (row for d in datasets for row in d.sentences if (row.dataset, row.ann_id) not in bad),
        key=order_of,
    )
    table = {
        "images": [asdict(entry) for entry in sorted({e for d in datasets for e in d.images})],
        "masks": [
            _mask_row(annotations[key], mask.counts.decode("ascii"))
            for key, mask in sorted(masks.items(), key=lambda item: item[0])
        ],
        "sentences": [asdict(row) for row in sentences],
    }
    return table, sum(area(mask) == 0 for mask in masks.values()), faults


def _mask_row(item: Annotation, counts: str) -> dict[str, Any]:
    ids = {"dataset": item.dataset, "ann_id": item.ann_id, "image_id": item.image_id}
    ignored = item.ignored()
    more: dict[str, Any] = {"ignore": ignored.counts.decode("ascii")} if ignored else {}
    more |= {"box": list(item.box)} if item.box else {}
    return {**ids, "height": item.height, "width": item.width, "rle": counts, **more}


def _meta(
    datasets: Sequence[Dataset], folder: Path, rows: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    files = {
        name: {"sha256": fingerprint(folder / f"{name}.jsonl").sha256, "rows": len(rows[name])}
        for name in FILES
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "datasets": [_head(dataset) for dataset in datasets],
        "files": files,
        "sources": {name: asdict(file) for d in datasets for name, file in d.files.items()},
    }


def _head(dataset: Dataset) -> dict[str, Any]:
    head = {
        "name": dataset.name,
        "split_by": dataset.split_by,
        "notices": list(dataset.notices),
    }
    holds = {split: sorted(names) for split, names in dataset.holds.items()}
    return head | ({"holds": holds} if holds else {})


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _check_digests(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    for name in FILES:
        path = folder / f"{name}.jsonl"
        if not path.is_file() or fingerprint(path).sha256 != files[name]["sha256"]:
            raise DataError(f"{show(str(path), 300)}: missing or changed since it was converted")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = parse_line(line, f"{show(str(path), 300)} line {number}")
            if not isinstance(row, dict):
                raise DataError(f"{show(str(path), 300)} line {number}: not an object")
            rows.append(row)
    return rows


def _dataset(
    folder: Path,
    head: dict[str, Any],
    tables: dict[str, list[dict[str, Any]]],
    sources: dict[str, Fingerprint],
) -> Dataset:
    name, split_by = head["name"], head["split_by"]
    own = {table: [row for row in rows if row["dataset"] == name] for table, rows in tables.items()}
    images = tuple(ImageEntry(**row) for row in own["images"])
    for entry in images:
        check_name(entry.file_name, f"{show(str(folder), 300)}: image {entry.image_id}")
    sentences = (Sentence(**row) for row in own["sentences"])
    return Dataset(
        kind="tables",
        name=name,
        split_by=split_by,
        root=folder,
        images=tuple(sorted(images, key=lambda entry: entry.image_id)),
        sentences=tuple(sorted((s for s in sentences if s.split_by == split_by), key=order_of)),
        annotations={row["ann_id"]: _annotation(row) for row in own["masks"]},
        notices=tuple(head["notices"]),
        files=sources,
        holds={split: frozenset(names) for split, names in head.get("holds", {}).items()},
    )


def _annotation(row: dict[str, Any]) -> Annotation:
    height, width = row["height"], row["width"]
    mask, ignored = (
        {"size": [height, width], "counts": row[key]} if key in row else None
        for key in ("rle", "ignore")
    )
    ids = row["dataset"], row["ann_id"], row["image_id"]
    box = tuple(map(float, row["box"])) if "box" in row else None
    if box is not None and len(box) != 4:
        raise TypeError("box")
    return Annotation(*ids, height, width, mask, ignore=ignored, box=box)


_JSONL_SPLIT = {"testA": "test", "testB": "test"}


def export_jsonl(source: Source, out: Path) -> int:
    """Write the source's expressions to `out`, whole or not at all; returns the number of lines.

    DataError if `out` is a folder, a device, or a file that the source was read from, or if the source
    has ignored regions or mere boxes, which a JSONL file cannot say.
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
                if source.box(row) is not None:
                    raise DataError(
                        f"{row.dataset} sentence {row.sent_id}: has a box and no mask: use the data set "
                        "as it is, or convert it (svp data convert)"
                    )
                if source.ignored(row) is not None:
                    raise DataError(
                        f"{row.dataset} sentence {row.sent_id}: has a region that counts neither for "
                        "nor against a prediction, which JSONL cannot say: use the data set as it is, "
                        "or convert it (svp data convert)"
                    )
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
