"""The curves of a table, of the rows that were run."""

from collections.abc import Mapping, Sequence

from ...evaluation.significance import Sums, verdict
from ..experiment import Experiment
from ..results import ClaimResult, CurveResult, RowResult
from .curve_area import Curve, area_of, gain


def curve_results(
    table: Experiment, rows: Mapping[str, tuple[RowResult, Sequence[Sums]]]
) -> list[CurveResult]:
    """In the table's order; the first curve is its own, with which the others are compared.

    rows  results by name, and their sums by split
    """
    points: dict[str, list[RowResult]] = {}
    for row in table.rows:
        found, sums = rows[row.name]
        if row.curve and sums:
            points.setdefault(row.curve, []).append(found)
    curves = {
        name: Curve.of(name, [(row.tokens or 0.0, rows[row.name][1]) for row in found])
        for name, found in points.items()
    }
    first = next((row.curve for row in table.rows if row.curve), "")
    return [_result(curve, points[name], curves.get(first)) for name, curve in curves.items()]


def _result(curve: Curve, points: Sequence[RowResult], own: Curve | None) -> CurveResult:
    under, over = area_of(curve), None
    if own is not None and own is not curve:
        more = gain(own, curve)
        over = ClaimResult(
            better=own.name, worse=curve.name, paper=None, value=more.value, low=more.low,
            high=more.high, verdict=verdict(more),
        )  # fmt: skip
    return CurveResult(
        name=curve.name,
        rows=[row.name for row in sorted(points, key=lambda row: row.tokens or 0.0)],
        value=under.value,
        low=under.low,
        high=under.high,
        over=over,
    )
