"""Charts of pages: the table has the numbers of the curves and bars."""

import re

import pytest

from svp.pipeline.browse.histograms import BASE, TOP, bins, histogram
from svp.pipeline.browse.line_charts import BASE as FLOOR
from svp.pipeline.browse.line_charts import LEFT, RIGHT, Series, line_chart, nice_steps, spaced
from svp.pipeline.browse.line_charts import TOP as CEILING


def test_bars_and_table_hold_every_value() -> None:
    counts = {3: 5, 4: 1, 90: 2}
    found = histogram(counts, title="T", unit="tokens", counted="Images", text="", mean=30.0)
    assert found.head == ("Tokens", "Images")
    assert sum(int(count) for _, count in found.table) == 8
    assert [bar.count for bar in found.bars if bar.count] == [6, 2]
    tallest = max(found.bars, key=lambda bar: bar.height)
    assert (tallest.low, tallest.high) == (3, 5) and tallest.y == TOP
    (other,) = (bar for bar in found.bars if bar.count == 2)
    assert other.height == pytest.approx((BASE - TOP) / 3, abs=0.06)
    assert len(bins(dict.fromkeys(range(100), 1), 20)) == 20


def test_curve_goes_through_the_points_of_the_table() -> None:
    one = Series("a", [(0, 1.0), (5, 3.0), (10, 2.0)])
    two = Series("b", [(5, 0.5)])
    chart = line_chart([one, two], title="T", text="", x="step", marks=[(5, "x"), (99, "out")])
    assert chart.head == ("step", "a", "b")
    assert chart.table == [("0", "1", "–"), ("5", "3", "0.5"), ("10", "2", "–")]
    places = [tuple(map(float, p.split())) for p in re.split("[ML]", chart.curves[0].path)[1:]]
    assert [x for x, _ in places] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    low, high = (float(mark.label) for mark in (chart.levels[0], chart.levels[-1]))
    for (_, y), (_, value) in zip(places, one.points, strict=True):
        assert y == pytest.approx(FLOOR - (value - low) / (high - low) * (FLOOR - CEILING), abs=0.1)
    assert not chart.curves[0].dots and len(chart.curves[1].dots) == 1  # one point has no line
    assert [mark.label for mark in chart.marks] == ["x"]


def test_long_curves_have_a_short_table_with_both_ends() -> None:
    chart = line_chart(
        [Series("a", [(k, k * k) for k in range(1000)])], title="", text="", x="step", rows=50
    )
    assert len(chart.table) == 50 and chart.curves[0].path.count("L") == 999
    assert chart.table[0][0] == "0" and chart.table[-1] == ("999", "9.98e+05")
    assert spaced([1, 2], 7) == [1, 2]


@pytest.mark.parametrize(
    "low,high", [(0.0, 1.0), (0.31, 0.32), (-5.0, 1e6), (2.0, 2.0), (0.0, 0.0)]
)
def test_axis_covers_the_values(low: float, high: float) -> None:
    steps = nice_steps(low, high)
    assert steps[0] <= low <= high <= steps[-1] and 2 <= len(steps) <= 7
