"""Fig. 10: where the time of one answer goes, from a file of `svp bench infer --json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from ...pipeline.errors import DataError, MissingError
from ...pipeline.text import show
from ..bench.stack import COMPONENTS
from . import canvas
from .pictures import Picture

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#999999",
           "#000000", "#7f3c8d")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """One case: milliseconds by component, of its median run."""

    name: str
    parts: Mapping[str, float]

    @property
    def whole(self) -> float:
        """Milliseconds of the run."""
        return sum(self.parts.values())


def read_bars(path: Path) -> list[Bar]:
    """The forward passes of a bench file. Raises MissingError, DataError."""
    where = show(str(path), 300)
    if not path.is_file():
        raise MissingError(f"{where}: no such file: write it with `svp bench infer --json > FILE`")
    try:
        bars = [_bar(case) for case in json.loads(path.read_text("utf-8"))["cases"]]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise DataError(f"{where}: not the output of `svp bench infer --json`") from None
    if not bars:
        raise DataError(f"{where}: no case in it: run `svp bench infer --json` again")
    return bars


def latency(bars: Sequence[Bar]) -> Picture:
    """Horizontal stacks, a bar per case."""
    figure, ((axis,),) = canvas.grid(1, 1, width=8)
    figure.set_size_inches(8, 0.6 * len(bars) + 1.6)
    axis.spines["bottom"].set_visible(True)
    axis.xaxis.set_major_locator(_locator())
    for index, part in enumerate(name for name in COMPONENTS if any(name in b.parts for b in bars)):
        values = [bar.parts.get(part, 0.0) for bar in bars]
        left = [_before(bar, part) for bar in bars]
        axis.barh(range(len(bars)), values, left=left, label=part, color=COLOURS[index])
    axis.set_yticks(range(len(bars)), [f"{bar.name}\n{bar.whole:.0f} ms" for bar in bars])
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds")
    axis.legend(ncols=4, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.3), frameon=False)
    text = "Median run of each case; parts sum to the whole. The paper: LLM -234 ms, SVP +20 ms."
    return Picture("latency", "Where the time goes", "Fig. 10", text, canvas.png(figure))


def _before(bar: Bar, part: str) -> float:
    return sum(bar.parts.get(name, 0.0) for name in COMPONENTS[: COMPONENTS.index(part)])


def _bar(case: Mapping[str, Any]) -> Bar:
    what = case["case"]
    totals = [sum(run.values()) for run in case["seconds"]]
    run = case["seconds"][totals.index(median_low(totals))]
    unknown = set(run) - set(COMPONENTS)
    if unknown:
        raise KeyError(unknown)
    name = (
        f"{what['projector'].upper()}, {what['work']}, {'live' if what['live'] else 'from cache'}"
    )
    return Bar(name, {part: 1e3 * float(seconds) for part, seconds in run.items()})


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(8)
