"""Histograms of pages: SVG bars, and the same numbers as a table."""

from collections.abc import Mapping
from dataclasses import dataclass

MAX_BARS = 40
WIDTH, HEIGHT, TOP, BASE = 720.0, 230.0, 30.0, 200.0  # view box units


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: how many values lie in [low, high]."""

    low: int
    high: int
    count: int
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def label(self) -> str:
        """`12` or `12–15`."""
        return str(self.low) if self.low == self.high else f"{self.low}–{self.high}"


@dataclass(frozen=True, slots=True)
class Tick:
    """A number under the axis."""

    x: float
    label: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram as `chart.html.j2` draws it and lists it below.

    unit    what the numbers under the bars count
    counted what the bars count
    mean    marked by a line, "" for none
    """

    title: str
    unit: str
    counted: str
    text: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    mean: str = ""
    mean_x: float = 0.0
    mean_anchor: str = "middle"
    height: float = HEIGHT
    base: float = BASE

    @property
    def head(self) -> tuple[str, str]:
        """Column names of the table."""
        return self.unit[:1].upper() + self.unit[1:], self.counted

    @property
    def table(self) -> list[tuple[str, str]]:
        """(values of a bar, how many) of each bar that is not empty."""
        return [(bar.label, f"{bar.count:,}") for bar in self.bars if bar.count]


def histogram(
    counts: Mapping[int, int],
    *,
    title: str,
    unit: str,
    counted: str,
    text: str,
    mean: float | None = None,
    most: int = MAX_BARS,
) -> Histogram:
    """The histogram of value -> how often, which is not empty, in at most `most` bars."""
    bars, ticks = place(counts, most)
    if mean is None:
        return Histogram(title, unit, counted, text, bars, ticks)
    first, wide = bars[0].low, bars[0].high - bars[0].low + 1
    x = round((mean - first + 0.5) / wide * WIDTH / len(bars), 1)
    anchor = "start" if x < 60 else "end" if x > WIDTH - 60 else "middle"
    return Histogram(title, unit, counted, text, bars, ticks, f"{mean:.1f}", x, anchor)


def place(
    counts: Mapping[int, int], most: int = MAX_BARS
) -> tuple[tuple[Bar, ...], tuple[Tick, ...]]:
    """Bars of a histogram that is not empty, in view box units, and the numbers under them."""
    found = bins(counts, most)
    step = WIDTH / len(found)
    highest = max(bar.count for bar in found)
    bars = tuple(_place(bar, at, step, highest) for at, bar in enumerate(found))
    return bars, tuple(_ticks(found, step))


def bins(counts: Mapping[int, int], most: int = MAX_BARS) -> list[Bar]:
    """At most `most` bars of equal width that hold every value; empty ones are kept."""
    low, high = min(counts), max(counts)
    width = -(-(high - low + 1) // most)
    return [
        Bar(start, start + width - 1, sum(counts.get(start + i, 0) for i in range(width)))
        for start in range(low, high + 1, width)
    ]


def _place(bar: Bar, at: int, step: float, highest: int) -> Bar:
    gap = min(3.0, step * 0.15)
    # A bar that holds anything stays visible however tall its neighbours are.
    height = max(2.0, bar.count / highest * (BASE - TOP)) if bar.count else 0.0
    width = min(step - gap, 60.0)
    x = at * step + (step - width) / 2
    return Bar(
        bar.low,
        bar.high,
        bar.count,
        x=round(x, 1),
        y=round(BASE - height, 1),
        width=round(width, 1),
        height=round(height, 1),
    )


def _ticks(bars: list[Bar], step: float) -> list[Tick]:
    """Labels of about seven bars, evenly spaced, the first and the last among them."""
    last = len(bars) - 1
    places = sorted({round(i * last / 6) for i in range(7)})
    return [Tick(round((at + 0.5) * step, 1), bars[at].label, "middle") for at in places]
