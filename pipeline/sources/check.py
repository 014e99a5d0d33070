"""`svp data check`: everything that is wrong with a source, in one report, before hours of work.

Six groups (data spec 14): counts, images, masks, text, leaks, sources. A report is usable when
nothing found would stop a run or be lost in it; what only deserves a look is a notice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError, ImageError, MissingError, SvpError
from ..images import image_size, mislabelled, read_record
from ..masks.rle import area, overlap, parts, union
from ..paths import safe_join
from ..records import ImageRecord, Rle
from ..text import escape, quote, show
from .counts import compare, count
from .detect import Options, load
from .layouts import image_root
from .leaks import overlaps
from .problems import LIMIT
from .tables import Annotation, Dataset, Sentence, assemble
from .wording import expression_problem

_ARCHIVE = "https://web.archive.org/web"
_REFER = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
MIRRORS = {
    "refcoco": f"{_ARCHIVE}/20220413011718/{_REFER}/refcoco.zip",
    "refcoco+": f"{_ARCHIVE}/20220413011656/{_REFER}/refcoco+.zip",
    "refcocog": f"{_ARCHIVE}/20220413012904/{_REFER}/refcocog.zip",
    "images": "images.cocodataset.org/zips/train2014.zip",
}
"""Where the files can be had (GLaMM docs/datasets.md, LISA README); no licence is implied."""

Group = dict[str, Any]


@dataclass
class CheckReport:
    """What `check` found. `errors` make it unusable (exit code 1); `notices` do not."""

    where: str
    groups: dict[str, Group] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    found: int = 0  # errors in all; the list stops at 100
    max_failures: int = 0  # errors that are accepted

    @property
    def usable(self) -> bool:
        """Whether a run can start on it as it is, or less as many records as are accepted."""
        return self.found <= self.max_failures

    @property
    def exit_code(self) -> int:
        """0 usable, 1 not."""
        return 0 if self.usable else 1

    def error(self, line: object) -> None:
        """Add an error."""
        self.found += 1
        if len(self.errors) < LIMIT:
            self.errors.append(str(line))

    def to_json(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {
            "path": self.where,
            "usable": self.usable,
            "problems": self.found,
            "errors": self.errors,
            "notices": self.notices,
            **self.groups,
        }

    def lines(self) -> list[str]:
        """The report as text: one line per figure, then errors and notices."""
        out = [f"{self.where}: {'usable' if self.usable else 'NOT usable'}"]
        for name, group in self.groups.items():
            out.append(f"{name}:")
            out += [f"  {key}: {_plain(value)}" for key, value in group.items()]
        if self.found:
            more = f", the first {LIMIT} shown" if self.found > LIMIT else ""
            out.append(f"errors ({self.found}{more}):")
            out += [f"  {line}" for line in self.errors]
        out += [f"note: {line}" for line in self.notices]
        return [escape(line) for line in out]


def check(
    where: Path | str,
    *,
    images: Path | None = None,
    root: Path | None = None,
    split: str | None = None,
    split_by: str | None = None,
    allow_google: bool = False,
    allow_counts: bool = False,
    allow_empty: bool = False,
    max_failures: int = 0,
    decode: bool = True,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Examine a source. Never raises for what is in the data: that becomes an error of the report.

    `max_failures` errors leave it usable: they are left out by every command. `decode` False reads only the headers of the images. `on_image(done, total)` reports progress.
    """
    report = CheckReport(show(str(where), 300), max_failures=max_failures)
    options = Options(
        root=root or Path("."),
        images=images,
        split=split,
        split_by=split_by,
        allow_google=allow_google,
        allow_counts=True,
        allow_empty=allow_empty,
        annotations=True,
        max_failures=1 << 62,  # all of them are listed
    )
    try:
        datasets = load(where, options)
    except SvpError as error:
        _note_failure(error, report)
        return report
    for faults in (dataset.faults for dataset in datasets):
        for line in faults.lines:
            report.error(line)
        report.found += faults.found - len(faults.lines)
    report.notices += [notice for dataset in datasets for notice in dataset.notices]
    _check_counts(datasets, allow_counts, report)
    _check_images(datasets, images, decode, on_image, report)
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
            report.error(f"{line} (--allow-counts accepts a subset made on purpose)")
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
    except SvpError as error:
        report.error(error)
        report.groups["images"] = {"found": 0, "mirror": MIRRORS["images"]}
        return
    reasons: Counter[str] = Counter()
    wrong_names = 0
    for done, record in enumerate(records, 1):
        try:
            _examine(found.root, record, decode)
        except DataError as error:
            reasons[error.reason if isinstance(error, ImageError) else "unsafe-path"] += 1
            report.error(f"image {record.image_id}: {error}")
        else:
            wrong_names += mislabelled(found.root / record.path) is not None
        on_image(done, len(records))
    report.groups["images"] = {
        "layout": found.layout,
        "root": show(str(found.root), 300),
        "good": len(records) - sum(reasons.values()),
        **dict(sorted(reasons.items())),
        "mislabelled (read by content)": wrong_names,
    }


def _examine(root: Path, record: ImageRecord, decode: bool) -> None:
    if decode:
        read_record(root, record)
        return
    found = image_size(safe_join(root, record.path, f"image {record.image_id}"))
    if record.height and found != (record.height, record.width):
        raise ImageError("wrong-size", f"{record.path}: {found}, not {record.height, record.width}")


def _check_masks(datasets: Sequence[Dataset], report: CheckReport) -> None:
    kinds: Counter[str] = Counter()
    areas: list[int] = []
    for item in (a for d in datasets for a in d.annotations.values() if a.height):
        try:
            made = parts(item.segmentation, item.height, item.width, item.where)
        except DataError as error:
            kinds["refused"] += 1
            report.error(error)
            continue
        areas.append(_note_mask(item, made, kinds))
    report.groups["masks"] = {
        "objects": len(areas) + kinds["refused"],
        "RLE": kinds["rle"],
        "several parts": kinds["parts"],
        "overlapping parts (summing would give 2)": kinds["overlap"],
        "empty": kinds["empty"],
        "refused": kinds["refused"],
        "area quartiles (pixels)": _quartiles(areas),
    }


def _note_mask(item: Annotation, made: list[Rle], kinds: Counter[str]) -> int:
    merged = union(made, item.height, item.width)
    pixels = area(merged)
    kinds["rle"] += bool(made) and not _is_polygons(item.segmentation)
    kinds["parts"] += len(made) > 1
    kinds["overlap"] += overlap(made, merged) > 0
    kinds["empty"] += pixels == 0
    return pixels


def _is_polygons(segmentation: object) -> bool:
    return isinstance(segmentation, list) and all(isinstance(p, list) for p in segmentation)


def _quartiles(areas: list[int]) -> list[int]:
    ordered = sorted(areas)
    return [ordered[(len(ordered) - 1) * i // 4] for i in range(5)] if ordered else []


def _check_text(datasets: Sequence[Dataset], report: CheckReport) -> None:
    rows = [row for dataset in datasets for row in dataset.sentences]
    bad = 0
    for row in rows:
        if problem := expression_problem(row.sent):
            bad += 1
            report.error(f"{row.dataset} sentence {row.sent_id}: {quote(row.sent)} {problem}")
    report.groups["text"] = {
        "expressions": len(rows),
        "refused": bad,
        "same text twice in an image": _duplicates(rows),
    }


def _duplicates(rows: Iterable[Sentence]) -> int:
    seen = Counter((row.dataset, row.image_id, row.sent) for row in rows)
    return sum(times - 1 for times in seen.values())


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
