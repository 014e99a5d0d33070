"""`svp bench gpu`: what one GPU reaches, in order of importance, beside prediction and goal.

Every row is printed and kept as soon as it is measured, a part that has used up its share of the time
gives way to the next, and what fails is told and costs the rows of its step alone: a run cut short still
tells. The goals are for one H200 at the paper's shapes.
"""

import gc
import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...pipeline.display import Report, shorten
from ...pipeline.io.atomic import write_file, writing
from .gpu_parts import PARTS, Row, Steps
from .presets import PRESETS, Preset
from .speed import check, device_name


@dataclass(frozen=True, slots=True)
class Goal:
    """Value to reach, `most` one not to exceed."""

    value: float
    most: bool = False

    def met(self, value: float) -> bool:
        """Whether `value` reaches it."""
        return value <= self.value if self.most else value >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.value:g}"


GOALS: Mapping[str, Goal] = {
    "stage 1, MFU, %": Goal(50),
    "stage 2, MFU, %": Goal(45),
    "stage 2, MLP live / SVP from cache": Goal(5),
    "one answer from the cache, ms": Goal(6.5, most=True),
    "one answer from the cache, MLP / SVP": Goal(2.5),
    "16 answers from the cache, MLP / SVP": Goal(5),
    "one answer live, ms": Goal(40, most=True),
    "one answer live, MLP / SVP": Goal(0.9),
    "decoding, ms per id": Goal(4, most=True),
    "SAM stage, ms per photograph": Goal(60, most=True),
    "SAM stage of train2014, hours": Goal(2, most=True),
    "exact SAM stage of train2014, hours": Goal(10, most=True),
}


@dataclass(frozen=True, slots=True)
class GpuReport(Report):
    """All rows.

    stopped  parts that used up their time, with how many seconds they took; 0: not begun
    failed   what went wrong, in the order of the parts
    """

    device: str
    preset: str
    rows: tuple[Row, ...]
    stopped: Mapping[str, float]
    goals: Mapping[str, Goal]
    failed: tuple[str, ...] = ()

    @property
    def missed(self) -> list[str]:
        """Goals that a row did not reach."""
        return [
            row.name for row in self.rows
            if row.name in self.goals and not self.goals[row.name].met(row.value)
        ]  # fmt: skip

    @property
    def exit_code(self) -> int:
        """1 if a goal was missed or has no row, or if a part did not end."""
        return int(bool(self.missed or self.stopped or self.failed))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        goals = {name: str(goal) for name, goal in self.goals.items()}
        told = asdict(self) | {"goals": goals, "missed": self.missed}
        return told | {"exit_code": self.exit_code}

    def lines(self) -> list[str]:
        """Goals missed and parts stopped; the rows were printed before."""
        met = len([row for row in self.rows if row.name in self.goals]) - len(self.missed)
        lines = [f"{self.device}: {met} of {len(self.goals)} goals met"]
        lines += [f"- GOAL MISSED: {name} {self.goals[name]}" for name in self.missed]
        lines += [
            f"- STOPPED: {part} after {seconds:.0f} s" for part, seconds in self.stopped.items()
        ]
        return lines + [f"- FAILED: {what}" for what in self.failed]


def run(
    preset: Preset, device: str, seconds: float, out: Path | None, tell: Callable[[str], None]
) -> GpuReport:
    """Measure every part within `seconds`, in all; a row is told and written to `out` at once.

    out  folder of `<device>.json`. Raises ConfigError for a device that is not there.
    """
    check(device, 1)
    on_cuda = torch.device(device).type == "cuda"
    name, goals = device_name(device), GOALS if preset == PRESETS["paper"] else {}
    report = GpuReport(name, preset.name, (), {}, goals)
    _keep(report, out)  # a folder that cannot be written is refused before any measurement
    shares, begun = sum(share for share, _ in PARTS.values()), time.monotonic()
    for title, (share, part) in PARTS.items():
        start = time.monotonic()
        allowed = min(seconds * share / shares, seconds - (start - begun))
        if allowed < 0:
            report = replace(report, stopped={**report.stopped, title: 0.0})
            continue
        with closing(_rows(title, part(preset, device), on_cuda)) as rows:
            for row in rows:
                if isinstance(row, Row):
                    report = replace(report, rows=(*report.rows, row))
                    tell(line_of(row, goals))
                else:
                    report = replace(report, failed=(*report.failed, row))
                    tell(f"FAILED: {row}")
                _keep(report, out)
                spent = time.monotonic() - start
                if spent > allowed:
                    report = replace(report, stopped={**report.stopped, title: spent})
                    break
        _tidy(on_cuda)  # the models of this part
    _keep(report, out)
    return report


def _rows(title: str, steps: Steps, on_cuda: bool) -> Generator[Row | str, None, None]:
    """The rows of all steps of a part, and in place of those that are missing what went wrong."""
    while True:
        try:
            if (step := next(steps, None)) is None:
                return
            yield from step()
        except Exception as error:  # noqa: BLE001  whatever it is: the other rows are worth having
            failed = f"{title}: {type(error).__name__}: {shorten(str(error), 300)}"
        else:
            continue
        _tidy(on_cuda)  # what the step held, which the error held as well
        yield failed


def _tidy(on_cuda: bool) -> None:
    gc.collect()
    if on_cuda:
        torch.cuda.empty_cache()


def line_of(row: Row, goals: Mapping[str, Goal]) -> str:
    """A row for people."""
    told = [f"{row.part:<10} {row.name:<44} {row.value:>10.4g}"]
    if row.predicted is not None:
        told.append(f"predicted {row.predicted:.4g}")
    if goal := goals.get(row.name):
        told.append(f"goal {goal} {'met' if goal.met(row.value) else 'MISSED'}")
    return "   ".join(told)


def _keep(report: GpuReport, out: Path | None) -> None:
    if out is not None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        name = report.device.lower().replace(" ", "-")
        data = json.dumps(report.to_json(), indent=1) + "\n"
        write_file(out / f"{name}.json", data.encode(), label="report")
