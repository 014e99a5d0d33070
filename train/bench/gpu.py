"""`svp bench gpu`: what one GPU reaches, in order of importance, beside prediction and goal.

Every row is printed and kept as soon as it is measured, and a part that has used up its share of the
time gives way to the next, so that a run cut short still tells. The goals are for one H200 at the
paper's shapes; predictions come from counted operators and three constants of the device
(`pipeline.bench.kernel_time`).
"""

import gc
import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...pipeline.bench import rates
from ...pipeline.bench.kernel_time import H200, DeviceRates, measured_rates
from ...pipeline.display import Report, counted
from ...pipeline.fetch.sam_specs import SAMS
from ...pipeline.io.atomic import write_file, writing
from ...pipeline.recipe import GridConfig
from ...pipeline.sam.segment_anything import SamPackage
from ...pipeline.superpixels.point_grid import GridPrompter
from ..estimates.flops import peak_flops
from .grid_cells import CellSam
from .models import random_sam
from .presets import CELLS, PRESETS, Preset
from .report import Measured
from .runner import Case, Runner, Work
from .speed import check, device_name, measure

TRAIN2014 = 82_783  # photographs
REPEATS = 3
PHOTOS = 16  # of the SAM stage
PASSES = (24, 48, 80)  # images per forward pass whose memory is looked at
TOP = 5  # kernels that a profile names


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
class Row:
    """One measured value; its unit stands in its name."""

    part: str
    name: str
    value: float
    predicted: float | None = None

    def line(self, goals: Mapping[str, Goal]) -> str:
        """For people."""
        told = [f"{self.part:<10} {self.name:<44} {self.value:>10.4g}"]
        if self.predicted is not None:
            told.append(f"predicted {self.predicted:.4g}")
        if goal := goals.get(self.name):
            told.append(f"goal {goal} {'met' if goal.met(self.value) else 'MISSED'}")
        return "   ".join(told)


@dataclass(frozen=True, slots=True)
class GpuReport(Report):
    """All rows; `stopped`: parts that used up their time, with how many seconds they took."""

    device: str
    preset: str
    rows: tuple[Row, ...]
    stopped: Mapping[str, float]
    goals: Mapping[str, Goal]

    @property
    def missed(self) -> list[str]:
        """Goals that a row did not reach."""
        return [
            row.name for row in self.rows
            if row.name in self.goals and not self.goals[row.name].met(row.value)
        ]  # fmt: skip

    @property
    def exit_code(self) -> int:
        """1 if a goal was missed or a part did not end."""
        return int(bool(self.missed or self.stopped))

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
        return lines + [
            f"- STOPPED: {part} after {seconds:.0f} s" for part, seconds in self.stopped.items()
        ]


Rows = Generator[Row, None, None]
Part = Callable[[Preset, str], Rows]


def run(
    preset: Preset, device: str, seconds: float, out: Path | None, tell: Callable[[str], None]
) -> GpuReport:
    """Measure every part within `seconds`, in all; a row is told and written to `out` at once.

    out  folder of `<device>.json`. Raises ConfigError for a device that is not there.
    """
    check(device, 1)
    name, goals = device_name(device), GOALS if preset == PRESETS["paper"] else {}
    report = GpuReport(name, preset.name, (), {}, goals)
    _keep(report, out)  # a folder that cannot be written is refused before any measurement
    shares = sum(share for share, _ in PARTS.values())
    for title, (share, part) in PARTS.items():
        start, allowed = time.monotonic(), seconds * share / shares
        with closing(part(preset, device)) as rows:
            for row in rows:
                report = replace(report, rows=(*report.rows, row))
                tell(row.line(goals))
                _keep(report, out)
                spent = time.monotonic() - start
                if spent > allowed:
                    report = replace(report, stopped={**report.stopped, title: spent})
                    break
        gc.collect()  # the models of this part
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
    _keep(report, out)
    return report


def _keep(report: GpuReport, out: Path | None) -> None:
    if out is not None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        name = report.device.lower().replace(" ", "-")
        data = json.dumps(report.to_json(), indent=1) + "\n"
        write_file(out / f"{name}.json", data.encode(), label="report")


def constants(preset: Preset, device: str) -> Rows:
    """The three constants of the predictions, measured."""
    found = measured_rates(torch.device(device), getattr(torch, preset.dtype))
    # Of another device the predictions start from what is measured here.
    predicted = _units(H200) if "H200" in device_name(device) else (None, None, None)
    names = ("products, TFLOP/s", "memory, TB/s", "launch of an operator, us")
    for name, value, expected in zip(names, _units(found), predicted, strict=True):
        yield Row("device", name, value, expected)


def _units(rates: DeviceRates) -> tuple[float, float, float]:
    return rates.products / 1e12, rates.memory / 1e12, rates.launch * 1e6


def training(preset: Preset, device: str) -> Rows:
    """Optimizer steps of both stages from the cache, by component; of the MLP live."""
    runner, peak = Runner(preset, ("svp", "mlp"), device), peak_flops(device_name(device))
    for stage in (1, 2):
        runner.enter(stage)
        svp = _measured(runner, Case("train", "svp", False, stage))
        yield Row("training", f"stage {stage}, ms per step", *_ms(svp))
        if peak:
            share = 100 * svp.model_flops / peak
            yield Row(
                "training", f"stage {stage}, MFU, %", share / svp.whole, share / _predicted(svp)
            )
        for part, value in svp.median.items():
            name = f"stage {stage}, {part}, ms"
            yield Row("training", name, 1e3 * value, 1e3 * svp.predicted[part])
    mlp = _measured(runner, Case("train", "mlp", True, 2), repeats=1)
    yield Row("training", "stage 2, MLP live, ms per step", *_ms(mlp))
    yield Row("training", "stage 2, MLP live / SVP from cache", mlp.whole / svp.whole)


def answers(preset: Preset, device: str) -> Rows:
    """Answers from the cache and live, of SVP and of the MLP under the same optimisations."""
    runner = Runner(preset, ("svp", "mlp"), device)
    runner.answer()
    works: list[tuple[str, Work, bool]] = [("one answer from the cache", "forward", False)]
    if preset.batch > 1:
        works.append((f"{counted(preset.batch, 'answer')} from the cache", "batch", False))
    if torch.device(device).type == "cuda":
        works.append(("one answer from the cache, captured", "captured", False))
    works.append(("one answer live", "forward", True))
    for title, work, live in works:
        svp, mlp = (_measured(runner, Case(work, name, live)) for name in ("svp", "mlp"))
        yield Row("answers", f"{title}, ms", *_ms(svp))
        yield Row("answers", f"{title}, MLP, ms", *_ms(mlp))
        ratio = None if live else _predicted(mlp) / _predicted(svp)
        yield Row("answers", f"{title}, MLP / SVP", mlp.whole / svp.whole, ratio)
        for part, value in svp.median.items():
            predicted = 1e3 * svp.predicted[part] if part in svp.predicted else None
            yield Row("answers", f"{title}, {part}, ms", 1e3 * value, predicted)
    told, later = _measured(runner, Case("generate", "svp", False)), preset.answer - 1
    each = [1e3 * found["LLM decode"] / later for found in (told.median, told.predicted)]
    yield Row("answers", "decoding, ms per id", *each)


def sam_stage(preset: Preset, device: str) -> Rows:
    """Photographs through SAM and the selection of superpixels, fast mode, compiled on CUDA."""
    yield from _stage(preset, device, "fast", "SAM stage", PHOTOS)


def models(preset: Preset, device: str) -> Rows:
    """SAM's encoder and decoder and the vision encoder, alone, in every mode."""
    for rate in rates.each(device, sam=preset.sam, encoder=preset.encoder):
        name = f"{rate.part}, {rate.mode}, ms"
        yield Row("models", name, 1e3 * rate.seconds, 1e3 * rate.predicted)


def memory(preset: Preset, device: str) -> Rows:
    """Peak memory of a step of stage 2 by images per forward pass; nothing on a CPU."""
    if torch.device(device).type != "cuda":
        return
    for images in PASSES:
        runner = Runner(replace(preset, images=images, micro={"svp": images}), ("svp",), device)
        runner.enter(2)
        one = _measured(runner, Case("train", "svp", False, 2), repeats=1)
        title = f"stage 2, {counted(images, 'image')} per pass"
        yield Row("memory", f"{title}, GB", one.memory / 1e9)
        yield Row("memory", f"{title}, ms", *_ms(one))


def exact(preset: Preset, device: str) -> Rows:
    """The exact mode, and the kernels that its decoder spends most of its time in."""
    yield from _stage(preset, device, "exact", "exact SAM stage", 1)
    sam = SamPackage(random_sam(preset, torch.device(device), encoder=True), mode="exact",
                     dtype="float32", device=torch.device(device))  # fmt: skip
    features = torch.zeros(SAMS[preset.sam].embedding, device=device)
    points = torch.full((256, 2), 100.0)
    with torch.profiler.profile() as profile:
        sam.decode(features, points)
    found = sorted(profile.key_averages(), key=_own_time, reverse=True)
    whole = sum(map(_own_time, found)) or 1
    for kernel in found[:TOP]:
        yield Row("exact", f"decoder, {kernel.key[:28]}, %", 100 * _own_time(kernel) / whole)


PARTS: Mapping[str, tuple[float, Part]] = {  # shares of the time, by what was expected of an H200
    "device": (20, constants),
    "training": (130, training),
    "answers": (90, answers),
    "SAM stage": (90, sam_stage),
    "memory": (30, memory),
    "models": (60, models),
    "exact": (40, exact),
}


def _stage(preset: Preset, device: str, mode: Any, title: str, photographs: int) -> Rows:
    """Milliseconds per photograph, the first call left out, and the hours of COCO train2014."""
    dtype: Any = preset.dtype if mode == "fast" else "float32"
    on = torch.device(device)
    package = SamPackage(random_sam(preset, on, encoder=True), mode=mode, dtype=dtype, device=on)
    prompter = GridPrompter(
        CellSam(package, preset.photo, CELLS, lambda part: None),
        config=GridConfig(points_per_side=preset.points),
        mode=mode,
    )
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (*preset.photo, 3), np.uint8) for _ in range(photographs)]
    prompter.generate_batch(photos)
    start = time.perf_counter()
    prompter.generate_batch(photos)
    each = (time.perf_counter() - start) / photographs
    yield Row("SAM", f"{title}, ms per photograph", 1e3 * each)
    yield Row("SAM", f"{title} of train2014, hours", each * TRAIN2014 / 3600)


def _measured(runner: Runner, case: Case, repeats: int | None = None) -> Measured:
    # On a CPU peaks take a process each; here only a GPU's are of interest.
    known = {case: 0} if runner.device.type != "cuda" else {}
    return measure(runner, [case], repeats or REPEATS, known)[0]


def _ms(one: Measured) -> tuple[float, float | None]:
    """Measured and predicted milliseconds; what an encoder does in NumPy is not predicted."""
    return 1e3 * one.whole, None if one.case.live else 1e3 * _predicted(one)


def _predicted(one: Measured) -> float:
    return sum(one.predicted.values())


def _own_time(kernel: Any) -> float:
    return float(kernel.self_device_time_total or kernel.self_cpu_time_total)
