"""Learning curves of runs, from their metrics.jsonl: charts of a page, each with its table.

Of a long run a curve has `POINTS` points, the mean of as many equal stretches of steps, so that a
page stays small and the trend is seen.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....pipeline.browse import page_kit
from ....pipeline.browse.line_charts import LineChart, Series, line_chart
from ....pipeline.display import counted, shorten
from ....pipeline.errors import DataError
from ....pipeline.store import Place, open_store
from ...recipe import METRICS

HERE = Path(__file__).parent
MAX_BYTES = 1 << 30
POINTS = 300
HELD_OUT = "held-out/"
LOSSES = {"loss": "whole", "ce": "text", "bce": "mask, BCE", "dice": "mask, DICE", "click": "click"}
SINGLE = {"norm": "Norm of the gradient", "lr": "Learning rate"}
Record = Mapping[str, Any]


def read_records(run: Place) -> list[Record]:
    """The lines of a run's metrics.jsonl by rising step, numbers under their names and `stage`.

    A half-written last line is left out. MissingError where there is none; DataError naming the line
    that is damaged.
    """
    store = open_store(run)
    found: list[Record] = []
    for number, line in enumerate(store.read(METRICS, MAX_BYTES).splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            found.append({"stage": "", **record, "step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            where = f"{shorten(store.where(), 300)}/{METRICS} line {number}"
            raise DataError(f"{where}: not a line of metrics: move the file away") from None
    return sorted(found, key=lambda record: int(record["step"]))


def write_page(run: Place, out: Path) -> Path:
    """Write the page of a run's learning curves into the folder `out`; returns its index.html.

    Raises as `read_records`; DataError for a run without a step. ConfigError if `out` holds anything
    but an earlier page.
    """
    records = read_records(run)
    name = shorten(open_store(run).where().rstrip("/").rsplit("/", 1)[-1], 80)
    if not records:
        raise DataError(f"{name}: no step in its {METRICS} yet: wait for the first one")
    last = records[-1]
    values = {
        "title": name,
        "steps": f"{last['step']:,}",
        "charts": of_one(records),
        "last": [
            (
                shorten(key),
                f"{value:.6g}" if isinstance(value, int | float) else shorten(str(value)),
            )
            for key, value in last.items()
        ],
    }
    return page_kit.write_page(out, HERE / "learning_curves.html.j2", lambda folder: values)


def of_one(records: Sequence[Record]) -> list[LineChart]:
    """Charts of one run: losses, held-out scores, gradient and learning rate, those that it has."""
    marks = _stages(records)
    charts = []
    if losses := [Series(LOSSES[k], p) for k in LOSSES if (p := points(records, k))]:
        charts.append(_chart("Loss", losses, _told(records), marks))
    names = sorted({key for record in records for key in record if key.startswith(HELD_OUT)})
    scores = [Series(key.removeprefix(HELD_OUT), points(records, key), dots=True) for key in names]
    if scores := [one for one in scores if one.points]:
        text = "Scores on held-out images while training, in percent."
        charts.append(_chart("Held-out scores", scores, text, marks))
    for key, title in SINGLE.items():
        if found := points(records, key):
            charts.append(_chart(title, [Series(key, found)], _told(records), marks))
    return charts


def of_several(runs: Mapping[str, Sequence[Record]]) -> list[LineChart]:
    """A chart per quantity that two of the runs have, a curve per run."""
    keys = [*LOSSES, *SINGLE]
    keys += sorted({k for run in runs.values() for r in run for k in r if k.startswith(HELD_OUT)})
    titles = {
        "loss": "Loss",
        **{k: f"Loss: {v}" for k, v in LOSSES.items() if k != "loss"},
        **SINGLE,
    }
    charts = []
    for key in keys:
        series = [
            Series(name, found, dots=key.startswith(HELD_OUT))
            for name, records in runs.items()
            if (found := points(records, key))
        ]
        if len(series) < 2:
            continue
        held = key.startswith(HELD_OUT)
        title = f"Held-out {key.removeprefix(HELD_OUT)}" if held else titles[key]
        text = "Percent." if held else _told(max(runs.values(), key=len))
        charts.append(_chart(title, series, text, ()))
    return charts


def points(records: Sequence[Record], key: str, most: int = POINTS) -> list[tuple[float, float]]:
    """(step, value) where a run has it: of more than `most`, means of equal stretches of lines, each
    at its last step.
    """
    found = [
        (float(record["step"]), float(record[key]))
        for record in records
        if isinstance(record.get(key), int | float) and math.isfinite(record[key])
    ]
    if len(found) <= most:
        return found
    ends = [len(found) * (k + 1) // most for k in range(most)]
    return [
        (found[end - 1][0], math.fsum(value for _, value in found[start:end]) / (end - start))
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _told(records: Sequence[Record]) -> str:
    each = -(-len(records) // POINTS)
    return f"A point is the mean of {counted(each, 'step')}." if each > 1 else "A point per step."


def _stages(records: Sequence[Record]) -> list[tuple[float, str]]:
    """(first step, name) of each stage, where there are several."""
    firsts: dict[str, float] = {}
    for record in records:
        firsts.setdefault(str(record["stage"]), float(record["step"]))
    return [(step, shorten(name, 30)) for name, step in firsts.items()] if len(firsts) > 1 else []


def _chart(
    title: str, series: Sequence[Series], text: str, marks: Sequence[tuple[float, str]]
) -> LineChart:
    return line_chart(series, title=title, text=text, x="step", marks=marks)
