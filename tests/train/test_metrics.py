"""Metrics: published programs' numbers, hand-made cases, and what bootstrap intervals promise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from svp.train.metrics import (
    CONVENTIONS,
    NAMES,
    Counts,
    empty_accuracy,
    intervals,
    metrics,
    target_accuracy,
)

CASES = np.load(Path(__file__).parents[1] / "fixtures" / "glamm" / "cases.npz", allow_pickle=False)


def counts(*rows: tuple[int, int, int]) -> Counts:
    """Counts from (intersection, union, target) per sentence."""
    table = np.array(rows, np.int64).reshape(-1, 3)
    return Counts(table[:, 0], table[:, 1], table[:, 2])


def published(case: int) -> tuple[Counts, Any]:
    """Counts of a parity case and a function that reads its reference values."""
    rows = []
    for j in range(int(CASES[f"met{case:02}_n_images"])):
        predicted = CASES[f"met{case:02}_img{j}_logits"] > 0
        target = CASES[f"met{case:02}_img{j}_gt"] > 0
        for p, t in zip(predicted, target, strict=True):
            rows.append((int((p & t).sum()), int((p | t).sum()), int(t.sum())))
    return counts(*rows), lambda name: CASES[f"met{case:02}_{name}"]


@pytest.mark.parametrize("case", range(5))
def test_published_programs(case: int) -> None:
    found, reference = published(case)
    glamm = metrics(found, CONVENTIONS["glamm"])
    for name in ("glamm_giou_ciou", "lisa_giou_ciou"):
        np.testing.assert_allclose([glamm["gIoU"], glamm["cIoU"]], reference(name), rtol=1e-6)
    gres = metrics(found, CONVENTIONS["gres"])
    wanted = [gres[k] for k in ("gIoU", "cIoU", "P@0.7", "P@0.8", "P@0.9")]
    np.testing.assert_allclose(wanted, reference("gres_giou_ciou_pr7_pr8_pr9"), rtol=1e-12)
    lavt = metrics(found, CONVENTIONS["lavt"])
    names = ("gIoU", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "cIoU")
    np.testing.assert_allclose(
        [100 * lavt[k] for k in names],
        reference("lavt_miou_p5_p6_p7_p8_p9_oiou_percent"),
        atol=0.00501,
    )


@pytest.mark.parametrize("case", range(5))
def test_our_definition_is_near_the_papers(case: int) -> None:
    found, reference = published(case)
    ours = metrics(found)
    np.testing.assert_allclose(
        [ours["gIoU"], ours["cIoU"]], reference("glamm_giou_ciou"), atol=1e-5
    )


def test_by_hand() -> None:
    found = counts((10, 20, 15), (0, 5, 0), (0, 0, 0), (9, 10, 9))
    ours = metrics(found)
    assert ours["gIoU"] == pytest.approx((0.5 + 0 + 1 + 0.9) / 4)
    assert ours["cIoU"] == pytest.approx(19 / 35)
    assert ours["P@0.5"] == 0.75 and ours["P@0.9"] == 0.5
    assert empty_accuracy(found) == 0.5
    assert metrics(found, CONVENTIONS["lavt"])["gIoU"] == pytest.approx(1.4 / 4)
    assert metrics(found, CONVENTIONS["gres"])["P@0.9"] == 0.5  # of the two with a target


# (intersection, union, target), rejected: what a model can do right and wrong about "no target".
CASES_OF_NONE = [
    ((0, 0, 0), True),  # recognised, no mask
    ((0, 8, 0), True),  # recognised, a mask all the same
    ((0, 12, 0), False),  # missed: a mask where nothing is
    ((0, 0, 0), False),  # [SEG], but its mask is empty
    ((9, 10, 10), False),  # found, IoU 0.9
    ((6, 20, 10), True),  # false alarm: a target called none, IoU of its mask 0.3
]


def asked() -> Counts:
    found = counts(*(row for row, _ in CASES_OF_NONE))
    rejected = np.array([flag for _, flag in CASES_OF_NONE])
    return Counts(found.intersection, found.union, found.target, rejected)


def by_hand(inter: float, union: float, ious: list[float], count_eps: float = 0.0) -> list[float]:
    return [sum(ious) / (len(ious) + count_eps), inter / union]


def test_conventions_for_no_target_by_hand() -> None:
    """The same six sentences as ReLA, GSVA and LISA count them."""
    wanted = {
        # Missed: IoU 0, its mask in the union. False alarm: nothing of it found, its union stays.
        "gres": by_hand(9, 12 + 10 + 20, [1, 1, 0, 0, 0.9, 0]),
        # The mask of a false alarm counts as if it had been answered.
        "gsva": by_hand(15, 12 + 10 + 20, [1, 1, 0, 0, 0.9, 0.3], 1e-5),
        "gsva_others": by_hand(15, 10 + 20, [1, 1, 0, 0, 0.9, 0.3], 1e-5),
        # No answer but the mask: 1 where both are empty.
        "glamm": by_hand(15, 8 + 12 + 10 + 20, [1, 0, 0, 1, 0.9, 0.3], 1e-5),
    }
    for name, figures in wanted.items():
        found = metrics(asked(), CONVENTIONS[name])
        assert [found["gIoU"], found["cIoU"]] == pytest.approx(figures, rel=1e-6), name
    assert metrics(asked(), CONVENTIONS["gres"])["P@0.9"] == 0.5  # of the two with a target


def test_n_acc_and_t_acc_by_hand() -> None:
    for name in ("gres", "gsva", "gsva_others"):
        assert target_accuracy(asked(), CONVENTIONS[name]) == (2 / 4, 1 / 2)
    # LISA's programs look at the mask alone: two of four empty, both targets have one.
    assert target_accuracy(asked(), CONVENTIONS["glamm"]) == (2 / 4, 2 / 2)
    taken = asked().take(np.array([0, 1, 5]))
    assert target_accuracy(taken, CONVENTIONS["gres"]) == (1, 0)
    assert np.isnan(target_accuracy(counts((3, 4, 4)))[0])


def test_without_an_answer_an_empty_mask_is_one() -> None:
    found = counts((0, 0, 0), (0, 5, 0), (0, 7, 7), (3, 7, 7))
    assert target_accuracy(found, CONVENTIONS["gres"]) == (0.5, 0.5)
    assert metrics(found, CONVENTIONS["gres"])["gIoU"] == pytest.approx((1 + 0 + 0 + 3 / 7) / 4)
    with pytest.raises(ValueError, match="rejections of shape"):
        Counts(found.intersection, found.union, found.target, np.zeros(3, np.bool_))


def test_large_sums_stay_exact() -> None:
    side = 8192 * 8192
    found = counts(*[(side - 1, side, side - 1)] * 200)
    assert metrics(found)["cIoU"] == (side - 1) / side


def test_nothing_to_average() -> None:
    assert all(np.isnan(value) for value in metrics(counts()).values())
    assert all(np.isnan(value.low) for value in intervals(counts(), draws=3).values())


@pytest.mark.parametrize("row", [(5, 4, 4), (3, 9, 2), (-1, 4, 2), (1, 2, 3)])
def test_impossible_counts_are_refused(row: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="counts"):
        counts(row)


tables = arrays(np.int64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(0, 500))


@settings(max_examples=50, deadline=None)
@given(table=tables, seed=st.integers(0, 99))
def test_interval_invariants(table: np.ndarray[Any, Any], seed: int) -> None:
    inter, target, union = np.sort(table, axis=1).T
    found = Counts(inter, union + 1, target)
    first, again = (intervals(found, seed=seed, draws=40) for _ in range(2))
    assert first == again
    for name in NAMES:
        assert 0 <= first[name].low <= first[name].high <= 1
        assert first[name].value == metrics(found)[name]


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Bernoulli IoUs with known mean: 95 % intervals of 200 experiments."""
    rng, inside = np.random.default_rng(7), 0
    for trial in range(200):
        hit = rng.random(100) < 0.6
        found = counts(*[(10 if h else 0, 10, 10) for h in hit])
        interval = intervals(found, seed=trial, draws=200)["gIoU"]
        inside += interval.low <= 0.6 <= interval.high
    assert 180 <= inside <= 199


def test_drawing_images_widens_the_interval() -> None:
    """Ten sentences that err together carry the information of one."""
    rng = np.random.default_rng(3)
    hit = np.repeat(rng.random(40) < 0.5, 10)
    found = counts(*[(10 if h else 0, 10, 10) for h in hit])
    alone = intervals(found, draws=400)["gIoU"]
    together = intervals(found, np.repeat(np.arange(40), 10), draws=400)["gIoU"]
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(10**0.5, rel=0.25)
