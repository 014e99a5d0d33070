"""Area under curves over visual tokens, by hand; its intervals; the curves of a table."""

import numpy as np
import pytest

from svp.pipeline.errors import ConfigError, PlanMismatchError
from svp.train.evaluation.significance import Sums
from svp.train.reproduce.comparison.curve_area import Curve, area, area_of, gain
from svp.train.reproduce.comparison.curve_results import curve_results
from svp.train.reproduce.experiment import Experiment, Row
from svp.train.reproduce.paper_tables import experiment
from svp.train.reproduce.results import RowResult


def sums(giou: float, images: int = 200, seeds: int = 2, noise: float = 0.2, seed: int = 0) -> Sums:
    """Ten sentences per image with about this gIoU; the same images are hard in all."""
    hard = np.random.default_rng(7).normal(0, noise, images)
    own = np.random.default_rng(seed).normal(0, 0.02, (seeds, images))
    below = np.full((seeds, images), 10.0)
    return Sums(10 * np.clip(giou + hard + own, 0, 1), below, ((0, 0, 0),) * images)


@pytest.mark.parametrize(
    ("tokens", "values", "want"),
    [
        ((4.0, 64.0), (0.5, 0.5), 0.5),
        ((4.0, 64.0), (0.2, 0.6), 0.4),  # a straight line over log2
        ((2.0, 4.0, 64.0, 128.0), (0.9, 0.2, 0.6, 0.0), 0.4),  # what is outside counts nothing
        ((16.0,), (0.8,), (0.4 + 0.8) / 2 / 2 + 0.8 / 2),  # half of 0.8 at 4, all of it from 16 on
        ((16.0, 16.0), (0.7, 0.9), (0.4 + 0.8) / 2 / 2 + 0.8 / 2),
        ((1.0, 4.0, 64.0), (0.9, 0.5, 0.5), 0.5),
    ],
)
def test_the_area_is_that_of_straight_lines(
    tokens: tuple[float, ...], values: tuple[float, ...], want: float
) -> None:
    assert area(tokens, np.array(values)) == pytest.approx(want)
    assert area(tokens, np.array([values, values])) == pytest.approx([want, want])


def test_intervals_are_paired_over_images() -> None:
    """Images differ far more than the curves do; on the same images the difference is sure."""
    better = Curve.of("a", [(32.0, [sums(0.55, seed=1)]), (8.0, [sums(0.45, seed=2)])])
    worse = Curve.of("b", [(8.0, [sums(0.43, seed=3)]), (32.0, [sums(0.53, seed=4)])])
    assert better.tokens == (8.0, 32.0)
    alone, more = area_of(better), gain(better, worse)
    assert alone.low < alone.value < alone.high and alone.high - alone.low > 0.03
    assert more.value == pytest.approx(alone.value - area_of(worse).value)
    assert 0 < more.low < more.value < more.high < more.low + 0.02


def test_other_sentences_are_refused() -> None:
    one, other = (Curve.of("x", [(8.0, [sums(0.5, images=n)])]) for n in (20, 30))
    with pytest.raises(PlanMismatchError, match="x: results of other sentences"):
        gain(one, other)


def test_the_curves_of_a_table_are_of_the_rows_that_were_run() -> None:
    rows = (Row("SVP: all", curve="SVP"), Row("MQT: 4", curve="MQT"), Row("MQT: 8", curve="MQT"))
    table = Experiment("budget", "", (*rows, Row("M3: 1", curve="M3"), Row("other")))
    giou = {"SVP: all": 0.6, "MQT: 4": 0.3, "MQT: 8": 0.4}
    tokens = {"SVP: all": 15.0, "MQT: 4": 4.0, "MQT: 8": 8.0}
    found = {
        row.name: (
            RowResult(
                name=row.name, changes={}, tokens=tokens.get(row.name), tokens_p95=20.0,
                mean={"0": giou.get(row.name, 0.0)},
            ),
            [sums(giou[row.name])] if row.name in giou else [],
        )
        for row in table.rows
    }  # fmt: skip
    ours, mqt = curve_results(table, found)
    assert (ours.name, ours.rows, ours.over) == ("SVP", ["SVP: all"], None)
    assert mqt.rows == ["MQT: 4", "MQT: 8"] and mqt.over is not None
    assert mqt.over.value == pytest.approx(ours.value - mqt.value)
    assert mqt.over.verdict == "holds"


@pytest.mark.parametrize("size", ["tiny", "paper"])
def test_the_table_of_budgets_covers_the_range(size: str) -> None:
    table = experiment("budget", size)
    curves = {row.curve for row in table.rows}
    dial = [row for row in table.rows if row.curve == "SVP"]
    assert [row.budget for row in dial[:3]] == ["auto", "mean:4", "mean:8"]
    assert len({(row.train, row.cache) for row in dial}) == 1, "one training for all budgets"
    assert {
        "SVP",
        "SVP trained without budgets",
        "DiVT",
        "ToMe",
        "MQT",
        "M3",
        "AdaTok-like",
        "SVP on SLIC",
    } <= curves
    trained = {(row.train, row.cache) for row in table.rows if row.curve in ("DiVT", "MQT", "M3")}
    assert len(trained) == 3, "one training each"
    assert all(row.evaluate for row in table.rows if row.curve in ("DiVT", "MQT", "M3"))


def test_a_projector_of_the_user_s_is_a_curve_of_the_budgets_alone() -> None:
    names = [row.name for row in experiment("budget", "tiny", ["mlp", "mqt"]).rows]
    assert "mlp" in names and "mqt: 16" in names
    with pytest.raises(ConfigError, match="--projector is for the table budget, not for table1"):
        experiment("table1", "tiny", ["mlp"])
