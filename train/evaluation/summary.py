"""Summary of a result file: metrics with intervals per split, bounds, published numbers.

Everything here is a function of a `Results`: `svp eval` and `svp eval --from-results` print the
same. Intervals draw images, because sentences of one image err together.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...pipeline.display import Report, counted
from ..metrics import (
    CONVENTIONS,
    NAMES,
    Counts,
    Interval,
    empty_accuracy,
    intervals,
    metrics,
    target_accuracy,
)
from .boxes import box_figures
from .breakdown import Slice, breakdown
from .operating_point import operating_point
from .paper_numbers import Published, asked_alike, beside
from .results import Header, Results, Row, SplitSize

# Conventions for expressions without a target, in the order of the report.
NO_TARGET = {
    "gres": "ReLA (gRefCOCO)",
    "gsva": "GSVA on gRefCOCO",
    "gsva_others": "GSVA on other sets",
    "glamm": "LISA, GLaMM",
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation of a metric over the repeats, as a sample."""

    mean: float
    sd: float


@dataclass(frozen=True)
class SplitSummary:
    """One data set's split.

    values     metric -> value and 95 % interval: of the first repeat in protocol `full` (the
               recorded superpixel order), of all repeats in `glamm`
    spread     metric -> spread over repeats; empty with one repeat
    published  the paper's and GLaMM's numbers, if this is their split
    glamm      gIoU and cIoU as GLaMM's code computes them from the same masks
    tokens     visual tokens of an image: mean and 95 % quantile
    no_seg     share of sentences whose answer had no [SEG]
    n_acc      share of the empty targets whose mask is empty, NaN where there are none
    rejection  where the model says how likely it is that nothing is meant: how this tells expressions
               without a target apart, and where it may decide (`operating_point`)
    no_target  name of a convention for expressions without a target -> gIoU, cIoU, N-acc, T-acc as its
               program computes them; empty where every expression has a target
    boxes      `all`, `small`, `medium`, `large` -> Acc@0.5, Acc@0.75, Acc@0.9, mAcc of the box around
               the mask, where targets are known by their boxes alone; `values` then compare masks with
               filled boxes
    bounds     of sentences with a target: mean IoU of the best single superpixel, the best union,
               and a click; if known
    decoded    gIoU of SAM's decoder for the same answers, where masks are unions of superpixels and
               embeddings were at hand
    recall     share of a target within the superpixels that its question keeps, mean, if it keeps some
    """

    size: SplitSize
    values: dict[str, Interval]
    spread: dict[str, Spread]
    published: list[Published]
    glamm: tuple[float, float]
    tokens: tuple[float, float]
    no_seg: float
    n_acc: float
    rejection: dict[str, float]
    no_target: dict[str, dict[str, float]]
    boxes: dict[str, dict[str, float]]
    bounds: dict[str, float]
    slices: list[Slice]
    decoded: float | None = None
    recall: float | None = None


def summarise(results: Results) -> list[SplitSummary]:
    """One summary per split of the header, in its order."""
    return [_split(results, size) for size in results.header.splits]


def head_rows(results: Results, dataset: str) -> list[Row]:
    """The rows that the headline figures of a data set are made of (see `SplitSummary.values`)."""
    every = results.header.protocol == "glamm"
    return [r for r in results.rows if r.dataset == dataset and (every or r.repeat == 0)]


def _split(results: Results, size: SplitSize) -> SplitSummary:
    every = Results(results.header, [r for r in results.rows if r.dataset == size.dataset])
    head = Results(results.header, head_rows(results, size.dataset))
    glamm = metrics(head.counts, CONVENTIONS["glamm"])
    once = {row.image_id: row for row in head.rows}  # visual tokens are of an image, not a sentence
    tokens = [float(row.tokens) for row in once.values()]
    return SplitSummary(
        size=size,
        values=intervals(head.counts, head.images, seed=results.header.seed),
        spread=_spread(every),
        published=beside(size.dataset, size.split_by, size.split, size.images),
        glamm=(glamm["gIoU"], glamm["cIoU"]),
        tokens=(float(np.mean(tokens)), float(np.quantile(tokens, 0.95))),
        no_seg=float(np.mean([not row.has_seg for row in head.rows])),
        n_acc=empty_accuracy(head.counts),
        rejection=operating_point(head.rows),
        no_target=_no_target(head.counts),
        boxes=box_figures(head.rows),
        bounds=_bounds(head.rows),
        slices=breakdown(head),
        decoded=_mean([row.decoded for row in head.rows]),
        recall=_mean([row.recall for row in head.rows if row.target]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _no_target(counts: Counts) -> dict[str, dict[str, float]]:
    if not (counts.target == 0).any():
        return {}
    found: dict[str, dict[str, float]] = {}
    for name in NO_TARGET:
        values = metrics(counts, CONVENTIONS[name])
        n_acc, t_acc = target_accuracy(counts, CONVENTIONS[name])
        found[name] = {
            "gIoU": values["gIoU"], "cIoU": values["cIoU"], "N-acc": n_acc, "T-acc": t_acc
        }  # fmt: skip
    return found


def _repeat(results: Results, number: int) -> Results:
    return Results(results.header, [row for row in results.rows if row.repeat == number])


def _spread(results: Results) -> dict[str, Spread]:
    count = results.header.repeats
    if count < 2:
        return {}
    found = [metrics(_repeat(results, k).counts) for k in range(count)]
    table = {name: [values[name] for values in found] for name in NAMES}
    return {n: Spread(float(np.mean(v)), float(np.std(v, ddof=1))) for n, v in table.items()}


def _bounds(rows: Sequence[Row]) -> dict[str, float]:
    targets = [row for row in rows if row.target]  # of an empty one the empty union is the best
    known = [row.bounds for row in targets if row.bounds is not None]
    if not known or len(known) != len(targets):
        return {}
    means = {
        "best single superpixel": [bound.single for bound in known],
        "best union of superpixels": [bound.union for bound in known],
        "decoder with a click": [bound.point for bound in known if bound.point is not None],
    }
    return {name: float(np.mean(values)) for name, values in means.items() if values}


@dataclass(frozen=True)
class EvalReport(Report):
    """Report of `svp eval`. `notes` are lines for the user, `files` the result files written."""

    header: Header
    splits: list[SplitSummary]
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def lines(self) -> list[str]:
        """For people: fractions as percent."""
        head = self.header
        kind = f"protocol {head.protocol}" + (", generated" if head.generate else "")
        kind += ", masks are unions of superpixels" if head.digests.get("decoder") == "none" else ""
        kind += f", budget {head.digests['budget']}" if "budget" in head.digests else ""
        repeats = f", {counted(head.repeats, 'repeat')}" if head.repeats > 1 else ""
        lines = [f"{kind}{repeats}, seed {head.seed}, superpixel order {head.order}"]
        if "budget" in head.digests and any(split.bounds for split in self.splits):
            lines.append("bounds are of all superpixels, whatever the budget")
        if head.left_out:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in head.left_out.items())
            lines.append(f"left out: {counts}")
        if any(split.published for split in self.splits):
            lines.append(asked_alike(head.protocol))
        for split in self.splits:
            lines += ["", *_lines(split)]
        return [*lines, *([""] if self.notes else []), *self.notes]

    def to_json(self) -> dict[str, object]:
        """For programs; NaN becomes null."""
        splits = [
            _plain(asdict(split) | {"size": split.size.model_dump()}) for split in self.splits
        ]
        return {
            "header": self.header.model_dump(),
            "splits": splits,
            "notes": list(self.notes),
            "files": [str(path) for path in self.files],
        }


def joined(reports: Sequence[EvalReport]) -> EvalReport:
    """One report of several splits; a digest in which they differ is named after its split."""
    first = reports[0].header
    digests: dict[str, str] = {}
    for report in reports:
        names = ",".join(dict.fromkeys(size.split for size in report.header.splits))
        for name, value in report.header.digests.items():
            same = all(other.header.digests.get(name) == value for other in reports)
            digests[name if same else f"{names} {name}"] = value
    splits = [size for report in reports for size in report.header.splits]
    left_out: Counter[str] = Counter()
    for report in reports:
        left_out.update(report.header.left_out)
    return EvalReport(
        first.model_copy(update={"splits": splits, "digests": digests, "left_out": dict(left_out)}),
        [split for report in reports for split in report.splits],
        tuple(note for report in reports for note in report.notes),
        tuple(path for report in reports for path in report.files),
    )


def _lines(split: SplitSummary) -> list[str]:
    size, lines = split.size, []
    name = "/".join(part for part in (size.dataset, size.split_by) if part)
    lines.append(
        f"{name} {size.split or 'all'}: {counted(size.images, 'image')}, "
        f"{counted(size.sentences, 'sentence')}, "
        f"{split.tokens[0]:.1f} visual tokens per image (p95 {split.tokens[1]:.0f})"
    )
    for group, accuracies in split.boxes.items():
        texts = "  ".join(f"{key} {_percent(value)}" for key, value in accuracies.items())
        lines.append(f"  boxes, {group}: {texts}")
    if split.boxes:
        lines.append("  the figures below compare masks with filled boxes")
    for metric, value in split.values.items():
        line = f"  {metric:6} {_percent(value.value)}  95 % {_percent(value.low)} to {_percent(value.high)}"
        if metric in split.spread:
            line += f"  over repeats {_percent(split.spread[metric].mean)} sd {_percent(split.spread[metric].sd)}"
        lines.append(line)
    lines += [
        f"         {p.name} ({counted(p.tokens, 'token') if p.tokens else '? tokens'}) {p.metric} "
        f"{p.value:.1f}  {p.source}, protocol {p.protocol}"
        for p in split.published
    ]
    lines.append(
        f"  as in GLaMM's code: gIoU {_percent(split.glamm[0])}  cIoU {_percent(split.glamm[1])}"
    )
    if split.decoded is not None:
        lines.append(f"  gIoU   {_percent(split.decoded)}  with SAM's decoder, of the same answers")
    if split.recall is not None:
        lines.append(
            f"  recall {_percent(split.recall)}  of the targets within the superpixels kept"
        )
    if split.no_seg:
        lines.append(f"  no [SEG] in {split.no_seg:.2%} of the answers: counted as empty masks")
    if not math.isnan(split.n_acc):
        lines.append(f"  N-acc  {_percent(split.n_acc)} of the empty targets left empty")
    for name, values in split.no_target.items():
        figures = "  ".join(f"{key} {_percent(value)}" for key, value in values.items())
        lines.append(f"  as {NO_TARGET[name]}: {figures}")
    if point := split.rejection:
        lines.append(
            f"  chance that nothing is meant: area under the ROC curve {point['AUC']:.3f}; above {point['above']:.4f} "
            f"N-acc {_percent(point['N-acc'])}  T-acc {_percent(point['T-acc'])}"
        )
    lines += [f"  bound: {name} gIoU {_percent(value)}" for name, value in split.bounds.items()]
    lines += [
        f"  {part.group}, {part.name}: gIoU {_percent(part.values['gIoU'])}, "
        f"{counted(part.sentences, 'sentence')}"
        for part in split.slices
    ]
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:5.2f}"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
