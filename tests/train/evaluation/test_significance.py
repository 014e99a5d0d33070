"""Differences of rows: paired by image, seeds drawn too, refused where the sentences differ."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from svp.pipeline.errors import PlanMismatchError
from svp.train.evaluation.significance import agreement, difference, sums_of, verdict
from svp.train.metrics import Counts, Interval


@dataclass
class Said:
    image_id: int
    ref_id: int
    sent_id: int


class Fake:
    """Results with given IoUs of images with four sentences each."""

    def __init__(self, iou: np.ndarray[Any, Any], first: int = 0) -> None:
        inter = np.round(1000 * iou).astype(np.int64)
        self.counts = Counts(inter, np.full(len(iou), 1000), np.full(len(iou), 1000))
        self.rows = [Said(k // 4, k, first + k) for k in range(len(iou))]
        self.images = np.array([row.image_id for row in self.rows])


def fakes(level: float, seeds: int, spread: float, draw: int) -> list[Any]:
    rng = np.random.default_rng(draw)
    image = np.repeat(np.random.default_rng(0).uniform(-0.2, 0.2, 60), 4)
    return [
        Fake(np.clip(level + image + rng.normal(0, spread) + rng.normal(0, 0.02, 240), 0, 1))
        for _ in range(seeds)
    ]


def test_images_cancel_and_seeds_do_not() -> None:
    """Images vary by 0.2, rows by 0.03: sure if seeds agree, unsure if they wander by 0.05."""
    calm = difference(
        [sums_of(fakes(0.53, 3, 0, 1), "gIoU")], [sums_of(fakes(0.5, 3, 0, 2), "gIoU")]
    )
    assert calm.value == pytest.approx(0.03, abs=0.005) and verdict(calm) == "holds"
    assert calm.high - calm.low < 0.02
    wild = [[sums_of(fakes(level, 3, 0.05, k), "gIoU")] for k, level in ((1, 0.53), (2, 0.5))]
    found = difference(*wild)
    assert found.low < 0 < found.high
    back = difference(wild[1], wild[0])
    assert back.value == pytest.approx(-found.value)


@pytest.mark.parametrize("metric", ["gIoU", "cIoU"])
def test_one_seed_is_scipys_paired_bootstrap(metric: str) -> None:
    """Images are drawn with replacement, the same for both rows: scipy's interval, to sampling."""
    from scipy.stats import bootstrap

    a, b = (sums_of(fakes(level, 1, 0.0, k), metric) for k, level in ((1, 0.53), (2, 0.5)))
    b.below[0, ::3] *= 2  # unequal denominators, so that a ratio of sums is not a mean of ratios
    columns = [a.above[0], a.below[0], b.above[0], b.below[0]]

    def statistic(p: Any, q: Any, r: Any, s: Any, axis: int) -> Any:
        return p.sum(axis) / q.sum(axis) - r.sum(axis) / s.sum(axis)

    theirs = bootstrap(
        columns, statistic, paired=True, n_resamples=8000, method="percentile", rng=0
    ).confidence_interval
    ours = difference([a], [b], draws=8000)
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_value_is_the_metric() -> None:
    """gIoU is a mean of ratios, cIoU a ratio of sums; both of every seed, then averaged."""
    a, b = fakes(0.6, 2, 0.05, 3), fakes(0.4, 2, 0.05, 4)
    wanted = np.mean([one.counts.iou().mean() for one in a]) - np.mean(
        [one.counts.iou().mean() for one in b]
    )
    found = difference([sums_of(a, "gIoU")], [sums_of(b, "gIoU")])
    assert found.value == pytest.approx(wanted)
    total = difference([sums_of(a, "cIoU")], [sums_of(b, "cIoU")])
    assert total.value == pytest.approx(wanted, abs=1e-3)  # all unions are equal here


def test_other_sentences_are_refused() -> None:
    one, other = fakes(0.5, 1, 0, 1)[0], Fake(np.full(240, 0.5), first=7)
    with pytest.raises(PlanMismatchError, match="other sentences"):
        sums_of([one, other], "gIoU")  # type: ignore[list-item]
    with pytest.raises(PlanMismatchError, match="other sentences"):
        difference([sums_of([one], "gIoU")], [sums_of([other], "gIoU")])  # type: ignore[list-item]


def test_verdicts_and_agreement() -> None:
    found = [verdict(Interval(v, a, b)) for v, a, b in
             ((1, 0.5, 2), (1, -1, 2), (-1, -2, 1), (-1, -2, -0.5))]  # fmt: skip
    assert found == ["holds", "leans", "leans against", "reversed"]
    ours = {"a": 3.0, "b": 2.0, "c": 2.5, "not in the paper": 9.0}
    assert agreement(ours, {"a": 30.0, "b": 20.0, "c": 10.0, "not run": 1.0}) == (2, 3)
    assert agreement(ours, {"a": 1.0, "b": 1.0}) == (0, 0)
