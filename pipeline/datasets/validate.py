"""`svp data check`: report all problems of a data set at once.

Six groups: counts, images, masks, text, leaks, sources. The rules are those of the commands that use
the data: an image that cannot be read is quarantined, a bad record is left out, both named and
counted; only what would stop a run makes the source unusable. What deserves a look is a notice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack

from ..display import counted, quote, show
from ..errors import DataError, ImageError, MissingError, SvpError
from ..masks.rle import area, overlap, union
from ..records import ImageRecord
from .coordinates import survey, systematic
from .detect import load
from .expressions import expression_problem
from .image_roots import image_root
from .images import mislabelled, read_image
from .leakage import overlaps
from .options import Given, Options
from .photo_files import Photo, known_size, photo_file
from .photo_headers import QUARANTINE, Photos, look_at
from .problems import Faults
from .published_counts import compare, count
from .stored_photos import root_name
from .tables import Annotation, Dataset, Sentence, assemble
from .validation_report import CheckReport, Group

_ARCHIVE = "https://web.archive.org/web"
_REFER = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
MIRRORS = {
    "refcoco": f"{_ARCHIVE}/20220413011718/{_REFER}/refcoco.zip",
    "refcoco+": f"{_ARCHIVE}/20220413011656/{_REFER}/refcoco+.zip",
    "refcocog": f"{_ARCHIVE}/20220413012904/{_REFER}/refcocog.zip",
    "images": "images.cocodataset.org/zips/train2014.zip",
}
"""Where the files can be had (GLaMM docs/datasets.md, LISA README); no licence is implied."""


def check(
    where: Path | str,
    *,
    decode: bool = True,
    on_image: Callable[[int, int], None] = lambda done, total: None,
    **given: Unpack[Given],
) -> CheckReport:
    """Examine a source. Never raises for what is in the data: that becomes an error of the report.

    Keywords as `open_dataset`. `max_failures` bad records and images leave it usable; None: what a
    run accepts, any number of images but not all, and up to half of a file's records. `decode`
    False reads only the headers of the images. `on_image(done, total)` reports progress.
    """
    report = CheckReport(show(str(where), 300), allowed=given.get("max_failures"))
    options = replace(
        Options(**given), allow_counts=True, annotations=True, max_failures=1 << 62
    )  # all bad records are listed
    try:
        datasets = load(where, options)
    except SvpError as error:
        _note_failure(error, report)
        return report
    for dataset in datasets:
        _take_faults(dataset.faults, report)
        report.notices += [n for n in dataset.notices if not n.startswith(QUARANTINE)]
    _check_counts(datasets, given.get("allow_counts", False), report)
    _check_images(datasets, options.images, decode, on_image, report)
    _check_masks(datasets, report)
    _check_text(datasets, report)
    report.groups["leaks"] = {
        f"{o.train} train / {o.evaluation}": {"images": o.images, "refs": o.refs}
        for o in overlaps(datasets)
    }
    report.groups["sources"] = {
        name: asdict(file) for d in datasets for name, file in d.files.items()
    }
    return report


def _note_failure(error: SvpError, report: CheckReport) -> None:
    problems = error.problems if isinstance(error, DataError) and error.problems else (str(error),)
    for problem in problems:
        report.error(problem)
    if isinstance(error, MissingError):
        report.groups["sources"] = {"mirrors": MIRRORS}


def _take_faults(faults: Faults, report: CheckReport) -> None:
    for line in faults.lines:
        report.leave_out(line)
    report.counts["left out"] += faults.found - len(faults.lines)
    if faults.refused and report.allowed is None:
        report.error(faults.refused)


def _check_counts(datasets: Sequence[Dataset], allowed: bool, report: CheckReport) -> None:
    group: Group = {}
    for dataset in datasets:
        for split, found in count(dataset).items():
            group[f"{dataset.title} {split}"] = {
                "images": found.images,
                "refs": found.refs,
                "sentences": found.sentences,
            }
        if not dataset.sentences:
            group[dataset.title] = {"images": len(dataset.images)}
        errors, _ = compare(dataset)
        for line in [] if allowed else errors:
            report.error(f"{line} (--allow-counts accepts an intended subset)")
    report.groups["counts"] = group


def _check_images(
    datasets: Sequence[Dataset],
    images: Path | None,
    decode: bool,
    on_image: Callable[[int, int], None],
    report: CheckReport,
) -> None:
    try:
        records = assemble(datasets, None).images
        found = image_root(datasets, images, [record.path for record in records])
        records = found.rename(records)
    except SvpError as error:
        report.error(error)
        report.groups["images"] = {"found": 0, "mirror": MIRRORS["images"]}
        return
    photos = look_at(found.root, records, found.listed)
    wrong_names = 0
    for done, record in enumerate(records, 1):
        if record.path not in photos.bad:
            size = known_size(record.path, found.listed.get(record.path))
            photo = photo_file(found.root, record.path, "image", size)
            if decode:
                _decode(photo, record, photos)
            wrong_names += mislabelled(photo) is not None
        on_image(done, len(records))
    for record in records:
        if record.path in photos.bad:
            report.quarantine(f"image {record.image_id}: {photos.bad[record.path][1]}")
    reasons = Counter(reason for reason, _ in photos.bad.values())
    if records and len(photos.bad) == photos.seen:
        report.error(f"not one of {counted(photos.seen, 'photograph')} can be read")
    if datasets[0].kind not in ("folder", "jsonl"):  # these have told it
        report.notices += [n for n in photos.notices() if not n.startswith(QUARANTINE)]
    report.groups["images"] = {
        "layout": found.layout + (" under COCO's other names" if found.renamed else ""),
        "root": show(root_name(found.root), 300),
        "good": len(records) - sum(reasons.values()),
        **dict(sorted(reasons.items())),
        "mislabelled (read by content)": wrong_names,
    }


def _decode(photo: Photo, record: ImageRecord, photos: Photos) -> None:
    try:
        read_image(photo, record)
    except ImageError as error:
        photos.bad[record.path] = error.reason, str(error)


def _check_masks(datasets: Sequence[Dataset], report: CheckReport) -> None:
    kinds: Counter[str] = Counter()
    areas: list[int] = []
    for dataset in datasets:
        objects = [item for item in dataset.annotations.values() if item.readable]
        placement, wrong = survey(
            (item.segmentation, item.height, item.width, item.where) for item in objects
        )
        if systematic(len(wrong), len(objects)) and len(wrong) > (report.allowed or 0):
            report.error(
                f"{dataset.title}: {len(wrong):,} of {counted(len(objects), 'object', 'have')} "
                "coordinates that do not fit their images"
            )
        if dataset.kind != "jsonl":  # its reader has reported it
            report.notices += placement.notices()
        refused = kinds["refused"]
        for item in objects:
            _check_mask(item, kinds, areas, report)
        refused = kinds["refused"] - refused
        if not wrong and 2 * refused > len(objects) and report.allowed is None:
            report.error(
                f"{dataset.title}: {refused:,} of {counted(len(objects), 'mask', 'are')} bad: more "
                "than half"
            )
    report.groups["masks"] = {
        "objects": len(areas) + kinds["refused"],
        "polygons": kinds["polygons"],
        "RLE": kinds["rle"],
        "several parts": kinds["parts"],
        "overlapping parts (summing would give 2)": kinds["overlap"],
        "empty": kinds["empty"],
        **({"with an ignored region": kinds["ignore"]} if kinds["ignore"] else {}),
        "refused": kinds["refused"],
        "area quartiles (pixels)": _quartiles(areas),
    }


def _check_mask(
    item: Annotation, kinds: Counter[str], areas: list[int], report: CheckReport
) -> None:
    try:
        made = item.parts()
        kinds["ignore"] += item.ignored() is not None
    except DataError as error:
        kinds["refused"] += 1
        report.leave_out(error)
        return
    merged = union(made, item.height, item.width)
    pixels = area(merged)
    if made:
        kinds["polygons" if _is_polygons(item.segmentation) else "rle"] += 1
    kinds["parts"] += len(made) > 1
    kinds["overlap"] += overlap(made, merged) > 0
    kinds["empty"] += pixels == 0
    areas.append(pixels)


def _is_polygons(segmentation: object) -> bool:
    return isinstance(segmentation, list) and all(isinstance(p, list) for p in segmentation)


def _quartiles(areas: list[int]) -> list[int]:
    ordered = sorted(areas)
    return [ordered[(len(ordered) - 1) * i // 4] for i in range(5)] if ordered else []


LONG = 800  # bytes, each at most one id: 961 ids fit beside 576 visual tokens, wording included


def _check_text(datasets: Sequence[Dataset], report: CheckReport) -> None:
    rows = [row for dataset in datasets for row in dataset.sentences]
    bad = 0
    for row in rows:
        if problem := expression_problem(row.sent):
            bad += 1
            report.leave_out(f"{row.dataset} sentence {row.sent_id}: {quote(row.sent)} {problem}")
    report.groups["text"] = {
        "expressions": len(rows),
        "refused": bad,
        "same text twice in an image": _duplicates(rows),
    }
    long = [row for row in rows if len(row.sent.encode("utf-8", "surrogatepass")) > LONG]
    if long:
        report.notices.append(
            f"{counted(len(long), 'expression', 'have')} more than {LONG} bytes of UTF-8, the "
            "first is "
            f"{long[0].dataset} sentence {long[0].sent_id}: a tokenizer that writes their script "
            "byte by byte may make too many ids of them; `svp train --dry-run` and `svp eval` "
            "measure them and leave out, by name, what does not fit beside the visual tokens"
        )


def _duplicates(rows: Iterable[Sentence]) -> int:
    seen = Counter((row.dataset, row.image_id, row.sent) for row in rows)
    return sum(times - 1 for times in seen.values())
