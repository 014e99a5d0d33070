"""Histogram of superpixels per image: SVG bars and caption."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..cache.stats import LEVELS, StatsReport
from ..display import counted
from ..records import PART, SUB_PART, WHOLE

MAX_BARS = 40
WIDTH, HEIGHT, TOP, BASE = 720.0, 230.0, 30.0, 200.0  # view box units


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: images whose count lies in [low, high]."""

    low: int
    high: int
    images: int
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
class Part:
    """One level in the bar of levels."""

    level: int
    x: float
    width: float
    share: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Everything the template draws."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    mean: str
    mean_x: float
    mean_anchor: str
    text: str
    levels: tuple[Part, ...]
    measured: str
    height: float = HEIGHT
    base: float = BASE


def plot(found: StatsReport) -> Plot | None:
    """The histogram, or None for an empty cache."""
    if not found.histogram:
        return None
    bars, ticks = place(found.histogram)
    step = WIDTH / len(bars)
    first, wide = bars[0].low, bars[0].high - bars[0].low + 1
    mean_x = round((found.tokens.mean - first + 0.5) / wide * step, 1)
    return Plot(
        bars=bars,
        ticks=ticks,
        mean=f"{found.tokens.mean:.1f}",
        mean_x=mean_x,
        mean_anchor="start" if mean_x < 60 else "end" if mean_x > WIDTH - 60 else "middle",
        levels=tuple(_parts(found.levels)),
        measured=f"{found.sampled:,}",
        text=(
            f"From {min(found.histogram)} to {counted(max(found.histogram), 'superpixel')}; the "
            f"mean is {found.tokens.mean:.1f}, the median {found.tokens.p50:g}, over "
            f"{counted(found.ok, 'image')}."
        ),
    )


def place(histogram: Mapping[int, int]) -> tuple[tuple[Bar, ...], tuple[Tick, ...]]:
    """Bars of a histogram that is not empty, in view box units, and the numbers under them."""
    counted = bins(histogram)
    step = WIDTH / len(counted)
    most = max(bar.images for bar in counted)
    bars = tuple(_place(bar, at, step, most) for at, bar in enumerate(counted))
    return bars, tuple(_ticks(counted, step))


def bins(histogram: Mapping[int, int]) -> list[Bar]:
    """At most `MAX_BARS` bars of equal width that hold every image; empty ones are kept."""
    low, high = min(histogram), max(histogram)
    width = -(-(high - low + 1) // MAX_BARS)
    return [
        Bar(start, start + width - 1, sum(histogram.get(start + i, 0) for i in range(width)))
        for start in range(low, high + 1, width)
    ]


def _place(bar: Bar, at: int, step: float, most: int) -> Bar:
    gap = min(3.0, step * 0.15)
    # A bar that holds images stays visible however tall its neighbours are.
    height = max(2.0, bar.images / most * (BASE - TOP)) if bar.images else 0.0
    width = min(step - gap, 60.0)
    x = at * step + (step - width) / 2
    return Bar(
        bar.low,
        bar.high,
        bar.images,
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


def _parts(levels: Mapping[str, int]) -> Iterator[Part]:
    """Levels as a bar 1280 units wide, whole first."""
    x, every = 0.0, max(1, sum(levels.values()))
    for level in (WHOLE, PART, SUB_PART):
        share = levels[LEVELS[level]] / every
        if share:
            yield Part(level, round(x, 1), round(max(0.0, share * 1280 - 4), 1), share)
        x += share * 1280
