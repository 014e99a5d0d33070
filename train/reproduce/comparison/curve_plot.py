"""Plot of a table's curves or rows as SVG: the metric over visual tokens, on a logarithmic axis.

The classes are for the page (`table.css`), which draws it in dark mode too; a file keeps its colours.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape

import numpy as np

from ..results import RowResult, TableResult

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 430, 52, 190, 28, 44
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195",
           "#8c8c8c", "#a05a2c", "#4d4d9f", "#b2182b")  # fmt: skip  # distinct to the colour-blind
DASHES = ("", "6 3", "2 2")


def plot(result: TableResult) -> str:
    """The curves with intervals over images; from the mean of tokens a line to p95, dotted to the most.

    "" for a table without curves.
    """
    rows = {row.name: row for row in result.rows}
    drawn = [(curve.name, [rows[name] for name in curve.rows]) for curve in result.curves]
    return _drawn(drawn, result.metric) if drawn else ""


def scatter(result: TableResult) -> str:
    """A point per row that was run, with its interval; "" where fewer than two tell their tokens."""
    drawn = [(row.name, [row]) for row in scattered(result)]
    return _drawn(drawn, result.metric) if len(drawn) > 1 else ""


def scattered(result: TableResult) -> list[RowResult]:
    """The rows of `scatter`."""
    return [row for row in result.rows if row.tokens and row.value is not None]


def _drawn(drawn: Sequence[tuple[str, Sequence[RowResult]]], metric: str) -> str:
    every = [row for _, points in drawn for row in points]
    most = max(row.tokens_most or row.tokens or 1.0 for row in every)
    least = max(1.0, min(row.tokens or 1.0 for row in every))
    low, high = np.floor(np.log2(least)), np.ceil(np.log2(most + 1))
    top = max(0.1, np.ceil(10 * max(row.value or 0.0 for row in every) + 0.5) / 10)
    span = max(high - low, 1.0)

    def x(tokens: float) -> float:
        return float(LEFT + (np.log2(max(tokens, 1.0)) - low) / span * (WIDTH - LEFT - RIGHT))

    def y(value: float) -> float:
        return float(HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM))

    parts = [*_axes(x, y, range(int(low), int(high) + 1), top, metric)]
    for k, (name, points) in enumerate(drawn):
        shade = ' class="black"' if not k % len(COLOURS) else ""
        style = f'{shade} stroke="{COLOURS[k % len(COLOURS)]}" stroke-dasharray="{DASHES[k // len(COLOURS) % 3]}"'
        parts += _curve(x, y, points, metric, style, COLOURS[k % len(COLOURS)])
        at = TOP + 12 + 18 * k
        parts.append(
            f'<path d="M{WIDTH - RIGHT + 14} {at - 4}h22" fill="none" stroke-width="2" {style}/>'
            f'<text x="{WIDTH - RIGHT + 42}" y="{at}">{escape(name)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plane" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(metric)} over visual tokens" font-family="sans-serif" font-size="12">'
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


Scale = Callable[[float], float]


def _axes(x: Scale, y: Scale, powers: range, top: float, metric: str) -> Iterator[str]:
    right, bottom = x(2.0 ** powers[-1]), y(0)
    for power in powers:
        at = x(2.0**power)
        yield f'<path d="M{at:.1f} {TOP}V{bottom:.1f}" class="grid" stroke="#dddddd"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{2**power}</text>'
    for tenth in range(round(10 * top) + 1):
        at = y(tenth / 10)
        yield f'<path d="M{LEFT} {at:.1f}H{right:.1f}" class="grid" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10 * tenth}</text>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">visual tokens, mean</text>'
    yield f'<text x="14" y="{TOP - 14}">{escape(metric)}, %</text>'


def _curve(
    x: Scale, y: Scale, points: Sequence[RowResult], metric: str, style: str, colour: str
) -> Iterator[str]:
    places = [(x(row.tokens or 1.0), y(row.value or 0.0)) for row in points]
    line = " ".join(f"{at:.1f},{height:.1f}" for at, height in places)
    yield f'<polyline points="{line}" fill="none" stroke-width="2" {style}/>'
    black = ' class="black"' if colour == COLOURS[0] else ""
    for row, (at, height) in zip(points, places, strict=True):
        dot = ' class="black point"' if black else ""
        p95, most = row.tokens_p95 or row.tokens or 1.0, row.tokens_most or row.tokens or 1.0
        title = escape(f"{row.name}: {100 * (row.value or 0.0):.1f}, {row.tokens:.1f} tokens")
        yield f'<circle cx="{at:.1f}" cy="{height:.1f}" r="3.5"{dot} fill="{colour}"><title>{title}</title></circle>'
        yield f'<path d="M{at:.1f} {height:.1f}H{x(p95):.1f}"{black} stroke="{colour}"/>'
        yield (
            f'<path d="M{x(p95):.1f} {height:.1f}H{x(most):.1f}"{black} '
            f'stroke="{colour}" stroke-dasharray="1 2"/>'
        )
        if len(row.scores) == 1:
            (score,) = (found[metric] for found in row.scores.values())
            low, high = y(score.low), y(score.high)
            yield f'<path d="M{at:.1f} {low:.1f}V{high:.1f}"{black} stroke="{colour}"/>'
