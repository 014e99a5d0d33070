"""Fig. 10: latency of an answer by component, from a file of `svp bench infer --json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

from ...pipeline.display import shorten, show
from ...pipeline.errors import DataError, MissingError
from ..bench.components import COMPONENTS, INSIDE
from . import canvas
from .canvas import Picture

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#999999",
           "#000000", "#7f3c8d")  # fmt: skip
PAPER = (
    "The paper's Fig. 10: LLM -234 ms, SVP +20 ms, 17 of them SAM's decoder, the other 3 SSPE, SSA "
    "and MLP."
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One case: milliseconds by component, of its median run.

    inside  of the component "projector" by `stack.INSIDE`; empty where the file does not tell
    device  what was measured, "" where the file does not tell
    """

    name: str
    parts: Mapping[str, float]
    inside: Mapping[str, float] = field(default_factory=dict)
    device: str = ""

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
        told = json.loads(path.read_text("utf-8"))
        bars = [_bar(case, str(told.get("device", ""))) for case in told["cases"]]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise DataError(f"{where}: not the output of `svp bench infer --json`") from None
    if not bars:
        raise DataError(f"{where}: no case in it: run `svp bench infer --json` again")
    return bars


def latency(bars: Sequence[Bar]) -> Picture:
    """Horizontal stacks, a bar per case; below, the projector's share of those that tell it."""
    split = [bar for bar in bars if bar.inside]
    figure, axes = canvas.grid(2 if split else 1, 1, width=8)
    stacks(axes[0][0], [(f"{bar.name}\n{bar.whole:.0f} ms", bar.parts) for bar in bars], COMPONENTS)
    rows = len(bars) + len(split)
    if split:
        told = [
            (f"{bar.name}\nprojector {sum(bar.inside.values()):.1f} ms", bar.inside)
            for bar in split
        ]
        stacks(axes[1][0], told, INSIDE)
    figure.set_size_inches(8, 0.6 * rows + (3.2 if split else 1.6))
    devices = sorted({bar.device for bar in bars if bar.device})
    text = (
        f"Median run of each case{f' on {shorten(devices[0], 60)}' if devices else ''}; parts sum to "
        f"the whole{', those of the projector to the projector' if split else ''}. {PAPER}"
    )
    head, table = stack_table([(bar.name, {**bar.parts, **bar.inside}) for bar in bars],
                              (*COMPONENTS, *INSIDE), [bar.whole for bar in bars])  # fmt: skip
    return Picture(
        "latency", "Latency by component", "Fig. 10", text, canvas.png(figure), head, table
    )


def stack_table(
    bars: Sequence[tuple[str, Mapping[str, float]]], order: Sequence[str], whole: Sequence[float]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Head and rows of the table of `stacks`: the parts of each bar, and the whole."""
    names = [name for name in order if any(name in parts for _, parts in bars)]
    rows = tuple(
        (
            label,
            *(f"{parts[name]:.2f}" if name in parts else "–" for name in names),
            f"{total:.2f}",
        )
        for (label, parts), total in zip(bars, whole, strict=True)
    )
    return ("Milliseconds", *names, "whole"), rows


def stacks(
    axis: Any, bars: Sequence[tuple[str, Mapping[str, float]]], order: Sequence[str]
) -> None:
    """Horizontal stacks of labelled bars, their parts in `order`."""
    from matplotlib.ticker import MaxNLocator

    names = [name for name in order if any(name in parts for _, parts in bars)]
    axis.spines["bottom"].set_visible(True)
    axis.xaxis.set_major_locator(MaxNLocator(8))
    for index, name in enumerate(names):
        values = [parts.get(name, 0.0) for _, parts in bars]
        left = [sum(parts.get(n, 0.0) for n in names[:index]) for _, parts in bars]
        axis.barh(range(len(bars)), values, left=left, label=name, color=COLOURS[index])
    axis.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds")
    axis.legend(ncols=4, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)


def _bar(case: Mapping[str, Any], device: str) -> Bar:
    what = case["case"]
    totals = [sum(run.values()) for run in case["seconds"]]
    median = totals.index(median_low(totals))
    run, inside = case["seconds"][median], (case.get("inside") or [{}] * len(totals))[median]
    unknown = set(run) - set(COMPONENTS) | set(inside) - set(INSIDE)
    if unknown:
        raise KeyError(unknown)
    name = (
        f"{what['projector'].upper()}, {what['work']}, {'live' if what['live'] else 'from cache'}"
    )
    parts, split = ({part: 1e3 * float(s) for part, s in one.items()} for one in (run, inside))
    return Bar(name, parts, split, device)
