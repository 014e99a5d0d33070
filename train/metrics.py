"""gIoU, cIoU, P@k, N-acc and T-acc from per-sentence counts, with bootstrap intervals.

Nothing but the intersection, the union and the target's area of each sentence is needed, and whether
the answer was that there is no target, so every figure can be made again from a result file. Every
metric is a ratio of two sums over sentences: that is what makes one matrix product per bootstrap
draw enough.

Published programs differ in what they do with empty unions, with small epsilons and with "no target";
`CONVENTIONS` holds each of them, so that a figure can be compared with the program it came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
NAMES = ("gIoU", "cIoU", *(f"P@{t}" for t in THRESHOLDS))
DRAWS = 1000

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels of S sentences, (S,) int64 each.

    intersection  predicted and in the target
    union         predicted or in the target
    target        in the target
    rejected      (S,) bool, the answer is that there is no target, whatever its mask; None: nobody
                  was asked, and an empty mask is that answer
    """

    intersection: Ints
    union: Ints
    target: Ints
    rejected: Bools | None = None

    def __post_init__(self) -> None:
        i, u, t = self.intersection, self.union, self.target
        if not i.shape == u.shape == t.shape or i.ndim != 1:
            raise ValueError(f"counts of shapes {i.shape}, {u.shape}, {t.shape}: need (S,) each")
        if self.rejected is not None and self.rejected.shape != i.shape:
            raise ValueError(f"rejections of shape {self.rejected.shape}: need {i.shape}")
        if ((i < 0) | (i > t) | (t > u)).any():
            raise ValueError("counts need 0 <= intersection <= target <= union")

    def __len__(self) -> int:
        return len(self.union)

    def take(self, chosen: Bools | Ints) -> "Counts":
        """The sentences `chosen`, a mask or indices."""
        rejected = None if self.rejected is None else self.rejected[chosen]
        return Counts(self.intersection[chosen], self.union[chosen], self.target[chosen], rejected)

    @property
    def refused(self) -> Bools:
        """(S,) whether a sentence was answered with "no target"."""
        if self.rejected is not None:
            return self.rejected
        predicted = self.union - self.target + self.intersection
        return np.asarray(predicted == 0, np.bool_)

    def iou(self) -> Floats:
        """(S,) I/U; 1 where both prediction and target are empty."""
        empty = self.union == 0
        return np.where(empty, 1.0, self.intersection / np.where(empty, 1, self.union))


@dataclass(frozen=True, slots=True)
class Convention:
    """Conventions of one program for computing metrics from counts.

    source          where it was read
    both_empty      IoU where prediction and target are empty
    union_eps       added to each union, `count_eps` to the number of sentences
    sum_eps         added to the summed union of cIoU
    precision_over  P@k over all sentences, or over those whose target is not empty
    asks            "no target" is an answer of its own: without a target IoU is 1 if it was given, 0
                    otherwise, and N-acc and T-acc count it, not the mask
    false_alarm     a target answered with "no target": nothing of it is found ("missed"), or its mask
                    counts all the same ("mask")
    missed_union    an empty target that was not seen to be empty adds its mask to the union of cIoU
    """

    source: str
    both_empty: float = 1.0
    union_eps: float = 0.0
    count_eps: float = 0.0
    sum_eps: float = 0.0
    precision_over: Literal["all", "targets"] = "all"
    asks: bool = False
    false_alarm: Literal["missed", "mask"] = "mask"
    missed_union: bool = True


SVP = Convention("mean of I/U and sum I / sum U over sentences, in float64")
_GSVA = Convention(
    "GSVA solver.py eval_gres, utils/meter.py",
    union_eps=1e-8,
    count_eps=1e-5,
    sum_eps=1e-10,
    precision_over="targets",
    asks=True,
)
CONVENTIONS: Mapping[str, Convention] = {
    "svp": SVP,
    "glamm": Convention(
        "groundingLMM eval/referring_seg/infer_and_evaluate.py, LISA train_ds.py",
        union_eps=1e-5,
        count_eps=1e-5,
        sum_eps=1e-10,
    ),
    "gres": Convention(
        "ReLA gres_model/evaluation/refer_evaluation.py",
        precision_over="targets",
        asks=True,
        false_alarm="missed",
    ),
    "gsva": _GSVA,
    "gsva_others": replace(_GSVA, missed_union=False),
    "lavt": Convention("LAVT-RIS test.py (at 480x480 there)", both_empty=0.0),
}


def metrics(counts: Counts, convention: Convention = SVP) -> dict[str, float]:
    """`NAMES` -> fraction in 0..1; NaN where there is nothing to average."""
    return dict(zip(NAMES, _ratios(_sums(counts, convention).sum(0), convention), strict=True))


def empty_accuracy(counts: Counts) -> float:
    """N-acc: the share of sentences with an empty target whose prediction is empty; else NaN."""
    return target_accuracy(counts)[0]


def target_accuracy(counts: Counts, convention: Convention = SVP) -> tuple[float, float]:
    """(N-acc, T-acc): shares of empty targets, and of others, that were recognised as such.

    By the answer where the convention asks for one, else by whether the mask is empty. NaN where
    there are none.
    """
    nothing = counts.refused if convention.asks else replace(counts, rejected=None).refused
    empty = counts.target == 0
    return _mean(nothing[empty]), _mean(~nothing[~empty])


BOX_THRESHOLDS = tuple(k / 100 for k in range(50, 100, 5))


def box_metrics(iou: Floats, *, strict: bool = False) -> dict[str, float]:
    """Acc@0.5, Acc@0.75, Acc@0.9 and mAcc (mean over 0.5, 0.55 to 0.95) of IoUs (S,) of boxes.

    strict  an IoU equal to the threshold is no hit
    """
    hits = {t: _mean(iou > t if strict else iou >= t) for t in (*BOX_THRESHOLDS, 0.75, 0.9)}
    found = {f"Acc@{t}": hits[t] for t in (0.5, 0.75, 0.9)}
    return found | {"mAcc": float(np.mean([hits[t] for t in BOX_THRESHOLDS]))}


def _mean(values: Bools) -> float:
    return float(values.mean()) if values.size else float("nan")


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric with its percentile bootstrap interval."""

    value: float
    low: float
    high: float


def intervals(
    counts: Counts,
    groups: Ints | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Every metric with its bootstrap interval.

    groups  (S,) what is drawn together, e.g. image numbers: sentences of one image err together,
            so drawing images gives honest, wider intervals. None draws single sentences.
    seed    of the draws; equal arguments give equal bits
    """
    sums = _grouped(_sums(counts, SVP), groups)
    value = _ratios(sums.sum(0), SVP)
    drawn = np.stack([_ratios(total, SVP) for total in _resampled(sums, seed, draws)])
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0) if len(counts) else (value,) * 2
    return {
        name: Interval(float(v), float(a), float(b))
        for name, v, a, b in zip(NAMES, value, low, high, strict=True)
    }


def _sums(counts: Counts, convention: Convention) -> Floats:
    """(S, 5 + thresholds): one, IoU, I, U, whether P@k counts it, whether it hits each threshold.

    A metric is a ratio of the sums of two of these columns. All but IoU are integers below 2**53.
    """
    inter, union, void = counts.intersection, counts.union, counts.target == 0
    if convention.asks:
        if convention.false_alarm == "missed":
            inter = np.where(counts.refused, 0, inter)
        missed = void & ~counts.refused
        union = np.where(void & (counts.refused | (not convention.missed_union)), 0, union)
    empty = union == 0
    below = np.where(empty, 1.0, union + convention.union_eps)
    iou = np.where(empty, convention.both_empty, inter / below)
    if convention.asks:  # a mask of nothing is no answer
        iou = np.where(missed, 0.0, iou)
    counted = np.ones(len(counts), np.bool_)
    if convention.precision_over == "targets":
        counted = ~void
    hits = [counted & (iou >= threshold) for threshold in THRESHOLDS]
    columns = [np.ones(len(counts)), iou, inter, union, counted, *hits]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def _ratios(sums: Floats, convention: Convention) -> Floats:
    """Metrics in the order of `NAMES` from summed columns."""
    count, iou, inter, union, counted, *hits = sums
    over = np.array([count + convention.count_eps, union + convention.sum_eps])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate([np.array([iou, inter]) / over, np.array(hits) / counted])


def _grouped(sums: Floats, groups: Ints | None) -> Floats:
    if groups is None:
        return sums
    _, number = np.unique(groups, return_inverse=True)
    total = np.zeros((int(number.max(initial=-1)) + 1, sums.shape[1]))
    np.add.at(total, number, sums)
    return total


def _resampled(sums: Floats, seed: int, draws: int) -> list[Floats]:
    """Sums of `draws` samples of as many rows, drawn with replacement."""
    rng, n = np.random.default_rng(seed), len(sums)
    return [
        np.bincount(rng.integers(0, max(n, 1), n), minlength=n).astype(np.float64) @ sums
        for _ in range(draws)
    ]
