"""`svp compare`: two evaluated models side by side, on the sentences that both were asked."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...pipeline.browse.page_kit import check_replaceable
from ...pipeline.display import Report, counted, quote, shorten, show
from ...pipeline.errors import MissingError
from ..evaluation.page.comparison import Pair as ShownPair
from ..evaluation.page.comparison import write_page
from ..evaluation.page.learning_curves import read_records
from ..evaluation.page.shown_data import data_behind
from ..evaluation.results import Results, Row, read_results
from ..evaluation.significance import difference, sums_of
from ..metrics import Interval
from ..recipe import METRICS as METRICS_FILE
from ..trainer.run_status import newest_run_with

METRICS = ("gIoU", "cIoU")
CLEAR = 0.1  # of IoU: sentences that one model answers clearly better than the other
SHOWN = 5
Pair = tuple[float, float]  # of the first and the second model


class Apart(NamedTuple):
    """A sentence and its IoU by each model."""

    path: str
    text: str
    iou: Pair


@dataclass(frozen=True)
class SplitComparison:
    """Two result files of one split.

    values       metric -> both models, fractions
    differences  metric -> first minus second, with its 95 % interval: a bootstrap that draws images,
                 the same for both
    tokens       visual tokens of an image, mean
    asked        budget, decoder and projector options, where an answer was not made by the usual ones
    clear        sentences whose IoU is at least `CLEAR` higher by the first, and by the second
    apart        the sentences that differ most, for the first and for the second
    """

    name: str
    sentences: int
    images: int
    values: dict[str, Pair]
    differences: dict[str, Interval]
    tokens: Pair
    asked: tuple[str, str]
    clear: tuple[int, int]
    apart: tuple[list[Apart], list[Apart]]


@dataclass(frozen=True)
class CompareReport(Report):
    """Report of `svp compare`."""

    first: str
    second: str
    splits: list[SplitComparison]
    page: str | None = None

    def lines(self) -> list[str]:
        lines = [f"first: {show(self.first, 300)}", f"second: {show(self.second, 300)}"]
        for split in self.splits:
            asked = f"{counted(split.sentences, 'sentence')}, {counted(split.images, 'image')}"
            lines += [f"{show(split.name)}: {asked}", "            first   second  difference"]
            for metric, (one, two) in split.values.items():
                found = split.differences[metric]
                interval = f"95 % {100 * found.low:+.2f} to {100 * found.high:+.2f}"
                lines.append(
                    f"  {metric:8}{100 * one:7.2f}  {100 * two:7.2f}  {100 * found.value:+.2f}  {interval}"
                )
            lines.append("  {:8}{:7.1f}  {:7.1f}".format("tokens", *split.tokens))
            if any(split.asked):
                lines.append(
                    "  asked    {}; {}".format(*(text or "as usual" for text in split.asked))
                )
            one_better, two_better = split.clear
            lines.append(
                f"  IoU at least {CLEAR} higher: {counted(one_better, 'sentence')} by the first, "
                f"{two_better:,} by the second"
            )
            for who, rows in zip(("first", "second"), split.apart, strict=True):
                lines += [
                    f"  {who}: {show(row.path)} {quote(row.text)}: {row.iou[0]:.2f}, {row.iou[1]:.2f}"
                    for row in rows
                ]
        return [*lines, f"page: {Path(self.page).resolve().as_uri()}"] if self.page else lines

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def compare_command(
    first: Path,
    second: Path,
    split: str | None = None,
    page: Path | None = None,
    images: Path | None = None,
) -> CompareReport:
    """Compare two runs, or two result files, of `svp eval`.

    first, second  run folder, a folder of runs (the newest one that was evaluated), or a result file
    split          only results of this split; None: all that both have
    page           folder of a page with both answers of the expressions that differ most
    images         photographs of the page, a folder or address; None: as the runs recorded them

    Raises MissingError (no results of the same split and protocol), DataError (a damaged file),
    PlanMismatchError (other sentences), ConfigError (`page` holds other files).
    """
    if page is not None:
        check_replaceable(page)
    first, second = _run(first), _run(second)
    ours, theirs = _files(first, split), _files(second, split)
    if first.is_file() and second.is_file():
        pairs = {first.stem: (first, second)}
    else:
        pairs = {name: (ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys())}
    if not pairs:
        each = "; ".join(
            f"{show(str(path), 300)}: {', '.join(map(show, found))}"
            for path, found in ((first, ours), (second, theirs))
        )
        raise MissingError(
            f"no result file of the same split and protocol ({each}): evaluate both with `svp eval "
            "--checkpoint RUN --split NAME`, or name two files"
        )
    splits, shown = [], []
    for name, paths in pairs.items():
        read = read_results(paths[0]), read_results(paths[1])
        found = _compared(name, *read)
        splits.append(found)
        if page is not None:
            data = data_behind(paths[0], read[0].header.splits[0].split, images)
            shown.append(
                ShownPair(
                    name, *read, found.values, found.differences, found.tokens, found.asked, data
                )
            )
    if page is not None:
        names = _names(first, second)
        records = {
            name: read_records(path)
            for name, path in zip(names, (first, second), strict=True)
            if (path / METRICS_FILE).is_file()
        }
        page = write_page(names, shown, page, records)
    return CompareReport(str(first), str(second), splits, None if page is None else str(page))


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Short names of both that differ: as much of the ends of their paths as that takes."""
    one, two = (path.absolute().parts for path in (first, second))
    most = max(len(one), len(two))
    for count in range(1, most + 1):
        names = (shorten("/".join(one[-count:]), 80), shorten("/".join(two[-count:]), 80))
        if names[0] != names[1]:
            return names
    return f"{names[0]} (first)", f"{names[1]} (second)"


def _run(path: Path) -> Path:
    """The run that `path` is, or the newest one in it; a file as it is."""
    if path.is_file() or any((path / name).exists() for name in ("eval", METRICS_FILE)):
        return path
    return newest_run_with(path, "eval") or path


def _files(path: Path, split: str | None) -> dict[str, Path]:
    """Result files by name, such as val-full-1. Raises MissingError."""
    if path.is_file():
        return {path.stem: path}
    found = {file.stem: file for file in (path / "eval").glob("*.jsonl")}
    found = {name: file for name, file in found.items() if split in (None, name.split("-")[0])}
    if not found:
        of = f" of split {show(split)}" if split else ""
        raise MissingError(
            f"{show(str(path), 300)}: no results{of}: evaluate it with `svp eval --checkpoint RUN`"
        )
    return dict(sorted(found.items()))


def _compared(name: str, ours: Results, theirs: Results) -> SplitComparison:
    values, differences = {}, {}
    for metric in METRICS:
        one, two = sums_of([ours], metric), sums_of([theirs], metric)
        differences[metric] = difference([one], [two])
        values[metric] = (one.value, two.value)
    gap = ours.counts.iou() - theirs.counts.iou()
    order = np.argsort(gap, kind="stable")
    rows = list(zip(ours.rows, theirs.rows, strict=True))
    return SplitComparison(
        name, len(gap), len(set(ours.images.tolist())), values, differences,
        (_tokens(ours), _tokens(theirs)),
        (_asked(ours), _asked(theirs)),
        (int((gap >= CLEAR).sum()), int((gap <= -CLEAR).sum())),
        (
            [_apart(*rows[k]) for k in order[::-1][:SHOWN] if gap[k] >= CLEAR],
            [_apart(*rows[k]) for k in order[:SHOWN] if gap[k] <= -CLEAR],
        ),
    )  # fmt: skip


def _asked(results: Results) -> str:
    """Changes of the answers that the file's digests name."""
    named = ("budget", "decoder", "projector options")
    found = results.header.digests
    return ", ".join(f"{name} {show(found[name])}" for name in named if name in found)


def _tokens(results: Results) -> float:
    """Mean over images."""
    return float(np.mean(list({row.image_id: row.tokens for row in results.rows}.values())))


def _apart(one: Row, two: Row) -> Apart:
    return Apart(one.path, one.text, (one.iou, two.iou))
