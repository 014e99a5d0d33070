"""Line charts of pages: SVG curves, and the same numbers as a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BASE = 720.0, 270.0, 72.0, 706.0, 22.0, 236.0  # view box units
COLOURS = 6  # of style.css, each with a dash pattern of its own
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: its name and points (x, y), x ascending; `dots` are drawn where points are few."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on an axis in view box units, and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a curve in view box units."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A series as SVG path data, with the number of its colour."""

    name: str
    colour: int
    path: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class LineChart:
    """A chart as `chart.html.j2` draws it and lists it below: a line of `table` per x, "–" for no point."""

    title: str
    text: str
    curves: tuple[Curve, ...]
    levels: tuple[Mark, ...]
    ticks: tuple[Mark, ...]
    marks: tuple[Mark, ...]
    head: tuple[str, ...]
    table: list[tuple[str, ...]]
    height: float = HEIGHT
    base: float = BASE
    top: float = TOP
    left: float = LEFT
    right: float = RIGHT


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    text: str,
    x: str,
    form: str = ".4g",
    marks: Sequence[tuple[float, str]] = (),
    rows: int = 60,
) -> LineChart:
    """The chart of series with at least one point in all.

    x      name of the horizontal axis, the first column of the table
    form   format of the values
    marks  (x, label) of vertical lines
    rows   of the table at most: of more points, evenly spaced ones with the first and the last
    """
    xs = sorted({px for one in series for px, _ in one.points})
    low, high = xs[0], xs[-1]
    steps = nice_steps(
        min(py for one in series for _, py in one.points),
        max(py for one in series for _, py in one.points),
    )
    bottom, top = steps[0], steps[-1]

    def across(value: float) -> float:
        return round(LEFT + (value - low) / ((high - low) or 1.0) * (RIGHT - LEFT), 1)

    def up(value: float) -> float:
        return round(BASE - (value - bottom) / (top - bottom) * (BASE - TOP), 1)

    curves = []
    for number, one in enumerate(series):
        places = [(across(px), up(py)) for px, py in one.points]
        path = "".join(f"{'L' if k else 'M'}{px} {py}" for k, (px, py) in enumerate(places))
        dots = tuple(
            Dot(*at, f"{one.name}, {x} {px:g}: {py:{form}}")
            for at, (px, py) in zip(places, one.points, strict=True)
            if one.dots or len(places) == 1
        )
        curves.append(Curve(one.name, number % COLOURS, path, dots))
    by_x = [dict(one.points) for one in series]
    return LineChart(
        title=title,
        text=text,
        curves=tuple(curves),
        levels=tuple(Mark(up(value), f"{value:g}") for value in steps),
        ticks=tuple(Mark(across(value), f"{value:g}") for value in spaced(xs, 7)),
        marks=tuple(Mark(across(place), label) for place, label in marks if low <= place <= high),
        head=(x, *(one.name for one in series)),
        table=[
            (f"{value:g}", *(f"{ys[value]:{form}}" if value in ys else "–" for ys in by_x))
            for value in spaced(xs, rows)
        ],
    )


def spaced(values: Sequence[float], most: int) -> list[float]:
    """At most `most` of them, evenly spaced, the first and the last among them."""
    last = len(values) - 1
    if last < most:
        return list(values)
    return [values[round(k * last / (most - 1))] for k in range(most)]


def nice_steps(low: float, high: float) -> list[float]:
    """About five round numbers, evenly spaced, from at most `low` to at least `high`.

    >>> nice_steps(0.3, 1.7)
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    wide = (high - low) or abs(high) or 1.0
    rough = wide / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s for s in (factor * power for factor in STEPS) if s >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]
